//! The partitions that a group's reader holds: who asks for them, from where, and what waits. Pure.
//!
//! Promises that a partition is fetched only from where the newest incarnation of its lane asked, or from
//! behind what was taken since; that a record is taken only while what the client fetches is what is wanted;
//! that a partition is paused only after it has held still for the whole limit, and fetched again only after that;
//! and that nothing behind a hole is fetched until it is stepped over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use horizons_actors::ids::{Incarnation, Offset, TopicPartition};
use horizons_actors::record::LogRecord;

use super::batch::{Cut, OpenBatch};
use super::config::BatchLimits;
use super::shared::Hole;

/// Where a lane reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    incarnation: Incarnation,
    /// Behind the last record that was handed on.
    position: Offset,
}

/// One partition.
#[derive(Debug, Default)]
struct Holding {
    /// None while no lane asks.
    cursor: Option<Cursor>,
    /// Taken from the client, not handed on yet.
    open: OpenBatch,
    /// Numbers what is wanted of the client: every start and every end of a pause is a new fetch.
    wanted_fetch: u64,
    /// What the client does.
    fetch: Option<u64>,
    /// Since when what waits could not be handed on.
    held_since: Option<Instant>,
    is_paused: bool,
    /// Up to where nothing more comes, above the position.
    passed: Option<Offset>,
    /// The hole before which it stands.
    hole: Option<Hole>,
}

impl Holding {
    fn wanted(&self) -> Option<u64> {
        let is_wanted = self.cursor.is_some() && !self.is_paused && self.hole.is_none();
        is_wanted.then_some(self.wanted_fetch)
    }

    fn read_position(&self) -> Option<Offset> {
        let cursor = self.cursor?;
        let position = self.open.end().unwrap_or(cursor.position);
        Some(self.passed.map_or(position, |passed| passed.max(position)))
    }

    /// Tells whether what the client fetches is what is wanted.
    fn is_current(&self) -> bool {
        self.fetch.is_some() && self.fetch == self.wanted()
    }
}

/// What the client must be told so that it fetches what is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// No longer fetched, or not from there.
    pub(super) leave: Vec<TopicPartition>,
    /// Fetched from an offset on.
    pub(super) enter: Vec<(TopicPartition, Offset)>,
}

impl Plan {
    /// Tells whether all is as wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.leave.is_empty() && self.enter.is_empty()
    }
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It waits for its batch.
    Kept,
    /// It waits, and the batch is full.
    Full,
    /// Nobody wants it: it belongs to an earlier fetch.
    Dropped,
}

/// Records on their way to a lane.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) incarnation: Incarnation,
    pub(super) from: Offset,
    pub(super) next: Offset,
    pub(super) cut: Cut,
}

/// All partitions of a reader.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    partitions: BTreeMap<TopicPartition, Holding>,
}

impl Holdings {
    /// Takes partitions in; they are not fetched until a lane asks.
    pub(super) fn assigned(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.partitions.insert(*partition, Holding::default());
        }
    }

    /// Forgets partitions with all that waits.
    pub(super) fn gone(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    /// Notes that a lane asks; an older incarnation than the one that asked last is not heard.
    pub(super) fn start(&mut self, partition: TopicPartition, incarnation: Incarnation, from: Offset) {
        let Some(holding) = self.partitions.get_mut(&partition) else { return };
        if holding.cursor.is_some_and(|cursor| cursor.incarnation > incarnation) {
            return;
        }
        holding.cursor = Some(Cursor { incarnation, position: from });
        holding.open.clear();
        holding.wanted_fetch += 1;
        holding.held_since = None;
        holding.is_paused = false;
        holding.passed = None;
        holding.hole = None;
    }

    /// Notes that a lane no longer asks.
    pub(super) fn stop(&mut self, partition: TopicPartition, incarnation: Incarnation) {
        let Some(holding) = self.partitions.get_mut(&partition) else { return };
        if holding.cursor.is_some_and(|cursor| cursor.incarnation <= incarnation) {
            holding.cursor = None;
            holding.open.clear();
            holding.held_since = None;
            holding.is_paused = false;
            holding.passed = None;
            holding.hole = None;
        }
    }

    /// Gives what the client must be told.
    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for (partition, holding) in &self.partitions {
            let wanted = holding.wanted();
            if holding.fetch == wanted {
                continue;
            }
            if holding.fetch.is_some() {
                plan.leave.push(*partition);
            }
            if let (Some(_), Some(position)) = (wanted, holding.read_position()) {
                plan.enter.push((*partition, position));
            }
        }
        plan
    }

    /// Notes that the client was told so.
    pub(super) fn applied(&mut self, plan: &Plan) {
        for partition in &plan.leave {
            if let Some(holding) = self.partitions.get_mut(partition) {
                holding.fetch = None;
            }
        }
        for (partition, _) in &plan.enter {
            if let Some(holding) = self.partitions.get_mut(partition) {
                holding.fetch = holding.wanted();
            }
        }
    }

    /// Tells whether a record with this offset is still wanted.
    pub(super) fn wants(&self, partition: TopicPartition, offset: Offset) -> bool {
        self.partitions.get(&partition).is_some_and(|holding| {
            holding.is_current() && holding.read_position().is_some_and(|position| offset >= position)
        })
    }

    /// Takes a record, if it is wanted.
    pub(super) fn take(
        &mut self,
        partition: TopicPartition,
        record: LogRecord,
        limits: BatchLimits,
    ) -> Taken {
        if !self.wants(partition, record.offset) {
            return Taken::Dropped;
        }
        let Some(holding) = self.partitions.get_mut(&partition) else { return Taken::Dropped };
        holding.open.push(record);
        if holding.open.is_full(limits) { Taken::Full } else { Taken::Kept }
    }

    /// Lists the partitions with records that wait.
    pub(super) fn waiting(&self) -> Vec<TopicPartition> {
        let waiting = self.partitions.iter().filter(|(_, holding)| !holding.open.is_empty());
        waiting.map(|(partition, _)| *partition).collect()
    }

    /// Tells whether records of a partition wait.
    pub(super) fn is_waiting(&self, partition: TopicPartition) -> bool {
        self.partitions.get(&partition).is_some_and(|holding| !holding.open.is_empty())
    }

    /// Cuts a batch off what waits, and moves the position behind it.
    pub(super) fn deliver(&mut self, partition: TopicPartition, limits: BatchLimits) -> Option<Delivery> {
        let holding = self.partitions.get_mut(&partition)?;
        let cursor = holding.cursor.as_mut()?;
        let cut = holding.open.cut(limits)?;
        let next = cut.records.last()?.offset.following();
        let from = std::mem::replace(&mut cursor.position, next);
        Some(Delivery { incarnation: cursor.incarnation, from, next, cut })
    }

    /// Gives a delivery without records where nothing comes up to beyond the position, and nothing waits.
    pub(super) fn deliver_passed(&mut self, partition: TopicPartition) -> Option<Delivery> {
        let holding = self.partitions.get_mut(&partition)?;
        if !holding.open.is_empty() {
            return None;
        }
        let (cursor, next) = (holding.cursor.as_mut()?, holding.passed.take()?);
        if next <= cursor.position {
            return None;
        }
        let from = std::mem::replace(&mut cursor.position, next);
        let cut = Cut { records: Vec::new(), bytes: 0 };
        Some(Delivery { incarnation: cursor.incarnation, from, next, cut })
    }

    /// Lists the partitions of which a position without records waits.
    pub(super) fn passing(&self) -> Vec<TopicPartition> {
        let passing =
            self.partitions.iter().filter(|(_, holding)| holding.passed.is_some() && holding.open.is_empty());
        passing.map(|(partition, _)| *partition).collect()
    }

    /// Lists the partitions that are fetched and of which nothing waits, with the position that is read next.
    pub(super) fn idle(&self) -> Vec<(TopicPartition, Offset)> {
        let idle = |(partition, holding): (&TopicPartition, &Holding)| {
            let is_idle = holding.is_current() && holding.open.is_empty();
            is_idle.then(|| holding.read_position()).flatten().map(|position| (*partition, position))
        };
        self.partitions.iter().filter_map(idle).collect()
    }

    /// Lists the partitions that lanes ask for and that stand before no hole, with the position that is read next.
    pub(super) fn reading(&self) -> Vec<(TopicPartition, Offset)> {
        let reading = |(partition, holding): (&TopicPartition, &Holding)| {
            let position = holding.read_position().filter(|_| holding.hole.is_none());
            position.map(|position| (*partition, position))
        };
        self.partitions.iter().filter_map(reading).collect()
    }

    /// Notes that nothing comes from a position up to another one, if it is still the one that is read next.
    pub(super) fn pass(&mut self, partition: TopicPartition, from: Offset, next: Offset) {
        let Some(holding) = self.partitions.get_mut(&partition) else { return };
        if holding.read_position() == Some(from) && next > from && holding.open.is_empty() {
            holding.passed = Some(next);
        }
    }

    /// Has a partition fetched anew from where it is read next; what was read ahead is thrown away.
    pub(super) fn fetch_anew(&mut self, partition: TopicPartition) {
        if let Some(holding) = self.partitions.get_mut(&partition) {
            holding.wanted_fetch += 1;
        }
    }

    /// Has everything fetched anew.
    pub(super) fn fetch_all_anew(&mut self) {
        for holding in self.partitions.values_mut() {
            holding.wanted_fetch += 1;
        }
    }

    /// Stops to fetch a partition that is read next within a hole; tells whether it is one.
    pub(super) fn stop_before(&mut self, partition: TopicPartition, hole: Hole) -> bool {
        let Some(holding) = self.partitions.get_mut(&partition) else { return false };
        let is_before = holding.read_position().is_some_and(|position| hole.contains(position));
        if is_before {
            holding.hole = Some(hole);
        }
        is_before
    }

    /// Lists the partitions that stand before a hole with everything before it handed on.
    pub(super) fn stopped(&self) -> Vec<(TopicPartition, Incarnation, Hole)> {
        let stopped = |(partition, holding): (&TopicPartition, &Holding)| {
            let is_handed_on = holding.open.is_empty() && holding.passed.is_none();
            let hole = holding.hole.filter(|_| is_handed_on)?;
            Some((*partition, holding.cursor?.incarnation, hole))
        };
        self.partitions.iter().filter_map(stopped).collect()
    }

    /// Goes on behind the hole before which a partition stands: the lane is behind it already.
    pub(super) fn step_over(&mut self, partition: TopicPartition) {
        let Some(holding) = self.partitions.get_mut(&partition) else { return };
        if let Some(hole) = holding.hole.take() {
            holding.passed = Some(hole.until);
            holding.wanted_fetch += 1;
        }
    }

    /// Takes a batch back that could not be handed on.
    pub(super) fn take_back(&mut self, partition: TopicPartition, delivery: Delivery) {
        let Some(holding) = self.partitions.get_mut(&partition) else { return };
        let Some(cursor) = holding.cursor.as_mut() else { return };
        if cursor.incarnation == delivery.incarnation && cursor.position == delivery.next {
            cursor.position = delivery.from;
            if delivery.cut.records.is_empty() {
                holding.passed = holding.passed.max(Some(delivery.next));
            } else {
                holding.open.put_back(delivery.cut);
            }
        }
    }

    /// Notes that what waits could not be handed on.
    pub(super) fn held_back(&mut self, partition: TopicPartition, now: Instant) {
        if let Some(holding) = self.partitions.get_mut(&partition) {
            holding.held_since.get_or_insert(now);
        }
    }

    /// Notes that nothing waits any more; a paused partition is fetched again if there is room for much.
    pub(super) fn flowing(&mut self, partition: TopicPartition, has_room: bool) {
        let Some(holding) = self.partitions.get_mut(&partition) else { return };
        holding.held_since = None;
        if holding.is_paused && has_room {
            holding.is_paused = false;
            holding.wanted_fetch += 1;
        }
    }

    /// Pauses the partitions that have held still for the whole limit.
    pub(super) fn pause_held(&mut self, now: Instant, limit: Duration) {
        for holding in self.partitions.values_mut() {
            let is_over = holding.held_since.is_some_and(|since| now.duration_since(since) >= limit);
            holding.is_paused = holding.is_paused || is_over;
        }
    }

    /// Gives when the first partition that holds still will be paused; until then nothing more is taken.
    pub(super) fn hold_ends_at(&self, limit: Duration) -> Option<Instant> {
        let unpaused = self.partitions.values().filter(|holding| !holding.is_paused);
        unpaused.filter_map(|holding| holding.held_since).min().map(|since| since + limit)
    }

    /// Lists the paused partitions.
    pub(super) fn paused(&self) -> Vec<TopicPartition> {
        let paused = self.partitions.iter().filter(|(_, holding)| holding.is_paused);
        paused.map(|(partition, _)| *partition).collect()
    }

    /// Lists the incarnations that ask for something.
    pub(super) fn started(&self) -> Vec<(TopicPartition, Incarnation)> {
        let started = |(partition, holding): (&TopicPartition, &Holding)| {
            holding.cursor.map(|cursor| (*partition, cursor.incarnation))
        };
        self.partitions.iter().filter_map(started).collect()
    }
}

#[cfg(test)]
mod tests;
