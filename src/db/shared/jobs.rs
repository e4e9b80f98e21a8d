//! The orchestrator's rows: jobs, which event carries a sequence, orders and idempotency keys (design D18).
//!
//! Promises that a refusal (conflict, repeated key, disk limit) is found before anything is written.

use diesel::prelude::*;
use diesel::sql_types::Bool;
use horizons_actors::clock::Timestamp;
use horizons_actors::command::{Order, OrderKind};
use horizons_actors::event::{JobStatus, TaccSystem};
use horizons_actors::ids::{
    AgentName, CorrelationId, DatasetId, JobId, Partition, SchedulerJobId, Sequence, Topic, UserId,
};
use horizons_actors::layout::Layout;
use horizons_actors::ports::store::{
    CancelRequest, Idempotency, JobExpectation, JobFailure, JobRow, JobWrite, JobWritten, OrderAnswer,
    OrderPlace, OutgoingEvent, StoreError,
};
use horizons_actors::ports::wishes::Wished;
use horizons_actors::state::JobHome;

use super::effects::write_orders;
use super::engine::{Connection, engine, insert_or_ignore};
use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::records::Outgoing;
use super::schema::{idempotency_keys, job_events, jobs, orders};
use super::state::{attempt, named, parsed, uuid};
use crate::db::error::unreadable;
use crate::db::words::{Words, WordsRef};

#[derive(Queryable, Insertable, AsChangeset)]
#[diesel(table_name = jobs, treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct JobColumns {
    job_id: String,
    user_id: String,
    agent: String,
    dataset_id: String,
    parameters: Words,
    tacc_system: String,
    correlation_id: Vec<u8>,
    status: String,
    attempt: i64,
    will_retry: bool,
    is_live: bool,
    lifecycle_sequence: i64,
    metrics_sequence: i64,
    scheduler_job_id: Option<String>,
    samples_published: i64,
    cancelled_by: Option<String>,
    cancel_reason: Option<Words>,
    cancel_requested_at: Option<i64>,
    error_code: Option<Words>,
    error_message: Option<Words>,
    execution_time_seconds: Option<f64>,
    submitted_at: i64,
    updated_at: i64,
    lifecycle_partition: Option<i64>,
    metrics_partition: Option<i64>,
}

/// Gives the home of a job as its row says.
pub(super) fn home(
    job_id: &JobId,
    lifecycle: Option<i64>,
    metrics: Option<i64>,
) -> Result<JobHome, StoreError> {
    let read = |number: i64| {
        u16::try_from(number).map(Partition).map_err(|_| unreadable("partition of a job", number))
    };
    let first = JobHome::by(job_id, Layout::first_of);
    Ok(JobHome {
        lifecycle: lifecycle.map(read).transpose()?.unwrap_or(first.lifecycle),
        metrics: metrics.map(read).transpose()?.unwrap_or(first.metrics),
    })
}

impl JobColumns {
    fn new(row: &JobRow) -> Result<Self, StoreError> {
        if row.execution_time_seconds.is_some_and(f64::is_nan) {
            return Err(StoreError::Data("wanted a number of seconds, got NaN".to_owned()));
        }
        Ok(Self {
            job_id: row.job_id.as_str().to_owned(),
            user_id: row.user_id.as_str().to_owned(),
            agent: row.agent.as_str().to_owned(),
            dataset_id: row.dataset_id.as_str().to_owned(),
            parameters: Words::of(&row.parameters),
            tacc_system: row.tacc_system.name().to_owned(),
            correlation_id: row.correlation_id.0.as_bytes().to_vec(),
            status: row.status.name().to_owned(),
            attempt: i64::from(row.attempt.0),
            will_retry: row.will_retry,
            is_live: !row.status.is_attempt_end() || row.will_retry,
            lifecycle_sequence: row.lifecycle_sequence.0.cast_signed(),
            metrics_sequence: row.metrics_sequence.0.cast_signed(),
            scheduler_job_id: row.scheduler_job_id.as_ref().map(|id| id.as_str().to_owned()),
            samples_published: row.samples_published.cast_signed(),
            cancelled_by: row.cancel.as_ref().map(|cancel| cancel.cancelled_by.as_str().to_owned()),
            cancel_reason: row.cancel.as_ref().map(|cancel| Words::of(&cancel.reason)),
            cancel_requested_at: row.cancel.as_ref().map(|cancel| cancel.requested_at.as_micros()),
            error_code: row.failure.as_ref().map(|failure| Words::of(&failure.error_code)),
            error_message: row.failure.as_ref().map(|failure| Words::of(&failure.error_message)),
            execution_time_seconds: row.execution_time_seconds,
            submitted_at: row.submitted_at.as_micros(),
            updated_at: row.updated_at.as_micros(),
            lifecycle_partition: Some(i64::from(row.home.lifecycle.0)),
            metrics_partition: Some(i64::from(row.home.metrics.0)),
        })
    }

    /// Gives the job.
    pub(super) fn into_row(self) -> Result<JobRow, StoreError> {
        let cancel = match (self.cancelled_by, self.cancel_reason, self.cancel_requested_at) {
            (Some(by), Some(reason), Some(at)) => Some(CancelRequest {
                cancelled_by: parsed("user id", &by, UserId::parse)?,
                reason: reason.into(),
                requested_at: Timestamp::from_micros(at),
            }),
            _ => None,
        };
        let failure = match (self.error_code, self.error_message) {
            (Some(error_code), Some(error_message)) => {
                Some(JobFailure { error_code: error_code.into(), error_message: error_message.into() })
            }
            _ => None,
        };
        let job_id = parsed("job id", &self.job_id, JobId::parse)?;
        Ok(JobRow {
            home: home(&job_id, self.lifecycle_partition, self.metrics_partition)?,
            job_id,
            user_id: parsed("user id", &self.user_id, UserId::parse)?,
            agent: parsed("agent", &self.agent, AgentName::parse)?,
            dataset_id: parsed("data set", &self.dataset_id, DatasetId::parse)?,
            parameters: self.parameters.into(),
            tacc_system: named("system", &self.tacc_system, TaccSystem::from_name)?,
            correlation_id: CorrelationId(uuid(&self.correlation_id)?),
            status: named("status", &self.status, JobStatus::from_name)?,
            attempt: attempt(self.attempt)?,
            will_retry: self.will_retry,
            lifecycle_sequence: Sequence(self.lifecycle_sequence.cast_unsigned()),
            metrics_sequence: Sequence(self.metrics_sequence.cast_unsigned()),
            scheduler_job_id: self
                .scheduler_job_id
                .map(|id| parsed("scheduler job id", &id, SchedulerJobId::parse))
                .transpose()?,
            samples_published: self.samples_published.cast_unsigned(),
            cancel,
            failure,
            execution_time_seconds: self.execution_time_seconds,
            submitted_at: Timestamp::from_micros(self.submitted_at),
            updated_at: Timestamp::from_micros(self.updated_at),
        })
    }
}

/// Gives jobs of rows.
pub(super) fn into_rows(rows: Vec<JobColumns>) -> Result<Vec<JobRow>, StoreError> {
    rows.into_iter().map(JobColumns::into_row).collect()
}

/// Looks whether an idempotency key was used before; the round waited for whoever was using it.
fn repeated(
    connection: &mut Connection,
    idempotency: &Idempotency,
) -> Result<Option<JobWritten>, StoreError> {
    let used: Option<(Vec<u8>, String)> = idempotency_keys::table
        .filter(idempotency_keys::user_id.eq(idempotency.user_id.as_str()))
        .filter(idempotency_keys::key.eq(WordsRef(&idempotency.key)))
        .select((idempotency_keys::request_digest, idempotency_keys::job_id))
        .first(connection)
        .optional()
        .map_err(engine)?;
    let Some((request_digest, job_id)) = used else { return Ok(None) };
    let job_id = parsed("job id", &job_id, JobId::parse)?;
    Ok(Some(if request_digest == idempotency.request_digest {
        JobWritten::Repeated(job_id)
    } else {
        JobWritten::KeyReused(job_id)
    }))
}

/// Writes one transaction of the orchestrator's, without its records.
///
/// *Errors*: [`StoreError::Conflict`] when an order to answer does not exist; then nothing was written.
fn write(connection: &mut Connection, write: &JobWrite) -> Result<JobWritten, StoreError> {
    for (order, _) in &write.answered {
        if !write.orders.contains(order) {
            find_order(connection, order)?;
        }
    }
    let columns = JobColumns::new(&write.row)?;
    let job = jobs::table.filter(jobs::job_id.eq(write.row.job_id.as_str()));
    match write.expectation {
        JobExpectation::New => {
            let known: Option<String> =
                job.select(jobs::job_id).first(connection).optional().map_err(engine)?;
            if known.is_some() {
                return Ok(JobWritten::Conflict);
            }
            // Another process may have made it since.
            if insert_or_ignore!(connection, jobs::table, &columns) == 0 {
                return Ok(JobWritten::Conflict);
            }
        }
        JobExpectation::Sequences { lifecycle, metrics } => {
            let knows_wish = write.row.cancel.is_some();
            let changed = diesel::update(
                job.filter(jobs::lifecycle_sequence.eq(lifecycle.0.cast_signed()))
                    .filter(jobs::metrics_sequence.eq(metrics.0.cast_signed()))
                    .filter(jobs::cancel_requested_at.is_null().or(knows_wish.into_sql::<Bool>())),
            )
            .set(&columns)
            .execute(connection)
            .map_err(engine)?;
            if changed == 0 {
                return Ok(JobWritten::Conflict);
            }
        }
    }
    for event in &write.events {
        remember(connection, event)?;
    }
    write_orders(connection, &write.orders)?;
    for (order, answer) in &write.answered {
        answer_order(connection, order, answer)?;
    }
    if let Some(idempotency) = &write.idempotency {
        diesel::insert_into(idempotency_keys::table)
            .values((
                idempotency_keys::user_id.eq(idempotency.user_id.as_str()),
                idempotency_keys::key.eq(WordsRef(&idempotency.key)),
                idempotency_keys::request_digest.eq(idempotency.request_digest.as_slice()),
                idempotency_keys::job_id.eq(write.row.job_id.as_str()),
                idempotency_keys::created_at.eq(write.row.updated_at.as_micros()),
            ))
            .execute(connection)
            .map_err(engine)?;
    }
    Ok(JobWritten::Written)
}

/// Remembers which event carries a lifecycle sequence.
fn remember(connection: &mut Connection, outgoing: &OutgoingEvent) -> Result<(), StoreError> {
    let event = &outgoing.event;
    let (Topic::JobLifecycle, Some(job_id), Some(sequence)) =
        (event.topic(), event.job_id.as_ref(), event.sequence)
    else {
        return Ok(());
    };
    diesel::insert_into(job_events::table)
        .values((
            job_events::job_id.eq(job_id.as_str()),
            job_events::sequence.eq(sequence.0.cast_signed()),
            job_events::event_id.eq(event.event_id.0.as_bytes().as_slice()),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Checks that an order exists.
fn find_order(connection: &mut Connection, order: &Order) -> Result<(), StoreError> {
    let number: Option<i64> = orders::table
        .filter(orders::job_id.eq(order.job_id.as_str()))
        .filter(orders::attempt.eq(i64::from(order.attempt.0)))
        .filter(orders::kind.eq(order.kind.name()))
        .select(orders::number)
        .first(connection)
        .optional()
        .map_err(engine)?;
    match number {
        Some(_) => Ok(()),
        None => Err(StoreError::Conflict(format!(
            "no order to {} attempt {} of job `{}`",
            order.kind.name(),
            order.attempt,
            order.job_id
        ))),
    }
}

/// Answers an order; the first answer stays.
///
/// *Errors*: [`StoreError::Conflict`] when there is no such order; nothing was written.
fn answer_order(connection: &mut Connection, order: &Order, answer: &OrderAnswer) -> Result<(), StoreError> {
    let refusal = match answer {
        OrderAnswer::Done => None,
        OrderAnswer::Refused(reason) => Some(WordsRef(reason)),
    };
    let answered = diesel::update(
        orders::table
            .filter(orders::job_id.eq(order.job_id.as_str()))
            .filter(orders::attempt.eq(i64::from(order.attempt.0)))
            .filter(orders::kind.eq(order.kind.name()))
            .filter(orders::is_answered.eq(false)),
    )
    .set((orders::is_answered.eq(true), orders::refusal.eq(refusal)))
    .execute(connection)
    .map_err(engine)?;
    if answered == 1 { Ok(()) } else { find_order(connection, order) }
}

/// Reads one job.
pub(super) fn read(connection: &mut Connection, job_id: &JobId) -> Result<Option<JobRow>, StoreError> {
    let row: Option<JobColumns> =
        jobs::table.filter(jobs::job_id.eq(job_id.as_str())).first(connection).optional().map_err(engine)?;
    row.map(JobColumns::into_row).transpose()
}

/// Lists jobs that live, in order of job id.
pub(super) fn live(
    connection: &mut Connection,
    after: Option<&JobId>,
    limit: i64,
) -> Result<Vec<JobRow>, StoreError> {
    // Identifiers are never empty, so the empty text is before all of them.
    let after = after.map_or("", JobId::as_str);
    let rows: Vec<JobColumns> = jobs::table
        .filter(jobs::is_live.eq(true))
        .filter(jobs::job_id.gt(after))
        .order(jobs::job_id)
        .limit(limit)
        .load(connection)
        .map_err(engine)?;
    into_rows(rows)
}

/// Lists orders without an answer, oldest first, behind a place.
pub(super) fn open_orders(
    connection: &mut Connection,
    after: Option<OrderPlace>,
    limit: i64,
) -> Result<Vec<(OrderPlace, Order)>, StoreError> {
    let (at, number) =
        after.map_or((i64::MIN, 0), |after| (after.ordered_at.as_micros(), after.number.cast_signed()));
    let rows: Vec<(String, i64, String, i64, i64)> = orders::table
        .filter(orders::is_answered.eq(false))
        // Implied by the next one; it lets the index be entered at the place.
        .filter(orders::ordered_at.ge(at))
        .filter(orders::ordered_at.gt(at).or(orders::number.gt(number)))
        .order((orders::ordered_at, orders::number))
        .limit(limit)
        .select((orders::job_id, orders::attempt, orders::kind, orders::ordered_at, orders::number))
        .load(connection)
        .map_err(engine)?;
    rows.into_iter()
        .map(|(job_id, attempt_number, kind, ordered_at, number)| {
            let ordered_at = Timestamp::from_micros(ordered_at);
            let order = Order {
                job_id: parsed("job id", &job_id, JobId::parse)?,
                attempt: attempt(attempt_number)?,
                kind: OrderKind::from_name(&kind).ok_or_else(|| unreadable("order", &kind))?,
                ordered_at,
            };
            Ok((OrderPlace { ordered_at, number: number.cast_unsigned() }, order))
        })
        .collect()
}

/// One transaction of the orchestrator's.
pub(super) struct WriteJob(pub(super) JobWrite);

impl Operation for WriteJob {
    type Answer = JobWritten;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        let JobWrite { idempotency, expectation, row, .. } = &self.0;
        locks.names.extend(idempotency.as_ref().map(|used| format!("{}/{}", used.user_id, used.key)));
        // A new job is nobody else's yet.
        if *expectation != JobExpectation::New {
            locks.jobs.insert(row.job_id.as_str());
        }
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<JobWritten>, StoreError> {
        let job = &self.0;
        if let Some(idempotency) = &job.idempotency
            && let Some(repeated) = repeated(round.connection, idempotency)?
        {
            return Ok(Written::Done(repeated));
        }
        if job.expectation == JobExpectation::New
            && let Some(full) = round.disk_limit()?
        {
            return Ok(Written::Refused(full));
        }
        let written = match write(round.connection, job) {
            Err(conflict @ StoreError::Conflict(_)) => return Ok(Written::Refused(conflict)),
            other => other?,
        };
        if written == JobWritten::Written {
            // A job's partitions stand in its row.
            round.gathered.outbox.extend(job.events.iter().map(|event| Outgoing::Placed(&event.record)));
            // What an operator wants ended is not to wait for the next look of the process with the scheduler.
            if job.orders.iter().any(|order| order.kind == OrderKind::Cancel) {
                round.tell(Wished::Orders);
            }
        }
        Ok(Written::Done(written))
    }
}

/// The answer of an order that changes no job.
pub(super) struct AnswerOrder {
    pub(super) order: Order,
    pub(super) answer: OrderAnswer,
}

impl Operation for AnswerOrder {
    type Answer = ();

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.jobs.insert(self.order.job_id.as_str());
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<()>, StoreError> {
        match answer_order(round.connection, &self.order, &self.answer) {
            Err(conflict @ StoreError::Conflict(_)) => Ok(Written::Refused(conflict)),
            other => other.map(Written::Done),
        }
    }
}
