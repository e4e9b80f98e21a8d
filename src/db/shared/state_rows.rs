//! Writing the behaviours' state rows, those of all lanes of a commit together.
//!
//! Promises a few statements for a commit, however many lanes it is of, where statements take many rows.

use diesel::prelude::*;
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::{StateKey, StateValue};

use super::engine::{self, Connection, engine, insert_or_ignore_rows, replace_rows};
use super::schema::{job_aggregates, job_sequences, job_views, live_job_views, status_counts};
use super::state::{AuditLogRow, JobAggregateRow, JobViewRow};

/// A job that lives.
#[derive(Insertable)]
#[diesel(table_name = live_job_views, treat_none_as_default_value = false)]
struct LiveRow<'a> {
    job_id: &'a str,
    lane: i64,
}

/// How many jobs entered a status.
#[derive(Insertable)]
#[diesel(table_name = status_counts, treat_none_as_default_value = false)]
struct StatusCountRow {
    lane: i64,
    status: &'static str,
    entered: i64,
}

/// The last sequence of a job that a lane has taken.
#[derive(Insertable)]
#[diesel(table_name = job_sequences, treat_none_as_default_value = false)]
struct SequenceRow<'a> {
    job_id: &'a str,
    lane: i64,
    last_sequence: i64,
}

/// Rows of state that a commit writes.
#[derive(Default)]
pub(super) struct StateRows<'a> {
    audit_logs: Vec<AuditLogRow>,
    views: Vec<JobViewRow>,
    live: Vec<LiveRow<'a>>,
    ended: Vec<(i64, &'a str)>,
    aggregates: Vec<JobAggregateRow>,
    counts: Vec<StatusCountRow>,
    sequences: Vec<SequenceRow<'a>>,
}

impl<'a> StateRows<'a> {
    /// Takes the rows of a lane. No key comes twice.
    pub(super) fn gather(
        &mut self,
        lane: i64,
        states: &'a [(StateKey, StateValue)],
    ) -> Result<(), StoreError> {
        for (key, value) in states {
            match (key, value) {
                (StateKey::AuditLog, StateValue::AuditLog(state)) => {
                    self.audit_logs.push(AuditLogRow::new(lane, state));
                }
                (StateKey::JobView(job_id), StateValue::JobView(view)) if *job_id == view.job_id => {
                    self.views.push(JobViewRow::new(lane, view));
                    if view.is_terminal() {
                        self.ended.push((lane, view.job_id.as_str()));
                    } else {
                        self.live.push(LiveRow { job_id: view.job_id.as_str(), lane });
                    }
                }
                (StateKey::JobAggregate(job_id, attempt), StateValue::JobAggregate(aggregate))
                    if *job_id == aggregate.job_id && *attempt == aggregate.attempt =>
                {
                    self.aggregates.push(JobAggregateRow::new(lane, aggregate)?);
                }
                (StateKey::StatusCount(status), StateValue::StatusCount(entered)) => {
                    let entered = entered.cast_signed();
                    self.counts.push(StatusCountRow { lane, status: status.name(), entered });
                }
                (StateKey::LastSequence(job_id), StateValue::LastSequence(last)) => {
                    let last_sequence = last.0.cast_signed();
                    self.sequences.push(SequenceRow { job_id: job_id.as_str(), lane, last_sequence });
                }
                (key, _) => {
                    let text = format!("a lane may not write this value under `{key:?}`");
                    return Err(StoreError::Broken(text));
                }
            }
        }
        Ok(())
    }

    /// Writes what was gathered, table by table.
    pub(super) fn write(self, connection: &mut Connection) -> Result<(), StoreError> {
        engine::store_audit_logs(connection, &self.audit_logs)?;
        store_views(connection, &self.views)?;
        insert_or_ignore_rows!(connection, live_job_views::table, &self.live);
        engine::clear_live(connection, &self.ended).map_err(engine)?;
        store_aggregates(connection, &self.aggregates)?;
        replace_rows!(
            connection,
            status_counts::table,
            &self.counts,
            key: (status_counts::lane, status_counts::status),
            set: [status_counts::entered]
        );
        replace_rows!(
            connection,
            job_sequences::table,
            &self.sequences,
            key: (job_sequences::job_id, job_sequences::lane),
            set: [job_sequences::last_sequence]
        );
        Ok(())
    }
}

fn store_views(connection: &mut Connection, views: &[JobViewRow]) -> Result<(), StoreError> {
    replace_rows!(
        connection,
        job_views::table,
        views,
        key: (job_views::job_id, job_views::lane),
        set: [
            job_views::is_owned,
            job_views::user_id,
            job_views::agent,
            job_views::tacc_system,
            job_views::status,
            job_views::attempt,
            job_views::will_retry,
            job_views::is_confirmed,
            job_views::last_sequence,
            job_views::last_event_id,
            job_views::submitted_at,
            job_views::status_since,
            job_views::updated_at,
        ]
    );
    Ok(())
}

fn store_aggregates(connection: &mut Connection, aggregates: &[JobAggregateRow]) -> Result<(), StoreError> {
    replace_rows!(
        connection,
        job_aggregates::table,
        aggregates,
        key: (job_aggregates::job_id, job_aggregates::attempt, job_aggregates::lane),
        set: [
            job_aggregates::cpu_count,
            job_aggregates::cpu_sum,
            job_aggregates::cpu_min,
            job_aggregates::cpu_max,
            job_aggregates::memory_count,
            job_aggregates::memory_sum,
            job_aggregates::memory_min,
            job_aggregates::memory_max,
            job_aggregates::io_count,
            job_aggregates::io_sum,
            job_aggregates::io_min,
            job_aggregates::io_max,
            job_aggregates::time_count,
            job_aggregates::time_sum,
            job_aggregates::time_min,
            job_aggregates::time_max,
            job_aggregates::last_sequence,
            job_aggregates::summary_cpu,
            job_aggregates::summary_memory,
            job_aggregates::summary_io,
            job_aggregates::summary_time,
            job_aggregates::updated_at,
        ]
    );
    Ok(())
}

/// Removes a row of a lane whose job another lane goes on with.
pub(super) fn remove(connection: &mut Connection, lane: i64, key: &StateKey) -> Result<(), StoreError> {
    match key {
        StateKey::JobView(job_id) => {
            let live = live_job_views::table
                .filter(live_job_views::job_id.eq(job_id.as_str()))
                .filter(live_job_views::lane.eq(lane));
            diesel::delete(live).execute(connection).map_err(engine)?;
            let view = job_views::table
                .filter(job_views::job_id.eq(job_id.as_str()))
                .filter(job_views::lane.eq(lane));
            diesel::delete(view).execute(connection).map_err(engine)?;
        }
        StateKey::JobAggregate(job_id, attempt) => {
            let aggregate = job_aggregates::table
                .filter(job_aggregates::job_id.eq(job_id.as_str()))
                .filter(job_aggregates::attempt.eq(i64::from(attempt.0)))
                .filter(job_aggregates::lane.eq(lane));
            diesel::delete(aggregate).execute(connection).map_err(engine)?;
        }
        StateKey::LastSequence(job_id) => {
            let sequence = job_sequences::table
                .filter(job_sequences::job_id.eq(job_id.as_str()))
                .filter(job_sequences::lane.eq(lane));
            diesel::delete(sequence).execute(connection).map_err(engine)?;
        }
        StateKey::AuditLog
        | StateKey::LifecycleOwner(..)
        | StateKey::JobHome(_)
        | StateKey::StatusCount(_) => {
            return Err(StoreError::Broken(format!("state row `{key:?}` goes nowhere")));
        }
    }
    Ok(())
}
