//! What people ask of the store, but for the audit log.
//!
//! Promises that one call reads at most [`ROWS_MAX`] rows.

use std::collections::BTreeMap;

use bytes::Bytes;
use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::effect::TimelineEntry;
use horizons_actors::event::{EventType, JobStatus};
use horizons_actors::ids::{EventId, Group, JobId, Offset, Sequence};
use horizons_actors::ports::query::{
    DeadLetterId, JobFilter, LaneProgress, StoredDeadLetter, StoredParkedKey, StoredRefusal,
};
use horizons_actors::ports::store::{JobRow, StoreError};
use horizons_actors::state::{JobAggregate, JobView};

use super::engine::{Connection, engine};
use super::jobs::{JobColumns, into_rows};
use super::key;
use super::lanes::{self, Lanes, StoredLane};
#[cfg(doc)]
use super::ports::ROWS_MAX;
use super::ports::limit;
use super::records::RecordColumns;
use super::schema::{
    dead_letters, job_aggregates, job_timeline, job_views, jobs, live_job_views, log_head, parked_keys,
    refusals, status_counts,
};
use super::state::{JobAggregateRow, JobViewRow, attempt, named, parsed, uuid};
use crate::db::words::Words;

/// Reads one row at most, so that the store has to show that it can.
pub(super) fn answer(connection: &mut Connection) -> Result<(), StoreError> {
    let _any: Option<i64> =
        log_head::table.select(log_head::next_offset).first(connection).optional().map_err(engine)?;
    Ok(())
}

/// Lists jobs, newest first.
pub(super) fn list_jobs(connection: &mut Connection, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
    let mut query = jobs::table.order((jobs::submitted_at.desc(), jobs::job_id.desc())).into_boxed();
    if let Some(user_id) = &filter.user_id {
        query = query.filter(jobs::user_id.eq(user_id.as_str()));
    }
    if let Some(status) = filter.status {
        query = query.filter(jobs::status.eq(status.name()));
    }
    if let Some((at, job_id)) = &filter.before {
        // The first condition is implied by the second; it lets the index be entered at the cursor.
        query = query.filter(jobs::submitted_at.le(at.as_micros())).filter(
            jobs::submitted_at
                .lt(at.as_micros())
                .or(jobs::submitted_at.eq(at.as_micros()).and(jobs::job_id.lt(job_id.as_str()))),
        );
    }
    let rows: Vec<JobColumns> = query.limit(limit(filter.limit)).load(connection).map_err(engine)?;
    into_rows(rows)
}

/// Reads the view of a job.
pub(super) fn job_view(connection: &mut Connection, job_id: &JobId) -> Result<Option<JobView>, StoreError> {
    let row: Option<JobViewRow> = job_views::table
        .filter(job_views::job_id.eq(job_id.as_str()))
        // A newer generation has a higher number.
        .order(job_views::lane.desc())
        .first(connection)
        .optional()
        .map_err(engine)?;
    row.map(JobViewRow::into_view).transpose()
}

/// Lists views of jobs that live, in order of job id.
pub(super) fn live_job_views(
    connection: &mut Connection,
    after: Option<&JobId>,
    wanted: usize,
) -> Result<Vec<JobView>, StoreError> {
    // Identifiers are never empty, so the empty text is before all of them.
    let after = after.map_or("", JobId::as_str);
    let newer = diesel::alias!(job_views as newer_views);
    let is_same = job_views::job_id.eq(live_job_views::job_id).and(job_views::lane.eq(live_job_views::lane));
    let rows: Vec<JobViewRow> = live_job_views::table
        .inner_join(job_views::table.on(is_same))
        .filter(live_job_views::job_id.gt(after))
        .filter(diesel::dsl::not(diesel::dsl::exists(
            newer
                .filter(newer.field(job_views::job_id).eq(live_job_views::job_id))
                .filter(newer.field(job_views::lane).gt(live_job_views::lane)),
        )))
        .order(live_job_views::job_id)
        .limit(limit(wanted))
        .select(job_views::all_columns)
        .load(connection)
        .map_err(engine)?;
    rows.into_iter().map(JobViewRow::into_view).collect()
}

/// The columns of a step in a job's life.
#[derive(Queryable)]
struct TimelineRow {
    job_id: String,
    _lane: i64,
    record_offset: i64,
    event_id: Vec<u8>,
    event_type: String,
    sequence: i64,
    status: String,
    attempt: i64,
    happened_at: i64,
    applied_at: i64,
    payload: Words,
}

/// Lists the steps of a job's life.
pub(super) fn timeline(
    connection: &mut Connection,
    job_id: &JobId,
    wanted: usize,
) -> Result<Vec<TimelineEntry>, StoreError> {
    let rows: Vec<TimelineRow> = job_timeline::table
        .filter(job_timeline::job_id.eq(job_id.as_str()))
        .order((job_timeline::lane, job_timeline::record_offset))
        .limit(limit(wanted))
        .load(connection)
        .map_err(engine)?;
    rows.into_iter()
        .map(|row| {
            Ok(TimelineEntry {
                job_id: parsed("job id", &row.job_id, JobId::parse)?,
                offset: Offset(row.record_offset.cast_unsigned()),
                event_id: EventId(uuid(&row.event_id)?),
                event_type: named("event type", &row.event_type, EventType::from_name)?,
                sequence: Sequence(row.sequence.cast_unsigned()),
                status: named("status", &row.status, JobStatus::from_name)?,
                attempt: attempt(row.attempt)?,
                happened_at: Timestamp::from_micros(row.happened_at),
                applied_at: Timestamp::from_micros(row.applied_at),
                payload: row.payload.into(),
            })
        })
        .collect()
}

/// Gives the lane with a number.
fn lane_of(lanes: &[StoredLane], number: i64) -> Result<&StoredLane, StoreError> {
    lanes
        .iter()
        .find(|candidate| candidate.number == number)
        .ok_or_else(|| StoreError::Unavailable(format!("lane {number} is newer than this reader")))
}

/// Lists the refusals about a job, in order of offset.
pub(super) fn list_refusals(
    connection: &mut Connection,
    lanes: &Lanes,
    job_id: &JobId,
    wanted: usize,
) -> Result<Vec<StoredRefusal>, StoreError> {
    let rows: Vec<(i64, String, Words, i64)> = refusals::table
        .filter(refusals::job_id.eq(job_id.as_str()))
        .order(refusals::refusal)
        .limit(limit(wanted))
        .select((refusals::refusal, refusals::reason, refusals::detail, refusals::refused_at))
        .load(connection)
        .map_err(engine)?;
    let lanes = lanes.sorted(connection)?;
    let mut found = Vec::with_capacity(rows.len());
    for (refusal, reason, detail, refused_at) in rows {
        found.push(StoredRefusal {
            lane: lane_of(&lanes, key::lane_of(refusal))?.lane.clone(),
            offset: Offset(key::offset_of(refusal)),
            reason,
            detail: detail.into(),
            refused_at: Timestamp::from_micros(refused_at),
        });
    }
    found.sort_by_key(|refusal| refusal.offset);
    Ok(found)
}

/// Lists the aggregates of a job, by attempt: of each partition those of the newest generation that knows the
/// attempt.
pub(super) fn aggregates(
    connection: &mut Connection,
    lanes: &Lanes,
    job_id: &JobId,
) -> Result<Vec<JobAggregate>, StoreError> {
    let rows: Vec<JobAggregateRow> = job_aggregates::table
        .filter(job_aggregates::job_id.eq(job_id.as_str()))
        .order((job_aggregates::attempt, job_aggregates::lane))
        .limit(limit(usize::MAX))
        .load(connection)
        .map_err(engine)?;
    let lanes = lanes.sorted(connection)?;
    // A newer generation has a higher number, and so comes later and replaces the older one.
    let mut found = BTreeMap::new();
    for row in rows {
        let lane = &lane_of(&lanes, row.lane)?.lane;
        let aggregate = row.into_aggregate()?;
        found.insert((aggregate.attempt, lane.clone()), aggregate);
    }
    Ok(found.into_values().collect())
}

/// Sums how many jobs entered each status.
pub(super) fn count_statuses(connection: &mut Connection) -> Result<Vec<(JobStatus, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = status_counts::table
        .select((status_counts::status, status_counts::entered))
        .load(connection)
        .map_err(engine)?;
    let counts = JobStatus::ALL.into_iter().filter_map(|status| {
        let of_status = rows.iter().filter(|(name, _)| name == status.name());
        let sum = of_status.map(|(_, entered)| entered.cast_unsigned()).reduce(u64::saturating_add)?;
        Some((status, sum))
    });
    Ok(counts.collect())
}

/// The columns of a dead letter beside its record.
#[derive(Queryable)]
struct DeadLetterRow {
    letter: i64,
    record: RecordColumns,
    reason: String,
    detail: Words,
    state: String,
    attempts: i64,
    rejected_at: i64,
    updated_at: i64,
}

/// Lists dead letters in order of lane and offset.
pub(super) fn list_dead_letters(
    connection: &mut Connection,
    lanes: &Lanes,
    group: Option<&Group>,
    after: Option<&DeadLetterId>,
    wanted: usize,
) -> Result<Vec<StoredDeadLetter>, StoreError> {
    let mut left = limit(wanted);
    let mut letters = Vec::new();
    for StoredLane { lane, generation, number } in lanes.sorted(connection)? {
        let is_before = after.is_some_and(|after| (&lane, generation) < (&after.lane, after.generation));
        if left == 0 || is_before || group.is_some_and(|group| lane.group != *group) {
            continue;
        }
        let (mut first, last) = key::lane_range(number);
        if let Some(after) = after.filter(|after| after.lane == lane && after.generation == generation) {
            first = key::in_lane(number, after.offset.0)? + 1;
        }
        let rows: Vec<DeadLetterRow> = dead_letters::table
            .filter(dead_letters::letter.between(first, last))
            .order(dead_letters::letter)
            .limit(left)
            .select((
                dead_letters::letter,
                (
                    dead_letters::recorded_at,
                    dead_letters::time_type,
                    dead_letters::key,
                    dead_letters::headers,
                    dead_letters::payload,
                ),
                dead_letters::reason,
                dead_letters::detail,
                dead_letters::state,
                dead_letters::attempts,
                dead_letters::rejected_at,
                dead_letters::updated_at,
            ))
            .load(connection)
            .map_err(engine)?;
        for row in rows {
            left -= 1;
            letters.push(StoredDeadLetter {
                lane: lane.clone(),
                generation,
                record: row.record.into_record(key::offset_of(row.letter))?,
                reason: row.reason,
                detail: row.detail.into(),
                state: row.state,
                attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
                rejected_at: Timestamp::from_micros(row.rejected_at),
                updated_at: Timestamp::from_micros(row.updated_at),
            });
        }
    }
    Ok(letters)
}

/// The columns of a parked key.
type ParkedKeyRow = (Vec<u8>, i64, String, Words, i64, String, i64);

/// Lists parked keys in order of lane and key.
pub(super) fn list_parked_keys(
    connection: &mut Connection,
    lanes: &Lanes,
    wanted: usize,
) -> Result<Vec<StoredParkedKey>, StoreError> {
    let mut left = limit(wanted);
    let mut keys = Vec::new();
    for StoredLane { lane, generation, number } in lanes.sorted(connection)? {
        if left == 0 {
            break;
        }
        let rows: Vec<ParkedKeyRow> = parked_keys::table
            .filter(parked_keys::lane.eq(number))
            .order(parked_keys::key)
            .limit(left)
            .select((
                parked_keys::key,
                parked_keys::head_offset,
                parked_keys::reason,
                parked_keys::detail,
                parked_keys::records,
                parked_keys::wish,
                parked_keys::parked_at,
            ))
            .load(connection)
            .map_err(engine)?;
        for (key, head, reason, detail, records, wish, parked_at) in rows {
            left -= 1;
            keys.push(StoredParkedKey {
                lane: lane.clone(),
                generation,
                key: Bytes::from(key),
                head: Offset(head.cast_unsigned()),
                reason,
                detail: detail.into(),
                records: records.cast_unsigned(),
                wish: lanes::wish(&wish)?,
                parked_at: Timestamp::from_micros(parked_at),
            });
        }
    }
    Ok(keys)
}

/// Lists how far every lane is, in order of lane.
pub(super) fn list_progress(
    connection: &mut Connection,
    lanes: &Lanes,
) -> Result<Vec<LaneProgress>, StoreError> {
    let mut all = Vec::new();
    for StoredLane { lane, generation, number } in lanes.sorted(connection)? {
        if let Some(progress) = lanes::read_progress(connection, number)? {
            all.push(LaneProgress {
                lane,
                generation,
                next: progress.next,
                epoch: progress.fence.epoch.0,
                revision: progress.fence.revision.0,
            });
        }
    }
    Ok(all)
}
