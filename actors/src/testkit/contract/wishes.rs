//! Operators' wishes, told to every process.

use std::sync::Arc;

use super::Store;
use super::sample::{
    Owner, PROCESS, at, id, job, jobs_lane, outgoing, parked_key, parking, partition, release, submit, write,
};
use crate::command::{Order, OrderKind};
use crate::effect::Effects;
use crate::ids::{Attempt, LogTopic, Partition, Topic};
use crate::ports::outbox::OutboxPartition;
use crate::ports::store::{JobExpectation, JobStore, LaneStore, ParkedWish, ResumeAnswer, WishAnswer};
use crate::ports::wishes::{WishRevision, Wished, Wishes};
use crate::record::OutgoingRecord;

fn act() -> OutgoingRecord {
    outgoing(partition(Topic::AuditTrail, 0), "act")
}

/// Opens a lane with one parked key, `job-1`, that a flood holds.
async fn held_lane(store: &impl LaneStore, number: u16) {
    let opened = store.open_lane(jobs_lane(number), PROCESS).await.expect("a lane can be opened");
    let effects = Effects { held_because: Some("flood".to_owned()), ..parking("job-1", 3) };
    let step = Owner::new(jobs_lane(number), &opened).step(effects);
    store.commit(step).await.expect("the owner may write");
}

async fn since(store: &impl JobStore, seen: WishRevision) -> Wishes {
    store.wishes_since(seen).await.expect("wishes can be read")
}

async fn wish(store: &impl JobStore, number: u16, key: &str) -> WishAnswer {
    let key = parked_key(&jobs_lane(number), key);
    let wish = ParkedWish::DiscardHead;
    store.set_parked_wish(release(&key), key, wish, u32::MAX, act()).await.expect("a wish is answered")
}

/// What operators ask is listed once it is stored, each subject once; what they are refused is not, nor what lanes
/// do by themselves.
pub async fn wishes_that_are_stored_are_listed_and_no_others(store: Arc<impl Store>) {
    for number in [0, 1, 2] {
        held_lane(&*store, number).await;
    }
    let before = since(&*store, WishRevision::default()).await;

    let answers = [wish(&*store, 0, "job-1").await, wish(&*store, 0, "job-1").await];
    let refused = [wish(&*store, 1, "job-2").await, wish(&*store, 7, "job-1").await];
    let after_wish = since(&*store, before.revision).await;
    let resumed = [
        store.resume_lane(jobs_lane(2), act()).await.expect("resuming is answered"),
        store.resume_lane(jobs_lane(7), act()).await.expect("resuming is answered"),
    ];
    let here = OutboxPartition { topic: LogTopic::Record(Topic::JobMetrics), partition: Partition(3) };
    let there = OutboxPartition { topic: LogTopic::DeadLetter(Topic::JobLifecycle), partition: Partition(9) };
    for partition in [here, there] {
        store.wish_send_again(partition, act()).await.expect("a wish can be stored");
    }
    let after_all = since(&*store, after_wish.revision).await;
    let whole = since(&*store, WishRevision::default()).await;
    let nothing = since(&*store, after_all.revision).await;

    assert!(before.about.is_empty(), "{before:?}");
    assert_eq!(answers, [WishAnswer::Stored; 2]);
    assert_eq!(refused, [WishAnswer::NotParked; 2]);
    assert_eq!(resumed, [ResumeAnswer::Resumed, ResumeAnswer::NoLane]);
    assert_eq!(after_wish.about, [Wished::Lane(jobs_lane(0))]);
    let mut wanted = vec![Wished::Lane(jobs_lane(2)), Wished::Outbox(here), Wished::Outbox(there)];
    wanted.sort();
    assert_eq!(after_all.about, wanted);
    assert_eq!(whole.about, [after_wish.about, wanted].concat());
    assert_eq!(nothing, Wishes { revision: whole.revision, about: Vec::new() });
}

/// An order to cancel is a wish; to submit or to clean is none.
pub async fn wish_to_cancel_is_listed(store: Arc<impl Store>) {
    let order = |kind| Order { job_id: id("job-1"), attempt: Attempt(1), kind, ordered_at: at(1) };
    let row = job("job-1", at(1));
    let mut submitted = submit(row.clone());
    submitted.orders = vec![order(OrderKind::Submit)];
    store.write_job(submitted).await.expect("a job can be written");
    let before = since(&*store, WishRevision::default()).await;
    let expectation =
        JobExpectation::Sequences { lifecycle: row.lifecycle_sequence, metrics: row.metrics_sequence };
    let mut cancelled = write(expectation, row);
    cancelled.orders = vec![order(OrderKind::Cancel)];

    store.write_job(cancelled).await.expect("a job can be written");

    let after = since(&*store, before.revision).await;
    assert!(before.about.is_empty(), "{before:?}");
    assert_eq!(after.about, [Wished::Orders]);
}

/// Wishes that are stored side by side are all seen by whoever looks again and again from where it was.
pub async fn wishes_read_again_and_again_are_all_seen(store: Arc<impl Store>) {
    const LANES: u16 = 10;
    for number in 0..LANES {
        held_lane(&*store, number).await;
    }
    let asking: Vec<_> = (0..LANES)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { wish(&*store, number, "job-1").await })
        })
        .collect();

    let mut seen = Wishes::default();
    while seen.about.len() < usize::from(LANES) {
        let next = since(&*store, seen.revision).await;
        assert!(next.revision >= seen.revision);
        seen = Wishes { revision: next.revision, about: [seen.about, next.about].concat() };
        tokio::task::yield_now().await;
    }

    for asked in asking {
        assert_eq!(asked.await.expect("the task ends"), WishAnswer::Stored);
    }
    seen.about.sort();
    let wanted: Vec<Wished> = (0..LANES).map(|number| Wished::Lane(jobs_lane(number))).collect();
    assert_eq!(seen.about, wanted);
}
