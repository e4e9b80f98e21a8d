//! One live job's actor.
//!
//! Promises to know the job's committed state and to answer for it; holds nothing that is not in the store,
//! so that its end costs nothing. Kept tiny: a million of them are to fit in 1 GiB.
//!
//! *Source*: resident memory of 200,000 of them in one map, divided: 981 bytes each with context, mailbox,
//! address and job id (x86-64 Linux, actix 0.13.5).

use std::sync::Arc;

use actix::{Actor, ActorContext, Context, Handler};

use crate::clock::Timestamp;
use crate::event::JobStatus;
use crate::ids::{Attempt, JobId, Sequence};
use crate::jobs::handle::Shared;
use crate::jobs::message::{ChildExited, GetJobState, JobSupervisorSnapshot, JobTransitioned, RegistryError};
use crate::lane::guard::{CaughtPanic, guard};
use crate::state::{JobOrigin, JobView};

/// Messages that wait at most: a transition and its confirmation, since the newest view replaces older ones.
const MAILBOX_MESSAGES: usize = 2;

/// Supervises one live job.
pub struct JobSupervisor {
    /// The job; shared with the registry's map.
    job_id: JobId,
    /// Whose job it is.
    origin: JobOrigin,
    /// The status, as committed.
    status: JobStatus,
    /// The attempt it belongs to.
    attempt: Attempt,
    /// The sequence of the last event that is known.
    last_sequence: Sequence,
    /// When the status was entered (event time).
    since: Timestamp,
    /// When this supervisor was started.
    live_since: Timestamp,
    /// Where ends and panics are noted.
    pub(super) shared: Arc<Shared>,
}

impl Actor for JobSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.shared.tell_registry(ChildExited { job_id: self.job_id.clone() });
    }
}

impl Handler<JobTransitioned> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, message: JobTransitioned, ctx: &mut Self::Context) {
        let JobTransitioned { view } = message;
        // A panic is noted and answered by a new supervisor; the transition is in the store.
        let _caught = self.guarded(ctx, |supervisor| supervisor.take(&view));
    }
}

impl Handler<GetJobState> for JobSupervisor {
    type Result = Result<JobSupervisorSnapshot, RegistryError>;

    fn handle(&mut self, message: GetJobState, ctx: &mut Self::Context) -> Self::Result {
        let GetJobState = message;
        Ok(self.guarded(ctx, |supervisor| supervisor.snapshot())?)
    }
}

impl JobSupervisor {
    /// Makes the supervisor of a job as the store has it.
    pub(super) fn new(view: &JobView, live_since: Timestamp, shared: Arc<Shared>) -> Self {
        Self {
            job_id: view.job_id.clone(),
            origin: view.origin,
            status: view.status,
            attempt: view.attempt,
            last_sequence: view.last_sequence,
            since: view.status_since,
            live_since,
            shared,
        }
    }

    /// Runs a handler's body; a panic is noted and ends the actor.
    pub(super) fn guarded<T>(
        &mut self,
        ctx: &mut Context<Self>,
        body: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, CaughtPanic> {
        let ran = guard(|| body(self));
        if let Err(panic) = &ran {
            tracing::warn!(job.id = %self.job_id, error = %panic, "job supervisor ended and will be rebuilt");
            self.shared.note_panic(panic);
            ctx.stop();
        }
        ran
    }

    /// Takes a committed view, unless a later one is known: a reading of the store and a transition may
    /// cross. A job that changed hands is taken as it is.
    fn take(&mut self, view: &JobView) {
        if view.origin == self.origin && view.last_sequence < self.last_sequence {
            return;
        }
        self.origin = view.origin;
        self.status = view.status;
        self.attempt = view.attempt;
        self.last_sequence = view.last_sequence;
        self.since = view.status_since;
    }

    fn snapshot(&self) -> JobSupervisorSnapshot {
        JobSupervisorSnapshot {
            job_id: self.job_id.clone(),
            is_external: self.origin == JobOrigin::External,
            status: self.status,
            attempt: self.attempt,
            last_sequence: self.last_sequence,
            since: self.since,
            live_since: self.live_since,
        }
    }
}
