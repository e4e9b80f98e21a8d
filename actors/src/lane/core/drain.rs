//! What a lane does between batches: it drains released keys and answers timers (design D3, D6).
//!
//! Promises that both pass the same fence as batches, that a drained key's records are applied in offset
//! order with their deletion in one transaction, and that a failure parks the key again at its head.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::command::ParkedKeyId;
use crate::effect::{
    DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Effects, Outcome, ParkedKey, ParkedRecord,
    ParkedRecordId, Timer,
};
use crate::ids::Offset;
use crate::lane::answer::{apply_event, convict};
use crate::lane::behaviour::{Entry, Verdict, Workspace};
use crate::lane::core::{BuildPanic, Built, CommitStep, LaneCore, PANICS_BEFORE_POISON};
use crate::lane::dead_letter::dead_letter_record;
use crate::lane::fault::FaultPoint;
use crate::lane::guard::guard;
use crate::lane::message::LaneExit;
use crate::lane::trial::{died, is_convicted, settled};
use crate::lane::window::DuplicateWindow;
use crate::ports::store::{ParkedKeyState, ParkedWish};
use crate::record::LogRecord;
use crate::rejection::{Rejection, short_detail};
use crate::state::StateKey;
use crate::trial::{TrialPhase, TrialSubject};

/// Timers that one transaction answers.
const TIMERS_PER_TICK: usize = 100;

/// How long a timer waits whose answer panics again and again or is refused by the store: it is kept, not
/// lost.
const BROKEN_TIMER_DELAY: Duration = Duration::from_secs(60);

/// A time that every timer falls due before.
const END_OF_TIME: Timestamp = Timestamp::from_micros(i64::MAX);

/// How far timers got.
pub(super) enum TimerStep {
    /// Each is answered or postponed.
    Answered,
    /// None is: one of them fails all, and only one at a time shows which.
    OneByOne,
}

impl LaneCore {
    /// Drains every key that an operator released.
    pub(in crate::lane) async fn drain_released(&mut self) -> Result<(), LaneExit> {
        let released: Vec<Bytes> = self
            .parked
            .values()
            .filter(|key| key.wish != ParkedWish::Wait)
            .map(|key| key.key.clone())
            .collect();
        for key in released {
            self.drain(key).await?;
        }
        Ok(())
    }

    /// Drains a key as far as it goes: until its queue is empty or something in it is poison.
    pub(super) async fn drain(&mut self, key: Bytes) -> Result<(), LaneExit> {
        let mut limit = self.env.settings.drain_records;
        // The lane's own window has gone on since these were parked, and keeps what it has.
        let mut drained = DuplicateWindow::new(self.env.settings.duplicate_window_records);
        while let Some(state) = self.parked.get(&key).filter(|state| state.wish != ParkedWish::Wait).cloned()
        {
            self.env.faults.hit(FaultPoint::BeforeDrain, &self.lane);
            let id = ParkedKeyId { lane: self.lane.clone(), key: key.clone() };
            let parked = self.retry(|| self.env.store.load_parked(id.clone(), limit)).await?;
            let is_all = parked.len() < limit;
            limit = match self.alone(&parked) {
                None => {
                    let mut entries: Vec<Entry> =
                        parked.into_iter().map(|parked| self.decode(parked.record)).collect();
                    self.drain_chunk(&state, &mut entries, &mut drained, is_all, limit, None).await?
                }
                Some(record) => {
                    let is_all = is_all && parked.len() == 1;
                    self.drain_alone(&state, record, &mut drained, is_all, limit).await?
                }
            };
            drained.trim();
        }
        self.panics.clear();
        Ok(())
    }

    /// Gives the first record if it is to be tried alone: because the lane is careful, or because some record
    /// of these is known to kill processes.
    fn alone(&self, parked: &[ParkedRecord]) -> Option<LogRecord> {
        let is_careful =
            self.trials.is_aside() || parked.iter().any(|parked| self.trials.is_deadly(parked.record.offset));
        parked.first().filter(|_| is_careful).map(|parked| parked.record.clone())
    }

    /// Drains one record in a trial.
    async fn drain_alone(
        &mut self,
        state: &ParkedKeyState,
        record: LogRecord,
        drained: &mut DuplicateWindow,
        is_all: bool,
        limit: usize,
    ) -> Result<usize, LaneExit> {
        let subject = TrialSubject::Parked(record.offset);
        if record.offset == state.head && state.wish == ParkedWish::DiscardHead {
            // It is given up unread.
            let mut entry = Entry { record, verdict: died(0) };
            let entries = std::slice::from_mut(&mut entry);
            return self.drain_chunk(state, entries, drained, is_all, limit, None).await;
        }
        let mut entry = self.understand_in_trial(&subject, record).await?;
        let entries = std::slice::from_mut(&mut entry);
        self.drain_chunk(state, entries, drained, is_all, limit, Some(&subject)).await
    }

    /// Tells whether an operator's wish about a key waits to be carried out.
    pub(super) fn has_released(&self) -> bool {
        self.parked.values().any(|key| key.wish != ParkedWish::Wait)
    }

    /// Applies loaded records of a key in one transaction. Answers how many to load next time: one at a time
    /// once a failure cannot be told apart.
    async fn drain_chunk(
        &mut self,
        state: &ParkedKeyState,
        entries: &mut [Entry],
        drained: &mut DuplicateWindow,
        is_all: bool,
        limit: usize,
        subject: Option<&TrialSubject>,
    ) -> Result<usize, LaneExit> {
        loop {
            let is_convicted = entries.iter().any(is_convicted);
            let tried = subject.filter(|_| !is_convicted);
            let keys = self.think(tried, TrialPhase::Waiting, |core| core.keys_of(entries)).await?;
            let built = match keys {
                Ok(keys) => {
                    self.load_keys(keys).await?;
                    let build = |core: &mut Self| core.build_drain(state, entries, drained, is_all);
                    self.think(tried, TrialPhase::Survived, build).await?
                }
                Err(panic) => Err(panic),
            };
            match built {
                Err(panic) => match panic.index.or_else(|| (entries.len() == 1).then_some(0)) {
                    Some(index) => self.charge(entries, index, &panic.text)?,
                    None => return Ok(1),
                },
                Ok(mut built) => {
                    let trial = subject.map(|subject| settled(subject, is_convicted));
                    built.effects.trials_settled.extend(trial);
                    match self.commit(built, self.position, None).await? {
                        CommitStep::Committed => return Ok(limit),
                        CommitStep::Again => {}
                        CommitStep::DataRefused(detail) => match entries {
                            [entry] => {
                                convict(entry, Rejection::StoreRefused { detail: short_detail(&detail) })?
                            }
                            _ => return Ok(1),
                        },
                    }
                }
            }
        }
    }

    fn build_drain(
        &mut self,
        state: &ParkedKeyState,
        entries: &[Entry],
        drained: &mut DuplicateWindow,
        is_all: bool,
    ) -> Result<Built, BuildPanic> {
        let env = Arc::clone(&self.env);
        let status = Arc::clone(&self.status);
        let _busy = status.enter(env.monotonic_micros());
        let now = env.clock.now();
        let Self { behaviour, cache, window, lane, log_id, .. } = self;
        let at = Cell::new(None);
        let thought = guard(|| {
            let mut work = Workspace::new(log_id, lane, now, cache);
            let mut outcomes = Vec::with_capacity(entries.len());
            let mut is_parked_again = false;
            for (index, entry) in entries.iter().enumerate() {
                at.set(Some(index));
                let offset = entry.record.offset;
                let is_head = offset == state.head;
                // Asked for every record, so that what repeats one that is given up is recognised as well.
                let is_duplicate = matches!(&entry.verdict, Verdict::Event(event)
                    if drained.check(event.event_id, offset)
                        || window.stands_below(event.event_id, offset));
                if is_head && state.wish == ParkedWish::DiscardHead {
                    settle(&mut work, offset, DeadLetterOutcome::Discarded);
                } else {
                    outcomes.push(match &entry.verdict {
                        Verdict::Rejected(rejection) => {
                            park_again(&mut work, state, entry, rejection);
                            is_parked_again = true;
                            break;
                        }
                        Verdict::Event(event) if !is_duplicate => {
                            apply_event(behaviour.as_ref(), entry, event, &mut work)
                        }
                        Verdict::Event(_) | Verdict::Duplicate(_) => Outcome::Duplicate,
                    });
                    if is_head {
                        settle(&mut work, offset, DeadLetterOutcome::Released);
                    }
                }
                work.effects.records_unparked.push(ParkedRecordId { key: state.key.clone(), offset });
            }
            at.set(None);
            if !is_parked_again && is_all {
                work.effects.keys_unparked.push(state.key.clone());
            }
            behaviour.finish(&mut work);
            let (effects, notices) = work.finish();
            Built { effects, notices, outcomes, now }
        });
        thought.map_err(|panic| BuildPanic { index: at.get(), text: panic.0 })
    }

    /// Answers timers that fell due, once the lane has read past the log end that was sampled after that:
    /// after downtime the backlog comes first.
    pub(in crate::lane) async fn tick(&mut self) -> Result<(), LaneExit> {
        let now = self.env.clock.now();
        if self.is_held() || self.next_timer.is_none_or(|due| due > now) {
            return Ok(());
        }
        self.env.faults.hit(FaultPoint::BeforeTick, &self.lane);
        let (sampled_at, target) = match self.timer_target {
            Some(target) => target,
            None => {
                let partition = self.lane.topic_partition;
                let end = self.retry(|| self.reader.log_end(partition)).await?;
                (now, end)
            }
        };
        self.timer_target = Some((sampled_at, target));
        if self.position < target {
            return Ok(());
        }
        self.timer_target = None;
        let due = self
            .retry(|| self.env.store.load_due_timers(self.lane.clone(), sampled_at, TIMERS_PER_TICK))
            .await?;
        if due.is_empty() {
            let first =
                self.retry(|| self.env.store.load_due_timers(self.lane.clone(), END_OF_TIME, 1)).await?;
            self.next_timer = first.first().map(|timer| timer.due_at);
            return Ok(());
        }
        if self.trials.is_aside() {
            return self.try_timers(&due).await;
        }
        if let TimerStep::OneByOne = self.answer_timers(&due, None).await? {
            for _ in &due {
                let first =
                    self.retry(|| self.env.store.load_due_timers(self.lane.clone(), sampled_at, 1)).await?;
                self.answer_timers(&first, None).await?;
            }
        }
        Ok(())
    }

    /// Answers timers in one transaction, and postpones the one that cannot be answered. When several are due
    /// and it cannot be told which one is at fault, nothing is done.
    pub(super) async fn answer_timers(
        &mut self,
        due: &[Timer],
        subject: Option<&TrialSubject>,
    ) -> Result<TimerStep, LaneExit> {
        let mut failures = vec![0_u32; due.len()];
        loop {
            let keys =
                self.think(subject, TrialPhase::Waiting, |core| core.timer_keys_of(due, &failures)).await?;
            let built = match keys {
                Ok(keys) => {
                    self.load_keys(keys).await?;
                    let build = |core: &mut Self| core.build_ticks(due, &failures);
                    self.think(subject, TrialPhase::Survived, build).await?
                }
                Err(panic) => Err(panic),
            };
            match built {
                Err(panic) => match panic.index.or_else(|| (due.len() == 1).then_some(0)) {
                    Some(index) => self.charge_timer(due, &mut failures, index, &panic.text)?,
                    None => return Ok(TimerStep::OneByOne),
                },
                Ok(mut built) => {
                    built.effects.trials_settled.extend(subject.map(|subject| settled(subject, false)));
                    match self.commit(built, self.position, None).await? {
                        CommitStep::Committed => return Ok(TimerStep::Answered),
                        CommitStep::Again => {}
                        CommitStep::DataRefused(detail) => match (due, failures.as_mut_slice()) {
                            ([timer], [failures]) if *failures < PANICS_BEFORE_POISON => {
                                tracing::error!(lane = %self.lane, timer = ?timer.id, error = detail, "store refuses what a timer does");
                                *failures = PANICS_BEFORE_POISON;
                            }
                            ([_], _) => {
                                return Err(LaneExit::Failed(format!(
                                    "failed to postpone a timer: {detail}"
                                )));
                            }
                            _ => return Ok(TimerStep::OneByOne),
                        },
                    }
                }
            }
        }
    }

    /// Removes a timer that kills processes: there is no record to set aside, and nothing is thought about.
    pub(super) async fn remove_timer(
        &mut self,
        timer: &Timer,
        subject: &TrialSubject,
    ) -> Result<(), LaneExit> {
        loop {
            let now = self.env.clock.now();
            let effects = Effects {
                timers_cleared: vec![timer.id.clone()],
                trials_settled: vec![settled(subject, true)],
                ..Effects::default()
            };
            let built = Built { effects, notices: Vec::new(), outcomes: Vec::new(), now };
            match self.commit(built, self.position, None).await? {
                CommitStep::Committed => return Ok(()),
                CommitStep::Again => {}
                CommitStep::DataRefused(detail) => {
                    return Err(LaneExit::Failed(format!("failed to remove a timer: {detail}")));
                }
            }
        }
    }

    /// Charges a panic to the timer that it happened on. One that is postponed already is beyond the lane.
    fn charge_timer(
        &self,
        due: &[Timer],
        failures: &mut [u32],
        index: usize,
        text: &str,
    ) -> Result<(), LaneExit> {
        self.env.metrics.count_panic(&self.lane.group);
        tracing::error!(lane = %self.lane, timer = ?due.get(index).map(|timer| &timer.id), error = text, "behaviour panicked on a timer");
        match failures.get_mut(index).filter(|failures| **failures < PANICS_BEFORE_POISON) {
            Some(failures) => *failures += 1,
            None => return Err(LaneExit::Panicked(text.to_owned())),
        }
        Ok(())
    }

    /// Asks the behaviour for the rows that timers need, those to be postponed left out.
    fn timer_keys_of(&self, due: &[Timer], failures: &[u32]) -> Result<Vec<StateKey>, BuildPanic> {
        let mut keys = Vec::new();
        for (index, (timer, failures)) in due.iter().zip(failures).enumerate() {
            if *failures < PANICS_BEFORE_POISON {
                guard(|| self.behaviour.timer_keys(timer, &mut keys))
                    .map_err(|panic| BuildPanic { index: Some(index), text: panic.0 })?;
            }
        }
        Ok(keys)
    }

    fn build_ticks(&mut self, due: &[Timer], failures: &[u32]) -> Result<Built, BuildPanic> {
        let env = Arc::clone(&self.env);
        let status = Arc::clone(&self.status);
        let _busy = status.enter(env.monotonic_micros());
        let now = env.clock.now();
        let at = Cell::new(None);
        let thought = guard(|| {
            let mut work = Workspace::new(&self.log_id, &self.lane, now, &self.cache);
            for (index, (timer, failures)) in due.iter().zip(failures).enumerate() {
                at.set(Some(index));
                if *failures >= PANICS_BEFORE_POISON {
                    let later = Timer { id: timer.id.clone(), due_at: now.plus(BROKEN_TIMER_DELAY) };
                    work.effects.timers_set.push(later);
                    continue;
                }
                let set_before = work.effects.timers_set.len();
                self.behaviour.tick(timer, &mut work);
                let is_set_anew =
                    work.effects.timers_set.iter().skip(set_before).any(|set| set.id == timer.id);
                if !is_set_anew {
                    work.effects.timers_cleared.push(timer.id.clone());
                }
            }
            at.set(None);
            self.behaviour.finish(&mut work);
            let (effects, notices) = work.finish();
            Built { effects, notices, outcomes: Vec::<Outcome>::new(), now }
        });
        thought.map_err(|panic| BuildPanic { index: at.get(), text: panic.0 })
    }
}

/// Notes what became of a dead letter.
fn settle(work: &mut Workspace<'_>, offset: Offset, outcome: DeadLetterOutcome) {
    let settled_at = work.now;
    work.effects.dead_letters_settled.push(DeadLetterSettlement { offset, outcome, settled_at });
}

/// Parks a key again behind an event that is poison still, or is found to be now.
fn park_again(work: &mut Workspace<'_>, state: &ParkedKeyState, entry: &Entry, rejection: &Rejection) {
    let now = work.now;
    let record = &entry.record;
    if record.offset == state.head {
        settle(work, record.offset, DeadLetterOutcome::RejectedAgain(rejection.clone()));
    } else {
        work.effects.dead_letters.push(DeadLetter {
            record: record.clone(),
            rejection: rejection.clone(),
            is_parked: true,
            rejected_at: now,
        });
        let letter = dead_letter_record(work.lane, record, rejection, now);
        work.effects.outbox.push(letter);
    }
    work.effects.keys_parked.push(ParkedKey {
        key: state.key.clone(),
        head: record.offset,
        rejection: rejection.clone(),
        parked_at: now,
    });
}
