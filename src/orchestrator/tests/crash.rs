//! Crashes: whatever was in memory is gone, and nothing is lost or done twice.

use std::time::Duration;

use horizons_actors::event::{JobStatus, Payload};
use horizons_actors::ids::{AttemptId, Topic};
use horizons_actors::testkit::{Fault, SchedulerVerdict, StoreCall, wait_until};
use proptest::prelude::*;

use super::super::Verdict;
use super::{House, LIMIT, attempt_of, cancel_command, submit_command};

#[tokio::test(start_paused = true)]
async fn crash_before_any_driver_keeps_the_submit() {
    let mut house = House::idle();
    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();
    assert_eq!(submitted.verdict, Verdict::Pending);

    house.restart().await;

    house.reach(&attempt_of(&submitted.job.job_id), JobStatus::Queued).await;
}

#[tokio::test(start_paused = true)]
async fn crash_after_accept_starts_once_and_publishes_queued_once() {
    let mut house = House::driven();
    house.scheduler.script(SchedulerVerdict::AcceptAfter(Duration::from_secs(20)));
    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();
    let id = attempt_of(&submitted.job.job_id);
    assert_eq!(submitted.verdict, Verdict::Pending);

    house.restart().await;

    house.reach(&id, JobStatus::Queued).await;
    house.scheduler.start(&id).unwrap();
    house.reach(&id, JobStatus::Running).await;
    assert_eq!(house.scheduler.submits(&id), 1);
    assert_eq!(house.scheduler.starts(&id), 1);
    assert_eq!(house.lifecycle(&id).iter().filter(|name| **name == "job.queued").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn answer_of_scheduler_lost_is_found_instead_of_submitted_again() {
    let house = House::driven();
    house.scheduler.script(SchedulerVerdict::AcceptUnanswered);

    let id = house.submit().await;

    house.reach(&id, JobStatus::Queued).await;
    assert_eq!(house.scheduler.submits(&id), 1);
}

#[tokio::test(start_paused = true)]
async fn crash_with_late_write_of_the_dead_doubles_nothing() {
    let mut house = House::driven();
    let id = house.submit().await;
    house.store.faults().script(StoreCall::WriteJob, Fault::Hang);
    house.scheduler.start(&id).unwrap();
    wait_until("the write to hang", LIMIT, || house.store.faults().hanging() == 1).await;

    house.restart().await;
    house.store.faults().release_hung();

    house.reach(&id, JobStatus::Running).await;
    house.scheduler.finish(&id).unwrap();
    house.reach(&id, JobStatus::Completed).await;
    assert_eq!(house.lifecycle(&id).len(), 7);
    house.check_order();
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_the_driver_after_the_work_in_hand() {
    let house = House::idle();
    house.scheduler.script(SchedulerVerdict::AcceptAfter(Duration::from_secs(3)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let driver = tokio::spawn(house.orchestrator.clone().run(async move {
        stopped.await.unwrap();
    }));
    let id = house.submit().await;

    stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, driver).await.unwrap().unwrap();

    assert_eq!(house.row(&id).await.status, JobStatus::Queued);
}

/// What is done to the house between two steps of its jobs.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Nothing,
    Restart,
    StoreAway,
    SchedulerAway,
    StoreFault(u8),
}

fn any_trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        3 => Just(Trouble::Nothing),
        2 => Just(Trouble::Restart),
        1 => Just(Trouble::StoreAway),
        1 => Just(Trouble::SchedulerAway),
        2 => (0..4_u8).prop_map(Trouble::StoreFault),
    ]
}

async fn make(house: &mut House, trouble: Trouble) {
    match trouble {
        Trouble::Nothing => {}
        Trouble::Restart => house.restart().await,
        Trouble::StoreAway => {
            house.store.faults().away();
            tokio::time::sleep(Duration::from_millis(700)).await;
            house.store.faults().back();
        }
        Trouble::SchedulerAway => {
            house.scheduler.away();
            tokio::time::sleep(Duration::from_millis(700)).await;
            house.scheduler.back();
        }
        Trouble::StoreFault(number) => {
            let fault = match number {
                0 => Fault::Unavailable,
                1 => Fault::UnknownWritten,
                2 => Fault::UnknownUnwritten,
                _ => Fault::Delay(Duration::from_millis(300)),
            };
            house.store.faults().script(StoreCall::WriteJob, fault);
        }
    }
}

/// Moves one job on by one step, whatever it can do next.
fn step(house: &House, id: &AttemptId, number: usize) {
    // A step that the attempt cannot make yet is no step; the next round tries again.
    let _ = match number % 5 {
        0 => house.scheduler.start(id),
        1..=3 => house.scheduler.sample(id, number as f64, 1.0, 1).map(drop),
        _ => house.scheduler.finish(id),
    };
}

async fn live_through(jobs: usize, troubles: Vec<Trouble>) {
    let mut house = House::driven();
    let mut ids = Vec::new();
    for _ in 0..jobs {
        ids.push(house.submit().await);
    }
    for (round, trouble) in troubles.into_iter().enumerate() {
        make(&mut house, trouble).await;
        for (number, id) in ids.iter().enumerate() {
            step(&house, id, round + number);
        }
        if let Some(id) = ids.get(round * 7 % jobs).filter(|_| round % 3 == 0) {
            // A job that has ended, or a store that is away, refuses; both are fine here.
            let _ = house.orchestrator.cancel(cancel_command(id)).await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    for id in &ids {
        // Whatever has not ended by itself ends now.
        let _ = house.scheduler.start(id);
        let _ = house.scheduler.finish(id);
    }
    wait_for_all(&house, &ids).await;

    house.check_order();
    for id in &ids {
        assert!(house.scheduler.starts(id) <= 1, "{id}");
        check_job(&house, id).await;
    }
}

async fn wait_for_all(house: &House, ids: &[AttemptId]) {
    for id in ids {
        let ended = async {
            while !house.row(id).await.status.is_attempt_end() {
                // An attempt that was submitted late starts and ends late.
                let _ = house.scheduler.start(id);
                let _ = house.scheduler.finish(id);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.unwrap();
    }
}

async fn check_job(house: &House, id: &AttemptId) {
    let row = house.row(id).await;
    let lifecycle = house.lifecycle(id);
    assert_eq!(lifecycle.len() as u64, row.lifecycle_sequence.0);
    let ends = ["job.completed", "job.failed", "job.cancelled"];
    assert_eq!(lifecycle.iter().filter(|name| ends.contains(name)).count(), 1, "{lifecycle:?}");
    let metrics = house.events_of(Topic::JobMetrics, id);
    let is_sample = |payload: &Payload| matches!(payload, Payload::JobMetricsRecorded(m) if !m.summary);
    let samples = metrics.iter().filter(|event| is_sample(&event.payload)).count();
    assert_eq!(samples as u64, row.samples_published);
}

#[tokio::test(start_paused = true)]
async fn fifty_jobs_interleaved_all_end_in_order() {
    live_through(50, vec![Trouble::Nothing; 12]).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn jobs_any_crashes_and_faults_lose_and_double_nothing(
        troubles in proptest::collection::vec(any_trouble(), 1..14),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(live_through(8, troubles));
    }
}
