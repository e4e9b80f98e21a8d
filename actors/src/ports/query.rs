//! Reading for people: what HTTP and the command line show.
//!
//! Promises committed data only, in stable order with a cursor, and a limit on the rows and bytes that one call
//! reads: a page may end early, and says so.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::effect::TimelineEntry;
use crate::event::JobStatus;
use crate::gap::FoundGap;
use crate::ids::{
    Attempt, CommandId, Generation, Group, JobId, JobIdBeginning, LaneKey, LogId, Offset, Partition, Topic,
    TopicPartition, UserId,
};
use crate::ports::Reply;
use crate::ports::page::Page;
use crate::ports::store::{JobRow, ParkedWish, StoreError};
use crate::record::{Digest32, LogRecord};
use crate::state::{AuditLogState, JobAggregate, JobOrigin, JobView};

/// Which jobs are wanted. Newest first; where a beginning of their ids is given, in order of id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// Of this origin.
    pub origin: Option<JobOrigin>,
    /// Of this user.
    pub user_id: Option<UserId>,
    /// In this status.
    pub status: Option<JobStatus>,
    /// Whose id begins so.
    pub id_beginning: Option<JobIdBeginning>,
    /// Behind this job, exclusive: the last one of the page before.
    pub behind: Option<(Timestamp, JobId)>,
    /// At most so many.
    pub limit: usize,
}

/// A job in a list: as the orchestrator has its own, or as the jobs group knows one of another producer.
#[derive(Debug, Clone, PartialEq)]
pub enum ListedJob {
    /// Submitted through this Horizons.
    Owned(Box<JobRow>),
    /// Another producer's.
    External(Box<JobView>),
}

impl ListedJob {
    /// Gives where it stands in a list.
    pub fn position(&self) -> (Timestamp, &JobId) {
        match self {
            ListedJob::Owned(row) => (row.submitted_at, &row.job_id),
            ListedJob::External(view) => (view.submitted_at, &view.job_id),
        }
    }
}

/// Which audit entries are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditFilter {
    /// Of this topic.
    pub topic: Option<Topic>,
    /// Of this partition (with a topic).
    pub partition: Option<u16>,
    /// Of this generation.
    pub generation: Option<Generation>,
    /// About this job: entries of lifecycle and metrics with this key.
    pub job_id: Option<JobId>,
    /// After this position, exclusive: the last one of the page before.
    pub after: Option<AuditPosition>,
    /// At most so many.
    pub limit: usize,
}

/// Names an audit entry: topic, partition, generation and index in that log. Ordered in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditPosition {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The generation of its log.
    pub generation: Generation,
    /// The index in its log.
    pub index: u64,
}

/// An audit entry with its body.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAuditEntry {
    /// Where it stands.
    pub position: AuditPosition,
    /// The stored leaf hash.
    pub leaf_hash: Digest32,
    /// The stored chain head after it.
    pub chain_hash: Digest32,
    /// The stored mark: `event`, `duplicate` or `malformed:<reason>`.
    pub mark: String,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// The body; absent only when it was removed.
    pub record: Option<LogRecord>,
}

/// An audit log with its state.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAuditLog {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The generation of the partition.
    pub generation: Generation,
    /// The id that its leaves carry.
    pub log_id: LogId,
    /// How it stands.
    pub state: AuditLogState,
}

/// A page of audit entries.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditPage {
    /// The entries, in order of position.
    pub entries: Vec<StoredAuditEntry>,
    /// Where the next page starts after, if anything may follow: a page may end early, because one call
    /// looks at a bounded number of entries and bytes.
    pub next: Option<AuditPosition>,
}

/// A dead letter as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDeadLetter {
    /// The lane that rejected it.
    pub lane: LaneKey,
    /// The lane's generation then.
    pub generation: Generation,
    /// The record, byte for byte.
    pub record: LogRecord,
    /// The stable name of the rejection.
    pub reason: String,
    /// The rejection in words.
    pub detail: String,
    /// `parked`, `dead`, `released` or `discarded`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was rejected first.
    pub rejected_at: Timestamp,
    /// When its state changed last.
    pub updated_at: Timestamp,
}

/// Names a dead letter; pages are in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterId {
    /// The lane that rejected it.
    pub lane: LaneKey,
    /// The lane's generation then.
    pub generation: Generation,
    /// The record's offset.
    pub offset: Offset,
}

/// A parked key as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredParkedKey {
    /// The lane.
    pub lane: LaneKey,
    /// The lane's generation. What a generation that is over left parked stays so: its log is gone, nothing
    /// drains it, and wishes are about the newest generation alone.
    pub generation: Generation,
    /// The record key.
    pub key: Bytes,
    /// The poison event at the head.
    pub head: Offset,
    /// The stable name of the rejection.
    pub reason: String,
    /// The rejection in words.
    pub detail: String,
    /// Records that wait, the head included.
    pub records: u64,
    /// What an operator asked for.
    pub wish: ParkedWish,
    /// When it was parked.
    pub parked_at: Timestamp,
}

/// Names a parked key; pages are in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParkedId {
    /// The lane.
    pub lane: LaneKey,
    /// The lane's generation.
    pub generation: Generation,
    /// The record key.
    pub key: Bytes,
}

/// A gap as it is stored, with what was decided about it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGap {
    /// The lane that cannot go on, or could not.
    pub lane: LaneKey,
    /// Its generation then.
    pub generation: Generation,
    /// What it found, last.
    pub gap: FoundGap,
    /// None while it is open.
    pub decision: Option<GapDecision>,
}

/// Names a gap where it stands in the list; pages are in this order.
///
/// *Shape*: as text, `open:GROUP/TOPIC-PARTITION` or `decided:NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GapPosition {
    /// The open gap of this lane.
    Open(LaneKey),
    /// The decided gap of this number. A gap that is decided while the list is read comes behind all open ones, so
    /// that none is missed.
    Decided(u64),
}

impl GapPosition {
    /// Reads the text that [`fmt::Display`] writes; none where it is another.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(number) = text.strip_prefix("decided:") {
            return number.parse().ok().map(GapPosition::Decided);
        }
        let (group, place) = text.strip_prefix("open:")?.rsplit_once('/')?;
        let (topic, partition) = place.rsplit_once('-')?;
        let topic_partition = TopicPartition {
            topic: Topic::parse(topic).ok()?,
            partition: Partition(partition.parse().ok()?),
        };
        Some(GapPosition::Open(LaneKey { group: Group::parse(group).ok()?, topic_partition }))
    }
}

impl TryFrom<String> for GapPosition {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("wanted the position of a gap")
    }
}

impl From<GapPosition> for String {
    fn from(position: GapPosition) -> Self {
        position.to_string()
    }
}

impl fmt::Display for GapPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GapPosition::Open(LaneKey { group, topic_partition }) => {
                write!(f, "open:{group}/{topic_partition}")
            }
            GapPosition::Decided(number) => write!(f, "decided:{number}"),
        }
    }
}

impl StoredGap {
    /// Gives where it stands in the list.
    pub fn position(&self) -> GapPosition {
        match &self.decision {
            None => GapPosition::Open(self.lane.clone()),
            Some(decision) => GapPosition::Decided(decision.number),
        }
    }

    /// Gives it as people and programs are shown it, with what accepting it does: `skip` gives `records_skipped`
    /// up, `read_anew` begins another generation at the low watermark.
    pub fn shown(&self) -> Value {
        let gap = &self.gap;
        let decision = self.decision.as_ref().map(|decision| {
            json!({
                "command_id": decision.command_id,
                "decided_by": decision.decided_by,
                "reason": decision.reason,
                "decided_at": decision.decided_at,
            })
        });
        json!({
            "group": self.lane.group,
            "topic": self.lane.topic_partition.topic,
            "partition": self.lane.topic_partition.partition,
            "generation": self.generation,
            "state": if self.decision.is_some() { "accepted" } else { "open" },
            "kind": gap.kind,
            "next": gap.next,
            "low": gap.low,
            "high": gap.high,
            "found_at": gap.found_at,
            "remedy": gap.kind.remedy(),
            "records_skipped": gap.records_skipped(),
            "records_to_read": gap.records_to_read(),
            "decision": decision,
        })
    }
}

/// What an operator decided about a gap: to accept it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapDecision {
    /// Its place among the decided gaps of the store: a newer one has a higher number.
    pub number: u64,
    /// The command.
    pub command_id: CommandId,
    /// Who.
    pub decided_by: UserId,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub decided_at: Timestamp,
}

/// How far a lane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneProgress {
    /// The lane.
    pub lane: LaneKey,
    /// The lane's generation.
    pub generation: Generation,
    /// The position; none before the first transaction.
    pub next: Option<Offset>,
    /// Its owner's epoch.
    pub epoch: u64,
    /// Its transactions.
    pub revision: u64,
}

/// A lane that is held until an operator resumes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLane {
    /// The lane.
    pub lane: LaneKey,
    /// Its newest generation.
    pub generation: Generation,
    /// Why it is held.
    pub reason: Option<String>,
}

/// An event that was refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredRefusal {
    /// The lane.
    pub lane: LaneKey,
    /// The record's offset.
    pub offset: Offset,
    /// The stable name of the reason.
    pub reason: String,
    /// Why, for a person.
    pub detail: String,
    /// When.
    pub refused_at: Timestamp,
}

/// What the log and the store weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StoreUsage {
    /// What the database takes, in bytes.
    pub used_bytes: u64,
    /// What it may take before new work is refused, in bytes.
    pub limit_bytes: u64,
}

/// Reading for people.
pub trait QueryStore: Send + Sync {
    /// Lists jobs, newest first or, by a beginning of their ids, in order of id: those of the orchestrator and,
    /// beside them, those of other producers that the jobs group knows. A job that both know is listed once, as the
    /// orchestrator's.
    fn jobs(&self, filter: JobFilter) -> Reply<Page<ListedJob>, StoreError>;

    /// Reads one job of the orchestrator.
    fn job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError>;

    /// Reads the jobs group's view of a job, its own or another producer's. Where generations of a partition know
    /// the job, the newest of them speaks; so it is with aggregates.
    fn job_view(&self, job_id: JobId) -> Reply<Option<JobView>, StoreError>;

    /// Lists live jobs in the jobs group's view, in order of job id, after `after`.
    fn live_job_views(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobView>, StoreError>;

    /// Lists the steps of a job's life, in order, behind the first `skipped`.
    fn timeline_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<TimelineEntry>, StoreError>;

    /// Lists the first steps of a job's life, in order.
    fn timeline(&self, job_id: JobId, limit: usize) -> Reply<Page<TimelineEntry>, StoreError> {
        self.timeline_after(job_id, 0, limit)
    }

    /// Lists the refusals about a job, in order of lane and offset, behind the first `skipped`.
    fn refusals_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<StoredRefusal>, StoreError>;

    /// Lists the first refusals about a job, in order of lane and offset.
    fn refusals(&self, job_id: JobId, limit: usize) -> Reply<Page<StoredRefusal>, StoreError> {
        self.refusals_after(job_id, 0, limit)
    }

    /// Lists the aggregates of a job behind an attempt, by attempt. Those of one attempt are on one page.
    fn aggregates_after(
        &self,
        job_id: JobId,
        after: Option<Attempt>,
        limit: usize,
    ) -> Reply<Page<JobAggregate>, StoreError>;

    /// Lists the aggregates of a job's first attempts.
    fn aggregates(&self, job_id: JobId, limit: usize) -> Reply<Page<JobAggregate>, StoreError> {
        self.aggregates_after(job_id, None, limit)
    }

    /// Sums how many jobs entered each status, over all lanes and generations.
    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError>;

    /// Lists audit entries.
    fn audit_entries(&self, filter: AuditFilter) -> Reply<AuditPage, StoreError>;

    /// Lists the audit logs with their state, in order of partition and generation.
    fn audit_logs(&self) -> Reply<Vec<StoredAuditLog>, StoreError>;

    /// Lists dead letters, of one group or all, in order of lane, generation and offset.
    fn dead_letters(
        &self,
        group: Option<Group>,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Reply<Page<StoredDeadLetter>, StoreError>;

    /// Lists parked keys behind one, in order of lane, generation and key.
    fn parked_keys_after(
        &self,
        after: Option<ParkedId>,
        limit: usize,
    ) -> Reply<Page<StoredParkedKey>, StoreError>;

    /// Lists the first parked keys, in order of lane, generation and key.
    fn parked_keys(&self, limit: usize) -> Reply<Page<StoredParkedKey>, StoreError> {
        self.parked_keys_after(None, limit)
    }

    /// Lists gaps behind one: the open ones in order of lane, then those that are decided, the newest first.
    fn gaps_after(&self, after: Option<GapPosition>, limit: usize) -> Reply<Page<StoredGap>, StoreError>;

    /// Lists the first gaps.
    fn gaps(&self, limit: usize) -> Reply<Page<StoredGap>, StoreError> {
        self.gaps_after(None, limit)
    }

    /// Lists the progress of every lane, in order of lane and generation.
    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError>;

    /// Lists the lanes that are held, in order of lane, whichever process has them.
    fn held_lanes(&self) -> Reply<Vec<HeldLane>, StoreError>;

    /// Lists the end of every partition that has records: the offset that the next record would get.
    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError>;

    /// Tells what the store weighs.
    fn usage(&self) -> Reply<StoreUsage, StoreError>;

    /// Reads next to nothing, to show that the store can be read. Does not wait behind other reads.
    fn answers(&self) -> Reply<(), StoreError> {
        let usage = self.usage();
        Box::pin(async move { usage.await.map(|_usage| ()) })
    }
}
