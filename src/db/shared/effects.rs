//! What a lane's transaction writes beside its progress, table by table.
//!
//! Promises that each kind of row is written in the order in which its behaviour made it, through cached
//! statements. Audit entries stand in [`super::audit_append`], poison and parking in [`super::parking`].

use diesel::prelude::*;
use horizons_actors::command::Order;
use horizons_actors::effect::{Effects, Refusal, TimelineEntry, Timer, TimerId};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::AuditSegment;

use super::audit_append::AuditRows;
use super::engine::{Connection, engine, insert_or_ignore, replace_rows};
use super::schema::{audit_segments, job_timeline, orders, refusals, timers};
use super::{key, parking, state};
use crate::db::words::WordsRef;

/// Writes the effects of one transaction. The outbox and the audit entries, which are only gathered here, come
/// later, with those of all others.
pub(super) fn write(
    connection: &mut Connection,
    lane: i64,
    effects: &Effects,
    audit: &mut AuditRows<'_>,
) -> Result<(), StoreError> {
    audit.gather(connection, lane, effects)?;
    for segment in &effects.audit_segments {
        write_segment(connection, lane, segment)?;
    }
    for (key, value) in &effects.states {
        state::store(connection, lane, key, value)?;
    }
    write_timeline(connection, lane, &effects.timeline)?;
    write_refusals(connection, lane, &effects.refusals)?;
    write_orders(connection, &effects.orders)?;
    // Cleared first: a timer that fired may be set anew in the same transaction.
    clear_timers(connection, lane, &effects.timers_cleared)?;
    set_timers(connection, lane, &effects.timers_set)?;
    parking::write(connection, lane, effects)
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

fn write_timeline(
    connection: &mut Connection,
    lane: i64,
    entries: &[TimelineEntry],
) -> Result<(), StoreError> {
    for entry in entries {
        let row = NewTimelineRow {
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
        };
        diesel::insert_into(job_timeline::table).values(&row).execute(connection).map_err(engine)?;
    }
    Ok(())
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

fn write_refusals(connection: &mut Connection, lane: i64, all: &[Refusal]) -> Result<(), StoreError> {
    for refusal in all {
        let row = NewRefusalRow {
            refusal: key::in_lane(lane, refusal.offset.0)?,
            event_id: refusal.event_id.0.as_bytes(),
            job_id: refusal.job_id.as_ref().map(|job_id| job_id.as_str()),
            event_type: refusal.event_type.name(),
            reason: refusal.reason,
            detail: WordsRef(&refusal.detail),
            refused_at: refusal.refused_at.as_micros(),
        };
        diesel::insert_into(refusals::table).values(&row).execute(connection).map_err(engine)?;
    }
    Ok(())
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

fn clear_timers(connection: &mut Connection, lane: i64, all: &[TimerId]) -> Result<(), StoreError> {
    for id in all {
        diesel::delete(
            timers::table
                .filter(timers::lane.eq(lane))
                .filter(timers::kind.eq(WordsRef(&id.kind)))
                .filter(timers::key.eq(WordsRef(&id.key))),
        )
        .execute(connection)
        .map_err(engine)?;
    }
    Ok(())
}

fn set_timers(connection: &mut Connection, lane: i64, all: &[Timer]) -> Result<(), StoreError> {
    for timer in all {
        let due_at = timers::due_at.eq(timer.due_at.as_micros());
        let row = (
            timers::lane.eq(lane),
            timers::kind.eq(WordsRef(&timer.id.kind)),
            timers::key.eq(WordsRef(&timer.id.key)),
            due_at,
        );
        replace_rows!(
            connection,
            timers::table,
            [row],
            key: (timers::lane, timers::kind, timers::key),
            set: due_at
        );
    }
    Ok(())
}
