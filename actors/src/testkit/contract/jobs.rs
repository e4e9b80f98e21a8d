//! The orchestrator's jobs, orders and idempotency keys.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Store;
use super::sample::{Owner, PROCESS, at, change, id, job, jobs_lane, submit, write};
use crate::clock::Timestamp;
use crate::command::{Order, OrderKind};
use crate::effect::Effects;
use crate::event::{JobStatus, TaccSystem};
use crate::ids::{Attempt, EventId, JobId, Offset, Sequence, TopicPartition};
use crate::ports::store::{
    CancelRequest, Idempotency, JobExpectation, JobFailure, JobRow, JobWrite, JobWritten, OrderAnswer,
    OrderPlace, StoreError,
};
use crate::state::{LifecycleOwner, StateKey, StateValue};

/// Gives the partition of a write's first event.
fn place(write: &JobWrite) -> TopicPartition {
    let record = &write.events.first().expect("the write has an event").record;
    TopicPartition { topic: record.topic.source(), partition: record.partition }
}

fn order(job_id: &str, attempt: u32, kind: OrderKind, seconds: i64) -> Order {
    Order { job_id: id(job_id), attempt: Attempt(attempt), kind, ordered_at: at(seconds) }
}

/// Lists open orders without their places.
async fn open_orders(store: &impl Store, after: Option<OrderPlace>, limit: usize) -> Vec<Order> {
    let open = store.open_orders(after, limit).await.expect("orders can be read");
    open.into_iter().map(|(_, order)| order).collect()
}

/// A row with every field set, at its ends, comes back as it went.
pub async fn write_job_everything_round_trips(store: Arc<impl Store>) {
    let row = JobRow {
        parameters: "{\"nul\":\"\0\",\"text\":\"\u{1F680}\"}".to_owned(),
        tacc_system: TaccSystem::Frontera,
        status: JobStatus::Failed,
        attempt: Attempt(u32::MAX),
        will_retry: true,
        lifecycle_sequence: Sequence(u64::MAX),
        metrics_sequence: Sequence(u64::MAX),
        scheduler_job_id: Some(id("slurm:42")),
        samples_published: u64::MAX,
        cancel: Some(CancelRequest {
            cancelled_by: id("grace"),
            reason: "no\0reason".to_owned(),
            requested_at: at(-1),
        }),
        failure: Some(JobFailure { error_code: String::new(), error_message: "it\0broke".to_owned() }),
        execution_time_seconds: Some(f64::MAX),
        ..job("job-1", Timestamp::from_micros(i64::MIN))
    };
    let mut cleared = row.clone();
    cleared.scheduler_job_id = None;
    cleared.failure = None;
    cleared.execution_time_seconds = None;
    let expectation =
        JobExpectation::Sequences { lifecycle: Sequence(u64::MAX), metrics: Sequence(u64::MAX) };

    let written = store.write_job(write(JobExpectation::New, row.clone())).await;
    let read = store.read_job(id("job-1")).await.expect("jobs can be read");
    let changed = store.write_job(write(expectation, cleared.clone())).await;
    let read_again = store.read_job(id("job-1")).await.expect("jobs can be read");
    let nobody = store.read_job(id("job-2")).await.expect("jobs can be read");

    assert!(matches!((&written, &changed), (Ok(JobWritten::Written), Ok(JobWritten::Written))));
    assert_eq!((read, read_again, nobody), (Some(row), Some(cleared), None));
}

/// A change that was decided before a wish to cancel came conflicts with it: a wish is never lost.
pub async fn write_job_decided_without_the_wish_to_cancel_conflicts(store: Arc<impl Store>) {
    let row = job("job-1", at(0));
    store.write_job(submit(row.clone())).await.expect("a job can be written");
    let unaware = change(&row, JobStatus::Queued);
    let mut wished = change(&row, row.status);
    wished.row = JobRow {
        cancel: Some(CancelRequest {
            cancelled_by: id("ada"),
            reason: "enough".to_owned(),
            requested_at: at(1),
        }),
        ..row.clone()
    };
    wished.events.clear();
    let wanted = wished.row.clone();

    let answers = [store.write_job(wished).await, store.write_job(unaware).await]
        .map(|answer| answer.expect("an answer"));

    assert_eq!(answers, [JobWritten::Written, JobWritten::Conflict]);
    assert_eq!(store.read_job(id("job-1")).await.expect("jobs can be read"), Some(wanted));
}

/// A job is new once.
pub async fn write_job_new_twice_conflicts(store: Arc<impl Store>) {
    let first = submit(job("job-1", at(0)));
    let mut second = first.clone();
    second.row.user_id = id("grace");
    let here = place(&first);

    let written = store.write_job(first.clone()).await.expect("a job can be written");
    let again = store.write_job(second).await.expect("a job can be written");

    assert_eq!((written, again), (JobWritten::Written, JobWritten::Conflict));
    assert_eq!(store.read_job(id("job-1")).await.expect("jobs can be read"), Some(first.row));
    assert_eq!(store.heads().end(here), Offset(1));
}

/// Both counters guard a change; a change that is too late leaves no row, event, order or record.
pub async fn write_job_other_sequences_conflicts_and_writes_nothing(store: Arc<impl Store>) {
    let row = job("job-1", at(0));
    let first = submit(row.clone());
    let here = place(&first);
    store.write_job(first).await.expect("a job can be written");
    let mut late_lifecycle = change(&row, JobStatus::Queued);
    late_lifecycle.expectation =
        JobExpectation::Sequences { lifecycle: Sequence(0), metrics: row.metrics_sequence };
    late_lifecycle.orders = vec![order("job-1", 1, OrderKind::Submit, 0)];
    let mut late_metrics = change(&row, JobStatus::Queued);
    late_metrics.expectation =
        JobExpectation::Sequences { lifecycle: row.lifecycle_sequence, metrics: Sequence(1) };
    let unknown = change(&job("job-2", at(0)), JobStatus::Queued);
    let mut answers = Vec::new();

    for write in [late_lifecycle, late_metrics, unknown] {
        answers.push(store.write_job(write).await.expect("a job can be written"));
    }

    assert_eq!(answers, [JobWritten::Conflict, JobWritten::Conflict, JobWritten::Conflict]);
    assert_eq!(store.read_job(id("job-1")).await.expect("jobs can be read"), Some(row));
    assert_eq!(store.read_job(id("job-2")).await.expect("jobs can be read"), None);
    assert_eq!(open_orders(&*store, None, 10).await, []);
    assert_eq!(store.heads().end(here), Offset(1));
}

/// Of many changes of the same state at once exactly one is written.
pub async fn write_job_concurrent_writers_one_wins(store: Arc<impl Store>) {
    let row = job("job-1", at(0));
    let first = submit(row.clone());
    let here = place(&first);
    store.write_job(first).await.expect("a job can be written");

    let writes: Vec<_> = (0..16).map(|_| store.write_job(change(&row, JobStatus::Queued))).collect();
    let answers = join_all(writes).await;

    let written = answers.iter().filter(|answer| matches!(answer, Ok(JobWritten::Written))).count();
    let conflicts = answers.iter().filter(|answer| matches!(answer, Ok(JobWritten::Conflict))).count();
    assert_eq!((written, conflicts), (1, 15), "{answers:?}");
    assert_eq!(store.heads().end(here), Offset(2));
}

/// Which event carries a sequence is known with the write; a job without one is known as such.
pub async fn write_job_event_is_remembered_by_sequence(store: Arc<impl Store>) {
    let row = job("job-1", at(0));
    let first = submit(row.clone());
    let event_id = first.events.first().map(|outgoing| outgoing.event.event_id);
    store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");
    store.write_job(first).await.expect("a job can be written");
    let key = |job_id: &str, sequence| StateKey::LifecycleOwner(id::<JobId>(job_id), Sequence(sequence));

    let loaded = store
        .load(jobs_lane(0), vec![key("job-1", 1), key("job-1", 2), key("job-2", 1)])
        .await
        .expect("state can be read");

    let owner = |event_id: Option<EventId>| StateValue::LifecycleOwner(LifecycleOwner { event_id });
    assert_eq!(loaded, [(key("job-1", 1), owner(event_id)), (key("job-1", 2), owner(None))]);
    assert!(event_id.is_some());
}

/// A repeated key answers the first job; with another request it says so; of another user it is another key.
pub async fn write_job_same_idempotency_key_is_same_job(store: Arc<impl Store>) {
    let submit_with = |job_id: &str, user: &str, digest: u8| {
        let mut write = submit(job(job_id, at(0)));
        write.row.user_id = id(user);
        write.idempotency =
            Some(Idempotency { user_id: id(user), key: "key\0 1".to_owned(), request_digest: [digest; 32] });
        write
    };
    let mut answers = Vec::new();

    for write in [
        submit_with("job-1", "ada", 1),
        submit_with("job-2", "ada", 1),
        submit_with("job-3", "ada", 2),
        submit_with("job-4", "grace", 2),
    ] {
        answers.push(store.write_job(write).await.expect("a job can be written"));
    }

    let wanted = [
        JobWritten::Written,
        JobWritten::Repeated(id("job-1")),
        JobWritten::KeyReused(id("job-1")),
        JobWritten::Written,
    ];
    assert_eq!(answers, wanted);
    assert_eq!(store.read_job(id("job-2")).await.expect("jobs can be read"), None);
}

/// An order is written once, whoever asks; asking again neither moves nor opens it.
pub async fn orders_are_unique_by_job_attempt_and_kind(store: Arc<impl Store>) {
    let first = order("job-1", 1, OrderKind::Submit, 5);
    let mut submitted = submit(job("job-1", at(0)));
    submitted.orders = vec![first.clone()];
    store.write_job(submitted).await.expect("a job can be written");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");
    let mut owner = Owner::new(jobs_lane(0), &opened);
    let again = || Effects { orders: vec![order("job-1", 1, OrderKind::Submit, 1)], ..Effects::default() };

    let committed = store.commit(owner.step(again())).await.expect("the owner may write");
    owner.stepped(&committed);
    let open = open_orders(&*store, None, 10).await;
    store.answer_order(first.clone(), OrderAnswer::Done).await.expect("an order can be answered");
    store.commit(owner.step(again())).await.expect("the owner may write");
    let after = open_orders(&*store, None, 10).await;

    assert_eq!(open, [first]);
    assert_eq!(after, []);
}

/// Open orders come oldest first; an answer takes one away for good.
pub async fn orders_are_listed_oldest_first_until_answered(store: Arc<impl Store>) {
    let all = [
        order("job-1", 1, OrderKind::Submit, 30),
        order("job-1", 1, OrderKind::Cancel, 10),
        order("job-1", 2, OrderKind::Submit, 20),
        order("job-0", 1, OrderKind::Clean, 20),
    ];
    let mut submitted = submit(job("job-1", at(0)));
    submitted.orders = all.to_vec();
    store.write_job(submitted).await.expect("a job can be written");
    let [late, first, second, third] = all;

    let open = open_orders(&*store, None, 10).await;
    let limited = open_orders(&*store, None, 2).await;
    let two = store.open_orders(None, 2).await.expect("orders can be read");
    let behind = open_orders(&*store, two.last().map(|(place, _)| *place), 2).await;
    store.answer_order(first.clone(), OrderAnswer::Refused("full".to_owned())).await.expect("answered");
    store.answer_order(first.clone(), OrderAnswer::Done).await.expect("a second answer changes nothing");
    let left = open_orders(&*store, None, 10).await;

    assert_eq!(limited, [first.clone(), second.clone()]);
    assert_eq!(
        behind,
        [third.clone(), late.clone()],
        "of two at the same time the second is behind the first"
    );
    assert_eq!(open, [first, second.clone(), third.clone(), late.clone()]);
    assert_eq!(left, [second, third, late]);
}

/// An answer to an order that nobody gave is a conflict.
pub async fn answer_order_unknown_conflicts(store: Arc<impl Store>) {
    let answer = store.answer_order(order("job-1", 1, OrderKind::Clean, 0), OrderAnswer::Done).await;

    assert!(matches!(answer, Err(StoreError::Conflict(_))), "{answer:?}");
}

/// A change that answers orders is written with the answers, or not at all.
pub async fn answer_order_within_write_job_needs_the_order(store: Arc<impl Store>) {
    let row = job("job-1", at(0));
    let known = order("job-1", 1, OrderKind::Submit, 0);
    let mut submitted = submit(row.clone());
    submitted.orders = vec![known.clone()];
    store.write_job(submitted).await.expect("a job can be written");
    let mut wrong = change(&row, JobStatus::Queued);
    wrong.answered = vec![(order("job-1", 9, OrderKind::Submit, 0), OrderAnswer::Done)];
    let mut right = change(&row, JobStatus::Queued);
    right.answered = vec![(known, OrderAnswer::Done)];

    let refused = store.write_job(wrong).await;
    let before = store.read_job(id("job-1")).await.expect("jobs can be read");
    let written = store.write_job(right).await;

    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_eq!(before, Some(row));
    assert!(matches!(written, Ok(JobWritten::Written)), "{written:?}");
    assert_eq!(open_orders(&*store, None, 10).await, []);
}

/// Jobs that may still change are listed in order of id, in pages; a failed one that is retried is among them.
pub async fn live_jobs_page_without_terminal_ones(store: Arc<impl Store>) {
    for (job_id, status, will_retry) in [
        ("job-e", JobStatus::Running, false),
        ("job-a", JobStatus::Failed, true),
        ("job-b", JobStatus::Failed, false),
        ("job-c", JobStatus::Submitted, false),
        ("job-d", JobStatus::Completed, false),
        ("job-f", JobStatus::Cancelled, false),
    ] {
        let row = JobRow { status, will_retry, ..job(job_id, at(0)) };
        store.write_job(submit(row)).await.expect("a job can be written");
    }
    let ids = |rows: Vec<JobRow>| rows.into_iter().map(|row| row.job_id.to_string()).collect::<Vec<_>>();

    let whole = ids(store.live_jobs(None, 10).await.expect("jobs can be read"));
    let first = ids(store.live_jobs(None, 2).await.expect("jobs can be read"));
    let second = ids(store.live_jobs(Some(id("job-c")), 2).await.expect("jobs can be read"));

    assert_eq!(whole, ["job-a", "job-c", "job-e"]);
    assert_eq!((first, second), (vec!["job-a".to_owned(), "job-c".to_owned()], vec!["job-e".to_owned()]));
}
