//! The exit codes of the program.
//!
//! Promises one code per kind of end, the same for every command, so that a service manager or a script can
//! decide without reading text. `main` ends the process; who cannot wait for that calls [`end_now`].

use std::process::ExitCode;

use crate::telemetry;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// All is well.
    Done,
    /// The command failed, or what was checked does not add up.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The configuration is invalid.
    Config,
    /// The data folder is locked by another process, or the port is in use.
    Occupied,
    /// The store is damaged or cannot be written.
    Store,
    /// The server cannot be reached.
    Unreachable,
    /// The server refused the request.
    Refused,
    /// A lane made no progress: the watchdog gave up.
    Stuck,
    /// The restart budget is spent.
    Escalated,
    /// The data folder was removed, moved or replaced under the running process.
    Gone,
    /// A write could not be made durable.
    NotDurable,
    /// A person interrupted the command.
    Interrupted,
}

impl Exit {
    /// Lists every code, for the help text and the documentation.
    pub const ALL: [Exit; 13] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Config,
        Exit::Occupied,
        Exit::Store,
        Exit::Unreachable,
        Exit::Refused,
        Exit::Stuck,
        Exit::Escalated,
        Exit::Gone,
        Exit::NotDurable,
        Exit::Interrupted,
    ];

    /// Gives the number that the operating system sees.
    ///
    /// *Source*: 70 to 74 lie in the range of `sysexits.h`; 130 is what shells give for an interrupt.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Config => 3,
            Exit::Occupied => 4,
            Exit::Store => 5,
            Exit::Unreachable => 6,
            Exit::Refused => 7,
            Exit::Stuck => 70,
            Exit::Escalated => 71,
            Exit::Gone => 72,
            Exit::NotDurable => 74,
            Exit::Interrupted => 130,
        }
    }

    /// Says what the code means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed, or what was checked does not add up",
            Exit::Usage => "the command line is wrong",
            Exit::Config => "the configuration is invalid",
            Exit::Occupied => "the data folder is locked or the port is in use",
            Exit::Store => "the store is damaged or cannot be written",
            Exit::Unreachable => "the server cannot be reached",
            Exit::Refused => "the server refused the request",
            Exit::Stuck => "no progress: the watchdog gave up",
            Exit::Escalated => "the restart budget is spent",
            Exit::Gone => "the data folder was removed, moved or replaced",
            Exit::NotDurable => "a write could not be made durable",
            Exit::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Ends the process at once, from any thread: nothing is unwound, no thread is waited for and nothing of what the
/// libraries would do at an end is done, as they are in use. The log's last lines are waited for, with a limit.
pub fn end_now(exit: Exit) -> ! {
    telemetry::flush();
    signal_hook::low_level::exit(i32::from(exit.code()))
}

/// Why a command ends badly: its exit code and the text for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What happened, in the words of the error that caused it.
    pub message: String,
}

impl Failure {
    /// Takes an error's text, its causes included, under a code.
    pub fn new(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { exit, message }
    }

    /// Takes a text of our own under a code.
    pub fn text(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn exit_all_codes_are_distinct() {
        let codes: HashSet<u8> = Exit::ALL.into_iter().map(Exit::code).collect();

        assert_eq!(codes.len(), Exit::ALL.len());
    }

    #[test]
    fn failure_nested_error_names_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to open `data`")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk is gone"));

        let failure = Failure::new(Exit::Store, &error);

        assert_eq!(failure.to_string(), "failed to open `data`: disk is gone");
    }
}
