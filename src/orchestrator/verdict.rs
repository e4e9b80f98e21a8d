//! Who waits for the scheduler's verdict on a job.
//!
//! Promises that whoever asked before the verdict's commit is told after it, and that nobody who has gone
//! away is kept. Holds nothing that is not in the store: after a crash the job's row says the same.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use horizons_actors::event::JobStatus;
use horizons_actors::ids::JobId;
use horizons_actors::orchestrator::FailureCode;
use horizons_actors::ports::commands::Verdict;
use horizons_actors::ports::store::JobRow;
use tokio::sync::oneshot;

/// Reads the verdict from a job as it is stored.
pub(super) fn verdict_of(row: &JobRow) -> Verdict {
    match (row.status, &row.failure) {
        (JobStatus::Submitted, _) => Verdict::Pending,
        (JobStatus::Failed, Some(failure)) if failure.error_code == FailureCode::SchedulerRefused.name() => {
            Verdict::Refused { field: None, reason: failure.error_message.clone() }
        }
        (
            JobStatus::Queued
            | JobStatus::Running
            | JobStatus::Completed
            | JobStatus::Failed
            | JobStatus::Cancelled,
            _,
        ) => Verdict::Accepted,
    }
}

/// A verdict with the job after it.
pub(super) type Told = (JobRow, Verdict);

type Waiters = HashMap<JobId, Vec<oneshot::Sender<Told>>>;

/// Everybody who waits.
#[derive(Default)]
pub(super) struct Verdicts {
    waiters: Mutex<Waiters>,
}

/// A place in the line; leaving it is dropping it.
pub(super) struct Waiting<'a> {
    verdicts: &'a Verdicts,
    job_id: JobId,
    receiver: oneshot::Receiver<Told>,
}

impl Verdicts {
    /// Takes a place before the verdict can be committed.
    pub(super) fn wait_for(&self, job_id: &JobId) -> Waiting<'_> {
        let (sender, receiver) = oneshot::channel();
        self.locked().entry(job_id.clone()).or_default().push(sender);
        Waiting { verdicts: self, job_id: job_id.clone(), receiver }
    }

    /// Tells everybody who waits for the job.
    pub(super) fn tell(&self, row: &JobRow, verdict: &Verdict) {
        for waiter in self.locked().remove(&row.job_id).unwrap_or_default() {
            // Who has gone away in this very moment needs no answer.
            let _ = waiter.send((row.clone(), verdict.clone()));
        }
    }

    fn locked(&self) -> MutexGuard<'_, Waiters> {
        // The map is whole after every statement that holds the lock.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Waits for the verdict; none when the line was dissolved.
    pub(super) async fn told(&mut self) -> Option<Told> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiters = self.verdicts.locked();
        if let Some(line) = waiters.get_mut(&self.job_id) {
            line.retain(|waiter| !waiter.is_closed());
            if line.is_empty() {
                waiters.remove(&self.job_id);
            }
        }
    }
}
