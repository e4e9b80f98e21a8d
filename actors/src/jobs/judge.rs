//! Judging a lifecycle event: whose job it is, whether its turn has come, and what it does to the view.
//!
//! Promises that an owned job's view follows the orchestrator's own events and nothing else, and that an
//! external job's view never goes back. Pure; changes nothing by itself.
//!
//! Does not promise that an owned job's view has seen every event: a poison event that an operator discarded
//! never comes. The orchestrator vouches for each of its events by (job, sequence), so the next one is taken
//! all the same and the view jumps to where that one puts the job; otherwise every event after the missing one
//! would be refused, and the view of a job that has long ended would live for ever.

use crate::clock::Timestamp;
use crate::event::{Event, JobStatus, Payload};
use crate::ids::{Attempt, JobId, Sequence};
use crate::jobs::state::{Input, Refusal, State, Step, Target};
use crate::lane::turn::Late;
use crate::state::{JobOrigin, JobView, LifecycleOwner};

/// Tells why an event is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The orchestrator owns the job and has not written this event.
    #[error("the job is owned here and sequence {sequence} is not this event")]
    Foreign {
        /// What the event says.
        sequence: Sequence,
    },
    /// An event of this or a later sequence was applied before.
    #[error(transparent)]
    Late(#[from] Late),
    /// The event has no job or no sequence, or is none of a job's life.
    #[error("no lifecycle event: wanted `{wanted}`")]
    NotLifecycle {
        /// What is missing.
        wanted: &'static str,
    },
    /// The state machine does not take it.
    #[error(transparent)]
    Transition(#[from] Refusal),
}

impl Refused {
    /// Gives the stable name of the reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Refused::Foreign { .. } => "foreign_event",
            Refused::Late(_) => Late::REASON,
            Refused::NotLifecycle { .. } => "not_lifecycle",
            Refused::Transition(refusal) => refusal.reason(),
        }
    }
}

/// What makes an event one of a job's life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LifecycleEvent<'a> {
    /// The event.
    pub event: &'a Event,
    /// The job.
    pub job_id: &'a JobId,
    /// The sequence.
    pub sequence: Sequence,
    /// What it says to the state machine.
    pub input: Input,
}

impl<'a> LifecycleEvent<'a> {
    /// Reads the parts out of an event.
    ///
    /// *Errors*: [`Refused::NotLifecycle`] when one is missing.
    pub fn read(event: &'a Event) -> Result<Self, Refused> {
        let job_id = event.job_id.as_ref().ok_or(Refused::NotLifecycle { wanted: "job_id" })?;
        let sequence = event.sequence.ok_or(Refused::NotLifecycle { wanted: "sequence" })?;
        let input = input_of(event).ok_or(Refused::NotLifecycle { wanted: "a type of job-lifecycle" })?;
        Ok(Self { event, job_id, sequence, input })
    }
}

/// Translates an event for the state machine; nothing when it is none of a job's life.
fn input_of(event: &Event) -> Option<Input> {
    let typed = |status, attempt, at| Some(Input::Typed(Target { status, attempt, will_retry: false, at }));
    match &event.payload {
        Payload::JobSubmitted(_) => typed(JobStatus::Submitted, Attempt(0), event.timestamp),
        Payload::JobQueued(queued) => typed(JobStatus::Queued, queued.attempt, queued.queued_timestamp),
        Payload::JobRunning(running) => typed(JobStatus::Running, running.attempt, running.running_timestamp),
        Payload::JobCompleted(completed) => {
            typed(JobStatus::Completed, completed.attempt, completed.completion_timestamp)
        }
        Payload::JobCancelled(cancelled) => {
            typed(JobStatus::Cancelled, cancelled.attempt, cancelled.cancellation_timestamp)
        }
        Payload::JobFailed(failed) => Some(Input::Typed(Target {
            status: JobStatus::Failed,
            attempt: failed.attempt,
            will_retry: failed.will_retry,
            at: failed.failure_timestamp,
        })),
        Payload::JobStatusChanged(changed) => Some(Input::Changed {
            previous: changed.previous_status,
            target: Target {
                status: changed.current_status,
                attempt: changed.attempt,
                will_retry: changed.will_retry,
                at: changed.status_changed_timestamp,
            },
        }),
        Payload::JobMetricsRecorded(_)
        | Payload::NotificationSent(_)
        | Payload::AuditActionRecorded(_)
        | Payload::SystemHealthCheck(_) => None,
    }
}

/// Tells whose job an event is about, by what the orchestrator has written about its sequence.
///
/// *Errors*: [`Refused::Foreign`] when the job is owned and the event is not the orchestrator's.
pub fn origin_of(
    lifecycle: &LifecycleEvent<'_>,
    owner: Option<&LifecycleOwner>,
) -> Result<JobOrigin, Refused> {
    match owner {
        None => Ok(JobOrigin::External),
        Some(owner) if owner.vouches_for(lifecycle.event.event_id) => Ok(JobOrigin::Owned),
        Some(_) => Err(Refused::Foreign { sequence: lifecycle.sequence }),
    }
}

/// Judges an event: the view after it, and what it did.
///
/// A view that an external producer began under the id of an owned job gives way to the orchestrator's.
///
/// *Errors*: [`Refused`]; the view stays as it is.
pub fn judge(
    view: Option<&JobView>,
    owner: Option<&LifecycleOwner>,
    lifecycle: &LifecycleEvent<'_>,
    now: Timestamp,
) -> Result<(JobView, Step), Refused> {
    let origin = origin_of(lifecycle, owner)?;
    let known = match (view, origin) {
        (Some(view), JobOrigin::External) if view.origin == JobOrigin::Owned => {
            return Err(Refused::Foreign { sequence: lifecycle.sequence });
        }
        (Some(view), JobOrigin::Owned) if view.origin == JobOrigin::External => None,
        (view, JobOrigin::Owned | JobOrigin::External) => view,
    };
    let turn = turn_of(known, origin, lifecycle.sequence)?;
    let (state, step) = match (known.map(State::of_view), turn) {
        (before, Turn::AfterGap) => (State::jump(before, lifecycle.input)?, Step::Entered),
        (None, Turn::Next) => (State::first(lifecycle.input, origin)?, Step::Entered),
        (Some(before), Turn::Next) => before.next(lifecycle.input, origin)?,
    };
    let mut judged = known.cloned().unwrap_or_else(|| new_view(lifecycle, origin, now));
    state.write_to(&mut judged);
    if let Payload::JobSubmitted(submitted) = &lifecycle.event.payload {
        judged.agent = Some(submitted.agent.clone());
        judged.tacc_system = Some(submitted.tacc_system);
    }
    judged.last_sequence = lifecycle.sequence;
    judged.last_event_id = lifecycle.event.event_id;
    judged.updated_at = now;
    Ok((judged, step))
}

/// Whether an event follows the one that was applied last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It does, as far as its producer can be held to that.
    Next,
    /// Events of an owned job are missing between the two.
    AfterGap,
}

/// Checks that the event's turn has come. An external producer may leave sequences out.
fn turn_of(view: Option<&JobView>, origin: JobOrigin, got: Sequence) -> Result<Turn, Refused> {
    let last = view.map_or(Sequence(0), |view| view.last_sequence);
    Late::check(view.map(|view| view.last_sequence), got)?;
    let is_following = got.0 == last.0.saturating_add(1);
    Ok(match origin {
        JobOrigin::Owned if !is_following => Turn::AfterGap,
        JobOrigin::Owned | JobOrigin::External => Turn::Next,
    })
}

/// Makes the view of a job that is seen for the first time; the state is written by the caller.
fn new_view(lifecycle: &LifecycleEvent<'_>, origin: JobOrigin, now: Timestamp) -> JobView {
    let target = lifecycle.input.target();
    JobView {
        job_id: lifecycle.job_id.clone(),
        origin,
        user_id: lifecycle.event.user_id.clone(),
        agent: None,
        tacc_system: None,
        status: target.status,
        attempt: target.attempt,
        will_retry: false,
        is_confirmed: false,
        last_sequence: lifecycle.sequence,
        last_event_id: lifecycle.event.event_id,
        submitted_at: target.at,
        status_since: target.at,
        updated_at: now,
    }
}
