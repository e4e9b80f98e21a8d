//! The idempotent producer: records to explicit partitions, and what became of each.
//!
//! Promises that whatever it took is answered exactly once, by an acknowledgement or a failure, also when it is
//! dropped; and that it never waits: what it cannot take is handed back. Order within a partition is the
//! order of the calls as long as nothing failed; after a failure the caller makes another producer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::{ClientContext, Message};

/// The largest record that any topic takes, dead letters and what the protocol adds included.
pub const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// How batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4: cheap.
    Lz4,
    /// Zstandard: smaller, for more processor time.
    Zstd,
}

impl Compression {
    /// Gives the name that configurations use.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// What the producer may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerConfig {
    /// How long a batch waits for more records. Kept small: while requests are in flight, batches form anyway.
    pub linger: Duration,
    /// How batches are compressed.
    pub compression: Compression,
    /// The largest record that any topic takes, with what the protocol adds.
    pub max_message_bytes: usize,
    /// How many records it may hold; the caller counts them too and stays below.
    pub max_records: usize,
    /// How many bytes it may hold; the caller counts them too and stays below.
    pub max_bytes: usize,
}

/// Requests in flight to one broker: the most for which the protocol keeps an idempotent producer's order.
const REQUESTS_IN_FLIGHT: u32 = 5;

/// What the producer's queues may hold above what the caller counts, so that its own limit never meets first.
const QUEUE_ROOM: usize = 2;

impl ProducerConfig {
    /// Adds what makes a producer idempotent, patient and prompt to a client's configuration.
    ///
    /// *Source*: librdkafka's `CONFIGURATION.md`; `message.timeout.ms=0` is no limit: a record is given up by
    /// nobody but its owner.
    fn apply(&self, client: &ClientConfig) -> ClientConfig {
        let mut config = client.clone();
        let linger_ms = self.linger.as_micros() as f64 / 1_000.0;
        let max_kbytes =
            self.max_bytes.saturating_mul(QUEUE_ROOM).div_ceil(1_024).clamp(1_024, 2_000_000_000);
        config
            .set("enable.idempotence", "true")
            // Without this the client itself goes on behind a batch that was refused for good, under a new
            // epoch: seen against a topic with a small limit, a later record stood before the refused one.
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", REQUESTS_IN_FLIGHT.to_string())
            .set("message.timeout.ms", "0")
            .set("retry.backoff.ms", "50")
            .set("retry.backoff.max.ms", "1000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("linger.ms", linger_ms.to_string())
            .set("compression.type", self.compression.name())
            .set("message.max.bytes", self.max_message_bytes.to_string())
            .set("queue.buffering.max.messages", self.max_records.saturating_mul(QUEUE_ROOM).to_string())
            .set("queue.buffering.max.kbytes", max_kbytes.to_string())
            // New topics and leaders are found soon, also while nothing else asks.
            .set("topic.metadata.refresh.fast.interval.ms", "100");
        config
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The number that the caller gave it.
    pub ticket: usize,
    /// Its offset in Kafka, or why it is not there (or not known to be).
    pub outcome: Result<u64, KafkaError>,
}

/// Who is told what became of records, on the producer's own thread.
pub trait DeliverySink: Send + Sync + 'static {
    /// Takes one answer; must not block.
    fn delivered(&self, delivery: Delivery);

    /// Takes an error of the client as a whole, such as a broker that cannot be reached.
    fn client_error(&self, error: KafkaError, reason: &str);
}

/// Hands the client's callbacks on.
struct Context {
    sink: Arc<dyn DeliverySink>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        self.sink.client_error(error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let outcome = match result {
            // An acknowledged record has an offset; the client's -1 would mean that it was not told.
            Ok(message) => u64::try_from(message.offset())
                .map_err(|_| KafkaError::MessageProduction(RDKafkaErrorCode::BadMessage)),
            Err((error, _message)) => Err(error.clone()),
        };
        self.sink.delivered(Delivery { ticket, outcome });
    }
}

/// A record as it is handed over.
#[derive(Debug, Clone)]
pub struct ProducedRecord<'a> {
    /// The topic's name in Kafka.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// Milliseconds.
    pub timestamp_ms: i64,
    /// The key, null apart from empty.
    pub key: Option<&'a [u8]>,
    /// The payload, null apart from empty.
    pub payload: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: OwnedHeaders,
    /// Comes back with the answer.
    pub ticket: usize,
}

/// Adds a header.
pub fn with_header(headers: OwnedHeaders, name: &str, value: Option<&[u8]>) -> OwnedHeaders {
    headers.insert(Header { key: name, value })
}

/// A producer with a thread of its own that takes the answers.
pub struct IdempotentProducer {
    inner: ThreadedProducer<Context>,
}

impl fmt::Debug for IdempotentProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotentProducer").finish_non_exhaustive()
    }
}

impl IdempotentProducer {
    /// Makes a producer; it connects by itself, now or whenever a broker is there.
    ///
    /// *Errors*: when the configuration is refused or no thread can be started.
    pub fn new(
        client: &ClientConfig,
        config: &ProducerConfig,
        sink: Arc<dyn DeliverySink>,
    ) -> KafkaResult<Self> {
        let inner = ThreadedProducer::from_config_and_context(&config.apply(client), Context { sink })?;
        Ok(Self { inner })
    }

    /// Hands a record over. An answer follows unless this fails.
    ///
    /// *Errors*: the client's; `QueueFull` when it holds as much as it may.
    pub fn send(&self, record: ProducedRecord<'_>) -> KafkaResult<()> {
        let ProducedRecord { topic, partition, timestamp_ms, key, payload, headers, ticket } = record;
        let mut sent = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, ticket)
            .partition(partition)
            .timestamp(timestamp_ms)
            .headers(headers);
        sent.key = key;
        sent.payload = payload;
        self.inner.send(sent).map_err(|(error, _record)| error)
    }

    /// Gives up what is not on its way to a broker; the answers say so.
    pub fn purge_queue(&self) {
        self.inner.purge(PurgeConfig::default().queue());
    }

    /// Tells the fatal error, if there is one: such a producer never sends again.
    pub fn fatal_error(&self) -> Option<String> {
        self.inner.client().fatal_error().map(|(code, text)| format!("{code}: {text}"))
    }
}
