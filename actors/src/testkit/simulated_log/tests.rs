//! Order, credits, rebalance and gaps of the simulated log.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{MemoryStore, wait_until};
use super::*;
use crate::clock::Timestamp;
use crate::ids::{LogTopic, Partition};
use crate::lane::credit::{CreditLimits, GlobalCredit};
use crate::ports::log::LogEnds;
use crate::record::{Headers, OutgoingRecord, RecordBatch};

const LIMIT: Duration = Duration::from_secs(30);
const FIRST: TopicPartition = partition(0);

const fn partition(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::JobLifecycle, partition: Partition(number) }
}

/// A sink that starts what it is assigned, at 0 or where it left off, and keeps what it is told.
#[derive(Default)]
struct Recorder {
    assigned: Mutex<Vec<TopicPartition>>,
    lost: Mutex<Vec<TopicPartition>>,
    batches: Mutex<Vec<RecordBatch>>,
    revocations: Mutex<Vec<Revocation>>,
    broken: Mutex<Vec<(TopicPartition, Incarnation)>>,
    ends: Mutex<Vec<(TopicPartition, LogEnds)>>,
    is_full: AtomicBool,
    handed_back: AtomicUsize,
}

impl Recorder {
    fn offsets(&self, partition: TopicPartition) -> Vec<u64> {
        let batches = locked(&self.batches);
        let of_partition = batches.iter().filter(|batch| batch.topic_partition == partition);
        of_partition.flat_map(|batch| batch.records.iter().map(|record| record.offset.0)).collect()
    }

    fn has_assigned(&self, partition: TopicPartition) -> bool {
        locked(&self.assigned).contains(&partition)
    }
}

impl LogSink for Recorder {
    fn assigned(&self, partitions: Vec<TopicPartition>) {
        locked(&self.assigned).extend(partitions);
    }

    fn revoked(&self, revocation: Revocation) {
        locked(&self.revocations).push(revocation);
    }

    fn lost(&self, partitions: Vec<TopicPartition>) {
        locked(&self.lost).extend(partitions);
    }

    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        if self.is_full.load(Ordering::SeqCst) {
            self.handed_back.fetch_add(1, Ordering::SeqCst);
            return Err(batch);
        }
        locked(&self.batches).push(batch);
        Ok(())
    }

    fn broken(&self, partition: TopicPartition, incarnation: Incarnation) {
        locked(&self.broken).push((partition, incarnation));
    }

    fn ends(&self, ends: Vec<(TopicPartition, LogEnds)>) {
        locked(&self.ends).extend(ends);
    }
}

fn pool(lane_records: usize) -> Arc<CreditPool> {
    let limits = CreditLimits { lane_records, lane_bytes: 1 << 30, total_bytes: 1 << 30 };
    CreditPool::new(limits, Arc::new(GlobalCredit::default()))
}

fn append(store: &MemoryStore, partition: TopicPartition, records: usize) {
    for number in 0..records {
        let record = OutgoingRecord {
            topic: LogTopic::Record(partition.topic),
            partition: partition.partition,
            timestamp: Timestamp::from_millis(1),
            key: None,
            headers: Headers::none(),
            payload: Some(Bytes::from(number.to_string())),
        };
        store.append(record).unwrap();
    }
}

fn join(log: &SimulatedLog, lane_records: usize) -> (Arc<Recorder>, Arc<dyn LogReader>) {
    let sink = Arc::new(Recorder::default());
    let reader =
        log.subscribe(Group::jobs(), vec![Topic::JobLifecycle], sink.clone(), pool(lane_records)).unwrap();
    (sink, reader)
}

fn fixture() -> (MemoryStore, SimulatedLog) {
    let store = MemoryStore::new();
    let limits = BatchLimits { max_records: 3, ..DEFAULT_LIMITS };
    let log = SimulatedLog::with_limits(Arc::new(store.clone()), limits);
    (store, log)
}

#[tokio::test(start_paused = true)]
async fn reader_first_member_delivers_in_order_what_comes_before_and_after() {
    let (store, log) = fixture();
    append(&store, FIRST, 5);
    let (sink, reader) = join(&log, 1_000);
    wait_until("the assignment", LIMIT, || sink.has_assigned(FIRST)).await;

    reader.start(FIRST, Incarnation(7), Offset(1)).unwrap();
    wait_until("the records there", LIMIT, || sink.offsets(FIRST).len() == 4).await;
    append(&store, FIRST, 1);
    wait_until("the new record", LIMIT, || sink.offsets(FIRST).len() == 5).await;

    assert_eq!(sink.offsets(FIRST), vec![1, 2, 3, 4, 5]);
    let batches = locked(&sink.batches);
    let edges: Vec<_> = batches.iter().map(|batch| (batch.from.0, batch.next.0, batch.log_end.0)).collect();
    assert_eq!(edges, vec![(1, 4, 5), (4, 5, 5), (5, 6, 6)]);
    assert!(batches.iter().all(|batch| batch.incarnation == Incarnation(7)));
}

#[tokio::test(start_paused = true)]
async fn reader_offsets_without_records_are_delivered_as_positions() {
    let (store, log) = fixture();
    append(&store, FIRST, 7);
    for offset in [1, 3, 4, 5, 6] {
        log.hide(FIRST, Offset(offset));
    }
    let (sink, reader) = join(&log, 1_000);

    reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    wait_until("the end", LIMIT, || locked(&sink.batches).last().is_some_and(|last| last.next == Offset(7)))
        .await;

    assert_eq!(sink.offsets(FIRST), vec![0, 2]);
    let edges: Vec<_> = locked(&sink.batches).iter().map(|batch| (batch.from.0, batch.next.0)).collect();
    assert_eq!(edges, vec![(0, 3), (3, 6), (6, 7)]);
    let inspection = reader.inspect(FIRST, Some(Offset(7))).await.unwrap();
    assert_eq!(inspection.previous.map(|(offset, _)| offset), Some(Offset(2)));
}

#[tokio::test(start_paused = true)]
async fn reader_without_credit_holds_back_and_goes_on_when_it_returns() {
    let (store, log) = fixture();
    append(&store, FIRST, 6);
    append(&store, partition(1), 1);
    let (sink, reader) = join(&log, 2);

    reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    wait_until("the first batch", LIMIT, || sink.offsets(FIRST).len() == 2).await;
    reader.start(partition(1), Incarnation(1), Offset(0)).unwrap();
    wait_until("another partition", LIMIT, || sink.offsets(partition(1)).len() == 1).await;
    let held_back = sink.offsets(FIRST);
    locked(&sink.batches).clear();
    wait_until("the second batch", LIMIT, || sink.offsets(FIRST).len() == 2).await;

    assert_eq!(held_back, vec![0, 1]);
    assert_eq!(sink.offsets(FIRST), vec![2, 3]);
}

#[tokio::test(start_paused = true)]
async fn reader_batch_handed_back_is_delivered_again_in_order() {
    let (store, log) = fixture();
    append(&store, FIRST, 4);
    let (sink, reader) = join(&log, 1_000);
    sink.is_full.store(true, Ordering::SeqCst);

    reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    wait_until("two refusals", LIMIT, || sink.handed_back.load(Ordering::SeqCst) == 2).await;
    sink.is_full.store(false, Ordering::SeqCst);
    wait_until("all records", LIMIT, || sink.offsets(FIRST).len() == 4).await;

    assert_eq!(sink.offsets(FIRST), vec![0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn reader_started_anew_delivers_only_for_the_newer_incarnation() {
    let (store, log) = fixture();
    append(&store, FIRST, 1);
    let (sink, reader) = join(&log, 1_000);

    reader.start(FIRST, Incarnation(2), Offset(0)).unwrap();
    reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    reader.stop(FIRST, Incarnation(1));
    wait_until("the record", LIMIT, || sink.offsets(FIRST).len() == 1).await;

    assert_eq!(locked(&sink.batches)[0].incarnation, Incarnation(2));
}

#[tokio::test(start_paused = true)]
async fn rebalance_second_member_moves_half_after_the_lanes_stopped() {
    let (store, log) = fixture();
    append(&store, partition(1), 2);
    let (old, old_reader) = join(&log, 1_000);
    wait_until("the first assignment", LIMIT, || old.has_assigned(FIRST)).await;
    let (new, new_reader) = join(&log, 1_000);

    let group = Group::jobs();
    let rebalance = log.rebalance(&group, Duration::from_secs(10));
    let lanes_stop = async {
        wait_until("the revocation", LIMIT, || !locked(&old.revocations).is_empty()).await;
        let owned_until_answer = old_reader.confirm_ownership(partition(1), Offset(0)).await.unwrap();
        let revocation = locked(&old.revocations).remove(0);
        revocation.done.send(()).unwrap();
        (owned_until_answer, revocation.partitions)
    };
    let ((), (owned_until_answer, revoked)) = tokio::join!(rebalance, lanes_stop);
    wait_until("the new assignment", LIMIT, || new.has_assigned(partition(1))).await;
    new_reader.start(partition(1), Incarnation(1), Offset(0)).unwrap();
    wait_until("the records", LIMIT, || new.offsets(partition(1)).len() == 2).await;

    assert!(owned_until_answer);
    assert_eq!(revoked, [1, 3, 5, 7, 9].map(partition));
    assert!(!old_reader.confirm_ownership(partition(1), Offset(0)).await.unwrap());
    assert!(new_reader.confirm_ownership(partition(1), Offset(0)).await.unwrap());
    assert!(old_reader.start(partition(1), Incarnation(2), Offset(0)).is_err());
    assert_eq!(*locked(&old.lost), vec![]);
}

#[tokio::test(start_paused = true)]
async fn expire_killed_member_leaves_its_partitions_to_the_rest() {
    let (_store, log) = fixture();
    let (killed, _reader) = join(&log, 1_000);
    let (heir, heir_reader) = join(&log, 1_000);

    log.expire(log.members(&Group::jobs())[0]);
    log.rebalance(&Group::jobs(), Duration::from_secs(1)).await;
    wait_until("the assignment", LIMIT, || heir.has_assigned(FIRST)).await;

    assert!(heir_reader.confirm_ownership(FIRST, Offset(0)).await.unwrap());
    assert_eq!(locked(&heir.assigned).len(), 10);
    assert_eq!((locked(&killed.lost).len(), locked(&killed.revocations).len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn revoke_unanswered_is_lost_at_the_deadline() {
    let (_store, log) = fixture();
    let (sink, reader) = join(&log, 1_000);
    let member = log.members(&Group::jobs())[0];

    let end = log.revoke(member, vec![FIRST], Duration::from_secs(3)).await;
    wait_until("the loss", LIMIT, || !locked(&sink.lost).is_empty()).await;

    assert_eq!(end, RevocationEnd::TimedOut);
    assert_eq!(*locked(&sink.lost), vec![FIRST]);
    assert!(!reader.confirm_ownership(FIRST, Offset(0)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn zombie_assigned_elsewhere_reads_on_but_is_told_no() {
    let (store, log) = fixture();
    append(&store, FIRST, 1);
    let (zombie, zombie_reader) = join(&log, 1_000);
    let (_heir, heir_reader) = join(&log, 1_000);
    let heir = log.members(&Group::jobs())[1];

    log.assign(heir, vec![FIRST]);
    zombie_reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    wait_until("the zombie to read", LIMIT, || zombie.offsets(FIRST).len() == 1).await;
    zombie_reader.commit_advisory(FIRST, Offset(9));
    heir_reader.commit_advisory(FIRST, Offset(1));

    assert!(!zombie_reader.confirm_ownership(FIRST, Offset(1)).await.unwrap());
    assert!(heir_reader.confirm_ownership(FIRST, Offset(0)).await.unwrap());
    assert_eq!(log.group_offsets(&Group::jobs()), BTreeMap::from([(FIRST, Offset(1))]));
    assert_eq!(*locked(&zombie.lost), vec![]);
}

#[tokio::test(start_paused = true)]
async fn hold_and_failures_delay_but_lose_nothing() {
    let (store, log) = fixture();
    append(&store, FIRST, 2);
    append(&store, partition(1), 1);
    let lane = LaneKey { group: Group::jobs(), topic_partition: FIRST };
    let (sink, reader) = join(&log, 1_000);
    log.hold(&lane);
    log.fail_reads(partition(1), 3);
    log.fail_calls(1);

    let failed = reader.log_end(FIRST).await;
    reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    reader.start(partition(1), Incarnation(1), Offset(0)).unwrap();
    wait_until("the other partition", LIMIT, || sink.offsets(partition(1)).len() == 1).await;
    let while_held = sink.offsets(FIRST);
    log.release(&lane);
    wait_until("the held partition", LIMIT, || sink.offsets(FIRST).len() == 2).await;

    assert!(failed.unwrap_err().is_transient());
    assert_eq!(while_held, Vec::<u64>::new());
    assert_eq!(reader.log_end(FIRST).await.unwrap(), Offset(2));
}

#[tokio::test(start_paused = true)]
async fn trim_below_a_position_breaks_it() {
    let (store, log) = fixture();
    append(&store, FIRST, 5);
    let (sink, reader) = join(&log, 1_000);
    wait_until("the assignment", LIMIT, || sink.has_assigned(FIRST)).await;

    log.trim(FIRST, Offset(3));
    reader.start(FIRST, Incarnation(7), Offset(1)).unwrap();
    wait_until("the report", LIMIT, || !locked(&sink.broken).is_empty()).await;
    let inspection = reader.inspect(FIRST, Some(Offset(1))).await.unwrap();

    assert_eq!(*locked(&sink.broken), vec![(FIRST, Incarnation(7))]);
    assert_eq!(*locked(&sink.lost), vec![]);
    assert_eq!((inspection.low, inspection.high, inspection.previous), (Offset(3), Offset(5), None));
}

#[tokio::test(start_paused = true)]
async fn recreate_partition_starts_at_zero_with_other_records() {
    let (store, log) = fixture();
    append(&store, FIRST, 4);
    let (sink, reader) = join(&log, 1_000);
    let before = reader.inspect(FIRST, Some(Offset(2))).await.unwrap();

    log.recreate(FIRST);
    let emptied = reader.inspect(FIRST, Some(Offset(2))).await.unwrap();
    append(&store, FIRST, 3);
    let after = reader.inspect(FIRST, Some(Offset(2))).await.unwrap();
    reader.start(FIRST, Incarnation(1), Offset(0)).unwrap();
    wait_until("the new records", LIMIT, || sink.offsets(FIRST).len() == 3).await;

    assert_eq!((emptied.low, emptied.high), (Offset(0), Offset(0)));
    assert_eq!(after.high, Offset(3));
    assert_eq!(before.previous, after.previous, "same bytes at the same offset cannot be told apart");
    assert_eq!(sink.offsets(FIRST), vec![0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn ends_are_told_without_credit_and_without_a_lane() {
    let (store, log) = fixture();
    let (sink, _reader) = join(&log, 0);
    wait_until("the assignment", LIMIT, || sink.has_assigned(FIRST)).await;

    append(&store, FIRST, 3);

    wait_until("the end", LIMIT, || locked(&sink.ends).contains(&(FIRST, LogEnds::closed(Offset(3))))).await;
    assert_eq!(sink.offsets(FIRST), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_task_and_frees_the_partitions() {
    let (_store, log) = fixture();
    let (_sink, reader) = join(&log, 1_000);

    reader.close().await.unwrap();

    assert!(matches!(reader.log_end(FIRST).await, Err(LogError::Closed)));
    assert!(matches!(reader.start(FIRST, Incarnation(1), Offset(0)), Err(LogError::Closed)));
    assert_eq!(log.members(&Group::jobs()), vec![]);
    assert_eq!(log.owner(&Group::jobs(), FIRST), None);
}

/// What happens to a partition in the property below.
#[derive(Debug, Clone, Copy)]
enum Change {
    Append(usize),
    Truncate(u64),
    Recreate,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (1_usize..5).prop_map(Change::Append),
        (0_u64..12).prop_map(Change::Truncate),
        Just(Change::Recreate),
    ]
}

proptest! {
    #[test]
    fn view_any_changes_shows_what_a_list_would(changes in proptest::collection::vec(change(), 0..20)) {
        let store = MemoryStore::new();
        let mut view = View::default();
        let mut model: Vec<Bytes> = Vec::new();
        let mut appended = 0_usize;

        for change in changes {
            let source_end = store.heads().end(FIRST);
            match change {
                Change::Append(records) => {
                    for _ in 0..records {
                        let payload = Bytes::from(appended.to_string());
                        appended += 1;
                        store.append(OutgoingRecord {
                            topic: LogTopic::Record(FIRST.topic),
                            partition: FIRST.partition,
                            timestamp: Timestamp::from_millis(1),
                            key: None,
                            headers: Headers::none(),
                            payload: Some(payload.clone()),
                        }).unwrap();
                        model.push(payload);
                    }
                }
                Change::Truncate(end) => {
                    let end = end.min(model.len() as u64);
                    model.truncate(usize::try_from(end).unwrap());
                    view.truncate(Offset(end), source_end);
                }
                Change::Recreate => {
                    model.clear();
                    view.recreate(source_end);
                }
            }
        }

        let mut seen: Vec<Bytes> = Vec::new();
        let end = view.high(store.heads().end(FIRST));
        while (seen.len() as u64) < end.0 {
            let (records, next) =
                view.read(&store, FIRST, Offset(seen.len() as u64), 4, usize::MAX).unwrap();
            prop_assert!(!records.is_empty());
            prop_assert_eq!(next.0, (seen.len() + records.len()) as u64);
            for record in records {
                prop_assert_eq!(record.offset.0, seen.len() as u64);
                seen.push(record.payload.unwrap());
            }
        }
        prop_assert_eq!(seen, model);
    }
}
