//! The outbox as the relay sees it: rows on their way to Kafka, behind one fenced cursor per partition
//! (design D9).
//!
//! Promises that a row is never changed, that offsets of a partition are commit order without holes, that a
//! cursor moves only for the newest owner of the lease and only from where that owner believes it to be, and
//! that no row at or above a cursor is ever removed. Knows nothing of Kafka beside offsets.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::command::Command;
use crate::ids::{Epoch, LogTopic, Offset, Partition, Topic};
use crate::ports::Reply;
use crate::ports::page::Page;
use crate::ports::store::StoreError;
use crate::record::{LogRecord, OutgoingRecord};

/// Names one partition of a topic that is written to, dead letters included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxPartition {
    /// The topic.
    pub topic: LogTopic,
    /// The partition.
    pub partition: Partition,
}

impl OutboxPartition {
    /// Lists every partition that can hold rows as long as no topic has grown: those of the topics of record and of
    /// their dead letters.
    pub fn all() -> impl Iterator<Item = OutboxPartition> {
        Self::all_of(Topic::partitions)
    }

    /// The same with so many partitions of the topics of record. Those of dead letters stay as they are.
    pub fn all_of(partitions: impl Fn(Topic) -> u16) -> impl Iterator<Item = OutboxPartition> {
        let topics = Topic::ALL.into_iter();
        let counted = topics.flat_map(move |topic| {
            [(LogTopic::Record(topic), partitions(topic)), (LogTopic::DeadLetter(topic), topic.partitions())]
        });
        counted.flat_map(|(topic, partitions)| {
            (0..partitions).map(move |number| OutboxPartition { topic, partition: Partition(number) })
        })
    }
}

impl fmt::Display for OutboxPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Names one relay, of this process or another; new at every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayId(pub Uuid);

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// How far one partition has been sent.
///
/// *Shape*: identified by `partition`. Everything below `next` is in Kafka or was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The partition.
    pub partition: OutboxPartition,
    /// The first row that is not known to be in Kafka.
    pub next: Offset,
    /// Where in Kafka a look for rows that were sent already begins: behind the last acknowledged record, or
    /// the end at the time of the first start. None until the partition was ever looked at.
    pub tail: Option<Offset>,
    /// The owner that may move it.
    pub epoch: Epoch,
}

/// A step of one cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorMove {
    /// The partition.
    pub partition: OutboxPartition,
    /// Where the cursor must stand.
    pub from: Offset,
    /// Where it goes; not below `from`.
    pub next: Offset,
    /// Where a look in Kafka begins from now on.
    pub tail: Offset,
}

/// The lease of the relay, just taken.
#[derive(Debug, Clone, PartialEq)]
pub struct RelayLease {
    /// Fences every older owner.
    pub epoch: Epoch,
    /// Every cursor, in the order of partitions; one for each partition that can hold rows.
    pub cursors: Vec<Cursor>,
}

/// Rows that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedRows {
    /// The partition.
    pub partition: OutboxPartition,
    /// The first row.
    pub from: Offset,
    /// At most so many of this partition.
    pub limit: usize,
}

/// Rows that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRows {
    /// The partition.
    pub partition: OutboxPartition,
    /// Its rows, offsets consecutive.
    pub rows: Vec<LogRecord>,
}

/// What became of an operator's order to set a record aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAsideAnswer {
    /// It is kept apart, and the cursor stands behind it.
    Done,
    /// The cursor does not stand at that record; nothing was written.
    NotAtCursor {
        /// Where it stands.
        next: Offset,
    },
}

/// A record that an operator took out of the way of a partition; kept until somebody decides about it.
///
/// *Shape*: identified by partition and the record's offset in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsideRecord {
    /// The partition that it held up.
    pub partition: OutboxPartition,
    /// The record, byte for byte.
    pub record: LogRecord,
    /// The command that set it aside, as text.
    pub command_id: Uuid,
    /// When.
    pub set_aside_at: Timestamp,
}

/// How many sent rows of a partition are kept below its cursor.
///
/// Kafka acknowledges what its in-sync replicas hold in memory; after the loss of all of them (or an unclean
/// election that an operator forced) acknowledged records can be missing. The rows kept here are what an
/// operator compares with the topic and sends again then: more than a producer can have had in flight.
pub const KEPT_SENT_ROWS: u64 = 1_000;

/// The store's side of the relay. Calls that give a [`Reply`] go through the store's writer; the others
/// block and belong on the relay's own threads.
pub trait OutboxStore: Send + Sync {
    /// Gives the ends of the partitions as this process knows them.
    fn outbox_heads(&self) -> Arc<OutboxHeads>;

    /// Reads the ends from the database into [`OutboxStore::outbox_heads`]: what another process wrote.
    fn refresh_heads(&self) -> Result<(), StoreError>;

    /// Takes the lease for so long, unless another holder has it: a new epoch for every cursor, in one
    /// transaction behind every write that was queued before. None when another relay holds it. A store that
    /// only one process can open never answers none.
    fn take_lease(&self, holder: RelayId, duration: Duration) -> Reply<Option<RelayLease>, StoreError>;

    /// Prolongs the lease by so long from now. False when it is no longer this holder's.
    fn renew_lease(&self, holder: RelayId, epoch: Epoch, duration: Duration) -> Reply<bool, StoreError>;

    /// Gives the lease up, so that another relay need not wait for its end. Not held any more: nothing.
    fn release_lease(&self, holder: RelayId, epoch: Epoch) -> Reply<(), StoreError>;

    /// Reads every cursor, in the order of partitions; those never leased are left out.
    fn cursors(&self) -> Result<Vec<Cursor>, StoreError>;

    /// Reads rows of several partitions, in their order and at most `max_bytes` of
    /// [`LogRecord::weight_bytes`] after the first row. Partitions without rows are left out.
    fn read_outbox(&self, wanted: &[WantedRows], max_bytes: usize) -> Result<Vec<OutboxRows>, StoreError>;

    /// Moves cursors, each by compare-and-set on (epoch, from). Answers those that were not moved.
    fn advance_cursors(
        &self,
        epoch: Epoch,
        moves: Vec<CursorMove>,
    ) -> Reply<Vec<OutboxPartition>, StoreError>;

    /// Keeps the record that a cursor stands at apart and moves the cursor behind it, with the command's
    /// audit record, in one transaction.
    fn set_aside(
        &self,
        command: Command,
        partition: OutboxPartition,
        offset: Offset,
        audit: OutgoingRecord,
    ) -> Reply<SetAsideAnswer, StoreError>;

    /// Lists records that were set aside, in order of partition and offset, behind one.
    fn set_aside_records_after(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        limit: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError>;

    /// Lists the first records that were set aside, in order of partition and offset.
    fn set_aside_records(&self, limit: usize) -> Reply<Page<SetAsideRecord>, StoreError> {
        self.set_aside_records_after(None, limit)
    }

    /// Removes at most `limit` rows that lie more than [`KEPT_SENT_ROWS`] below their cursor, oldest first in
    /// each partition, if `epoch` still owns the cursors. Answers how many.
    fn remove_sent(&self, epoch: Epoch, limit: usize) -> Reply<u64, StoreError>;
}

/// Rows of one partition that became visible together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitMark {
    /// The partition.
    pub partition: OutboxPartition,
    /// The end after the commit.
    pub end: Offset,
    /// When the commit was known.
    pub committed_at: Instant,
}

/// Marks that wait for the relay; above this, commits of one partition share the oldest one's time.
const MARKS_MAX: usize = 16_384;

#[derive(Default)]
struct HeadsState {
    ends: HashMap<OutboxPartition, Offset>,
    /// Kept only while somebody follows.
    marks: Vec<CommitMark>,
    listener: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Whether there may be a commit that nobody was told of.
    is_doubted: bool,
}

/// The ends of all partitions of the outbox, and the times of the commits that raised them.
///
/// Promises that an end never goes down and is raised only after the commit that appended the rows.
#[derive(Default)]
pub struct OutboxHeads {
    state: Mutex<HeadsState>,
}

impl fmt::Debug for OutboxHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxHeads").finish_non_exhaustive()
    }
}

impl OutboxHeads {
    fn lock(&self) -> MutexGuard<'_, HeadsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises ends after a commit at `committed_at`, and tells the listener if any went up.
    pub fn advance(&self, ends: impl IntoIterator<Item = (OutboxPartition, Offset)>, committed_at: Instant) {
        let listener = {
            let mut state = self.lock();
            let is_followed = state.listener.is_some();
            let mut is_raised = false;
            for (partition, end) in ends {
                let known = state.ends.entry(partition).or_default();
                if end <= *known {
                    continue;
                }
                *known = end;
                is_raised = true;
                if is_followed {
                    state.mark(CommitMark { partition, end, committed_at });
                }
            }
            if is_raised { state.listener.clone() } else { None }
        };
        if let Some(listener) = listener {
            listener();
        }
    }

    /// Notes that there may be a commit that nobody was told of, and tells the listener: the ends are to be read
    /// from the store.
    pub fn doubt(&self) {
        let listener = {
            let mut state = self.lock();
            state.is_doubted = true;
            state.listener.clone()
        };
        if let Some(listener) = listener {
            listener();
        }
    }

    /// Tells whether the ends were doubted since the last call.
    pub fn take_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().is_doubted)
    }

    /// Gives the end of a partition: the offset that the next row would get.
    pub fn end(&self, partition: OutboxPartition) -> Offset {
        self.lock().ends.get(&partition).copied().unwrap_or_default()
    }

    /// Gives every end that is known.
    pub fn ends(&self) -> HashMap<OutboxPartition, Offset> {
        self.lock().ends.clone()
    }

    /// Makes `listener` the one who is told, on the thread that committed; it must not block. Marks are kept
    /// from now on.
    pub fn follow(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.lock().listener = Some(Arc::new(listener));
    }

    /// Tells nobody any more, and forgets the marks.
    pub fn unfollow(&self) {
        let mut state = self.lock();
        state.listener = None;
        state.marks = Vec::new();
    }

    /// Takes the marks made since the last call, oldest first in each partition.
    pub fn take_marks(&self) -> Vec<CommitMark> {
        std::mem::take(&mut self.lock().marks)
    }
}

impl HeadsState {
    /// Keeps a mark; when there are too many, the partition's last one is stretched, so that times are told
    /// too long rather than too short.
    fn mark(&mut self, mark: CommitMark) {
        if self.marks.len() >= MARKS_MAX
            && let Some(last) = self.marks.iter_mut().rev().find(|kept| kept.partition == mark.partition)
        {
            last.end = mark.end;
            return;
        }
        self.marks.push(mark);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const HERE: OutboxPartition =
        OutboxPartition { topic: LogTopic::DeadLetter(Topic::JobMetrics), partition: Partition(3) };

    #[test]
    fn partitions_all_are_those_of_records_and_dead_letters() {
        let all: Vec<OutboxPartition> = OutboxPartition::all().collect();

        let records: u16 = Topic::ALL.iter().map(|topic| topic.partitions()).sum();
        assert_eq!(all.len(), usize::from(records) * 2);
        assert!(all.contains(&HERE));
    }

    #[test]
    fn heads_advance_only_upwards_and_only_then_tell() {
        let heads = OutboxHeads::default();
        let told = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&told);
        heads.follow(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let now = Instant::now();

        heads.advance([(HERE, Offset(5))], now);
        heads.advance([(HERE, Offset(4))], now);
        heads.advance([], now);

        assert_eq!((heads.end(HERE), told.load(Ordering::SeqCst)), (Offset(5), 1));
        assert_eq!(heads.take_marks().iter().map(|mark| mark.end.0).collect::<Vec<u64>>(), [5]);
        assert!(heads.take_marks().is_empty());
    }

    #[test]
    fn heads_too_many_marks_keep_the_oldest_time() {
        let heads = OutboxHeads::default();
        heads.follow(|| {});
        let (first, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));

        for end in 1..=MARKS_MAX as u64 {
            heads.advance([(HERE, Offset(end))], first);
        }
        heads.advance([(HERE, Offset(MARKS_MAX as u64 + 9))], later);

        let marks = heads.take_marks();
        let last = marks.last().map(|mark| (mark.end.0, mark.committed_at));
        assert_eq!((marks.len(), last), (MARKS_MAX, Some((MARKS_MAX as u64 + 9, first))));
    }

    #[test]
    fn heads_nobody_follows_keep_no_marks() {
        let heads = OutboxHeads::default();

        heads.advance([(HERE, Offset(5))], Instant::now());

        assert!(heads.take_marks().is_empty());
    }
}
