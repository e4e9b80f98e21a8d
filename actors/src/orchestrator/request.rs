//! What users ask: submit and cancel, each with its audit entry.
//!
//! Promises that an act and its `audit.action_recorded` are one write, and that a request that cannot be
//! published is refused with the field at fault.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::command::{Command, CommandKind, JobRequest, OrderKind};
use crate::event::{AuditActionRecorded, Event, JobCancelled, JobStatus, JobSubmitted, Payload};
use crate::ids::{Attempt, EventId, JobId, ResourceId, Sequence};
use crate::orchestrator::draft::{Draft, Step};
use crate::orchestrator::{Context, Decision, Refusal, is_terminal};
use crate::ports::store::{CancelRequest, Idempotency, JobRow};
use crate::record::Digest32;

/// Longest reason that is taken, so that it fits every mail, list and event it is copied to.
pub const REASON_MAX_CHARS: usize = 1000;

/// Longest idempotency key that is taken: with the longest user beside it, it still fits an index.
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 255;

/// What stands in `job.cancelled` when the user gave no reason.
const REASON_NOT_GIVEN: &str = "no reason given";

/// Creates a job.
pub(super) fn submit(
    row: Option<&JobRow>,
    command: &Command,
    context: &Context<'_>,
) -> Result<Decision, Refusal> {
    if let Some(row) = row {
        return Err(Refusal::Illegal { state: row.status, reason: "the job exists already".to_owned() });
    }
    let CommandKind::SubmitJob(request) = &command.kind else {
        return Err(wrong_kind("job.submit", command));
    };
    check_texts(command)?;
    let job_id = JobId::parse(&context.randomness.next_uuid().hyphenated().to_string())
        .expect("a UUID is an opaque identifier");
    let mut draft = Draft::create(new_row(&job_id, command, request, context), context);
    let (parameters, json_parameters) = (request.parameters.texts(), request.parameters.json_names());
    draft.lifecycle(Payload::JobSubmitted(JobSubmitted {
        agent: request.agent.clone(),
        dataset_id: request.dataset_id.clone(),
        parameters: parameters.clone(),
        json_parameters: json_parameters.clone(),
        tacc_system: request.tacc_system,
    }))?;
    let changes = object([
        ("status", json!(JobStatus::Submitted)),
        ("agent", json!(request.agent)),
        ("dataset_id", json!(request.dataset_id)),
        ("tacc_system", json!(request.tacc_system)),
        ("parameters", json!(parameters)),
        ("json_parameters", json!(json_parameters)),
    ]);
    draft.publish(audit_event(command, Some(&job_id), changes, context))?;
    draft.order(OrderKind::Submit);
    draft.idempotency(command.idempotency_key.as_ref().map(|key| Idempotency {
        user_id: command.principal.user_id.clone(),
        key: key.clone(),
        request_digest: request_digest(request),
    }));
    Ok(draft.finish())
}

fn new_row(job_id: &JobId, command: &Command, request: &JobRequest, context: &Context<'_>) -> JobRow {
    JobRow {
        job_id: job_id.clone(),
        user_id: command.principal.user_id.clone(),
        agent: request.agent.clone(),
        dataset_id: request.dataset_id.clone(),
        parameters: request.parameters.to_json(),
        tacc_system: request.tacc_system,
        home: (context.home)(job_id),
        correlation_id: command.correlation_id,
        status: JobStatus::Submitted,
        attempt: Attempt(1),
        will_retry: false,
        lifecycle_sequence: Sequence(0),
        metrics_sequence: Sequence(0),
        scheduler_job_id: None,
        samples_published: 0,
        cancel: None,
        failure: None,
        execution_time_seconds: None,
        submitted_at: command.requested_at,
        updated_at: context.now,
    }
}

/// Takes a wish to cancel; the job is cancelled once the scheduler has ended it.
pub(super) fn cancel(row: &JobRow, command: &Command, context: &Context<'_>) -> Result<Decision, Refusal> {
    let CommandKind::CancelJob { job_id } = &command.kind else {
        return Err(wrong_kind("job.cancel", command));
    };
    if *job_id != row.job_id {
        return Err(Refusal::UnknownJob);
    }
    check_texts(command)?;
    if is_terminal(row) {
        return Err(Refusal::Illegal {
            state: row.status,
            reason: "wanted a job that has not ended".to_owned(),
        });
    }
    if row.cancel.is_some() {
        return Ok(Decision::Nothing);
    }
    let wish = CancelRequest {
        cancelled_by: command.principal.user_id.clone(),
        reason: command.reason.clone().unwrap_or_else(|| REASON_NOT_GIVEN.to_owned()),
        requested_at: command.requested_at,
    };
    let changes = object([
        ("cancel_requested", json!(true)),
        ("reason", json!(wish.reason)),
        ("status", json!(row.status)),
    ]);
    let mut draft = Draft::change(row, context);
    draft.publish(audit_event(command, Some(job_id), changes, context))?;
    draft.row_mut().cancel = Some(wish.clone());
    match row.status {
        // Between two attempts there is nothing to end at the scheduler: the wish takes hold at once.
        JobStatus::Failed => draft.step(Step {
            to: JobStatus::Cancelled,
            at: context.now,
            will_retry: false,
            typed: Payload::JobCancelled(JobCancelled {
                cancelled_by: wish.cancelled_by,
                cancellation_reason: wish.reason,
                cancellation_timestamp: context.now,
                attempt: row.attempt,
            }),
        })?,
        JobStatus::Submitted | JobStatus::Queued | JobStatus::Running => draft.order(OrderKind::Cancel),
        JobStatus::Completed | JobStatus::Cancelled => {
            return Err(Refusal::Illegal { state: row.status, reason: "no attempt can follow".to_owned() });
        }
    }
    Ok(draft.finish())
}

/// Makes the audit entry of a command.
pub fn audit_event(
    command: &Command,
    job_id: Option<&JobId>,
    mut changes: Map<String, Value>,
    context: &Context<'_>,
) -> Event {
    let resource_id: ResourceId = command.kind.resource_id(job_id);
    if let Some(reason) = &command.reason {
        changes.insert("reason".to_owned(), Value::from(reason.as_str()));
    }
    Event {
        event_id: EventId(context.randomness.next_uuid()),
        timestamp: context.now,
        correlation_id: command.correlation_id,
        user_id: command.principal.user_id.clone(),
        job_id: job_id.cloned(),
        sequence: None,
        payload: Payload::AuditActionRecorded(AuditActionRecorded {
            action: command.kind.action().to_owned(),
            resource_id,
            user_id: command.principal.user_id.clone(),
            changes,
        }),
    }
}

/// Gives a digest that two requests share exactly if they ask for the same.
pub fn request_digest(request: &JobRequest) -> Digest32 {
    // Parameters are ordered by name, so their text does not depend on the order of the request.
    let parameters = request.parameters.to_json();
    let parts = [
        request.agent.as_str(),
        request.dataset_id.as_str(),
        request.tacc_system.name(),
        parameters.as_str(),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn check_texts(command: &Command) -> Result<(), Refusal> {
    if let Some(reason) = &command.reason {
        let chars = reason.chars().count();
        if chars == 0 || chars > REASON_MAX_CHARS {
            return Err(invalid("reason", format!("wanted 1..={REASON_MAX_CHARS} characters, got {chars}")));
        }
    }
    if let Some(key) = &command.idempotency_key
        && (key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX_BYTES)
    {
        let reason = format!("wanted 1..={IDEMPOTENCY_KEY_MAX_BYTES} bytes, got {}", key.len());
        return Err(invalid("idempotency_key", reason));
    }
    Ok(())
}

fn wrong_kind(wanted: &str, command: &Command) -> Refusal {
    invalid("kind", format!("wanted `{wanted}`, got `{}`", command.kind.action()))
}

fn invalid(field: &str, reason: String) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), reason }
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
