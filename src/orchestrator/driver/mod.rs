//! The driver: carries orders to the scheduler and asks after live jobs, for ever.
//!
//! Promises that a failure or a panic in one job's handling is logged and tried again, and holds up no other
//! job; that passing errors are retried with growing delays and no limit on their number; and that a restart
//! needs nothing but the store: open orders and live jobs are all there is to know. Stops between two jobs.

mod looks;
mod orders;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use horizons_actors::ids::JobId;
use horizons_actors::ports::Reply;
use horizons_actors::ports::scheduler::{AttemptExit, AttemptReport, SchedulerError};
use horizons_actors::ports::store::StoreError;
use tokio::sync::watch;

use super::trouble::Asked;
use super::{Orchestrator, Shared};

/// Why the handling of a job was not finished; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandlingError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The scheduler failed.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// The scheduler did not answer in time.
    #[error("scheduler gave no answer in time")]
    SchedulerSilent,
    /// Our own code failed.
    #[error("handler panicked: {0}")]
    Panicked(String),
}

impl HandlingError {
    /// Tells whether the same handling may succeed later without anybody's doing.
    pub(super) const fn is_transient(&self) -> bool {
        match self {
            HandlingError::Store(error) => error.is_transient(),
            HandlingError::Scheduler(error) => error.is_transient(),
            HandlingError::SchedulerSilent => true,
            HandlingError::Panicked(_) => false,
        }
    }
}

impl Orchestrator {
    /// Drives jobs until `shutdown` is ready, then ends after the work in hand. Run it once.
    ///
    /// *Cancel safety*: dropping it is a crash: another run, in this process or the next, goes on.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let (stop, stopped) = watch::channel(false);
        let orders = orders::work(Arc::clone(&self.shared), stopped.clone());
        let looks = looks::work(Arc::clone(&self.shared), stopped);
        let stopper = async move {
            shutdown.await;
            stop.send_replace(true);
        };
        tokio::join!(orders, looks, stopper);
    }
}

impl Shared {
    /// Gives how long to wait after so many failures in a row.
    fn delay(&self, failures: u32) -> Duration {
        self.config.backoff.delay(failures, self.randomness.next_u64())
    }

    /// Waits for the scheduler, within the limit, and notes whether it does what it is asked.
    async fn limited<T>(&self, asked: Asked, reply: Reply<T, SchedulerError>) -> Result<T, HandlingError> {
        let answer = match tokio::time::timeout(self.config.scheduler_time_limit, reply).await {
            Ok(answer) => answer.map_err(HandlingError::from),
            Err(_elapsed) => Err(HandlingError::SchedulerSilent),
        };
        let failure = answer.as_ref().err().filter(|error| error.is_transient());
        self.trouble.note(asked, failure.map(ToString::to_string));
        answer
    }
}

/// Waits until the driver is to stop.
async fn stop_of(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the run.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Handles one job behind a wall: a panic becomes an error.
async fn guarded<T>(
    job_id: &JobId,
    handling: impl Future<Output = Result<T, HandlingError>>,
) -> Result<T, HandlingError> {
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            tracing::error!(job.id = %job_id, error = %message, "job handler panicked; it is tried again");
            Err(HandlingError::Panicked(message))
        }
    }
}

/// Tells whether a report says that the attempt never starts: it was cancelled before it began.
fn is_never_started(report: &AttemptReport) -> bool {
    report.started_at.is_none()
        && report.end.as_ref().is_some_and(|end| end.exit == AttemptExit::Cancelled && end.totals.is_none())
}
