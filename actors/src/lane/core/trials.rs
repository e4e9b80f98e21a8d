//! How a lane tries one thing at a time after processes died over it (design D6).
//!
//! Promises that whatever is thought about in a trial is stored before the thought and taken back after it;
//! that no two lanes of a process are inside a thought in a trial at once; and that a record which is found to
//! kill processes is never decoded again, unless an operator releases it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::effect::Timer;
use crate::ids::Offset;
use crate::lane::behaviour::Entry;
use crate::lane::core::LaneCore;
use crate::lane::core::transaction::Step;
use crate::lane::message::LaneExit;
use crate::lane::trial::{Judgement, died, longest_wait, part_of};
use crate::record::LogRecord;
use crate::rejection::Rejection;
use crate::trial::{Thought, TrialPhase, TrialSubject};

/// Between two looks whether the lane is to end.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

impl LaneCore {
    /// Answers one record of the log alone.
    pub(super) async fn try_record(&mut self, record: LogRecord, end: Offset) -> Result<Step, LaneExit> {
        let subject = TrialSubject::Log(record.offset);
        let entry = self.understand_in_trial(&subject, record).await?;
        let entry = self.recognise(entry);
        let step = self.apply(&mut [entry], end, Some(&subject)).await?;
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
    pub(in crate::lane) fn rest_aside(&mut self) {
        let now = self.env.clock.now();
        if self.trials.is_aside() && !self.parked.has_to_drain() && !self.timers.is_due(now) {
            self.trials.rested_aside();
        }
    }

    /// Notes that this incarnation ends in order. When that cannot be noted in time the next one counts an
    /// unclean end, which by itself convicts nothing.
    pub(in crate::lane) async fn end_in_order(&self) {
        if let Err(error) = self.env.store.end_lane(self.lane.clone(), self.fence.epoch).await {
            tracing::debug!(lane = %self.lane, error = %error, "failed to note that a lane ended in order");
        }
    }
}
