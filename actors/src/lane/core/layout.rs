//! How a lane goes from one layout of its topic to the next, so that a job's order holds across the change.
//!
//! Promises that no record is applied under a newer layout before every lane of the group and topic has passed the place
//! where the older one ends, in whatever process it lives, and before no key that comes to this lane waits parked in
//! another one; that a job's rows come along; and that a job of our own stays in the partition that its row says.
//!
//! A lane that cannot go on shows why and looks again; wishes and timers go on meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::effect::{Effects, StateMove};
use crate::event::partition_among;
use crate::ids::{JobId, LaneKey, Offset, Partition, Topic, TopicPartition};
use crate::lane::core::LaneCore;
use crate::lane::message::LaneExit;
use crate::layout::Place;
use crate::ports::store::LanePosition;
use crate::record::{LogRecord, RecordBatch};
use crate::rejection::Rejection;
use crate::state::{StateKey, StateValue};

/// What a lane knows about the layout's newer epochs.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// The newest epoch that this incarnation has entered.
    entered: usize,
    /// The homes of owned jobs in the batch at hand, where the layout alone does not tell.
    homes: HashMap<Bytes, Partition>,
    /// Rows in memory that another lane still has.
    moved: HashMap<StateKey, Partition>,
    /// Whether it was told why the lane waits.
    has_told: bool,
}

impl LaneCore {
    const fn partition(&self) -> Partition {
        self.lane.topic_partition.partition
    }

    /// Tells whether the layout has more than one epoch; while not, all of this costs nothing.
    const fn is_grown(&self) -> bool {
        self.layout.count() > 1
    }

    /// Tells whether a record stands in another partition than its key's home. What it holds is not looked at.
    pub(super) fn wrong_partition(&self, record: &LogRecord) -> Option<Rejection> {
        let key = record.key.as_ref();
        if let Some(home) = key.and_then(|key| self.passage.homes.get(key)).copied() {
            return (home != self.partition()).then_some(Rejection::WrongPartition { home });
        }
        match self.layout.place(key.map(Bytes::as_ref), self.partition(), record.offset) {
            Place::Home => None,
            Place::Elsewhere { home } => Some(Rejection::WrongPartition { home }),
        }
    }

    /// Asks where owned jobs of a batch are at home: their rows say so, whatever the layout says.
    pub(in crate::lane) async fn learn_homes(&mut self, batch: &RecordBatch) -> Result<(), LaneExit> {
        let topic = self.lane.topic_partition.topic;
        if !self.is_grown() || !matches!(topic, Topic::JobLifecycle | Topic::JobMetrics) {
            return Ok(());
        }
        let keys = batch.records.iter().filter_map(|record| record.key.clone()).collect();
        self.passage.homes = self.homes_of(keys).await?;
        Ok(())
    }

    async fn homes_of(&self, keys: HashSet<Bytes>) -> Result<HashMap<Bytes, Partition>, LaneExit> {
        let job = |key: &Bytes| std::str::from_utf8(key).ok().and_then(|text| JobId::parse(text).ok());
        let mut wanted: Vec<StateKey> = keys.iter().filter_map(job).map(StateKey::JobHome).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        wanted.sort_unstable();
        let found = self.retry(|| self.env.store.load(self.lane.clone(), wanted.clone())).await?;
        let topic = self.lane.topic_partition.topic;
        let home = |(key, value): (StateKey, StateValue)| match (key, value) {
            (StateKey::JobHome(job_id), StateValue::JobHome(home)) => {
                Some((Bytes::copy_from_slice(job_id.as_str().as_bytes()), home.of(topic)?))
            }
            _ => None,
        };
        Ok(found.into_iter().filter_map(home).collect())
    }

    /// Splits what lies behind the next boundary of the partition off a batch; gives it and where it begins.
    pub(super) fn behind_boundary(&self, batch: &mut RecordBatch) -> Option<(Offset, Vec<LogRecord>)> {
        let first = batch.records.first()?.offset;
        let boundary = self.layout.boundary_after(self.partition(), first)?;
        let index = batch.records.partition_point(|record| record.offset < boundary);
        Some((boundary, batch.records.split_off(index))).filter(|(_, behind)| !behind.is_empty())
    }

    /// Tells whether a record at an offset may be looked at; shows why, where not.
    pub(in crate::lane) async fn may_go_on(&mut self, at: Offset) -> Result<bool, LaneExit> {
        if !self.layout.has(self.partition()) {
            let topic = self.lane.topic_partition.topic;
            self.wait_at(&format!(
                "partition {} was added to `{topic}`, whose layout has {}: `horizons topics adopt-layout {topic}`",
                self.partition(),
                self.layout.partitions()
            ));
            return Ok(false);
        }
        let number = self.layout.number_at(self.partition(), at);
        if number <= self.passage.entered {
            return Ok(true);
        }
        self.note_passage(at).await?;
        match self.obstacle(number).await? {
            Some(obstacle) => {
                self.wait_at(&obstacle);
                Ok(false)
            }
            None => {
                // What this lane had of jobs that went elsewhere, or that come back, may be old.
                self.rows.forget();
                self.passage.moved.clear();
                self.passage.entered = number;
                self.passage.has_told = false;
                self.status.set_state(self.idle_state());
                tracing::info!(lane = %self.lane, offset = %at, epoch = number, "lane goes on under another layout");
                Ok(true)
            }
        }
    }

    fn wait_at(&mut self, reason: &str) {
        self.status.waiting(&reason);
        if !std::mem::replace(&mut self.passage.has_told, true) {
            tracing::warn!(lane = %self.lane, offset = %self.position, reason, "lane waits at a change of the layout");
        }
    }

    /// Looks for what an epoch must wait for: a lane that has not passed its end of the one before, or a key that comes
    /// here and is parked elsewhere.
    async fn obstacle(&self, number: usize) -> Result<Option<String>, LaneExit> {
        let (Some(epoch), Some(before)) =
            (self.layout.epoch(number), number.checked_sub(1).and_then(|before| self.layout.epoch(before)))
        else {
            return Ok(None);
        };
        let TopicPartition { topic, partition: here } = self.lane.topic_partition;
        let group = &self.lane.group;
        let positions = self.retry(|| self.env.store.read_positions(group.clone(), topic)).await?;
        let by_partition: BTreeMap<Partition, &LanePosition> =
            positions.iter().map(|position| (position.partition, position)).collect();
        let mut coming: HashMap<Bytes, Partition> = HashMap::new();
        for former in (0..before.partitions).map(Partition).filter(|former| *former != here) {
            let until = epoch.starts_at(former);
            let position = by_partition.get(&former);
            let next = position.and_then(|position| position.next).unwrap_or_default();
            if next < until {
                return Ok(Some(format!(
                    "lane {group}/{topic}-{former} is at {next} and must pass {until} first"
                )));
            }
            let parked = position.iter().flat_map(|position| &position.parked);
            let comes_here = parked.filter(|key| partition_among(epoch.partitions, key) == here);
            coming.extend(comes_here.map(|key| (key.clone(), former)));
        }
        let owned = self.homes_of(coming.keys().cloned().collect()).await?;
        coming.retain(|key, _| !owned.contains_key(key));
        Ok(coming.values().min().map(|former| {
            let keys = coming.len();
            format!("{keys} keys of this partition are parked in lane {group}/{topic}-{former}: release or discard them")
        }))
    }

    /// Stores that this lane has passed the end of a layout where no record did so: others wait to see it. Nothing is left
    /// below `reached` that is not answered.
    pub(in crate::lane) async fn note_passage(&mut self, reached: Offset) -> Result<(), LaneExit> {
        if !self.is_grown() {
            return Ok(());
        }
        let number = self.layout.number_at(self.partition(), reached);
        let boundary = self.layout.epoch(number).map(|epoch| epoch.starts_at(self.partition()));
        let Some(boundary) = boundary.filter(|_| number > 0) else { return Ok(()) };
        if self.stored_next.unwrap_or_default() < boundary {
            let next = boundary.max(self.position);
            self.write(next, "store a position", Effects::default).await?;
        }
        Ok(())
    }

    /// Loads rows that a lane of an older epoch has, of jobs that are at home here now.
    pub(super) async fn load_former(&mut self, mut missing: Vec<StateKey>) -> Result<(), LaneExit> {
        for number in (0..self.passage.entered).rev() {
            let Some(partitions) = self.layout.epoch(number).map(|epoch| epoch.partitions) else { continue };
            let mut by_partition: BTreeMap<Partition, Vec<StateKey>> = BTreeMap::new();
            for key in &missing {
                let Some(job) = key.moving_with().map(|job_id| job_id.as_str().as_bytes()) else { continue };
                let former = partition_among(partitions, job);
                if former != self.partition() && !self.passage.homes.contains_key(job) {
                    by_partition.entry(former).or_default().push(key.clone());
                }
            }
            for (partition, keys) in by_partition {
                let topic = self.lane.topic_partition.topic;
                let group = self.lane.group.clone();
                let former = LaneKey { group, topic_partition: TopicPartition { topic, partition } };
                let rows = self.retry(|| self.env.store.load(former.clone(), keys.clone())).await?;
                for (key, value) in rows {
                    missing.retain(|one| *one != key);
                    self.passage.moved.insert(key.clone(), partition);
                    self.rows.keep([(key, value)]);
                }
            }
        }
        Ok(())
    }

    /// Tells whether rows may be found in lanes of older epochs.
    pub(super) const fn has_former(&self) -> bool {
        self.passage.entered > 0
    }

    /// Gives the rows of a transaction that come from other lanes.
    pub(super) fn moves_of(&self, states: &[(StateKey, StateValue)]) -> Vec<StateMove> {
        let moved = states.iter().filter_map(|(key, _)| Some((key, *self.passage.moved.get(key)?)));
        moved.map(|(key, from)| StateMove { from, key: key.clone() }).collect()
    }

    /// Takes over that rows were moved.
    pub(super) fn moved(&mut self, states: &[(StateKey, StateValue)]) {
        for (key, _) in states {
            self.passage.moved.remove(key);
        }
    }
}
