//! Records, verdicts and whole audit logs for the auditor's tests.

use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::leaf::Leaf;
use super::{Auditor, empty_log};
use crate::clock::Timestamp;
use crate::effect::{AuditEntry, AuditMark, Effects, Timer, TimerId};
use crate::event::{Event, Payload, SystemHealthCheck};
use crate::ids::{
    CorrelationId, EventId, Group, LaneKey, LogId, Offset, Partition, Topic, TopicPartition, UserId,
};
use crate::lane::behaviour::{Behaviour, Entry, Verdict, Workspace};
use crate::ports::query::{AuditPosition, StoredAuditEntry};
use crate::record::{Headers, LogRecord, TimestampType};
use crate::rejection::Rejection;
use crate::state::{AuditLogState, StateKey, StateValue};

/// Noon of the day on which the tests' logs begin.
pub(super) const NOON: Timestamp = Timestamp::from_millis(1_772_366_400_000);

/// An hour, in the unit of [`Timestamp`].
const HOUR_MICROS: i64 = 3_600_000_000;

pub(super) fn hours_later(hours: i64) -> Timestamp {
    Timestamp::from_micros(NOON.as_micros() + hours * HOUR_MICROS)
}

/// The log of the tests.
pub(super) fn log_id() -> LogId {
    LogId::parse("log").unwrap()
}

/// The partition of the tests.
pub(super) fn topic_partition() -> TopicPartition {
    TopicPartition { topic: Topic::JobLifecycle, partition: Partition(2) }
}

/// The lane of the tests.
pub(super) fn lane() -> LaneKey {
    LaneKey { group: Group::audit_trail(), topic_partition: topic_partition() }
}

pub(super) fn record(offset: u64, key: Option<&[u8]>, payload: Option<&[u8]>) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        timestamp: Timestamp::from_millis(1),
        timestamp_type: TimestampType::CreateTime,
        key: key.map(Bytes::copy_from_slice),
        headers: Headers::none(),
        payload: payload.map(Bytes::copy_from_slice),
    }
}

pub(super) fn leaf(offset: u64, key: Option<&[u8]>, payload: Option<&[u8]>) -> Leaf {
    Leaf { log_id: log_id(), topic_partition: topic_partition(), record: record(offset, key, payload) }
}

fn event() -> Event {
    Event {
        event_id: EventId(Uuid::from_u128(1)),
        timestamp: NOON,
        correlation_id: CorrelationId(Uuid::from_u128(2)),
        user_id: UserId::parse("user").unwrap(),
        job_id: None,
        sequence: None,
        payload: Payload::SystemHealthCheck(SystemHealthCheck {
            broker_count: 1,
            topic_count: 5,
            consumer_lag: 0,
            error_rate: 0.0,
        }),
    }
}

pub(super) fn event_verdict() -> Verdict {
    Verdict::Event(event())
}

pub(super) fn duplicate_verdict() -> Verdict {
    Verdict::Duplicate(event())
}

pub(super) fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(event_verdict()),
        1 => Just(duplicate_verdict()),
        1 => Just(Verdict::Rejected(Rejection::PayloadMissing)),
        1 => Just(Verdict::Rejected(Rejection::UnknownType { got: "x".to_owned() })),
    ]
}

pub(super) fn any_mark() -> impl Strategy<Value = AuditMark> {
    prop_oneof![
        Just(AuditMark::Event),
        Just(AuditMark::Duplicate),
        Just(AuditMark::WrongPartition),
        prop::sample::select(Rejection::NAMES.to_vec()).prop_map(AuditMark::Malformed),
    ]
}

/// Few values, so that pairs are often equal or nearly so.
fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    prop_oneof![
        Just(None),
        Just(Some(Bytes::new())),
        prop::collection::vec(0..3u8, 0..4).prop_map(|bytes| Some(Bytes::from(bytes))),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Some(Bytes::from(bytes))),
    ]
}

fn any_headers() -> impl Strategy<Value = Headers> {
    let header = (prop::collection::vec(any::<u8>(), 0..8), any_bytes());
    prop::collection::vec(header, 0..3).prop_map(|headers| {
        Headers::new(headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())))
    })
}

pub(super) fn any_record() -> impl Strategy<Value = LogRecord> {
    let time = (prop_oneof![Just(0), Just(1), any::<i64>()], any::<bool>());
    (prop_oneof![0..3u64, any::<u64>()], time, any_bytes(), any_headers(), any_bytes()).prop_map(
        |(offset, (micros, is_create_time), key, headers, payload)| LogRecord {
            offset: Offset(offset),
            timestamp: Timestamp::from_micros(micros),
            timestamp_type: if is_create_time {
                TimestampType::CreateTime
            } else {
                TimestampType::AppendTime
            },
            key,
            headers,
            payload,
        },
    )
}

pub(super) fn any_leaf() -> impl Strategy<Value = Leaf> {
    let place = ("[ab]{1,2}", prop::sample::select(Topic::ALL.to_vec()), 0..3u16);
    (place, any_record()).prop_map(|((log_id, topic, partition), record)| Leaf {
        log_id: LogId::parse(&log_id).unwrap(),
        topic_partition: TopicPartition { topic, partition: Partition(partition) },
        record,
    })
}

/// A lane's auditor with what a store would keep for it.
pub(super) struct Kept {
    pub(super) auditor: Auditor,
    pub(super) state: HashMap<StateKey, StateValue>,
    pub(super) entries: Vec<StoredAuditEntry>,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { auditor: Auditor::new(), state: HashMap::new(), entries: Vec::new() }
    }

    /// Runs a batch and keeps what it writes; gives its other effects.
    pub(super) fn apply(&mut self, batch: &[Entry], now: Timestamp) -> Effects {
        let (log_id, lane) = (log_id(), lane());
        let mut work = Workspace::new(&log_id, &lane, now, &self.state);
        for entry in batch {
            self.auditor.apply(entry, &mut work);
        }
        self.auditor.finish(&mut work);
        let (effects, _) = work.finish();
        self.keep(effects)
    }

    /// Lets a timer fall due and keeps what it writes; gives its other effects.
    pub(super) fn tick(&mut self, kind: &str, now: Timestamp) -> Effects {
        let (log_id, lane) = (log_id(), lane());
        let timer = Timer { id: TimerId { kind: kind.to_owned(), key: String::new() }, due_at: now };
        let mut work = Workspace::new(&log_id, &lane, now, &self.state);
        self.auditor.tick(&timer, &mut work);
        let (effects, _) = work.finish();
        self.keep(effects)
    }

    /// Keeps the states and entries of effects.
    fn keep(&mut self, mut effects: Effects) -> Effects {
        self.state.extend(effects.states.drain(..));
        self.entries.extend(effects.audit_entries.iter().map(stored));
        effects
    }

    pub(super) fn log(&self) -> AuditLogState {
        match self.state.get(&StateKey::AuditLog) {
            Some(StateValue::AuditLog(log)) => log.clone(),
            _ => empty_log(NOON),
        }
    }
}

fn stored(entry: &AuditEntry) -> StoredAuditEntry {
    StoredAuditEntry {
        position: AuditPosition {
            topic_partition: topic_partition(),
            generation: Default::default(),
            index: entry.index,
        },
        leaf_hash: entry.leaf_hash,
        chain_hash: entry.chain_hash,
        mark: entry.mark.to_stored(),
        appended_at: entry.appended_at,
        record: Some(entry.record.clone()),
    }
}

/// A log of so many entries, appended in batches of five within three days; offsets have holes.
pub(super) fn generated_log(verdicts: Vec<Verdict>) -> (Vec<StoredAuditEntry>, AuditLogState) {
    let entries: Vec<Entry> = verdicts
        .into_iter()
        .zip(0u64..)
        .map(|(verdict, number)| {
            let payload = format!("payload {number}");
            Entry { record: record(number * 3, Some(b"job"), Some(payload.as_bytes())), verdict }
        })
        .collect();
    let mut kept = Kept::new();
    for (batch, number) in entries.chunks(5).zip(0i64..) {
        kept.apply(batch, Timestamp::from_micros(NOON.as_micros() + number * 17_000_000_000));
    }
    let log = kept.log();
    (kept.entries, log)
}
