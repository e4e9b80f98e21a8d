//! Asks after live jobs.
//!
//! Promises that every live job is looked at when the scheduler tells of changes, and at the latest after the
//! look interval; that its samples are published in batches, all of them before its end; and that a job is
//! declared lost only after its attempt can never start again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::AttemptId;
use horizons_actors::orchestrator::{Ended, Input};
use horizons_actors::ports::scheduler::{AttemptReport, AttemptSample};
use horizons_actors::ports::store::{JobRow, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::Shared;
use super::super::apply::Applied;
use super::super::trouble::Asked;
use super::{HandlingError, guarded, is_never_started, stop_of};

/// How many live jobs one listing reads.
const LOOK_PAGE: usize = 512;

/// How many samples leave in one transaction: above the hundred that requirement P4 wants in one send, and
/// below what would hold up other writers.
const SAMPLES_BATCH: usize = 500;

/// Between two rounds there is at least this, and what the round took (up to the look interval): with many live
/// jobs and many changes, looking then uses no more than half of the time.
const ROUND_GAP: Duration = Duration::from_millis(10);

/// When a cancelled attempt has not ended after this long, the scheduler is told again in every round.
const CANCEL_REPEAT_AFTER: Duration = Duration::from_secs(10);

/// Looks after live jobs until told to stop.
pub(super) async fn work(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut failures: u32 = 0;
    while !*stopped.borrow() {
        let began_at = Instant::now();
        let pause = match round(&shared, &stopped).await {
            Ok(()) => {
                failures = 0;
                began_at.elapsed().clamp(ROUND_GAP, shared.config.look_interval.max(ROUND_GAP))
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(error = %error, failures, "live jobs cannot be asked after");
                shared.delay(failures)
            }
        };
        tokio::select! {
            () = stop_of(&mut stopped) => {}
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            () = stop_of(&mut stopped) => {}
            () = shared.look_wanted.notified() => {}
            () = shared.scheduler_changed() => {}
            () = tokio::time::sleep(shared.config.look_interval) => {}
        }
    }
}

/// Looks at every live job once.
///
/// *Errors*: when the jobs cannot be listed, or not one of them could be handled.
async fn round(shared: &Arc<Shared>, stopped: &watch::Receiver<bool>) -> Result<(), HandlingError> {
    let (mut looked, mut failed, mut last_error) = (0_u64, 0_u64, None);
    let mut after = None;
    while !*stopped.borrow() {
        let page = shared.store.live_jobs(after.take(), LOOK_PAGE).await?;
        let is_last_page = page.len() < LOOK_PAGE;
        after = page.last().map(|row| row.job_id.clone());
        let mut results = stream::iter(page)
            .map(|row| async move {
                let job_id = row.job_id.clone();
                let result = guarded(&job_id, shared.look_at(row)).await;
                (job_id, result)
            })
            .buffer_unordered(shared.config.parallel_jobs.max(1));
        while let Some((job_id, result)) = results.next().await {
            looked += 1;
            if let Err(error) = result {
                failed += 1;
                tracing::debug!(job.id = %job_id, error = %error, "job will be asked after again");
                last_error = Some(error);
            }
        }
        if is_last_page {
            break;
        }
    }
    match last_error {
        Some(error) if failed == looked => Err(error),
        Some(error) => {
            tracing::warn!(error = %error, failed, looked, "some live jobs will be asked after again");
            Ok(())
        }
        None => Ok(()),
    }
}

impl Shared {
    /// Waits until the scheduler tells of a change; for ever when it cannot, as the look interval goes on.
    async fn scheduler_changed(&self) {
        if let Err(error) = self.scheduler.changed().await {
            tracing::debug!(error = %error, "scheduler cannot tell of changes");
            std::future::pending::<()>().await;
        }
    }

    /// Publishes what is new about one job.
    async fn look_at(&self, row: JobRow) -> Result<(), HandlingError> {
        match row.status {
            JobStatus::Queued | JobStatus::Running => {}
            // An order is open for it, or it waits for another attempt.
            JobStatus::Submitted | JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
                return Ok(());
            }
        }
        let id = AttemptId { job_id: row.job_id.clone(), attempt: row.attempt };
        let Some(report) = self.limited(Asked::Find, self.scheduler.find(id.clone())).await? else {
            return self.lose(&row, id).await;
        };
        if row.status == JobStatus::Running && row.cancel.is_none() && is_never_started(&report) {
            // A tombstone over an attempt that ran: it was found lost before and that was not written.
            return Ok(self.settle(&row, &Input::Lost).await.map(drop)?);
        }
        if report.end.is_none() && self.is_cancel_overdue(&row) {
            self.limited(Asked::Cancel, self.scheduler.cancel(id)).await?;
        }
        self.publish_report(row, report).await
    }

    fn is_cancel_overdue(&self, row: &JobRow) -> bool {
        let now = self.clock.now();
        row.cancel.as_ref().is_some_and(|wish| {
            // A wish of the future means that the clock was set back; repeating it does no harm.
            now < wish.requested_at || now.since(wish.requested_at) > CANCEL_REPEAT_AFTER
        })
    }

    /// Publishes start, samples and end, as far as they are new.
    async fn publish_report(&self, mut row: JobRow, report: AttemptReport) -> Result<(), HandlingError> {
        let started_at = report.started_at.or((report.samples > 0).then_some(report.queued_at));
        let fits_one_write = unpublished(&row, report.samples) <= SAMPLES_BATCH as u64;
        let is_told_with_end = report.end.is_some() && fits_one_write;
        if let Some(started_at) = started_at
            && row.status == JobStatus::Queued
            && !is_told_with_end
        {
            let Some(after) = self.settle(&row, &Input::Started { started_at }).await? else {
                return Ok(());
            };
            row = after;
        }
        let mut samples_taken = report.samples;
        let mut last_samples = Vec::new();
        while unpublished(&row, samples_taken) > 0 {
            let id = AttemptId { job_id: row.job_id.clone(), attempt: row.attempt };
            let from = row.samples_published;
            let offered =
                self.limited(Asked::Samples, self.scheduler.samples(id, from, SAMPLES_BATCH)).await?;
            let samples = unbroken(offered, from);
            if samples.is_empty() {
                tracing::warn!(job.id = %row.job_id, from, samples_taken, "samples cannot be read");
                samples_taken = from;
            } else if is_told_with_end && from + samples.len() as u64 >= samples_taken {
                last_samples = samples;
                break;
            } else {
                let Some(after) = self.settle(&row, &Input::Samples(samples)).await? else { return Ok(()) };
                row = after;
            }
        }
        let Some(end) = report.end else { return Ok(()) };
        let ended = Ended { started_at, end, samples_taken, samples: last_samples };
        Ok(self.settle(&row, &Input::Ended(ended)).await.map(drop)?)
    }

    /// Declares an attempt lost that the scheduler does not know, once it can never start again.
    async fn lose(&self, row: &JobRow, id: AttemptId) -> Result<(), HandlingError> {
        self.limited(Asked::Cancel, self.scheduler.cancel(id.clone())).await?;
        match self.limited(Asked::Find, self.scheduler.find(id)).await? {
            // It was there after all; the next round takes it in.
            Some(report) if !is_never_started(&report) => Ok(()),
            Some(_) | None => {
                tracing::warn!(job.id = %row.job_id, job.attempt = row.attempt.0, "attempt was lost");
                Ok(self.settle(row, &Input::Lost).await.map(drop)?)
            }
        }
    }

    /// Applies an input and gives the job after it; none when it was refused, which is recorded here.
    async fn settle(&self, row: &JobRow, input: &Input) -> Result<Option<JobRow>, StoreError> {
        match self.apply(&row.job_id, input).await? {
            Applied::Written(row) | Applied::Unchanged(row) => Ok(Some(*row)),
            Applied::Refused(refusal) => {
                tracing::warn!(job.id = %row.job_id, error = %refusal, "scheduler's report was refused");
                Ok(None)
            }
        }
    }
}

/// Gives how many samples are not published yet.
const fn unpublished(row: &JobRow, samples_taken: u64) -> u64 {
    samples_taken.saturating_sub(row.samples_published)
}

/// Gives the samples from an index on up to the first that is missing.
fn unbroken(samples: Vec<AttemptSample>, from: u64) -> Vec<AttemptSample> {
    let in_step = |(index, sample): &(u64, AttemptSample)| sample.index == *index;
    (from..).zip(samples).take_while(in_step).map(|(_, sample)| sample).collect()
}
