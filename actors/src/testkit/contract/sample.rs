//! Values that the contract writes.

use bytes::Bytes;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::command::{Command, CommandKind, ParkedKeyId, Principal};
use crate::effect::{AuditEntry, AuditMark, DeadLetter, Effects, ParkedKey, ParkedRecord, Refusal};
use crate::event::{EventType, JobStatus, TaccSystem};
use crate::ids::{
    Attempt, CommandId, CorrelationId, EventId, Group, JobId, LaneKey, LogTopic, Offset, Partition,
    ProcessId, Sequence, Topic, TopicPartition,
};
use crate::layout::Layout;
use crate::ports::store::{
    Fence, JobExpectation, JobRow, JobWrite, LaneCommitted, LaneOpened, LaneTransaction, OutgoingEvent,
};
use crate::record::{Headers, LogRecord, OutgoingRecord, TimestampType};
use crate::rejection::Rejection;
use crate::state::{AuditLogState, AuditSegment, JobHome, StateKey, StateValue};
use crate::testkit::EventBuilder;

/// Takes a text that the contract wrote.
pub fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("the contract's identifiers are valid")
}

/// The process that the contract's lanes are opened by, where it does not matter.
pub const PROCESS: ProcessId = ProcessId(Uuid::from_u128(1));

/// Gives a time, in seconds.
pub const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
}

/// Names a partition.
pub const fn partition(topic: Topic, number: u16) -> TopicPartition {
    TopicPartition { topic, partition: Partition(number) }
}

/// Names a lane of the jobs group.
pub fn jobs_lane(number: u16) -> LaneKey {
    LaneKey { group: Group::jobs(), topic_partition: partition(Topic::JobLifecycle, number) }
}

/// Names a lane of the auditor.
pub fn auditor_lane(topic: Topic, number: u16) -> LaneKey {
    LaneKey { group: Group::audit_trail(), topic_partition: partition(topic, number) }
}

/// A lane as its incarnation believes it to be.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The lane.
    pub lane: LaneKey,
    /// The fence of the next transaction.
    pub fence: Fence,
    /// The position.
    pub next: Option<Offset>,
}

impl Owner {
    /// Takes what opening answered.
    pub fn new(lane: LaneKey, opened: &LaneOpened) -> Self {
        Self { lane, fence: opened.fence, next: opened.next }
    }

    /// Gives a transaction that moves on by one record.
    pub fn step(&self, effects: Effects) -> LaneTransaction {
        let next = self.next.map_or(Offset(1), Offset::following);
        LaneTransaction {
            lane: self.lane.clone(),
            fence: self.fence,
            from: self.next,
            next,
            last_fingerprint: None,
            now: at(0),
            effects,
        }
    }

    /// Takes what a step was answered.
    pub fn stepped(&mut self, committed: &LaneCommitted) {
        self.fence = committed.fence;
        self.next = Some(self.next.map_or(Offset(1), Offset::following));
    }
}

/// Makes a record as the log holds it.
pub fn log_record(offset: u64, key: Option<&str>, payload: &str) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        timestamp: at(1),
        timestamp_type: TimestampType::CreateTime,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::new([(b"event_type".as_slice(), Some(b"job.running".as_slice()))]),
        payload: Some(Bytes::copy_from_slice(payload.as_bytes())),
    }
}

/// Makes a record on its way into the log.
pub fn outgoing(to: TopicPartition, payload: &str) -> OutgoingRecord {
    OutgoingRecord {
        topic: LogTopic::Record(to.topic),
        partition: to.partition,
        timestamp: at(1),
        key: Some(Bytes::from_static(b"key")),
        headers: Headers::none(),
        payload: Some(Bytes::copy_from_slice(payload.as_bytes())),
    }
}

/// Reads the text of a payload.
pub fn text(record: &LogRecord) -> String {
    String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default()).into_owned()
}

/// Makes a rejection.
pub fn rejection(detail: &str) -> Rejection {
    Rejection::MalformedBytes { detail: detail.to_owned() }
}

/// Makes the effects that park a key behind a poison record.
pub fn parking(key: &str, offset: u64) -> Effects {
    let record = log_record(offset, Some(key), "poison");
    Effects {
        dead_letters: vec![DeadLetter {
            record: record.clone(),
            rejection: rejection("broken"),
            is_parked: true,
            rejected_at: at(2),
        }],
        keys_parked: vec![ParkedKey {
            key: Bytes::copy_from_slice(key.as_bytes()),
            head: Offset(offset),
            rejection: rejection("broken"),
            parked_at: at(2),
        }],
        records_parked: vec![parked(key, record)],
        ..Effects::default()
    }
}

/// Makes a parked record.
pub fn parked(key: &str, record: LogRecord) -> ParkedRecord {
    ParkedRecord { key: Bytes::copy_from_slice(key.as_bytes()), record, parked_at: at(2) }
}

/// Names a parked key.
pub fn parked_key(lane: &LaneKey, key: &str) -> ParkedKeyId {
    ParkedKeyId { lane: lane.clone(), key: Bytes::copy_from_slice(key.as_bytes()) }
}

/// Makes a refusal.
pub fn refusal(job_id: &str, offset: u64) -> Refusal {
    Refusal {
        offset: Offset(offset),
        event_id: EventId(Uuid::from_u128(u128::from(offset))),
        job_id: Some(id(job_id)),
        event_type: EventType::JobRunning,
        reason: "illegal_transition",
        detail: "with\0nul".to_owned(),
        refused_at: at(3),
    }
}

/// Makes audit entries of keyed records with the state of their log after them.
pub fn audit(first: u64, keys: &[&str]) -> Effects {
    let mut effects = Effects::default();
    for (index, key) in (first..).zip(keys) {
        effects.audit_entries.push(AuditEntry {
            index,
            leaf_hash: [u8::try_from(index % 251).unwrap_or_default(); 32],
            chain_hash: [7; 32],
            mark: AuditMark::Event,
            appended_at: at(4),
            record: log_record(index, Some(key), &format!("payload {index}")),
        });
    }
    let size = first + keys.len() as u64;
    effects.states.push((
        StateKey::AuditLog,
        StateValue::AuditLog(AuditLogState {
            size,
            chain_head: [7; 32],
            frontier: vec![[u8::try_from(size % 251).unwrap_or_default(); 32]; size.count_ones() as usize],
            last_offset: size.checked_sub(1).map(Offset),
            segment: AuditSegment { number: 0, first_index: 0, opened_at: at(0), closed: None },
        }),
    ));
    effects
}

/// Makes a job that was just submitted.
pub fn job(job_id: &str, submitted_at: Timestamp) -> JobRow {
    JobRow {
        job_id: id(job_id),
        user_id: id("ada"),
        agent: id("imaging"),
        dataset_id: id("dataset-1"),
        parameters: r#"{"depth":3}"#.to_owned(),
        tacc_system: TaccSystem::Local,
        home: JobHome::by(&id(job_id), Layout::first_of),
        correlation_id: CorrelationId(Uuid::from_u128(9)),
        status: JobStatus::Submitted,
        attempt: Attempt(1),
        will_retry: false,
        lifecycle_sequence: Sequence(1),
        metrics_sequence: Sequence(0),
        scheduler_job_id: None,
        samples_published: 0,
        cancel: None,
        failure: None,
        execution_time_seconds: None,
        submitted_at,
        updated_at: submitted_at,
    }
}

/// Makes the lifecycle event of a job's sequence.
pub fn lifecycle_event(job_id: &JobId, sequence: Sequence) -> OutgoingEvent {
    let builder = EventBuilder::job_running().job(job_id.as_str()).sequence(sequence.0);
    OutgoingEvent { event: builder.build(), record: builder.record() }
}

/// Makes a write that changes nothing but the row.
pub fn write(expectation: JobExpectation, row: JobRow) -> JobWrite {
    JobWrite {
        expectation,
        row,
        events: Vec::new(),
        orders: Vec::new(),
        answered: Vec::new(),
        idempotency: None,
    }
}

/// Makes the submit of a job, with its event.
pub fn submit(row: JobRow) -> JobWrite {
    let events = vec![lifecycle_event(&row.job_id, row.lifecycle_sequence)];
    JobWrite { events, ..write(JobExpectation::New, row) }
}

/// Makes the next change of a job, with its event.
pub fn change(before: &JobRow, status: JobStatus) -> JobWrite {
    let mut row = before.clone();
    row.status = status;
    row.lifecycle_sequence = before.lifecycle_sequence.following();
    let expectation =
        JobExpectation::Sequences { lifecycle: before.lifecycle_sequence, metrics: before.metrics_sequence };
    JobWrite { events: vec![lifecycle_event(&row.job_id, row.lifecycle_sequence)], ..write(expectation, row) }
}

/// Makes an operator's command about a parked key.
pub fn release(key: &ParkedKeyId) -> Command {
    Command {
        command_id: CommandId(Uuid::from_u128(77)),
        correlation_id: CorrelationId(Uuid::from_u128(78)),
        principal: Principal { user_id: id("operator") },
        reason: None,
        idempotency_key: None,
        requested_at: at(5),
        kind: CommandKind::ReleaseKey(key.clone()),
    }
}
