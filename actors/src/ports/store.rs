//! The store: effects and progress in one transaction, fenced (design D2, D7).
//!
//! Promises that a transaction of a lane is written whole or not at all, and only by the newest owner of the
//! lane; that whatever was answered as committed survives `kill -9` and loss of power; and that a lane's
//! newest incarnation is never overtaken by a late write of an older one.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::command::{Command, LayoutAdoption, Order, ParkedKeyId};
use crate::effect::{Effects, ParkedRecord, Timer};
use crate::event::{Event, JobStatus, TaccSystem};
use crate::gap::{FoundGap, GapAcceptance, GapKind};
use crate::ids::{
    AgentName, Attempt, CorrelationId, DatasetId, Epoch, EventId, Generation, Group, JobId, LaneKey, LogId,
    LogTopic, Offset, Partition, ProcessId, Revision, SchedulerJobId, Sequence, Topic, UserId,
};
use crate::layout::Layout;
use crate::ports::Reply;
use crate::ports::outbox::OutboxPartition;
use crate::ports::wishes::{WishRevision, Wishes};
use crate::record::{Digest32, OutgoingRecord};
use crate::state::{JobHome, StateKey, StateValue};
use crate::trial::{Thought, Trial, TrialPhase, TrialSubject};

/// Tells why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, locked or out of space, and nothing was written: the same call may succeed
    /// later.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The answer to COMMIT was lost, or the writer ended before it: what was asked may be stored, now or in a
    /// moment, or not. Whoever asks again must stand both.
    #[error("outcome of the commit is unknown: {0}")]
    Unknown(String),
    /// The bounded queue before the database is full: try later, other work is in front.
    #[error("store queue full")]
    QueueFull,
    /// The disk limit for new work is reached; lanes and retention still have a reserve.
    #[error("disk limit reached: {used_bytes} of {limit_bytes} bytes are used")]
    DiskLimit {
        /// What the database takes now.
        used_bytes: u64,
        /// What it may take.
        limit_bytes: u64,
    },
    /// The data itself cannot be stored (a closed list: too large, out of range, not representable).
    #[error("data refused: {0}")]
    Data(String),
    /// The row moved since it was read, or does not exist.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A promise of our own is broken, or the database is damaged.
    #[error("store broken: {0}")]
    Broken(String),
}

impl StoreError {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            StoreError::Unavailable(_)
                | StoreError::Unknown(_)
                | StoreError::QueueFull
                | StoreError::DiskLimit { .. }
        )
    }
}

/// Tells why a lane's transaction was not committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Another incarnation owns the lane, or its progress is not what was expected. Nothing was written.
    #[error("fenced: another owner or another position")]
    Fenced,
    /// The store failed; nothing was written unless it is [`CommitError::Unknown`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The answer to COMMIT was lost: progress must be read again to know.
    #[error("outcome of the commit is unknown: {0}")]
    Unknown(String),
}

/// What fences a lane's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The owner.
    pub epoch: Epoch,
    /// The lane's transactions so far.
    pub revision: Revision,
}

/// Whether a lane is to work, as the operators left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DesiredState {
    /// Work.
    #[default]
    Running,
    /// Hold still until told otherwise.
    Paused,
}

/// What a new incarnation of a lane finds.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneOpened {
    /// The fence for the first transaction; the epoch is new.
    pub fence: Fence,
    /// The stored position; none on a first start.
    pub next: Option<Offset>,
    /// The fingerprint of the last record below `next`, where one was applied.
    pub last_fingerprint: Option<Digest32>,
    /// The id under which this generation of the lane is stored and hashed.
    pub log_id: LogId,
    /// The lane's generation.
    pub generation: Generation,
    /// Where the topic's keys are at home, as stored; the first one is stored when the topic's first lane opens.
    pub layout: Layout,
    /// How many processes have found, when they opened the lane at this same `next`, that the one before them
    /// did not end it in order; this one included.
    pub starts_at_next: u32,
    /// The same, counted since the lane's last transaction that left `next` where it was: since it last
    /// answered a timer or drained a key.
    pub starts_aside: u32,
    /// What was tried alone and not survived, this process's predecessor charged, and what was convicted.
    pub trials: Vec<Trial>,
    /// The gap that is noted and that nobody has decided on.
    pub open_gap: Option<GapKind>,
    /// The keys that are parked, with the state of each.
    pub parked: Vec<ParkedKeyState>,
    /// What operators want of the lane.
    pub desired: DesiredState,
    /// Why it is held, where it is.
    pub held_because: Option<String>,
    /// When the earliest timer falls due.
    pub next_timer: Option<Timestamp>,
}

/// What operators may have changed while a lane runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LaneOrders {
    /// The keys that are parked, with the state of each.
    pub parked: Vec<ParkedKeyState>,
    /// What operators want of the lane.
    pub desired: DesiredState,
    /// Why it is held, where it is.
    pub held_because: Option<String>,
}

/// What is wanted of a parked key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKeyState {
    /// The record key.
    pub key: Bytes,
    /// The poison event at the head. A wish to discard it is fulfilled once it is no longer parked.
    pub head: Offset,
    /// What an operator asked for.
    pub wish: ParkedWish,
    /// Records that wait.
    pub records: u64,
}

/// What an operator asked for about a parked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParkedWish {
    /// Nothing: it waits.
    Wait,
    /// Try its head again, then drain it.
    Release,
    /// Give its head up, then drain it.
    DiscardHead,
}

impl ParkedWish {
    /// Gives the stable name that is stored.
    pub const fn name(self) -> &'static str {
        match self {
            ParkedWish::Wait => "wait",
            ParkedWish::Release => "release",
            ParkedWish::DiscardHead => "discard_head",
        }
    }
}

/// One transaction of a lane: a batch, a tick or a drain.
#[derive(Debug)]
pub struct LaneTransaction {
    /// The lane.
    pub lane: LaneKey,
    /// Its fence; both numbers must match, and the revision goes up by one.
    pub fence: Fence,
    /// The position before; none when no progress has been stored yet.
    pub from: Option<Offset>,
    /// The position after.
    pub next: Offset,
    /// The fingerprint of the last record below `next`; none leaves what is stored.
    pub last_fingerprint: Option<Digest32>,
    /// The stamp of the transaction.
    pub now: Timestamp,
    /// What it writes.
    pub effects: Effects,
}

/// What a committed transaction of a lane answers.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneCommitted {
    /// The fence of the next transaction.
    pub fence: Fence,
    /// When the earliest timer falls due, after this transaction.
    pub next_timer: Option<Timestamp>,
}

/// Progress as it stands, to tell the outcome of a commit whose answer was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The owner and its transactions.
    pub fence: Fence,
    /// The position; none before the first transaction.
    pub next: Option<Offset>,
}

/// How far a lane of a group and topic is, as other lanes of it must know when the topic's layout changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePosition {
    /// The partition.
    pub partition: Partition,
    /// Its stored position; none before its first transaction.
    pub next: Option<Offset>,
    /// The keys that are parked in it.
    pub parked: Vec<Bytes>,
}

/// What lanes need of the store.
pub trait LaneStore: Send + Sync {
    /// Takes a new epoch for the lane and reads where it stands, in one transaction behind every write that
    /// was queued before. Another process than the one before is told of it, so that ends which were not in order
    /// are counted, and what that process died of is charged.
    fn open_lane(&self, lane: LaneKey, process: ProcessId) -> Reply<LaneOpened, StoreError>;

    /// Reads the lane's progress behind every write that was queued before.
    fn read_progress(&self, lane: LaneKey) -> Reply<Option<Progress>, StoreError>;

    /// Reads what operators want of the lane now.
    fn read_orders(&self, lane: LaneKey) -> Reply<LaneOrders, StoreError>;

    /// Reads the layouts of all topics that have one stored.
    fn read_layouts(&self) -> Reply<Vec<Layout>, StoreError>;

    /// Reads how far the lanes of a group and topic are that were ever opened, in all processes, in the order of
    /// their partitions.
    fn read_positions(&self, group: Group, topic: Topic) -> Reply<Vec<LanePosition>, StoreError>;

    /// Loads rows of the behaviour's state; absent rows are left out.
    fn load(&self, lane: LaneKey, keys: Vec<StateKey>) -> Reply<Vec<(StateKey, StateValue)>, StoreError>;

    /// Loads timers that fell due at or before `until`, earliest first.
    fn load_due_timers(&self, lane: LaneKey, until: Timestamp, limit: usize)
    -> Reply<Vec<Timer>, StoreError>;

    /// Loads records parked behind a key, in offset order.
    fn load_parked(&self, key: ParkedKeyId, limit: usize) -> Reply<Vec<ParkedRecord>, StoreError>;

    /// Notes how far a trial is. Neither position nor revision move. Answers false, and writes nothing, when
    /// the epoch owns the lane no more.
    fn write_trial(
        &self,
        lane: LaneKey,
        epoch: Epoch,
        subject: TrialSubject,
        phase: TrialPhase,
    ) -> Reply<bool, StoreError>;

    /// Takes back that a process which is gone was trying anything but what it was seen to think about: it died of
    /// nothing else. Of lanes that somebody else has opened since, nothing is taken back.
    fn acquit(&self, process: ProcessId, seen: Option<Thought>) -> Reply<(), StoreError>;

    /// Notes that an incarnation ended in order, if its epoch still owns the lane: whoever opens the lane next
    /// counts no unclean end.
    fn end_lane(&self, lane: LaneKey, epoch: Epoch) -> Reply<(), StoreError>;

    /// Notes the gap that an incarnation found at its start; none removes one that is gone by itself. Answers
    /// false, and writes nothing, when the epoch owns the lane no more.
    fn note_gap(&self, lane: LaneKey, epoch: Epoch, gap: Option<FoundGap>) -> Reply<bool, StoreError>;

    /// Writes one transaction: progress first, by compare-and-set, then the effects, then the outbox.
    fn commit(&self, transaction: LaneTransaction) -> Reply<LaneCommitted, CommitError>;
}

/// A job as the orchestrator keeps it (design D18).
///
/// *Shape*: identified by `job_id`; `lifecycle_sequence` and `metrics_sequence` guard every change.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// The job.
    pub job_id: JobId,
    /// Who submitted it.
    pub user_id: UserId,
    /// The agent.
    pub agent: AgentName,
    /// The data set.
    pub dataset_id: DatasetId,
    /// The parameters as one JSON object, each value as the user wrote it ([`Parameters::to_json`]).
    ///
    /// [`Parameters::to_json`]: crate::parameters::Parameters::to_json
    pub parameters: String,
    /// The system.
    pub tacc_system: TaccSystem,
    /// The partitions that its events go to, from the first to the last.
    pub home: JobHome,
    /// The request that created it.
    pub correlation_id: CorrelationId,
    /// The status.
    pub status: JobStatus,
    /// The attempt, from 1.
    pub attempt: Attempt,
    /// Whether another attempt follows a failed one.
    pub will_retry: bool,
    /// The sequence of its last lifecycle event.
    pub lifecycle_sequence: Sequence,
    /// The sequence of its last metrics event; 0 before the first.
    pub metrics_sequence: Sequence,
    /// The scheduler's name for the attempt.
    pub scheduler_job_id: Option<SchedulerJobId>,
    /// How many of the attempt's samples have been published.
    pub samples_published: u64,
    /// A wish to cancel that the scheduler has not answered yet, or that ended the job.
    pub cancel: Option<CancelRequest>,
    /// Why the last attempt failed.
    pub failure: Option<JobFailure>,
    /// How long the last attempt ran, once it ended.
    pub execution_time_seconds: Option<f64>,
    /// When the job was submitted.
    pub submitted_at: Timestamp,
    /// When the row changed last.
    pub updated_at: Timestamp,
}

/// Who wants a job ended, why and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Who asked.
    pub cancelled_by: UserId,
    /// Why.
    pub reason: String,
    /// When.
    pub requested_at: Timestamp,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// A short stable code.
    pub error_code: String,
    /// What happened, for a person.
    pub error_message: String,
}

/// What must hold for a write of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobExpectation {
    /// The job does not exist yet.
    New,
    /// Both counters are these, and a stored wish to cancel is known to whoever decided: a wish changes no
    /// counter, and a row without it must not take it back.
    Sequences {
        /// The lifecycle counter before the write.
        lifecycle: Sequence,
        /// The metrics counter before the write.
        metrics: Sequence,
    },
}

/// An event of the orchestrator's with the bytes that are appended for it.
#[derive(Debug, Clone, PartialEq)]
pub struct OutgoingEvent {
    /// The event; lifecycle events are also remembered by (job, sequence).
    pub event: Event,
    /// Its record.
    pub record: OutgoingRecord,
}

/// Makes a repeated submit the same job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose key it is.
    pub user_id: UserId,
    /// The key.
    pub key: String,
    /// A digest of the request; the same key with another request is refused.
    pub request_digest: Digest32,
}

/// One transaction of the orchestrator's.
#[derive(Debug, Clone, PartialEq)]
pub struct JobWrite {
    /// What must hold.
    pub expectation: JobExpectation,
    /// The row after the write.
    pub row: JobRow,
    /// What is published, in order.
    pub events: Vec<OutgoingEvent>,
    /// Work that is ordered.
    pub orders: Vec<Order>,
    /// Orders that are answered by this write, each with its answer.
    pub answered: Vec<(Order, OrderAnswer)>,
    /// Set on a submit that carries a key.
    pub idempotency: Option<Idempotency>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderAnswer {
    /// It was carried out.
    Done,
    /// It was refused, with the reason for a person.
    Refused(String),
}

/// What a write of a job answers.
#[derive(Debug, Clone, PartialEq)]
pub enum JobWritten {
    /// It is committed.
    Written,
    /// The idempotency key was used before for the same request: this is that job, nothing was written.
    Repeated(JobId),
    /// The idempotency key was used before for another request; nothing was written.
    KeyReused(JobId),
    /// The expectation does not hold; nothing was written.
    Conflict,
}

/// A record that somebody else made, for the embedded log.
#[derive(Debug, Clone, PartialEq)]
pub struct AppendedAt {
    /// The topic.
    pub topic: LogTopic,
    /// The partition.
    pub partition: Partition,
    /// The offset.
    pub offset: Offset,
}

/// Where an order stands in the list of those that are open.
///
/// *Shape*: when it was ordered, and its number, which orders what was ordered at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderPlace {
    /// When it was ordered.
    pub ordered_at: Timestamp,
    /// Its number.
    pub number: u64,
}

/// What the orchestrator and the operators' commands need of the store.
pub trait JobStore: Send + Sync {
    /// Writes one transaction of the orchestrator's.
    fn write_job(&self, write: JobWrite) -> Reply<JobWritten, StoreError>;

    /// Reads one job.
    fn read_job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError>;

    /// Lists jobs that are not terminal, in order of job id, after `after`.
    fn live_jobs(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobRow>, StoreError>;

    /// Lists orders that have no answer yet, oldest first, behind `after`. A short page is the last one.
    fn open_orders(
        &self,
        after: Option<OrderPlace>,
        limit: usize,
    ) -> Reply<Vec<(OrderPlace, Order)>, StoreError>;

    /// Answers an order that changes no job (a repeated one, or a clean-up).
    fn answer_order(&self, order: Order, answer: OrderAnswer) -> Reply<(), StoreError>;

    /// Appends records as they are, each with the audit record of the command that brought it, in one
    /// transaction. Answers where the first of `records` went, and so on.
    fn append_records(
        &self,
        records: Vec<OutgoingRecord>,
        audit: Vec<OutgoingRecord>,
    ) -> Reply<Vec<AppendedAt>, StoreError>;

    /// Stores an operator's wish about a parked key and the command's audit record in one transaction. A release
    /// is refused once its head was tried as often as the limit says. Nothing is written unless the answer is
    /// [`WishAnswer::Stored`].
    fn set_parked_wish(
        &self,
        command: Command,
        key: ParkedKeyId,
        wish: ParkedWish,
        attempts_limit: u32,
        audit: OutgoingRecord,
    ) -> Reply<WishAnswer, StoreError>;

    /// Lets a lane that is held go on, with the command's audit record, in one transaction. Nothing is written
    /// unless the answer is [`ResumeAnswer::Resumed`].
    fn resume_lane(&self, lane: LaneKey, audit: OutgoingRecord) -> Reply<ResumeAnswer, StoreError>;

    /// Carries out an operator's decision about a lane's open gap, with the command's audit record, in one
    /// transaction. No incarnation of before can write to the lane after it. Nothing is written unless the
    /// answer is [`GapAccepted::Accepted`].
    fn accept_gap(
        &self,
        command: Command,
        acceptance: GapAcceptance,
        audit: OutgoingRecord,
    ) -> Reply<GapAccepted, StoreError>;

    /// Stores that the relay is to send again the record at which a partition stands, with the command's audit
    /// record, in one transaction.
    fn wish_send_again(&self, partition: OutboxPartition, audit: OutgoingRecord) -> Reply<(), StoreError>;

    /// Lists what operators have asked about since a revision, by whichever process: every call above that stored
    /// a wish, a cancelled job, and a record that was set aside. One cheap statement when there is nothing.
    fn wishes_since(&self, seen: WishRevision) -> Reply<Wishes, StoreError>;

    /// Begins to let more partitions of a topic count, with the command's audit record, in one transaction: rows that are
    /// written for a key from now on, by whichever process, go where it is at home among these partitions, and the
    /// relay holds them back until [`JobStore::adopt_layout`]. So the rows of before are all sent before the first of
    /// these. Begun again it stays as it was, without another record. It cannot be taken back.
    fn begin_layout(&self, adoption: LayoutAdoption, audit: OutgoingRecord)
    -> Reply<LayoutBegun, StoreError>;

    /// Reads what the relay has to send of a topic.
    fn read_unsent(&self, topic: Topic) -> Reply<Unsent, StoreError>;

    /// Lets more partitions of a topic count from now on, in one transaction. No incarnation of before can write to a lane of
    /// the topic after it, and each partition's boundary is at or above what any of them has written. What was begun is
    /// adopted only when all that was written before it is sent. Nothing is written unless the answer is
    /// [`LayoutAdopted::Adopted`].
    fn adopt_layout(&self, adoption: LayoutAdoption) -> Reply<LayoutAdopted, StoreError>;
}

/// What became of a wish about a parked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WishAnswer {
    /// The lane will carry it out.
    Stored,
    /// The key is not parked.
    NotParked,
    /// Its head was tried so often that it is not tried again.
    TriedTooOften {
        /// How often.
        attempts: u32,
    },
}

/// What became of a wish to let a lane go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeAnswer {
    /// It will go on.
    Resumed,
    /// It is not held.
    NotHeld,
    /// There is no such lane in this store.
    NoLane,
}

/// What became of the beginning of a new layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutBegun {
    /// New rows go by so many partitions, from now on or since it was begun before.
    Begun {
        /// The partitions.
        partitions: u16,
    },
    /// The stored layout is another one than was seen, or has as many partitions already.
    Changed(Layout),
}

/// What the relay has to send of a topic before a new layout may count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unsent {
    /// The partitions of a layout that was begun and does not count yet.
    pub begun: Option<u16>,
    /// The partitions with rows that are not sent, of before it was begun where it was.
    pub places: Vec<UnsentRows>,
}

/// Rows of one partition that the relay has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsentRows {
    /// The partition.
    pub partition: Partition,
    /// The first of them.
    pub next: Offset,
    /// Behind the last of them.
    pub end: Offset,
}

/// What became of a new layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutAdopted {
    /// It counts from now on.
    Adopted(Layout),
    /// It was begun, and rows of before are not sent yet.
    Unsent(Unsent),
    /// The stored layout is another one than was seen, or has as many partitions already.
    Changed(Layout),
}

/// What became of a decision about a gap.
#[derive(Debug, Clone, PartialEq)]
pub enum GapAccepted {
    /// The lane may be started again.
    Accepted {
        /// The generation that goes on.
        generation: Generation,
        /// Where it goes on.
        resumes_at: Offset,
    },
    /// The lane has no open gap.
    NoGap,
    /// The gap is another one by now: this is it.
    Changed(FoundGap),
}

/// Remembers which event carries a lifecycle sequence; what [`JobWrite::events`] implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedEvent {
    /// The job.
    pub job_id: JobId,
    /// The sequence.
    pub sequence: Sequence,
    /// The event.
    pub event_id: EventId,
}
