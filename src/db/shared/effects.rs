//! What a lane's transaction writes beside its progress, table by table.
//!
//! Promises that each kind of row is written in the order in which its behaviour made it, through cached
//! statements, and that what most transactions write is written for all lanes of a commit together. Audit entries stand in [`super::audit_append`], poison and parking in [`super::parking`].

use std::collections::{BTreeMap, HashSet};

use diesel::prelude::*;
use horizons_actors::command::Order;
use horizons_actors::effect::{
    Effects, RETIRED_ENTRIES, Refusal, RetiredView, Retirement, TimelineEntry, Timer, TimerId,
};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::AuditSegment;

use super::audit_append::AuditRows;
use super::engine::{
    Connection, clear_live, clear_timers, engine, insert_borrowed, insert_or_ignore, replace_rows,
};
use super::lanes::{self, Seen};
use super::schema::{audit_segments, job_timeline, job_views, orders, refusals, timers};
use super::state_rows::StateRows;
use super::{key, parking, trials};
use crate::db::words::WordsRef;

/// Rows that the lanes of one commit write together.
#[derive(Default)]
pub(super) struct LaneRows<'a> {
    lanes: HashSet<i64>,
    states: StateRows<'a>,
    timeline: Vec<NewTimelineRow<'a>>,
    refusals: Vec<NewRefusalRow<'a>>,
}

impl<'a> LaneRows<'a> {
    /// Tells whether a lane's rows are among these: what it writes next must be written after them.
    pub(super) fn has(&self, lane: i64) -> bool {
        self.lanes.contains(&lane)
    }

    fn gather(&mut self, lane: i64, effects: &'a Effects) -> Result<(), StoreError> {
        self.lanes.insert(lane);
        self.states.gather(lane, &effects.states)?;
        self.timeline.extend(effects.timeline.iter().map(|entry| timeline_row(lane, entry)));
        for refusal in &effects.refusals {
            self.refusals.push(refusal_row(lane, refusal)?);
        }
        Ok(())
    }

    /// Writes what was gathered, table by table.
    pub(super) fn write(self, connection: &mut Connection) -> Result<(), StoreError> {
        self.states.write(connection)?;
        insert_borrowed!(connection, job_timeline::table, self.timeline);
        insert_borrowed!(connection, refusals::table, self.refusals);
        Ok(())
    }
}

/// Writes what is rare of the effects of one transaction, and gathers the rest in `rows` and `audit`. The outbox
/// comes later, with that of all others.
pub(super) fn write<'a>(
    connection: &mut Connection,
    lane: i64,
    effects: &'a Effects,
    seen: &Seen,
    rows: &mut LaneRows<'a>,
    audit: &mut AuditRows<'_>,
) -> Result<(), StoreError> {
    audit.gather(connection, lane, effects, seen)?;
    rows.gather(lane, effects)?;
    for segment in &effects.audit_segments {
        write_segment(connection, lane, segment)?;
    }
    retire_views(connection, lane, &effects.views_retired)?;
    write_orders(connection, &effects.orders)?;
    if let Some(reason) = &effects.held_because {
        lanes::hold(connection, lane, reason)?;
    }
    // Cleared first: a timer that fired may be set anew in the same transaction.
    clear_timers(connection, lane, &effects.timers_cleared).map_err(engine)?;
    set_timers(connection, lane, &effects.timers_set)?;
    for settled in &effects.trials_settled {
        trials::settle(connection, lane, settled)?;
    }
    parking::write(connection, lane, effects)
}

/// Retires views, with so much of their timelines as goes at once.
fn retire_views(connection: &mut Connection, lane: i64, retired: &[RetiredView]) -> Result<(), StoreError> {
    let mut left = RETIRED_ENTRIES;
    for RetiredView { job_id, retirement } in retired {
        let job_id = job_id.as_str();
        clear_live(connection, &[(lane, job_id)]).map_err(engine)?;
        if *retirement == Retirement::Silent || left == 0 {
            continue;
        }
        let of_job =
            job_timeline::table.filter(job_timeline::job_id.eq(job_id)).filter(job_timeline::lane.eq(lane));
        let sequences: Vec<i64> = of_job
            .order((job_timeline::sequence, job_timeline::lane, job_timeline::record_offset))
            .limit(i64::try_from(left).unwrap_or(i64::MAX))
            .select(job_timeline::sequence)
            .load(connection)
            .map_err(engine)?;
        if let Some(last) = sequences.last() {
            diesel::delete(of_job.filter(job_timeline::sequence.le(last)))
                .execute(connection)
                .map_err(engine)?;
        }
        left -= sequences.len();
        if left > 0 {
            let view = job_views::table.filter(job_views::job_id.eq(job_id)).filter(job_views::lane.eq(lane));
            diesel::delete(view).execute(connection).map_err(engine)?;
        }
    }
    Ok(())
}

/// Writes a closed segment.
fn write_segment(connection: &mut Connection, lane: i64, segment: &AuditSegment) -> Result<(), StoreError> {
    let Some((end_index, closed_at)) = segment.closed else {
        return Err(StoreError::Broken(format!("segment {} is not closed", segment.number)));
    };
    diesel::insert_into(audit_segments::table)
        .values((
            audit_segments::lane.eq(lane),
            audit_segments::number.eq(segment.number.cast_signed()),
            audit_segments::first_index.eq(segment.first_index.cast_signed()),
            audit_segments::end_index.eq(end_index.cast_signed()),
            audit_segments::opened_at.eq(segment.opened_at.as_micros()),
            audit_segments::closed_at.eq(closed_at.as_micros()),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

#[derive(Insertable)]
#[diesel(table_name = job_timeline, treat_none_as_default_value = false)]
struct NewTimelineRow<'a> {
    job_id: &'a str,
    lane: i64,
    record_offset: i64,
    event_id: &'a [u8],
    event_type: &'a str,
    sequence: i64,
    status: &'a str,
    attempt: i64,
    happened_at: i64,
    applied_at: i64,
    payload: WordsRef<'a>,
}

fn timeline_row(lane: i64, entry: &TimelineEntry) -> NewTimelineRow<'_> {
    NewTimelineRow {
        job_id: entry.job_id.as_str(),
        lane,
        record_offset: entry.offset.0.cast_signed(),
        event_id: entry.event_id.0.as_bytes(),
        event_type: entry.event_type.name(),
        sequence: entry.sequence.0.cast_signed(),
        status: entry.status.name(),
        attempt: i64::from(entry.attempt.0),
        happened_at: entry.happened_at.as_micros(),
        applied_at: entry.applied_at.as_micros(),
        payload: WordsRef(&entry.payload),
    }
}

#[derive(Insertable)]
#[diesel(table_name = refusals, treat_none_as_default_value = false)]
struct NewRefusalRow<'a> {
    refusal: i64,
    event_id: &'a [u8],
    job_id: Option<&'a str>,
    event_type: &'a str,
    reason: &'a str,
    detail: WordsRef<'a>,
    refused_at: i64,
}

fn refusal_row(lane: i64, refusal: &Refusal) -> Result<NewRefusalRow<'_>, StoreError> {
    Ok(NewRefusalRow {
        refusal: key::in_lane(lane, refusal.offset.0)?,
        event_id: refusal.event_id.0.as_bytes(),
        job_id: refusal.job_id.as_ref().map(|job_id| job_id.as_str()),
        event_type: refusal.event_type.name(),
        reason: refusal.reason,
        detail: WordsRef(&refusal.detail),
        refused_at: refusal.refused_at.as_micros(),
    })
}

/// Writes orders; one that exists stays as it is.
pub(super) fn write_orders(connection: &mut Connection, all: &[Order]) -> Result<(), StoreError> {
    for order in all {
        insert_or_ignore!(
            connection,
            orders::table,
            (
                orders::job_id.eq(order.job_id.as_str()),
                orders::attempt.eq(i64::from(order.attempt.0)),
                orders::kind.eq(order.kind.name()),
                orders::ordered_at.eq(order.ordered_at.as_micros()),
                orders::is_answered.eq(false),
            )
        );
    }
    Ok(())
}

#[derive(Insertable)]
#[diesel(table_name = timers, treat_none_as_default_value = false)]
struct NewTimerRow<'a> {
    lane: i64,
    kind: WordsRef<'a>,
    key: WordsRef<'a>,
    due_at: i64,
}

fn set_timers(connection: &mut Connection, lane: i64, all: &[Timer]) -> Result<(), StoreError> {
    // Where a timer is set twice, the last one counts.
    let latest: BTreeMap<&TimerId, i64> =
        all.iter().map(|timer| (&timer.id, timer.due_at.as_micros())).collect();
    let rows: Vec<NewTimerRow<'_>> = latest
        .into_iter()
        .map(|(id, due_at)| NewTimerRow { lane, kind: WordsRef(&id.kind), key: WordsRef(&id.key), due_at })
        .collect();
    replace_rows!(
        connection,
        timers::table,
        &rows,
        key: (timers::lane, timers::kind, timers::key),
        set: [timers::due_at]
    );
    Ok(())
}
