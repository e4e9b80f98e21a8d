//! How a lane answers timers that fell due (design D3).
//!
//! Promises that this passes the same fence as batches, that the backlog comes first after downtime, and that a timer
//! which cannot be answered is postponed, not lost.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::effect::{Effects, Outcome, Timer};
use crate::ids::Offset;
use crate::lane::behaviour::Workspace;
use crate::lane::core::transaction::{AtHand, Step, Work};
use crate::lane::core::{LaneCore, PANICS_BEFORE_POISON};
use crate::lane::fault::FaultPoint;
use crate::lane::message::LaneExit;
use crate::lane::trial::settled;
use crate::state::StateKey;
use crate::trial::TrialSubject;

/// Timers that one transaction answers.
const TIMERS_PER_TICK: usize = 100;

/// How long a timer waits whose answer panics again and again or is refused by the store.
const BROKEN_TIMER_DELAY: Duration = Duration::from_secs(60);

/// A time that every timer falls due before.
const END_OF_TIME: Timestamp = Timestamp::from_micros(i64::MAX);

/// When the lane's timers are answered next.
#[derive(Debug)]
pub(super) struct Timers {
    next: Option<Timestamp>,
    /// The log end that must be passed before timers that were due at a time fire.
    target: Option<(Timestamp, Offset)>,
}

impl Timers {
    pub(super) const fn new(next: Option<Timestamp>) -> Self {
        Self { next, target: None }
    }

    /// Notes when the earliest timer falls due.
    pub(super) const fn set_next(&mut self, next: Option<Timestamp>) {
        self.next = next;
    }

    /// Reports whether a timer is due.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next.is_some_and(|due| due <= now)
    }
}

/// Timers that are answered in one transaction.
struct Due<'a> {
    timers: &'a [Timer],
    /// How often each has failed; one that has too often is postponed.
    failures: Vec<u32>,
    /// Set where one timer is tried alone.
    subject: Option<&'a TrialSubject>,
}

impl Due<'_> {
    fn each(&self) -> impl Iterator<Item = (usize, &Timer, bool)> {
        let numbered = self.timers.iter().zip(&self.failures).enumerate();
        numbered.map(|(index, (timer, failures))| (index, timer, *failures >= PANICS_BEFORE_POISON))
    }
}

impl Work for Due<'_> {
    fn len(&self) -> usize {
        self.timers.len()
    }

    fn subject(&self) -> Option<&TrialSubject> {
        self.subject
    }

    fn keys(&self, core: &LaneCore, at_hand: &AtHand, keys: &mut Vec<StateKey>) {
        for (index, timer, _) in self.each().filter(|(_, _, is_postponed)| !is_postponed) {
            at_hand.take_up(index);
            core.behaviour.timer_keys(timer, keys);
        }
    }

    fn evaluate(&mut self, core: &LaneCore, at_hand: &AtHand, space: &mut Workspace<'_>) -> Vec<Outcome> {
        for (index, timer, is_postponed) in self.each() {
            at_hand.take_up(index);
            if is_postponed {
                let later = Timer { id: timer.id.clone(), due_at: space.now.plus(BROKEN_TIMER_DELAY) };
                space.effects.timers_set.push(later);
                continue;
            }
            let set_before = space.effects.timers_set.len();
            core.behaviour.tick(timer, space);
            let is_set_anew = space.effects.timers_set.iter().skip(set_before).any(|set| set.id == timer.id);
            if !is_set_anew {
                space.effects.timers_cleared.push(timer.id.clone());
            }
        }
        Vec::new()
    }

    /// Charges a panic to a timer. One that is postponed already is beyond the lane.
    fn panicked(&mut self, core: &mut LaneCore, index: usize, text: &str) -> Result<(), LaneExit> {
        core.env.metrics.count_panic(&core.lane.group);
        tracing::error!(lane = %core.lane, timer = ?self.timers.get(index).map(|timer| &timer.id), error = text, "behaviour panicked on a timer");
        match self.failures.get_mut(index).filter(|failures| **failures < PANICS_BEFORE_POISON) {
            Some(failures) => *failures += 1,
            None => return Err(LaneExit::Panicked(text.to_owned())),
        }
        Ok(())
    }

    fn refused(&mut self, core: &LaneCore, detail: &str) -> Result<(), LaneExit> {
        let timer = self.timers.first().map(|timer| &timer.id);
        match self.failures.first_mut().filter(|failures| **failures < PANICS_BEFORE_POISON) {
            Some(failures) => {
                tracing::error!(lane = %core.lane, timer = ?timer, error = detail, "store refuses what a timer does");
                *failures = PANICS_BEFORE_POISON;
                Ok(())
            }
            None => Err(LaneExit::Failed(format!("failed to postpone a timer: {detail}"))),
        }
    }
}

impl LaneCore {
    /// Answers timers that fell due, once the lane has read past the log end that was sampled after that:
    /// after downtime the backlog comes first.
    pub(in crate::lane) async fn tick(&mut self) -> Result<(), LaneExit> {
        let now = self.env.clock.now();
        if self.is_held() || !self.timers.is_due(now) {
            return Ok(());
        }
        self.env.faults.hit(FaultPoint::BeforeTick, &self.lane);
        let (sampled_at, target) = match self.timers.target {
            Some(target) => target,
            None => {
                let partition = self.lane.topic_partition;
                let end = self.retry(|| self.reader.log_end(partition)).await?;
                (now, end)
            }
        };
        self.timers.target = Some((sampled_at, target));
        if self.position < target {
            return Ok(());
        }
        self.timers.target = None;
        let due = self.due_timers(sampled_at, TIMERS_PER_TICK).await?;
        if due.is_empty() {
            let first = self.due_timers(END_OF_TIME, 1).await?;
            self.timers.set_next(first.first().map(|timer| timer.due_at));
            return Ok(());
        }
        if self.trials.is_aside() {
            return self.try_timers(&due).await;
        }
        if let Step::Split = self.answer_timers(&due, None).await? {
            for _ in &due {
                let first = self.due_timers(sampled_at, 1).await?;
                self.answer_timers(&first, None).await?;
            }
        }
        Ok(())
    }

    async fn due_timers(&self, until: Timestamp, limit: usize) -> Result<Vec<Timer>, LaneExit> {
        self.retry(|| self.env.store.load_due_timers(self.lane.clone(), until, limit)).await
    }

    /// Answers timers in one transaction, and postpones the one that cannot be answered.
    pub(super) async fn answer_timers(
        &mut self,
        timers: &[Timer],
        subject: Option<&TrialSubject>,
    ) -> Result<Step, LaneExit> {
        self.transact(&mut Due { timers, failures: vec![0; timers.len()], subject }).await
    }

    /// Removes a timer that kills processes: there is no record to set aside, and it is not evaluated.
    pub(super) async fn remove_timer(
        &mut self,
        timer: &Timer,
        subject: &TrialSubject,
    ) -> Result<(), LaneExit> {
        let effects = || Effects {
            timers_cleared: vec![timer.id.clone()],
            trials_settled: vec![settled(subject, true)],
            ..Effects::default()
        };
        self.write(self.position, "remove a timer", effects).await?;
        Ok(())
    }
}
