//! How a lane tries one thing at a time after processes died over it (design D6).
//!
//! Promises that whatever is thought about in a trial is stored before the thought and taken back after it;
//! that no two lanes of a process are inside a thought in a trial at once; and that a record which is found to
//! kill processes is never decoded again, unless an operator releases it.
//!
//! A lane is careful about the log for as many records as its predecessors could have had in hand, at most as
//! far as the log reached when it opened; about parked records and timers until none is left to be tried.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::effect::Timer;
use crate::ids::Offset;
use crate::lane::behaviour::{Entry, Verdict};
use crate::lane::core::{ChunkStep, LaneCore};
use crate::lane::message::LaneExit;
use crate::ports::store::LaneOpened;
use crate::record::LogRecord;
use crate::rejection::Rejection;
use crate::trial::{
    DEATHS_BEFORE_POISON, SettledTrial, Thought, Trial, TrialEnd, TrialPhase, TrialSubject,
    UNCLEAN_ENDS_BEFORE_TRIALS,
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

/// Between two looks whether the lane is to end.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Gives the longest wait before a trial, after so many deaths beside the first.
const fn longest_wait(delay: Duration, before: u32) -> Duration {
    delay.saturating_mul(WAIT_GROWTH.saturating_pow(before))
}

/// Gives a part of the longest delay, by chance.
fn part_of(longest: Duration, random: u64) -> Duration {
    let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random.checked_rem(micros.saturating_add(1)).unwrap_or(0))
}

impl LaneCore {
    /// Answers one record of the log alone.
    pub(super) async fn try_record(&mut self, record: LogRecord, end: Offset) -> Result<ChunkStep, LaneExit> {
        let subject = TrialSubject::Log(record.offset);
        let entry = self.understand_in_trial(&subject, record).await?;
        let entry = self.recognise(entry);
        let step = self.apply_chunk(&mut [entry], end, Some(&subject)).await?;
        self.trials.passed(self.position);
        if !self.trials.is_log() {
            tracing::info!(lane = %self.lane, offset = %self.position, "lane takes whole batches again");
        }
        Ok(step)
    }

    /// Decodes a record in its trial, or not at all when it is found to be poison.
    pub(super) async fn understand_in_trial(
        &mut self,
        subject: &TrialSubject,
        record: LogRecord,
    ) -> Result<Entry, LaneExit> {
        match self.trials.judge(subject) {
            Judgement::Convict { deaths } => {
                tracing::error!(lane = %self.lane, offset = %record.offset, deaths, "record kills processes: it is set aside");
                Ok(Entry { record, verdict: died(deaths) })
            }
            Judgement::Try { deaths } => {
                self.hesitate(deaths).await;
                let read = |core: &mut Self| match subject {
                    TrialSubject::Parked(_) => core.decode(record),
                    TrialSubject::Log(_) | TrialSubject::Timer(_) => core.understand(record),
                };
                self.think(Some(subject), TrialPhase::Waiting, read).await
            }
        }
    }

    /// Waits, by chance, before something is tried again that a process died over: a process that is killed from
    /// outside then hardly dies within the same trial once more, while what kills processes does so after any
    /// wait. A lane that is to end waits no longer.
    pub(super) async fn hesitate(&self, deaths: u32) {
        let Some(before) = deaths.checked_sub(1) else { return };
        let longest = longest_wait(self.env.settings.trial_delay, before);
        let until = Instant::now() + part_of(longest, self.env.randomness.next_u64());
        while !self.is_ending() && Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + LOOK_PAUSE)).await;
        }
    }

    /// Thinks: in a trial, between a note that says so and one that takes it back, and before a witness. Without a
    /// subject it is no trial.
    pub(super) async fn think<T>(
        &mut self,
        subject: Option<&TrialSubject>,
        after: TrialPhase,
        thought: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, LaneExit> {
        let Some(subject) = subject else { return Ok(thought(self)) };
        let env = Arc::clone(&self.env);
        let _token = env.trial_token.lock().await;
        self.note_trial(subject, TrialPhase::Trying).await?;
        env.witness.begins(&Thought { lane: self.lane.clone(), subject: subject.clone() });
        let answer = thought(self);
        env.witness.ends();
        self.note_trial(subject, after).await?;
        Ok(answer)
    }

    async fn note_trial(&self, subject: &TrialSubject, phase: TrialPhase) -> Result<(), LaneExit> {
        let write =
            || self.env.store.write_trial(self.lane.clone(), self.fence.epoch, subject.clone(), phase);
        match self.retry(write).await? {
            true => Ok(()),
            false => Err(LaneExit::Fenced),
        }
    }

    /// Answers timers one by one; one that kills processes is removed.
    pub(super) async fn try_timers(&mut self, due: &[Timer]) -> Result<(), LaneExit> {
        for timer in due {
            if self.is_ending() {
                return Ok(());
            }
            let subject = TrialSubject::Timer(timer.id.clone());
            match self.trials.judge(&subject) {
                Judgement::Try { deaths } => {
                    self.hesitate(deaths).await;
                    self.answer_timers(std::slice::from_ref(timer), Some(&subject)).await?;
                }
                Judgement::Convict { deaths } => {
                    let rejection = Rejection::ProcessDied { deaths };
                    tracing::error!(lane = %self.lane, timer = ?timer.id, deaths, "timer kills processes: it is removed");
                    self.env.metrics.count_rejection(&self.lane, &rejection);
                    self.remove_timer(timer, &subject).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends the care about parked records and timers once nothing is left of either.
    pub(super) fn rest_aside(&mut self) {
        let now = self.env.clock.now();
        if self.trials.is_aside() && !self.has_released() && self.next_timer.is_none_or(|due| due > now) {
            self.trials.rested_aside();
        }
    }

    /// Notes that this incarnation ends in order. When that cannot be noted in time the next one counts an
    /// unclean end, which by itself convicts nothing.
    pub(super) async fn end_in_order(&self) {
        if let Err(error) = self.env.store.end_lane(self.lane.clone(), self.fence.epoch).await {
            tracing::debug!(lane = %self.lane, error = %error, "failed to note that a lane ended in order");
        }
    }
}

#[cfg(test)]
mod tests;
