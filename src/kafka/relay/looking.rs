//! Looking in Kafka for rows that were sent already, on a thread of its own: it waits for brokers.
//!
//! Promises an answer to every request, and that one topic that does not answer holds the others up for
//! [`WATERMARK_LIMIT`] a partition at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use horizons_actors::heartbeat;
use horizons_actors::ids::Offset;
use horizons_actors::lane::guard::guard;
use horizons_actors::ports::outbox::{OutboxPartition, OutboxStore, WantedRows};
use horizons_actors::ports::store::StoreError;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset as KafkaOffset, TopicPartitionList};

use super::inbox::Inbox;
use super::matcher::Matcher;
use super::refusal::Refusal;
use super::wire::Identity;
use crate::kafka::error::is_unreadable;
use crate::kafka::names::topic_name;
use crate::kafka::record::record_of;

/// How long a partition's leader may take to tell the partition's end.
const WATERMARK_LIMIT: Duration = Duration::from_millis(1_500);

/// How long reading may go without a record before it is given up and tried again later.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// How often records are read that cannot be, before they count as not there.
const UNREADABLE_READS: u32 = 3;

/// How many rows are read from the store at a time, to be compared.
const COMPARED_ROWS: usize = 256;

/// How many bytes of rows are read at a time.
const COMPARED_BYTES: usize = 4 << 20;

/// A partition to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct LookRequest {
    pub(super) partition: OutboxPartition,
    /// The first row that may be there.
    pub(super) from: Offset,
    /// Where in Kafka to begin; none means that nothing can be there yet.
    pub(super) tail: Option<Offset>,
    /// Comes back with the answer.
    pub(super) round: u64,
}

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct LookAnswer {
    pub(super) request: LookRequest,
    pub(super) outcome: Result<Found, LookError>,
}

/// Where sending goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The first row that is not in Kafka.
    pub(super) next: Offset,
    /// The place behind the last one that is.
    pub(super) tail: Offset,
}

/// Why a look failed. Each is tried again.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LookError {
    /// Kafka did not answer, or said no.
    #[error("failed to look at the end of the topic: {0}")]
    Kafka(#[from] KafkaError),
    /// The store did not.
    #[error("failed to read rows to compare: {0}")]
    Store(#[from] StoreError),
    /// Nothing came, and no end either.
    #[error("failed to read the end of the topic: nothing came for {0:?}")]
    Silence(Duration),
    /// The code panicked.
    #[error("looking panicked: {0}")]
    Panicked(String),
}

impl LookError {
    /// Gives the label under which it is counted.
    pub(super) fn label(&self) -> &'static str {
        match self {
            LookError::Kafka(error) => Refusal::of_error(error).label(),
            LookError::Store(_) | LookError::Silence(_) | LookError::Panicked(_) => "transient",
        }
    }
}

/// How long a look may take before the thread counts as stuck: each of its requests has a limit, for every partition.
const LOOK_LIMIT: Duration = Duration::from_secs(600);

/// What the thread needs.
pub(super) struct Looker {
    pub(super) store: Arc<dyn OutboxStore>,
    pub(super) client: ClientConfig,
    pub(super) topic_prefix: String,
    pub(super) inbox: Arc<Inbox>,
}

/// The thread, which ends when this is dropped.
pub(super) struct Looking {
    requests: Option<Sender<Vec<LookRequest>>>,
    /// Ended by the dropped sender; not waited for, as it may be waiting for a broker.
    _thread: JoinHandle<()>,
}

impl Looking {
    /// Starts the thread.
    pub(super) fn start(looker: Looker) -> std::io::Result<Self> {
        let (requests, taken) = channel();
        let thread =
            std::thread::Builder::new().name("relay-look".to_owned()).spawn(move || looker.work(&taken))?;
        Ok(Self { requests: Some(requests), _thread: thread })
    }

    /// Asks for looks; the answers go to the inbox.
    pub(super) fn ask(&self, requests: Vec<LookRequest>) {
        if let Some(sender) = &self.requests {
            // The thread ends only when this is dropped: its loop catches panics.
            let _asked = sender.send(requests);
        }
    }
}

impl Looker {
    fn work(&self, requests: &Receiver<Vec<LookRequest>>) {
        let heartbeat = heartbeat::register("relay-look");
        let next = || {
            heartbeat.waits("requests");
            let requests = requests.recv();
            heartbeat.works_at_most("a look", LOOK_LIMIT);
            requests
        };
        while let Ok(requests) = next() {
            let mut topics: BTreeMap<_, Vec<LookRequest>> = BTreeMap::new();
            for request in requests {
                topics.entry(request.partition.topic).or_default().push(request);
            }
            for (topic, requests) in topics {
                let name = topic_name(&self.topic_prefix, topic);
                let answers = guard(|| self.look(&name, &requests)).unwrap_or_else(|panic| {
                    let failed = |request: &LookRequest| LookAnswer {
                        request: *request,
                        outcome: Err(LookError::Panicked(panic.to_string())),
                    };
                    requests.iter().map(failed).collect()
                });
                self.inbox.looked(answers);
            }
        }
    }

    /// Looks at partitions of one topic: one, because the client tells the end of a partition without its topic.
    fn look(&self, topic: &str, requests: &[LookRequest]) -> Vec<LookAnswer> {
        let consumer = match self.consumer() {
            Ok(consumer) => consumer,
            Err(error) => return failed(requests, &error),
        };
        let mut answers = Vec::with_capacity(requests.len());
        let mut readings = BTreeMap::new();
        for request in requests {
            let number = i32::from(request.partition.partition.0);
            let outcome = match consumer.fetch_watermarks(topic, number, WATERMARK_LIMIT) {
                Err(error) => Err(error.into()),
                Ok((low, high)) => {
                    let (low, high) = (low.max(0).cast_unsigned(), high.max(0).cast_unsigned());
                    match request.tail {
                        None => Ok(Found { next: request.from, tail: Offset(high) }),
                        Some(tail) if tail.0 == high => Ok(Found { next: request.from, tail }),
                        Some(tail) => {
                            // A topic that ends before our place is not the one we wrote to: all of it counts.
                            let begin = if tail.0 > high { low } else { tail.0.max(low) };
                            let matcher = Matcher::new(request.from, Offset(begin));
                            readings.insert(number, Reading { request: *request, matcher, begin, end: high });
                            continue;
                        }
                    }
                }
            };
            answers.push(LookAnswer { request: *request, outcome });
        }
        answers.extend(self.read(&consumer, topic, readings));
        answers
    }

    /// Reads partitions to their ends.
    fn read(
        &self,
        consumer: &BaseConsumer,
        topic: &str,
        mut readings: BTreeMap<i32, Reading>,
    ) -> Vec<LookAnswer> {
        let mut answers = Vec::with_capacity(readings.len());
        let mut places = TopicPartitionList::with_capacity(readings.len());
        for (number, reading) in &readings {
            let at = KafkaOffset::Offset(reading.begin.cast_signed());
            if let Err(error) = places.add_partition_offset(topic, *number, at) {
                return failed_readings(readings, &error);
            }
        }
        if readings.is_empty() {
            return answers;
        }
        if let Err(error) = consumer.assign(&places) {
            return failed_readings(readings, &error);
        }
        let mut heard = Instant::now();
        let mut unreadable = 0;
        while !readings.is_empty() {
            if heard.elapsed() >= SILENCE_LIMIT {
                break;
            }
            let ended = match consumer.poll(Duration::from_millis(100)) {
                None => continue,
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let number = message.partition();
                    let Some(reading) = readings.get_mut(&number) else { continue };
                    match reading.see(self.store.as_ref(), &message) {
                        Ok(true) => number,
                        Ok(false) => continue,
                        Err(error) => {
                            if let Some(reading) = readings.remove(&number) {
                                answers.push(reading.answer(Err(error)));
                            }
                            continue;
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(number))) => number,
                Some(Err(error)) => {
                    tracing::debug!(%error, topic, "reading the end of a topic met an error");
                    if error.rdkafka_error_code().is_some_and(is_unreadable) {
                        unreadable += 1;
                        if unreadable < UNREADABLE_READS {
                            // What was left out would count as not there, and be sent again: it is read again first.
                            readings.values_mut().for_each(Reading::begin_again);
                            if let Err(error) = consumer.assign(&places) {
                                answers.extend(failed_readings(readings, &error));
                                return answers;
                            }
                        }
                        continue;
                    }
                    if Refusal::of_error(&error).label() == "transient" {
                        continue;
                    }
                    answers.extend(failed_readings(readings, &error));
                    return answers;
                }
            };
            if let Some(reading) = readings.remove(&ended) {
                let (next, tail) = reading.matcher.found();
                answers.push(reading.answer(Ok(Found { next, tail })));
            }
        }
        if unreadable >= UNREADABLE_READS {
            // Nobody can read those records: they are sent again, behind what is there.
            tracing::warn!(topic, "records at the end of a topic cannot be read: they count as not sent");
            answers.extend(readings.into_values().map(Reading::answer_unread));
            return answers;
        }
        let silent =
            readings.into_values().map(|reading| reading.answer(Err(LookError::Silence(SILENCE_LIMIT))));
        answers.extend(silent);
        answers
    }

    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        let mut config = self.client.clone();
        config
            // Assigned by hand and never committed: the name only has to be one.
            .set("group.id", "horizons-relay-look")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            // What an aborted transaction of another producer left is somebody else's in any case.
            .set("isolation.level", "read_uncommitted")
            .set("fetch.wait.max.ms", "10")
            .set("check.crcs", "true");
        config.create()
    }
}

/// One partition while it is read.
struct Reading {
    request: LookRequest,
    matcher: Matcher,
    begin: u64,
    end: u64,
}

impl Reading {
    /// Takes a record; tells whether the end is reached.
    fn see(&mut self, store: &dyn OutboxStore, message: &BorrowedMessage<'_>) -> Result<bool, LookError> {
        if let Some(from) = self.matcher.wants_rows_from() {
            let wanted = WantedRows { partition: self.request.partition, from, limit: COMPARED_ROWS };
            for rows in store.read_outbox(&[wanted], COMPARED_BYTES)? {
                self.matcher.expect(rows.rows.iter().map(Identity::of));
            }
        }
        let at = Offset(message.offset().max(0).cast_unsigned());
        if let Some(record) = record_of(message) {
            self.matcher.see(at, &Identity::of(&record));
        }
        Ok(at.0 + 1 >= self.end)
    }

    /// Forgets what was read.
    fn begin_again(&mut self) {
        self.matcher = Matcher::new(self.request.from, Offset(self.begin));
    }

    /// Answers with what was found before records that cannot be read.
    fn answer_unread(self) -> LookAnswer {
        let (next, tail) = self.matcher.found();
        let tail = tail.max(Offset(self.end));
        self.answer(Ok(Found { next, tail }))
    }

    fn answer(self, outcome: Result<Found, LookError>) -> LookAnswer {
        LookAnswer { request: self.request, outcome }
    }
}

fn failed(requests: &[LookRequest], error: &KafkaError) -> Vec<LookAnswer> {
    let answer = |request: &LookRequest| LookAnswer { request: *request, outcome: Err(error.clone().into()) };
    requests.iter().map(answer).collect()
}

fn failed_readings(readings: BTreeMap<i32, Reading>, error: &KafkaError) -> Vec<LookAnswer> {
    readings.into_values().map(|reading| reading.answer(Err(error.clone().into()))).collect()
}
