//! The table of every (status, input), and what each write says.

use serde_json::json;

use super::fixtures::{
    NOW, UNENCODABLE_PARAMETER, World, accepted, cancel, cancel_by, command, end, end_unstarted, ended,
    failed_exit, job_id, refused, report, request, sample, samples, started, submit,
};
use super::{Decision, FailureCode, Input, REASON_MAX_CHARS, Refusal, request_digest};
use crate::clock::Timestamp;
use crate::command::{Command, CommandKind, OrderKind};
use crate::event::{Event, JobStatus, Payload};
use crate::ids::{Attempt, CorrelationId, SchedulerJobId, Sequence, UserId};
use crate::ports::scheduler::AttemptExit;
use crate::ports::store::{JobExpectation, OrderAnswer};

/// What the table expects.
#[derive(Debug, PartialEq)]
enum Expected {
    /// A write after which the job is in this status.
    To(JobStatus),
    /// Nothing to do.
    Nothing,
    /// Refused because of the state.
    Illegal,
    /// Refused because there is no job.
    Unknown,
}

use Expected::{Illegal, Nothing, To, Unknown};
use JobStatus::{Cancelled, Completed, Failed, Queued, Running, Submitted};

fn outcome(world: &World, input: &Input) -> Expected {
    match world.decide(input) {
        Ok(Decision::Write(write)) => To(write.row.status),
        Ok(Decision::Nothing) => Nothing,
        Err(Refusal::Illegal { state, .. }) => {
            assert_eq!(state, world.job().status);
            Illegal
        }
        Err(Refusal::UnknownJob) => Unknown,
        Err(Refusal::Invalid { field, reason }) => panic!("`{field}` is at fault: {reason}"),
    }
}

#[test]
fn decide_every_status_and_input_follows_table() {
    let other_report = Input::SchedulerAccepted({
        let mut other = report();
        other.scheduler_job_id = SchedulerJobId::parse("local-2").unwrap();
        other
    });
    let unstarted = |exit| Input::Ended(end_unstarted(exit));
    // One row per input; columns: no job, SUBMITTED, QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED.
    #[rustfmt::skip]
    let table = [
        (submit(),                           [To(Submitted), Illegal, Illegal, Illegal, Illegal, Illegal, Illegal]),
        (accepted(),                         [Unknown, To(Queued), Nothing, Nothing, Nothing, Nothing, Nothing]),
        (other_report,                       [Unknown, To(Queued), Illegal, Illegal, Illegal, Illegal, Illegal]),
        (refused(),                          [Unknown, To(Failed), Illegal, Illegal, Illegal, Illegal, Illegal]),
        (started(),                          [Unknown, Illegal, To(Running), Nothing, Illegal, Illegal, Illegal]),
        (Input::Samples(samples(0..2)),      [Unknown, Illegal, Illegal, To(Running), Illegal, Illegal, Illegal]),
        (Input::Samples(vec![]),             [Unknown, Nothing, Nothing, Nothing, Nothing, Nothing, Nothing]),
        (ended(AttemptExit::Completed),      [Unknown, Illegal, To(Completed), To(Completed), Nothing, Illegal, Illegal]),
        (ended(failed_exit()),               [Unknown, Illegal, To(Failed), To(Failed), Illegal, Nothing, Illegal]),
        (ended(AttemptExit::Cancelled),      [Unknown, Illegal, To(Cancelled), To(Cancelled), Illegal, Illegal, Nothing]),
        (unstarted(AttemptExit::Completed),  [Unknown, Illegal, To(Completed), To(Completed), Nothing, Illegal, Illegal]),
        (unstarted(failed_exit()),           [Unknown, Illegal, To(Failed), To(Failed), Illegal, Nothing, Illegal]),
        (unstarted(AttemptExit::Cancelled),  [Unknown, To(Cancelled), To(Cancelled), To(Cancelled), Illegal, Illegal, Nothing]),
        (cancel(),                           [Unknown, To(Submitted), To(Queued), To(Running), Illegal, Illegal, Illegal]),
        (Input::CancelAnswered,              [Unknown, To(Cancelled), Illegal, Illegal, Illegal, Illegal, Nothing]),
        (Input::Lost,                        [Unknown, Illegal, To(Failed), To(Failed), Illegal, Illegal, Illegal]),
    ];

    for (input, row) in table {
        let worlds =
            std::iter::once(World::default()).chain(JobStatus::ALL.into_iter().map(World::in_status));
        for (world, expected) in worlds.zip(row) {
            let status = world.row.as_ref().map(|row| row.status);
            assert_eq!(outcome(&world, &input), expected, "{status:?} and {input:?}");
        }
    }
}

#[test]
fn submit_new_job_publishes_submitted_and_audit() {
    let mut world = World::default();

    world.apply(&submit()).unwrap();

    let write = world.last();
    assert_eq!(write.expectation, JobExpectation::New);
    assert_eq!(world.last_event_names(), ["job.submitted", "audit.action_recorded"]);
    assert_eq!(write.events[0].event.sequence, Some(Sequence(1)));
    assert_eq!(write.events[1].event.sequence, None);
    assert_eq!(write.row.lifecycle_sequence, Sequence(1));
    assert_eq!(write.row.attempt, Attempt(1));
    assert_eq!(write.orders.iter().map(|order| order.kind).collect::<Vec<_>>(), [OrderKind::Submit]);
    for outgoing in &write.events {
        assert_eq!(outgoing.event.correlation_id, CorrelationId(uuid::Uuid::from_u128(2)));
        assert_eq!(outgoing.event.user_id.as_str(), "ada");
        assert_eq!(outgoing.event.timestamp, NOW);
    }
    let Payload::AuditActionRecorded(action) = &write.events[1].event.payload else {
        panic!("no audit entry")
    };
    assert_eq!(action.action, "job.submit");
    assert_eq!(action.resource_id.as_str(), write.row.job_id.as_str());
    assert_eq!(action.changes["status"], json!("SUBMITTED"));
    assert_eq!(action.changes["parameters"], json!({ "niter": "100" }));
    assert_eq!(action.changes["json_parameters"], json!(["niter"]));
}

#[test]
fn submit_with_key_carries_digest_of_request() {
    let mut world = World::default();
    let kind = CommandKind::SubmitJob(request());

    world
        .apply(&Input::Submit(Command { idempotency_key: Some("k-1".to_owned()), ..command(kind) }))
        .unwrap();

    let idempotency = world.last().idempotency.clone().unwrap();
    assert_eq!(idempotency.key, "k-1");
    assert_eq!(idempotency.request_digest, request_digest(&request()));
    let mut other = request();
    other.parameters.insert("niter", "100".into());
    assert_ne!(idempotency.request_digest, request_digest(&other));
}

#[test]
fn submit_unencodable_event_names_field() {
    let mut request = request();
    request.parameters.insert(UNENCODABLE_PARAMETER, "yes".into());

    let refusal =
        World::default().decide(&Input::Submit(command(CommandKind::SubmitJob(request)))).unwrap_err();

    assert_eq!(refusal.field(), Some("parameters"));
}

#[test]
fn request_texts_out_of_bounds_name_field() {
    let submit_with = |reason: Option<String>, key: Option<String>| {
        let submit = command(CommandKind::SubmitJob(request()));
        Input::Submit(Command { reason, idempotency_key: key, ..submit })
    };
    let cases = [
        (submit_with(Some("r".repeat(REASON_MAX_CHARS + 1)), None), "reason"),
        (submit_with(Some(String::new()), None), "reason"),
        (submit_with(None, Some(String::new())), "idempotency_key"),
        (submit_with(None, Some("k".repeat(256))), "idempotency_key"),
        (Input::Submit(command(CommandKind::CancelJob { job_id: job_id() })), "kind"),
    ];

    for (input, field) in cases {
        let refusal = World::default().decide(&input).unwrap_err();

        assert_eq!(refusal.field(), Some(field), "{input:?}");
    }
}

#[test]
fn cancel_of_another_job_is_unknown() {
    let mut other = command(CommandKind::CancelJob { job_id: crate::ids::JobId::parse("other").unwrap() });
    other.reason = None;

    let refusal = World::in_status(Running).decide(&Input::CancelRequested(other)).unwrap_err();

    assert_eq!(refusal, Refusal::UnknownJob);
}

#[test]
fn accepted_pair_carries_schedulers_time() {
    let mut world = World::in_status(Submitted);

    world.apply(&accepted()).unwrap();

    assert_eq!(world.last_event_names(), ["job.status_changed", "job.queued"]);
    let events: Vec<&Event> = world.last().events.iter().map(|outgoing| &outgoing.event).collect();
    let Payload::JobStatusChanged(changed) = &events[0].payload else { panic!("no status change") };
    let Payload::JobQueued(queued) = &events[1].payload else { panic!("no job.queued") };
    assert_eq!((changed.previous_status, changed.current_status), (Submitted, Queued));
    assert_eq!(changed.status_changed_timestamp, report().queued_at);
    assert_eq!(queued.queued_timestamp, report().queued_at);
    assert_eq!(queued.tac_job_id.as_str(), "local-1");
    assert_eq!((changed.attempt, queued.attempt), (Attempt(1), Attempt(1)));
    assert_eq!((events[0].sequence, events[1].sequence), (Some(Sequence(2)), Some(Sequence(3))));
    assert_eq!(events[0].timestamp, NOW);
    assert_eq!(world.last_answered(), [OrderKind::Submit]);
}

#[test]
fn refused_job_fails_with_field_and_reason() {
    let mut world = World::in_status(Submitted);

    world.apply(&refused()).unwrap();

    assert_eq!(world.last_event_names(), ["job.status_changed", "job.failed"]);
    let failure = world.job().failure.clone().unwrap();
    assert_eq!(failure.error_code, FailureCode::SchedulerRefused.name());
    assert_eq!(failure.error_message, "`dataset_id`: no such file");
    assert!(!world.job().will_retry);
    let [(order, OrderAnswer::Refused(reason))] = world.last().answered.as_slice() else {
        panic!("the submit is not answered")
    };
    assert_eq!((order.kind, reason.as_str()), (OrderKind::Submit, "`dataset_id`: no such file"));
    assert_eq!(world.decide(&refused()), Ok(Decision::Nothing));
}

#[test]
fn ended_unseen_attempt_publishes_running_samples_summary_then_end() {
    let mut world = World::in_status(Queued);
    let mut unseen = end(AttemptExit::Completed);
    unseen.samples = samples(0..2);
    unseen.samples_taken = 2;

    world.apply(&Input::Ended(unseen)).unwrap();

    assert_eq!(
        world.last_event_names(),
        [
            "job.status_changed",
            "job.running",
            "job.metrics_recorded",
            "job.metrics_recorded",
            "job.metrics_recorded",
            "job.status_changed",
            "job.completed"
        ]
    );
    let events: Vec<&Event> = world.last().events.iter().map(|outgoing| &outgoing.event).collect();
    let Payload::JobRunning(running) = &events[1].payload else { panic!("no job.running") };
    assert_eq!(running.running_timestamp, Timestamp::from_millis(92_000));
    let summaries: Vec<bool> = events
        .iter()
        .filter_map(|event| match &event.payload {
            Payload::JobMetricsRecorded(metrics) => Some(metrics.summary),
            _ => None,
        })
        .collect();
    assert_eq!(summaries, [false, false, true]);
    let Payload::JobCompleted(completed) = &events[6].payload else { panic!("no job.completed") };
    assert_eq!(completed.completion_timestamp, Timestamp::from_millis(95_500));
    assert_eq!(completed.execution_time_seconds, 3.5);
    assert_eq!(world.job().metrics_sequence, Sequence(3));
    assert_eq!(world.job().execution_time_seconds, Some(3.5));
}

#[test]
fn ended_completed_without_start_time_derives_it() {
    let mut world = World::in_status(Queued);
    let mut unseen = end(AttemptExit::Completed);
    unseen.started_at = None;

    world.apply(&Input::Ended(unseen)).unwrap();

    let Payload::JobRunning(running) = &world.last().events[1].event.payload else {
        panic!("no job.running")
    };
    assert_eq!(running.running_timestamp, Timestamp::from_millis(92_000));
}

#[test]
fn ended_never_started_skips_running_and_summary() {
    let mut world = World::in_status(Queued);

    world.apply(&Input::Ended(end_unstarted(failed_exit()))).unwrap();

    assert_eq!(world.last_event_names(), ["job.status_changed", "job.failed"]);
    assert_eq!(world.job().execution_time_seconds, None);
}

#[test]
fn ended_with_unpublished_samples_is_refused() {
    let world = World::in_status(Running);
    let mut early = end(AttemptExit::Completed);
    early.samples = samples(0..2);
    early.samples_taken = 3;

    assert_eq!(outcome(&world, &Input::Ended(early)), Illegal);
}

#[test]
fn samples_offered_twice_are_published_once() {
    let mut world = World::in_status(Running);
    world.apply(&Input::Samples(samples(0..3))).unwrap();

    world.apply(&Input::Samples(samples(1..5))).unwrap();

    assert_eq!(world.last().events.len(), 2);
    assert_eq!(world.job().samples_published, 5);
    assert_eq!(world.job().metrics_sequence, Sequence(5));
    assert_eq!(world.decide(&Input::Samples(samples(0..5))), Ok(Decision::Nothing));
}

#[test]
fn samples_with_hole_are_refused() {
    let world = World::in_status(Running);

    assert_eq!(outcome(&world, &Input::Samples(vec![sample(1)])), Illegal);
}

#[test]
fn samples_that_are_no_numbers_stand_as_zero() {
    let mut world = World::in_status(Running);
    let mut broken = sample(0);
    broken.cpu_usage_percent = f64::NAN;
    broken.memory_usage_mb = -1.0;
    broken.execution_time_seconds = f64::INFINITY;

    world.apply(&Input::Samples(vec![broken])).unwrap();

    let Payload::JobMetricsRecorded(metrics) = &world.last().events[0].event.payload else {
        panic!("no metrics")
    };
    assert_eq!(metrics.cpu_usage_percent, 0.0);
    assert_eq!(metrics.memory_usage_mb, 0.0);
    assert_eq!(metrics.execution_time_seconds, 0.0);
}

#[test]
fn cancel_live_job_keeps_status_and_orders_cancel() {
    let mut world = World::in_status(Running);

    world.apply(&cancel()).unwrap();

    assert_eq!(world.last_event_names(), ["audit.action_recorded"]);
    let event = &world.last().events[0].event;
    assert_eq!(event.user_id.as_str(), "grace");
    assert_eq!(event.correlation_id, CorrelationId(uuid::Uuid::from_u128(3)));
    assert_eq!(world.job().status, Running);
    assert_eq!(world.job().lifecycle_sequence, Sequence(5));
    assert_eq!(world.last().orders[0].kind, OrderKind::Cancel);
    let Payload::AuditActionRecorded(action) = &event.payload else { panic!("no audit.action_recorded") };
    assert_eq!(action.changes["reason"], json!("wrong data set"), "an act is audited with its reason");
    assert_eq!(world.decide(&cancel_by("alan", None)), Ok(Decision::Nothing));
}

#[test]
fn cancelled_job_tells_who_and_why_in_owners_name() {
    let mut world = World::in_status(Cancelled);
    world.writes.retain(|write| write.row.status == Cancelled);

    let event = &world.last().events.last().unwrap().event;

    let Payload::JobCancelled(cancelled) = &event.payload else { panic!("no job.cancelled") };
    assert_eq!(cancelled.cancelled_by.as_str(), "grace");
    assert_eq!(cancelled.cancellation_reason, "wrong data set");
    assert_eq!(cancelled.cancellation_timestamp, Timestamp::from_millis(95_500));
    assert_eq!(event.user_id.as_str(), "ada");
    assert_eq!(event.correlation_id, CorrelationId(uuid::Uuid::from_u128(2)));
}

#[test]
fn cancel_too_late_leaves_completed_as_it_ended() {
    let mut world = World::in_status(Running);
    world.apply(&cancel()).unwrap();

    world.apply(&ended(AttemptExit::Completed)).unwrap();

    assert_eq!(world.job().status, Completed);
    assert_eq!(outcome(&world, &cancel()), Illegal);
}

#[test]
fn cancel_never_known_attempt_answers_both_orders() {
    let mut world = World::in_status(Submitted);
    world.apply(&cancel()).unwrap();

    world.apply(&Input::CancelAnswered).unwrap();

    assert_eq!(world.last_event_names(), ["job.status_changed", "job.cancelled"]);
    assert_eq!(world.last_answered(), [OrderKind::Submit, OrderKind::Cancel]);
}

#[test]
fn cancelled_without_request_names_scheduler() {
    let mut world = World::in_status(Running);

    world.apply(&ended(AttemptExit::Cancelled)).unwrap();

    let cancel = world.job().cancel.clone().unwrap();
    assert_eq!(cancel.cancelled_by, UserId::parse("scheduler").unwrap());
}

#[test]
fn cancel_between_attempts_takes_hold_at_once() {
    let mut world = World::in_status(Failed);
    world.row.as_mut().unwrap().will_retry = true;

    world.apply(&cancel()).unwrap();

    assert_eq!(world.last_event_names(), ["audit.action_recorded", "job.status_changed", "job.cancelled"]);
    assert_eq!((world.job().status, world.job().will_retry), (Cancelled, false));
    assert!(world.last().orders.is_empty());
}

#[test]
fn lost_attempt_fails_with_that_reason() {
    let mut world = World::in_status(Running);

    world.apply(&Input::Lost).unwrap();

    assert_eq!(world.last_event_names(), ["job.status_changed", "job.failed"]);
    assert_eq!(world.job().failure.clone().unwrap().error_code, FailureCode::AttemptLost.name());
    assert_eq!(world.decide(&Input::Lost), Ok(Decision::Nothing));
}

#[test]
fn failed_attempt_message_is_shortened() {
    let mut world = World::in_status(Running);
    let error_message = "é".repeat(5_000);

    world.apply(&ended(AttemptExit::Failed { error_code: "signal".to_owned(), error_message })).unwrap();

    assert_eq!(world.job().failure.clone().unwrap().error_message.chars().count(), 1_000);
}
