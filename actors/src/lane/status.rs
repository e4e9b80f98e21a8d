//! How lanes and groups are, for whoever looks from another thread: operators, metrics, the watchdog.
//!
//! Promises that looking never waits for a busy lane: a lane writes a few words under a short lock after
//! each step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::clock::{Moment, Now, Timestamp};
use crate::effect::Outcome;
use crate::heartbeat;
use crate::ids::{Group, Incarnation, LaneKey, Offset, Topic, TopicPartition};
use crate::lane::lag::Lag;
use crate::lane::pace::{Pace, Sum};
use crate::layout::Layout;
use crate::ports::log::LogEnds;
use crate::record::RecordBatch;
use crate::snapshot::{ActorState, GroupSnapshot, LaneSnapshot, TreeSnapshot};

/// What a lane tells about itself.
#[derive(Debug)]
struct LaneFacts {
    state: ActorState,
    incarnation: Incarnation,
    restarts: u64,
    last_error: Option<String>,
    lag: Lag,
    /// The offset that the next record of the partition would get, as last heard.
    high: Offset,
    /// Where the first open transaction holds readers back, and since when.
    held_at: Option<(Offset, Moment)>,
    pace: Pace,
    queued_batches: u64,
    parked_keys: u64,
    parked_records: u64,
    outcomes: [u64; Outcome::ALL.len()],
    last_commit_at: Option<Timestamp>,
}

/// One lane's entry on the board; it outlives the lane's incarnations.
#[derive(Debug)]
pub struct LaneStatus {
    facts: Mutex<LaneFacts>,
    /// When the lane's thread went into the behaviour, in microseconds of a monotonic clock; 0 while it is
    /// not inside.
    busy_since: AtomicI64,
    /// Set when operators changed something that the lane must read again; never lost, whatever happens to
    /// messages.
    is_nudged: AtomicBool,
    /// How many epochs the layout had when the lane was opened.
    layout_epochs: AtomicU64,
}

impl Default for LaneStatus {
    fn default() -> Self {
        Self {
            facts: Mutex::new(LaneFacts {
                state: ActorState::Opening,
                incarnation: Incarnation::default(),
                restarts: 0,
                last_error: None,
                lag: Lag::default(),
                high: Offset::default(),
                held_at: None,
                pace: Pace::default(),
                queued_batches: 0,
                parked_keys: 0,
                parked_records: 0,
                outcomes: [0; Outcome::ALL.len()],
                last_commit_at: None,
            }),
            busy_since: AtomicI64::new(0),
            is_nudged: AtomicBool::new(false),
            layout_epochs: AtomicU64::new(0),
        }
    }
}

impl LaneStatus {
    fn facts(&self) -> MutexGuard<'_, LaneFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a new incarnation.
    pub fn opening(&self, incarnation: Incarnation) {
        let mut facts = self.facts();
        facts.state = ActorState::Opening;
        facts.incarnation = incarnation;
        facts.queued_batches = 0;
        facts.pace.opening();
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Notes how the lane is.
    pub fn set_state(&self, state: ActorState) {
        self.facts().state = state;
    }

    /// Gives how the lane is.
    pub fn state(&self) -> ActorState {
        self.facts().state
    }

    /// Notes that the lane waits, and why.
    pub fn waiting(&self, error: &dyn std::fmt::Display) {
        let mut facts = self.facts();
        facts.state = ActorState::Waiting;
        facts.last_error = Some(error.to_string());
    }

    /// Notes that the lane is held, and why.
    pub fn held(&self, reason: &str) {
        let mut facts = self.facts();
        facts.state = ActorState::Paused;
        facts.last_error = Some(reason.to_owned());
    }

    /// Notes how the lane ended.
    pub fn ended(&self, state: ActorState, error: Option<String>) {
        let mut facts = self.facts();
        facts.state = state;
        facts.queued_batches = 0;
        if state == ActorState::Restarting {
            facts.restarts += 1;
        }
        if error.is_some() {
            facts.last_error = error;
        }
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Notes where a new incarnation found its position and the end of its partition.
    pub fn placed(&self, next: Offset, log_end: Offset, now: Moment) {
        let mut facts = self.facts();
        facts.lag.placed(next, log_end, now);
        facts.high = log_end;
        facts.held_at = facts.held_at.filter(|(end, _)| *end == log_end);
    }

    /// Notes a batch that came to the lane and waits to be applied.
    pub fn delivered(&self, batch: &RecordBatch, now: Moment) {
        let mut facts = self.facts();
        facts.lag.delivered(batch.records.iter().map(|record| (record.offset, record.timestamp)));
        // What lies below the position only fills the duplicate window.
        let next = facts.lag.next();
        let fresh = batch.records.len() - batch.records.partition_point(|record| record.offset < next);
        facts.pace.arrived(batch.next, fresh, now);
    }

    /// Notes how far the lane is, and where the partition ended when a batch was read.
    pub fn progressed(&self, next: Offset, log_end: Offset, now: Moment) {
        let mut facts = self.facts();
        facts.lag.applied(next);
        facts.lag.ends_at(log_end, now);
    }

    /// Notes how many batches wait for the lane.
    pub fn queued(&self, batches: usize) {
        self.facts().queued_batches = batches as u64;
    }

    /// Notes where the partition ends, heard while the lane itself need not be reading.
    pub fn log_ends_at(&self, ends: LogEnds, now: Moment) {
        let LogEnds { stable, high } = ends;
        let mut facts = self.facts();
        facts.lag.ends_at(stable, now);
        facts.high = high;
        let known = facts.held_at.filter(|(end, _)| *end == stable);
        facts.held_at = (high > stable).then(|| known.unwrap_or((stable, now)));
    }

    /// Gives the next record that the lane will apply.
    pub fn next(&self) -> Offset {
        self.facts().lag.next()
    }

    /// Notes a commit that moved the lane to a position.
    pub fn committed(
        &self,
        at: Now,
        next: Offset,
        outcomes: &[Outcome],
        parked_keys: usize,
        parked_records: u64,
    ) {
        let mut facts = self.facts();
        facts.state = ActorState::Running;
        // Draining and timers leave the position where it is.
        if next > facts.lag.next() {
            facts.pace.answered(next, outcomes, at.moment);
        }
        facts.lag.applied(next);
        facts.last_commit_at = Some(at.wall);
        facts.parked_keys = parked_keys as u64;
        facts.parked_records = parked_records;
        for outcome in outcomes {
            if let Some(count) = facts.outcomes.get_mut(*outcome as usize) {
                *count += 1;
            }
        }
    }

    /// Notes what is parked.
    pub fn parked(&self, keys: usize, records: u64) {
        let mut facts = self.facts();
        facts.parked_keys = keys as u64;
        facts.parked_records = records;
    }

    /// Asks the lane to read again what operators want of it.
    pub fn nudge(&self) {
        self.is_nudged.store(true, Ordering::Release);
    }

    /// Notes how many epochs the layout has that the lane works under.
    pub fn under_layout(&self, epochs: usize) {
        self.layout_epochs.store(epochs as u64, Ordering::Relaxed);
    }

    /// Tells whether the lane was opened under a layout with fewer epochs than this; not before it is open.
    pub fn is_under_older_layout(&self, epochs: usize) -> bool {
        let known = self.layout_epochs.load(Ordering::Relaxed);
        known > 0 && known < epochs as u64
    }

    /// Takes the wish to read again.
    pub fn take_nudge(&self) -> bool {
        self.is_nudged.swap(false, Ordering::AcqRel)
    }

    /// Gives a snapshot.
    pub fn snapshot(&self, lane: &LaneKey, now: Now) -> LaneSnapshot {
        self.snapshot_and_sum(lane, now).0
    }

    /// Gives a snapshot, and what it answered of late so that it can be added up.
    fn snapshot_and_sum(&self, lane: &LaneKey, now: Now) -> (LaneSnapshot, Sum) {
        let mut facts = self.facts();
        let sum = facts.pace.sum(now.moment);
        let count = |outcome: Outcome| facts.outcomes.get(outcome as usize).copied().unwrap_or(0);
        let snapshot = LaneSnapshot {
            topic_partition: lane.topic_partition,
            state: facts.state,
            incarnation: facts.incarnation.0,
            restarts: facts.restarts,
            last_error: facts.last_error.clone(),
            next_offset: facts.lag.next().0,
            log_end_offset: facts.lag.log_end().0,
            log_high_offset: facts.high.max(facts.lag.log_end()).0,
            lag_records: facts.lag.records() + facts.parked_records,
            lag_seconds: whole_millis(facts.lag.time(now)),
            transaction_open_seconds: facts
                .held_at
                .map_or(0.0, |(_, since)| whole_millis(now.moment.since(since))),
            recent: sum.figures(),
            queued_batches: facts.queued_batches,
            parked_keys: facts.parked_keys,
            parked_records: facts.parked_records,
            applied_total: count(Outcome::Applied),
            duplicate_total: count(Outcome::Duplicate),
            refused_total: count(Outcome::Refused),
            parked_total: count(Outcome::Parked),
            waiting_total: count(Outcome::Waiting),
            dead_lettered_total: count(Outcome::DeadLettered),
            last_commit_at: facts.last_commit_at,
        };
        (snapshot, sum)
    }
}

/// Gives a duration in seconds, cut to milliseconds: finer figures would only be noise.
fn whole_millis(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1_000.0
}

/// Marks the time that a lane's thread spends inside code that cannot be interrupted.
#[derive(Debug)]
pub struct Busy<'a>(&'a LaneStatus);

impl LaneStatus {
    /// Starts such a time; dropping the mark ends it, a panic included.
    pub fn enter(&self, monotonic_micros: i64) -> Busy<'_> {
        self.busy_since.store(monotonic_micros.max(1), Ordering::Relaxed);
        Busy(self)
    }

    /// Gives since when the lane's thread has been inside, in microseconds of the monotonic clock.
    pub fn busy_since(&self) -> Option<i64> {
        Some(self.busy_since.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Ordering::Relaxed);
    }
}

/// What a group's dispatcher tells about itself.
#[derive(Debug, Clone)]
struct GroupFacts {
    state: ActorState,
    restarts: u64,
    rebalances: u64,
    last_error: Option<String>,
}

impl GroupFacts {
    const fn new(state: ActorState) -> Self {
        Self { state, restarts: 0, rebalances: 0, last_error: None }
    }
}

/// Every group and lane of the process.
#[derive(Debug, Default)]
pub struct StatusBoard {
    groups: Mutex<BTreeMap<Group, GroupFacts>>,
    lanes: Mutex<BTreeMap<LaneKey, Arc<LaneStatus>>>,
    /// Raised whenever a lane comes or goes.
    lanes_revision: AtomicU64,
    job_supervisors: OnceLock<CountSupervisors>,
    /// The layouts of topics, as last heard of.
    layouts: Mutex<BTreeMap<Topic, Layout>>,
    /// How many partitions topics have in the log, where somebody looked.
    partitions: Mutex<BTreeMap<Topic, u16>>,
}

/// Counts the live job supervisors, without asking any actor.
struct CountSupervisors(Box<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for CountSupervisors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CountSupervisors")
    }
}

impl StatusBoard {
    /// Gives a lane's entry, making it on first use.
    pub fn lane(&self, lane: &LaneKey) -> Arc<LaneStatus> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let status = lanes.entry(lane.clone()).or_insert_with(|| {
            self.lanes_revision.fetch_add(1, Ordering::AcqRel);
            Arc::default()
        });
        Arc::clone(status)
    }

    /// Finds a lane's entry.
    pub fn find_lane(&self, lane: &LaneKey) -> Option<Arc<LaneStatus>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).get(lane).cloned()
    }

    /// Removes a lane that belongs to another process now, with all its series.
    pub fn remove_lane(&self, lane: &LaneKey) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(lane);
        self.lanes_revision.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes a group's lanes but those of some partitions.
    pub fn retain_lanes(&self, group: &Group, partitions: &[TopicPartition]) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane, _| lane.group != *group || partitions.contains(&lane.topic_partition));
        self.lanes_revision.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives a number that changes whenever a lane comes or goes.
    pub fn lanes_revision(&self) -> u64 {
        self.lanes_revision.load(Ordering::Acquire)
    }

    /// Notes a topic's layout; an older one than is known is left.
    pub fn learn_layout(&self, layout: Layout) {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_newer = layouts.get(&layout.topic()).is_none_or(|known| known.count() <= layout.count());
        if is_newer {
            layouts.insert(layout.topic(), layout);
        }
    }

    /// Notes how many partitions a topic has in the log.
    pub fn note_partitions(&self, topic: Topic, found: u16) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(topic, found);
    }

    /// Lists the topics that have another number of partitions than their layout counts: what there is, and what counts.
    pub fn topics_apart(&self) -> Vec<(Topic, u16, u16)> {
        let found = self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let counted = found.into_iter().map(|(topic, found)| (topic, found, self.layout(topic).partitions()));
        counted.filter(|(_, found, counted)| found != counted).collect()
    }

    /// Gives a topic's layout as last heard of: what it begins with, before anything was.
    pub fn layout(&self, topic: Topic) -> Layout {
        let layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        layouts.get(&topic).cloned().unwrap_or_else(|| Layout::first_of(topic))
    }

    /// Lists the lanes.
    pub fn lanes(&self) -> Vec<(LaneKey, Arc<LaneStatus>)> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|(lane, status)| (lane.clone(), Arc::clone(status))).collect()
    }

    /// Notes how a group's dispatcher is.
    pub fn set_group(&self, group: &Group, state: ActorState, error: Option<String>) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = groups.entry(group.clone()).or_insert_with(|| GroupFacts::new(state));
        facts.state = state;
        if state == ActorState::Restarting {
            facts.restarts += 1;
        }
        if error.is_some() {
            facts.last_error = error;
        }
    }

    /// Lists the groups that wait for their log, with why.
    pub fn groups_waiting(&self) -> Vec<(Group, String)> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = groups.iter().filter(|(_, facts)| facts.state == ActorState::Waiting);
        waiting.map(|(group, facts)| (group.clone(), facts.last_error.clone().unwrap_or_default())).collect()
    }

    /// Counts a change of what the log assigned to a group.
    pub fn count_rebalance(&self, group: &Group) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = groups.entry(group.clone()).or_insert_with(|| GroupFacts::new(ActorState::Opening));
        facts.rebalances += 1;
    }

    /// Sets, once, how live job supervisors are counted.
    pub fn count_job_supervisors_with(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        // A second registry in one process would be a mistake of the caller; the first one counts.
        let _first_counts = self.job_supervisors.set(CountSupervisors(Box::new(count)));
    }

    /// Gives a snapshot of everything.
    pub fn snapshot(&self, now: Now) -> TreeSnapshot {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lanes = self.lanes();
        let groups = groups
            .into_iter()
            .map(|(group, facts)| {
                let mut all = Sum::default();
                let of_group = lanes.iter().filter(|(lane, _)| lane.group == group);
                let snapshots = of_group.map(|(lane, status)| {
                    let (snapshot, sum) = status.snapshot_and_sum(lane, now);
                    all.add(&sum);
                    snapshot
                });
                GroupSnapshot {
                    lanes: snapshots.collect(),
                    recent: all.figures(),
                    group: group.as_str().to_owned(),
                    state: facts.state,
                    restarts: facts.restarts,
                    rebalances: facts.rebalances,
                    last_error: facts.last_error,
                }
            })
            .collect();
        TreeSnapshot {
            taken_at: now.wall,
            groups,
            job_supervisors: self.job_supervisors.get().map_or(0, |count| (count.0)()),
            threads: heartbeat::threads(),
        }
    }
}
