//! Reading the audit log, for people.
//!
//! Promises that one call looks at no more than [`ENTRIES_MAX`] entries and reads no more than a page: without an index on what a record is
//! about, a search walks the entries of the partitions that can hold them, page by page.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{Generation, Group, JobId, Topic, TopicPartition};
use horizons_actors::ports::page::PageRoom;
use horizons_actors::ports::query::{
    AuditFilter, AuditPage, AuditPosition, StoredAuditEntry, StoredAuditLog,
};
use horizons_actors::ports::store::StoreError;

use super::engine::{Backend, Connection, SCAN, WEIGH, engine};
use super::lanes::{Lanes, StoredLane, digest};
use super::pages::fit;
use super::records::RecordColumns;
use super::state::load_audit_log;
use crate::db::words::Words;

/// Most entries that one call looks at: some tens of milliseconds.
const ENTRIES_MAX: u64 = 20_000;

/// Lists the auditor's lanes in order of partition and generation.
fn auditor_lanes(connection: &mut Connection, lanes: &Lanes) -> Result<Vec<StoredLane>, StoreError> {
    let auditor = Group::audit_trail();
    Ok(lanes.sorted(connection)?.into_iter().filter(|stored| stored.lane.group == auditor).collect())
}

/// Lists the logs with their state.
pub(super) fn logs(connection: &mut Connection, lanes: &Lanes) -> Result<Vec<StoredAuditLog>, StoreError> {
    let mut logs = Vec::new();
    for StoredLane { lane, generation, number } in auditor_lanes(connection, lanes)? {
        if let Some(state) = load_audit_log(connection, number)? {
            let (topic_partition, log_id) = (lane.topic_partition, lanes.log_id(generation)?);
            logs.push(StoredAuditLog { topic_partition, generation, log_id, state });
        }
    }
    Ok(logs)
}

/// Tells whether a partition can hold what is asked for.
fn is_wanted(filter: &AuditFilter, partition: TopicPartition, generation: Generation) -> bool {
    // Also partitions where the job is not at home: what a producer put there is marked, and the job's all the same.
    let is_keyed_by_job = matches!(partition.topic, Topic::JobLifecycle | Topic::JobMetrics);
    filter.topic.is_none_or(|topic| topic == partition.topic)
        && filter.partition.is_none_or(|number| number == partition.partition.0)
        && filter.generation.is_none_or(|wanted| wanted == generation)
        && filter
            .after
            .is_none_or(|after| (partition, generation) >= (after.topic_partition, after.generation))
        && (filter.job_id.is_none() || is_keyed_by_job)
}

/// The columns of an entry, and of its body if it is there.
#[derive(QueryableByName)]
struct EntryRow {
    #[diesel(sql_type = BigInt)]
    index: i64,
    #[diesel(sql_type = BigInt)]
    record_offset: i64,
    #[diesel(sql_type = Binary)]
    leaf_hash: Vec<u8>,
    #[diesel(sql_type = Binary)]
    chain_hash: Vec<u8>,
    #[diesel(sql_type = Text)]
    mark: Words,
    #[diesel(sql_type = BigInt)]
    appended_at: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    recorded_at: Option<i64>,
    #[diesel(sql_type = Nullable<Integer>)]
    time_type: Option<i32>,
    #[diesel(sql_type = Nullable<Binary>)]
    key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    headers: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    payload: Option<Vec<u8>>,
}

impl EntryRow {
    fn into_entry(
        self,
        topic_partition: TopicPartition,
        generation: Generation,
    ) -> Result<StoredAuditEntry, StoreError> {
        let offset = self.record_offset.cast_unsigned();
        // These three are never null in a body that is there.
        let body = match (self.recorded_at, self.time_type, self.headers) {
            (Some(recorded_at), Some(time_type), Some(headers)) => {
                Some(RecordColumns { recorded_at, time_type, key: self.key, headers, payload: self.payload })
            }
            _ => None,
        };
        Ok(StoredAuditEntry {
            position: AuditPosition { topic_partition, generation, index: self.index.cast_unsigned() },
            leaf_hash: digest("leaf hash", &self.leaf_hash)?,
            chain_hash: digest("chain hash", &self.chain_hash)?,
            mark: self.mark.into(),
            appended_at: Timestamp::from_micros(self.appended_at),
            record: body.map(|body| body.into_record(offset)).transpose()?,
        })
    }
}

/// An entry that was weighed.
#[derive(QueryableByName)]
struct WeighedRow {
    #[diesel(sql_type = BigInt)]
    index: i64,
    #[diesel(sql_type = BigInt)]
    weight: i64,
}

/// Lists entries in order of position.
pub(super) fn entries(
    connection: &mut Connection,
    lanes: &Lanes,
    filter: &AuditFilter,
) -> Result<AuditPage, StoreError> {
    let mut room = PageRoom::new(filter.limit);
    let mut page = AuditPage { entries: Vec::new(), next: filter.after };
    let mut budget = ENTRIES_MAX;
    for StoredLane { lane, generation, number } in auditor_lanes(connection, lanes)? {
        let partition = lane.topic_partition;
        if !is_wanted(filter, partition, generation) {
            continue;
        }
        let Some(size) = load_audit_log(connection, number)?.map(|log| log.size) else { continue };
        let mut index = match filter.after {
            Some(after) if (after.topic_partition, after.generation) == (partition, generation) => {
                after.index.saturating_add(1)
            }
            _ => 0,
        };
        while index < size {
            if room.rows() == 0 || budget == 0 {
                return Ok(page);
            }
            let until = size.min(index.saturating_add(budget));
            let left = room.rows();
            let weighed: Vec<WeighedRow> =
                scan(connection, WEIGH, number, index..until, filter.job_id.as_ref(), left)?;
            let (fitting, is_full) = fit(&mut room, weighed.iter().map(|row| row.weight));
            let fitting = usize::try_from(fitting).unwrap_or_default();
            let read = weighed.get(..fitting).unwrap_or_default();
            let found: Vec<EntryRow> = match (read.first(), read.last()) {
                (Some(first), Some(last)) => {
                    let range = first.index.cast_unsigned()..last.index.cast_unsigned() + 1;
                    scan(connection, SCAN, number, range, filter.job_id.as_ref(), fitting)?
                }
                _ => Vec::new(),
            };
            // A page may end before the range does; where nothing fits, it ends where it stood.
            let seen = match read.last() {
                Some(last) if is_full || fitting == left => last.index.cast_unsigned() + 1,
                None if is_full => return Ok(page),
                _ => until,
            };
            budget -= (seen - index).min(budget);
            index = seen;
            page.next = Some(AuditPosition { topic_partition: partition, generation, index: seen - 1 });
            for row in found {
                page.entries.push(row.into_entry(partition, generation)?);
            }
            if is_full {
                return Ok(page);
            }
        }
    }
    page.next = None;
    Ok(page)
}

/// Walks the wanted entries of a range with one of the two statements.
fn scan<T>(
    connection: &mut Connection,
    statement: &str,
    lane: i64,
    range: std::ops::Range<u64>,
    job_id: Option<&JobId>,
    left: usize,
) -> Result<Vec<T>, StoreError>
where
    T: diesel::deserialize::QueryableByName<Backend> + 'static,
{
    diesel::sql_query(statement)
        .bind::<BigInt, _>(lane)
        .bind::<BigInt, _>(range.start.cast_signed())
        .bind::<BigInt, _>(range.end.saturating_sub(1).cast_signed())
        .bind::<BigInt, _>(i64::try_from(left).unwrap_or(i64::MAX))
        .bind::<Nullable<Binary>, _>(job_id.map(|job_id| job_id.as_str().as_bytes()))
        .load(connection)
        .map_err(engine)
}
