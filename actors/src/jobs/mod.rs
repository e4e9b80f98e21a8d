//! The jobs group: what state every job is in, and one supervisor actor for each that is live.
//!
//! Promises a view per job that follows `job-lifecycle` and nothing else, a step in the job's timeline for
//! every event that was applied, and work to clean up after an owned job once it has ended. Does not promise
//! that the view is as new as the orchestrator's own row: it is as new as the log that was read.
//!
//! The behaviour decides; [`JobRegistry`](registry::JobRegistry) and its supervisors are told after the
//! commit, hold nothing that is not in the store, and never delay a lane (design D18).

mod handle;
pub mod judge;
pub mod message;
pub mod registry;
pub mod state;
pub mod supervisor;

use std::time::Duration;

use crate::command::{Order, OrderKind};
use crate::effect::{RetiredView, Retirement, TimelineEntry, Timer, TimerId};
use crate::event::{Event, Payload};
use crate::ids::{Attempt, Group, JobId, Topic};
use crate::jobs::judge::{LifecycleEvent, Refused, judge};
use crate::jobs::state::{FIRST_ATTEMPT, Step};
use crate::lane::behaviour::{Applied, Behaviour, Entry, Notice, Verdict, Workspace};
use crate::state::{JobOrigin, JobView, StateKey, StateValue};

pub use handle::{JobRegistryHandle, JobRegistryParts};

/// Names the timer that cleans up after a job; its key is the job id.
pub const CLEAN_TIMER: &str = "clean";

/// Names the timer that looks after the view of another producer's job; its key is the job id.
pub const EXTERNAL_TIMER: &str = "external";

/// How long another producer's job may be silent, and how long the last of it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExternalAges {
    /// From its last event on: a job that has not ended by then is not followed any more, until it is heard of again.
    pub silent: Duration,
    /// From its last event on: view and timeline are removed. What comes later begins a job that is not known, so this
    /// is longer than the log keeps a record.
    pub forgotten: Duration,
}

impl Default for ExternalAges {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { silent: 7 * DAY, forgotten: 35 * DAY }
    }
}

/// Keeps the view of every job of a lane.
#[derive(Debug, Clone, Copy)]
pub struct Jobs {
    /// How long an ended job's work folder and temporary rows are kept.
    clean_delay: Duration,
    /// How long views of other producers' jobs are.
    external: ExternalAges,
}

impl Jobs {
    /// Makes the behaviour; what a job leaves behind is cleaned up `clean_delay` after its end.
    pub fn new(clean_delay: Duration) -> Self {
        Self { clean_delay, external: ExternalAges::default() }
    }

    /// Sets how long views of other producers' jobs are kept.
    pub const fn with_external(self, external: ExternalAges) -> Self {
        Self { external, ..self }
    }

    /// Judges the event and writes what follows from it.
    fn take(&self, entry: &Entry, event: &Event, work: &mut Workspace<'_>) -> Result<(), Refused> {
        let lifecycle = LifecycleEvent::read(event)?;
        let view = read_view(work, lifecycle.job_id);
        let owner = match work.get(&StateKey::LifecycleOwner(lifecycle.job_id.clone(), lifecycle.sequence)) {
            Some(StateValue::LifecycleOwner(owner)) => Some(owner),
            _ => None,
        };
        let is_new = view.is_none();
        let (judged, step) = judge(view, owner, &lifecycle, work.now)?;
        work.effects.timeline.push(timeline_entry(entry, &lifecycle, &judged));
        if step == Step::Entered && judged.is_terminal() && judged.origin == JobOrigin::Owned {
            let id = TimerId { kind: CLEAN_TIMER.to_owned(), key: judged.job_id.as_str().to_owned() };
            work.effects.timers_set.push(Timer { id, due_at: work.now.plus(self.clean_delay) });
        }
        if is_new && judged.origin == JobOrigin::External {
            // One timer a job: it finds by itself whether there were later events.
            set_external_timer(work, &judged, self.external.silent);
        }
        work.notices.push(Notice::JobChanged(judged.clone()));
        work.put(StateKey::JobView(judged.job_id.clone()), StateValue::JobView(judged));
        Ok(())
    }
}

impl Jobs {
    /// Retires the view of another producer's job that is old enough; else looks again when it may be.
    fn look_after_external(&self, job_id: &JobId, work: &mut Workspace<'_>) {
        let Some(view) = read_view(work, job_id) else { return };
        if view.origin == JobOrigin::Owned {
            return;
        }
        let view = view.clone();
        let ExternalAges { silent, forgotten } = self.external;
        let age = work.now.since(view.updated_at);
        let retirement = if age >= forgotten {
            Some(Retirement::Forgotten)
        } else if age >= silent && !view.is_terminal() {
            Some(Retirement::Silent)
        } else {
            None
        };
        if let Some(retirement) = retirement {
            work.effects.views_retired.push(RetiredView { job_id: job_id.clone(), retirement });
            work.notices.push(Notice::JobLeft(job_id.clone()));
        }
        // A view that is forgotten is looked for once more: it may have a longer timeline than goes at once.
        let next = if age >= silent || view.is_terminal() { forgotten } else { silent };
        set_external_timer(work, &view, next);
    }
}

impl Behaviour for Jobs {
    fn group(&self) -> Group {
        Group::jobs()
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::JobLifecycle]
    }

    fn keys(&self, entry: &Entry, keys: &mut Vec<StateKey>) {
        if let Some(event) = event_of(entry)
            && let Ok(lifecycle) = LifecycleEvent::read(event)
        {
            keys.push(StateKey::JobView(lifecycle.job_id.clone()));
            keys.push(StateKey::LifecycleOwner(lifecycle.job_id.clone(), lifecycle.sequence));
        }
    }

    fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied {
        // The lane gives duplicates and rejected records only to behaviours that record raw bytes.
        let Some(event) = event_of(entry) else { return Applied::Applied };
        match self.take(entry, event, work) {
            Ok(()) => Applied::Applied,
            Err(refused) => Applied::Refused { reason: refused.reason(), detail: refused.to_string() },
        }
    }

    fn timer_keys(&self, timer: &Timer, keys: &mut Vec<StateKey>) {
        if let Some(job_id) = job_of(timer, CLEAN_TIMER).or_else(|| job_of(timer, EXTERNAL_TIMER)) {
            keys.push(StateKey::JobView(job_id));
        }
    }

    /// Orders every attempt of an ended job to be cleaned up, or looks after another producer's. Asking again orders
    /// nothing twice.
    fn tick(&self, timer: &Timer, work: &mut Workspace<'_>) {
        if let Some(job_id) = job_of(timer, EXTERNAL_TIMER) {
            self.look_after_external(&job_id, work);
            return;
        }
        let Some(job_id) = job_of(timer, CLEAN_TIMER) else { return };
        let Some(view) = read_view(work, &job_id) else { return };
        if view.origin == JobOrigin::External || !view.is_terminal() {
            return;
        }
        let last = view.attempt.max(FIRST_ATTEMPT);
        for attempt in FIRST_ATTEMPT.0..=last.0 {
            work.effects.orders.push(Order {
                job_id: job_id.clone(),
                attempt: Attempt(attempt),
                kind: OrderKind::Clean,
                ordered_at: work.now,
            });
        }
    }
}

/// Gives the event of an entry that is one.
fn event_of(entry: &Entry) -> Option<&Event> {
    match &entry.verdict {
        Verdict::Event(event) => Some(event),
        Verdict::Duplicate(_) | Verdict::Rejected(_) => None,
    }
}

/// Reads the view of a job.
fn read_view<'a>(work: &'a Workspace<'_>, job_id: &JobId) -> Option<&'a JobView> {
    match work.get(&StateKey::JobView(job_id.clone())) {
        Some(StateValue::JobView(view)) => Some(view),
        _ => None,
    }
}

/// Gives the job of a timer of a kind.
fn job_of(timer: &Timer, kind: &str) -> Option<JobId> {
    if timer.id.kind == kind { JobId::parse(&timer.id.key).ok() } else { None }
}

/// Has the view of another producer's job looked at when its last event is so old.
fn set_external_timer(work: &mut Workspace<'_>, view: &JobView, age: Duration) {
    let id = TimerId { kind: EXTERNAL_TIMER.to_owned(), key: view.job_id.as_str().to_owned() };
    work.effects.timers_set.push(Timer { id, due_at: view.updated_at.plus(age) });
}

/// Makes the step of the job's life that an applied event is.
fn timeline_entry(entry: &Entry, lifecycle: &LifecycleEvent<'_>, view: &JobView) -> TimelineEntry {
    TimelineEntry {
        job_id: view.job_id.clone(),
        offset: entry.record.offset,
        event_id: lifecycle.event.event_id,
        event_type: lifecycle.event.payload.event_type(),
        sequence: lifecycle.sequence,
        status: view.status,
        attempt: view.attempt,
        happened_at: lifecycle.input.target().at,
        applied_at: view.updated_at,
        payload: payload_json(&lifecycle.event.payload),
    }
}

/// Writes what an event says as JSON.
fn payload_json(payload: &Payload) -> String {
    let written = match payload {
        Payload::JobSubmitted(said) => serde_json::to_string(said),
        Payload::JobQueued(said) => serde_json::to_string(said),
        Payload::JobRunning(said) => serde_json::to_string(said),
        Payload::JobStatusChanged(said) => serde_json::to_string(said),
        Payload::JobCompleted(said) => serde_json::to_string(said),
        Payload::JobFailed(said) => serde_json::to_string(said),
        Payload::JobCancelled(said) => serde_json::to_string(said),
        Payload::JobMetricsRecorded(said) => serde_json::to_string(said),
        Payload::NotificationSent(said) => serde_json::to_string(said),
        Payload::AuditActionRecorded(said) => serde_json::to_string(said),
        Payload::SystemHealthCheck(said) => serde_json::to_string(said),
    };
    written.expect("payloads are plain fields and maps with text keys, which JSON can always write")
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
