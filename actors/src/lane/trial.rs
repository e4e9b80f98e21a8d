//! What a lane is careful about after processes died over it (design D6). Pure; what a careful lane does is in
//! `core/trials.rs`.
//!
//! A lane is careful about the log for as many records as its predecessors could have had in hand, at most as
//! far as the log reached when it opened; about parked records and timers until none is left to be tried.

use std::collections::HashMap;
use std::time::Duration;

use crate::ids::Offset;
use crate::lane::behaviour::{Entry, Verdict};
use crate::ports::store::LaneOpened;
use crate::rejection::Rejection;
use crate::trial::{
    DEATHS_BEFORE_POISON, SettledTrial, Trial, TrialEnd, TrialSubject, UNCLEAN_ENDS_BEFORE_TRIALS,
};

/// What to do with something that a trial is to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Try it.
    Try {
        /// Processes in a row that died of it.
        deaths: u32,
    },
    /// It is poison.
    Convict {
        /// Processes in a row that died of it.
        deaths: u32,
    },
}

/// How far a lane is careful about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogCare {
    /// Records still to be tried alone.
    records_left: usize,
    /// Where the log ended when the lane opened: nothing from there on was in anybody's hands.
    until: Offset,
}

/// What a lane is careful about. Pure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trials {
    stored: HashMap<TrialSubject, Trial>,
    log: Option<LogCare>,
    is_aside: bool,
}

impl Trials {
    /// Decides what a new incarnation is careful about.
    pub(super) fn plan(opened: &LaneOpened, position: Offset, log_end: Offset, trial_records: usize) -> Self {
        let is_pending = |is_log: bool| {
            let open = opened.trials.iter().filter(|trial| !trial.is_convicted);
            open.into_iter().any(|trial| matches!(trial.subject, TrialSubject::Log(_)) == is_log)
        };
        let is_log = opened.starts_at_next >= UNCLEAN_ENDS_BEFORE_TRIALS || is_pending(true);
        // Whatever is parked or set later is stored before it can kill: the next incarnation finds it here.
        let has_aside = !opened.parked.is_empty() || opened.next_timer.is_some();
        let care = LogCare { records_left: trial_records.max(1), until: log_end };
        Self {
            stored: opened.trials.iter().map(|trial| (trial.subject.clone(), trial.clone())).collect(),
            log: Some(care).filter(|_| is_log && position < log_end),
            is_aside: has_aside && (opened.starts_aside >= UNCLEAN_ENDS_BEFORE_TRIALS || is_pending(false)),
        }
    }

    /// Tells whether records of the log are tried one by one.
    pub(super) const fn is_log(&self) -> bool {
        self.log.is_some()
    }

    /// Tells whether parked records and timers are tried one by one.
    pub(super) const fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// Tells whether a record is known to kill processes.
    pub(super) fn is_deadly(&self, offset: Offset) -> bool {
        self.stored.get(&TrialSubject::Log(offset)).is_some_and(|trial| trial.is_convicted)
    }

    /// Decides whether something is tried.
    pub(super) fn judge(&self, subject: &TrialSubject) -> Judgement {
        let deaths = match self.stored.get(subject) {
            Some(trial) if !trial.is_convicted => trial.deaths,
            _ => 0,
        };
        match deaths >= DEATHS_BEFORE_POISON {
            true => Judgement::Convict { deaths },
            false => Judgement::Try { deaths },
        }
    }

    /// Notes that a record of the log was answered alone.
    pub(super) fn passed(&mut self, position: Offset) {
        self.log = self.log.and_then(|care| {
            let records_left = care.records_left.saturating_sub(1);
            (records_left > 0 && position < care.until).then_some(LogCare { records_left, ..care })
        });
    }

    /// Notes that no parked record and no timer is left to be tried.
    pub(super) const fn rested_aside(&mut self) {
        self.is_aside = false;
    }

    /// Takes over what a committed transaction settled.
    pub(super) fn settle(&mut self, settled: Vec<SettledTrial>) {
        for SettledTrial { subject, end } in settled {
            self.stored.remove(&subject);
            let Some(offset) = subject.offset() else { continue };
            let record = TrialSubject::Log(offset);
            match end {
                TrialEnd::Survived => {
                    self.stored.remove(&record);
                }
                TrialEnd::Convicted => {
                    let trial =
                        Trial { subject: record.clone(), deaths: DEATHS_BEFORE_POISON, is_convicted: true };
                    self.stored.insert(record, trial);
                }
            }
        }
    }
}

/// Says that a record is poison because processes died of it.
pub(super) const fn died(deaths: u32) -> Verdict {
    Verdict::Rejected(Rejection::ProcessDied { deaths })
}

/// Tells whether an entry was convicted of killing processes: it is neither decoded nor applied.
pub(super) const fn is_convicted(entry: &Entry) -> bool {
    matches!(entry.verdict, Verdict::Rejected(Rejection::ProcessDied { .. }))
}

/// Gives the end of a trial for the transaction that answers its subject.
pub(super) fn settled(subject: &TrialSubject, is_convicted: bool) -> SettledTrial {
    let end = if is_convicted { TrialEnd::Convicted } else { TrialEnd::Survived };
    SettledTrial { subject: subject.clone(), end }
}

/// How much longer the wait before a trial may be for each death but the first.
///
/// *Source*: hundreds of kills within a second of each start, on a machine with five times the work it can do, where
/// a trial takes some 30 ms: with half a second before the second and the third trial alike, one kill in a
/// hundred convicted a record.
const WAIT_GROWTH: u32 = 8;

/// Gives the longest wait before a trial, after so many deaths beside the first.
pub(super) const fn longest_wait(delay: Duration, before: u32) -> Duration {
    delay.saturating_mul(WAIT_GROWTH.saturating_pow(before))
}

/// Gives a part of the longest delay, by chance.
pub(super) fn part_of(longest: Duration, random: u64) -> Duration {
    let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random.checked_rem(micros.saturating_add(1)).unwrap_or(0))
}

#[cfg(test)]
mod tests;
