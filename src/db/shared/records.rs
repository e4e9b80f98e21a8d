//! Records as columns, and the outbox that is the embedded log.
//!
//! Promises that offsets are taken from `log_head` by the last statements of a transaction, so that the order
//! of offsets is the order of commits, without holes.

use std::collections::BTreeMap;

use bytes::Bytes;
use diesel::expression::AsExpression;
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Binary;
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{LogId, LogTopic, Offset, Partition};
use horizons_actors::ports::store::{AppendedAt, StoreError};
use horizons_actors::record::{Digest32, Headers, LogRecord, OutgoingRecord, TimestampType};

use super::engine::{Backend, Connection, insert_rows, take_offsets};
use super::key;
use super::operation::{Operation, Writing, Written};
use super::placing::{self, Placing, Turn};
use super::schema::log;
use crate::db::error::unreadable;

/// The columns of a record as they are read.
#[derive(Debug, Queryable)]
pub(super) struct RecordColumns {
    pub(super) recorded_at: i64,
    pub(super) time_type: i32,
    pub(super) key: Option<Vec<u8>>,
    pub(super) headers: Vec<u8>,
    pub(super) payload: Option<Vec<u8>>,
}

impl RecordColumns {
    /// Gives the record.
    pub(super) fn into_record(self, offset: u64) -> Result<LogRecord, StoreError> {
        let timestamp_type = u8::try_from(self.time_type)
            .ok()
            .and_then(TimestampType::from_code)
            .ok_or_else(|| unreadable("timestamp type", self.time_type))?;
        let Self { recorded_at, key, headers, payload, .. } = self;
        let parts = [key.as_deref(), Some(headers.as_slice()), payload.as_deref()];
        let [key, headers, payload] = packed(parts);
        Ok(LogRecord {
            offset: Offset(offset),
            timestamp: Timestamp::from_micros(recorded_at),
            timestamp_type,
            key,
            headers: Headers::from_block(headers.unwrap_or_default())
                .map_err(|error| unreadable("header block", error))?,
            payload,
        })
    }
}

/// Copies the parts of a record into one piece of memory that they share: a record goes through several
/// threads, and what one takes and another gives back is what costs.
fn packed<const N: usize>(parts: [Option<&[u8]>; N]) -> [Option<Bytes>; N] {
    let length = parts.iter().map(|part| part.map_or(0, <[u8]>::len)).sum();
    let mut joined = Vec::with_capacity(length);
    for part in parts.into_iter().flatten() {
        joined.extend_from_slice(part);
    }
    let mut rest = Bytes::from(joined);
    parts.map(|part| part.map(|part| rest.split_to(part.len())))
}

/// Bytes of a record on their way into a statement, shared and not copied.
///
/// diesel caches a statement over an array only when its rows hold no borrowed values.
#[derive(Debug, Clone, AsExpression)]
#[diesel(sql_type = Binary)]
pub(super) struct Blob(pub(super) Bytes);

impl ToSql<Binary, Backend> for Blob {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Backend>) -> serialize::Result {
        <[u8] as ToSql<Binary, Backend>>::to_sql(&self.0, out)
    }
}

/// A digest on its way into a statement.
#[derive(Debug, Clone, Copy, AsExpression)]
#[diesel(sql_type = Binary)]
pub(super) struct Digest(pub(super) Digest32);

impl ToSql<Binary, Backend> for Digest {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Backend>) -> serialize::Result {
        <[u8] as ToSql<Binary, Backend>>::to_sql(&self.0, out)
    }
}

/// Gives optional bytes for a statement.
pub(super) fn blob(bytes: Option<&Bytes>) -> Option<Blob> {
    bytes.cloned().map(Blob)
}

/// Gives optional bytes as a slice.
pub(super) fn slice(bytes: Option<&Bytes>) -> Option<&[u8]> {
    bytes.map(Bytes::as_ref)
}

#[derive(Insertable)]
#[diesel(table_name = log, treat_none_as_default_value = false)]
struct NewLogRow {
    position: i64,
    recorded_at: i64,
    time_type: i32,
    key: Option<Blob>,
    headers: Blob,
    payload: Option<Blob>,
}

/// What an append did: where each record went, in the order given, and the new ends.
#[derive(Debug, Default)]
pub(super) struct Appended {
    pub(super) places: Vec<AppendedAt>,
    pub(super) ends: Vec<(LogTopic, Partition, Offset)>,
}

/// Offsets that are to be taken of a partition of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct WantedOffsets {
    pub(super) topic: i64,
    pub(super) partition: i64,
    pub(super) count: i64,
}

/// The end of a partition that offsets were taken of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The offset that the next record gets.
    pub(super) end: u64,
    /// Over how many partitions keys are spread, once that was changed.
    pub(super) spread: Option<i64>,
    /// From where on nothing is sent yet.
    pub(super) held_at: Option<i64>,
}

/// A record on its way into the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outgoing<'a> {
    /// It goes where its key is at home, whatever whoever made it knew of the layout.
    ByKey(&'a OutgoingRecord),
    /// It goes to the partition that it names.
    Placed(&'a OutgoingRecord),
}

/// Appends records; to be called last in a transaction. Turns of layouts are written along, as they are about the same ends.
pub(super) fn append(
    connection: &mut Connection,
    log_id: &LogId,
    placing: &Placing,
    records: &[Outgoing<'_>],
    turns: &[Turn],
) -> Result<Appended, StoreError> {
    let mut placed = Vec::with_capacity(records.len());
    for outgoing in records {
        placed.push(match outgoing {
            Outgoing::Placed(record) => (*record, record.partition),
            Outgoing::ByKey(record) => (*record, placing.home(connection, log_id, record)?),
        });
    }
    let mut partitions: BTreeMap<(u8, Partition), Vec<usize>> = BTreeMap::new();
    for (index, (record, partition)) in placed.iter().enumerate() {
        partitions.entry((record.topic.code(), *partition)).or_default().push(index);
    }
    for (topic, partition) in turns.iter().flat_map(Turn::ends) {
        partitions.entry((topic.code(), partition)).or_default();
    }
    let mut appended = Appended {
        places: placed
            .iter()
            .map(|(record, partition)| AppendedAt {
                topic: record.topic,
                partition: *partition,
                offset: Offset(0),
            })
            .collect(),
        ends: Vec::with_capacity(partitions.len()),
    };
    let wanted: Vec<WantedOffsets> = partitions
        .iter()
        .map(|((code, partition), indexes)| WantedOffsets {
            topic: i64::from(*code),
            partition: i64::from(partition.0),
            count: i64::try_from(indexes.len()).unwrap_or(i64::MAX),
        })
        .collect();
    let heads = take_offsets(connection, &wanted)?;
    let mut rows = Vec::with_capacity(records.len());
    for (((code, partition), indexes), head) in partitions.into_iter().zip(heads) {
        let Some(topic) = LogTopic::from_code(code) else { continue };
        placing.check(topic, &head)?;
        let first = head.end - indexes.len() as u64;
        for (offset, index) in (first..).zip(indexes) {
            let (Some((record, _)), Some(place)) = (placed.get(index), appended.places.get_mut(index)) else {
                continue;
            };
            place.offset = Offset(offset);
            rows.push(NewLogRow {
                position: key::in_log(record.topic, partition, Offset(offset))?,
                recorded_at: record.timestamp.as_micros(),
                time_type: i32::from(TimestampType::CreateTime.code()),
                key: blob(record.key.as_ref()),
                headers: Blob(record.headers.as_block().clone()),
                payload: blob(record.payload.as_ref()),
            });
        }
        appended.ends.push((topic, partition, placing::sendable_end(turns, topic, &head)));
    }
    insert_rows!(connection, log::table, rows);
    placing::write_turns(connection, placing, turns)?;
    Ok(appended)
}

/// Records as somebody else made them, each with the audit record of the command that brought it.
pub(super) struct AppendRecords {
    pub(super) records: Vec<OutgoingRecord>,
    pub(super) audit: Vec<OutgoingRecord>,
}

impl Operation for AppendRecords {
    type Answer = Vec<AppendedAt>;

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<Vec<AppendedAt>>, StoreError> {
        if let Some(full) = round.disk_limit()? {
            return Ok(Written::Refused(full));
        }
        let first = round.gathered.outbox.len();
        let own = first..first + self.records.len();
        round.gathered.outbox.extend(self.records.iter().chain(&self.audit).map(Outgoing::ByKey));
        Ok(Written::FromPlaces(Box::new(move |places| places.get(own).unwrap_or_default().to_vec())))
    }
}
