//! How a process ended, by what the kernel says to whoever waits for it.
//!
//! Promises an ending for every status that the kernel can give: each exit code, each signal that there is, those
//! without a name of their own included.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::ShimError;
use crate::scheduler::local::folder::Ending;

/// The first signal that programs may use as they like; the two below it are the C library's own.
///
/// *Source*: signal(7).
const FIRST_REAL_TIME: i32 = 34;

/// The bits of a status that hold the signal.
///
/// *Source*: `WTERMSIG`, `WCOREDUMP` and `WEXITSTATUS` of glibc's `bits/waitstatus.h`.
const SIGNAL_BITS: i32 = 0x7f;

/// The bit of a status that says that memory was dumped.
const CORE_BIT: i32 = 0x80;

/// Takes a child's end, if it has ended: it is gone after this.
pub(super) fn wait_for_ended(pid: i32) -> Result<Option<Ending>, ShimError> {
    let Some(child) = Pid::from_raw(pid) else { return Ok(None) };
    loop {
        match waitpid(Some(child), WaitOptions::NOHANG) {
            Ok(ended) => return Ok(ended.map(|(_, status)| ending_of(status.as_raw()))),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Tells whether this process has a child, ended or not. As the reaper of orphans it has none only when nothing
/// is left below it.
pub(super) fn has_children() -> Result<bool, ShimError> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::All, options) {
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::CHILD) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn failed(error: rustix::io::Errno) -> ShimError {
    ShimError::System { operation: "wait for a child", source: Errno::from_raw(error.raw_os_error()) }
}

/// Reads a status.
fn ending_of(status: i32) -> Ending {
    match status & SIGNAL_BITS {
        0 => Ending::Exited { code: (status >> 8) & 0xff },
        signal => Ending::Signalled { signal: signal_name(signal), core_dumped: status & CORE_BIT != 0 },
    }
}

/// Names a signal as a person knows it.
pub(super) fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == FIRST_REAL_TIME => "SIGRTMIN".to_owned(),
        Err(_) if number > FIRST_REAL_TIME => format!("SIGRTMIN+{}", number - FIRST_REAL_TIME),
        Err(_) => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// The signals that do not end a process, by signal(7): they stop it, let it go on, or are ignored.
    const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

    /// The signals that the C library keeps for itself, and catches in programs with threads: no program ends by them
    /// for certain.
    const OF_THE_LIBRARY: [i32; 2] = [32, 33];

    /// Runs a program to its end and takes that.
    fn end_of(program: &str, arguments: &[&str]) -> Ending {
        let mut command = Command::new(program);
        let command = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        let pid = i32::try_from(command.spawn().unwrap().id()).unwrap();
        loop {
            if let Some(ending) = wait_for_ended(pid).unwrap() {
                return ending;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn ending_of_a_process_with_each_exit_code_has_that_code() {
        for code in 0..=255 {
            assert_eq!(end_of("/bin/sh", &["-c", &format!("exit {code}")]), Ending::Exited { code });
        }
    }

    #[test]
    fn ending_of_a_process_with_each_signal_names_it() {
        for number in (1..=64).filter(|number| !HARMLESS.contains(number) && !OF_THE_LIBRARY.contains(number))
        {
            // No shell knows all of them; perl ignores one unless it is told not to.
            let ending = end_of(
                "perl",
                &["-e", "$SIG{FPE} = q(DEFAULT); kill shift, $$; sleep 60", &number.to_string()],
            );

            let Ending::Signalled { signal, .. } = ending else { panic!("signal {number}: {ending:?}") };
            assert_eq!(signal, signal_name(number));
        }
    }

    #[test]
    fn signal_name_of_each_number_is_its_own() {
        let names: std::collections::BTreeSet<String> = (1..=64).map(signal_name).collect();

        assert_eq!(names.len(), 64);
        let some = [9, 32, 34, 37, 64].map(signal_name);
        assert_eq!(some, ["SIGKILL", "signal 32", "SIGRTMIN", "SIGRTMIN+3", "SIGRTMIN+30"]);
    }

    #[test]
    fn ending_of_each_status_is_told() {
        for number in 1..=64 {
            let named = Ending::Signalled { signal: signal_name(number), core_dumped: false };
            assert_eq!(ending_of(number), named);
        }
        assert_eq!(ending_of(7 << 8), Ending::Exited { code: 7 });
    }

    #[test]
    fn ending_of_a_status_with_a_core_dump_says_so() {
        let dumped = ending_of(11 | CORE_BIT);

        assert_eq!(dumped, Ending::Signalled { signal: "SIGSEGV".to_owned(), core_dumped: true });
    }
}
