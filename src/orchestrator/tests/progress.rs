//! Running: starts, samples, ends, cleaning, and one job's trouble that is not another's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use horizons_actors::clock::Clock;
use horizons_actors::command::{Order, OrderKind};
use horizons_actors::event::{JobStatus, Payload};
use horizons_actors::ids::{AttemptId, Topic};
use horizons_actors::ports::Reply;
use horizons_actors::ports::scheduler::{
    AttemptReport, AttemptSample, AttemptSpec, Scheduler, SchedulerError,
};
use horizons_actors::ports::store::{JobExpectation, JobStore, JobWrite, JobWritten, OrderAnswer};
use horizons_actors::testkit::{FakeScheduler, StoreCall, wait_until};

use super::{House, LIMIT, cancel_command, names};

#[tokio::test(start_paused = true)]
async fn job_runs_to_its_end_in_order() {
    let house = House::driven();
    let id = house.submit_running().await;
    let started_at = house.clock.now();
    house.scheduler.sample(&id, 80.0, 64.0, 3).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;

    house.scheduler.finish(&id).unwrap();

    let row = house.reach(&id, JobStatus::Completed).await;
    assert_eq!(
        house.lifecycle(&id),
        [
            "job.submitted",
            "job.status_changed",
            "job.queued",
            "job.status_changed",
            "job.running",
            "job.status_changed",
            "job.completed"
        ]
    );
    let lifecycle = house.events_of(Topic::JobLifecycle, &id);
    let Payload::JobRunning(running) = &lifecycle[4].payload else { panic!("no job.running") };
    assert!(running.running_timestamp <= started_at);
    assert!(lifecycle[4].timestamp >= running.running_timestamp);
    assert!(row.execution_time_seconds.unwrap() >= 4.0);
    let metrics = house.events_of(Topic::JobMetrics, &id);
    let summaries: Vec<bool> = metrics.iter().map(|event| is_summary(&event.payload)).collect();
    assert_eq!(summaries, [false, true]);
    house.check_order();
}

fn is_summary(payload: &Payload) -> bool {
    match payload {
        Payload::JobMetricsRecorded(metrics) => metrics.summary,
        other => panic!("`{}` among the metrics", other.event_type()),
    }
}

#[tokio::test(start_paused = true)]
async fn job_failed_tells_code_and_message() {
    let house = House::driven();
    let id = house.submit_running().await;

    house.scheduler.fail(&id, "exit_code", "exit code 3").unwrap();

    let row = house.reach(&id, JobStatus::Failed).await;
    assert_eq!(row.failure.unwrap().error_code, "exit_code");
    assert!(!row.will_retry);
    assert_eq!(house.lifecycle(&id)[5..], ["job.status_changed", "job.failed"]);
}

#[tokio::test(start_paused = true)]
async fn job_ended_unseen_publishes_running_and_samples_first() {
    let mut house = House::driven();
    let id = house.submit().await;
    house.crash().await;
    house.scheduler.start(&id).unwrap();
    for _ in 0..3 {
        house.scheduler.sample(&id, 10.0, 1.0, 1).unwrap();
    }
    house.scheduler.finish(&id).unwrap();

    house.start_driver();

    house.reach(&id, JobStatus::Completed).await;
    assert_eq!(
        house.lifecycle(&id)[3..],
        ["job.status_changed", "job.running", "job.status_changed", "job.completed"]
    );
    assert_eq!(house.events_of(Topic::JobMetrics, &id).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn samples_that_piled_up_leave_in_large_batches() {
    let mut house = House::driven();
    let id = house.submit().await;
    house.crash().await;
    house.scheduler.start(&id).unwrap();
    for index in 0..1_234 {
        house.scheduler.sample(&id, f64::from(index), 1.0, 1).unwrap();
    }
    house.scheduler.finish(&id).unwrap();
    let writes = house.store.faults().calls(StoreCall::WriteJob);

    house.start_driver();

    house.reach(&id, JobStatus::Completed).await;
    let metrics = house.events_of(Topic::JobMetrics, &id);
    let published: Vec<f64> = metrics
        .iter()
        .filter_map(|event| match &event.payload {
            Payload::JobMetricsRecorded(metrics) if !metrics.summary => Some(metrics.cpu_usage_percent),
            _ => None,
        })
        .collect();
    assert_eq!(published, (0..1_234).map(f64::from).collect::<Vec<_>>());
    assert_eq!(metrics.len(), 1_235);
    // RUNNING, three batches of at most 500, the end.
    assert_eq!(house.store.faults().calls(StoreCall::WriteJob) - writes, 5);
    house.check_order();
}

#[tokio::test(start_paused = true)]
async fn job_unknown_to_scheduler_is_lost_and_never_starts() {
    let house = House::driven();
    let id = house.submit_running().await;

    house.scheduler.forget(&id);

    let row = house.reach(&id, JobStatus::Failed).await;
    assert_eq!(row.failure.unwrap().error_code, "attempt_lost");
    assert_eq!(house.scheduler.cancels(), vec![id]);
}

#[tokio::test(start_paused = true)]
async fn store_away_while_job_ends_is_caught_up_in_order() {
    let house = House::driven();
    let id = house.submit_running().await;
    house.store.faults().away();
    house.scheduler.sample(&id, 50.0, 2.0, 1).unwrap();
    house.scheduler.finish(&id).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;

    house.store.faults().back();

    house.reach(&id, JobStatus::Completed).await;
    assert_eq!(names(&house.events_of(Topic::JobMetrics, &id)).len(), 2);
    house.check_order();
}

#[tokio::test(start_paused = true)]
async fn order_to_clean_is_carried_out_after_the_end_only() {
    let house = House::driven();
    let id = house.submit_running().await;
    order_clean(&house, &id).await;
    house.orchestrator.announce_orders();
    wait_until("the refusal", LIMIT, || clean_answer(&house).is_some()).await;
    assert!(matches!(clean_answer(&house), Some(OrderAnswer::Refused(_))));

    let ended = house.submit_running().await;
    house.scheduler.finish(&ended).unwrap();
    house.reach(&ended, JobStatus::Completed).await;
    order_clean(&house, &ended).await;

    wait_until("cleaning", LIMIT, || house.scheduler.cleaned() == vec![ended.clone()]).await;
}

/// Orders cleaning as a lane does: without telling the orchestrator.
async fn order_clean(house: &House, id: &AttemptId) {
    let row = house.row(id).await;
    let order = Order {
        job_id: id.job_id.clone(),
        attempt: id.attempt,
        kind: OrderKind::Clean,
        ordered_at: house.clock.now(),
    };
    let expectation =
        JobExpectation::Sequences { lifecycle: row.lifecycle_sequence, metrics: row.metrics_sequence };
    let write = JobWrite {
        expectation,
        row,
        events: vec![],
        orders: vec![order],
        answered: vec![],
        idempotency: None,
    };
    assert_eq!(house.store.write_job(write).await.unwrap(), JobWritten::Written);
}

fn clean_answer(house: &House) -> Option<OrderAnswer> {
    let clean =
        |(order, answer): (Order, Option<OrderAnswer>)| (order.kind == OrderKind::Clean).then_some(answer);
    house.store.orders().into_iter().find_map(clean).flatten()
}

/// Panics whenever it is asked about one attempt.
struct Panicking {
    inner: FakeScheduler,
    victim: Arc<Mutex<Option<AttemptId>>>,
}

impl Panicking {
    fn panic_about(&self, id: &AttemptId) {
        let is_victim = self.victim.lock().unwrap().as_ref() == Some(id);
        assert!(!is_victim, "scripted panic");
    }
}

impl Scheduler for Panicking {
    fn check(&self, spec: &AttemptSpec) -> Result<(), SchedulerError> {
        Scheduler::check(&self.inner, spec)
    }
    fn submit(&self, spec: AttemptSpec) -> Reply<AttemptReport, SchedulerError> {
        self.inner.submit(spec)
    }
    fn find(&self, id: AttemptId) -> Reply<Option<AttemptReport>, SchedulerError> {
        self.panic_about(&id);
        self.inner.find(id)
    }
    fn samples(&self, id: AttemptId, from: u64, limit: usize) -> Reply<Vec<AttemptSample>, SchedulerError> {
        self.inner.samples(id, from, limit)
    }
    fn cancel(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.panic_about(&id);
        self.inner.cancel(id)
    }
    fn clean(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.inner.clean(id)
    }
    fn changed(&self) -> Reply<(), SchedulerError> {
        self.inner.changed()
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_one_jobs_handling_holds_up_no_other() {
    let victim = Arc::new(Mutex::new(None));
    let mut house = House::with_scheduler(|inner| {
        Arc::new(Panicking { inner, victim: Arc::clone(&victim) }) as Arc<dyn Scheduler>
    });
    house.start_driver();
    let id = house.submit_running().await;
    *victim.lock().unwrap() = Some(id.clone());
    // Both ways to the scheduler panic about it: the order to cancel, and every look at the live job.
    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();

    let other = house.submit_running().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    house.scheduler.finish(&other).unwrap();
    house.reach(&other, JobStatus::Completed).await;

    assert_eq!(house.scheduler.cancels(), vec![]);
    *victim.lock().unwrap() = None;
    house.reach(&id, JobStatus::Cancelled).await;
    wait_until("every answer", LIMIT, || house.store.orders().iter().all(|(_, answer)| answer.is_some()))
        .await;
}
