//! Keeps everything that is published, to filter it and to assert about it.
//!
//! Promises that records are captured when they are committed, in commit order (within one transaction by
//! topic, partition and offset), and decoded by the function that every consumer uses. Does not see
//! dead-letter topics. Reading a
//! [`MemoryStore`](super::MemoryStore) counts as a read for its scripted faults; what could not be read is
//! read when it is asked for next.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::locked;
use crate::clock::{Clock, Timestamp};
use crate::event::{Event, EventType, decode};
use crate::ids::{CorrelationId, JobId, Offset, Topic, TopicPartition, UserId};
use crate::ports::log::RecordSource;
use crate::record::LogRecord;
use crate::rejection::Rejection;

/// Records that are read at once.
const READ_RECORDS: usize = 1_000;

/// A record that was published.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedRecord {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The record.
    pub record: LogRecord,
    /// What it says, or why it is poison.
    pub event: Result<Event, Rejection>,
    /// When it was captured: right after its commit.
    pub captured_at: Timestamp,
}

impl CapturedRecord {
    /// Gives how long it took from the record's timestamp to its commit.
    pub fn latency(&self) -> Duration {
        self.captured_at.since(self.record.timestamp)
    }

    fn event(&self) -> Option<&Event> {
        self.event.as_ref().ok()
    }
}

impl std::fmt::Display for CapturedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.topic_partition, self.record.offset)?;
        match &self.event {
            Ok(event) => {
                write!(f, " {}", event.payload.event_type())?;
                if let Some(job_id) = &event.job_id {
                    write!(f, " job={job_id}")?;
                }
                if let Some(sequence) = event.sequence {
                    write!(f, " sequence={sequence}")?;
                }
                write!(f, " user={} correlation={}", event.user_id, event.correlation_id)?;
            }
            Err(rejection) => write!(f, " poison: {rejection}")?,
        }
        write!(f, " after {:?}", self.latency())
    }
}

#[derive(Default)]
struct Taken {
    records: Vec<CapturedRecord>,
    positions: HashMap<TopicPartition, Offset>,
}

struct Shared {
    source: Arc<dyn RecordSource>,
    clock: Arc<dyn Clock>,
    taken: Mutex<Taken>,
}

impl Shared {
    /// Takes in what was appended since the last time.
    fn catch_up(&self) {
        let heads = self.source.heads();
        let mut taken = locked(&self.taken);
        let Taken { records, positions } = &mut *taken;
        for topic_partition in Topic::ALL.into_iter().flat_map(Topic::all_partitions) {
            let position = positions.entry(topic_partition).or_default();
            while *position < heads.end(topic_partition) {
                let read = self.source.read(topic_partition, *position, READ_RECORDS, usize::MAX);
                let read = read.unwrap_or_default();
                let Some(last) = read.last() else { break };
                *position = last.offset.following();
                records.extend(read.into_iter().map(|record| CapturedRecord {
                    topic_partition,
                    event: decode(topic_partition.topic, &record),
                    record,
                    captured_at: self.clock.now(),
                }));
            }
        }
    }
}

/// Captures what is published to any [`RecordSource`]; clones share it.
#[derive(Clone)]
pub struct Capture {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}

impl Capture {
    /// Captures everything in the source, and whatever comes.
    pub fn of(source: Arc<dyn RecordSource>, clock: Arc<dyn Clock>) -> Self {
        let heads = source.heads();
        let shared = Arc::new(Shared { source, clock, taken: Mutex::default() });
        shared.catch_up();
        let listening = Arc::downgrade(&shared);
        heads.on_advance(move || {
            if let Some(shared) = listening.upgrade() {
                shared.catch_up();
            }
        });
        Self { shared }
    }

    /// Gives everything captured so far.
    pub fn all(&self) -> Captured {
        self.shared.catch_up();
        let records = locked(&self.shared.taken).records.clone();
        Captured { total: records.len(), records, filters: Vec::new() }
    }
}

/// Captured records that passed some filters.
#[derive(Debug, Clone)]
#[must_use]
pub struct Captured {
    records: Vec<CapturedRecord>,
    filters: Vec<String>,
    total: usize,
}

impl Captured {
    /// Keeps events of a type.
    pub fn of_type(self, event_type: EventType) -> Self {
        self.matching(format!("type `{event_type}`"), |captured| {
            captured.event().is_some_and(|event| event.payload.event_type() == event_type)
        })
    }

    /// Keeps records of a topic, poison included.
    pub fn of_topic(self, topic: Topic) -> Self {
        self.matching(format!("topic `{topic}`"), |captured| captured.topic_partition.topic == topic)
    }

    /// Keeps events that follow a request.
    pub fn of_correlation(self, correlation_id: CorrelationId) -> Self {
        self.matching(format!("correlation `{correlation_id}`"), |captured| {
            captured.event().is_some_and(|event| event.correlation_id == correlation_id)
        })
    }

    /// Keeps events that a user initiated.
    pub fn of_user(self, user_id: &str) -> Self {
        self.matching(format!("user `{user_id}`"), |captured| {
            captured.event().map(|event| UserId::as_str(&event.user_id)) == Some(user_id)
        })
    }

    /// Keeps events about a job.
    pub fn of_job(self, job_id: &str) -> Self {
        self.matching(format!("job `{job_id}`"), |captured| {
            let found = captured.event().and_then(|event| event.job_id.as_ref());
            found.map(JobId::as_str) == Some(job_id)
        })
    }

    /// Keeps poison.
    pub fn poison(self) -> Self {
        self.matching("poison".to_owned(), |captured| captured.event.is_err())
    }

    /// Keeps records that a test's own condition lets pass; the description appears in failure texts.
    pub fn matching(mut self, description: String, condition: impl Fn(&CapturedRecord) -> bool) -> Self {
        self.records.retain(|captured| condition(captured));
        self.filters.push(description);
        self
    }

    /// Gives the records.
    pub fn records(&self) -> &[CapturedRecord] {
        &self.records
    }

    /// Gives the events, without poison.
    pub fn events(&self) -> Vec<&Event> {
        self.records.iter().filter_map(CapturedRecord::event).collect()
    }

    /// Counts the records.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Asserts that there is at least one record.
    ///
    /// # Panics
    ///
    /// When there is none.
    #[track_caller]
    pub fn assert_published(&self) {
        self.assert(!self.records.is_empty(), "at least one record");
    }

    /// Asserts how many records there are.
    ///
    /// # Panics
    ///
    /// When there are more or fewer.
    #[track_caller]
    pub fn assert_count(&self, wanted: usize) {
        self.assert(self.records.len() == wanted, &format!("{wanted} records"));
    }

    /// Asserts the types of all records, in the order in which they were captured.
    ///
    /// # Panics
    ///
    /// When there are others, or in another order.
    #[track_caller]
    pub fn assert_order(&self, wanted: &[EventType]) {
        let types: Vec<EventType> =
            self.events().into_iter().map(|event| event.payload.event_type()).collect();
        let names: Vec<&str> = wanted.iter().map(|event_type| event_type.name()).collect();
        let is_same = types == wanted && types.len() == self.records.len();
        self.assert(is_same, &format!("exactly [{}]", names.join(", ")));
    }

    /// Asserts that each job's sequences on each topic go up by one, from wherever they start.
    ///
    /// # Panics
    ///
    /// When one is missing, doubled or out of order.
    #[track_caller]
    pub fn assert_sequences_without_holes(&self) {
        let mut last: BTreeMap<(Topic, &JobId), u64> = BTreeMap::new();
        for event in self.events() {
            let (Some(job_id), Some(sequence)) = (&event.job_id, event.sequence) else { continue };
            let before = last.insert((event.topic(), job_id), sequence.0);
            let is_next = before.is_none_or(|before| sequence.0 == before + 1);
            let wanted = before.map_or(0, |before| before + 1);
            self.assert(is_next, &format!("sequence {wanted} of job `{job_id}` instead of {sequence}"));
        }
    }

    /// Asserts that each record was committed so soon after its timestamp.
    ///
    /// # Panics
    ///
    /// When there is no record, or one took longer.
    #[track_caller]
    pub fn assert_latency_within(&self, bound: Duration) {
        self.assert_published();
        let slowest = self.records.iter().map(CapturedRecord::latency).max().unwrap_or_default();
        self.assert(slowest <= bound, &format!("every record within {bound:?} (slowest {slowest:?})"));
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion helper of the test kit fails the test")]
    fn assert(&self, is_true: bool, wanted: &str) {
        if !is_true {
            panic!("{}", self.failure_text(wanted));
        }
    }

    /// Says what was wanted, by which filters, and lists what there is.
    fn failure_text(&self, wanted: &str) -> String {
        let filters = if self.filters.is_empty() { "no filter".to_owned() } else { self.filters.join(", ") };
        let mut text =
            format!("wanted {wanted} ({filters}), got {} of {} captured:", self.records.len(), self.total);
        for captured in self.records.iter().take(FAILURE_LINES) {
            text.push_str(&format!("\n  {captured}"));
        }
        if self.records.len() > FAILURE_LINES {
            text.push_str(&format!("\n  and {} more", self.records.len() - FAILURE_LINES));
        }
        text
    }
}

/// Records that a failure text lists: enough to see a pattern, few enough to read.
const FAILURE_LINES: usize = 30;

#[cfg(test)]
mod tests;
