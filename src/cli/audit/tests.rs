//! Verification against a store in memory, written by the auditor itself.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use horizons_actors::auditor::verify::Tampering;
use horizons_actors::auditor::{Auditor, empty_log};
use horizons_actors::clock::Timestamp;
use horizons_actors::effect::TimelineEntry;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::{Attempt, Group, LaneKey, LogId, Offset};
use horizons_actors::lane::behaviour::{Behaviour, Entry, Verdict, Workspace};
use horizons_actors::ports::Reply;
use horizons_actors::ports::page::Page;
use horizons_actors::ports::query::{
    AuditPage, DeadLetterId, GapPosition, HeldLane, JobFilter, LaneProgress, ListedJob, ParkedId, QueryStore,
    StoreUsage, StoredAuditLog, StoredDeadLetter, StoredGap, StoredParkedKey, StoredRefusal,
};
use horizons_actors::ports::store::JobRow;
use horizons_actors::record::{Headers, LogRecord, TimestampType};
use horizons_actors::rejection::Rejection;
use horizons_actors::state::{AuditLogState, JobAggregate, JobView, StateValue};

use super::*;
use crate::cli::audit_json::log_to_json;

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

    fn audit_logs(&self) -> Reply<Vec<StoredAuditLog>, StoreError> {
        reply(vec![stored_log(self.state.clone())])
    }

    fn gaps_after(&self, _: Option<GapPosition>, _: usize) -> Reply<Page<StoredGap>, StoreError> {
        reply(Page::default())
    }

    fn jobs(&self, _: JobFilter) -> Reply<Page<ListedJob>, StoreError> {
        reply(Page::default())
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

    fn timeline_after(&self, _: JobId, _: usize, _: usize) -> Reply<Page<TimelineEntry>, StoreError> {
        reply(Page::default())
    }

    fn refusals_after(&self, _: JobId, _: usize, _: usize) -> Reply<Page<StoredRefusal>, StoreError> {
        reply(Page::default())
    }

    fn aggregates_after(
        &self,
        _: JobId,
        _: Option<Attempt>,
        _: usize,
    ) -> Reply<Page<JobAggregate>, StoreError> {
        reply(Page::default())
    }

    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError> {
        reply(Vec::new())
    }

    fn dead_letters(
        &self,
        _: Option<Group>,
        _: Option<DeadLetterId>,
        _: usize,
    ) -> Reply<Page<StoredDeadLetter>, StoreError> {
        reply(Page::default())
    }

    fn parked_keys_after(&self, _: Option<ParkedId>, _: usize) -> Reply<Page<StoredParkedKey>, StoreError> {
        reply(Page::default())
    }

    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError> {
        reply(Vec::new())
    }

    fn held_lanes(&self) -> Reply<Vec<HeldLane>, StoreError> {
        reply(Vec::new())
    }

    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError> {
        reply(Vec::new())
    }

    fn usage(&self) -> Reply<StoreUsage, StoreError> {
        reply(StoreUsage { used_bytes: 0, limit_bytes: 0 })
    }
}

/// Makes a sound log of `size` entries, as the auditor writes it.
fn sound(size: u64) -> OneLog {
    let lane = LaneKey { group: Group::audit_trail(), topic_partition: LOG };
    let (log_id, now, nothing) = (log_id(), Timestamp::from_millis(5), HashMap::new());
    let mut work = Workspace::new(&log_id, &lane, now, &nothing);
    for offset in 0..size {
        let record = LogRecord {
            offset: Offset(offset),
            timestamp: Timestamp::from_millis(4),
            timestamp_type: TimestampType::CreateTime,
            key: None,
            headers: Headers::none(),
            payload: Some(Bytes::from(offset.to_string())),
        };
        let verdict = Verdict::Rejected(Rejection::PayloadMissing);
        Auditor::new().apply(&Entry { record, verdict }, &mut work);
    }
    Auditor::new().finish(&mut work);
    let (effects, _) = work.finish();
    let state = effects.states.into_iter().find_map(|(_, value)| match value {
        StateValue::AuditLog(state) => Some(state),
        _ => None,
    });
    let entries = effects.audit_entries.into_iter().map(|entry| StoredAuditEntry {
        position: AuditPosition { topic_partition: LOG, generation: Generation(0), index: entry.index },
        leaf_hash: entry.leaf_hash,
        chain_hash: entry.chain_hash,
        mark: entry.mark.to_stored(),
        appended_at: entry.appended_at,
        record: Some(entry.record),
    });
    OneLog { entries: entries.collect(), state: state.unwrap_or_else(|| empty_log(now)) }
}

fn stored_log(state: AuditLogState) -> StoredAuditLog {
    StoredAuditLog { topic_partition: LOG, generation: Generation(0), log_id: log_id(), state }
}

fn log_id() -> LogId {
    LogId::parse("log-1").unwrap()
}

/// Verifies a log and gives its report.
fn verified(log: OneLog) -> VerificationReport {
    let source = Source::Store(OpenedStore { store: Arc::new(log), log_id: log_id() });
    converse(verify(&source)).unwrap().remove(0)
}

/// Gives the first finding: its index and kind.
fn first_finding(log: OneLog) -> (u64, Tampering) {
    let report = verified(log);
    assert!(!report.is_intact);
    (report.findings[0].index, report.findings[0].tampering)
}

#[test]
fn verify_sound_log_reads_every_page() {
    let report = verified(sound(10));

    assert!(report.is_intact, "{report:?}");
    assert_eq!(report.entries_total, 10);
}

#[test]
fn verify_empty_log_is_sound() {
    let report = verified(sound(0));

    assert!(report.is_intact, "{report:?}");
}

#[test]
fn verify_edited_record_names_its_index() {
    let mut log = sound(10);
    log.entries[7].record.as_mut().unwrap().payload = Some(Bytes::from_static(b"y"));

    assert_eq!(first_finding(log), (7, Tampering::BodyEdited));
}

#[test]
fn verify_missing_entry_names_its_index() {
    let mut log = sound(10);
    log.entries.remove(4);

    assert_eq!(first_finding(log), (4, Tampering::EntryMissing));
}

#[test]
fn verify_truncated_log_is_found() {
    let mut log = sound(10);
    log.entries.truncate(8);

    assert_eq!(first_finding(log), (8, Tampering::LogTruncated));
}

#[test]
fn verify_closed_store_beyond_its_state_is_found() {
    let mut log = sound(10);
    log.state = sound(8).state;

    assert!(!verified(log).is_intact);
}

#[test]
fn position_cursor_survives_text() {
    let position = AuditPosition { topic_partition: LOG, generation: Generation(0), index: 12 };

    assert_eq!(parse_position("audit-trail-1:0:12").unwrap(), position);
    for text in
        ["", "audit-trail-1:12", "audit-trail:0:12", "nope-1:0:12", "audit-trail-1:0:x", "audit-trail-1:x:1"]
    {
        assert_eq!(parse_position(text).unwrap_err().exit, Exit::Usage, "{text}");
    }
}

#[test]
fn log_state_survives_json() {
    for closed in [None, Some((3, Timestamp::from_millis(9)))] {
        let mut state = sound(3).state;
        state.segment.closed = closed;

        let read = log_from_json(&log_to_json(&stored_log(state.clone()))).unwrap();

        assert_eq!(read, stored_log(state));
    }
}
