//! Builds events for tests: every field has a sensible value, a test sets only what it is about.
//!
//! Promises the same event for the same calls: no clock and no randomness. Two events of different type, job
//! or sequence have different ids. Does not check what a test sets, so that it can build a broken event too;
//! [`EventBuilder::record`] and [`EventBuilder::log_record`] need one that keeps its schema.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::event::{
    AuditActionRecorded, Encoding, Event, JobCancelled, JobCompleted, JobFailed, JobMetricsRecorded,
    JobQueued, JobRunning, JobStatus, JobStatusChanged, JobSubmitted, NotificationChannel,
    NotificationOutcome, NotificationSent, Payload, SystemHealthCheck, TaccSystem, encode,
};
use crate::ids::{
    AgentName, Attempt, CorrelationId, DatasetId, EventId, JobId, Offset, ResourceId, SchedulerJobId,
    Sequence, Topic,
};
use crate::record::{LogRecord, OutgoingRecord, TimestampType};

/// When everything happens unless a test says otherwise: 2026-01-02T03:04:05.000006Z.
pub const DEFAULT_TIME: Timestamp = Timestamp::from_micros(1_767_323_045_000_006);

/// The request that everything belongs to unless a test says otherwise.
pub const DEFAULT_CORRELATION_ID: CorrelationId =
    CorrelationId(Uuid::from_u128(0x0193_a1c0_0000_7000_8000_0000_0000_00c1));

/// Builds one event.
///
/// ```
/// use horizons_actors::testkit::EventBuilder;
///
/// let event = EventBuilder::job_submitted().job("j1").user("ada").sequence(1).build();
/// assert_eq!(event.partition_key(), Some("j1"));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct EventBuilder {
    event: Event,
    /// The id a test asked for; otherwise it follows from type, job and sequence.
    event_id: Option<EventId>,
    encoding: Encoding,
}

/// Takes a text that a test wrote.
fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a test's identifier is a valid one")
}

impl EventBuilder {
    /// Starts from any payload; events of jobs are those of `job-1` with sequence 1.
    pub fn new(payload: Payload) -> Self {
        let is_job = matches!(payload.event_type().topic(), Topic::JobLifecycle | Topic::JobMetrics);
        let event = Event {
            event_id: EventId(Uuid::nil()),
            timestamp: DEFAULT_TIME,
            correlation_id: DEFAULT_CORRELATION_ID,
            user_id: id("ada"),
            job_id: is_job.then(|| id("job-1")),
            sequence: is_job.then_some(Sequence(1)),
            payload,
        };
        Self { event, event_id: None, encoding: Encoding::Json }
    }

    /// Starts a `job.submitted`.
    pub fn job_submitted() -> Self {
        Self::new(Payload::JobSubmitted(JobSubmitted {
            agent: id::<AgentName>("imaging"),
            dataset_id: id::<DatasetId>("dataset-1"),
            parameters: BTreeMap::from([("depth".to_owned(), "3".to_owned())]),
            json_parameters: BTreeSet::from(["depth".to_owned()]),
            tacc_system: TaccSystem::Local,
        }))
    }

    /// Starts a `job.queued`.
    pub fn job_queued() -> Self {
        Self::new(Payload::JobQueued(JobQueued {
            tac_job_id: id::<SchedulerJobId>("4711"),
            queued_timestamp: DEFAULT_TIME,
            attempt: Attempt(1),
        }))
    }

    /// Starts a `job.running`.
    pub fn job_running() -> Self {
        Self::new(Payload::JobRunning(JobRunning { running_timestamp: DEFAULT_TIME, attempt: Attempt(1) }))
    }

    /// Starts a `job.status_changed`.
    pub fn job_status_changed(previous_status: JobStatus, current_status: JobStatus) -> Self {
        Self::new(Payload::JobStatusChanged(JobStatusChanged {
            previous_status,
            current_status,
            status_changed_timestamp: DEFAULT_TIME,
            attempt: Attempt(1),
            will_retry: false,
        }))
    }

    /// Starts a `job.completed`.
    pub fn job_completed() -> Self {
        Self::new(Payload::JobCompleted(JobCompleted {
            execution_time_seconds: 12.5,
            completion_timestamp: DEFAULT_TIME,
            attempt: Attempt(1),
        }))
    }

    /// Starts a `job.failed`; no other attempt follows.
    pub fn job_failed() -> Self {
        Self::new(Payload::JobFailed(JobFailed {
            error_code: "exit_code".to_owned(),
            error_message: "the agent ended with exit code 3".to_owned(),
            failure_timestamp: DEFAULT_TIME,
            attempt: Attempt(1),
            will_retry: false,
        }))
    }

    /// Starts a `job.cancelled`.
    pub fn job_cancelled() -> Self {
        Self::new(Payload::JobCancelled(JobCancelled {
            cancelled_by: id("ada"),
            cancellation_reason: "no longer needed".to_owned(),
            cancellation_timestamp: DEFAULT_TIME,
            attempt: Attempt(1),
        }))
    }

    /// Starts a `job.metrics_recorded`; a sample, no summary.
    pub fn job_metrics_recorded() -> Self {
        Self::new(Payload::JobMetricsRecorded(JobMetricsRecorded {
            cpu_usage_percent: 87.5,
            memory_usage_mb: 512.25,
            io_operations: 1024,
            execution_time_seconds: 1.5,
            attempt: Attempt(1),
            summary: false,
        }))
    }

    /// Starts a `notification.sent`.
    pub fn notification_sent() -> Self {
        Self::new(Payload::NotificationSent(NotificationSent {
            channel: NotificationChannel::Email,
            recipient: "user:ada".to_owned(),
            outcome: NotificationOutcome::Sent,
        }))
    }

    /// Starts an `audit.action_recorded`.
    pub fn audit_action_recorded() -> Self {
        let mut changes = Map::new();
        changes.insert("status".to_owned(), json!({ "from": "RUNNING", "to": "CANCELLED" }));
        Self::new(Payload::AuditActionRecorded(AuditActionRecorded {
            action: "job.cancel".to_owned(),
            resource_id: id::<ResourceId>("job-1"),
            user_id: id("ada"),
            changes,
        }))
    }

    /// Starts a `system.health_check`.
    pub fn system_health_check() -> Self {
        Self::new(Payload::SystemHealthCheck(SystemHealthCheck {
            broker_count: 1,
            topic_count: 5,
            consumer_lag: 42,
            error_rate: 0.125,
        }))
    }

    /// Starts one of each type, in the order of [`EventType::ALL`](crate::event::EventType::ALL).
    pub fn one_of_each() -> Vec<Self> {
        vec![
            Self::job_submitted(),
            Self::job_queued(),
            Self::job_running(),
            Self::job_status_changed(JobStatus::Submitted, JobStatus::Queued),
            Self::job_completed(),
            Self::job_failed(),
            Self::job_cancelled(),
            Self::job_metrics_recorded(),
            Self::notification_sent(),
            Self::audit_action_recorded(),
            Self::system_health_check(),
        ]
    }

    /// Sets the job.
    pub fn job(mut self, job_id: &str) -> Self {
        self.event.job_id = Some(id(job_id));
        self
    }

    /// Sets who initiated it.
    pub fn user(mut self, user_id: &str) -> Self {
        self.event.user_id = id(user_id);
        self
    }

    /// Sets the number in the job's events on the topic.
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.event.sequence = Some(Sequence(sequence));
        self
    }

    /// Sets the event's id, for example to make a duplicate.
    pub fn event_id(mut self, event_id: EventId) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// Sets the request it belongs to.
    pub fn correlation(mut self, correlation_id: CorrelationId) -> Self {
        self.event.correlation_id = correlation_id;
        self
    }

    /// Sets when the event was made and when what it tells of happened.
    pub fn at(mut self, time: Timestamp) -> Self {
        self.event.timestamp = time;
        match &mut self.event.payload {
            Payload::JobQueued(queued) => queued.queued_timestamp = time,
            Payload::JobRunning(running) => running.running_timestamp = time,
            Payload::JobStatusChanged(changed) => changed.status_changed_timestamp = time,
            Payload::JobCompleted(completed) => completed.completion_timestamp = time,
            Payload::JobFailed(failed) => failed.failure_timestamp = time,
            Payload::JobCancelled(cancelled) => cancelled.cancellation_timestamp = time,
            Payload::JobSubmitted(_)
            | Payload::JobMetricsRecorded(_)
            | Payload::NotificationSent(_)
            | Payload::AuditActionRecorded(_)
            | Payload::SystemHealthCheck(_) => {}
        }
        self
    }

    /// Sets the attempt, where the type has one.
    pub fn attempt(mut self, number: u32) -> Self {
        match &mut self.event.payload {
            Payload::JobQueued(JobQueued { attempt, .. })
            | Payload::JobRunning(JobRunning { attempt, .. })
            | Payload::JobStatusChanged(JobStatusChanged { attempt, .. })
            | Payload::JobCompleted(JobCompleted { attempt, .. })
            | Payload::JobFailed(JobFailed { attempt, .. })
            | Payload::JobCancelled(JobCancelled { attempt, .. })
            | Payload::JobMetricsRecorded(JobMetricsRecorded { attempt, .. }) => *attempt = Attempt(number),
            Payload::JobSubmitted(_)
            | Payload::NotificationSent(_)
            | Payload::AuditActionRecorded(_)
            | Payload::SystemHealthCheck(_) => {}
        }
        self
    }

    /// Says that another attempt follows, where the type can.
    pub fn retried(mut self) -> Self {
        if let Payload::JobStatusChanged(JobStatusChanged { will_retry, .. })
        | Payload::JobFailed(JobFailed { will_retry, .. }) = &mut self.event.payload
        {
            *will_retry = true;
        }
        self
    }

    /// Says that these are the attempt's totals, where the type can.
    pub fn summary(mut self) -> Self {
        if let Payload::JobMetricsRecorded(metrics) = &mut self.event.payload {
            metrics.summary = true;
        }
        self
    }

    /// Changes anything else of the event.
    pub fn change(mut self, change: impl FnOnce(&mut Event)) -> Self {
        change(&mut self.event);
        self
    }

    /// Sets how records are written; JSON unless said otherwise.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Gives the event.
    pub fn build(&self) -> Event {
        let event_id = self.event_id.unwrap_or_else(|| self.default_event_id());
        Event { event_id, ..self.event.clone() }
    }

    /// Gives the record as it goes into the log.
    pub fn record(&self) -> OutgoingRecord {
        encode(&self.build(), self.encoding).expect("the built event keeps its schema")
    }

    /// Gives the record as a consumer finds it.
    pub fn log_record(&self, offset: u64) -> LogRecord {
        let record = self.record();
        LogRecord {
            offset: Offset(offset),
            timestamp: record.timestamp,
            timestamp_type: TimestampType::CreateTime,
            key: record.key,
            headers: record.headers,
            payload: record.payload,
        }
    }

    fn default_event_id(&self) -> EventId {
        let event = &self.event;
        let job_id = event.job_id.as_ref().map_or("", JobId::as_str);
        let name = format!("{}/{job_id}/{:?}", event.payload.event_type(), event.sequence);
        let digest: [u8; 32] = Sha256::digest(name).into();
        let mut bytes = [0; 16];
        for (byte, from) in bytes.iter_mut().zip(digest) {
            *byte = from;
        }
        EventId(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}
