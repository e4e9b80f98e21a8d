//! What people ask of the store, but for the audit log.
//!
//! Promises that one call reads at most [`ROWS_MAX`] rows, and of lists no more than a page.

use std::collections::BTreeMap;

use bytes::Bytes;
use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::effect::TimelineEntry;
use horizons_actors::event::{EventType, JobStatus};
use horizons_actors::ids::{Attempt, EventId, Group, JobId, Offset, Sequence};
use horizons_actors::ports::page::{Page, PageRoom};
use horizons_actors::ports::query::{
    DeadLetterId, LaneProgress, ParkedId, StoredDeadLetter, StoredParkedKey, StoredRefusal,
};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::{JobAggregate, JobView};

use super::engine::{Backend, Connection, engine};
use super::key;
use super::lanes::{self, Lanes, StoredLane};
use super::pages::{fit, weigh, weighed_rows, weight};
#[cfg(doc)]
use super::ports::ROWS_MAX;
use super::ports::limit;
use super::records::RecordColumns;
use super::schema::{
    dead_letters, job_aggregates, job_timeline, job_views, live_job_views, log_head, parked_keys, refusals,
    status_counts,
};
use super::state::{JobAggregateRow, JobViewRow, attempt, named, parsed, uuid};
use crate::db::words::Words;

/// Reads one row at most, so that the store has to show that it can.
pub(super) fn answer(connection: &mut Connection) -> Result<(), StoreError> {
    let _any: Option<i64> =
        log_head::table.select(log_head::next_offset).first(connection).optional().map_err(engine)?;
    Ok(())
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

/// Lists the steps of a job's life, behind the first ones. Lanes are numbered as they came to be, which says nothing about
/// which of two had the job first: a job has moved where partitions were added.
pub(super) fn timeline(
    connection: &mut Connection,
    job_id: &JobId,
    skipped: usize,
    wanted: usize,
) -> Result<Page<TimelineEntry>, StoreError> {
    let mut room = PageRoom::new(wanted);
    let steps = job_timeline::table
        .filter(job_timeline::job_id.eq(job_id.as_str()))
        .order((job_timeline::sequence, job_timeline::lane, job_timeline::record_offset))
        .offset(i64::try_from(skipped).unwrap_or(i64::MAX));
    let weights: Vec<i64> = steps
        .limit(weighed_rows(&room))
        .select(weigh(weight!("payload")))
        .load(connection)
        .map_err(engine)?;
    let (fitting, has_more) = fit(&mut room, weights);
    let rows: Vec<TimelineRow> = steps.limit(fitting).load(connection).map_err(engine)?;
    let rows = rows
        .into_iter()
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
        .collect::<Result<_, StoreError>>()?;
    Ok(Page { rows, has_more })
}

/// Gives the lane with a number.
fn lane_of(lanes: &[StoredLane], number: i64) -> Result<&StoredLane, StoreError> {
    lanes
        .iter()
        .find(|candidate| candidate.number == number)
        .ok_or_else(|| StoreError::Unavailable(format!("lane {number} is newer than this reader")))
}

/// Lists the refusals about a job, in order of lane and offset, behind the first ones.
pub(super) fn list_refusals(
    connection: &mut Connection,
    lanes: &Lanes,
    job_id: &JobId,
    skipped: usize,
    wanted: usize,
) -> Result<Page<StoredRefusal>, StoreError> {
    let mut room = PageRoom::new(wanted);
    let of_job = refusals::table
        .filter(refusals::job_id.eq(job_id.as_str()))
        .order(refusals::refusal)
        .offset(i64::try_from(skipped).unwrap_or(i64::MAX));
    let weights: Vec<i64> = of_job
        .limit(weighed_rows(&room))
        .select(weigh(weight!("detail")))
        .load(connection)
        .map_err(engine)?;
    let (fitting, has_more) = fit(&mut room, weights);
    let rows: Vec<(i64, String, Words, i64)> = of_job
        .limit(fitting)
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
    Ok(Page { rows: found, has_more })
}

/// Lists the aggregates of a job, by attempt: of each partition those of the newest generation that knows the
/// attempt.
pub(super) fn aggregates(
    connection: &mut Connection,
    lanes: &Lanes,
    job_id: &JobId,
    after: Option<Attempt>,
    wanted: usize,
) -> Result<Page<JobAggregate>, StoreError> {
    let room = PageRoom::new(wanted);
    let behind = after.map_or(-1, |after| i64::from(after.0));
    let of_job = || {
        job_aggregates::table
            .filter(job_aggregates::job_id.eq(job_id.as_str()))
            .filter(job_aggregates::attempt.gt(behind))
    };
    let mut attempts: Vec<i64> = of_job()
        .select(job_aggregates::attempt)
        .distinct()
        .order(job_aggregates::attempt)
        .limit(weighed_rows(&room))
        .load(connection)
        .map_err(engine)?;
    let has_more = attempts.len() > room.rows();
    attempts.truncate(room.rows());
    let Some(last) = attempts.last() else { return Ok(Page::default()) };
    let rows: Vec<JobAggregateRow> = of_job()
        .filter(job_aggregates::attempt.le(last))
        .order((job_aggregates::attempt, job_aggregates::lane))
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
    Ok(Page { rows: found.into_values().collect(), has_more })
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
) -> Result<Page<StoredDeadLetter>, StoreError> {
    let mut room = PageRoom::new(wanted);
    let mut page = Page::default();
    for StoredLane { lane, generation, number } in lanes.sorted(connection)? {
        let is_before = after.is_some_and(|after| (&lane, generation) < (&after.lane, after.generation));
        if page.has_more || is_before || group.is_some_and(|group| lane.group != *group) {
            continue;
        }
        let (mut first, last) = key::lane_range(number);
        if let Some(after) = after.filter(|after| after.lane == lane && after.generation == generation) {
            first = key::in_lane(number, after.offset.0)? + 1;
        }
        let of_lane =
            dead_letters::table.filter(dead_letters::letter.between(first, last)).order(dead_letters::letter);
        let weights: Vec<i64> = of_lane
            .limit(weighed_rows(&room))
            .select(weigh(weight!("key", "headers", "payload", "detail")))
            .load(connection)
            .map_err(engine)?;
        let (fitting, has_more) = fit(&mut room, weights);
        page.has_more = has_more;
        let rows: Vec<DeadLetterRow> = of_lane
            .limit(fitting)
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
            page.rows.push(StoredDeadLetter {
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
    Ok(page)
}

/// The columns of a parked key.
type ParkedKeyRow = (Vec<u8>, i64, String, Words, i64, String, i64);

/// Lists parked keys in order of lane and key, behind one.
pub(super) fn list_parked_keys(
    connection: &mut Connection,
    lanes: &Lanes,
    after: Option<&ParkedId>,
    wanted: usize,
) -> Result<Page<StoredParkedKey>, StoreError> {
    let mut room = PageRoom::new(wanted);
    let mut page = Page::default();
    for StoredLane { lane, generation, number } in lanes.sorted(connection)? {
        let is_before = after.is_some_and(|after| (&lane, generation) < (&after.lane, after.generation));
        if page.has_more || is_before {
            continue;
        }
        let behind = after.filter(|after| after.lane == lane && after.generation == generation);
        let of_lane = || {
            let all = parked_keys::table.filter(parked_keys::lane.eq(number)).order(parked_keys::key);
            match behind {
                None => all.into_boxed::<Backend>(),
                Some(after) => all.filter(parked_keys::key.gt(after.key.as_ref())).into_boxed(),
            }
        };
        let weights: Vec<i64> = of_lane()
            .limit(weighed_rows(&room))
            .select(weigh(weight!("key", "detail")))
            .load(connection)
            .map_err(engine)?;
        let (fitting, has_more) = fit(&mut room, weights);
        page.has_more = has_more;
        let rows: Vec<ParkedKeyRow> = of_lane()
            .limit(fitting)
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
            page.rows.push(StoredParkedKey {
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
    Ok(page)
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
