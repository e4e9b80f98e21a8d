//! What the scheduler reports about an attempt.
//!
//! Promises that a report that repeats what the row says changes nothing, and that one that contradicts it is
//! refused.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::command::OrderKind;
use crate::event::{
    JobCancelled, JobCompleted, JobFailed, JobMetricsRecorded, JobQueued, JobRunning, JobStatus, Payload,
};
use crate::ids::{Attempt, UserId};
use crate::orchestrator::draft::{Draft, Step, measured};
use crate::orchestrator::{Context, Decision, Ended, FailureCode, Refusal};
use crate::ports::scheduler::{AttemptEnd, AttemptExit, AttemptReport, AttemptSample, AttemptTotals};
use crate::ports::store::{CancelRequest, JobFailure, JobRow, OrderAnswer};

/// Longest error message that is published; the agent's own output stays in the attempt's folder.
const ERROR_MESSAGE_MAX_CHARS: usize = 1000;

/// Who stands in `job.cancelled` when no user of ours asked for it.
const CANCELLED_BY_SCHEDULER: &str = "scheduler";

/// Why, then.
const REASON_AT_SCHEDULER: &str = "ended at the scheduler, not by a request here";

/// When a failed attempt is followed by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryPolicy {
    /// Never.
    #[default]
    Never,
}

/// Tells whether another attempt follows one that failed.
pub const fn will_retry(policy: RetryPolicy, _failed: Attempt) -> bool {
    match policy {
        RetryPolicy::Never => false,
    }
}

fn illegal(row: &JobRow, wanted: &str) -> Refusal {
    Refusal::Illegal { state: row.status, reason: wanted.to_owned() }
}

/// The scheduler accepted the attempt: SUBMITTED → QUEUED.
pub(super) fn accepted(
    row: &JobRow,
    report: &AttemptReport,
    context: &Context<'_>,
) -> Result<Decision, Refusal> {
    match row.status {
        JobStatus::Submitted => {}
        JobStatus::Queued
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Failed
        | JobStatus::Cancelled => {
            return if row.scheduler_job_id.as_ref() == Some(&report.scheduler_job_id) {
                Ok(Decision::Nothing)
            } else {
                Err(illegal(row, "an attempt is accepted once, and only by one scheduler job"))
            };
        }
    }
    let mut draft = Draft::change(row, context);
    draft.row_mut().scheduler_job_id = Some(report.scheduler_job_id.clone());
    draft.step(Step {
        to: JobStatus::Queued,
        at: report.queued_at,
        will_retry: false,
        typed: Payload::JobQueued(JobQueued {
            tac_job_id: report.scheduler_job_id.clone(),
            queued_timestamp: report.queued_at,
            attempt: row.attempt,
        }),
    })?;
    draft.answer(OrderKind::Submit, OrderAnswer::Done);
    Ok(draft.finish())
}

/// The scheduler refuses the attempt for good: SUBMITTED → FAILED.
pub(super) fn refused(
    row: &JobRow,
    field: &str,
    reason: &str,
    context: &Context<'_>,
) -> Result<Decision, Refusal> {
    match row.status {
        JobStatus::Submitted => {}
        JobStatus::Failed if has_failed_by(row, FailureCode::SchedulerRefused.name()) => {
            return Ok(Decision::Nothing);
        }
        JobStatus::Queued
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Failed
        | JobStatus::Cancelled => return Err(illegal(row, "the scheduler has answered already")),
    }
    let message = format!("`{field}`: {reason}");
    let mut draft = Draft::change(row, context);
    fail(&mut draft, context.now, FailureCode::SchedulerRefused.name(), &message, RetryPolicy::Never)?;
    draft.answer(OrderKind::Submit, OrderAnswer::Refused(shorten(&message)));
    Ok(draft.finish())
}

/// The attempt runs: QUEUED → RUNNING.
pub(super) fn started(
    row: &JobRow,
    started_at: Timestamp,
    context: &Context<'_>,
) -> Result<Decision, Refusal> {
    match row.status {
        JobStatus::Queued => {
            let mut draft = Draft::change(row, context);
            run(&mut draft, started_at)?;
            Ok(draft.finish())
        }
        JobStatus::Running => Ok(Decision::Nothing),
        JobStatus::Submitted => Err(illegal(row, "wanted the scheduler's acceptance first")),
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
            Err(illegal(row, "the attempt has ended"))
        }
    }
}

/// Samples of the running attempt.
pub(super) fn sampled(
    row: &JobRow,
    samples: &[AttemptSample],
    context: &Context<'_>,
) -> Result<Decision, Refusal> {
    if samples.iter().all(|sample| sample.index < row.samples_published) {
        return Ok(Decision::Nothing);
    }
    match row.status {
        JobStatus::Running => {
            let mut draft = Draft::change(row, context);
            draft.samples(samples)?;
            Ok(draft.finish())
        }
        JobStatus::Submitted | JobStatus::Queued => Err(illegal(row, "wanted the attempt's start first")),
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
            Err(illegal(row, "the attempt has ended and its totals are published"))
        }
    }
}

/// The attempt ended.
pub(super) fn ended(row: &JobRow, ended: &Ended, context: &Context<'_>) -> Result<Decision, Refusal> {
    let Ended { started_at, end, samples_taken, samples } = ended;
    let has_run = started_at.is_some()
        || end.totals.is_some()
        || *samples_taken > 0
        || end.exit == AttemptExit::Completed;
    match row.status {
        JobStatus::Submitted if !has_run && end.exit == AttemptExit::Cancelled => {}
        JobStatus::Queued | JobStatus::Running => {}
        JobStatus::Submitted => return Err(illegal(row, "wanted the scheduler's acceptance first")),
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
            return if row.status == status_after(&end.exit) {
                Ok(Decision::Nothing)
            } else {
                Err(illegal(row, "the attempt has ended already, otherwise"))
            };
        }
    }
    let mut draft = Draft::change(row, context);
    if row.status == JobStatus::Queued && has_run {
        run(&mut draft, started_at.unwrap_or_else(|| start_before(end)))?;
    }
    draft.samples(samples)?;
    if draft.row().samples_published < *samples_taken {
        return Err(illegal(row, "wanted every sample published before the end"));
    }
    if let Some(totals) = end.totals {
        draft.metrics(summary(totals, row.attempt))?;
    }
    if has_run {
        draft.row_mut().execution_time_seconds = Some(execution_time_seconds(*started_at, end));
    }
    match &end.exit {
        AttemptExit::Completed => complete(&mut draft, *started_at, end)?,
        AttemptExit::Failed { error_code, error_message } => {
            fail(&mut draft, end.ended_at, error_code, error_message, RetryPolicy::default())?;
        }
        AttemptExit::Cancelled => cancelled(&mut draft, end.ended_at)?,
    }
    if row.status == JobStatus::Submitted {
        draft.answer(OrderKind::Submit, OrderAnswer::Refused("cancelled before it was queued".to_owned()));
    }
    Ok(draft.finish())
}

/// A cancel was carried out on an attempt that the scheduler has never known: SUBMITTED → CANCELLED.
pub(super) fn cancel_answered(row: &JobRow, context: &Context<'_>) -> Result<Decision, Refusal> {
    match row.status {
        JobStatus::Submitted => {}
        JobStatus::Cancelled => return Ok(Decision::Nothing),
        JobStatus::Queued | JobStatus::Running | JobStatus::Completed | JobStatus::Failed => {
            return Err(illegal(row, "the scheduler has known the attempt"));
        }
    }
    let mut draft = Draft::change(row, context);
    cancelled(&mut draft, context.now)?;
    draft.answer(OrderKind::Submit, OrderAnswer::Refused("cancelled before it was queued".to_owned()));
    draft.answer(OrderKind::Cancel, OrderAnswer::Done);
    Ok(draft.finish())
}

/// The scheduler does not know the attempt any more: → FAILED.
pub(super) fn lost(row: &JobRow, context: &Context<'_>) -> Result<Decision, Refusal> {
    match row.status {
        JobStatus::Queued | JobStatus::Running => {}
        JobStatus::Failed if has_failed_by(row, FailureCode::AttemptLost.name()) => {
            return Ok(Decision::Nothing);
        }
        JobStatus::Submitted => return Err(illegal(row, "wanted the scheduler's acceptance first")),
        JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
            return Err(illegal(row, "the attempt has ended"));
        }
    }
    let mut draft = Draft::change(row, context);
    let message = "the scheduler does not know the attempt any more";
    fail(&mut draft, context.now, FailureCode::AttemptLost.name(), message, RetryPolicy::default())?;
    Ok(draft.finish())
}

fn run(draft: &mut Draft<'_>, started_at: Timestamp) -> Result<(), Refusal> {
    let attempt = draft.row().attempt;
    draft.step(Step {
        to: JobStatus::Running,
        at: started_at,
        will_retry: false,
        typed: Payload::JobRunning(JobRunning { running_timestamp: started_at, attempt }),
    })
}

fn complete(draft: &mut Draft<'_>, started_at: Option<Timestamp>, end: &AttemptEnd) -> Result<(), Refusal> {
    let attempt = draft.row().attempt;
    draft.step(Step {
        to: JobStatus::Completed,
        at: end.ended_at,
        will_retry: false,
        typed: Payload::JobCompleted(JobCompleted {
            execution_time_seconds: execution_time_seconds(started_at, end),
            completion_timestamp: end.ended_at,
            attempt,
        }),
    })
}

fn fail(
    draft: &mut Draft<'_>,
    at: Timestamp,
    error_code: &str,
    error_message: &str,
    policy: RetryPolicy,
) -> Result<(), Refusal> {
    let attempt = draft.row().attempt;
    let will_retry = will_retry(policy, attempt);
    let failure = JobFailure { error_code: error_code.to_owned(), error_message: shorten(error_message) };
    draft.row_mut().failure = Some(failure.clone());
    draft.step(Step {
        to: JobStatus::Failed,
        at,
        will_retry,
        typed: Payload::JobFailed(JobFailed {
            error_code: failure.error_code,
            error_message: failure.error_message,
            failure_timestamp: at,
            attempt,
            will_retry,
        }),
    })
}

fn cancelled(draft: &mut Draft<'_>, at: Timestamp) -> Result<(), Refusal> {
    let attempt = draft.row().attempt;
    let wish = draft.row().cancel.clone().unwrap_or_else(|| CancelRequest {
        cancelled_by: UserId::parse(CANCELLED_BY_SCHEDULER).expect("a short word is an opaque identifier"),
        reason: REASON_AT_SCHEDULER.to_owned(),
        requested_at: at,
    });
    draft.row_mut().cancel = Some(wish.clone());
    draft.step(Step {
        to: JobStatus::Cancelled,
        at,
        will_retry: false,
        typed: Payload::JobCancelled(JobCancelled {
            cancelled_by: wish.cancelled_by,
            cancellation_reason: wish.reason,
            cancellation_timestamp: at,
            attempt,
        }),
    })
}

/// Gives the attempt's totals as they are published, once.
fn summary(totals: AttemptTotals, attempt: Attempt) -> JobMetricsRecorded {
    JobMetricsRecorded {
        cpu_usage_percent: measured(totals.cpu_usage_percent),
        memory_usage_mb: measured(totals.memory_usage_mb),
        io_operations: totals.io_operations,
        execution_time_seconds: measured(totals.execution_time_seconds),
        attempt,
        summary: true,
    }
}

const fn status_after(exit: &AttemptExit) -> JobStatus {
    match exit {
        AttemptExit::Completed => JobStatus::Completed,
        AttemptExit::Failed { .. } => JobStatus::Failed,
        AttemptExit::Cancelled => JobStatus::Cancelled,
    }
}

/// Gives how long the attempt ran: as measured, else from its times.
fn execution_time_seconds(started_at: Option<Timestamp>, end: &AttemptEnd) -> f64 {
    match (end.totals, started_at) {
        (Some(totals), _) => measured(totals.execution_time_seconds),
        (None, Some(started_at)) => end.ended_at.since(started_at).as_secs_f64(),
        (None, None) => 0.0,
    }
}

/// Gives the start of an attempt that ran but whose start was not reported.
fn start_before(end: &AttemptEnd) -> Timestamp {
    let ran = Duration::try_from_secs_f64(execution_time_seconds(None, end)).unwrap_or_default();
    end.ended_at.minus(ran)
}

fn has_failed_by(row: &JobRow, error_code: &str) -> bool {
    row.failure.as_ref().is_some_and(|failure| failure.error_code == error_code)
}

fn shorten(text: &str) -> String {
    text.chars().take(ERROR_MESSAGE_MAX_CHARS).collect()
}
