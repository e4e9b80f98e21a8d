//! The orchestrator over the real store: the promises of the fake are the real one's too.

use std::sync::Arc;

use horizons_actors::clock::{SystemClock, SystemRandomness};
use horizons_actors::event::JobStatus;
use horizons_actors::ports::store::{JobRow, JobStore};
use horizons_actors::testkit::FakeScheduler;

use super::super::{Orchestrator, OrchestratorConfig, OrchestratorError, Verdict};
use super::{LIMIT, attempt_of, cancel_command, submit_command};
use crate::db::sqlite::{SqliteConfig, SqliteStore};

async fn reach(store: &Arc<SqliteStore>, job: &JobRow, status: JobStatus) -> JobRow {
    let reached = async {
        loop {
            let row = store.read_job(job.job_id.clone()).await.unwrap().unwrap();
            if row.status == status {
                return row;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.unwrap()
}

#[tokio::test]
async fn jobs_over_sqlite_complete_and_cancel_across_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(SqliteConfig::new(folder.path())).unwrap());
    let scheduler = FakeScheduler::new(Arc::new(SystemClock));
    let new_orchestrator = || {
        Orchestrator::new(
            Arc::clone(&store) as Arc<dyn JobStore>,
            Arc::new(scheduler.clone()),
            Arc::new(SystemClock),
            Arc::new(SystemRandomness),
            OrchestratorConfig::default(),
        )
    };
    let first = new_orchestrator();
    let driver = tokio::spawn(first.clone().run(std::future::pending()));

    let one = first.submit(submit_command()).await.unwrap();
    let other = first.submit(submit_command()).await.unwrap();
    assert_eq!((&one.verdict, &other.verdict), (&Verdict::Accepted, &Verdict::Accepted));
    scheduler.start(&attempt_of(&one.job.job_id)).unwrap();
    scheduler.sample(&attempt_of(&one.job.job_id), 50.0, 2.0, 1).unwrap();
    reach(&store, &one.job, JobStatus::Running).await;
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    scheduler.finish(&attempt_of(&one.job.job_id)).unwrap();
    let second = new_orchestrator();
    second.cancel(cancel_command(&attempt_of(&other.job.job_id))).await.unwrap();
    let driver = tokio::spawn(second.clone().run(std::future::pending()));

    let row = reach(&store, &one.job, JobStatus::Completed).await;
    assert_eq!((row.lifecycle_sequence.0, row.metrics_sequence.0), (7, 2));
    let row = reach(&store, &other.job, JobStatus::Cancelled).await;
    assert_eq!(row.cancel.unwrap().cancelled_by.as_str(), "grace");
    let error = second.cancel(cancel_command(&attempt_of(&other.job.job_id))).await.unwrap_err();
    assert!(matches!(error, OrchestratorError::Conflict { state: JobStatus::Cancelled, .. }), "{error}");
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
}
