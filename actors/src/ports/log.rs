//! The event log: partitions of records, read by one independent reader per group (design D4, D8).
//!
//! Promises that a reader delivers each partition's records in offset order, tagged with the incarnation that
//! asked for them, and that it never waits for whoever takes them: without credit it holds back. Offsets that hold no
//! record for a reader are passed too: at the end of a partition by a batch without records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use crate::gap::GapKind;
use crate::ids::{Group, Incarnation, LogId, Offset, Topic, TopicPartition};
use crate::lane::credit::CreditPool;
use crate::ports::Reply;
use crate::ports::outbox::OutboxHeads;
use crate::ports::store::StoreError;
use crate::record::{Digest32, LogRecord, RecordBatch};

/// Tells why the log did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The log is away: the same call may succeed later.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// The partition is not assigned to this reader.
    #[error("partition `{0}` is not assigned to this reader")]
    NotAssigned(TopicPartition),
    /// The reader has been closed.
    #[error("reader is closed")]
    Closed,
    /// Another process has taken this reader's place in its group, or the log refuses it for good.
    #[error("reader is shut out for good: {0}")]
    ShutOut(String),
}

impl LogError {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, LogError::Unavailable(_))
    }
}

/// What a partition looks like from a stored position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The offset of the oldest retained record, or the end of an empty partition.
    pub low: Offset,
    /// Where readers find its end: [`LogEnds::stable`].
    pub high: Offset,
    /// The fingerprint of the last retained record below the position that was asked about.
    pub previous: Option<(Offset, Digest32)>,
    /// Where the records at the position that was asked about, or at `low`, cannot be read: the first offset behind
    /// them from which reading goes on.
    pub unreadable_until: Option<Offset>,
}

/// Where a partition ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogEnds {
    /// How far readers are given records. The first open transaction holds it back, until it is committed or aborted.
    pub stable: Offset,
    /// The offset that the next record would get; never below `stable`.
    pub high: Offset,
}

impl LogEnds {
    /// Makes those of a partition without open transactions.
    pub const fn closed(end: Offset) -> Self {
        Self { stable: end, high: end }
    }
}

/// Where a lane starts to read (design D2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAnswer {
    /// Where the store says.
    AtNext(Offset),
    /// At the low watermark, because nothing is stored: recorded, not a gap.
    FirstStart(Offset),
    /// Nowhere, until an operator decides.
    Gap(GapKind),
}

/// Partitions are taken away in good order.
#[derive(Debug)]
pub struct Revocation {
    /// Which.
    pub partitions: Vec<TopicPartition>,
    /// Until when the lanes may finish what they have at the store.
    pub deadline: Instant,
    /// Answered when the lanes have stopped; dropping it counts as an answer.
    pub done: oneshot::Sender<()>,
}

/// Who takes what a reader delivers: the group's dispatcher. Calls never block.
pub trait LogSink: Send + Sync {
    /// Partitions are now ours.
    fn assigned(&self, partitions: Vec<TopicPartition>);

    /// Partitions will be someone else's.
    fn revoked(&self, revocation: Revocation);

    /// Partitions are someone else's already: whatever is unfinished must not be finished.
    fn lost(&self, partitions: Vec<TopicPartition>);

    /// Records were read. Hands the batch back when it cannot be taken now.
    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch>;

    /// The reader cannot go on where an incarnation stands: the log no longer holds what it did there. Nothing
    /// more is delivered to that incarnation; the next one looks again, and finds the gap.
    fn broken(&self, partition: TopicPartition, incarnation: Incarnation);

    /// The ends of partitions, as heard just now.
    fn ends(&self, _ends: Vec<(TopicPartition, LogEnds)>) {}

    /// How the reader stands with its log, told when it changes. After an error that is not transient it
    /// delivers nothing more, and its partitions are lost.
    fn health(&self, _health: Result<(), LogError>) {}
}

/// A group's reader, as its dispatcher and lanes see it.
pub trait LogReader: Send + Sync {
    /// Looks at a partition from a position, without reading on.
    fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Reply<Inspection, LogError>;

    /// Asks the log itself whether the partition is still ours; a zombie is told no.
    fn confirm_ownership(&self, partition: TopicPartition, next: Offset) -> Reply<bool, LogError>;

    /// Starts to deliver a partition at a position for an incarnation; batches of an older one stop.
    fn start(
        &self,
        partition: TopicPartition,
        incarnation: Incarnation,
        from: Offset,
    ) -> Result<(), LogError>;

    /// Stops to deliver a partition, until it is started again.
    fn stop(&self, partition: TopicPartition, incarnation: Incarnation);

    /// Gives the end of a partition now: the offset that the next record would get.
    fn log_end(&self, partition: TopicPartition) -> Reply<Offset, LogError>;

    /// Tells lag tools how far the group is; never decides anything.
    fn commit_advisory(&self, partition: TopicPartition, next: Offset);

    /// Ends the reader; its thread is gone when the answer comes.
    fn close(&self) -> Reply<(), LogError>;
}

/// An event log.
pub trait EventLog: Send + Sync {
    /// Gives the log's id, a part of every stored key.
    fn id(&self) -> LogId;

    /// Opens a group's reader on some topics. It reports to `sink` and takes credit from `credits` for every
    /// batch it delivers.
    fn subscribe(
        &self,
        group: Group,
        topics: Vec<Topic>,
        sink: Arc<dyn LogSink>,
        credits: Arc<CreditPool>,
    ) -> Result<Arc<dyn LogReader>, LogError>;
}

/// The ends of every partition of an embedded log, kept in memory beside the store that holds the records.
///
/// Promises that an end never goes down and is raised only after the commit that appended the records, so
/// that whoever is told can read them. Not every commit is heard of: its answer may be lost, and others may write
/// to the store. So whoever reads by these ends has them read from the store again and again
/// ([`LogHeads::claim_refresh`]), at once after a commit whose outcome is unknown.
#[derive(Default)]
pub struct LogHeads {
    ends: Mutex<HashMap<TopicPartition, Offset>>,
    listeners: Mutex<Vec<HeadListener>>,
    refresh: Mutex<Refresh>,
    outbox: Arc<OutboxHeads>,
}

/// When the ends were last read from the store.
#[derive(Debug, Default)]
struct Refresh {
    at: Option<Instant>,
    /// Whether there may be a commit that nobody was told of.
    is_doubted: bool,
}

impl Refresh {
    fn due_in(&self, every: Duration, now: Instant) -> Duration {
        match self.at {
            Some(at) if !self.is_doubted => (at + every).saturating_duration_since(now),
            _ => Duration::ZERO,
        }
    }
}

/// Called after ends were raised, on the thread that committed; it must not block.
type HeadListener = Arc<dyn Fn() + Send + Sync>;

impl std::fmt::Debug for LogHeads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHeads").finish_non_exhaustive()
    }
}

impl LogHeads {
    /// Gives the end of a partition: the offset that the next record would get.
    pub fn end(&self, partition: TopicPartition) -> Offset {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied().unwrap_or_default()
    }

    /// Gives the ends as the relay sees them, those of dead letters included.
    pub fn outbox(&self) -> Arc<OutboxHeads> {
        Arc::clone(&self.outbox)
    }

    /// Raises ends after a commit, and tells the listeners if any went up.
    pub fn advance(&self, ends: impl IntoIterator<Item = (TopicPartition, Offset)>) {
        let mut is_raised = false;
        {
            let mut known = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            for (partition, end) in ends {
                let entry = known.entry(partition).or_default();
                is_raised |= end > *entry;
                *entry = end.max(*entry);
            }
        }
        if is_raised {
            self.tell();
        }
    }

    /// Notes that there may be a commit that nobody was told of, and has the ends read from the store.
    pub fn doubt(&self) {
        self.refresh().is_doubted = true;
        self.tell();
        self.outbox.doubt();
    }

    /// Tells whether the caller is to read the ends from the store: they were not read for so long, or there is
    /// a doubt. Of several who ask, one is told so.
    pub fn claim_refresh(&self, every: Duration, now: Instant) -> bool {
        let mut refresh = self.refresh();
        if !refresh.due_in(every, now).is_zero() {
            return false;
        }
        *refresh = Refresh { at: Some(now), is_doubted: false };
        true
    }

    /// Notes that the ends could not be read: whoever asks next is to.
    pub fn refresh_failed(&self) {
        self.refresh().is_doubted = true;
    }

    /// Gives in how long the ends are to be read again.
    pub fn refresh_in(&self, every: Duration, now: Instant) -> Duration {
        self.refresh().due_in(every, now)
    }

    fn refresh(&self) -> MutexGuard<'_, Refresh> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in listeners {
            listener();
        }
    }

    /// Adds a listener. It is never removed: readers live as long as the program.
    pub fn on_advance(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
    }
}

/// The store's side of the embedded log: reading its outbox table as a log (design D8).
///
/// The calls block and belong on a reader's own thread.
pub trait RecordSource: Send + Sync {
    /// Gives the ends of the partitions, as this process knows them.
    fn heads(&self) -> Arc<LogHeads>;

    /// Reads the ends from the store into [`RecordSource::heads`]: what was committed without being told.
    fn refresh_heads(&self) -> Result<(), StoreError>;

    /// Gives the offset of the oldest retained record, or the end of an empty partition.
    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError>;

    /// Reads records from an offset on, in order, at most `max_records` and, after the first, `max_bytes` of
    /// [`LogRecord::weight_bytes`].
    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError>;

    /// Reads the last retained record below a position.
    fn read_previous(&self, partition: TopicPartition, next: Offset)
    -> Result<Option<LogRecord>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    #[test]
    fn refresh_is_claimed_once_a_time_and_at_once_after_a_doubt() {
        let heads = LogHeads::default();
        let now = Instant::now();

        let claimed = [
            heads.claim_refresh(EVERY, now),
            heads.claim_refresh(EVERY, now + EVERY / 2),
            heads.claim_refresh(EVERY, now + EVERY),
        ];
        heads.doubt();
        let doubted = [heads.claim_refresh(EVERY, now + EVERY), heads.claim_refresh(EVERY, now + EVERY)];
        heads.refresh_failed();

        assert_eq!(claimed, [true, false, true]);
        assert_eq!(doubted, [true, false]);
        assert!(heads.refresh_in(EVERY, now + EVERY).is_zero());
        assert!(heads.outbox().take_doubt() && !heads.outbox().take_doubt());
    }
}
