//! What the memory store promises beyond the contract of the port: its faults, its queue, its journal.

use std::time::Duration;

use super::*;
use crate::command::OrderKind;
use crate::effect::{
    DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Effects, ParkedKey, ParkedRecordId, TimerId,
};
use crate::event::JobStatus;
use crate::ids::{Attempt, Group, JobId, Topic, TopicPartition};
use crate::ports::log::RecordSource;
use crate::ports::query::QueryStore;
use crate::ports::store::{CommitError, JobStore, LaneCommitted, LaneStore, LaneTransaction};
use crate::record::{Headers, TimestampType};
use crate::rejection::Rejection;
use crate::testkit::contract::sample::PROCESS;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const PARTITION: TopicPartition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(0) };

fn lane() -> LaneKey {
    LaneKey { group: Group::jobs(), topic_partition: PARTITION }
}

fn transaction(fence: Fence, from: Option<u64>, next: u64, effects: Effects) -> LaneTransaction {
    LaneTransaction {
        lane: lane(),
        fence,
        from: from.map(Offset),
        next: Offset(next),
        last_fingerprint: None,
        now: NOW,
        effects,
    }
}

fn outgoing(payload: &'static [u8]) -> OutgoingRecord {
    OutgoingRecord {
        topic: LogTopic::Record(PARTITION.topic),
        partition: PARTITION.partition,
        timestamp: NOW,
        key: Some(Bytes::from_static(b"job")),
        headers: Headers::none(),
        payload: Some(Bytes::from_static(payload)),
    }
}

fn record(offset: u64, payload: &'static [u8]) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        timestamp: NOW,
        timestamp_type: TimestampType::CreateTime,
        key: Some(Bytes::from_static(b"job")),
        headers: Headers::none(),
        payload: Some(Bytes::from_static(payload)),
    }
}

fn counted(count: u64) -> Effects {
    let row = (StateKey::StatusCount(JobStatus::Queued), StateValue::StatusCount(count));
    Effects { states: vec![row], outbox: vec![outgoing(b"out")], ..Effects::default() }
}

fn parked(offset: u64, payload: &'static [u8]) -> Effects {
    let key = Bytes::from_static(b"job");
    let record = record(offset, payload);
    let head = ParkedKey {
        key: key.clone(),
        head: Offset(offset),
        rejection: Rejection::PayloadMissing,
        parked_at: NOW,
    };
    let letter = DeadLetter {
        record: record.clone(),
        rejection: Rejection::PayloadMissing,
        is_parked: true,
        rejected_at: NOW,
    };
    Effects {
        dead_letters: vec![letter],
        keys_parked: vec![head],
        records_parked: vec![ParkedRecord { key, record, parked_at: NOW }],
        ..Effects::default()
    }
}

async fn commit_first(store: &MemoryStore, effects: Effects) -> LaneCommitted {
    let opened = store.open_lane(lane(), PROCESS).await.unwrap();
    store.commit(transaction(opened.fence, None, 1, effects)).await.unwrap()
}

fn assert_nothing_written(store: &MemoryStore) {
    assert_eq!(store.state_of(&lane(), &StateKey::StatusCount(JobStatus::Queued)), None);
    assert_eq!(store.records(LogTopic::Record(PARTITION.topic), PARTITION.partition), vec![]);
    assert_eq!(store.progress_of(&lane()).unwrap().next, None);
    assert_eq!(store.heads().end(PARTITION), Offset(0));
    assert_eq!(store.journal(), vec![]);
}

#[tokio::test]
async fn commit_current_fence_writes_effects_progress_and_outbox() {
    let store = MemoryStore::new();

    let committed = commit_first(&store, counted(3)).await;

    let progress = store.progress_of(&lane()).unwrap();
    assert_eq!(progress, Progress { fence: committed.fence, next: Some(Offset(1)) });
    let row = store.state_of(&lane(), &StateKey::StatusCount(JobStatus::Queued));
    assert_eq!(row, Some(StateValue::StatusCount(3)));
    assert_eq!(store.heads().end(PARTITION), Offset(1));
    assert_eq!(store.read(PARTITION, Offset(0), 10, 10_000).unwrap(), vec![record(0, b"out")]);
}

#[tokio::test]
async fn commit_older_epoch_revision_or_position_is_fenced() {
    let store = MemoryStore::new();
    let old = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    let new = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    let unknown_revision = Fence { revision: new.revision.following(), ..new };

    let answers = [
        store.commit(transaction(old, None, 1, counted(1))).await,
        store.commit(transaction(unknown_revision, None, 1, counted(1))).await,
        store.commit(transaction(new, Some(0), 1, counted(1))).await,
    ];

    for answer in answers {
        assert!(matches!(answer, Err(CommitError::Fenced)), "{answer:?}");
    }
    assert_nothing_written(&store);
}

#[tokio::test]
async fn commit_one_bad_row_writes_nothing() {
    let store = MemoryStore::new();
    let fence = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    let mut effects = counted(1);
    effects.outbox.push(OutgoingRecord { partition: Partition(99), ..outgoing(b"x") });

    let answer = store.commit(transaction(fence, None, 1, effects)).await;

    assert!(matches!(answer, Err(CommitError::Store(StoreError::Broken(_)))), "{answer:?}");
    assert_nothing_written(&store);
}

#[tokio::test]
async fn records_parked_same_offset_is_ignored_with_same_bytes_and_broken_with_others() {
    let store = MemoryStore::new();
    let committed = commit_first(&store, parked(0, b"poison")).await;

    let again = store.commit(transaction(committed.fence, Some(1), 2, parked(0, b"poison"))).await.unwrap();
    let other = store.commit(transaction(again.fence, Some(2), 3, parked(0, b"other"))).await;

    assert!(matches!(other, Err(CommitError::Store(StoreError::Broken(_)))), "{other:?}");
    assert_eq!(store.parked_of(&lane(), &Bytes::from_static(b"job")).len(), 1);
}

#[tokio::test]
async fn keys_unparked_with_a_record_waiting_is_broken_without_it_unparks() {
    let store = MemoryStore::new();
    let committed = commit_first(&store, parked(0, b"poison")).await;
    let key = Bytes::from_static(b"job");
    let too_early = Effects { keys_unparked: vec![key.clone()], ..Effects::default() };
    let whole = Effects {
        keys_unparked: vec![key.clone()],
        records_unparked: vec![ParkedRecordId { key, offset: Offset(0) }],
        dead_letters_settled: vec![DeadLetterSettlement {
            offset: Offset(0),
            outcome: DeadLetterOutcome::Released,
            settled_at: NOW,
        }],
        ..Effects::default()
    };

    let refused = store.commit(transaction(committed.fence, Some(1), 1, too_early)).await;
    store.commit(transaction(committed.fence, Some(1), 1, whole)).await.unwrap();

    assert!(matches!(refused, Err(CommitError::Store(StoreError::Broken(_)))), "{refused:?}");
    assert_eq!(store.parked_keys(10).await.unwrap(), vec![]);
    assert_eq!(store.dead_letters(None, None, 10).await.unwrap()[0].state, "released");
}

#[tokio::test]
async fn timers_set_and_cleared_answer_the_earliest() {
    let store = MemoryStore::new();
    let timer = |key: &str, due_ms| Timer {
        id: TimerId { kind: "clean".to_owned(), key: key.to_owned() },
        due_at: Timestamp::from_millis(due_ms),
    };
    let set = Effects { timers_set: vec![timer("a", 30), timer("b", 20)], ..Effects::default() };
    let clear = Effects { timers_cleared: vec![timer("b", 20).id], ..Effects::default() };

    let first = commit_first(&store, set).await;
    let due = store.load_due_timers(lane(), Timestamp::from_millis(30), 10).await.unwrap();
    let second = store.commit(transaction(first.fence, Some(1), 1, clear)).await.unwrap();

    assert_eq!(first.next_timer, Some(Timestamp::from_millis(20)));
    assert_eq!(due, vec![timer("b", 20), timer("a", 30)]);
    assert_eq!(second.next_timer, Some(Timestamp::from_millis(30)));
}

#[tokio::test]
async fn fault_lost_answer_tells_written_from_unwritten() {
    let store = MemoryStore::new();
    let fence = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    store.faults().script(StoreCall::Commit, Fault::UnknownUnwritten);
    store.faults().script_commit(&lane(), Fault::Pass);
    store.faults().script_commit(&lane(), Fault::UnknownWritten);
    store.faults().script(StoreCall::Commit, Fault::Unavailable);

    let passed = store.commit(transaction(fence, None, 1, counted(1))).await.unwrap();
    let written = store.commit(transaction(passed.fence, Some(1), 2, counted(2))).await;
    let now = store.read_progress(lane()).await.unwrap().unwrap();
    let unwritten = store.commit(transaction(now.fence, Some(2), 3, counted(3))).await;
    let unavailable = store.commit(transaction(now.fence, Some(2), 3, counted(3))).await;

    assert!(matches!(written, Err(CommitError::Unknown(_))), "{written:?}");
    assert!(matches!(unwritten, Err(CommitError::Unknown(_))), "{unwritten:?}");
    assert!(matches!(unavailable, Err(CommitError::Store(StoreError::Unavailable(_)))), "{unavailable:?}");
    assert_eq!(store.read_progress(lane()).await.unwrap().unwrap().next, Some(Offset(2)));
    assert_eq!(store.faults().calls(StoreCall::Commit), 4);
}

#[tokio::test]
async fn fault_refused_record_refuses_whoever_applies_it_and_passes_its_dead_letter() {
    let store = MemoryStore::new();
    let fence = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    store.faults().refuse_record(PARTITION, Offset(2));

    let covering = store.commit(transaction(fence, None, 3, counted(1))).await;
    let before = store.commit(transaction(fence, None, 2, counted(1))).await.unwrap();
    let isolated = store.commit(transaction(before.fence, Some(2), 3, parked(2, b"poison"))).await;

    assert!(matches!(covering, Err(CommitError::Store(StoreError::Data(_)))), "{covering:?}");
    assert!(isolated.is_ok(), "{isolated:?}");
}

#[tokio::test(start_paused = true)]
async fn fault_hang_is_carried_out_after_release_and_open_lane_waits_behind_it() {
    let store = MemoryStore::new();
    let fence = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    store.faults().script(StoreCall::Commit, Fault::Hang);

    drop(store.commit(transaction(fence, None, 1, counted(1))));
    let reopened = tokio::spawn(store.open_lane(lane(), PROCESS));
    super::super::wait_until("the commit to hang", Duration::from_secs(5), || store.faults().hanging() == 1)
        .await;
    let waited = store.waiting_writes();
    store.faults().release_hung();
    let reopened = reopened.await.unwrap().unwrap();

    assert_eq!(waited, 1);
    assert_eq!(reopened.next, Some(Offset(1)));
    assert!(reopened.fence.epoch > fence.epoch);
}

#[tokio::test(start_paused = true)]
async fn fault_slow_makes_writes_take_their_time_one_after_the_other() {
    let store = MemoryStore::new();
    let fence = store.open_lane(lane(), PROCESS).await.unwrap().fence;
    store.faults().slow(Duration::from_secs(10));
    let started = tokio::time::Instant::now();

    let first = store.commit(transaction(fence, None, 1, counted(1)));
    let second = store.commit(transaction(fence, None, 1, counted(1)));
    let (first, second) = (first.await, second.await);

    assert!(first.is_ok(), "{first:?}");
    assert!(matches!(second, Err(CommitError::Fenced)), "{second:?}");
    assert_eq!(started.elapsed().as_secs(), 20);
}

#[test]
fn runtime_dropped_loses_what_waited_and_the_next_one_goes_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let store = MemoryStore::new();
    store.faults().script(StoreCall::Commit, Fault::Hang);
    runtime().block_on(async {
        let fence = store.open_lane(lane(), PROCESS).await.unwrap().fence;
        drop(store.commit(transaction(fence, None, 1, counted(1))));
    });

    let reopened = runtime().block_on(store.open_lane(lane(), PROCESS)).unwrap();

    assert_eq!(reopened.next, None);
    assert_nothing_written(&store);
}

#[tokio::test]
async fn fault_away_fails_every_call_but_the_log_until_back() {
    let store = MemoryStore::new();
    store.faults().away();

    let opened = store.open_lane(lane(), PROCESS).await;
    let read = store.read(PARTITION, Offset(0), 1, 1);
    let listed = store.progress().await;
    store.faults().back();

    assert!(opened.unwrap_err().is_transient());
    assert_eq!(read.unwrap(), vec![]);
    assert!(listed.unwrap_err().is_transient());
    assert!(store.open_lane(lane(), PROCESS).await.is_ok());
}

#[tokio::test]
async fn append_records_over_disk_limit_is_refused_while_lanes_go_on() {
    let store = MemoryStore::new();
    store.append(outgoing(b"there")).unwrap();
    store.set_disk_limit(1);

    let refused = store.append_records(vec![outgoing(b"more")], vec![]).await;
    commit_first(&store, counted(1)).await;

    assert!(matches!(refused, Err(StoreError::DiskLimit { limit_bytes: 1, .. })), "{refused:?}");
    assert_eq!(store.heads().end(PARTITION), Offset(2));
}

#[tokio::test]
async fn orders_asked_for_twice_are_one_and_keep_their_first_answer() {
    let store = MemoryStore::new();
    let order = Order {
        job_id: JobId::parse("job").unwrap(),
        attempt: Attempt(1),
        kind: OrderKind::Clean,
        ordered_at: NOW,
    };
    let ordered = || Effects { orders: vec![order.clone()], ..Effects::default() };

    let first = commit_first(&store, ordered()).await;
    store.commit(transaction(first.fence, Some(1), 2, ordered())).await.unwrap();
    let open: Vec<Order> =
        store.open_orders(None, 10).await.unwrap().into_iter().map(|(_, order)| order).collect();
    store.answer_order(order.clone(), OrderAnswer::Done).await.unwrap();
    store.answer_order(order.clone(), OrderAnswer::Refused("late".to_owned())).await.unwrap();

    assert_eq!(open, vec![order.clone()]);
    assert_eq!(store.orders(), vec![(order, Some(OrderAnswer::Done))]);
}
