//! The one way in which a lane writes: evaluate a piece of work, commit what came of it, and try again in order
//! (design D2, D3, D6).
//!
//! Promises that a piece of work is committed whole or not at all, under the lane's fence; that it waits for as long
//! as the store is away; that a panic, and data that the store refuses, are charged to the one thing at fault, which is
//! found by trying fewer things together; and that the lane takes nothing over before it is durable.

use std::cell::Cell;

use crate::clock::{Now, Timestamp};
use crate::effect::{Effects, Outcome};
use crate::ids::Offset;
use crate::lane::answer::Summary;
use crate::lane::behaviour::{Notice, Workspace};
use crate::lane::core::LaneCore;
use crate::lane::fault::FaultPoint;
use crate::lane::guard::guard;
use crate::lane::message::LaneExit;
use crate::lane::notice::CommitNotice;
use crate::lane::retry::forget_gap;
use crate::lane::trial::settled;
use crate::ports::store::{CommitError, Fence, LaneTransaction, StoreError};
use crate::record::Digest32;
use crate::state::StateKey;
use crate::trial::{TrialPhase, TrialSubject};

/// A piece of work that becomes one transaction: records of the log, parked records, or timers.
pub(super) trait Work {
    /// Counts the things it answers. One that is alone is at fault, whatever goes wrong.
    fn len(&self) -> usize;

    /// Names what is tried alone, where that is so.
    fn subject(&self) -> Option<&TrialSubject>;

    /// Reports whether what is tried alone kills processes: it is not evaluated then.
    fn is_convicted(&self) -> bool {
        false
    }

    /// Announces the rows that it needs.
    fn keys(&self, core: &LaneCore, at_hand: &AtHand, keys: &mut Vec<StateKey>);

    /// Evaluates it, as often as it is asked: what it writes goes into the workspace.
    fn evaluate(&mut self, core: &LaneCore, at_hand: &AtHand, space: &mut Workspace<'_>) -> Vec<Outcome>;

    /// How far the lane is once it is committed; none leaves the position where it is.
    fn reaches(&self) -> Option<Reach> {
        None
    }

    /// Charges a panic to one of its things.
    fn panicked(&mut self, core: &mut LaneCore, index: usize, text: &str) -> Result<(), LaneExit>;

    /// Charges data that the store refuses to its only thing.
    fn refused(&mut self, core: &LaneCore, detail: &str) -> Result<(), LaneExit>;

    /// Hears that it is committed.
    fn committed(&mut self, _core: &mut LaneCore) {}
}

/// Which of the things of a piece of work is being evaluated, so that a panic finds its cause.
#[derive(Debug, Default)]
pub(super) struct AtHand(Cell<Option<usize>>);

impl AtHand {
    /// Notes that the next thing is taken up.
    pub(super) fn take_up(&self, index: usize) {
        self.0.set(Some(index));
    }

    /// Notes that what follows is about all of them.
    fn take_up_all(&self) {
        self.0.set(None);
    }
}

/// How far a committed transaction brings the lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// The next record to apply.
    pub(super) next: Offset,
    /// The fingerprint of the last record below it; none leaves what is stored.
    pub(super) last_fingerprint: Option<Digest32>,
}

/// How far a piece of work got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is committed.
    Done,
    /// Nothing is written: one of its things fails all of them, and trying fewer shows which.
    Split,
    /// Nothing is written: the lane ends first.
    Ended,
}

/// What a piece of work came to: what the transaction will write, and what is told after it.
struct Evaluated {
    effects: Effects,
    notices: Vec<Notice>,
    outcomes: Vec<Outcome>,
    now: Timestamp,
}

/// A panic in an evaluation, and on which of the things it was; none says that it was about all of them.
struct Panicked {
    index: Option<usize>,
    text: String,
}

/// How far a commit got.
enum CommitStep {
    /// It is durable.
    Committed,
    /// It was not written; evaluate it again and try again.
    Again,
    /// The store refuses the data.
    DataRefused(String),
}

impl LaneCore {
    /// Carries a piece of work out, in one transaction and as often as that takes.
    pub(super) async fn transact(&mut self, work: &mut dyn Work) -> Result<Step, LaneExit> {
        while !self.is_ending() {
            let subject = work.subject().cloned();
            let tried = subject.as_ref().filter(|_| !work.is_convicted());
            let keys = self.think(tried, TrialPhase::Waiting, |core| core.keys_of(work)).await?;
            let evaluated = match keys {
                Ok(keys) => {
                    self.load_rows(keys).await?;
                    self.env.faults.hit(FaultPoint::BeforeApply, &self.lane);
                    self.think(tried, TrialPhase::Survived, |core| core.evaluate(work)).await?
                }
                Err(panic) => Err(panic),
            };
            let mut evaluated = match evaluated {
                Ok(evaluated) => evaluated,
                Err(Panicked { index, text }) => {
                    match index.or_else(|| (work.len() == 1).then_some(0)) {
                        Some(index) => work.panicked(self, index, &text)?,
                        None => return Ok(Step::Split),
                    }
                    continue;
                }
            };
            let end = subject.as_ref().map(|subject| settled(subject, work.is_convicted()));
            evaluated.effects.trials_settled.extend(end);
            match self.commit(evaluated, work.reaches()).await? {
                CommitStep::Committed => {
                    work.committed(self);
                    return Ok(Step::Done);
                }
                CommitStep::Again => {}
                CommitStep::DataRefused(detail) if work.len() == 1 => work.refused(self, &detail)?,
                CommitStep::DataRefused(_) => return Ok(Step::Split),
            }
        }
        Ok(Step::Ended)
    }

    /// Writes what the lane itself has to say, without asking the behaviour. `what` names it, for the error.
    pub(super) async fn write(
        &mut self,
        next: Offset,
        what: &'static str,
        effects: impl Fn() -> Effects,
    ) -> Result<Step, LaneExit> {
        while !self.is_ending() {
            let (effects, now) = (effects(), self.env.clock.now());
            let evaluated = Evaluated { effects, notices: Vec::new(), outcomes: Vec::new(), now };
            match self.commit(evaluated, Some(Reach { next, last_fingerprint: None })).await? {
                CommitStep::Committed => return Ok(Step::Done),
                CommitStep::Again => {}
                CommitStep::DataRefused(detail) => {
                    return Err(LaneExit::Failed(format!("failed to {what}: {detail}")));
                }
            }
        }
        Ok(Step::Ended)
    }

    fn keys_of(&self, work: &dyn Work) -> Result<Vec<StateKey>, Panicked> {
        let (at_hand, mut keys) = (AtHand::default(), Vec::new());
        let announced = guard(|| work.keys(self, &at_hand, &mut keys));
        announced.map_err(|panic| Panicked { index: at_hand.0.get(), text: panic.0 })?;
        Ok(keys)
    }

    /// Loads rows that are not in memory.
    async fn load_rows(&mut self, keys: Vec<StateKey>) -> Result<(), LaneExit> {
        let mut missing = self.rows.missing(keys);
        if missing.is_empty() {
            return Ok(());
        }
        let loaded = self.retry(|| self.env.store.load(self.lane.clone(), missing.clone())).await?;
        self.rows.keep(loaded);
        if self.has_former() {
            missing.retain(|key| !self.rows.has(key));
            self.load_former(missing).await?;
        }
        Ok(())
    }

    fn evaluate(&self, work: &mut dyn Work) -> Result<Evaluated, Panicked> {
        let _busy = self.status.enter(self.env.monotonic_micros());
        let (at_hand, now) = (AtHand::default(), self.env.clock.now());
        let evaluated = guard(|| {
            let mut space = Workspace::new(&self.log_id, &self.lane, now, self.rows.all());
            let outcomes = work.evaluate(self, &at_hand, &mut space);
            at_hand.take_up_all();
            self.behaviour.finish(&mut space);
            let (effects, notices) = space.finish();
            Evaluated { effects, notices, outcomes, now }
        });
        evaluated.map_err(|panic| Panicked { index: at_hand.0.get(), text: panic.0 })
    }

    /// Writes a transaction, and takes its results over once it is durable.
    async fn commit(&mut self, evaluated: Evaluated, reach: Option<Reach>) -> Result<CommitStep, LaneExit> {
        let Evaluated { mut effects, notices, outcomes, now } = evaluated;
        effects.moves = self.moves_of(&effects.states);
        let summary = Summary::of(&effects);
        let next = reach.map_or(self.position, |reach| reach.next);
        self.env.faults.hit(FaultPoint::BeforeCommit, &self.lane);
        let timer = self.env.metrics.commits(&self.lane.group).start_timer();
        let transaction = LaneTransaction {
            lane: self.lane.clone(),
            fence: self.fence,
            from: self.stored_next,
            next,
            last_fingerprint: reach.and_then(|reach| reach.last_fingerprint),
            now,
            effects,
        };
        let answer = self.env.store.commit(transaction).await;
        timer.observe_duration();
        let (fence, next_timer) = match answer {
            Ok(committed) => (committed.fence, committed.next_timer),
            Err(error @ (CommitError::Fenced | CommitError::Unknown(_))) => {
                match self.resolve(&error).await? {
                    // When timers fall due is not known then: ask for them at once.
                    Some(fence) => (fence, Some(now)),
                    None => return Ok(CommitStep::Again),
                }
            }
            Err(CommitError::Store(StoreError::Data(detail))) => return Ok(CommitStep::DataRefused(detail)),
            Err(CommitError::Store(error)) if error.is_transient() => {
                self.wait_for_store(&error).await;
                return Ok(CommitStep::Again);
            }
            Err(CommitError::Store(error)) => return Err(LaneExit::Failed(error.to_string())),
        };
        self.env.faults.hit(FaultPoint::AfterCommit, &self.lane);
        let from = std::mem::replace(&mut self.position, next);
        self.commit_failures = 0;
        self.fence = fence;
        self.stored_next = Some(next);
        self.timers.set_next(next_timer);
        self.take_over(summary);
        let (now, lane) = (self.env.clock.reading(), self.lane.clone());
        self.tell(now, &CommitNotice { lane, from, next, committed_at: now.wall, outcomes, notices });
        if next > from && std::mem::take(&mut self.has_doubtful_gap) {
            forget_gap(&self.env, &self.lane, &self.status, self.fence).await?;
            self.status.set_state(self.idle_state());
        }
        Ok(CommitStep::Committed)
    }

    /// Shows, counts and tells what was committed.
    fn tell(&self, now: Now, notice: &CommitNotice) {
        let (next, outcomes) = (notice.next, &notice.outcomes);
        self.status.committed(now, next, outcomes, self.parked.len(), self.parked.records());
        self.status.set_state(self.idle_state());
        self.env.metrics.count_outcomes(&self.lane, outcomes);
        self.reader.commit_advisory(self.lane.topic_partition, next);
        self.env.listener.committed(notice);
    }

    /// Finds out whether a transaction was committed: my epoch and my new revision means it was. Answers the
    /// new fence, or none when nothing was written and the lane is still ours.
    async fn resolve(&self, error: &CommitError) -> Result<Option<Fence>, LaneExit> {
        let progress = self.retry(|| self.env.store.read_progress(self.lane.clone())).await?;
        let Some(progress) = progress else { return Err(LaneExit::Fenced) };
        let after = Fence { epoch: self.fence.epoch, revision: self.fence.revision.following() };
        if progress.fence == after {
            return Ok(Some(after));
        }
        match error {
            CommitError::Unknown(_) if progress.fence == self.fence => {
                self.env.metrics.count_retry(&self.lane.group);
                Ok(None)
            }
            _ => Err(LaneExit::Fenced),
        }
    }

    /// Waits before a transaction is tried again, longer with every failure in a row.
    async fn wait_for_store(&mut self, error: &StoreError) {
        self.commit_failures = self.commit_failures.saturating_add(1);
        if self.commit_failures == 1 {
            tracing::warn!(lane = %self.lane, error = %error, "lane waits");
        }
        self.env.metrics.count_retry(&self.lane.group);
        self.status.waiting(error);
        let policy = self.env.settings.retry;
        let delay = policy.delay(self.commit_failures, self.env.randomness.next_u64());
        tokio::time::sleep(delay).await;
    }
}
