//! An in-process publisher for tests: events go into a [`MemoryStore`]'s log as any producer's would.
//!
//! Promises that a batch is published whole or not at all, in one transaction, and that what breaks its
//! schema is never published. Checks no transitions: a test may publish an illegal one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::event::EventBuilder;
use super::{MemoryStore, SimulatedLog, locked};
use crate::clock::Clock;
use crate::event::{EncodeError, Encoding, Event, JobStatus, Payload, encode};
use crate::ids::{
    Attempt, CorrelationId, Group, JobId, LogTopic, Offset, Sequence, Topic, TopicPartition, UserId,
};
use crate::latency::LatencyRecorder;
use crate::ports::store::{AppendedAt, JobStore, StoreError};
use crate::record::OutgoingRecord;

/// Tells why something was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The test asked for this failure; nothing was published.
    #[error("publish failed as scripted")]
    Scripted,
    /// The event breaks its schema or is too large.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PublishError {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        match self {
            PublishError::Scripted => true,
            PublishError::Encode(_) => false,
            PublishError::Store(error) => error.is_transient(),
        }
    }
}

/// What was published so far.
#[derive(Debug, Default)]
struct Published {
    counts: BTreeMap<Topic, u64>,
    scripted_failures: usize,
    failures: u64,
    latencies: LatencyRecorder,
}

/// Publishes for tests; clones share it.
///
/// ```
/// use std::sync::Arc;
/// use horizons_actors::clock::Timestamp;
/// use horizons_actors::ids::Topic;
/// use horizons_actors::testkit::{Capture, ManualClock, MemoryStore, Publisher};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// let store = MemoryStore::new();
/// let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000)));
/// let capture = Capture::of(Arc::new(store.clone()), clock.clone());
/// let publisher = Publisher::new(store, clock);
///
/// let mut job = publisher.job("j1", "ada");
/// job.submit().await.unwrap();
/// job.queue().await.unwrap();
/// job.run().await.unwrap();
/// job.metrics(100).await.unwrap();
/// job.complete().await.unwrap();
///
/// assert_eq!(publisher.count(Topic::JobLifecycle), 7);
/// capture.all().of_job("j1").of_topic(Topic::JobMetrics).assert_count(100);
/// # });
/// ```
#[derive(Clone)]
pub struct Publisher {
    store: MemoryStore,
    clock: Arc<dyn Clock>,
    encoding: Encoding,
    published: Arc<Mutex<Published>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("published", &self.published).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Makes a publisher that writes JSON; the clock stamps the events of driven jobs.
    pub fn new(store: MemoryStore, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, encoding: Encoding::Json, published: Arc::default() }
    }

    /// Writes with another encoding from now on.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Publishes one event.
    ///
    /// *Errors*: [`PublishError`]; nothing is published then.
    pub async fn publish(&self, event: &Event) -> Result<AppendedAt, PublishError> {
        let appended = self.publish_batch(std::slice::from_ref(event)).await?;
        Ok(appended.into_iter().next().expect("one place is answered per record"))
    }

    /// Publishes a batch in one transaction.
    ///
    /// *Errors*: [`PublishError`]; nothing is published then.
    pub async fn publish_batch(&self, events: &[Event]) -> Result<Vec<AppendedAt>, PublishError> {
        let encoded: Result<Vec<_>, _> = events.iter().map(|event| encode(event, self.encoding)).collect();
        match encoded {
            Ok(records) => self.publish_records(records).await,
            Err(error) => {
                locked(&self.published).failures += 1;
                Err(error.into())
            }
        }
    }

    /// Publishes records as they are: this is how poison gets in.
    ///
    /// *Errors*: [`PublishError`]; nothing is published then.
    pub async fn publish_records(
        &self,
        records: Vec<OutgoingRecord>,
    ) -> Result<Vec<AppendedAt>, PublishError> {
        self.fail_as_scripted()?;
        let mut counts: BTreeMap<Topic, usize> = BTreeMap::new();
        for record in &records {
            if let LogTopic::Record(topic) = record.topic {
                *counts.entry(topic).or_default() += 1;
            }
        }

        let started = Instant::now();
        let answer = self.store.append_records(records, Vec::new()).await;

        let mut published = locked(&self.published);
        if answer.is_err() {
            published.failures += 1;
        } else {
            for (topic, count) in counts {
                *published.counts.entry(topic).or_default() += count as u64;
                published.latencies.record_batch(topic, count, started.elapsed());
            }
        }
        Ok(answer?)
    }

    fn fail_as_scripted(&self) -> Result<(), PublishError> {
        let mut published = locked(&self.published);
        if published.scripted_failures == 0 {
            return Ok(());
        }
        published.scripted_failures -= 1;
        published.failures += 1;
        Err(PublishError::Scripted)
    }

    /// Makes the next calls fail as transient, before anything is published.
    pub fn fail_next(&self, calls: usize) {
        locked(&self.published).scripted_failures += calls;
    }

    /// Counts what was published to a topic.
    pub fn count(&self, topic: Topic) -> u64 {
        locked(&self.published).counts.get(&topic).copied().unwrap_or_default()
    }

    /// Counts what was published, per topic that has any.
    pub fn counts(&self) -> BTreeMap<Topic, u64> {
        locked(&self.published).counts.clone()
    }

    /// Counts the calls that failed.
    pub fn failures(&self) -> u64 {
        locked(&self.published).failures
    }

    /// Gives how long the calls took, by tokio's clock.
    pub fn latencies(&self) -> LatencyRecorder {
        locked(&self.published).latencies.clone()
    }

    /// Gives how many records a group has not told the log to be done with, per partition that it has
    /// committed or that holds records of `topics`.
    pub fn lag(&self, log: &SimulatedLog, group: &Group, topics: &[Topic]) -> BTreeMap<TopicPartition, u64> {
        let offsets = log.group_offsets(group);
        let mut lag = BTreeMap::new();
        for partition in topics.iter().copied().flat_map(Topic::all_partitions) {
            let committed = offsets.get(&partition).copied();
            let records = self.store.records(LogTopic::Record(partition.topic), partition.partition);
            if committed.is_some() || !records.is_empty() {
                let done = committed.unwrap_or(Offset(0)).0;
                lag.insert(partition, (records.len() as u64).saturating_sub(done));
            }
        }
        lag
    }

    /// Starts to drive a job through its life. Nothing is published yet.
    ///
    /// # Panics
    ///
    /// When a text is no identifier.
    pub fn job(&self, job_id: &str, user_id: &str) -> DrivenJob {
        let submitted = EventBuilder::job_submitted().job(job_id).build();
        DrivenJob {
            publisher: self.clone(),
            job_id: JobId::parse(job_id).expect("a test's job id is a valid one"),
            user_id: UserId::parse(user_id).expect("a test's user id is a valid one"),
            // Another job has another submit event, so this tells jobs apart and repeats itself.
            correlation_id: CorrelationId(submitted.event_id.0),
            status: JobStatus::Submitted,
            attempt: Attempt(1),
            lifecycle_sequence: Sequence(0),
            metrics_sequence: Sequence(0),
            events: Vec::new(),
        }
    }
}

/// A job whose events a test publishes step by step, as the orchestrator would.
///
/// Each transition publishes `job.status_changed` and the typed event together; creation is no transition. A
/// step that fails to publish changes nothing, so it can be repeated.
#[derive(Debug, Clone)]
pub struct DrivenJob {
    publisher: Publisher,
    job_id: JobId,
    user_id: UserId,
    correlation_id: CorrelationId,
    status: JobStatus,
    attempt: Attempt,
    lifecycle_sequence: Sequence,
    metrics_sequence: Sequence,
    events: Vec<Event>,
}

impl DrivenJob {
    /// Gives the job.
    pub const fn job_id(&self) -> &JobId {
        &self.job_id
    }

    /// Gives what all its events carry to follow the request.
    pub const fn correlation_id(&self) -> CorrelationId {
        self.correlation_id
    }

    /// Gives its status, as published.
    pub const fn status(&self) -> JobStatus {
        self.status
    }

    /// Gives its attempt.
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Gives every event that was published for it, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Publishes `job.submitted`.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn submit(&mut self) -> Result<(), PublishError> {
        let submitted = self.finish_event(EventBuilder::job_submitted(), self.lifecycle_sequence.following());
        self.publish(vec![submitted]).await
    }

    /// Publishes that the scheduler accepted an attempt; after a failure this is the next attempt.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn queue(&mut self) -> Result<(), PublishError> {
        let attempt = match self.status {
            JobStatus::Failed => self.attempt.following(),
            _ => self.attempt,
        };
        self.enter(JobStatus::Queued, attempt, EventBuilder::job_queued()).await
    }

    /// Publishes that the attempt runs.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn run(&mut self) -> Result<(), PublishError> {
        self.enter(JobStatus::Running, self.attempt, EventBuilder::job_running()).await
    }

    /// Publishes so many samples in one batch.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn metrics(&mut self, samples: usize) -> Result<(), PublishError> {
        let mut events = Vec::with_capacity(samples);
        let mut sequence = self.metrics_sequence;
        for _ in 0..samples {
            sequence = sequence.following();
            let sample = EventBuilder::job_metrics_recorded().attempt(self.attempt.0);
            events.push(self.finish_event(sample, sequence));
        }
        self.publish(events).await
    }

    /// Publishes the attempt's totals.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn summary(&mut self) -> Result<(), PublishError> {
        let builder = EventBuilder::job_metrics_recorded().attempt(self.attempt.0).summary();
        let summary = self.finish_event(builder, self.metrics_sequence.following());
        self.publish(vec![summary]).await
    }

    /// Publishes that the attempt ended well.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn complete(&mut self) -> Result<(), PublishError> {
        self.enter(JobStatus::Completed, self.attempt, EventBuilder::job_completed()).await
    }

    /// Publishes that the attempt ended badly and no other follows.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn fail(&mut self) -> Result<(), PublishError> {
        self.enter(JobStatus::Failed, self.attempt, EventBuilder::job_failed()).await
    }

    /// Publishes that the attempt ended badly and another follows.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn fail_and_retry(&mut self) -> Result<(), PublishError> {
        self.enter(JobStatus::Failed, self.attempt, EventBuilder::job_failed().retried()).await
    }

    /// Publishes that the job was cancelled by its user.
    ///
    /// *Errors*: [`PublishError`].
    pub async fn cancel(&mut self) -> Result<(), PublishError> {
        let user_id = self.user_id.clone();
        let cancelled = EventBuilder::job_cancelled().change(|event| {
            if let Payload::JobCancelled(cancelled) = &mut event.payload {
                cancelled.cancelled_by = user_id;
            }
        });
        self.enter(JobStatus::Cancelled, self.attempt, cancelled).await
    }

    /// Publishes the pair of events of a transition.
    async fn enter(
        &mut self,
        status: JobStatus,
        attempt: Attempt,
        typed: EventBuilder,
    ) -> Result<(), PublishError> {
        let is_retried = matches!(typed.build().payload, Payload::JobFailed(failed) if failed.will_retry);
        let mut changed = EventBuilder::job_status_changed(self.status, status);
        if is_retried {
            changed = changed.retried();
        }
        let first = self.lifecycle_sequence.following();
        let changed = self.finish_event(changed.attempt(attempt.0), first);
        let typed = self.finish_event(typed.attempt(attempt.0), first.following());

        self.publish(vec![changed, typed]).await?;

        self.status = status;
        self.attempt = attempt;
        Ok(())
    }

    fn finish_event(&self, builder: EventBuilder, sequence: Sequence) -> Event {
        builder
            .job(self.job_id.as_str())
            .user(self.user_id.as_str())
            .correlation(self.correlation_id)
            .sequence(sequence.0)
            .at(self.publisher.clock.now())
            .build()
    }

    async fn publish(&mut self, events: Vec<Event>) -> Result<(), PublishError> {
        self.publisher.publish_batch(&events).await?;
        for event in &events {
            let counter = match event.topic() {
                Topic::JobMetrics => &mut self.metrics_sequence,
                _ => &mut self.lifecycle_sequence,
            };
            *counter = counter.following();
        }
        self.events.extend(events);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
