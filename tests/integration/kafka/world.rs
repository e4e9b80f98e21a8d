//! A cluster with topics of one test's own, members of groups that play dispatcher and store, and a producer.
//!
//! Promises that what a member applied is exactly what a store with a fence would hold: a batch counts only if
//! it joins the one before it and its incarnation is the newest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use horizons::kafka::KafkaLog;
use horizons::kafka::config::KafkaConfig;
use horizons::kafka::topics::{self, TopicAdmin};
use horizons_actors::ids::{Group, Incarnation, LogId, LogTopic, Offset, Partition, Topic, TopicPartition};
use horizons_actors::lane::credit::{Credit, CreditLimits, CreditPool, GlobalCredit};
use horizons_actors::lane::start::start_answer;
use horizons_actors::ports::Reply;
use horizons_actors::ports::log::{
    EventLog, Inspection, LogEnds, LogError, LogReader, LogSink, Revocation, StartAnswer,
};
use horizons_actors::record::{Digest32, LogRecord, RecordBatch};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use crate::services::kafka::Kafka;
use crate::services::wait::{wait_for, wait_some};

/// Plenty, so that only tests about credit meet a limit.
pub(crate) const PLENTY: CreditLimits =
    CreditLimits { lane_records: 1 << 20, lane_bytes: 1 << 30, total_bytes: 1 << 32 };

/// Longer than any call to a cluster may take.
const ADMIN_LIMIT: Duration = Duration::from_secs(30);

/// Runs a reply to its end on this thread.
pub(crate) fn ask<T>(reply: Reply<T, LogError>) -> Result<T, LogError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(reply)
}

/// Names a partition of the topic that most tests use.
pub(crate) fn lifecycle(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::JobLifecycle, partition: Partition(number) }
}

/// A clock that all threads of the process share.
fn since_start() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// Gives a prefix that no other test, and no other run, has.
fn prefix() -> String {
    static TESTS: AtomicUsize = AtomicUsize::new(0);
    format!("t{}-{}.", std::process::id(), TESTS.fetch_add(1, Ordering::Relaxed))
}

/// One test's place in a cluster.
pub(crate) struct World {
    pub(crate) config: KafkaConfig,
    /// Where producer and administration go: past any proxy.
    direct: String,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl World {
    /// A place on a cluster, with one topic.
    pub(crate) fn on(kafka: &Kafka) -> Self {
        let prefix = prefix();
        let config = KafkaConfig {
            topic_prefix: prefix.clone(),
            group_prefix: prefix,
            // The shortest that a broker takes unless told otherwise.
            session_timeout: Duration::from_secs(6),
            max_poll_interval: Duration::from_secs(30),
            ..KafkaConfig::new(kafka.bootstrap())
        };
        let direct = kafka.direct().to_owned();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &direct)
            .set("linger.ms", "1")
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        let world = Self { config, direct, producer };
        world.create(Topic::JobLifecycle);
        world
    }

    /// A place on the cluster that tests share.
    pub(crate) fn shared() -> Self {
        Self::on(Kafka::shared())
    }

    /// A topic's name in the cluster.
    pub(crate) fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.config.topic_prefix, LogTopic::Record(topic))
    }

    fn direct_config(&self) -> KafkaConfig {
        KafkaConfig { bootstrap: self.direct.clone(), ..self.config.clone() }
    }

    /// Where brokers are, past any proxy.
    pub(crate) fn direct(&self) -> &str {
        &self.direct
    }

    pub(crate) fn admin(&self) -> TopicAdmin {
        TopicAdmin::new(self.direct_config()).unwrap()
    }

    /// Creates a topic.
    pub(crate) fn create(&self, topic: Topic) {
        let mut planned = topics::plan(&self.config.topic_prefix, 1);
        planned.retain(|planned| planned.topic == LogTopic::Record(topic));
        // A topic that was just deleted may still be on its way out.
        wait_for("a topic to be made", || {
            self.admin().create(&planned).is_ok_and(|made| made[0].1 == topics::Created::Made)
        });
    }

    fn raw_admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.direct).create().unwrap()
    }

    /// Deletes a topic, and waits until it is gone.
    pub(crate) fn delete(&self, topic: Topic) {
        let (admin, name) = (self.raw_admin(), self.topic(topic));
        let options = AdminOptions::new().operation_timeout(Some(ADMIN_LIMIT));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(admin.delete_topics(&[&name], &options)).unwrap()[0].as_ref().unwrap();
    }

    /// Removes the records below an offset, as retention does.
    pub(crate) fn trim(&self, partition: TopicPartition, low: u64) {
        let mut list = TopicPartitionList::new();
        let number = i32::from(partition.partition.0);
        list.add_partition_offset(
            &self.topic(partition.topic),
            number,
            KafkaOffset::Offset(i64::try_from(low).unwrap()),
        )
        .unwrap();
        let options = AdminOptions::new().operation_timeout(Some(ADMIN_LIMIT));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.raw_admin().delete_records(&list, &options)).unwrap();
    }

    /// Writes records with the payloads `{word}{number}`, and waits until the broker has them.
    pub(crate) fn produce(&self, partition: TopicPartition, word: &str, count: usize) {
        let name = self.topic(partition.topic);
        for number in 0..count {
            let payload = format!("{word}{number}");
            let mut record = BaseRecord::<[u8], [u8]>::to(&name)
                .partition(i32::from(partition.partition.0))
                .payload(payload.as_bytes());
            while let Err((_, returned)) = self.producer.send(record) {
                std::thread::park_timeout(Duration::from_millis(5));
                record = returned;
            }
        }
        self.producer.flush(ADMIN_LIMIT).unwrap();
    }

    /// What the group has committed of a partition.
    pub(crate) fn committed(&self, partition: TopicPartition) -> Option<i64> {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.direct)
            .set("group.id", format!("{}{}", self.config.group_prefix, Group::jobs()))
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic(partition.topic), i32::from(partition.partition.0));
        let committed = client.committed_offsets(list, ADMIN_LIMIT).unwrap();
        committed.elements()[0].offset().to_raw().filter(|offset| *offset >= 0)
    }

    /// Writes records that carry when they were sent, one after each pause.
    pub(crate) fn produce_stamped(&self, partitions: &[TopicPartition], count: usize, pause: Duration) {
        let began = Instant::now();
        for (number, partition) in (0..count).zip(partitions.iter().cycle()) {
            let due = began + pause * u32::try_from(number).unwrap();
            while Instant::now() < due {
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
            let payload = format!("@{}", since_start().as_nanos());
            let name = self.topic(partition.topic);
            let record = BaseRecord::<[u8], [u8]>::to(&name)
                .partition(i32::from(partition.partition.0))
                .payload(payload.as_bytes());
            assert!(self.producer.send(record).is_ok(), "the producer's queue is full");
        }
        self.producer.flush(ADMIN_LIMIT).unwrap();
    }

    /// Opens the log.
    pub(crate) fn log(&self) -> KafkaLog {
        KafkaLog::new(LogId::parse("test").unwrap(), self.config.clone()).unwrap()
    }
}

impl World {
    /// Opens the log past any proxy.
    pub(crate) fn direct_log(&self) -> KafkaLog {
        KafkaLog::new(LogId::parse("test").unwrap(), self.direct_config()).unwrap()
    }
}

/// What a store holds of one partition.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stored {
    pub(crate) epoch: u64,
    pub(crate) next: u64,
    /// The offsets of the records, in the order they were applied.
    pub(crate) offsets: Vec<u64>,
    pub(crate) payloads: Vec<Option<Vec<u8>>>,
    pub(crate) last: Option<Digest32>,
}

/// A store that members of a group share: the newest epoch of a partition writes.
#[derive(Debug, Default)]
pub(crate) struct Store {
    partitions: Mutex<BTreeMap<TopicPartition, Stored>>,
    /// Batches that did not join the one before.
    pub(crate) seams: AtomicU64,
    /// Batches that a newer owner's fence refused.
    pub(crate) fenced: AtomicU64,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub(crate) fn of(&self, partition: TopicPartition) -> Stored {
        locked(&self.partitions).get(&partition).cloned().unwrap_or_default()
    }

    /// Sets where a partition is read on.
    pub(crate) fn set_next(&self, partition: TopicPartition, next: u64) {
        locked(&self.partitions).entry(partition).or_default().next = next;
    }

    pub(crate) fn applied(&self) -> usize {
        locked(&self.partitions).values().map(|stored| stored.offsets.len()).sum()
    }

    fn open(&self, partition: TopicPartition) -> (u64, u64) {
        let mut partitions = locked(&self.partitions);
        let stored = partitions.entry(partition).or_default();
        stored.epoch += 1;
        (stored.epoch, stored.next)
    }

    /// Applies a batch; tells whether its owner may go on.
    fn apply(&self, batch: &RecordBatch) -> bool {
        let mut partitions = locked(&self.partitions);
        let stored = partitions.entry(batch.topic_partition).or_default();
        if stored.epoch != batch.incarnation.0 {
            self.fenced.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let mut before = None;
        let is_sound = stored.next == batch.from.0
            && batch.records.iter().all(|record| {
                let is_after = before.is_none_or(|before| record.offset > before);
                before = Some(record.offset);
                is_after && record.offset >= batch.from && record.offset < batch.next
            });
        if !is_sound {
            self.seams.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        stored.next = batch.next.0;
        for record in &batch.records {
            stored.offsets.push(record.offset.0);
            stored.payloads.push(record.payload.as_ref().map(|payload| payload.to_vec()));
        }
        stored.last = batch.records.last().map(|record| record.fingerprint()).or(stored.last);
        true
    }
}

/// How a member answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It starts what is assigned and gives back what is revoked at once.
    #[default]
    Prompt,
    /// It starts nothing by itself.
    Passive,
    /// It never answers a revocation.
    Deaf,
}

/// What a member was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) assigned: Vec<TopicPartition>,
    pub(crate) revoked: Vec<TopicPartition>,
    pub(crate) lost: Vec<TopicPartition>,
    pub(crate) broken: Vec<(TopicPartition, Incarnation)>,
    pub(crate) ends: BTreeMap<TopicPartition, LogEnds>,
    pub(crate) health: Vec<Result<(), LogError>>,
    pub(crate) batches: usize,
    /// How long stamped records were on their way.
    pub(crate) delays: Vec<Duration>,
    /// Revocations that are not answered.
    kept: Vec<Revocation>,
}

struct Sink {
    store: Arc<Store>,
    reader: OnceLock<Arc<dyn LogReader>>,
    manner: Manner,
    /// Partitions that were assigned before the reader was known.
    early: Mutex<Vec<TopicPartition>>,
    told: Mutex<Told>,
    /// Whether what is applied is told, as lanes do.
    tells_positions: std::sync::atomic::AtomicBool,
    /// Credit is kept while set.
    keeps_credit: std::sync::atomic::AtomicBool,
    credit: Mutex<Vec<Credit>>,
    /// The first records that were read, whole.
    records: Mutex<Vec<LogRecord>>,
}

/// As many records are kept whole.
const RECORDS_KEPT: usize = 100;

impl Sink {
    fn open(&self, partition: TopicPartition) {
        let Some(reader) = self.reader.get() else { return locked(&self.early).push(partition) };
        let (epoch, next) = self.store.open(partition);
        // A partition that has just gone is someone else's.
        let _started = reader.start(partition, Incarnation(epoch), Offset(next));
    }
}

impl LogSink for Sink {
    fn assigned(&self, partitions: Vec<TopicPartition>) {
        locked(&self.told).assigned.extend(&partitions);
        if self.manner != Manner::Passive {
            partitions.into_iter().for_each(|partition| self.open(partition));
        }
    }

    fn revoked(&self, revocation: Revocation) {
        let mut told = locked(&self.told);
        told.revoked.extend(&revocation.partitions);
        if self.manner == Manner::Deaf {
            told.kept.push(revocation);
        }
    }

    fn lost(&self, partitions: Vec<TopicPartition>) {
        locked(&self.told).lost.extend(partitions);
    }

    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let now = since_start();
        let stamps = batch.records.iter().filter_map(|record| {
            let text = std::str::from_utf8(record.payload.as_ref()?).ok()?;
            text.strip_prefix('@')?.parse().ok().map(Duration::from_nanos)
        });
        let delays: Vec<Duration> = stamps.map(|sent| now.saturating_sub(sent)).collect();
        let mut told = locked(&self.told);
        told.batches += 1;
        told.delays.extend(delays);
        drop(told);
        if self.store.apply(&batch)
            && self.tells_positions.load(Ordering::SeqCst)
            && let Some(reader) = self.reader.get()
        {
            reader.commit_advisory(batch.topic_partition, batch.next);
        }
        let mut records = locked(&self.records);
        let room = RECORDS_KEPT - records.len();
        records.extend(batch.records.iter().take(room).cloned());
        if self.keeps_credit.load(Ordering::SeqCst) {
            locked(&self.credit).push(batch.credit);
        }
        Ok(())
    }

    fn broken(&self, partition: TopicPartition, incarnation: Incarnation) {
        locked(&self.told).broken.push((partition, incarnation));
    }

    fn ends(&self, ends: Vec<(TopicPartition, LogEnds)>) {
        locked(&self.told).ends.extend(ends);
    }

    fn health(&self, health: Result<(), LogError>) {
        locked(&self.told).health.push(health);
    }
}

/// One member of a group.
pub(crate) struct Member {
    sink: Arc<Sink>,
    pub(crate) reader: Arc<dyn LogReader>,
    pub(crate) store: Arc<Store>,
}

impl Member {
    /// Joins the group of the jobs, on the topic that most tests use.
    pub(crate) fn join(log: &KafkaLog, store: &Arc<Store>, manner: Manner) -> Self {
        Self::join_with(log, store, manner, PLENTY, vec![Topic::JobLifecycle])
    }

    pub(crate) fn join_with(
        log: &KafkaLog,
        store: &Arc<Store>,
        manner: Manner,
        credits: CreditLimits,
        topics: Vec<Topic>,
    ) -> Self {
        let sink = Arc::new(Sink {
            store: Arc::clone(store),
            reader: OnceLock::new(),
            manner,
            early: Mutex::default(),
            told: Mutex::default(),
            tells_positions: std::sync::atomic::AtomicBool::new(false),
            keeps_credit: std::sync::atomic::AtomicBool::new(false),
            credit: Mutex::default(),
            records: Mutex::default(),
        });
        let pool = CreditPool::new(credits, Arc::new(GlobalCredit::default()));
        let reader = log.subscribe(Group::jobs(), topics, Arc::clone(&sink) as _, pool).unwrap();
        assert!(sink.reader.set(Arc::clone(&reader)).is_ok());
        let early = std::mem::take(&mut *locked(&sink.early));
        early.into_iter().for_each(|partition| sink.open(partition));
        Self { sink, reader, store: Arc::clone(store) }
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        locked(&self.sink.told)
    }

    /// Tells whether a partition was taken away.
    pub(crate) fn told_revoked(&self, partition: TopicPartition) -> bool {
        self.told().revoked.contains(&partition)
    }

    /// Gives the first records that were read, whole.
    pub(crate) fn records(&self) -> Vec<LogRecord> {
        locked(&self.sink.records).clone()
    }

    /// Starts a new incarnation where the store says; gives its number.
    pub(crate) fn restart(&self, partition: TopicPartition) -> Incarnation {
        self.sink.open(partition);
        Incarnation(self.store.of(partition).epoch)
    }

    /// Tells the reader what is applied from now on, as lanes do.
    pub(crate) fn tell_positions(&self) {
        self.sink.tells_positions.store(true, Ordering::SeqCst);
    }

    /// Asks how the log is from a position, as a lane does when it opens: again while the log does not answer.
    pub(crate) fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Inspection {
        // A topic that was just made may have no leader yet.
        wait_some("the log to answer", || match ask(self.reader.inspect(partition, next)) {
            Ok(inspection) => Some(inspection),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        })
    }

    /// Looks at a partition from where the store stands, as a lane does when it opens.
    pub(crate) fn look(&self, partition: TopicPartition) -> (Inspection, StartAnswer) {
        let stored = self.store.of(partition);
        let next = Some(Offset(stored.next));
        let inspection = self.inspect(partition, next);
        let answer = start_answer(next, stored.last, &inspection);
        (inspection, answer)
    }

    /// Keeps the credit of what is read from now on.
    pub(crate) fn keep_credit(&self) {
        self.sink.keeps_credit.store(true, Ordering::SeqCst);
    }

    /// Gives all credit back.
    pub(crate) fn release_credit(&self) {
        self.sink.keeps_credit.store(false, Ordering::SeqCst);
        locked(&self.sink.credit).clear();
    }

    /// Waits until so many partitions were assigned.
    pub(crate) fn wait_assigned(&self, partitions: usize) {
        wait_for("the assignment", || self.told().assigned.len() >= partitions);
    }

    /// Waits until so many records were applied by all members.
    pub(crate) fn wait_applied(&self, records: usize) {
        wait_for("the records", || self.store.applied() >= records);
    }

    pub(crate) fn close(&self) -> Result<(), LogError> {
        ask(self.reader.close())
    }
}
