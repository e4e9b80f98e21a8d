//! Named points at which a test build kills, panics, hangs or leaves the process.
//!
//! Promises that [`hit`] does nothing at all unless the cargo feature `fail-points` is on *and* the environment
//! variable [`VARIABLE`] names the point. Does not promise that a point is hit once: `:nth` picks the hit.
//!
//! *Shape*: `name[~marker][:nth]=action`, several separated by `;`; `nth` counts from 1 (the default) inside one
//! process. With a marker only hits on a record count whose key or payload holds these bytes. Actions: `kill`
//! (SIGKILL to this process), `abort` (as a failed allocation does), `panic`, `hang` (this thread waits for ever),
//! `exit:CODE`, and `delay:MS`, which waits at the `nth` hit and at every one after it. A text that cannot be
//! read ends the process with [`BAD_TEXT_EXIT_CODE`]: a test that names a point wrongly must not pass.
//!
//! | point | where it lies |
//! |---|---|
//! | `shim-before-claim` | the shim holds the attempt's lock, nothing is claimed |
//! | `shim-after-claim` | the folder is claimed, the agent is not started |
//! | `shim-after-agent-exit` | the agent has ended, its result is not written |
//! | `scheduler-after-accept` | the attempt is durable, the caller has no answer |
//! | `orchestrator-after-accept` | the scheduler has accepted, the order is not answered |
//! | `store-after-progress` | progress of a round's lanes is moved, their rows are not written |
//! | `store-before-commit` | a round is written, not committed |
//! | `store-after-commit` | a round is committed, nobody has an answer |
//! | `lane-started`, `lane-before-batch`, `lane-before-apply`, `lane-before-commit`, `lane-after-commit`, `lane-before-tick`, `lane-before-drain` | see [`FaultPoint`](horizons_actors::lane::fault::FaultPoint) |
//! | `behaviour-apply`, `behaviour-tick` | inside a behaviour, before it looks at an event or a timer |
//! | `behaviour-event` | inside a behaviour, before it looks at a record that is an event; takes a marker |
//!
//! The points of lanes and behaviours may be narrowed to a group, and further to a topic:
//! `lane-before-apply/jobs`, `lane-before-apply/audit-trail/system-health`. Each of these names counts its
//! own hits. An event that kills whoever looks at it: `behaviour-event/jobs~job-13=abort`.

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

/// Fails here if the environment says so; a fault with a marker looks for it in what the hit is about.
#[cfg(feature = "fail-points")]
pub(crate) fn hit_on(point: &str, about: &[&[u8]]) {
    armed::hit_on(point, about);
}

/// Tells whether any point is to fail, so that whoever must build a name first can spare it.
#[cfg(feature = "fail-points")]
pub(crate) fn is_armed() -> bool {
    armed::is_armed()
}

#[cfg(feature = "fail-points")]
mod armed {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::{BAD_TEXT_EXIT_CODE, VARIABLE};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Abort,
        Panic,
        Hang,
        Exit(i32),
        Delay(Duration),
    }

    #[derive(Debug)]
    struct Fault {
        point: String,
        /// What the subject of a hit must hold; empty for any hit.
        marker: String,
        nth: u64,
        action: Action,
        hits: AtomicU64,
    }

    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();

    fn faults() -> &'static [Fault] {
        FAULTS.get_or_init(|| match std::env::var(VARIABLE) {
            Ok(text) => parse(&text).unwrap_or_else(|part| {
                // Nothing is left to do if standard error is closed: the exit code says it as well.
                let _ = writeln!(
                    std::io::stderr(),
                    "failed to read `{VARIABLE}`: wanted `name[~marker][:nth]=kill|abort|panic|hang|exit:CODE|delay:MS`, got `{part}`"
                );
                signal_hook::low_level::exit(BAD_TEXT_EXIT_CODE)
            }),
            Err(_) => Vec::new(),
        })
    }

    pub(super) fn is_armed() -> bool {
        !faults().is_empty()
    }

    pub(super) fn hit(point: &str) {
        hit_on(point, &[]);
    }

    pub(super) fn hit_on(point: &str, about: &[&[u8]]) {
        // All are counted before one is carried out: a panic must not hide a hit from the others.
        let met = faults().iter().filter(|fault| fault.point == point && is_marked(fault, about));
        let due: Vec<&Fault> = met.filter(|fault| is_due(fault)).collect();
        due.into_iter().for_each(carry_out);
    }

    /// Tells whether what a hit is about holds the marker.
    fn is_marked(fault: &Fault, about: &[&[u8]]) -> bool {
        let marker = fault.marker.as_bytes();
        marker.is_empty() || about.iter().any(|bytes| bytes.windows(marker.len()).any(|part| part == marker))
    }

    /// Counts a hit and tells whether it is the one.
    fn is_due(fault: &Fault) -> bool {
        let hits = fault.hits.fetch_add(1, Ordering::SeqCst) + 1;
        let is_repeated = matches!(fault.action, Action::Delay(_));
        hits == fault.nth || (is_repeated && hits > fault.nth)
    }

    fn carry_out(fault: &Fault) {
        match fault.action {
            Action::Kill => {
                // SIGKILL to oneself cannot fail; if it could, waiting would still keep the promise.
                let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
                hang();
            }
            Action::Abort => std::process::abort(),
            #[expect(clippy::panic, reason = "a panic is what the test asked for")]
            Action::Panic => panic!("fail point `{}`", fault.point),
            Action::Hang => hang(),
            Action::Exit(code) => signal_hook::low_level::exit(code),
            Action::Delay(delay) => rest(delay),
        }
    }

    fn rest(delay: Duration) {
        let until = Instant::now() + delay;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
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
        let (point, marker) = match point.split_once('~') {
            Some((point, marker)) => (point, Some(marker).filter(|marker| !marker.is_empty())?),
            None => (point, ""),
        };
        let action = match action {
            "kill" => Action::Kill,
            "abort" => Action::Abort,
            "panic" => Action::Panic,
            "hang" => Action::Hang,
            other => match other.split_once(':')? {
                ("exit", code) => Action::Exit(code.parse().ok()?),
                ("delay", millis) => Action::Delay(Duration::from_millis(millis.parse().ok()?)),
                _ => return None,
            },
        };
        (!point.is_empty()).then(|| Fault {
            point: point.to_owned(),
            marker: marker.to_owned(),
            nth,
            action,
            hits: AtomicU64::new(0),
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn faults_text_with_several_points_reads_each() {
            let faults = parse("a=kill; b:3=exit:7;c=hang;d/e=delay:20").unwrap();

            let read: Vec<_> = faults.iter().map(|f| (f.point.as_str(), f.nth, f.action)).collect();
            let delay = Action::Delay(Duration::from_millis(20));
            assert_eq!(
                read,
                [
                    ("a", 1, Action::Kill),
                    ("b", 3, Action::Exit(7)),
                    ("c", 1, Action::Hang),
                    ("d/e", 1, delay)
                ]
            );
        }

        #[test]
        fn fault_with_a_marker_meets_only_what_holds_it() {
            let faults = parse("a/b~job-13:2=abort;c=panic").unwrap();
            let [marked, plain] = faults.as_slice() else { panic!("{faults:?}") };

            assert_eq!((marked.point.as_str(), marked.nth, marked.action), ("a/b", 2, Action::Abort));
            assert!(is_marked(marked, &[b"", b"{\"job_id\":\"job-13\"}"]));
            assert!(!is_marked(marked, &[b"job-1", b"3"]) && !is_marked(marked, &[]));
            assert!(is_marked(plain, &[]) && is_marked(plain, &[b"anything"]));
        }

        #[test]
        fn faults_text_that_is_wrong_names_the_part() {
            for wrong in [
                "a",
                "a=",
                "a:0=kill",
                "a:x=kill",
                "=kill",
                "a=exit:",
                "a=die",
                "a=delay",
                "a=delay:x",
                "a~=kill",
                "~a=kill",
            ] {
                assert_eq!(parse(wrong).unwrap_err(), wrong);
            }
        }
    }
}
