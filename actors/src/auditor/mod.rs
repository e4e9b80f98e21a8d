//! The compliance auditor: one tamper-evident log per partition, one entry per record (design D10).
//!
//! Promises that every record of every topic it follows has exactly one entry, whatever the record is: events,
//! duplicates and records in a wrong partition (marked) and what is no event (marked with its rejection). Entries commit to the record's bytes
//! ([`leaf`]), to all entries before them ([`chain`]) and to a Merkle tree ([`tree`]), and belong to segments
//! by append time ([`segment`]); [`verify`] finds and names whatever was changed afterwards.
//! Publishes nothing, decodes nothing, never parks. Signs nothing yet: who can rewrite entries *and* the stored
//! state of the log, consistently and to the end, is not found out before heads are signed.

pub mod chain;
pub mod leaf;
pub mod segment;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod verify;

use std::fmt::Write;

use crate::clock::Timestamp;
use crate::effect::{AuditEntry, AuditMark, Timer, TimerId};
use crate::ids::{Group, Topic};
use crate::lane::behaviour::{Applied, Behaviour, Entry, PoisonPolicy, Verdict, Workspace};
use crate::record::Digest32;
use crate::rejection::Rejection;
use crate::state::{AuditLogState, StateKey, StateValue};

use self::leaf::LeafHasher;

/// The timer that closes a segment on a day without records.
pub const SEGMENT_TIMER: &str = "audit_segment_close";

/// Stands in an entry's hashes from [`Behaviour::apply`] to [`Behaviour::finish`].
const NOT_HASHED_YET: Digest32 = [0; 32];

/// The behaviour of the group `audit-trail`.
///
/// [`Behaviour::apply`] collects entries; [`Behaviour::finish`] numbers and hashes them, so that the log's
/// state is opened once per batch.
#[derive(Debug, Clone)]
pub struct Auditor {
    /// What it follows.
    topics: Vec<Topic>,
}

impl Auditor {
    /// Makes an auditor of all topics.
    pub fn new() -> Self {
        Self::of(Topic::ALL.to_vec())
    }

    /// Makes an auditor of some topics: the configuration may leave one out.
    pub fn of(topics: Vec<Topic>) -> Self {
        Self { topics }
    }
}

impl Default for Auditor {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives the state of a log without entries.
pub fn empty_log(now: Timestamp) -> AuditLogState {
    AuditLogState {
        size: 0,
        chain_head: chain::EMPTY_CHAIN_HEAD,
        frontier: Vec::new(),
        last_offset: None,
        segment: segment::first_segment(now),
    }
}

/// Gives the root of a log's Merkle tree.
pub fn root(log: &AuditLogState) -> Digest32 {
    tree::root(&log.frontier)
}

/// Gives a digest as lower-case hexadecimal.
pub fn to_hex(digest: &Digest32) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

impl Behaviour for Auditor {
    fn group(&self) -> Group {
        Group::audit_trail()
    }

    fn topics(&self) -> Vec<Topic> {
        self.topics.clone()
    }

    fn poison_policy(&self) -> PoisonPolicy {
        PoisonPolicy::RecordRaw
    }

    fn keys(&self, _entry: &Entry, keys: &mut Vec<StateKey>) {
        // All entries need the same one row.
        if keys.last() != Some(&StateKey::AuditLog) {
            keys.push(StateKey::AuditLog);
        }
    }

    fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied {
        let mark = match &entry.verdict {
            Verdict::Event(_) => AuditMark::Event,
            Verdict::Duplicate(_) => AuditMark::Duplicate,
            Verdict::Rejected(Rejection::WrongPartition { .. }) => AuditMark::WrongPartition,
            Verdict::Rejected(rejection) => AuditMark::Malformed(rejection.name()),
        };
        work.effects.audit_entries.push(AuditEntry {
            index: 0,
            leaf_hash: NOT_HASHED_YET,
            chain_hash: NOT_HASHED_YET,
            mark,
            appended_at: work.now,
            record: entry.record.clone(),
        });
        Applied::Applied
    }

    fn finish(&self, work: &mut Workspace<'_>) {
        if work.effects.audit_entries.is_empty() {
            return;
        }
        let now = work.now;
        let hasher = LeafHasher::new(work.log_id, work.lane.topic_partition);
        let mut entries = std::mem::take(&mut work.effects.audit_entries);
        let log = open_log(work);
        let segment_before = log.segment.number;
        let is_segment_empty = log.size == log.segment.first_index;

        let mut closed = Vec::new();
        for entry in &mut entries {
            closed.extend(segment::make_room(&mut log.segment, log.size, now));
            append(log, &hasher, entry);
        }

        let has_segment_begun = is_segment_empty || log.segment.number != segment_before;
        work.effects.audit_entries = entries;
        work.effects.audit_segments.append(&mut closed);
        if has_segment_begun {
            work.effects.timers_set.push(segment_timer(now));
        }
    }

    fn timer_keys(&self, _timer: &Timer, keys: &mut Vec<StateKey>) {
        keys.push(StateKey::AuditLog);
    }

    fn tick(&self, timer: &Timer, work: &mut Workspace<'_>) {
        if timer.id.kind != SEGMENT_TIMER {
            return;
        }
        let now = work.now;
        let log = open_log(work);
        if segment::is_due(&log.segment, log.size, now) {
            let closed = segment::close(&mut log.segment, log.size, now);
            work.effects.audit_segments.push(closed);
        } else if log.size > log.segment.first_index {
            // The clock went back: the day of the segment has not ended after all.
            work.effects.timers_set.push(segment_timer(now));
        }
    }
}

/// Numbers and hashes an entry at the end of the log.
fn append(log: &mut AuditLogState, hasher: &LeafHasher, entry: &mut AuditEntry) {
    entry.index = log.size;
    entry.leaf_hash = hasher.hash(&entry.record);
    entry.chain_hash = chain::link(&log.chain_head, &entry.leaf_hash, entry.appended_at, &entry.mark);
    tree::append(log.size, &mut log.frontier, entry.leaf_hash);
    log.chain_head = entry.chain_hash;
    log.size += 1;
    log.last_offset = Some(entry.record.offset);
}

/// Opens the log's row for change; on the first start it is made.
fn open_log<'w>(work: &'w mut Workspace<'_>) -> &'w mut AuditLogState {
    if work.get(&StateKey::AuditLog).is_none() {
        work.put(StateKey::AuditLog, StateValue::AuditLog(empty_log(work.now)));
    }
    let log = match work.get_mut(&StateKey::AuditLog) {
        Some(StateValue::AuditLog(log)) => Some(log),
        _ => None,
    };
    log.expect("under the key of an audit log stands an audit log")
}

/// Makes the timer that falls due when the day of a segment ends.
fn segment_timer(now: Timestamp) -> Timer {
    let id = TimerId { kind: SEGMENT_TIMER.to_owned(), key: String::new() };
    Timer { id, due_at: segment::next_day(now) }
}

#[cfg(test)]
mod tests;
