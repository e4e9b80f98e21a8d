//! The outbox: the records of every partition, and reading them as a log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::locked;
use super::MemoryStore;
use super::faults::{StoreCall, carry_out};
use crate::ids::{LogTopic, Offset, Partition, TopicPartition};
use crate::ports::log::{LogHeads, RecordSource};
use crate::ports::store::StoreError;
use crate::record::{LogRecord, OutgoingRecord, TimestampType};

/// The records of every partition; a record's offset is its index.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    partitions: BTreeMap<(LogTopic, Partition), Vec<LogRecord>>,
    weight_bytes: u64,
}

impl Outbox {
    /// Checks that every record's partition exists.
    pub(super) fn check(&self, records: &[OutgoingRecord]) -> Result<(), StoreError> {
        match records.iter().find(|record| record.partition.0 >= record.topic.source().partitions()) {
            None => Ok(()),
            Some(record) => {
                let (topic, partitions) = (record.topic, record.topic.source().partitions());
                Err(StoreError::Broken(format!(
                    "wanted a partition below {partitions} of `{topic}`, got {}",
                    record.partition
                )))
            }
        }
    }

    /// Appends a record that was checked, and gives its offset.
    pub(super) fn append(&mut self, record: &OutgoingRecord) -> Offset {
        let stored = self.partitions.entry((record.topic, record.partition)).or_default();
        let offset = Offset(stored.len() as u64);
        let record = LogRecord {
            offset,
            timestamp: record.timestamp,
            timestamp_type: TimestampType::CreateTime,
            key: record.key.clone(),
            headers: record.headers.clone(),
            payload: record.payload.clone(),
        };
        self.weight_bytes += record.weight_bytes() as u64;
        stored.push(record);
        offset
    }

    /// Gives the offset that the next record would get.
    pub(super) fn end(&self, topic: LogTopic, partition: Partition) -> Offset {
        Offset(self.partitions.get(&(topic, partition)).map_or(0, Vec::len) as u64)
    }

    /// Gives every record of a partition.
    pub(super) fn all(&self, topic: LogTopic, partition: Partition) -> Vec<LogRecord> {
        self.partitions.get(&(topic, partition)).cloned().unwrap_or_default()
    }

    /// Gives what all records weigh.
    pub(super) const fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Lists the ends of the partitions of record.
    pub(super) fn record_ends(&self) -> Vec<(TopicPartition, Offset)> {
        self.partitions
            .iter()
            .filter_map(|((topic, partition), records)| match topic {
                LogTopic::Record(topic) => {
                    let partition = TopicPartition { topic: *topic, partition: *partition };
                    Some((partition, Offset(records.len() as u64)))
                }
                LogTopic::DeadLetter(_) => None,
            })
            .collect()
    }

    fn from(&self, partition: TopicPartition, from: Offset) -> &[LogRecord] {
        let key = (LogTopic::Record(partition.topic), partition.partition);
        let records = self.partitions.get(&key).map(Vec::as_slice).unwrap_or_default();
        usize::try_from(from.0).ok().and_then(|start| records.get(start..)).unwrap_or_default()
    }
}

/// Gives the ends of the partitions of record that some records were appended to.
pub(super) fn ends_after(records: &[OutgoingRecord], outbox: &Outbox) -> Vec<(TopicPartition, Offset)> {
    let mut ends: Vec<_> = records
        .iter()
        .filter_map(|record| match record.topic {
            LogTopic::Record(topic) => {
                let end = outbox.end(record.topic, record.partition);
                Some((TopicPartition { topic, partition: record.partition }, end))
            }
            LogTopic::DeadLetter(_) => None,
        })
        .collect();
    ends.sort();
    ends.dedup();
    ends
}

impl RecordSource for MemoryStore {
    fn heads(&self) -> Arc<LogHeads> {
        Arc::clone(&self.shared.heads)
    }

    fn low(&self, _partition: TopicPartition) -> Result<Offset, StoreError> {
        self.read_records(|_| Offset(0))
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
            for record in outbox.from(partition, from).iter().take(max_records) {
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
            let below = usize::try_from(next.0).unwrap_or(usize::MAX);
            let records = outbox.from(partition, Offset(0));
            records.get(..below.min(records.len())).and_then(<[LogRecord]>::last).cloned()
        })
    }
}

impl MemoryStore {
    /// Reads the outbox now: a reader's calls block and cannot be delayed in tokio's time.
    fn read_records<T>(&self, act: impl FnOnce(&Outbox) -> T) -> Result<T, StoreError> {
        let (_, fault) = self.shared.faults.meet(StoreCall::ReadRecords, None);
        carry_out(fault, || Ok(act(&locked(&self.shared.state).outbox)))
    }
}
