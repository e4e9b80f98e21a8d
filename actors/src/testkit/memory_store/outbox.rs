//! The outbox: the records of every partition, and reading them as a log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::locked;
use super::MemoryStore;
use super::faults::{StoreCall, carry_out};
use crate::event::partition_among;
use crate::ids::{LogTopic, Offset, Partition, Topic, TopicPartition};
use crate::ports::log::{LogHeads, RecordSource};
use crate::ports::outbox::OutboxPartition;
use crate::ports::store::StoreError;
use crate::record::{LogRecord, OutgoingRecord, TimestampType};

/// The records of one partition that are still kept.
#[derive(Debug, Default)]
struct Stored {
    /// The offset of the first one.
    first: u64,
    records: VecDeque<LogRecord>,
}

impl Stored {
    fn end(&self) -> Offset {
        Offset(self.first + self.records.len() as u64)
    }

    fn from(&self, from: Offset) -> impl Iterator<Item = &LogRecord> {
        let skipped = usize::try_from(from.0.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.records.iter().skip(skipped)
    }
}

/// The records of every partition, without holes.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    partitions: BTreeMap<OutboxPartition, Stored>,
    weight_bytes: u64,
    /// How many partitions a topic has, where that is not what it begins with.
    counts: BTreeMap<Topic, u16>,
    /// How keys of topics that have grown are spread.
    spreads: BTreeMap<Topic, Spread>,
}

/// How the keys of new records are spread over the partitions of a topic that has grown.
#[derive(Debug)]
struct Spread {
    /// Over how many partitions they were before.
    former: Vec<u16>,
    now: u16,
    /// From where on the relay sends nothing yet; everything where there is no place.
    held_at: Option<BTreeMap<Partition, Offset>>,
}

impl Outbox {
    /// Checks that every record's partition exists.
    pub(super) fn check(&self, records: &[OutgoingRecord]) -> Result<(), StoreError> {
        match records.iter().find(|record| record.partition.0 >= self.partitions_of(record.topic)) {
            None => Ok(()),
            Some(record) => {
                let (topic, partitions) = (record.topic, self.partitions_of(record.topic));
                Err(StoreError::Broken(format!(
                    "wanted a partition below {partitions} of `{topic}`, got {}",
                    record.partition
                )))
            }
        }
    }

    /// Gives a topic of record so many partitions.
    pub(super) fn set_partitions(&mut self, topic: Topic, partitions: u16) {
        self.counts.insert(topic, partitions);
    }

    fn partitions_of(&self, topic: LogTopic) -> u16 {
        match topic {
            LogTopic::Record(topic) => self.counts.get(&topic).copied().unwrap_or(topic.partitions()),
            LogTopic::DeadLetter(source) => source.partitions(),
        }
    }

    /// Begins to spread keys over so many partitions; what is appended from here on is held back.
    pub(super) fn begin(&mut self, topic: Topic, partitions: u16, former: Vec<u16>) {
        let end = |partition| self.end(OutboxPartition { topic: LogTopic::Record(topic), partition });
        let held_at = (0..partitions).map(Partition).map(|partition| (partition, end(partition))).collect();
        self.set_partitions(topic, partitions);
        self.spreads.insert(topic, Spread { former, now: partitions, held_at: Some(held_at) });
    }

    /// Spreads keys over so many partitions, and holds nothing back any more.
    pub(super) fn count(&mut self, topic: Topic, partitions: u16, former: Vec<u16>) {
        self.set_partitions(topic, partitions);
        self.spreads.insert(topic, Spread { former, now: partitions, held_at: None });
    }

    /// Gives the partitions of a layout that was begun and does not count yet.
    pub(super) fn begun(&self, topic: Topic) -> Option<u16> {
        self.spreads.get(&topic).filter(|spread| spread.held_at.is_some()).map(|spread| spread.now)
    }

    /// Gives the record where its key is at home, if it stands where it was at home before.
    pub(super) fn placed(&self, mut record: OutgoingRecord) -> OutgoingRecord {
        let LogTopic::Record(topic) = record.topic else { return record };
        if let (Some(spread), Some(key)) = (self.spreads.get(&topic), &record.key)
            && topic.is_keyed()
            && spread.former.iter().any(|former| partition_among(*former, key) == record.partition)
        {
            record.partition = partition_among(spread.now, key);
        }
        record
    }

    /// Gives the end of what may be sent of a partition.
    pub(super) fn sendable_end(&self, place: OutboxPartition) -> Offset {
        let held_at = match place.topic {
            LogTopic::Record(topic) => {
                let spread = self.spreads.get(&topic).and_then(|spread| spread.held_at.as_ref());
                spread.and_then(|held_at| held_at.get(&place.partition)).copied()
            }
            LogTopic::DeadLetter(_) => None,
        };
        held_at.unwrap_or_else(|| self.end(place))
    }

    /// Lists the ends of a topic's partitions.
    pub(super) fn ends_of(&self, topic: Topic) -> Ends {
        let topic = LogTopic::Record(topic);
        let places = (0..self.partitions_of(topic)).map(Partition);
        let places = places.map(|partition| OutboxPartition { topic, partition });
        places.map(|place| (place, self.sendable_end(place))).collect()
    }

    /// Appends a record that was checked, and gives its offset.
    pub(super) fn append(&mut self, record: &OutgoingRecord) -> Offset {
        let stored = self.partitions.entry(place_of(record)).or_default();
        let offset = stored.end();
        let record = LogRecord {
            offset,
            timestamp: record.timestamp,
            timestamp_type: TimestampType::CreateTime,
            key: record.key.clone(),
            headers: record.headers.clone(),
            payload: record.payload.clone(),
        };
        self.weight_bytes += record.weight_bytes() as u64;
        stored.records.push_back(record);
        offset
    }

    /// Gives the offset that the next record would get.
    pub(super) fn end(&self, partition: OutboxPartition) -> Offset {
        self.partitions.get(&partition).map(Stored::end).unwrap_or_default()
    }

    /// Gives every record of a partition.
    pub(super) fn all(&self, topic: LogTopic, partition: Partition) -> Vec<LogRecord> {
        self.from(OutboxPartition { topic, partition }, Offset(0)).cloned().collect()
    }

    /// Gives what all records weigh.
    pub(super) const fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Lists the partitions that there are.
    fn places(&self) -> impl Iterator<Item = OutboxPartition> {
        OutboxPartition::all_of(|topic| self.partitions_of(LogTopic::Record(topic)))
    }

    /// Lists the ends of the partitions of record.
    pub(super) fn record_ends(&self) -> Vec<(TopicPartition, Offset)> {
        of_record(self.partitions.iter().map(|(partition, stored)| (*partition, stored.end()))).collect()
    }

    /// Gives the records of a partition from an offset on.
    pub(super) fn from(&self, partition: OutboxPartition, from: Offset) -> impl Iterator<Item = &LogRecord> {
        self.partitions.get(&partition).into_iter().flat_map(move |stored| stored.from(from))
    }

    /// Removes at most `limit` records below an offset, and tells how many.
    pub(super) fn remove_below(&mut self, partition: OutboxPartition, end: Offset, limit: u64) -> u64 {
        let Some(stored) = self.partitions.get_mut(&partition) else { return 0 };
        let mut removed = 0;
        while removed < limit && stored.first < end.0 {
            let Some(record) = stored.records.pop_front() else { break };
            self.weight_bytes -= record.weight_bytes() as u64;
            stored.first += 1;
            removed += 1;
        }
        removed
    }

    fn low(&self, partition: OutboxPartition) -> Offset {
        Offset(self.partitions.get(&partition).map_or(0, |stored| stored.first))
    }
}

/// Gives where a record goes.
fn place_of(record: &OutgoingRecord) -> OutboxPartition {
    OutboxPartition { topic: record.topic, partition: record.partition }
}

/// Picks the partitions of record, under the name that lanes use.
pub(super) fn of_record(
    ends: impl IntoIterator<Item = (OutboxPartition, Offset)>,
) -> impl Iterator<Item = (TopicPartition, Offset)> {
    ends.into_iter().filter_map(|(OutboxPartition { topic, partition }, end)| match topic {
        LogTopic::Record(topic) => Some((TopicPartition { topic, partition }, end)),
        LogTopic::DeadLetter(_) => None,
    })
}

/// Gives the outbox's name for a partition of record.
const fn in_outbox(partition: TopicPartition) -> OutboxPartition {
    OutboxPartition { topic: LogTopic::Record(partition.topic), partition: partition.partition }
}

/// The partitions that grew, with their new ends.
pub(super) type Ends = Vec<(OutboxPartition, Offset)>;

/// Gives the ends of the partitions that some records were appended to.
pub(super) fn ends_after(records: &[OutgoingRecord], outbox: &Outbox) -> Ends {
    let mut places: Vec<OutboxPartition> = records.iter().map(place_of).collect();
    places.sort();
    places.dedup();
    places.into_iter().map(|place| (place, outbox.sendable_end(place))).collect()
}

impl RecordSource for MemoryStore {
    fn heads(&self) -> Arc<LogHeads> {
        Arc::clone(&self.shared.heads)
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        let ends: Ends = self.read_records(|outbox| {
            outbox.places().map(|place| (place, outbox.sendable_end(place))).collect()
        })?;
        self.shared.advance(ends);
        Ok(())
    }

    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError> {
        self.read_records(|outbox| outbox.low(in_outbox(partition)))
    }

    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        self.read_records(|outbox| {
            let mut bytes = 0;
            let mut taken = Vec::new();
            for record in outbox.from(in_outbox(partition), from).take(max_records) {
                bytes += record.weight_bytes();
                if !taken.is_empty() && bytes > max_bytes {
                    break;
                }
                taken.push(record.clone());
            }
            taken
        })
    }

    fn read_previous(
        &self,
        partition: TopicPartition,
        next: Offset,
    ) -> Result<Option<LogRecord>, StoreError> {
        self.read_records(|outbox| {
            let records = outbox.from(in_outbox(partition), Offset(0));
            records.take_while(|record| record.offset < next).last().cloned()
        })
    }
}

impl MemoryStore {
    /// Reads the outbox now: a reader's calls block and cannot be delayed in tokio's time.
    pub(super) fn read_records<T>(&self, act: impl FnOnce(&Outbox) -> T) -> Result<T, StoreError> {
        let (_, fault) = self.shared.faults.meet(StoreCall::ReadRecords, None);
        carry_out(fault, || Ok(act(&locked(&self.shared.state).outbox)))
    }
}
