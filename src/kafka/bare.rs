//! The bare client: what this cluster gives and takes when nothing is done with the records, as a limit to
//! compare a real consumer with (`benches/README.md`).
//!
//! Promises the settings of a group's own client, and records that are only borrowed. The calls block.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use horizons_actors::ids::{LogTopic, TopicPartition};
use horizons_actors::record::OutgoingRecord;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaErrorCode;

use super::config::KafkaConfig;
use super::error::KafkaLogError;
use super::names::{TopicNames, topic_name};
use super::producer::{
    Compression, Delivery, DeliverySink, IdempotentProducer, MESSAGE_MAX_BYTES, ProducedRecord,
    ProducerConfig, with_header,
};
use super::topics::end_of;

/// How long nothing may move before a call is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(100);

/// How long the filler waits when the producer is full.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// What a filler keeps in flight.
const IN_FLIGHT: (usize, usize) = (100_000, 64 << 20);

fn stalled(config: &KafkaConfig) -> KafkaLogError {
    KafkaLogError::Unreachable { bootstrap: config.bootstrap.clone(), within: STALL_LIMIT }
}

/// Counts what was acknowledged.
#[derive(Default)]
struct Acknowledged {
    records: AtomicU64,
    failed: Mutex<Option<KafkaError>>,
}

impl DeliverySink for Acknowledged {
    fn delivered(&self, delivery: Delivery) {
        match delivery.outcome {
            Ok(_) => drop(self.records.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    fn client_error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the producer reports an error");
    }
}

/// Writes records to topics as fast as they are taken.
pub struct Filler {
    config: KafkaConfig,
    producer: IdempotentProducer,
    acknowledged: Arc<Acknowledged>,
    sent: u64,
}

impl Filler {
    /// Makes a producer; records wait for one another up to `linger`.
    pub fn new(config: &KafkaConfig, linger: Duration) -> Result<Self, KafkaLogError> {
        let settings = ProducerConfig {
            linger,
            compression: Compression::None,
            max_message_bytes: MESSAGE_MAX_BYTES,
            max_records: IN_FLIGHT.0,
            max_bytes: IN_FLIGHT.1,
        };
        let acknowledged = Arc::<Acknowledged>::default();
        let producer =
            IdempotentProducer::new(&config.client("bare"), &settings, Arc::clone(&acknowledged) as _)
                .map_err(KafkaLogError::Client)?;
        Ok(Self { config: config.clone(), producer, acknowledged, sent: 0 })
    }

    /// Hands a record over, waiting while the producer is full.
    pub fn send(&mut self, record: &OutgoingRecord) -> Result<(), KafkaLogError> {
        let topic = topic_name(&self.config.topic_prefix, record.topic);
        let mut headers = OwnedHeaders::new();
        for (name, value) in record.headers.iter() {
            headers = with_header(headers, &String::from_utf8_lossy(name), value);
        }
        let deadline = Instant::now() + STALL_LIMIT;
        loop {
            let sent = self.producer.send(ProducedRecord {
                topic: &topic,
                partition: i32::from(record.partition.0),
                timestamp_ms: record.timestamp.as_millis(),
                key: record.key.as_deref(),
                payload: record.payload.as_deref(),
                headers: headers.clone(),
                ticket: 0,
            });
            match sent {
                Ok(()) => break,
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    if Instant::now() > deadline {
                        return Err(stalled(&self.config));
                    }
                    std::thread::park_timeout(FULL_WAIT);
                }
                Err(source) => return Err(KafkaLogError::Request { operation: "send a record", source }),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits until everything is acknowledged.
    pub fn finish(self) -> Result<(), KafkaLogError> {
        let mut seen = (0, Instant::now());
        loop {
            let failed = self.acknowledged.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(source) = failed {
                return Err(KafkaLogError::Request { operation: "write a record", source });
            }
            let records = self.acknowledged.records.load(Ordering::Relaxed);
            if records == self.sent {
                return Ok(());
            }
            if records != seen.0 {
                seen = (records, Instant::now());
            }
            if seen.1.elapsed() > STALL_LIMIT {
                return Err(stalled(&self.config));
            }
            std::thread::park_timeout(FULL_WAIT);
        }
    }
}

/// What a bare loop has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BareRead {
    /// Records.
    pub records: u64,
    /// Bytes of their keys and payloads.
    pub bytes: u64,
    /// From the assignment to the last record.
    pub time: Duration,
}

/// Makes a consumer with the settings of a group's client, which is connected and knows the topics, but is a
/// member of no group.
fn consumer(config: &KafkaConfig, partitions: &[TopicPartition]) -> Result<BaseConsumer, KafkaLogError> {
    let names = TopicNames::new(&config.topic_prefix)?;
    let settings = KafkaConfig { group_instance_id: None, ..config.clone() }.member("bare");
    let consumer = BaseConsumer::from_config(&settings).map_err(KafkaLogError::Client)?;
    for partition in partitions {
        end_of(consumer.client(), names.name(partition.topic), partition.partition, config)?;
    }
    Ok(consumer)
}

fn assign(
    config: &KafkaConfig,
    consumer: &BaseConsumer,
    partitions: &[TopicPartition],
    from: KafkaOffset,
) -> Result<(), KafkaLogError> {
    let names = TopicNames::new(&config.topic_prefix)?;
    let list = names.list(partitions.iter().map(|partition| (*partition, from)));
    consumer.assign(&list).map_err(|source| KafkaLogError::Request { operation: "assign", source })
}

/// Reads so many records of some partitions from their beginning in a loop of polls that only borrows them.
pub fn read(
    config: &KafkaConfig,
    partitions: &[TopicPartition],
    wanted: u64,
) -> Result<BareRead, KafkaLogError> {
    let consumer = consumer(config, partitions)?;
    let mut read = BareRead::default();
    let start = Instant::now();
    let mut moved_at = start;
    assign(config, &consumer, partitions, KafkaOffset::Offset(0))?;
    while read.records < wanted {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                read.records += 1;
                let bytes = message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
                read.bytes += bytes as u64;
            }
            Some(Err(source)) => return Err(KafkaLogError::Request { operation: "read", source }),
            None if moved_at.elapsed() > STALL_LIMIT => return Err(stalled(config)),
            None => continue,
        }
        if read.records.is_multiple_of(1024) {
            moved_at = Instant::now();
        }
    }
    read.time = start.elapsed();
    Ok(read)
}

/// Sends records at fixed times, whatever becomes of those before, and reads them back; gives how long each took
/// from its time to the poll that returned it.
pub fn round_trips(
    config: &KafkaConfig,
    records: &[OutgoingRecord],
    interval: Duration,
) -> Result<Vec<Duration>, KafkaLogError> {
    let mut partitions: Vec<TopicPartition> = records
        .iter()
        .filter_map(|record| match record.topic {
            LogTopic::Record(topic) => Some(TopicPartition { topic, partition: record.partition }),
            LogTopic::DeadLetter(_) => None,
        })
        .collect();
    partitions.sort_unstable();
    partitions.dedup();
    let consumer = consumer(config, &partitions)?;
    assign(config, &consumer, &partitions, KafkaOffset::End)?;
    // An assignment at the end is one only after the client has asked where that is.
    let settled = Instant::now() + Duration::from_millis(500);
    while Instant::now() < settled {
        drop(consumer.poll(POLL));
    }
    let names = TopicNames::new(&config.topic_prefix)?;
    // The times of each partition's records, in order.
    let start = Instant::now() + POLL;
    let mut due = std::collections::HashMap::<TopicPartition, std::collections::VecDeque<Instant>>::new();
    for (number, record) in (0_u32..).zip(records) {
        if let LogTopic::Record(topic) = record.topic {
            let partition = TopicPartition { topic, partition: record.partition };
            due.entry(partition).or_default().push_back(start + interval * number);
        }
    }
    let mut filler = Filler::new(config, Duration::ZERO)?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            for (number, record) in (0_u32..).zip(records) {
                wait_until(start + interval * number);
                filler.send(record)?;
            }
            filler.finish()
        });
        let mut taken = Vec::with_capacity(records.len());
        let mut moved_at = Instant::now();
        while taken.len() < records.len() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    moved_at = Instant::now();
                    let partition = names.find(message.topic(), message.partition());
                    if let Some(at) = partition
                        .and_then(|one| due.get_mut(&one))
                        .and_then(std::collections::VecDeque::pop_front)
                    {
                        taken.push(moved_at.saturating_duration_since(at));
                    }
                }
                Some(Err(source)) => return Err(KafkaLogError::Request { operation: "read", source }),
                None if moved_at.elapsed() > STALL_LIMIT => return Err(stalled(config)),
                None => {}
            }
        }
        sender.join().map_err(|_| stalled(config))??;
        Ok(taken)
    })
}

/// Waits for a time without spinning.
pub fn wait_until(at: Instant) {
    while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
