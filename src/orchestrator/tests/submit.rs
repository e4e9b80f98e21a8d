//! Submitting: verdicts, refusals, repeated requests, a store or scheduler that is away.

use std::time::Duration;

use horizons_actors::command::Command;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::Topic;
use horizons_actors::testkit::{Fault, SchedulerVerdict, StoreCall};
use tokio::time::Instant;

use super::super::{OrchestratorError, Verdict};
use super::{House, attempt_of, command, request, submit_command};
use horizons_actors::command::CommandKind;

fn keyed(key: &str) -> Command {
    Command { idempotency_key: Some(key.to_owned()), ..submit_command() }
}

#[tokio::test(start_paused = true)]
async fn submit_accepted_job_answers_queued_and_publishes_pair() {
    let house = House::driven();

    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();

    assert_eq!(submitted.verdict, Verdict::Accepted);
    assert_eq!(submitted.job.status, JobStatus::Queued);
    assert!(!submitted.is_repeat);
    let id = attempt_of(&submitted.job.job_id);
    assert_eq!(house.lifecycle(&id), ["job.submitted", "job.status_changed", "job.queued"]);
    assert_eq!(house.actions(), ["job.submit"]);
    assert_eq!(house.scheduler.submitted()[0].parameters, request().parameters);
}

#[tokio::test(start_paused = true)]
async fn submit_refused_job_answers_field_and_fails() {
    let house = House::driven();
    let reason = "no such file".to_owned();
    house.scheduler.script(SchedulerVerdict::Refuse { field: "dataset_id", reason: reason.clone() });

    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();

    assert_eq!(submitted.verdict, Verdict::Refused { field: Some("dataset_id".to_owned()), reason });
    let id = attempt_of(&submitted.job.job_id);
    assert_eq!(house.lifecycle(&id), ["job.submitted", "job.status_changed", "job.failed"]);
}

#[tokio::test(start_paused = true)]
async fn submit_request_that_fails_check_stores_nothing() {
    let house = House::driven();
    house.scheduler.refuse_check("agent", "wanted a declared agent");

    let error = house.orchestrator.submit(submit_command()).await.unwrap_err();

    let expected = OrchestratorError::Invalid {
        field: "agent".to_owned(),
        reason: "wanted a declared agent".to_owned(),
    };
    assert_eq!(error, expected);
    assert_eq!(house.events(Topic::AuditTrail), vec![]);
    assert_eq!(house.store.orders(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn submit_too_large_for_log_names_parameters() {
    let house = House::driven();
    let mut request = request();
    request.parameters.insert("list", "x".repeat(2_000_000).as_str().into());

    let error = house.orchestrator.submit(command(CommandKind::SubmitJob(request))).await.unwrap_err();

    let OrchestratorError::Invalid { field, .. } = error else { panic!("{error}") };
    assert_eq!(field, "parameters");
    assert_eq!(house.store.orders(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn submit_slow_scheduler_answers_pending_after_wait() {
    let house = House::driven();
    house.scheduler.script(SchedulerVerdict::AcceptAfter(Duration::from_secs(5)));
    let before = Instant::now();

    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();

    assert_eq!(submitted.verdict, Verdict::Pending);
    assert_eq!(before.elapsed(), Duration::from_secs(2));
    assert_eq!(submitted.job.status, JobStatus::Submitted);
    house.reach(&attempt_of(&submitted.job.job_id), JobStatus::Queued).await;
}

#[tokio::test(start_paused = true)]
async fn submit_scheduler_away_is_kept_until_it_is_back() {
    let house = House::driven();
    house.scheduler.away();
    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();
    assert_eq!(submitted.verdict, Verdict::Pending);
    tokio::time::sleep(Duration::from_secs(3_600)).await;

    house.scheduler.back();

    let id = attempt_of(&submitted.job.job_id);
    house.reach(&id, JobStatus::Queued).await;
    assert_eq!(house.lifecycle(&id), ["job.submitted", "job.status_changed", "job.queued"]);
}

#[tokio::test(start_paused = true)]
async fn submit_same_key_and_request_is_same_job() {
    let house = House::driven();
    let first = house.orchestrator.submit(keyed("k-1")).await.unwrap();

    let second = house.orchestrator.submit(keyed("k-1")).await.unwrap();

    assert!(second.is_repeat);
    assert_eq!(second.job, first.job);
    assert_eq!(second.verdict, Verdict::Accepted);
    assert_eq!(house.events(Topic::JobLifecycle).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn submit_same_key_while_pending_waits_for_verdict_too() {
    let house = House::driven();
    house.scheduler.script(SchedulerVerdict::AcceptAfter(Duration::from_millis(1_500)));

    let (first, second) =
        tokio::join!(house.orchestrator.submit(keyed("k-1")), house.orchestrator.submit(keyed("k-1")));

    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.job.job_id, second.job.job_id);
    assert_eq!((first.verdict, second.verdict), (Verdict::Accepted, Verdict::Accepted));
    assert_eq!((first.is_repeat, second.is_repeat), (false, true));
}

#[tokio::test(start_paused = true)]
async fn submit_same_key_and_other_request_is_refused() {
    let house = House::driven();
    let first = house.orchestrator.submit(keyed("k-1")).await.unwrap();
    let mut request = request();
    request.parameters.insert("niter", "7".into());
    let other =
        Command { idempotency_key: Some("k-1".to_owned()), ..command(CommandKind::SubmitJob(request)) };

    let error = house.orchestrator.submit(other).await.unwrap_err();

    assert_eq!(error, OrchestratorError::KeyReused { job_id: first.job.job_id });
    assert_eq!(house.events(Topic::JobLifecycle).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn submit_store_away_or_full_answers_busy() {
    let house = House::driven();
    house.store.faults().away();
    let away = house.orchestrator.submit(submit_command()).await.unwrap_err();
    house.store.faults().back();
    house.store.faults().limit_queue(0);
    let full = house.orchestrator.submit(submit_command()).await.unwrap_err();

    for error in [away, full] {
        let OrchestratorError::Busy { retry_after, .. } = error else { panic!("{error}") };
        assert_eq!(retry_after, Duration::from_secs(1));
    }
    assert_eq!(house.events(Topic::JobLifecycle), vec![]);
}

#[tokio::test(start_paused = true)]
async fn submit_disk_limit_reached_is_refused() {
    let house = House::driven();
    house.store.set_disk_limit(0);

    let error = house.orchestrator.submit(submit_command()).await.unwrap_err();

    assert_eq!(error, OrchestratorError::DiskLimit { used_bytes: 0, limit_bytes: 0 });
}

#[tokio::test(start_paused = true)]
async fn submit_answer_of_store_lost_finds_the_job() {
    let house = House::driven();
    house.store.faults().script(StoreCall::WriteJob, Fault::UnknownWritten);

    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();

    assert_eq!(submitted.verdict, Verdict::Accepted);
}

#[tokio::test(start_paused = true)]
async fn submit_outcome_unknown_names_the_job_and_how_to_find_out() {
    let house = House::driven();

    for (submit, wanted) in [
        (keyed("k"), "repeat it with the same `Idempotency-Key`"),
        (submit_command(), "repeated without an `Idempotency-Key` it makes another job"),
    ] {
        house.store.faults().script(StoreCall::WriteJob, Fault::UnknownUnwritten);

        let error = house.orchestrator.submit(submit).await.unwrap_err();

        let text = error.to_string();
        let OrchestratorError::Unknown { job_id: Some(job_id), .. } = error else { panic!("{error}") };
        assert!(text.contains(wanted) && text.contains(job_id.as_str()), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn submit_outcome_known_to_be_nothing_is_no_doubt() {
    let house = House::driven();
    house.store.faults().script(StoreCall::WriteJob, Fault::Unavailable);

    let error = house.orchestrator.submit(submit_command()).await.unwrap_err();

    assert!(matches!(error, OrchestratorError::Busy { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn submit_write_of_verdict_fails_is_decided_again() {
    let house = House::driven();
    for fault in [Fault::Pass, Fault::Unavailable, Fault::UnknownUnwritten, Fault::UnknownWritten] {
        house.store.faults().script(StoreCall::WriteJob, fault);
    }

    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();

    let id = attempt_of(&submitted.job.job_id);
    house.reach(&id, JobStatus::Queued).await;
    assert_eq!(house.lifecycle(&id), ["job.submitted", "job.status_changed", "job.queued"]);
    assert_eq!(house.scheduler.submits(&id), 1);
}
