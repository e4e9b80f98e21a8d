//! The promises of the scheduler port, and the test's own commands.

use super::*;
use crate::event::TaccSystem;
use crate::ids::{Attempt, CorrelationId, JobId};
use crate::testkit::ManualClock;

fn fixture() -> (FakeScheduler, Arc<ManualClock>, AttemptSpec) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000)));
    let spec = AttemptSpec {
        id: AttemptId { job_id: JobId::parse("j1").unwrap(), attempt: Attempt(1) },
        agent: "imaging".parse().unwrap(),
        dataset_id: "d1".parse().unwrap(),
        parameters: crate::parameters::Parameters::default(),
        tacc_system: TaccSystem::Local,
        user_id: "ada".parse().unwrap(),
        correlation_id: CorrelationId(uuid::Uuid::from_u128(1)),
    };
    (FakeScheduler::new(clock.clone()), clock, spec)
}

#[tokio::test]
async fn submit_repeated_answers_the_same_and_starts_once() {
    let (scheduler, clock, spec) = fixture();

    let first = scheduler.submit(spec.clone()).await.unwrap();
    clock.advance(Duration::from_secs(1));
    let second = scheduler.submit(spec.clone()).await.unwrap();
    scheduler.start(&spec.id).unwrap();
    let again = scheduler.start(&spec.id);

    assert_eq!(first, second);
    assert_eq!(again, Err(FakeSchedulerError::Started(spec.id.clone())));
    assert_eq!((scheduler.starts(&spec.id), scheduler.submits(&spec.id)), (1, 2));
}

#[tokio::test]
async fn submit_scripted_verdicts_come_in_order_and_find_tells_the_truth() {
    let (scheduler, _clock, spec) = fixture();
    scheduler.script(SchedulerVerdict::Unavailable);
    scheduler.script(SchedulerVerdict::Refuse { field: "agent", reason: "unknown".to_owned() });
    scheduler.script(SchedulerVerdict::AcceptUnanswered);

    let away = scheduler.submit(spec.clone()).await.unwrap_err();
    let refused = scheduler.submit(spec.clone()).await.unwrap_err();
    let unknown = scheduler.find(spec.id.clone()).await.unwrap();
    let unanswered = scheduler.submit(spec.clone()).await.unwrap_err();
    let found = scheduler.find(spec.id.clone()).await.unwrap();

    assert!(away.is_transient() && unanswered.is_transient());
    assert!(matches!(refused, SchedulerError::Refused { field: "agent", .. }));
    assert_eq!(unknown, None);
    assert_eq!(found.unwrap().end, None);
}

#[tokio::test]
async fn attempt_run_to_its_end_reports_samples_and_totals() {
    let (scheduler, clock, spec) = fixture();
    scheduler.submit(spec.clone()).await.unwrap();

    let too_early = scheduler.finish(&spec.id);
    scheduler.start(&spec.id).unwrap();
    clock.advance(Duration::from_secs(2));
    scheduler.sample(&spec.id, 50.0, 100.0, 3).unwrap();
    scheduler.sample(&spec.id, 100.0, 80.0, 4).unwrap();
    scheduler.finish(&spec.id).unwrap();
    let report = scheduler.find(spec.id.clone()).await.unwrap().unwrap();
    let samples = scheduler.samples(spec.id.clone(), 1, 10).await.unwrap();

    assert_eq!(too_early, Err(FakeSchedulerError::NotStarted(spec.id.clone())));
    let totals = AttemptTotals {
        cpu_usage_percent: 75.0,
        memory_usage_mb: 100.0,
        io_operations: 7,
        execution_time_seconds: 2.0,
    };
    let end = report.end.unwrap();
    assert_eq!((end.exit, end.totals), (AttemptExit::Completed, Some(totals)));
    assert_eq!((report.samples, samples.len(), samples[0].index), (2, 1, 1));
    assert_eq!(scheduler.lose(&spec.id), Err(FakeSchedulerError::Ended(spec.id)));
}

#[tokio::test]
async fn cancel_before_submit_leaves_a_tombstone_that_no_start_passes() {
    let (scheduler, _clock, spec) = fixture();

    scheduler.cancel(spec.id.clone()).await.unwrap();
    scheduler.cancel(spec.id.clone()).await.unwrap();
    let found = scheduler.find(spec.id.clone()).await.unwrap().unwrap();
    let submitted = scheduler.submit(spec.clone()).await.unwrap();
    let started = scheduler.start(&spec.id);

    assert_eq!(found, submitted);
    assert_eq!(submitted.end.unwrap().exit, AttemptExit::Cancelled);
    assert_eq!(started, Err(FakeSchedulerError::Ended(spec.id.clone())));
    assert_eq!(scheduler.cancels().len(), 2);
}

#[tokio::test]
async fn cancel_held_lets_the_attempt_run_on_until_it_is_carried_out() {
    let (scheduler, _clock, spec) = fixture();
    scheduler.submit(spec.clone()).await.unwrap();
    scheduler.start(&spec.id).unwrap();
    scheduler.hold_cancels();

    scheduler.cancel(spec.id.clone()).await.unwrap();
    let before = scheduler.find(spec.id.clone()).await.unwrap().unwrap();
    scheduler.carry_out_cancels();
    let after = scheduler.find(spec.id.clone()).await.unwrap().unwrap();

    assert_eq!(before.end, None);
    assert_eq!(after.end.unwrap().exit, AttemptExit::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn changed_answers_on_a_change_and_otherwise_after_the_poll_interval() {
    let (scheduler, _clock, spec) = fixture();
    let started = tokio::time::Instant::now();

    scheduler.changed().await.unwrap();
    let without_change = started.elapsed();
    scheduler.submit(spec).await.unwrap();
    scheduler.changed().await.unwrap();
    let with_change = started.elapsed() - without_change;

    assert_eq!((without_change, with_change), (POLL_INTERVAL, Duration::ZERO));
}

#[tokio::test]
async fn away_fails_every_call_while_attempts_go_on() {
    let (scheduler, _clock, spec) = fixture();
    scheduler.submit(spec.clone()).await.unwrap();
    scheduler.away();

    let found = scheduler.find(spec.id.clone()).await;
    let submitted = scheduler.submit(spec.clone()).await;
    scheduler.start(&spec.id).unwrap();
    scheduler.back();

    assert!(found.unwrap_err().is_transient() && submitted.unwrap_err().is_transient());
    assert!(scheduler.find(spec.id).await.unwrap().unwrap().started_at.is_some());
}
