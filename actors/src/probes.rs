//! Probes: what of this process works, what works worse than it should, and what does not.
//!
//! Promises one place that knows how every part is: each [`Probe`] has a stable name, a [`ProbeState`], a line in
//! words and a time since when; a change is logged once. Which states make `GET /ready` answer 503 is decided here,
//! by [`ProbeKind::failed_means`], and nowhere else: a kind that has nothing to put there is degraded at most. Does
//! not look at anything itself: whoever knows reports.
//!
//! A new probe is one variant of [`ProbeKind`], its words in the matches below, its row in the table of
//! `docs/operations.md` (a test holds it against these words), and a call of [`ProbeBoard::report`] whenever it is
//! known, from any thread.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock::Timestamp;

/// A probe's line is cut here: it is for one look, and may carry an error of the outside world.
const DETAIL_CHARS_MAX: usize = 400;

/// How a part is, from well to unable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// It does its work.
    Ok,
    /// It works worse than it should, or a part of it waits; the process is still of use.
    Degraded,
    /// The process cannot do its work: requests had better go elsewhere.
    Failed,
}

impl ProbeState {
    /// Lists every state.
    pub const ALL: [ProbeState; 3] = [ProbeState::Ok, ProbeState::Degraded, ProbeState::Failed];

    /// Gives the stable name.
    pub const fn name(self) -> &'static str {
        match self {
            ProbeState::Ok => "ok",
            ProbeState::Degraded => "degraded",
            ProbeState::Failed => "failed",
        }
    }
}

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// The store.
    Store,
    /// The disk that attempts and the data folder are on.
    Disk,
    /// The event log that groups read.
    EventLog,
    /// A group's dispatcher.
    Dispatcher,
    /// A group's lanes.
    Lanes,
    /// The relay to Kafka.
    Relay,
    /// Carrying jobs to the scheduler.
    Scheduler,
    /// The data folder, by its identity.
    DataFolder,
    /// The process's threads.
    Threads,
}

impl ProbeKind {
    /// Lists every kind.
    pub const ALL: [ProbeKind; 9] = [
        ProbeKind::Store,
        ProbeKind::Disk,
        ProbeKind::EventLog,
        ProbeKind::Dispatcher,
        ProbeKind::Lanes,
        ProbeKind::Relay,
        ProbeKind::Scheduler,
        ProbeKind::DataFolder,
        ProbeKind::Threads,
    ];

    /// Gives the stable name; where there are several of a kind, each has `/` and its own name behind it.
    pub const fn name(self) -> &'static str {
        match self {
            ProbeKind::Store => "store",
            ProbeKind::Disk => "disk",
            ProbeKind::EventLog => "event_log",
            ProbeKind::Dispatcher => "dispatcher",
            ProbeKind::Lanes => "lanes",
            ProbeKind::Relay => "relay",
            ProbeKind::Scheduler => "scheduler",
            ProbeKind::DataFolder => "data_folder",
            ProbeKind::Threads => "threads",
        }
    }

    /// Says when it is degraded, for the table in the documents; none when it never is.
    pub const fn degraded_means(self) -> Option<&'static str> {
        match self {
            ProbeKind::Store | ProbeKind::Disk | ProbeKind::DataFolder => None,
            ProbeKind::EventLog => Some(
                "the brokers do not answer a group, or have not answered since the start, or a topic has another number \
                     of partitions than its layout counts",
            ),
            ProbeKind::Dispatcher => Some("it ended and is started again"),
            ProbeKind::Lanes => Some(
                "a lane has a gap, is held by a flood, waits (for the store, the log, or behind a full parked key), \
                 is held back by a transaction that another producer has left open for a minute, is started again, or \
                 takes very long to open",
            ),
            ProbeKind::Relay => Some(
                "nothing can be published, a partition is stopped or waits, or the oldest record waits long",
            ),
            ProbeKind::Scheduler => Some(
                "the scheduler does not take or tell what it is asked, or an attempt whose supervisor is dead \
                 cannot be ended",
            ),
            ProbeKind::Threads => {
                Some("a thread has been at one thing for long; the watchdog may end the process")
            }
        }
    }

    /// Says when it has failed, for the table in the documents; none when it never makes a process unready.
    pub const fn failed_means(self) -> Option<&'static str> {
        match self {
            ProbeKind::Store => Some("it does not answer, or answers with an error"),
            ProbeKind::Disk => Some("it has no room for new work, which is refused"),
            // What is accepted meanwhile is kept in the store, and everything goes on by itself.
            ProbeKind::EventLog | ProbeKind::Relay => None,
            // The watchdog ends the process instead.
            ProbeKind::Threads => None,
            ProbeKind::Dispatcher => Some("it has stopped"),
            ProbeKind::Lanes => Some("every lane that the group has here waits for an operator (gap, flood)"),
            ProbeKind::Scheduler => Some("nothing drives jobs any more"),
            ProbeKind::DataFolder => {
                Some("it was removed, moved or replaced: nothing is taken, and the process ends")
            }
        }
    }
}

/// A probe's name: what is probed, and which one where there are several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeName {
    /// What is probed.
    pub kind: ProbeKind,
    /// Which one, from the configuration or an enum; never a name of a job, user or event.
    pub of: Option<String>,
}

impl From<ProbeKind> for ProbeName {
    fn from(kind: ProbeKind) -> Self {
        Self { kind, of: None }
    }
}

impl fmt::Display for ProbeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            None => f.write_str(self.kind.name()),
            Some(of) => write!(f, "{}/{of}", self.kind.name()),
        }
    }
}

/// What somebody found out about a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// About what.
    pub name: ProbeName,
    /// How it is.
    pub state: ProbeState,
    /// In one line, for a person.
    pub detail: String,
}

impl Finding {
    /// Makes one.
    pub fn new(name: impl Into<ProbeName>, state: ProbeState, detail: impl Into<String>) -> Self {
        Self { name: name.into(), state, detail: detail.into() }
    }

    /// Makes one of a part that does its work.
    pub fn ok(name: impl Into<ProbeName>, detail: impl Into<String>) -> Self {
        Self::new(name, ProbeState::Ok, detail)
    }

    /// Makes one of a part that works worse than it should.
    pub fn degraded(name: impl Into<ProbeName>, detail: impl Into<String>) -> Self {
        Self::new(name, ProbeState::Degraded, detail)
    }

    /// Makes one of a part without which the process cannot do its work.
    pub fn failed(name: impl Into<ProbeName>, detail: impl Into<String>) -> Self {
        Self::new(name, ProbeState::Failed, detail)
    }
}

/// How a part is, as it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: ProbeState,
    /// In one line, for a person.
    pub detail: String,
    /// Since when it has been so.
    pub since: Timestamp,
}

/// How every part of the process is.
#[derive(Debug, Default)]
pub struct ProbeBoard {
    known: Mutex<BTreeMap<ProbeName, Probe>>,
}

impl ProbeBoard {
    fn known(&self) -> MutexGuard<'_, BTreeMap<ProbeName, Probe>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a finding; logs it when the state has changed.
    pub fn report(&self, finding: Finding, now: Timestamp) {
        let Finding { name, state, detail } = finding;
        let has_failed = state == ProbeState::Failed;
        let may_fail = name.kind.failed_means().is_some();
        debug_assert!(may_fail || !has_failed, "`{name}` is not among those that may fail");
        let state = if has_failed && !may_fail { ProbeState::Degraded } else { state };
        let detail = one_line(&detail);
        let shown = name.to_string();
        let mut known = self.known();
        let before = known.get(&name).map(|probe| (probe.state, probe.since));
        let since = before.filter(|(before, _)| *before == state).map_or(now, |(_, since)| since);
        known.insert(name, Probe { name: shown.clone(), state, detail: detail.clone(), since });
        drop(known);
        match (before.map(|(before, _)| before), state) {
            (Some(before), state) if before == state => {}
            (None, ProbeState::Ok) => {}
            (_, ProbeState::Ok) => tracing::info!(probe = shown, detail, "well again"),
            (_, ProbeState::Degraded) => tracing::warn!(probe = shown, detail, "degraded"),
            (_, ProbeState::Failed) => tracing::error!(probe = shown, detail, "failed: not ready"),
        }
    }

    /// Forgets a part that is not here any more.
    pub fn forget(&self, name: &ProbeName) {
        self.known().remove(name);
    }

    /// Gives every probe, in order.
    pub fn probes(&self) -> Vec<Probe> {
        self.known().values().cloned().collect()
    }

    /// Gives the worst state of all.
    pub fn worst(&self) -> ProbeState {
        self.known().values().map(|probe| probe.state).max().unwrap_or(ProbeState::Ok)
    }
}

/// Makes one line of a text, and cuts it: errors of the outside world may be long and have several.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().take(DETAIL_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(DETAIL_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn report_same_state_keeps_since_and_takes_detail() {
        let board = ProbeBoard::default();

        board.report(Finding::degraded(ProbeKind::EventLog, "away"), at(1));
        board.report(Finding::degraded(ProbeKind::EventLog, "still away"), at(2));
        let degraded = board.probes();
        board.report(Finding::ok(ProbeKind::EventLog, "answers"), at(3));

        let shown = |probes: &[Probe]| {
            let mut probes = probes.iter();
            probes.next().map(|probe| (probe.state, probe.detail.clone(), probe.since)).unwrap()
        };
        assert_eq!(shown(&degraded), (ProbeState::Degraded, "still away".to_owned(), at(1)));
        assert_eq!(shown(&board.probes()), (ProbeState::Ok, "answers".to_owned(), at(3)));
    }

    #[test]
    fn worst_is_the_worst_of_all_and_goes_with_its_part() {
        let board = ProbeBoard::default();
        let group = ProbeName { kind: ProbeKind::Dispatcher, of: Some("jobs".to_owned()) };

        let nothing = board.worst();
        board.report(Finding::ok(ProbeKind::Store, "answers"), at(1));
        board.report(Finding::failed(group.clone(), "stopped"), at(1));
        let failed = board.worst();
        board.forget(&group);

        assert_eq!((nothing, failed, board.worst()), (ProbeState::Ok, ProbeState::Failed, ProbeState::Ok));
    }

    #[test]
    fn report_detail_is_one_bounded_line() {
        let board = ProbeBoard::default();

        board.report(Finding::failed(ProbeKind::Store, format!("a\nb{}", "x".repeat(1000))), at(1));

        let detail = board.probes().remove(0).detail;
        assert!(detail.starts_with("a b") && detail.chars().count() == DETAIL_CHARS_MAX + 1, "{detail}");
    }

    #[test]
    fn kinds_have_one_name_each() {
        let names: std::collections::BTreeSet<&str> = ProbeKind::ALL.iter().map(|kind| kind.name()).collect();

        assert_eq!(names.len(), ProbeKind::ALL.len());
    }
}
