//! Reading the audit log, for people.
//!
//! Promises that one call looks at no more than [`ENTRIES_MAX`] entries: without an index on what a record is
//! about, a search walks the entries of the partitions that can hold them, page by page.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use horizons_actors::clock::Timestamp;
use horizons_actors::event::partition::partition_for;
use horizons_actors::ids::{EventId, Group, JobId, Topic, TopicPartition};
use horizons_actors::ports::query::{AuditFilter, AuditPage, AuditPosition, StoredAuditEntry};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::AuditLogState;
use uuid::Uuid;

use super::key;
use super::lanes::{Lanes, digest};
use super::records::RecordColumns;
use super::schema::{audit_bodies, audit_entries};
use super::state::load_audit_log;
use super::store::ROWS_MAX;
use crate::db::error::engine;

/// Most entries that one call looks at: some tens of milliseconds.
const ENTRIES_MAX: u64 = 20_000;

/// Lists the auditor's lanes in order of partition.
fn auditor_lanes(lanes: &Lanes) -> Vec<(TopicPartition, i64)> {
    let auditor = Group::audit_trail();
    lanes
        .sorted()
        .into_iter()
        .filter(|(lane, _)| lane.group == auditor)
        .map(|(lane, number)| (lane.topic_partition, number))
        .collect()
}

/// Lists the logs with their state.
pub(super) fn logs(
    connection: &mut SqliteConnection,
    lanes: &Lanes,
) -> Result<Vec<(TopicPartition, AuditLogState)>, StoreError> {
    let mut logs = Vec::new();
    for (partition, number) in auditor_lanes(lanes) {
        if let Some(state) = load_audit_log(connection, number)? {
            logs.push((partition, state));
        }
    }
    Ok(logs)
}

/// Tells whether a partition can hold what is asked for.
fn is_wanted(filter: &AuditFilter, partition: TopicPartition) -> bool {
    let is_of_job = |job_id: &JobId| {
        let keyed_by_job = matches!(partition.topic, Topic::JobLifecycle | Topic::JobMetrics);
        // The event id chooses only where there is no key.
        let any_event = EventId(Uuid::nil());
        keyed_by_job
            && partition_for(partition.topic, Some(job_id.as_str().as_bytes()), any_event)
                == partition.partition
    };
    filter.topic.is_none_or(|topic| topic == partition.topic)
        && filter.partition.is_none_or(|number| number == partition.partition.0)
        && filter.after.is_none_or(|after| partition >= after.topic_partition)
        && filter.job_id.as_ref().is_none_or(is_of_job)
}

/// The columns of an entry, and of its body if it is there.
#[derive(Queryable)]
struct EntryRow {
    entry: i64,
    record_offset: i64,
    leaf_hash: Vec<u8>,
    chain_hash: Vec<u8>,
    mark: String,
    appended_at: i64,
    body: Option<RecordColumns>,
}

impl EntryRow {
    fn into_entry(self, topic_partition: TopicPartition) -> Result<StoredAuditEntry, StoreError> {
        let offset = self.record_offset.cast_unsigned();
        Ok(StoredAuditEntry {
            position: AuditPosition { topic_partition, index: key::offset_of(self.entry) },
            leaf_hash: digest("leaf hash", &self.leaf_hash)?,
            chain_hash: digest("chain hash", &self.chain_hash)?,
            mark: self.mark,
            appended_at: Timestamp::from_micros(self.appended_at),
            record: self.body.map(|body| body.into_record(offset)).transpose()?,
        })
    }
}

/// Lists entries in order of position.
pub(super) fn entries(
    connection: &mut SqliteConnection,
    lanes: &Lanes,
    filter: &AuditFilter,
) -> Result<AuditPage, StoreError> {
    let wanted = filter.limit.min(ROWS_MAX);
    let mut page = AuditPage { entries: Vec::new(), next: filter.after };
    let mut budget = ENTRIES_MAX;
    for (partition, number) in auditor_lanes(lanes) {
        if !is_wanted(filter, partition) {
            continue;
        }
        let Some(size) = load_audit_log(connection, number)?.map(|log| log.size) else { continue };
        let mut index = match filter.after {
            Some(after) if after.topic_partition == partition => after.index.saturating_add(1),
            _ => 0,
        };
        while index < size {
            let left = wanted.saturating_sub(page.entries.len());
            if left == 0 || budget == 0 {
                return Ok(page);
            }
            let until = size.min(index.saturating_add(budget));
            let found = scan(connection, number, index..until, filter.job_id.as_ref(), left)?;
            let last_found = found.last().map(|row| key::offset_of(row.entry));
            // A full page may end before the range does.
            let seen = match last_found {
                Some(last) if found.len() == left => last + 1,
                _ => until,
            };
            budget -= (seen - index).min(budget);
            index = seen;
            page.next = Some(AuditPosition { topic_partition: partition, index: seen - 1 });
            for row in found {
                page.entries.push(row.into_entry(partition)?);
            }
        }
    }
    page.next = None;
    Ok(page)
}

/// Reads the wanted entries of a range.
fn scan(
    connection: &mut SqliteConnection,
    lane: i64,
    range: std::ops::Range<u64>,
    job_id: Option<&JobId>,
    left: usize,
) -> Result<Vec<EntryRow>, StoreError> {
    let first = key::in_lane(lane, range.start)?;
    let last = key::in_lane(lane, range.end.saturating_sub(1))?;
    let mut query = audit_entries::table
        .left_join(audit_bodies::table.on(audit_bodies::entry.eq(audit_entries::entry)))
        .filter(audit_entries::entry.between(first, last))
        .order(audit_entries::entry)
        .limit(i64::try_from(left).unwrap_or(i64::MAX))
        .select((
            audit_entries::entry,
            audit_entries::record_offset,
            audit_entries::leaf_hash,
            audit_entries::chain_hash,
            audit_entries::mark,
            audit_entries::appended_at,
            (
                audit_bodies::recorded_at,
                audit_bodies::time_type,
                audit_bodies::key,
                audit_bodies::headers,
                audit_bodies::payload,
            )
                .nullable(),
        ))
        .into_boxed();
    if let Some(job_id) = job_id {
        query = query.filter(audit_bodies::key.eq(job_id.as_str().as_bytes().to_vec()));
    }
    query.load(connection).map_err(engine)
}
