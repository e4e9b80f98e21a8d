//! The behaviours' state rows: what they are, and loading them by key. They are written by
//! [`super::state_rows`].

use std::collections::HashMap;

use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::event::{JobStatus, TaccSystem};
use horizons_actors::ids::{AgentName, Attempt, EventId, JobId, Offset, Sequence, UserId};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::{
    Aggregate, AttemptSummary, AuditLogState, AuditSegment, JobAggregate, JobOrigin, JobView, LifecycleOwner,
    StateKey, StateValue,
};
use uuid::Uuid;

use super::engine::{self, Connection, IS_SHARED, engine};
use super::lanes::digest;
use super::schema::{audit_logs, job_aggregates, job_events, job_sequences, job_views, jobs, status_counts};
use crate::db::error::unreadable;

/// The bytes of a digest in a row of digests.
const DIGEST_BYTES: usize = 32;

/// Loads rows of state, all of one state of the database; absent ones are left out.
pub(super) fn load_all(
    connection: &mut Connection,
    lane: i64,
    keys: Vec<StateKey>,
) -> Result<Vec<(StateKey, StateValue)>, StoreError> {
    if !IS_SHARED {
        return in_snapshot(connection, |connection| load_each(connection, lane, keys));
    }
    let wanted = Wanted::of(&keys);
    // One statement sees one state of the database by itself.
    let mut found = match wanted.statements() {
        0 | 1 => wanted.load(connection, lane)?,
        _ => in_snapshot(connection, |connection| wanted.load(connection, lane))?,
    };
    Ok(keys.into_iter().filter_map(|key| found.remove(&key).map(|value| (key, value))).collect())
}

/// Loads in a transaction of its own.
pub(super) fn in_snapshot<T>(
    connection: &mut Connection,
    load: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    engine::begin_snapshot(connection)?;
    match load(connection) {
        Ok(loaded) => {
            engine::end_snapshot(connection)?;
            Ok(loaded)
        }
        Err(error) => {
            engine::roll_back(connection);
            Err(error)
        }
    }
}

/// Loads rows one by one, through statements that are cached.
fn load_each(
    connection: &mut Connection,
    lane: i64,
    keys: Vec<StateKey>,
) -> Result<Vec<(StateKey, StateValue)>, StoreError> {
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(value) = load(connection, lane, &key)? {
            rows.push((key, value));
        }
    }
    Ok(rows)
}

/// What was loaded.
type Found = HashMap<StateKey, StateValue>;

/// What is to be loaded by one statement for each list, where each statement costs a way over the network.
#[derive(Default)]
struct Wanted<'a> {
    views: Vec<&'a str>,
    aggregates: Vec<&'a str>,
    owners: Vec<(&'a JobId, Sequence)>,
    sequences: Vec<&'a str>,
    homes: Vec<&'a str>,
    single: Vec<&'a StateKey>,
}

impl<'a> Wanted<'a> {
    fn of(keys: &'a [StateKey]) -> Self {
        let mut wanted = Self::default();
        for key in keys {
            match key {
                StateKey::JobView(job_id) => wanted.views.push(job_id.as_str()),
                StateKey::JobAggregate(job_id, _) => wanted.aggregates.push(job_id.as_str()),
                StateKey::LifecycleOwner(job_id, sequence) => wanted.owners.push((job_id, *sequence)),
                StateKey::LastSequence(job_id) => wanted.sequences.push(job_id.as_str()),
                StateKey::JobHome(job_id) => wanted.homes.push(job_id.as_str()),
                // One, or a few, and only until a lane has them in memory.
                StateKey::AuditLog | StateKey::StatusCount(_) => wanted.single.push(key),
            }
        }
        wanted
    }

    fn statements(&self) -> usize {
        let lists = [
            self.views.is_empty(),
            self.aggregates.is_empty(),
            self.owners.is_empty(),
            self.sequences.is_empty(),
            self.homes.is_empty(),
        ];
        self.single.len() + lists.into_iter().filter(|is_empty| !is_empty).count()
    }

    fn load(&self, connection: &mut Connection, lane: i64) -> Result<Found, StoreError> {
        let mut found = Found::new();
        for key in &self.single {
            if let Some(value) = load(connection, lane, key)? {
                found.insert((*key).clone(), value);
            }
        }
        if !self.views.is_empty() {
            let rows: Vec<JobViewRow> = job_views::table
                .filter(job_views::job_id.eq_any(&self.views))
                .filter(job_views::lane.eq(lane))
                .load(connection)
                .map_err(engine)?;
            for row in rows {
                let view = row.into_view()?;
                found.insert(StateKey::JobView(view.job_id.clone()), StateValue::JobView(view));
            }
        }
        if !self.aggregates.is_empty() {
            // Other attempts of the same jobs come along, and are left.
            let rows: Vec<JobAggregateRow> = job_aggregates::table
                .filter(job_aggregates::job_id.eq_any(&self.aggregates))
                .filter(job_aggregates::lane.eq(lane))
                .load(connection)
                .map_err(engine)?;
            for row in rows {
                let aggregate = row.into_aggregate()?;
                let key = StateKey::JobAggregate(aggregate.job_id.clone(), aggregate.attempt);
                found.insert(key, StateValue::JobAggregate(aggregate));
            }
        }
        if !self.sequences.is_empty() {
            let rows: Vec<(String, i64)> = job_sequences::table
                .filter(job_sequences::job_id.eq_any(&self.sequences))
                .filter(job_sequences::lane.eq(lane))
                .select((job_sequences::job_id, job_sequences::last_sequence))
                .load(connection)
                .map_err(engine)?;
            for (job_id, last) in rows {
                let key = StateKey::LastSequence(parsed("job id", &job_id, JobId::parse)?);
                found.insert(key, StateValue::LastSequence(Sequence(last.cast_unsigned())));
            }
        }
        if !self.homes.is_empty() {
            let rows: Vec<(String, Option<i64>, Option<i64>)> = jobs::table
                .filter(jobs::job_id.eq_any(&self.homes))
                .select((jobs::job_id, jobs::lifecycle_partition, jobs::metrics_partition))
                .load(connection)
                .map_err(engine)?;
            for (job_id, lifecycle, metrics) in rows {
                let job_id = parsed("job id", &job_id, JobId::parse)?;
                let home = super::jobs::home(&job_id, lifecycle, metrics)?;
                found.insert(StateKey::JobHome(job_id), StateValue::JobHome(home));
            }
        }
        if !self.owners.is_empty() {
            let owners = engine::load_owners(connection, &self.owners)?;
            for ((job_id, sequence), owner) in self.owners.iter().zip(owners) {
                if let Some(owner) = owner {
                    let key = StateKey::LifecycleOwner((*job_id).clone(), *sequence);
                    found.insert(key, StateValue::LifecycleOwner(owner));
                }
            }
        }
        Ok(found)
    }
}

/// Loads one row of state.
fn load(connection: &mut Connection, lane: i64, key: &StateKey) -> Result<Option<StateValue>, StoreError> {
    match key {
        StateKey::AuditLog => Ok(load_audit_log(connection, lane)?.map(StateValue::AuditLog)),
        StateKey::JobView(job_id) => {
            let row: Option<JobViewRow> = job_views::table
                .filter(job_views::job_id.eq(job_id.as_str()))
                .filter(job_views::lane.eq(lane))
                .first(connection)
                .optional()
                .map_err(engine)?;
            row.map(|row| row.into_view().map(StateValue::JobView)).transpose()
        }
        StateKey::LifecycleOwner(job_id, sequence) => {
            Ok(load_owner(connection, job_id, *sequence)?.map(StateValue::LifecycleOwner))
        }
        StateKey::JobHome(job_id) => {
            let row: Option<(Option<i64>, Option<i64>)> = jobs::table
                .filter(jobs::job_id.eq(job_id.as_str()))
                .select((jobs::lifecycle_partition, jobs::metrics_partition))
                .first(connection)
                .optional()
                .map_err(engine)?;
            let home = row.map(|(lifecycle, metrics)| super::jobs::home(job_id, lifecycle, metrics));
            Ok(home.transpose()?.map(StateValue::JobHome))
        }
        StateKey::JobAggregate(job_id, attempt) => {
            let row: Option<JobAggregateRow> = job_aggregates::table
                .filter(job_aggregates::job_id.eq(job_id.as_str()))
                .filter(job_aggregates::attempt.eq(i64::from(attempt.0)))
                .filter(job_aggregates::lane.eq(lane))
                .first(connection)
                .optional()
                .map_err(engine)?;
            row.map(|row| row.into_aggregate().map(StateValue::JobAggregate)).transpose()
        }
        StateKey::StatusCount(status) => {
            let entered: Option<i64> = status_counts::table
                .filter(status_counts::lane.eq(lane))
                .filter(status_counts::status.eq(status.name()))
                .select(status_counts::entered)
                .first(connection)
                .optional()
                .map_err(engine)?;
            Ok(entered.map(|entered| StateValue::StatusCount(entered.cast_unsigned())))
        }
        StateKey::LastSequence(job_id) => {
            let last: Option<i64> = job_sequences::table
                .filter(job_sequences::job_id.eq(job_id.as_str()))
                .filter(job_sequences::lane.eq(lane))
                .select(job_sequences::last_sequence)
                .first(connection)
                .optional()
                .map_err(engine)?;
            Ok(last.map(|last| StateValue::LastSequence(Sequence(last.cast_unsigned()))))
        }
    }
}

/// Loads what the orchestrator has written about one lifecycle sequence of a job.
pub(super) fn load_owner(
    connection: &mut Connection,
    job_id: &JobId,
    sequence: Sequence,
) -> Result<Option<LifecycleOwner>, StoreError> {
    let event_id: Option<Vec<u8>> = job_events::table
        .filter(job_events::job_id.eq(job_id.as_str()))
        .filter(job_events::sequence.eq(sequence.0.cast_signed()))
        .select(job_events::event_id)
        .first(connection)
        .optional()
        .map_err(engine)?;
    if let Some(bytes) = event_id {
        return Ok(Some(LifecycleOwner { event_id: Some(EventId(uuid(&bytes)?)) }));
    }
    let known: Option<String> = jobs::table
        .filter(jobs::job_id.eq(job_id.as_str()))
        .select(jobs::job_id)
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(known.map(|_| LifecycleOwner { event_id: None }))
}

#[derive(Queryable, Insertable, AsChangeset)]
#[diesel(table_name = audit_logs, treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct AuditLogRow {
    pub(super) lane: i64,
    size: i64,
    chain_head: Vec<u8>,
    frontier: Vec<u8>,
    last_offset: Option<i64>,
    segment_number: i64,
    segment_first: i64,
    segment_opened_at: i64,
}

impl AuditLogRow {
    /// Makes the row of a lane.
    pub(super) fn new(lane: i64, state: &AuditLogState) -> Self {
        Self {
            lane,
            size: state.size.cast_signed(),
            chain_head: state.chain_head.to_vec(),
            frontier: state.frontier.concat(),
            last_offset: state.last_offset.map(|offset| offset.0.cast_signed()),
            segment_number: state.segment.number.cast_signed(),
            segment_first: state.segment.first_index.cast_signed(),
            segment_opened_at: state.segment.opened_at.as_micros(),
        }
    }
}

/// Reads where an audit log stands.
pub(super) fn load_audit_log(
    connection: &mut Connection,
    lane: i64,
) -> Result<Option<AuditLogState>, StoreError> {
    let row: Option<AuditLogRow> =
        audit_logs::table.filter(audit_logs::lane.eq(lane)).first(connection).optional().map_err(engine)?;
    let Some(row) = row else { return Ok(None) };
    let (digests, []) = row.frontier.as_chunks::<DIGEST_BYTES>() else {
        return Err(unreadable("frontier", format_args!("{} bytes", row.frontier.len())));
    };
    Ok(Some(AuditLogState {
        size: row.size.cast_unsigned(),
        chain_head: digest("chain head", &row.chain_head)?,
        frontier: digests.to_vec(),
        last_offset: row.last_offset.map(|offset| Offset(offset.cast_unsigned())),
        segment: AuditSegment {
            number: row.segment_number.cast_unsigned(),
            first_index: row.segment_first.cast_unsigned(),
            opened_at: Timestamp::from_micros(row.segment_opened_at),
            closed: None,
        },
    }))
}

/// Reads 16 bytes as a UUID.
pub(super) fn uuid(bytes: &[u8]) -> Result<Uuid, StoreError> {
    Uuid::from_slice(bytes).map_err(|_| unreadable("uuid", format_args!("{} bytes", bytes.len())))
}

/// Reads a stored identifier.
pub(super) fn parsed<T, E: std::fmt::Display>(
    what: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    parse(text).map_err(|error| unreadable(what, format_args!("{text}: {error}")))
}

/// Reads a stored name of a closed set.
pub(super) fn named<T>(
    what: &str,
    name: &str,
    find: impl FnOnce(&str) -> Option<T>,
) -> Result<T, StoreError> {
    find(name).ok_or_else(|| unreadable(what, name))
}

/// Reads a stored attempt.
pub(super) fn attempt(number: i64) -> Result<Attempt, StoreError> {
    u32::try_from(number).map(Attempt).map_err(|_| unreadable("attempt", number))
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = job_views, treat_none_as_default_value = false)]
pub(super) struct JobViewRow {
    job_id: String,
    lane: i64,
    is_owned: bool,
    user_id: String,
    agent: Option<String>,
    tacc_system: Option<String>,
    status: String,
    attempt: i64,
    will_retry: bool,
    is_confirmed: bool,
    last_sequence: i64,
    last_event_id: Vec<u8>,
    submitted_at: i64,
    status_since: i64,
    updated_at: i64,
}

impl JobViewRow {
    /// Makes the row of a lane.
    pub(super) fn new(lane: i64, view: &JobView) -> Self {
        Self {
            job_id: view.job_id.as_str().to_owned(),
            lane,
            is_owned: view.origin == JobOrigin::Owned,
            user_id: view.user_id.as_str().to_owned(),
            agent: view.agent.as_ref().map(|agent| agent.as_str().to_owned()),
            tacc_system: view.tacc_system.map(|system| system.name().to_owned()),
            status: view.status.name().to_owned(),
            attempt: i64::from(view.attempt.0),
            will_retry: view.will_retry,
            is_confirmed: view.is_confirmed,
            last_sequence: view.last_sequence.0.cast_signed(),
            last_event_id: view.last_event_id.0.as_bytes().to_vec(),
            submitted_at: view.submitted_at.as_micros(),
            status_since: view.status_since.as_micros(),
            updated_at: view.updated_at.as_micros(),
        }
    }

    /// Gives the view.
    pub(super) fn into_view(self) -> Result<JobView, StoreError> {
        Ok(JobView {
            job_id: parsed("job id", &self.job_id, JobId::parse)?,
            origin: if self.is_owned { JobOrigin::Owned } else { JobOrigin::External },
            user_id: parsed("user id", &self.user_id, UserId::parse)?,
            agent: self.agent.map(|agent| parsed("agent", &agent, AgentName::parse)).transpose()?,
            tacc_system: self
                .tacc_system
                .map(|system| named("system", &system, TaccSystem::from_name))
                .transpose()?,
            status: named("status", &self.status, JobStatus::from_name)?,
            attempt: attempt(self.attempt)?,
            will_retry: self.will_retry,
            is_confirmed: self.is_confirmed,
            last_sequence: Sequence(self.last_sequence.cast_unsigned()),
            last_event_id: EventId(uuid(&self.last_event_id)?),
            submitted_at: Timestamp::from_micros(self.submitted_at),
            status_since: Timestamp::from_micros(self.status_since),
            updated_at: Timestamp::from_micros(self.updated_at),
        })
    }
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = job_aggregates, treat_none_as_default_value = false)]
pub(super) struct JobAggregateRow {
    job_id: String,
    attempt: i64,
    pub(super) lane: i64,
    cpu_count: i64,
    cpu_sum: f64,
    cpu_min: f64,
    cpu_max: f64,
    memory_count: i64,
    memory_sum: f64,
    memory_min: f64,
    memory_max: f64,
    io_count: i64,
    io_sum: f64,
    io_min: f64,
    io_max: f64,
    time_count: i64,
    time_sum: f64,
    time_min: f64,
    time_max: f64,
    last_sequence: Option<i64>,
    summary_cpu: Option<f64>,
    summary_memory: Option<f64>,
    summary_io: Option<i64>,
    summary_time: Option<f64>,
    updated_at: i64,
}

/// Refuses what SQLite would silently store as null.
fn real(number: f64) -> Result<f64, StoreError> {
    if number.is_nan() { Err(StoreError::Data("wanted a number, got NaN".to_owned())) } else { Ok(number) }
}

/// Refuses an aggregate that cannot be stored.
fn reals(aggregate: Aggregate) -> Result<Aggregate, StoreError> {
    for number in [aggregate.sum, aggregate.min, aggregate.max] {
        real(number)?;
    }
    Ok(aggregate)
}

impl JobAggregateRow {
    /// Makes the row of a lane.
    ///
    /// *Errors*: [`StoreError::Data`] for what is no number.
    pub(super) fn new(lane: i64, aggregate: &JobAggregate) -> Result<Self, StoreError> {
        let cpu = reals(aggregate.cpu_usage_percent)?;
        let memory = reals(aggregate.memory_usage_mb)?;
        let io = reals(aggregate.io_operations)?;
        let time = reals(aggregate.execution_time_seconds)?;
        let summary = aggregate.summary;
        Ok(Self {
            job_id: aggregate.job_id.as_str().to_owned(),
            attempt: i64::from(aggregate.attempt.0),
            lane,
            cpu_count: cpu.count.cast_signed(),
            cpu_sum: cpu.sum,
            cpu_min: cpu.min,
            cpu_max: cpu.max,
            memory_count: memory.count.cast_signed(),
            memory_sum: memory.sum,
            memory_min: memory.min,
            memory_max: memory.max,
            io_count: io.count.cast_signed(),
            io_sum: io.sum,
            io_min: io.min,
            io_max: io.max,
            time_count: time.count.cast_signed(),
            time_sum: time.sum,
            time_min: time.min,
            time_max: time.max,
            last_sequence: aggregate.last_sequence.map(|sequence| sequence.0.cast_signed()),
            summary_cpu: summary.map(|summary| real(summary.cpu_usage_percent)).transpose()?,
            summary_memory: summary.map(|summary| real(summary.memory_usage_mb)).transpose()?,
            summary_io: summary.map(|summary| summary.io_operations.cast_signed()),
            summary_time: summary.map(|summary| real(summary.execution_time_seconds)).transpose()?,
            updated_at: aggregate.updated_at.as_micros(),
        })
    }

    /// Gives the aggregate.
    pub(super) fn into_aggregate(self) -> Result<JobAggregate, StoreError> {
        let part = |count: i64, sum, min, max| Aggregate { count: count.cast_unsigned(), sum, min, max };
        let summary = match (self.summary_cpu, self.summary_memory, self.summary_io, self.summary_time) {
            (Some(cpu_usage_percent), Some(memory_usage_mb), Some(io), Some(execution_time_seconds)) => {
                Some(AttemptSummary {
                    cpu_usage_percent,
                    memory_usage_mb,
                    io_operations: io.cast_unsigned(),
                    execution_time_seconds,
                })
            }
            _ => None,
        };
        Ok(JobAggregate {
            job_id: parsed("job id", &self.job_id, JobId::parse)?,
            attempt: attempt(self.attempt)?,
            cpu_usage_percent: part(self.cpu_count, self.cpu_sum, self.cpu_min, self.cpu_max),
            memory_usage_mb: part(self.memory_count, self.memory_sum, self.memory_min, self.memory_max),
            io_operations: part(self.io_count, self.io_sum, self.io_min, self.io_max),
            execution_time_seconds: part(self.time_count, self.time_sum, self.time_min, self.time_max),
            last_sequence: self.last_sequence.map(|sequence| Sequence(sequence.cast_unsigned())),
            summary,
            updated_at: Timestamp::from_micros(self.updated_at),
        })
    }
}
