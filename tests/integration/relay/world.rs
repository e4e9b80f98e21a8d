//! Stores, topics, rows, and the independent checker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use horizons::db::sqlite::{SqliteConfig, SqliteStore};
use horizons::kafka::producer::{Compression, ProducerConfig};
use horizons::kafka::relay::{RelayConfig, RelayHandle, RelayMetrics, RelayParts, RelayStatus, Writers};
use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::ids::{LogTopic, Partition, Topic};
use horizons_actors::ports::outbox::{OutboxPartition, OutboxStore, RelayId};
use horizons_actors::record::{Headers, OutgoingRecord};
use horizons_actors::testkit::contract::outbox::RelayedStore;
use prometheus::Registry;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::{Message, Offset, TopicPartitionList};
use uuid::Uuid;

use crate::services::wait::{WAIT_LIMIT, wait_for};

/// Partitions that rows are spread over: those of record, and the dead letters of one topic.
pub(crate) fn places() -> Vec<OutboxPartition> {
    OutboxPartition::all()
        .filter(|place| {
            matches!(place.topic, LogTopic::Record(_) | LogTopic::DeadLetter(Topic::JobLifecycle))
        })
        .collect()
}

/// A client's least configuration.
pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", bootstrap).set("client.id", "relay-test");
    client
}

/// Runs a future to its end.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A prefix for topics that nobody else has.
pub(crate) fn new_prefix() -> String {
    format!("{}-", Uuid::new_v4().simple())
}

/// Makes every topic under a prefix.
pub(crate) fn create_topics(direct: &str, prefix: &str, replicas: i32) {
    let topics: Vec<LogTopic> = Topic::ALL
        .into_iter()
        .flat_map(|topic| [LogTopic::Record(topic), LogTopic::DeadLetter(topic)])
        .collect();
    create_some(direct, prefix, replicas, &topics, &[]);
}

/// Makes some topics with settings.
pub(crate) fn create_some(
    direct: &str,
    prefix: &str,
    replicas: i32,
    topics: &[LogTopic],
    settings: &[(&str, &str)],
) {
    let admin: AdminClient<DefaultClientContext> = client(direct).create().unwrap();
    let names: Vec<String> = topics.iter().map(|topic| format!("{prefix}{topic}")).collect();
    let wanted: Vec<NewTopic<'_>> = names
        .iter()
        .zip(topics)
        .map(|(name, topic)| {
            let partitions = i32::from(topic.source().partitions());
            let limit = if matches!(topic, LogTopic::DeadLetter(_)) { "1064972" } else { "1048588" };
            let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
            if !settings.iter().any(|(name, _)| *name == "max.message.bytes") {
                topic = topic.set("max.message.bytes", limit);
            }
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(WAIT_LIMIT));
    for made in run(admin.create_topics(&wanted, &options)).unwrap() {
        made.unwrap();
    }
}

/// A SQLite store in a folder of its own.
pub(crate) fn new_store() -> (Arc<SqliteStore>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Arc::new(SqliteStore::open(SqliteConfig::new(folder.path())).unwrap()), folder)
}

/// The number of a row as its event id.
pub(crate) fn event_id(number: u64) -> String {
    Uuid::from_u128(u128::from(number) + 1).to_string()
}

/// Row `number` for a partition.
pub(crate) fn row(place: OutboxPartition, number: u64) -> OutgoingRecord {
    let id = event_id(number);
    let payload = format!("{{\"number\":{number},\"filling\":\"{}\"}}", "x".repeat(200));
    OutgoingRecord {
        topic: place.topic,
        partition: place.partition,
        timestamp: SystemClock.now(),
        key: Some(Bytes::from(format!("key-{number}"))),
        headers: Headers::new([(b"event-id".as_slice(), Some(id.as_bytes()))]),
        payload: Some(Bytes::from(payload)),
    }
}

/// What each partition must hold: event ids in order.
pub(crate) type Expected = BTreeMap<OutboxPartition, Vec<String>>;

/// Appends rows `from..to`, spread over [`places`], and notes them.
pub(crate) fn append(store: &dyn RelayedStore, expected: &mut Expected, from: u64, to: u64) {
    let places = places();
    let numbers: Vec<u64> = (from..to).collect();
    for piece in numbers.chunks(500) {
        let rows: Vec<OutgoingRecord> = piece
            .iter()
            .map(|number| {
                let place = places[(*number % places.len() as u64) as usize];
                expected.entry(place).or_default().push(event_id(*number));
                row(place, *number)
            })
            .collect();
        run(store.append_records(rows, Vec::new())).unwrap();
    }
}

/// How a relay of the tests is set up.
pub(crate) fn relay_config(bootstrap: &str, prefix: &str) -> RelayConfig {
    RelayConfig {
        client: client(bootstrap),
        topic_prefix: prefix.to_owned(),
        producer: ProducerConfig {
            linger: Duration::ZERO,
            compression: Compression::None,
            max_message_bytes: 1_100_000,
            max_records: 50_000,
            max_bytes: 32 << 20,
        },
        lease: Duration::from_secs(2),
        writers: Writers::ThisProcess,
    }
}

/// Starts a relay and gives its metrics' registry.
pub(crate) fn start_with(store: Arc<dyn OutboxStore>, config: RelayConfig) -> (RelayHandle, Registry) {
    let registry = Registry::new();
    let parts = RelayParts {
        store,
        clock: Arc::new(SystemClock),
        metrics: RelayMetrics::register(&registry).unwrap(),
        id: RelayId(Uuid::new_v4()),
    };
    (RelayHandle::start(config, parts).unwrap(), registry)
}

/// Starts a relay.
pub(crate) fn start(store: Arc<dyn OutboxStore>, bootstrap: &str, prefix: &str) -> RelayHandle {
    start_with(store, relay_config(bootstrap, prefix)).0
}

/// Waits until the relay has nothing left to send, as its status tells.
pub(crate) fn wait_sent(store: &dyn OutboxStore, expected: &Expected) {
    wait_for("every cursor to reach its end", || is_sent(store, expected));
}

/// Whether every cursor is stored at the end of what is expected.
pub(crate) fn is_sent(store: &dyn OutboxStore, expected: &Expected) -> bool {
    let cursors = store.cursors().unwrap();
    expected.iter().all(|(place, ids)| {
        let cursor = cursors.iter().find(|cursor| cursor.partition == *place);
        cursor.is_some_and(|cursor| cursor.next.0 == ids.len() as u64)
    })
}

/// Waits until a status is such.
pub(crate) fn wait_status(relay: &RelayHandle, what: &str, mut is_such: impl FnMut(&RelayStatus) -> bool) {
    wait_for(what, || is_such(&relay.status()));
}

/// Reads everything that a partition holds.
pub(crate) fn read_partition(direct: &str, prefix: &str, place: OutboxPartition) -> Vec<OwnedMessage> {
    read(direct, prefix, &[place]).remove(&place).unwrap_or_default()
}

/// Reads everything that partitions hold, to the ends at the time of the call.
pub(crate) fn read(
    direct: &str,
    prefix: &str,
    places: &[OutboxPartition],
) -> BTreeMap<OutboxPartition, Vec<OwnedMessage>> {
    let consumer: BaseConsumer = client(direct)
        .set("group.id", "relay-test-checker")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let mut assigned = TopicPartitionList::new();
    let mut left: BTreeMap<(String, i32), i64> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for place in places {
        let (name, number) = (format!("{prefix}{}", place.topic), i32::from(place.partition.0));
        let (low, high) = consumer.fetch_watermarks(&name, number, WAIT_LIMIT).unwrap();
        names.insert((name.clone(), number), *place);
        if high > low {
            assigned.add_partition_offset(&name, number, Offset::Beginning).unwrap();
            left.insert((name, number), high);
        }
    }
    consumer.assign(&assigned).unwrap();
    let mut found: BTreeMap<OutboxPartition, Vec<OwnedMessage>> = BTreeMap::new();
    let give_up_at = std::time::Instant::now() + WAIT_LIMIT;
    while !left.is_empty() {
        assert!(std::time::Instant::now() < give_up_at, "waited too long for {left:?}");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let key = (message.topic().to_owned(), message.partition());
        if left.get(&key).is_some_and(|end| message.offset() + 1 >= *end) {
            left.remove(&key);
        }
        found.entry(names[&key]).or_default().push(message.detach());
    }
    found
}

/// Gives a header's value.
pub(crate) fn header(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8(found.value?.to_vec()).unwrap())
}

/// Holds what Kafka has against what it must have: none lost, none doubled, order kept.
pub(crate) fn check(direct: &str, prefix: &str, expected: &Expected) {
    let places: Vec<OutboxPartition> = expected.keys().copied().collect();
    let found = read(direct, prefix, &places);
    for (place, wanted) in expected {
        let ids: Vec<String> = found
            .get(place)
            .into_iter()
            .flatten()
            .filter_map(|message| header(message, "event-id"))
            .collect();
        if ids != *wanted {
            let at = ids.iter().zip(wanted).position(|(id, wanted)| id != wanted);
            panic!(
                "`{place}` holds {} records and must hold {}; the first difference is at {at:?}",
                ids.len(),
                wanted.len()
            );
        }
    }
}

/// Names a partition of record.
pub(crate) const fn place(topic: Topic, number: u16) -> OutboxPartition {
    OutboxPartition { topic: LogTopic::Record(topic), partition: Partition(number) }
}

/// Sums a metric over its labels.
pub(crate) fn metric(registry: &Registry, name: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.into_iter().flat_map(|family| family.get_metric());
    metrics
        .map(|metric| {
            let (counter, gauge) = (metric.get_counter().get_value(), metric.get_gauge().get_value());
            counter + gauge + metric.get_histogram().get_sample_count() as f64
        })
        .sum()
}
