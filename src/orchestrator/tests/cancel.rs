//! Cancelling, at every moment of a job's life.

use std::time::Duration;

use horizons_actors::command::{Command, OrderKind, Principal};
use horizons_actors::event::{JobStatus, Payload};
use horizons_actors::ids::{JobId, Topic, UserId};
use horizons_actors::ports::scheduler::Scheduler;
use horizons_actors::testkit::{Fault, SchedulerVerdict, StoreCall, wait_until};

use super::super::{OrchestratorError, Verdict};
use super::{House, LIMIT, attempt_of, cancel_command, submit_command};

#[tokio::test(start_paused = true)]
async fn cancel_queued_job_ends_it_at_scheduler() {
    let house = House::driven();
    let id = house.submit().await;

    let cancelling = house.orchestrator.cancel(cancel_command(&id)).await.unwrap();

    assert!(!cancelling.is_repeat);
    assert_eq!(cancelling.job.status, JobStatus::Queued);
    house.reach(&id, JobStatus::Cancelled).await;
    assert_eq!(house.lifecycle(&id)[3..], ["job.status_changed", "job.cancelled"]);
    let last = house.events_of(Topic::JobLifecycle, &id).pop().unwrap();
    let Payload::JobCancelled(cancelled) = last.payload else { panic!("no job.cancelled") };
    assert_eq!(cancelled.cancelled_by.as_str(), "grace");
    assert_eq!(cancelled.cancellation_reason, "wrong data set");
    assert_eq!(last.user_id.as_str(), "ada");
    assert_eq!(house.scheduler.starts(&id), 0);
}

#[tokio::test(start_paused = true)]
async fn cancel_running_job_is_cancelled_once_it_ended() {
    let house = House::driven();
    let id = house.submit_running().await;
    house.scheduler.hold_cancels();

    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();
    wait_until("the cancel", LIMIT, || !house.scheduler.cancels().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = house.row(&id).await.status;
    house.scheduler.carry_out_cancels();

    assert_eq!(before, JobStatus::Running);
    house.reach(&id, JobStatus::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn cancel_not_heard_is_repeated_at_scheduler() {
    let house = House::driven();
    let id = house.submit_running().await;
    house.scheduler.hold_cancels();

    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();

    wait_until("more cancels", LIMIT, || house.scheduler.cancels().len() > 2).await;
}

#[tokio::test(start_paused = true)]
async fn cancel_too_late_leaves_job_as_it_ended() {
    let house = House::driven();
    let id = house.submit_running().await;
    house.scheduler.hold_cancels();

    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();
    house.scheduler.finish(&id).unwrap();

    house.reach(&id, JobStatus::Completed).await;
    let error = house.orchestrator.cancel(cancel_command(&id)).await.unwrap_err();
    let OrchestratorError::Conflict { state, .. } = error else { panic!("{error}") };
    assert_eq!(state, JobStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn cancel_before_scheduler_was_reached_never_starts() {
    let house = House::driven();
    house.scheduler.away();
    let id = house.submit().await;

    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();
    house.scheduler.back();

    house.reach(&id, JobStatus::Cancelled).await;
    assert_eq!(house.lifecycle(&id), ["job.submitted", "job.status_changed", "job.cancelled"]);
    assert_eq!(house.scheduler.cancels(), vec![id.clone()], "a tombstone is left");
    assert_eq!(house.scheduler.submitted(), vec![]);
    assert!(house.store.orders().iter().all(|(_, answer)| answer.is_some()));
}

#[tokio::test(start_paused = true)]
async fn cancel_while_scheduler_accepts_ends_cancelled() {
    let house = House::driven();
    house.scheduler.script(SchedulerVerdict::AcceptAfter(Duration::from_secs(5)));
    let submitted = house.orchestrator.submit(submit_command()).await.unwrap();
    assert_eq!(submitted.verdict, Verdict::Pending);
    let id = attempt_of(&submitted.job.job_id);

    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();

    house.reach(&id, JobStatus::Cancelled).await;
    assert_eq!(house.scheduler.starts(&id), 0);
    house.check_order();
}

#[tokio::test(start_paused = true)]
async fn cancel_twice_gives_same_answer_and_one_act() {
    let house = House::driven();
    let id = house.submit_running().await;
    house.scheduler.hold_cancels();
    let first = house.orchestrator.cancel(cancel_command(&id)).await.unwrap();

    let other = Principal { user_id: UserId::parse("alan").unwrap() };
    let again = Command { principal: other, ..cancel_command(&id) };
    let second = house.orchestrator.cancel(again).await.unwrap();

    assert_eq!((first.is_repeat, second.is_repeat), (false, true));
    assert_eq!(second.job.cancel.unwrap().cancelled_by.as_str(), "grace");
    assert_eq!(house.actions().iter().filter(|action| *action == "job.cancel").count(), 1);
    let cancels = house.store.orders().into_iter().filter(|(order, _)| order.kind == OrderKind::Cancel);
    assert_eq!(cancels.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn cancel_of_unknown_job_is_not_found() {
    let house = House::driven();
    let id = attempt_of(&JobId::parse("nobody").unwrap());

    let error = house.orchestrator.cancel(cancel_command(&id)).await.unwrap_err();

    assert!(matches!(error, OrchestratorError::NotFound { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn cancel_while_other_change_is_written_keeps_the_wish() {
    let house = House::driven();
    let id = house.submit().await;
    house.scheduler.hold_cancels();
    // The write of RUNNING takes a second; the wish comes within it.
    house.store.faults().script(StoreCall::WriteJob, Fault::Delay(Duration::from_secs(1)));
    let writes = house.store.faults().calls(StoreCall::WriteJob);
    house.scheduler.start(&id).unwrap();
    wait_until("the write", LIMIT, || house.store.faults().calls(StoreCall::WriteJob) > writes).await;

    house.orchestrator.cancel(cancel_command(&id)).await.unwrap();

    let row = house.reach(&id, JobStatus::Running).await;
    assert_eq!(row.cancel.unwrap().cancelled_by.as_str(), "grace");
}

#[tokio::test(start_paused = true)]
async fn cancel_caller_gone_still_keeps_the_wish() {
    let house = House::driven();
    let id = house.submit().await;
    house.scheduler.hold_cancels();
    house.store.faults().script(StoreCall::WriteJob, Fault::Delay(Duration::from_secs(1)));
    let limit = Duration::from_millis(100);
    let gone = tokio::time::timeout(limit, house.orchestrator.cancel(cancel_command(&id))).await;
    assert!(gone.is_err());

    house.scheduler.start(&id).unwrap();

    let row = house.reach(&id, JobStatus::Running).await;
    assert_eq!(row.cancel.unwrap().cancelled_by.as_str(), "grace");
}

#[tokio::test(start_paused = true)]
async fn attempt_cancelled_at_scheduler_before_it_was_recorded_is_cancelled() {
    let house = House::driven();
    // The scheduler takes the attempt but the answer is lost; before the next try somebody cancels it there.
    house.scheduler.script(SchedulerVerdict::AcceptUnanswered);
    let submit = house.orchestrator.submit(submit_command());
    let cancel_there = async {
        wait_until("the attempt", LIMIT, || !house.scheduler.submitted().is_empty()).await;
        house.scheduler.cancel(house.scheduler.submitted()[0].id.clone()).await.unwrap();
    };

    let (submitted, ()) = tokio::join!(submit, cancel_there);

    let id = attempt_of(&submitted.unwrap().job.job_id);
    let row = house.reach(&id, JobStatus::Cancelled).await;
    assert_eq!(row.cancel.unwrap().cancelled_by.as_str(), "scheduler");
    assert_eq!(house.lifecycle(&id), ["job.submitted", "job.status_changed", "job.cancelled"]);
    assert!(house.store.orders().iter().all(|(_, answer)| answer.is_some()));
}
