//! What a lane's transaction does, as data: behaviours say it, the store carries it out.
//!
//! Promises that everything is grouped by table in typed rows, so that a store may write columns, batches
//! or COPY streams. Order within a group is the order of the events.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::command::Order;
use crate::event::{EventType, JobStatus};
use crate::ids::{Attempt, EventId, JobId, Offset, Partition, Sequence};
use crate::record::{Digest32, LogRecord, OutgoingRecord};
use crate::rejection::Rejection;
use crate::state::{AuditSegment, StateKey, StateValue};
use crate::trial::SettledTrial;

/// The named outcome of a record (house style 12). Each record ends in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Its effects are stored.
    Applied,
    /// The same event was applied before.
    Duplicate,
    /// It is illegal or late: recorded and counted, nobody is parked.
    Refused,
    /// It is poison, and its key is parked behind it.
    Parked,
    /// It waits behind a parked key, for no fault of its own.
    Waiting,
    /// It is poison without a key to park.
    DeadLettered,
}

impl Outcome {
    /// Lists every outcome.
    pub const ALL: [Outcome; 6] = [
        Outcome::Applied,
        Outcome::Duplicate,
        Outcome::Refused,
        Outcome::Parked,
        Outcome::Waiting,
        Outcome::DeadLettered,
    ];

    /// Gives the stable name, for labels.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Duplicate => "duplicate",
            Outcome::Refused => "refused",
            Outcome::Parked => "parked",
            Outcome::Waiting => "waiting",
            Outcome::DeadLettered => "dead_lettered",
        }
    }
}

/// Everything that one transaction of a lane writes beside its progress.
#[derive(Debug, Default)]
pub struct Effects {
    /// Rows of the behaviour's state to insert or replace.
    pub states: Vec<(StateKey, StateValue)>,
    /// Entries of the audit log.
    pub audit_entries: Vec<AuditEntry>,
    /// Segments of the audit log that were closed.
    pub audit_segments: Vec<AuditSegment>,
    /// Steps in jobs' lives.
    pub timeline: Vec<TimelineEntry>,
    /// Views of jobs that are not kept any longer as they were. A transaction that names a job here does not write
    /// its view.
    pub views_retired: Vec<RetiredView>,
    /// Events that were refused.
    pub refusals: Vec<Refusal>,
    /// Work on attempts; a row that exists already stays as it is.
    pub orders: Vec<Order>,
    /// Timers to set; one with the same kind and key is replaced.
    pub timers_set: Vec<Timer>,
    /// Timers that have fired or are not needed any more.
    pub timers_cleared: Vec<TimerId>,
    /// Poison events.
    pub dead_letters: Vec<DeadLetter>,
    /// Changes of dead letters that are stored already.
    pub dead_letters_settled: Vec<DeadLetterSettlement>,
    /// Keys that become parked, or are parked again with another poison event.
    pub keys_parked: Vec<ParkedKey>,
    /// Keys whose queue is empty.
    pub keys_unparked: Vec<Bytes>,
    /// Records that wait behind a parked key. The same offset with the same bytes is ignored; with other
    /// bytes it is an error.
    pub records_parked: Vec<ParkedRecord>,
    /// Parked records that have been answered.
    pub records_unparked: Vec<ParkedRecordId>,
    /// Rows that another lane of the group has had, and that are written here from now on. The lane says this, no
    /// behaviour does.
    pub moves: Vec<StateMove>,
    /// Trials that ended with this transaction. The lane writes these, no behaviour does.
    pub trials_settled: Vec<SettledTrial>,
    /// Why the lane is to hold still from now on, until an operator resumes it. The lane says this, no behaviour
    /// does.
    pub held_because: Option<String>,
    /// Records to append to the log, final to the byte.
    pub outbox: Vec<OutgoingRecord>,
}

impl Effects {
    /// Gives a rough count of rows, for limits and logs.
    pub fn row_count(&self) -> usize {
        self.states.len()
            + self.audit_entries.len() * 2
            + self.audit_segments.len()
            + self.timeline.len()
            + self.views_retired.len()
            + self.refusals.len()
            + self.orders.len()
            + self.timers_set.len()
            + self.timers_cleared.len()
            + self.dead_letters.len()
            + self.dead_letters_settled.len()
            + self.keys_parked.len()
            + self.keys_unparked.len()
            + self.records_parked.len()
            + self.records_unparked.len()
            + self.trials_settled.len()
            + self.outbox.len()
    }
}

/// What the auditor found a record to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditMark {
    /// A well-formed event.
    Event,
    /// An event that was seen before at another offset.
    Duplicate,
    /// Not an event; with the stable name of the rejection.
    Malformed(&'static str),
    /// Not where its key is at home; what it says was not looked at.
    WrongPartition,
}

impl AuditMark {
    /// Gives the stored text: `event`, `duplicate`, `wrong_partition` or `malformed:<reason>`.
    pub fn to_stored(&self) -> String {
        match self {
            AuditMark::Event => "event".to_owned(),
            AuditMark::Duplicate => "duplicate".to_owned(),
            AuditMark::Malformed(reason) => format!("malformed:{reason}"),
            AuditMark::WrongPartition => "wrong_partition".to_owned(),
        }
    }
}

/// One entry of an audit log. The entry and its body are stored in separate tables.
///
/// *Shape*: identified by the lane and `index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its index in the log, from 0, without holes.
    pub index: u64,
    /// The RFC 9162 leaf hash of the record's leaf encoding.
    pub leaf_hash: Digest32,
    /// The head of the hash chain after this entry.
    pub chain_hash: Digest32,
    /// What the record was found to be.
    pub mark: AuditMark,
    /// The stamp of the batch that appended it.
    pub appended_at: Timestamp,
    /// The record, byte for byte: the body.
    pub record: LogRecord,
}

/// A step in a job's life, as the jobs group applied it.
///
/// *Shape*: identified by the lane, `job_id` and `offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineEntry {
    /// The job.
    pub job_id: JobId,
    /// The record's offset in the lane's partition.
    pub offset: Offset,
    /// The event.
    pub event_id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// Its sequence.
    pub sequence: Sequence,
    /// The status after it.
    pub status: JobStatus,
    /// The attempt it belongs to.
    pub attempt: Attempt,
    /// When it happened (event time).
    pub happened_at: Timestamp,
    /// The stamp of the batch that applied it.
    pub applied_at: Timestamp,
    /// What it says, as JSON.
    pub payload: String,
}

/// Timeline entries that one transaction removes with the views that it retires.
pub const RETIRED_ENTRIES: usize = 1000;

/// A view of a job that is not kept as it was.
///
/// *Shape*: identified by the lane and `job_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredView {
    /// The job.
    pub job_id: JobId,
    /// What becomes of the view.
    pub retirement: Retirement,
}

/// What becomes of a view that is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// It stays and does not count among the live ones, until it is written again.
    Silent,
    /// It is removed with its timeline, of which [`RETIRED_ENTRIES`] go at once for all views of a transaction: the
    /// view goes with the last of them, so that asking again goes on.
    Forgotten,
}

/// An event that was refused: true bytes, but illegal or late.
///
/// *Shape*: identified by the lane and `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The record's offset.
    pub offset: Offset,
    /// The event.
    pub event_id: EventId,
    /// The job it is about.
    pub job_id: Option<JobId>,
    /// The event's type.
    pub event_type: EventType,
    /// Why, as a stable snake_case name.
    pub reason: &'static str,
    /// Why, for a person.
    pub detail: String,
    /// The stamp of the batch.
    pub refused_at: Timestamp,
}

/// A row that goes from one lane of a group to another, because its job is at home there since the layout changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateMove {
    /// The partition of the lane that has had it; the topic is the same.
    pub from: Partition,
    /// The row.
    pub key: StateKey,
}

/// A stored moment at which a behaviour wants to be asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Names it within its lane.
    pub id: TimerId,
    /// When it falls due.
    pub due_at: Timestamp,
}

/// Names a timer within its lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimerId {
    /// What it is for: a stable name of the behaviour's.
    pub kind: String,
    /// What it is about: a job id, for example.
    pub key: String,
}

/// A poison event, kept with its original bytes.
///
/// *Shape*: identified by the lane and the record's offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record.
    pub record: LogRecord,
    /// Why it is poison.
    pub rejection: Rejection,
    /// Whether its key waits behind it.
    pub is_parked: bool,
    /// The stamp of the batch.
    pub rejected_at: Timestamp,
}

/// What became of a dead letter later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSettlement {
    /// The record's offset.
    pub offset: Offset,
    /// What became of it.
    pub outcome: DeadLetterOutcome,
    /// The stamp of the transaction.
    pub settled_at: Timestamp,
}

/// What became of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterOutcome {
    /// It was tried again and is still poison; the count of tries goes up.
    RejectedAgain(Rejection),
    /// It was tried again and ended well (applied, duplicate or refused).
    Released,
    /// An operator gave it up.
    Discarded,
}

/// A key whose events wait.
///
/// *Shape*: identified by the lane and `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// The record key, byte for byte.
    pub key: Bytes,
    /// The poison event at the head.
    pub head: Offset,
    /// Why it is poison.
    pub rejection: Rejection,
    /// The stamp of the batch.
    pub parked_at: Timestamp,
}

/// A record that waits behind a parked key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRecord {
    /// The key it waits behind.
    pub key: Bytes,
    /// The record.
    pub record: LogRecord,
    /// The stamp of the batch that parked it.
    pub parked_at: Timestamp,
}

/// Names a parked record within its lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParkedRecordId {
    /// The key it waits behind.
    pub key: Bytes,
    /// Its offset.
    pub offset: Offset,
}
