//! What the store keeps per lane, and the lane's transactions.
//!
//! Promises that a transaction is checked whole before anything of it is written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use futures_util::FutureExt;

use super::super::locked;
use super::faults::StoreCall;
use super::outbox::{Ends, ends_after};
use super::trials::TrialTables;
use super::{CommittedTransaction, MemoryStore, State};
use crate::clock::Timestamp;
use crate::command::{Command, LayoutAdoption, ParkedKeyId};
use crate::effect::{
    AuditEntry, DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Effects, ParkedKey, ParkedRecord,
    ParkedRecordId, RETIRED_ENTRIES, Refusal, RetiredView, Retirement, StateMove, TimelineEntry, Timer,
    TimerId,
};
use crate::gap::{FoundGap, GapAcceptance, GapRemedy};
use crate::ids::{
    Epoch, Generation, Group, JobId, LaneKey, LogId, Offset, Partition, ProcessId, Revision, Topic,
    TopicPartition,
};
use crate::layout::Layout;
use crate::ports::Reply;
use crate::ports::query::{GapDecision, StoredGap};
use crate::ports::store::{
    CommitError, DesiredState, Fence, GapAccepted, LaneCommitted, LaneOpened, LaneOrders, LanePosition,
    LaneStore, LaneTransaction, LayoutAdopted, ParkedKeyState, ParkedWish, Progress, StoreError,
};
use crate::record::Digest32;
use crate::state::{AuditSegment, LifecycleOwner, StateKey, StateValue};
use crate::trial::{Thought, TrialPhase, TrialSubject};

/// A dead letter with what became of it.
#[derive(Debug, Clone)]
pub(super) struct KeptDeadLetter {
    pub(super) letter: DeadLetter,
    pub(super) outcome: Option<DeadLetterOutcome>,
    pub(super) attempts: u32,
    pub(super) updated_at: Timestamp,
}

/// A parked key with what operators want of it.
#[derive(Debug, Clone)]
pub(super) struct KeptParkedKey {
    pub(super) parked: ParkedKey,
    pub(super) wish: ParkedWish,
}

/// The tables of one lane.
#[derive(Debug, Default)]
pub(super) struct LaneTables {
    epoch: Epoch,
    revision: Revision,
    next: Option<Offset>,
    last_fingerprint: Option<Digest32>,
    pub(super) trials: TrialTables,
    pub(super) gap: Option<FoundGap>,
    pub(super) generation: Generation,
    pub(super) desired: DesiredState,
    pub(super) held_because: Option<String>,
    pub(super) states: HashMap<StateKey, StateValue>,
    /// Jobs whose views do not count among the live ones.
    pub(super) silent: BTreeSet<JobId>,
    timers: BTreeMap<TimerId, Timestamp>,
    pub(super) parked_keys: BTreeMap<Bytes, KeptParkedKey>,
    parked_records: BTreeMap<Offset, ParkedRecord>,
    pub(super) dead_letters: BTreeMap<Offset, KeptDeadLetter>,
    pub(super) audit_entries: BTreeMap<u64, AuditEntry>,
    audit_segments: BTreeMap<u64, AuditSegment>,
    pub(super) timeline: BTreeMap<(JobId, Offset), TimelineEntry>,
    pub(super) refusals: BTreeMap<Offset, Refusal>,
}

impl LaneTables {
    /// Gives the progress as it stands.
    pub(super) const fn progress(&self) -> Progress {
        Progress { fence: self.fence(), next: self.next }
    }

    /// Lists the timers in order of name.
    pub(super) fn all_timers(&self) -> Vec<Timer> {
        self.timers.iter().map(|(id, due_at)| Timer { id: id.clone(), due_at: *due_at }).collect()
    }

    /// Lists records that wait behind a key, in order of offset.
    pub(super) fn parked_behind(&self, key: &Bytes, limit: usize) -> Vec<ParkedRecord> {
        self.parked_records.values().filter(|parked| parked.key == key).take(limit).cloned().collect()
    }

    /// Counts the records that wait behind a key.
    pub(super) fn parked_count(&self, key: &Bytes) -> u64 {
        self.parked_records.values().filter(|parked| parked.key == key).count() as u64
    }

    const fn fence(&self) -> Fence {
        Fence { epoch: self.epoch, revision: self.revision }
    }

    fn open(&mut self, process: ProcessId, log_id: LogId, layout: Layout) -> LaneOpened {
        self.epoch = self.epoch.following();
        let Self { trials, next, parked_records, timers, .. } = self;
        trials.opened(process, |subject| match subject {
            TrialSubject::Log(offset) => next.is_none_or(|next| *offset >= next),
            TrialSubject::Parked(offset) => parked_records.contains_key(offset),
            TrialSubject::Timer(id) => timers.contains_key(id),
        });
        LaneOpened {
            fence: self.fence(),
            next: self.next,
            last_fingerprint: self.last_fingerprint,
            log_id,
            generation: self.generation,
            layout,
            starts_at_next: self.trials.starts_at_next,
            starts_aside: self.trials.starts_aside,
            trials: self.trials.list(),
            open_gap: self.gap.map(|gap| gap.kind),
            parked: self.parked_states(),
            desired: self.desired,
            held_because: self.held_because.clone(),
            next_timer: self.timers.values().min().copied(),
        }
    }

    fn parked_states(&self) -> Vec<ParkedKeyState> {
        self.parked_keys
            .iter()
            .map(|(key, kept)| ParkedKeyState {
                key: key.clone(),
                head: kept.parked.head,
                wish: kept.wish,
                records: self.parked_count(key),
            })
            .collect()
    }

    /// Checks everything that a database would refuse.
    fn check(&self, effects: &Effects) -> Result<(), String> {
        if let Some((key, _)) = effects.states.iter().find(|(key, _)| !key.is_lane_owned()) {
            return Err(format!("state row `{key:?}` is not the lane's to write"));
        }
        let indexes = effects.audit_entries.iter().map(|entry| entry.index);
        all_new("audit entry", indexes, |index| self.audit_entries.contains_key(index))?;
        let numbers = effects.audit_segments.iter().map(|segment| segment.number);
        all_new("audit segment", numbers, |number| self.audit_segments.contains_key(number))?;
        let steps = effects.timeline.iter().map(|entry| (entry.job_id.clone(), entry.offset));
        all_new("timeline entry", steps, |step| self.timeline.contains_key(step))?;
        let refused = effects.refusals.iter().map(|refusal| refusal.offset);
        all_new("refusal", refused, |offset| self.refusals.contains_key(offset))?;
        for letter in &effects.dead_letters {
            let kept = self.dead_letters.get(&letter.record.offset);
            if kept.is_some_and(|kept| kept.letter.record != letter.record) {
                return Err(format!("dead letter at {} holds other bytes", letter.record.offset));
            }
        }
        for settled in &effects.dead_letters_settled {
            let is_new = effects.dead_letters.iter().any(|letter| letter.record.offset == settled.offset);
            if !is_new && !self.dead_letters.contains_key(&settled.offset) {
                return Err(format!("no dead letter at {} to settle", settled.offset));
            }
        }
        self.check_parked(effects)
    }

    fn check_parked(&self, effects: &Effects) -> Result<(), String> {
        let is_removed = |id: &&ParkedRecordId| {
            self.parked_records.get(&id.offset).is_some_and(|parked| parked.key == id.key)
        };
        let removed: HashSet<Offset> =
            effects.records_unparked.iter().filter(is_removed).map(|id| id.offset).collect();
        let is_key_parked_after = |key: &Bytes| {
            effects.keys_parked.iter().any(|parked| parked.key == key)
                || (self.parked_keys.contains_key(key) && !effects.keys_unparked.contains(key))
        };
        for parked in &effects.records_parked {
            let offset = parked.record.offset;
            let kept = self.parked_records.get(&offset).filter(|_| !removed.contains(&offset));
            if kept.is_some_and(|kept| kept.record != parked.record || kept.key != parked.key) {
                return Err(format!("parked record at {offset} holds other bytes"));
            }
            if !is_key_parked_after(&parked.key) {
                return Err(format!("record at {offset} is parked behind a key that is not parked"));
            }
        }
        for (offset, kept) in &self.parked_records {
            if !removed.contains(offset) && !is_key_parked_after(&kept.key) {
                return Err(format!("key of the parked record at {offset} is unparked before it"));
            }
        }
        Ok(())
    }

    /// Writes effects that were checked; the outbox is not the lane's table.
    fn write(&mut self, effects: Effects) {
        if effects.held_because.is_some() {
            self.desired = DesiredState::Paused;
            self.held_because = effects.held_because;
        }
        for (key, _) in &effects.states {
            if let StateKey::JobView(job_id) = key {
                self.silent.remove(job_id);
            }
        }
        self.states.extend(effects.states);
        self.retire(effects.views_retired);
        self.audit_entries.extend(effects.audit_entries.into_iter().map(|entry| (entry.index, entry)));
        self.audit_segments
            .extend(effects.audit_segments.into_iter().map(|segment| (segment.number, segment)));
        self.timeline
            .extend(effects.timeline.into_iter().map(|entry| ((entry.job_id.clone(), entry.offset), entry)));
        self.refusals.extend(effects.refusals.into_iter().map(|refusal| (refusal.offset, refusal)));
        for id in effects.timers_cleared {
            self.timers.remove(&id);
        }
        self.timers.extend(effects.timers_set.into_iter().map(|timer| (timer.id, timer.due_at)));
        for letter in effects.dead_letters {
            self.dead_letters.entry(letter.record.offset).or_insert_with(|| KeptDeadLetter {
                outcome: None,
                attempts: 1,
                updated_at: letter.rejected_at,
                letter,
            });
        }
        for settled in effects.dead_letters_settled {
            self.settle(settled);
        }
        for id in effects.records_unparked {
            if self.parked_records.get(&id.offset).is_some_and(|parked| parked.key == id.key) {
                self.parked_records.remove(&id.offset);
            }
        }
        for settled in effects.trials_settled {
            self.trials.settle(settled);
        }
        for key in effects.keys_unparked {
            self.parked_keys.remove(&key);
        }
        for parked in effects.keys_parked {
            let kept = KeptParkedKey { parked, wish: ParkedWish::Wait };
            self.parked_keys.insert(kept.parked.key.clone(), kept);
        }
        for parked in effects.records_parked {
            self.parked_records.entry(parked.record.offset).or_insert(parked);
        }
    }

    /// Retires views, with so much of their timelines as goes at once.
    fn retire(&mut self, retired: Vec<RetiredView>) {
        let mut left = RETIRED_ENTRIES;
        for RetiredView { job_id, retirement } in retired {
            self.silent.insert(job_id.clone());
            if retirement == Retirement::Silent || left == 0 {
                continue;
            }
            let of_job = (job_id.clone(), Offset(0))..=(job_id.clone(), Offset(u64::MAX));
            let steps: Vec<_> =
                self.timeline.range(of_job).take(left).map(|(step, _)| step.clone()).collect();
            left -= steps.len();
            for step in steps {
                self.timeline.remove(&step);
            }
            if left > 0 {
                self.silent.remove(&job_id);
                self.states.remove(&StateKey::JobView(job_id));
            }
        }
    }

    /// Goes on behind records that are gone; no incarnation of before owns the lane any more.
    fn skip_to(&mut self, low: Offset) {
        self.epoch = self.epoch.following();
        self.next = Some(low);
        self.last_fingerprint = None;
        self.trials.forget_log();
    }

    /// Ends the generation and gives the tables of the next one. Epochs go on, so that nobody of before owns it.
    fn following_generation(&mut self) -> Self {
        self.epoch = self.epoch.following();
        Self {
            epoch: self.epoch,
            generation: self.generation.following(),
            desired: self.desired,
            held_because: self.held_because.take(),
            ..Self::default()
        }
    }

    /// Ends whatever incarnation owns the lane, and gives how far it has written.
    fn take_from_owner(&mut self) -> Offset {
        self.epoch = self.epoch.following();
        self.next.unwrap_or_default()
    }

    /// Tells whether an epoch owns the lane.
    fn is_owned_by(&self, epoch: Epoch) -> bool {
        self.epoch == epoch
    }

    fn settle(&mut self, settled: DeadLetterSettlement) {
        let Some(kept) = self.dead_letters.get_mut(&settled.offset) else { return };
        kept.updated_at = settled.settled_at;
        match settled.outcome {
            DeadLetterOutcome::RejectedAgain(rejection) => {
                kept.attempts += 1;
                kept.letter.rejection = rejection;
                kept.outcome = None;
            }
            outcome => kept.outcome = Some(outcome),
        }
    }
}

/// Checks that keys of rows to insert are new, among themselves too.
fn all_new<K: std::hash::Hash + Eq + std::fmt::Debug>(
    row: &str,
    keys: impl Iterator<Item = K>,
    is_stored: impl Fn(&K) -> bool,
) -> Result<(), String> {
    let mut seen = HashSet::new();
    for key in keys {
        if is_stored(&key) || seen.contains(&key) {
            return Err(format!("{row} `{key:?}` exists already"));
        }
        seen.insert(key);
    }
    Ok(())
}

/// Gives the id of the log that lives in a store in memory.
pub(super) fn memory_log() -> LogId {
    LogId::parse("simulated-log").expect("the text is a valid id")
}

/// Carries out one transaction of a lane: progress first, then the effects, then the outbox.
fn commit(state: &mut State, transaction: LaneTransaction) -> Result<(LaneCommitted, Ends), CommitError> {
    let LaneTransaction { lane, fence, from, next, last_fingerprint, now, mut effects } = transaction;
    let State { lanes, jobs, outbox, journal, .. } = state;
    let tables = lanes.get_mut(&lane).ok_or(CommitError::Fenced)?;
    if tables.fence() != fence || tables.next != from {
        return Err(CommitError::Fenced);
    }
    if from.is_some_and(|from| next < from) {
        let detail = format!("lane `{lane}` wanted to go back to {next}");
        return Err(StoreError::Broken(detail).into());
    }
    tables.check(&effects).map_err(|detail| StoreError::Broken(format!("lane `{lane}`: {detail}")))?;
    outbox.check(&effects.outbox)?;

    let rows = effects.row_count();
    let outgoing = std::mem::take(&mut effects.outbox);
    jobs.insert_orders(std::mem::take(&mut effects.orders));
    let moves = std::mem::take(&mut effects.moves);
    tables.write(effects);
    tables.revision = tables.revision.following();
    match tables.next == Some(next) {
        true => tables.trials.starts_aside = 0,
        false => tables.trials.starts_at_next = 0,
    }
    tables.next = Some(next);
    tables.last_fingerprint = last_fingerprint.or(tables.last_fingerprint);
    for record in &outgoing {
        outbox.append(record);
    }
    let committed =
        LaneCommitted { fence: tables.fence(), next_timer: tables.timers.values().min().copied() };
    for StateMove { from, key } in moves {
        let mut former = lane.clone();
        former.topic_partition.partition = from;
        if let Some(former) = lanes.get_mut(&former) {
            former.states.remove(&key);
        }
    }
    journal.push(CommittedTransaction { lane, fence, from, next, now, rows });
    Ok((committed, ends_after(&outgoing, outbox)))
}

/// Carries out a decision about a gap.
pub(super) fn accept_gap(state: &mut State, command: &Command, acceptance: &GapAcceptance) -> GapAccepted {
    let tables = state.lanes.get_mut(&acceptance.lane);
    let Some((tables, gap)) = tables.and_then(|tables| tables.gap.map(|gap| (tables, gap))) else {
        return GapAccepted::NoGap;
    };
    if !acceptance.is_about(&gap) || tables.next.is_some_and(|next| next != gap.next) {
        return GapAccepted::Changed(gap);
    }
    tables.gap = None;
    let number = state.decided_gaps.len() as u64 + 1;
    state.decided_gaps.push(StoredGap {
        lane: acceptance.lane.clone(),
        generation: tables.generation,
        gap,
        decision: Some(GapDecision {
            number,
            command_id: command.command_id,
            decided_by: command.principal.user_id.clone(),
            reason: command.reason.clone(),
            decided_at: command.requested_at,
        }),
    });
    match gap.kind.remedy() {
        GapRemedy::Skip => tables.skip_to(gap.low),
        GapRemedy::ReadAnew => {
            let next = tables.following_generation();
            let former = std::mem::replace(tables, next);
            state.former_lanes.push((acceptance.lane.clone(), former));
            let TopicPartition { topic, partition } = acceptance.lane.topic_partition;
            if let Some(layout) = state.layouts.get_mut(&topic) {
                layout.begin_anew(partition);
            }
        }
    }
    let generation = state.lanes.get(&acceptance.lane).map(|tables| tables.generation).unwrap_or_default();
    GapAccepted::Accepted { generation, resumes_at: gap.low }
}

/// Lets more partitions of a topic count.
pub(super) fn adopt_layout(state: &mut State, adoption: &LayoutAdoption) -> LayoutAdopted {
    let topic = adoption.topic;
    let layout = state.layouts.get(&topic).cloned().unwrap_or_else(|| Layout::first_of(topic));
    if layout.count() != adoption.epochs || layout.partitions() >= adoption.partitions {
        return LayoutAdopted::Changed(layout);
    }
    let mut read: HashMap<Partition, Offset> = HashMap::new();
    for (lane, tables) in state.lanes.iter_mut().filter(|(lane, _)| lane.topic_partition.topic == topic) {
        let next = tables.take_from_owner();
        let known = read.entry(lane.topic_partition.partition).or_default();
        *known = next.max(*known);
    }
    let read = |partition: Partition| read.get(&partition).copied().unwrap_or_default();
    let epoch = layout.following(adoption.partitions, &adoption.ends, read);
    let layout = layout.grown(epoch);
    state.layouts.insert(topic, layout.clone());
    LayoutAdopted::Adopted(layout)
}

impl LaneStore for MemoryStore {
    fn open_lane(&self, lane: LaneKey, process: ProcessId) -> Reply<LaneOpened, StoreError> {
        self.run_write(StoreCall::OpenLane, None, move |state| {
            let topic = lane.topic_partition.topic;
            let layout = state.layouts.entry(topic).or_insert_with(|| Layout::first_of(topic)).clone();
            let tables = state.lanes.entry(lane).or_default();
            let log_id = memory_log().of_generation(tables.generation);
            let log_id = log_id.map_err(|error| StoreError::Broken(error.to_string()))?;
            Ok((tables.open(process, log_id, layout), Vec::new()))
        })
    }

    fn write_trial(
        &self,
        lane: LaneKey,
        epoch: Epoch,
        subject: TrialSubject,
        phase: TrialPhase,
    ) -> Reply<bool, StoreError> {
        self.run_write(StoreCall::WriteTrial, None, move |state| {
            let tables = state.lanes.get_mut(&lane).filter(|tables| tables.is_owned_by(epoch));
            let is_owner = tables.map(|tables| tables.trials.write(subject, phase)).is_some();
            Ok((is_owner, Vec::new()))
        })
    }

    fn acquit(&self, process: ProcessId, seen: Option<Thought>) -> Reply<(), StoreError> {
        self.run_write(StoreCall::Acquit, None, move |state| {
            for (lane, tables) in &mut state.lanes {
                let seen = seen.as_ref().filter(|thought| thought.lane == *lane);
                tables.trials.acquit(process, seen.map(|thought| &thought.subject));
            }
            Ok(((), Vec::new()))
        })
    }

    fn end_lane(&self, lane: LaneKey, epoch: Epoch) -> Reply<(), StoreError> {
        self.run_write(StoreCall::EndLane, None, move |state| {
            if let Some(tables) = state.lanes.get_mut(&lane).filter(|tables| tables.is_owned_by(epoch)) {
                tables.trials.ended();
            }
            Ok(((), Vec::new()))
        })
    }

    fn note_gap(&self, lane: LaneKey, epoch: Epoch, gap: Option<FoundGap>) -> Reply<bool, StoreError> {
        self.run_write(StoreCall::NoteGap, None, move |state| {
            let tables = state.lanes.get_mut(&lane).filter(|tables| tables.is_owned_by(epoch));
            Ok((tables.map(|tables| tables.gap = gap).is_some(), Vec::new()))
        })
    }

    fn read_progress(&self, lane: LaneKey) -> Reply<Option<Progress>, StoreError> {
        self.run_write(StoreCall::ReadProgress, None, move |state| {
            Ok((state.lanes.get(&lane).map(LaneTables::progress), Vec::new()))
        })
    }

    fn read_orders(&self, lane: LaneKey) -> Reply<LaneOrders, StoreError> {
        self.run_read(StoreCall::ReadOrders, move |state| {
            let tables = state.lanes.get(&lane);
            Ok(LaneOrders {
                parked: tables.map(LaneTables::parked_states).unwrap_or_default(),
                desired: tables.map(|tables| tables.desired).unwrap_or_default(),
                held_because: tables.and_then(|tables| tables.held_because.clone()),
            })
        })
    }

    fn read_layouts(&self) -> Reply<Vec<Layout>, StoreError> {
        // No call of a script: whoever asks does so by the clock, and no test counts on it.
        match self.is_dead() {
            true => std::future::pending().boxed(),
            false => {
                let layouts = locked(&self.shared.state).layouts.values().cloned().collect();
                std::future::ready(Ok(layouts)).boxed()
            }
        }
    }

    fn read_positions(&self, group: Group, topic: Topic) -> Reply<Vec<LanePosition>, StoreError> {
        self.run_read(StoreCall::ReadOrders, move |state| {
            let lanes = state.lanes.iter();
            let of_topic =
                lanes.filter(|(lane, _)| lane.group == group && lane.topic_partition.topic == topic);
            let position = |(lane, tables): (&LaneKey, &LaneTables)| LanePosition {
                partition: lane.topic_partition.partition,
                next: tables.next,
                parked: tables.parked_keys.keys().cloned().collect(),
            };
            Ok(of_topic.map(position).collect())
        })
    }

    fn load(&self, lane: LaneKey, keys: Vec<StateKey>) -> Reply<Vec<(StateKey, StateValue)>, StoreError> {
        self.run_read(StoreCall::Load, move |state| {
            let tables = state.lanes.get(&lane);
            let find = |key: &StateKey| match key {
                StateKey::LifecycleOwner(job_id, sequence) => state
                    .jobs
                    .lifecycle_owner(job_id, *sequence)
                    .map(|event_id| StateValue::LifecycleOwner(LifecycleOwner { event_id })),
                StateKey::JobHome(job_id) => {
                    state.jobs.rows.get(job_id).map(|row| StateValue::JobHome(row.home))
                }
                _ => tables.and_then(|tables| tables.states.get(key)).cloned(),
            };
            Ok(keys.into_iter().filter_map(|key| find(&key).map(|value| (key, value))).collect())
        })
    }

    fn load_due_timers(
        &self,
        lane: LaneKey,
        until: Timestamp,
        limit: usize,
    ) -> Reply<Vec<Timer>, StoreError> {
        self.run_read(StoreCall::LoadDueTimers, move |state| {
            let mut due = state.lanes.get(&lane).map(LaneTables::all_timers).unwrap_or_default();
            due.retain(|timer| timer.due_at <= until);
            due.sort_by_key(|timer| timer.due_at);
            due.truncate(limit);
            Ok(due)
        })
    }

    fn load_parked(&self, key: ParkedKeyId, limit: usize) -> Reply<Vec<ParkedRecord>, StoreError> {
        self.run_read(StoreCall::LoadParked, move |state| {
            let tables = state.lanes.get(&key.lane);
            Ok(tables.map(|tables| tables.parked_behind(&key.key, limit)).unwrap_or_default())
        })
    }

    fn commit(&self, transaction: LaneTransaction) -> Reply<LaneCommitted, CommitError> {
        let faults = self.faults().clone();
        let lane = transaction.lane.clone();
        self.run_write(StoreCall::Commit, Some(&lane), move |state| {
            faults.check_records(&transaction)?;
            commit(state, transaction)
        })
    }
}
