//! Read, decide, write: the one way a job changes.
//!
//! Promises that a decision is written only over the row it was made on, and is made again otherwise.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use horizons_actors::event::JobStatus;
use horizons_actors::ids::JobId;
use horizons_actors::orchestrator::{Context, Decision, Input, Refusal, decide};
use horizons_actors::ports::store::{JobRow, JobWritten, StoreError};
use tokio::sync::MutexGuard;

use super::verdict::verdict_of;
use super::{Shared, Verdict};

/// How often a decision is made again because the row moved. Within one process turns prevent it, so more
/// than a few mean that a second orchestrator writes to the store.
const CONFLICTS_MAX: u32 = 8;

/// Logs a change of a job's status, under the correlation id of the request that created the job.
pub(super) fn log_change(before: Option<JobStatus>, row: &JobRow) {
    if before == Some(row.status) {
        return;
    }
    tracing::info!(
        job.id = %row.job_id,
        job.attempt = row.attempt.0,
        correlation.id = %row.correlation_id,
        status = row.status.name(),
        previous = before.map(JobStatus::name),
        "job changed"
    );
}

/// What became of an input.
#[derive(Debug)]
pub(super) enum Applied {
    /// It is committed; the job is now this.
    Written(Box<JobRow>),
    /// The job said it already.
    Unchanged(Box<JobRow>),
    /// It does not fit the job.
    Refused(Refusal),
}

impl Shared {
    /// Decides on an input and commits what follows.
    pub(super) async fn apply(&self, job_id: &JobId, input: &Input) -> Result<Applied, StoreError> {
        let _turn = self.turn(job_id).await;
        for _ in 0..CONFLICTS_MAX {
            let row = self.store.read_job(job_id.clone()).await?;
            let write = match self.decide(row.as_ref(), input) {
                Ok(Decision::Write(write)) => *write,
                Ok(Decision::Nothing) => {
                    return Ok(row.map_or(Applied::Refused(Refusal::UnknownJob), |row| {
                        Applied::Unchanged(Box::new(row))
                    }));
                }
                Err(refusal) => return Ok(Applied::Refused(refusal)),
            };
            let before = row.map(|row| row.status);
            let row = write.row.clone();
            match self.store.write_job(write).await? {
                JobWritten::Written => {
                    log_change(before, &row);
                    self.tell(&row, input);
                    return Ok(Applied::Written(Box::new(row)));
                }
                JobWritten::Conflict => {}
                JobWritten::Repeated(other) | JobWritten::KeyReused(other) => {
                    return Err(StoreError::Broken(format!("a write without key met the key of `{other}`")));
                }
            }
        }
        Err(StoreError::Conflict(format!("job `{job_id}` moved {CONFLICTS_MAX} times under a decision")))
    }

    /// Decides, without I/O.
    pub(super) fn decide(&self, row: Option<&JobRow>, input: &Input) -> Result<Decision, Refusal> {
        decide(row, input, &self.context())
    }

    /// Gives what decisions are made with, now.
    pub(super) fn context(&self) -> Context<'_> {
        Context {
            now: self.clock.now(),
            randomness: self.randomness.as_ref(),
            encode: self.encoder.as_ref(),
            home: self.home.as_ref(),
        }
    }

    /// Waits until nobody else is between read and write of the job.
    async fn turn(&self, job_id: &JobId) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(job_id);
        let count = self.turns.len() as u64;
        let index = usize::try_from(hash % count).expect("below the number of turns");
        self.turns.get(index).expect("a remainder is below its divisor").lock().await
    }

    /// Tells who waits for a verdict, after the commit.
    fn tell(&self, row: &JobRow, input: &Input) {
        let verdict = match input {
            Input::SchedulerRefused { field, reason } => {
                Verdict::Refused { field: Some(field.clone()), reason: reason.clone() }
            }
            _ => verdict_of(row),
        };
        if verdict != Verdict::Pending {
            self.verdicts.tell(row, &verdict);
        }
    }
}
