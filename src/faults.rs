//! Named points at which a test build kills, panics, hangs or leaves the process.
//!
//! Promises that [`hit`] does nothing at all unless the cargo feature `fail-points` is on *and* the environment
//! variable [`VARIABLE`] names the point. Does not promise that a point is hit once: `:nth` picks the hit.
//!
//! *Shape*: `name[:nth]=action`, several separated by `;`; `nth` counts from 1 (the default) inside one
//! process. Actions: `kill` (SIGKILL to this process), `panic`, `hang` (this thread waits for ever),
//! `exit:CODE`. A text that cannot be read ends the process with [`BAD_TEXT_EXIT_CODE`]: a test that names a
//! point wrongly must not pass.
//!
//! Points: `shim-before-claim` (the shim holds the attempt's lock, nothing is claimed), `shim-after-claim` (the
//! folder is claimed, the agent is not started), `shim-after-agent-exit` (the agent has ended, its result is
//! not written), `scheduler-after-accept` (the attempt is durable, the caller has no answer),
//! `orchestrator-after-accept` (the scheduler has accepted the attempt, nothing of it is stored),
//! `store-after-progress` (progress of all lanes of a commit is moved, their rows are not written),
//! `store-before-commit` (everything is written, nothing is committed), `store-after-commit` (it is durable,
//! nobody has an answer).

/// The environment variable that says where to fail.
pub const VARIABLE: &str = "HORIZONS_FAIL_AT";

/// The exit code after a text that cannot be read; 64 is `EX_USAGE` of sysexits.
pub const BAD_TEXT_EXIT_CODE: i32 = 64;

/// Fails here if the environment says so.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn hit(_point: &str) {}

/// Fails here if the environment says so.
#[cfg(feature = "fail-points")]
pub fn hit(point: &str) {
    armed::hit(point);
}

#[cfg(feature = "fail-points")]
mod armed {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{BAD_TEXT_EXIT_CODE, VARIABLE};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Panic,
        Hang,
        Exit(i32),
    }

    #[derive(Debug)]
    struct Fault {
        point: String,
        nth: u64,
        action: Action,
        hits: AtomicU64,
    }

    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();

    pub(super) fn hit(point: &str) {
        let faults = FAULTS.get_or_init(|| match std::env::var(VARIABLE) {
            Ok(text) => parse(&text).unwrap_or_else(|part| {
                // Nothing is left to do if standard error is closed: the exit code says it as well.
                let _ = writeln!(
                    std::io::stderr(),
                    "failed to read `{VARIABLE}`: wanted `name[:nth]=kill|panic|hang|exit:CODE`, got `{part}`"
                );
                std::process::exit(BAD_TEXT_EXIT_CODE)
            }),
            Err(_) => Vec::new(),
        });
        for fault in faults.iter().filter(|fault| fault.point == point) {
            if fault.hits.fetch_add(1, Ordering::SeqCst) + 1 == fault.nth {
                carry_out(fault);
            }
        }
    }

    fn carry_out(fault: &Fault) {
        match fault.action {
            Action::Kill => {
                // SIGKILL to oneself cannot fail; if it could, waiting would still keep the promise.
                let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
                hang();
            }
            #[expect(clippy::panic, reason = "a panic is what the test asked for")]
            Action::Panic => panic!("fail point `{}`", fault.point),
            Action::Hang => hang(),
            Action::Exit(code) => std::process::exit(code),
        }
    }

    fn hang() {
        loop {
            std::thread::park();
        }
    }

    fn parse(text: &str) -> Result<Vec<Fault>, String> {
        text.split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| parse_one(part).ok_or_else(|| part.to_owned()))
            .collect()
    }

    fn parse_one(part: &str) -> Option<Fault> {
        let (place, action) = part.split_once('=')?;
        let (point, nth) = match place.split_once(':') {
            Some((point, nth)) => (point, nth.parse().ok().filter(|nth| *nth > 0)?),
            None => (place, 1),
        };
        let action = match action {
            "kill" => Action::Kill,
            "panic" => Action::Panic,
            "hang" => Action::Hang,
            other => Action::Exit(other.strip_prefix("exit:")?.parse().ok()?),
        };
        (!point.is_empty()).then(|| Fault { point: point.to_owned(), nth, action, hits: AtomicU64::new(0) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_text_with_several_points_reads_each() {
            let faults = parse("a=kill; b:3=exit:7;c=hang;").unwrap();

            let read: Vec<_> = faults.iter().map(|f| (f.point.as_str(), f.nth, f.action)).collect();
            assert_eq!(read, [("a", 1, Action::Kill), ("b", 3, Action::Exit(7)), ("c", 1, Action::Hang)]);
        }

        #[test]
        fn faults_text_that_is_wrong_names_the_part() {
            for wrong in ["a", "a=", "a:0=kill", "a:x=kill", "=kill", "a=exit:", "a=die"] {
                assert_eq!(parse(wrong).unwrap_err(), wrong);
            }
        }
    }
}
