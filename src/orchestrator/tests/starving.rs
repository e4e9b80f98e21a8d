//! Orders of many jobs that cannot be carried out, beside one that can.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use horizons_actors::event::JobStatus;
use horizons_actors::ids::{AttemptId, JobId};
use horizons_actors::ports::Reply;
use horizons_actors::ports::scheduler::{
    AttemptReport, AttemptSample, AttemptSpec, Scheduler, SchedulerError,
};
use horizons_actors::testkit::FakeScheduler;

use super::{House, attempt_of, cancel_command, submit_command};

/// Is away for some jobs only.
struct PartlyAway {
    inner: FakeScheduler,
    jobs: Arc<Mutex<HashSet<JobId>>>,
}

impl PartlyAway {
    fn unless_away<T: Send + 'static>(
        &self,
        id: &AttemptId,
        reply: impl FnOnce() -> Reply<T, SchedulerError>,
    ) -> Reply<T, SchedulerError> {
        if self.jobs.lock().unwrap().contains(&id.job_id) {
            let error = SchedulerError::Unavailable("scripted".to_owned());
            return Box::pin(std::future::ready(Err(error)));
        }
        reply()
    }
}

impl Scheduler for PartlyAway {
    fn check(&self, spec: &AttemptSpec) -> Result<(), SchedulerError> {
        Scheduler::check(&self.inner, spec)
    }
    fn submit(&self, spec: AttemptSpec) -> Reply<AttemptReport, SchedulerError> {
        self.unless_away(&spec.id.clone(), || self.inner.submit(spec))
    }
    fn find(&self, id: AttemptId) -> Reply<Option<AttemptReport>, SchedulerError> {
        self.unless_away(&id.clone(), || self.inner.find(id))
    }
    fn samples(&self, id: AttemptId, from: u64, limit: usize) -> Reply<Vec<AttemptSample>, SchedulerError> {
        self.inner.samples(id, from, limit)
    }
    fn cancel(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.unless_away(&id.clone(), || self.inner.cancel(id))
    }
    fn clean(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.inner.clean(id)
    }
    fn changed(&self) -> Reply<(), SchedulerError> {
        self.inner.changed()
    }
}

#[tokio::test(start_paused = true)]
async fn orders_of_many_jobs_that_wait_for_another_try_starve_no_other() {
    // More orders than a store gives with one answer, whatever is asked for.
    const JOBS: usize = 5_100;
    let jobs = Arc::new(Mutex::new(HashSet::new()));
    let mut house = House::with_scheduler(|inner| {
        Arc::new(PartlyAway { inner, jobs: Arc::clone(&jobs) }) as Arc<dyn Scheduler>
    });
    // Each has an order to submit and one to cancel, older than those of the job that is looked at.
    for _ in 0..JOBS {
        let id = house.submit().await;
        house.orchestrator.cancel(cancel_command(&id)).await.unwrap();
        jobs.lock().unwrap().insert(id.job_id);
    }
    house.start_driver();
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;

    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();

    house.reach(&attempt_of(&submitted.job.job_id), JobStatus::Queued).await;
    jobs.lock().unwrap().clear();
}
