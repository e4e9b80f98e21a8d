//! The outbox table as a log: what readers of the embedded log ask.
//!
//! Promises that reading stops at the byte limit without loading much of what follows: nothing on SQLite, one
//! statement's rows elsewhere.

use std::sync::Arc;
use std::time::Instant;

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use horizons_actors::ids::{LogTopic, Offset, Partition, TopicPartition};
use horizons_actors::ports::log::{LogHeads, RecordSource};
use horizons_actors::ports::outbox::OutboxPartition;
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::LogRecord;

use super::engine::{Connection, READ_ROWS, engine};
use super::key::{self, OFFSET_END};
use super::outbox::place;
use super::ports::ROWS_MAX;
use super::readers::read_now;
use super::records::RecordColumns;
use super::schema::{log, log_head};
use super::store::{Reader, Store};

/// An end of the log, by topic, dead letters' included, and partition.
pub(super) type End = (LogTopic, Partition, Offset);

/// Reads the ends of all partitions: of what may be sent, where rows are held back until a new layout counts.
pub(super) fn ends(connection: &mut Connection) -> Result<Vec<End>, StoreError> {
    let rows: Vec<(i64, i64, i64, Option<i64>)> = log_head::table
        .order((log_head::topic, log_head::partition))
        .select((log_head::topic, log_head::partition, log_head::next_offset, log_head::held_at))
        .load(connection)
        .map_err(engine)?;
    let end = |(topic, partition, end, held_at): (i64, i64, i64, Option<i64>)| {
        let OutboxPartition { topic, partition } = place(topic, partition)?;
        Ok((topic, partition, Offset(held_at.unwrap_or(end).cast_unsigned())))
    };
    rows.into_iter().map(end).collect()
}

/// Picks the ends of partitions of record.
pub(super) fn of_record(ends: &[End]) -> impl Iterator<Item = (TopicPartition, Offset)> {
    ends.iter().filter_map(|(topic, partition, end)| match topic {
        LogTopic::Record(topic) => Some((TopicPartition { topic: *topic, partition: *partition }, *end)),
        LogTopic::DeadLetter(_) => None,
    })
}

/// Reads the ends of all partitions into what is kept of them in memory.
pub(super) fn refresh(connection: &mut Connection, heads: &LogHeads) -> Result<(), StoreError> {
    let ends = ends(connection)?;
    publish(heads, &ends, Instant::now());
    Ok(())
}

/// Tells whoever waits for records where partitions end.
pub(super) fn publish(heads: &LogHeads, ends: &[End], now: Instant) {
    heads.advance(of_record(ends));
    let raised = ends
        .iter()
        .map(|(topic, partition, end)| (OutboxPartition { topic: *topic, partition: *partition }, *end));
    heads.outbox().advance(raised, now);
}

/// The columns of a record of the log.
type LogRow = (i64, RecordColumns);

impl RecordSource for Reader {
    fn heads(&self) -> Arc<LogHeads> {
        Arc::clone(&self.heads)
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        read_now(&self.pool, |connection| refresh(connection, &self.heads))
    }

    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError> {
        read_now(&self.pool, |connection| {
            // Before the look for a record: one that is appended in between then lies at or above this end. Read
            // after it, the end would lie above a record that the look did not see, and a lane's first start
            // would skip it.
            let end: Option<i64> = log_head::table
                .filter(log_head::topic.eq(i64::from(partition.topic.code())))
                .filter(log_head::partition.eq(i64::from(partition.partition.0)))
                .select(log_head::next_offset)
                .first(connection)
                .optional()
                .map_err(engine)?;
            let (first, last) = key::record_range(partition);
            let lowest: Option<i64> = log::table
                .filter(log::position.between(first, last))
                .order(log::position)
                .select(log::position)
                .first(connection)
                .optional()
                .map_err(engine)?;
            Ok(lowest.map_or(Offset(end.unwrap_or(0).cast_unsigned()), |position| {
                Offset(key::offset_of(position))
            }))
        })
    }

    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        if from.0 >= OFFSET_END {
            return Ok(Vec::new());
        }
        read_now(&self.pool, |connection| {
            let mut first = key::in_log(LogTopic::Record(partition.topic), partition.partition, from)?;
            let (_, last) = key::record_range(partition);
            let wanted = max_records.min(ROWS_MAX);
            let (mut records, mut bytes) = (Vec::new(), 0);
            while records.len() < wanted {
                let page = (wanted - records.len()).min(READ_ROWS);
                let rows = log::table
                    .filter(log::position.between(first, last))
                    .order(log::position)
                    .limit(i64::try_from(page).unwrap_or(i64::MAX))
                    .select((
                        log::position,
                        (log::recorded_at, log::time_type, log::key, log::headers, log::payload),
                    ))
                    .load_iter::<LogRow, DefaultLoadingMode>(connection)
                    .map_err(engine)?;
                let mut seen = 0;
                for row in rows {
                    let (position, columns) = row.map_err(engine)?;
                    let record = columns.into_record(key::offset_of(position))?;
                    bytes += record.weight_bytes();
                    if bytes > max_bytes && !records.is_empty() {
                        return Ok(records);
                    }
                    records.push(record);
                    first = position + 1;
                    seen += 1;
                }
                if seen < page {
                    break;
                }
            }
            Ok(records)
        })
    }

    fn read_previous(
        &self,
        partition: TopicPartition,
        next: Offset,
    ) -> Result<Option<LogRecord>, StoreError> {
        let Some(before) = next.0.min(OFFSET_END).checked_sub(1) else { return Ok(None) };
        read_now(&self.pool, |connection| {
            let (first, _) = key::record_range(partition);
            let last = key::in_log(LogTopic::Record(partition.topic), partition.partition, Offset(before))?;
            let row: Option<LogRow> = log::table
                .filter(log::position.between(first, last))
                .order(log::position.desc())
                .select((
                    log::position,
                    (log::recorded_at, log::time_type, log::key, log::headers, log::payload),
                ))
                .first(connection)
                .optional()
                .map_err(engine)?;
            row.map(|(position, columns)| columns.into_record(key::offset_of(position))).transpose()
        })
    }
}

impl RecordSource for Store {
    fn heads(&self) -> Arc<LogHeads> {
        self.reader.heads()
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        RecordSource::refresh_heads(&self.reader)
    }

    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError> {
        self.reader.low(partition)
    }

    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        self.reader.read(partition, from, max_records, max_bytes)
    }

    fn read_previous(
        &self,
        partition: TopicPartition,
        next: Offset,
    ) -> Result<Option<LogRecord>, StoreError> {
        self.reader.read_previous(partition, next)
    }
}
