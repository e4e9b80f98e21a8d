//! Verification against a store in memory, with a verifier whose hash a person can follow.

use std::sync::Arc;

use bytes::Bytes;
use horizons_actors::clock::Timestamp;
use horizons_actors::effect::TimelineEntry;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::{Group, Offset};
use horizons_actors::ports::Reply;
use horizons_actors::ports::query::{
    AuditPage, DeadLetterId, JobFilter, LaneProgress, QueryStore, StoreUsage, StoredDeadLetter,
    StoredParkedKey, StoredRefusal,
};
use horizons_actors::ports::store::JobRow;
use horizons_actors::record::{Digest32, Headers, LogRecord, TimestampType};
use horizons_actors::state::{AuditLogState, AuditSegment, JobAggregate, JobView};

use super::*;

/// Entries that one read of the store in memory gives, less than is asked for.
const PAGE: usize = 3;

const LOG: TopicPartition = TopicPartition { topic: Topic::AuditTrail, partition: Partition(1) };

/// A store that holds one audit log.
#[derive(Clone)]
struct OneLog {
    entries: Vec<StoredAuditEntry>,
    state: AuditLogState,
}

fn reply<T: Send + 'static>(value: T) -> Reply<T, StoreError> {
    Box::pin(async move { Ok(value) })
}

impl QueryStore for OneLog {
    fn audit_entries(&self, filter: AuditFilter) -> Reply<AuditPage, StoreError> {
        let rest =
            self.entries.iter().filter(|entry| filter.after.is_none_or(|after| entry.position > after));
        let entries: Vec<_> = rest.take(filter.limit.min(PAGE)).cloned().collect();
        let last = entries.last().map(|entry| entry.position);
        let next = last.filter(|last| self.entries.iter().any(|entry| entry.position > *last));
        reply(AuditPage { entries, next })
    }

    fn audit_logs(&self) -> Reply<Vec<(TopicPartition, AuditLogState)>, StoreError> {
        reply(vec![(LOG, self.state.clone())])
    }

    fn jobs(&self, _: JobFilter) -> Reply<Vec<JobRow>, StoreError> {
        reply(Vec::new())
    }

    fn job(&self, _: JobId) -> Reply<Option<JobRow>, StoreError> {
        reply(None)
    }

    fn job_view(&self, _: JobId) -> Reply<Option<JobView>, StoreError> {
        reply(None)
    }

    fn live_job_views(&self, _: Option<JobId>, _: usize) -> Reply<Vec<JobView>, StoreError> {
        reply(Vec::new())
    }

    fn timeline(&self, _: JobId, _: usize) -> Reply<Vec<TimelineEntry>, StoreError> {
        reply(Vec::new())
    }

    fn refusals(&self, _: JobId, _: usize) -> Reply<Vec<StoredRefusal>, StoreError> {
        reply(Vec::new())
    }

    fn aggregates(&self, _: JobId) -> Reply<Vec<JobAggregate>, StoreError> {
        reply(Vec::new())
    }

    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError> {
        reply(Vec::new())
    }

    fn dead_letters(
        &self,
        _: Option<Group>,
        _: Option<DeadLetterId>,
        _: usize,
    ) -> Reply<Vec<StoredDeadLetter>, StoreError> {
        reply(Vec::new())
    }

    fn parked_keys(&self, _: usize) -> Reply<Vec<StoredParkedKey>, StoreError> {
        reply(Vec::new())
    }

    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError> {
        reply(Vec::new())
    }

    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError> {
        reply(Vec::new())
    }

    fn usage(&self) -> Reply<StoreUsage, StoreError> {
        reply(StoreUsage { used_bytes: 0, limit_bytes: 0 })
    }
}

/// Sums the payloads' lengths into the first byte of the chain: enough to tell records apart.
struct SumVerifier {
    sum: u8,
}

impl LogVerifier for SumVerifier {
    fn check(&mut self, entry: &StoredAuditEntry) -> Result<(), VerifyFinding> {
        self.sum += payload_length(entry);
        if entry.chain_hash == chain(self.sum) {
            Ok(())
        } else {
            Err(VerifyFinding("chain differs".to_owned()))
        }
    }

    fn finish(self: Box<Self>, end: &LogEnd) -> Result<(), VerifyFinding> {
        if end.chain_head == chain(self.sum) { Ok(()) } else { Err(VerifyFinding("head differs".to_owned())) }
    }
}

fn payload_length(entry: &StoredAuditEntry) -> u8 {
    let payload = entry.record.as_ref().and_then(|record| record.payload.as_ref());
    u8::try_from(payload.unwrap().len()).unwrap()
}

fn chain(sum: u8) -> Digest32 {
    [sum; 32]
}

/// Makes a sound log of `size` entries.
fn sound(size: u8) -> OneLog {
    let entry = |index: u8| StoredAuditEntry {
        position: AuditPosition { topic_partition: LOG, index: u64::from(index) },
        leaf_hash: [0; 32],
        chain_hash: chain((0..=index).sum()),
        mark: "event".to_owned(),
        appended_at: Timestamp::from_millis(5),
        record: Some(LogRecord {
            offset: Offset(u64::from(index)),
            timestamp: Timestamp::from_millis(4),
            timestamp_type: TimestampType::CreateTime,
            key: None,
            headers: Headers::none(),
            payload: Some(Bytes::from(vec![b'x'; usize::from(index)])),
        }),
    };
    OneLog {
        entries: (0..size).map(entry).collect(),
        state: AuditLogState {
            size: u64::from(size),
            chain_head: chain((0..size).sum()),
            frontier: Vec::new(),
            last_offset: None,
            segment: AuditSegment {
                number: 0,
                first_index: 0,
                opened_at: Timestamp::from_millis(1),
                closed: None,
            },
        },
    }
}

/// Verifies a log and gives its result.
fn verified(log: OneLog) -> LogResult {
    let source = Source::Store(OpenedStore { store: Arc::new(log), log_id: LogId::parse("log-1").unwrap() });
    let mut results = converse(verify(&source, |_, _| Box::new(SumVerifier { sum: 0 }))).unwrap();
    results.remove(0)
}

#[test]
fn verify_sound_log_reads_every_page() {
    let result = verified(sound(10));

    assert_eq!(result, LogResult { topic_partition: LOG, entries: 10, finding: None });
}

#[test]
fn verify_empty_log_is_sound() {
    let result = verified(sound(0));

    assert_eq!(result, LogResult { topic_partition: LOG, entries: 0, finding: None });
}

#[test]
fn verify_edited_record_names_its_index() {
    let mut log = sound(10);
    log.entries[7].record.as_mut().unwrap().payload = Some(Bytes::from_static(b"y"));

    let result = verified(log);

    assert_eq!(result.finding.as_deref(), Some("index 7: chain differs"));
}

#[test]
fn verify_missing_entry_names_its_index() {
    let mut log = sound(10);
    log.entries.remove(4);

    let result = verified(log);

    assert_eq!(result.finding.as_deref(), Some("index 4: wanted this entry next, got audit-trail-1:5"));
}

#[test]
fn verify_truncated_log_is_found() {
    let mut log = sound(10);
    log.entries.truncate(8);

    let result = verified(log);

    assert_eq!(result.finding.as_deref(), Some("wanted 10 entries, got 8: the log was truncated"));
}

#[test]
fn verify_grown_log_stops_at_its_claimed_size() {
    let mut log = sound(10);
    log.state = sound(8).state;

    let result = verified(log);

    assert_eq!(result, LogResult { topic_partition: LOG, entries: 8, finding: None });
}

#[test]
fn verify_wrong_head_is_found() {
    let mut log = sound(10);
    log.state.chain_head = chain(1);

    let result = verified(log);

    assert_eq!(result.finding.as_deref(), Some("head differs"));
}

#[test]
fn position_cursor_survives_text() {
    let position = AuditPosition { topic_partition: LOG, index: 12 };

    assert_eq!(parse_position("audit-trail-1:12").unwrap(), position);
    for text in ["", "audit-trail-1", "audit-trail:12", "nope-1:12", "audit-trail-1:x"] {
        assert_eq!(parse_position(text).unwrap_err().exit, Exit::Usage, "{text}");
    }
}

#[test]
fn log_claim_from_json_reads_every_field() {
    let head = "ab".repeat(32);
    let row =
        json!({"topic": "audit-trail", "partition": 1, "size": 3, "chain_head": head, "frontier": [head]});

    let (topic_partition, end) = log_from_json(&row).unwrap();

    assert_eq!(topic_partition, LOG);
    assert_eq!(end, LogEnd { size: 3, chain_head: [0xab; 32], frontier: Some(vec![[0xab; 32]]) });
}
