//! The outbox table as a log: what readers of the embedded log ask.
//!
//! Promises that reading stops at the byte limit without loading much of what follows: nothing on SQLite, one
//! statement's rows elsewhere.

use std::sync::Arc;

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use horizons_actors::ids::{LogTopic, Offset, TopicPartition};
use horizons_actors::ports::log::{LogHeads, RecordSource};
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::LogRecord;

use super::engine::{Connection, READ_ROWS, engine};
use super::key::{self, OFFSET_END};
use super::lanes::topic_partition;
use super::ports::ROWS_MAX;
use super::readers::read_now;
use super::records::RecordColumns;
use super::schema::{log, log_head};
use super::store::{Reader, Store};

/// Reads the ends of all partitions of record.
pub(super) fn ends(connection: &mut Connection) -> Result<Vec<(TopicPartition, Offset)>, StoreError> {
    let rows: Vec<(i64, i64, i64)> =
        log_head::table.order((log_head::topic, log_head::partition)).load(connection).map_err(engine)?;
    let mut ends = Vec::with_capacity(rows.len());
    for (topic, partition, end) in rows {
        let is_of_record =
            matches!(u8::try_from(topic).ok().and_then(LogTopic::from_code), Some(LogTopic::Record(_)));
        if is_of_record {
            ends.push((topic_partition(topic, partition)?, Offset(end.cast_unsigned())));
        }
    }
    Ok(ends)
}

/// The columns of a record of the log.
type LogRow = (i64, RecordColumns);

impl RecordSource for Reader {
    fn heads(&self) -> Arc<LogHeads> {
        Arc::clone(&self.heads)
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
