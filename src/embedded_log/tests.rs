//! The reader thread: order, credits, failures of the store, and its end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use horizons_actors::lane::credit::{CreditLimits, GlobalCredit};
use horizons_actors::ports::log::{LogHeads, Revocation};
use horizons_actors::testkit::{EventBuilder, MemoryStore};

use super::*;

/// How long a test waits for the thread.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes what the reader delivers; hands back as many batches as it is told to.
#[derive(Default)]
struct Taken {
    batches: Mutex<Vec<RecordBatch>>,
    assigned: Mutex<Vec<TopicPartition>>,
    hand_back: AtomicUsize,
}

impl LogSink for Taken {
    fn assigned(&self, partitions: Vec<TopicPartition>) {
        self.assigned.lock().unwrap().extend(partitions);
    }

    fn revoked(&self, _revocation: Revocation) {}

    fn lost(&self, _partitions: Vec<TopicPartition>) {}

    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let take_one = |left: usize| left.checked_sub(1);
        if self.hand_back.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok() {
            return Err(batch);
        }
        self.batches.lock().unwrap().push(batch);
        Ok(())
    }

    fn broken(&self, _partition: TopicPartition, _incarnation: Incarnation) {}
}

impl Taken {
    fn offsets(&self) -> Vec<u64> {
        let batches = self.batches.lock().unwrap();
        batches.iter().flat_map(|batch| batch.records.iter().map(|record| record.offset.0)).collect()
    }
}

/// A store whose reads fail or panic a number of times.
struct Flaky {
    store: MemoryStore,
    panics: AtomicUsize,
    bad: Option<TopicPartition>,
}

impl RecordSource for Flaky {
    fn heads(&self) -> Arc<LogHeads> {
        self.store.heads()
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        RecordSource::refresh_heads(&self.store)
    }

    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError> {
        self.store.low(partition)
    }

    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        let take_one = |left: usize| left.checked_sub(1);
        if self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok() {
            panic!("asked for");
        }
        if self.bad == Some(partition) {
            return Err(StoreError::Unavailable("asked for".to_owned()));
        }
        self.store.read(partition, from, max_records, max_bytes)
    }

    fn read_previous(
        &self,
        partition: TopicPartition,
        next: Offset,
    ) -> Result<Option<LogRecord>, StoreError> {
        self.store.read_previous(partition, next)
    }
}

/// A store whose commits this process does not hear of.
struct Silent {
    store: MemoryStore,
    heads: Arc<LogHeads>,
    failures: AtomicUsize,
}

impl RecordSource for Silent {
    fn heads(&self) -> Arc<LogHeads> {
        Arc::clone(&self.heads)
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        let take_one = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok() {
            return Err(StoreError::Unavailable("asked for".to_owned()));
        }
        let partitions = Topic::JobLifecycle.all_partitions();
        self.heads.advance(partitions.map(|partition| (partition, self.store.heads().end(partition))));
        Ok(())
    }

    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError> {
        self.store.low(partition)
    }

    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        self.store.read(partition, from, max_records, max_bytes)
    }

    fn read_previous(
        &self,
        partition: TopicPartition,
        next: Offset,
    ) -> Result<Option<LogRecord>, StoreError> {
        self.store.read_previous(partition, next)
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::yield_now();
    }
}

fn append(store: &MemoryStore, job: &str, count: u64) -> TopicPartition {
    let mut partition = None;
    for sequence in 1..=count {
        let record = EventBuilder::job_submitted().job(job).sequence(sequence).record();
        partition = Some(TopicPartition { topic: Topic::JobLifecycle, partition: record.partition });
        store.append(record).unwrap();
    }
    partition.unwrap()
}

fn subscribe(
    source: Arc<dyn RecordSource>,
    sink: &Arc<Taken>,
    credits: &Arc<CreditPool>,
) -> Arc<dyn LogReader> {
    let limits = BatchLimits { records: 3, bytes: 1 << 20 };
    let log = EmbeddedLog::new(LogId::parse("test-log").unwrap(), source, limits);
    let sink: Arc<Taken> = Arc::clone(sink);
    log.subscribe(Group::known("g"), vec![Topic::JobLifecycle], sink, Arc::clone(credits)).unwrap()
}

fn credits(lane_records: usize) -> Arc<CreditPool> {
    let limits = CreditLimits { lane_records, lane_bytes: 1 << 20, total_bytes: 1 << 20 };
    CreditPool::new(limits, Arc::new(GlobalCredit::default()))
}

#[test]
fn reader_partition_is_delivered_in_order_from_where_it_was_started() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(100));
    let partition = append(&store, "j", 10);
    let reader = subscribe(Arc::new(store.clone()), &sink, &credits);
    wait_for("the assignment", || !sink.assigned.lock().unwrap().is_empty());

    reader.start(partition, Incarnation(1), Offset(4)).unwrap();
    wait_for("the records there are", || sink.offsets().len() == 6);
    append(&store, "j", 2);
    wait_for("the records that came", || sink.offsets().len() == 8);

    assert_eq!(sink.offsets(), (4..12).collect::<Vec<_>>());
    for pair in sink.batches.lock().unwrap().windows(2) {
        assert_eq!(pair[0].next, pair[1].from);
    }
}

#[test]
fn reader_without_credit_holds_back_until_some_comes_back() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(4));
    let partition = append(&store, "j", 10);
    let reader = subscribe(Arc::new(store), &sink, &credits);
    reader.start(partition, Incarnation(1), Offset(0)).unwrap();
    wait_for("as much as there is credit for", || sink.offsets().len() == 4);

    let mut seen = Vec::new();
    wait_for("the rest, batch by batch", || {
        seen.extend(std::mem::take(&mut *sink.batches.lock().unwrap()).into_iter().flat_map(|batch| {
            assert!(batch.records.len() <= 4);
            batch.records.into_iter().map(|record| record.offset.0).collect::<Vec<_>>()
        }));
        seen.len() == 10
    });

    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn reader_batch_handed_back_is_offered_again_in_order() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(100));
    sink.hand_back.store(5, Ordering::SeqCst);
    let partition = append(&store, "j", 7);
    let reader = subscribe(Arc::new(store), &sink, &credits);

    reader.start(partition, Incarnation(1), Offset(0)).unwrap();
    wait_for("every record", || sink.offsets().len() == 7);

    assert_eq!(sink.offsets(), (0..7).collect::<Vec<_>>());
}

#[test]
fn reader_panic_of_the_store_does_not_end_it() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(100));
    let partition = append(&store, "j", 7);
    let source = Flaky { store, panics: AtomicUsize::new(2), bad: None };
    let reader = subscribe(Arc::new(source), &sink, &credits);

    reader.start(partition, Incarnation(1), Offset(0)).unwrap();
    wait_for("every record", || sink.offsets().len() == 7);

    assert_eq!(sink.offsets(), (0..7).collect::<Vec<_>>());
}

#[test]
fn reader_unreadable_partition_does_not_hold_up_others() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(100));
    let jobs: Vec<String> = (0..40).map(|number| format!("j-{number}")).collect();
    let mut partitions: Vec<TopicPartition> = jobs.iter().map(|job| append(&store, job, 1)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let bad = partitions[0];
    let wanted: u64 = partitions[1..].iter().map(|partition| store.heads().end(*partition).0).sum();
    let source = Flaky { store, panics: AtomicUsize::new(0), bad: Some(bad) };
    let reader = subscribe(Arc::new(source), &sink, &credits);

    for partition in &partitions {
        reader.start(*partition, Incarnation(1), Offset(0)).unwrap();
    }
    wait_for("the other partitions", || sink.offsets().len() as u64 == wanted);

    assert!(sink.batches.lock().unwrap().iter().all(|batch| batch.topic_partition != bad));
}

#[test]
fn reader_commits_that_were_not_heard_of_are_read_without_another_append() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(100));
    let partition = append(&store, "j", 2);
    let source = Silent { store: store.clone(), heads: Arc::default(), failures: AtomicUsize::new(2) };
    let heads = source.heads();
    let reader = subscribe(Arc::new(source), &sink, &credits);
    reader.start(partition, Incarnation(1), Offset(0)).unwrap();
    wait_for("what was there", || sink.offsets().len() == 2);

    append(&store, "j", 1);
    wait_for("what came unheard of", || sink.offsets().len() == 3);
    append(&store, "j", 1);
    heads.doubt();
    wait_for("what came in doubt", || sink.offsets().len() == 4);

    assert_eq!(sink.offsets(), (0..4).collect::<Vec<_>>());
}

#[test]
fn reader_closed_ends_its_thread_and_answers_nothing_more() {
    let (store, sink, credits) = (MemoryStore::new(), Arc::new(Taken::default()), credits(100));
    let partition = append(&store, "j", 1);
    let reader = subscribe(Arc::new(store), &sink, &credits);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();

    runtime.block_on(reader.close()).unwrap();

    assert!(matches!(reader.start(partition, Incarnation(1), Offset(0)), Err(LogError::Closed)));
    assert!(matches!(runtime.block_on(reader.inspect(partition, None)), Err(LogError::Closed)));
}
