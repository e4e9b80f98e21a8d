//! Jobs: submit, list, show, cancel, timeline and metrics.
//!
//! Promises that a submit is answered after its commit, and that a job of another producer is shown from the
//! jobs group's view, marked `external`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::aggregator::summary_differences;
use horizons_actors::clock::Timestamp;
use horizons_actors::command::{CommandKind, JobRequest};
use horizons_actors::effect::TimelineEntry;
use horizons_actors::event::{JobStatus, TaccSystem};
use horizons_actors::ids::{
    AgentName, Attempt, AttemptId, DatasetId, IdError, JobId, JobIdBeginning, UserId,
};
use horizons_actors::parameters::{ParameterValue, Parameters};
use horizons_actors::ports::commands::{Cancelling, Submitted, Verdict};
use horizons_actors::ports::query::{JobFilter, ListedJob, StoredRefusal};
use horizons_actors::ports::store::JobRow;
use horizons_actors::state::{Aggregate, AttemptSummary, JobAggregate, JobOrigin, JobView};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use warp::http::StatusCode;
use warp::http::header::{HeaderValue, LOCATION};
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::{json_answer, with_lane};
use super::document::{Fields, invalid, shortened};
use super::error::{ApiError, IDEMPOTENCY_KEY_HEADER};
use super::gate::single;
use super::request::{ApiRequest, PAGE_MAX, bad_parameter, cursor_text};
use super::route::{Route, RouteMethod};
use crate::disk::AttemptSpace;

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Post,
        template: "/jobs",
        access: Access::Submit,
        handler: |s, r| submit(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/jobs",
        access: Access::LookAtJob,
        handler: |s, r| list(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/jobs/{job_id}",
        access: Access::LookAtJob,
        handler: |s, r| show(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/jobs/{job_id}/cancel",
        access: Access::ChangeJob,
        handler: |s, r| cancel(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/jobs/{job_id}/timeline",
        access: Access::LookAtJob,
        handler: |s, r| timeline(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/jobs/{job_id}/metrics",
        access: Access::LookAtJob,
        handler: |s, r| metrics(s, r).boxed(),
    },
];

/// Names the cursors of a job's timeline.
const TIMELINE_CURSOR: &str = "steps";

/// Names the cursors of a job's attempts.
const METRICS_CURSOR: &str = "attempts";

/// Names the cursors of this list.
const CURSOR_KIND: &str = "jobs";

/// Names the cursors of this list where it is in order of id.
const ID_CURSOR_KIND: &str = "jobs by id";

async fn submit(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let job = read_job_request(request.document()?, &request.body)?;
    let key = single(&request.headers, IDEMPOTENCY_KEY_HEADER)?.map(str::to_owned);
    let state = &shared.state;
    let kind = CommandKind::SubmitJob(job);
    let mut command = request.command(state.clock.as_ref(), state.randomness.as_ref(), None, kind);
    command.idempotency_key = key;

    let Submitted { job, is_repeat, verdict } = state.commands.submit(command).await?;
    let status = match verdict {
        Verdict::Refused { field, reason } => {
            return Err(ApiError::Refused { field, reason, job_id: job.job_id });
        }
        Verdict::Pending => StatusCode::ACCEPTED,
        Verdict::Accepted if is_repeat => StatusCode::OK,
        Verdict::Accepted => StatusCode::CREATED,
    };
    let mut answer = json_answer(status, &json!({ "job": row_json(&job) }));
    if status != StatusCode::OK {
        let segment = utf8_percent_encode(job.job_id.as_str(), NON_ALPHANUMERIC);
        let location = HeaderValue::from_str(&format!("/jobs/{segment}"));
        answer.headers_mut().insert(LOCATION, location.expect("percent-encoded text is ASCII"));
    }
    Ok(answer)
}

fn read_job_request(mut fields: Fields, body: &[u8]) -> Result<JobRequest, ApiError> {
    let agent = fields.parsed("agent", AgentName::parse)?;
    let dataset_id = fields.parsed("dataset_id", DatasetId::parse)?;
    fields.object("parameters")?;
    let parameters = read_parameters(body)?;
    let tacc_system = match fields.optional_text("tacc_system")? {
        None => TaccSystem::Local,
        Some(name) => TaccSystem::from_name(&name).ok_or_else(|| {
            let names = TaccSystem::ALL.map(TaccSystem::name).join("`, `");
            invalid("tacc_system", format!("wanted one of `{names}`, got `{}`", shortened(&name)))
        })?,
    };
    fields.finish("`agent`, `dataset_id`, `parameters`, `tacc_system`")?;
    Ok(JobRequest { agent, dataset_id, parameters, tacc_system })
}

/// The parameters of a submit, each as it is written: a number read as one would be rounded.
#[derive(Debug, Deserialize)]
struct AsWritten {
    #[serde(default)]
    parameters: Option<BTreeMap<String, Box<RawValue>>>,
}

/// Reads the parameters out of a body that was read strictly before.
fn read_parameters(body: &[u8]) -> Result<Parameters, ApiError> {
    let written: AsWritten = serde_json::from_slice(body)
        .map_err(|error| ApiError::MalformedBody { reason: error.to_string() })?;
    let read = |(name, value): (String, Box<RawValue>)| match ParameterValue::from_raw(value) {
        Ok(value) => Ok((name, value)),
        Err(error) => Err(invalid(format!("parameters.{}", shortened(&name)), error.to_string())),
    };
    written.parameters.unwrap_or_default().into_iter().map(read).collect()
}

async fn list(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["origin", "user", "status", "id_beginning", "limit", "cursor"])?;
    let limit = query.limit()?;
    let id_beginning = query.parsed("id_beginning", JobIdBeginning::parse)?;
    let cursor_kind = if id_beginning.is_some() { ID_CURSOR_KIND } else { CURSOR_KIND };
    let behind: Option<(i64, JobId)> = query.cursor(cursor_kind)?;
    let filter = JobFilter {
        origin: query.parsed("origin", parse_origin)?,
        user_id: query.parsed("user", UserId::parse)?,
        status: query.parsed("status", parse_status)?,
        id_beginning,
        behind: behind.map(|(micros, job_id)| (Timestamp::from_micros(micros), job_id)),
        limit,
    };
    let turn = shared.lists.turn().await?;
    let page = shared.state.queries.jobs(filter).await?;
    let position = |job: &ListedJob| {
        let (at, job_id) = job.position();
        cursor_text(cursor_kind, &(at.as_micros(), job_id))
    };
    let next = page.last().filter(|_| page.has_more).map(position);
    let jobs = page.iter().map(|job| match job {
        ListedJob::Owned(row) => row_json(row),
        ListedJob::External(view) => external_json(view),
    });
    Ok(turn.answer(&json!({ "jobs": jobs.collect::<Vec<_>>(), "next": next })))
}

fn parse_origin(name: &str) -> Result<JobOrigin, String> {
    let origins = [JobOrigin::Owned, JobOrigin::External];
    let found = origins.into_iter().find(|origin| origin_name(*origin) == name);
    found.ok_or_else(|| format!("wanted `owned` or `external`, got `{}`", shortened(name)))
}

fn parse_status(name: &str) -> Result<JobStatus, String> {
    JobStatus::from_name(name).ok_or_else(|| {
        let names = JobStatus::ALL.map(JobStatus::name).join("`, `");
        format!("wanted one of `{names}`, got `{}`", shortened(name))
    })
}

async fn show(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    let (row, view) = find(&shared, &job_id_of(&request)?).await?;
    let mut job = match (&row, &view) {
        (Some(row), _) => row_json(row),
        (None, Some(view)) => external_json(view),
        (None, None) => Value::Null,
    };
    let (space, trouble) = match row {
        Some(row) => {
            let id = AttemptId { job_id: row.job_id, attempt: row.attempt };
            let trouble = (shared.state.attempt_troubles)().remove(&id);
            (space_of(&shared, id).await, trouble)
        }
        None => (None, None),
    };
    if let Some(fields) = job.as_object_mut() {
        fields.insert("space".to_owned(), json!(space));
        fields.insert("trouble".to_owned(), json!(trouble));
        fields.insert("view".to_owned(), view.as_ref().map_or(Value::Null, view_json));
    }
    Ok(json_answer(StatusCode::OK, &json!({ "job": job })))
}

/// Asks what the job's attempt takes on the disk; none where its files are not here.
async fn space_of(shared: &Shared, id: AttemptId) -> Option<AttemptSpace> {
    let space_of = Arc::clone(&shared.state.attempt_space);
    // A panic in there would be ours, and costs this figure only.
    tokio::task::spawn_blocking(move || space_of(&id)).await.ok().flatten()
}

async fn cancel(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let mut fields = request.document()?;
    let reason = fields.optional_text("reason")?;
    fields.finish("`reason`")?;
    let state = &shared.state;
    let kind = CommandKind::CancelJob { job_id: job_id_of(&request)? };
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), reason, kind);

    let Cancelling { job, is_repeat } = state.commands.cancel(command).await?;
    let is_done = is_repeat || job.status == JobStatus::Cancelled;
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json_answer(status, &json!({ "job": row_json(&job) })))
}

async fn timeline(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit_or(PAGE_MAX)?;
    let (seen_steps, seen_refusals) = query.cursor::<(usize, usize)>(TIMELINE_CURSOR)?.unwrap_or_default();
    let job_id = job_id_of(&request)?;
    let turn = shared.lists.turn().await?;
    let queries = &shared.state.queries;
    let (steps, refusals) = futures_util::future::try_join(
        queries.timeline_after(job_id.clone(), seen_steps, limit),
        queries.refusals_after(job_id.clone(), seen_refusals, limit),
    )
    .await?;
    if steps.is_empty() && refusals.is_empty() {
        find(&shared, &job_id).await?;
    }
    // Both lists only grow at their ends.
    let seen = (seen_steps.saturating_add(steps.len()), seen_refusals.saturating_add(refusals.len()));
    let next = (steps.has_more || refusals.has_more).then(|| cursor_text(TIMELINE_CURSOR, &seen));
    let body = json!({
        "steps": steps.iter().map(step_json).collect::<Vec<_>>(),
        "refusals": refusals.iter().map(refusal_json).collect::<Vec<_>>(),
        "next": next,
    });
    Ok(turn.answer(&body))
}

async fn metrics(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit_or(PAGE_MAX)?;
    let after: Option<Attempt> = query.cursor(METRICS_CURSOR)?;
    let job_id = job_id_of(&request)?;
    let turn = shared.lists.turn().await?;
    let aggregates = shared.state.queries.aggregates_after(job_id.clone(), after, limit).await?;
    if aggregates.is_empty() {
        find(&shared, &job_id).await?;
    }
    let position = |last: &JobAggregate| cursor_text(METRICS_CURSOR, &last.attempt);
    let next = aggregates.last().filter(|_| aggregates.has_more).map(position);
    let attempts: Vec<Value> = aggregates.iter().map(attempt_json).collect();
    Ok(turn.answer(&json!({ "attempts": attempts, "next": next })))
}

/// Reads the job of the path; an id that cannot be one names no job.
///
/// *Errors*: `BadParameter` for a UUID in braces or as a URN, which nobody can mean as an id of its own.
pub(super) fn job_id_of(request: &ApiRequest) -> Result<JobId, ApiError> {
    let text = request.path_parameter(0);
    JobId::asked_for(text).map_err(|error| match error {
        IdError::WrappedUuid(_) => bad_parameter("job_id", error.to_string()),
        _ => no_job(text),
    })
}

fn no_job(text: &str) -> ApiError {
    ApiError::NotFound { what: format!("job `{}`", shortened(text)) }
}

/// Finds a job as the orchestrator and as the jobs group has it.
pub(super) async fn find(
    shared: &Shared,
    job_id: &JobId,
) -> Result<(Option<JobRow>, Option<JobView>), ApiError> {
    let queries = &shared.state.queries;
    let found =
        futures_util::future::try_join(queries.job(job_id.clone()), queries.job_view(job_id.clone())).await?;
    match found {
        (None, None) => Err(no_job(job_id.as_str())),
        found => Ok(found),
    }
}

fn row_json(row: &JobRow) -> Value {
    // Stored text that is no JSON would be our bug; it is shown as it is rather than hidden.
    let (parameters, json_parameters) = match Parameters::from_json(&row.parameters) {
        Ok(parameters) => (json!(parameters.texts()), json!(parameters.json_names())),
        Err(_) => (Value::from(row.parameters.as_str()), json!([])),
    };
    json!({
        "job_id": row.job_id,
        "origin": origin_name(JobOrigin::Owned),
        "user_id": row.user_id,
        "agent": row.agent,
        "dataset_id": row.dataset_id,
        "parameters": parameters,
        "json_parameters": json_parameters,
        "tacc_system": row.tacc_system,
        "correlation_id": row.correlation_id,
        "status": row.status,
        "attempt": row.attempt,
        "will_retry": row.will_retry,
        "lifecycle_sequence": row.lifecycle_sequence,
        "metrics_sequence": row.metrics_sequence,
        "scheduler_job_id": row.scheduler_job_id,
        "cancel": row.cancel.as_ref().map(|cancel| json!({
            "cancelled_by": cancel.cancelled_by,
            "reason": cancel.reason,
            "requested_at": cancel.requested_at,
        })),
        "failure": row.failure.as_ref().map(|failure| json!({
            "error_code": failure.error_code,
            "error_message": failure.error_message,
        })),
        "execution_time_seconds": row.execution_time_seconds,
        "submitted_at": row.submitted_at,
        "updated_at": row.updated_at,
    })
}

/// Writes a job that only the jobs group knows; what its events did not tell is left out.
fn external_json(view: &JobView) -> Value {
    json!({
        "job_id": view.job_id,
        "origin": origin_name(view.origin),
        "user_id": view.user_id,
        "agent": view.agent,
        "tacc_system": view.tacc_system,
        "status": view.status,
        "attempt": view.attempt,
        "will_retry": view.will_retry,
        "lifecycle_sequence": view.last_sequence,
        "submitted_at": view.submitted_at,
        "updated_at": view.updated_at,
    })
}

fn view_json(view: &JobView) -> Value {
    json!({
        "status": view.status,
        "attempt": view.attempt,
        "will_retry": view.will_retry,
        "is_confirmed": view.is_confirmed,
        "is_terminal": view.is_terminal(),
        "last_sequence": view.last_sequence,
        "last_event_id": view.last_event_id,
        "status_since": view.status_since,
        "updated_at": view.updated_at,
    })
}

const fn origin_name(origin: JobOrigin) -> &'static str {
    match origin {
        JobOrigin::Owned => "owned",
        JobOrigin::External => "external",
    }
}

fn step_json(step: &TimelineEntry) -> Value {
    let payload = serde_json::from_str::<Value>(&step.payload);
    json!({
        "offset": step.offset,
        "event_id": step.event_id,
        "event_type": step.event_type.name(),
        "sequence": step.sequence,
        "status": step.status,
        "attempt": step.attempt,
        "happened_at": step.happened_at,
        "applied_at": step.applied_at,
        "payload": payload.unwrap_or_else(|_| Value::from(step.payload.as_str())),
    })
}

fn refusal_json(refusal: &StoredRefusal) -> Value {
    let row = json!({
        "offset": refusal.offset,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "refused_at": refusal.refused_at,
    });
    with_lane(&refusal.lane, row)
}

fn attempt_json(row: &JobAggregate) -> Value {
    let aggregates: Map<String, Value> = [
        ("cpu_usage_percent", row.cpu_usage_percent),
        ("memory_usage_mb", row.memory_usage_mb),
        ("io_operations", row.io_operations),
        ("execution_time_seconds", row.execution_time_seconds),
    ]
    .into_iter()
    .map(|(name, aggregate)| (name.to_owned(), aggregate_json(aggregate)))
    .collect();
    json!({
        "attempt": row.attempt,
        "aggregates": aggregates,
        "summary": row.summary.map(summary_json),
        "differences": summary_differences(row),
        "last_sequence": row.last_sequence,
        "updated_at": row.updated_at,
    })
}

/// Writes an aggregate; of no samples there is no least, greatest or mean.
fn aggregate_json(aggregate: Aggregate) -> Value {
    let Aggregate { count, sum, min, max } = aggregate;
    let of_samples = |value: f64| (count > 0).then_some(value);
    json!({
        "count": count,
        "sum": sum,
        "min": of_samples(min),
        "max": of_samples(max),
        "mean": of_samples(sum / count as f64),
    })
}

fn summary_json(summary: AttemptSummary) -> Value {
    json!({
        "cpu_usage_percent": summary.cpu_usage_percent,
        "memory_usage_mb": summary.memory_usage_mb,
        "io_operations": summary.io_operations,
        "execution_time_seconds": summary.execution_time_seconds,
    })
}
