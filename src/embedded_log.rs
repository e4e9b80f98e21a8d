//! The embedded event log: the store's outbox table, read as a log (design D8).
//!
//! Promises one reader thread per group that delivers every committed record of its partitions in offset
//! order, never faster than credits allow, and that sleeps while there is nothing to read. All partitions are
//! assigned at once and for good: the data folder's lock makes this process their one owner.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use horizons_actors::heartbeat::{self, Heartbeat};
use horizons_actors::ids::{Group, Incarnation, LogId, Offset, Topic, TopicPartition};
use horizons_actors::lane::credit::CreditPool;
use horizons_actors::lane::guard::guard;
use horizons_actors::ports::Reply;
use horizons_actors::ports::log::{
    EventLog, Inspection, LogEnds, LogError, LogHeads, LogReader, LogSink, RecordSource,
};
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::{LogRecord, RecordBatch};
use tokio::sync::oneshot;

/// How long a reader waits before it offers a batch again that its dispatcher could not take.
const OFFER_AGAIN: Duration = Duration::from_millis(2);

/// How long a reader waits before it reads again from a store that failed.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// The shortest sleep of a reader that has nothing to do.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// How often the ends of partitions are read from the store: what was committed without this process hearing of it
/// is seen so soon.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// How often a reader tells its dispatcher where the partitions end, at most.
const TELL_ENDS_EVERY: Duration = Duration::from_secs(1);

/// How much one batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes, as [`LogRecord::weight_bytes`] counts them; one record may be larger.
    pub bytes: usize,
}

/// The embedded log over a store.
pub struct EmbeddedLog {
    id: LogId,
    source: Arc<dyn RecordSource>,
    limits: BatchLimits,
}

impl EmbeddedLog {
    /// Opens the log with the store's log id.
    pub fn new(id: LogId, source: Arc<dyn RecordSource>, limits: BatchLimits) -> Self {
        Self { id, source, limits }
    }
}

impl EventLog for EmbeddedLog {
    fn id(&self) -> LogId {
        self.id.clone()
    }

    fn subscribe(
        &self,
        group: Group,
        topics: Vec<Topic>,
        sink: Arc<dyn LogSink>,
        credits: Arc<CreditPool>,
    ) -> Result<Arc<dyn LogReader>, LogError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            source: Arc::clone(&self.source),
            credits: Arc::clone(&credits),
            limits: self.limits,
        });
        // Weak, because the log's heads outlive a reader whose dispatcher is started anew.
        let woken: Weak<Shared> = Arc::downgrade(&shared);
        let wake = move || {
            if let Some(shared) = woken.upgrade() {
                shared.wake();
            }
        };
        self.source.heads().on_advance(wake.clone());
        credits.on_return(wake);
        let partitions: Vec<TopicPartition> =
            topics.iter().flat_map(|topic| topic.all_partitions()).collect();
        let reader = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("reader-{group}"))
            .spawn(move || {
                let heartbeat = heartbeat::register(format!("reader-{group}"));
                sink.assigned(partitions.clone());
                reader.run(sink.as_ref(), Ends::of(partitions), &heartbeat);
            })
            .map_err(|error| LogError::Unavailable(format!("failed to start a reader thread: {error}")))?;
        Ok(Arc::new(EmbeddedReader { shared }))
    }
}

/// Where a partition's reading stands.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    incarnation: Incarnation,
    position: Offset,
}

/// A question that is answered on the reader's thread, because it reads the store.
struct Inspect {
    partition: TopicPartition,
    next: Option<Offset>,
    answer: oneshot::Sender<Result<Inspection, LogError>>,
}

#[derive(Default)]
struct State {
    cursors: BTreeMap<TopicPartition, Cursor>,
    inspections: Vec<Inspect>,
    closed: Option<Vec<oneshot::Sender<()>>>,
    is_ended: bool,
    /// Counts wake-ups, so that one between a look and a sleep is not lost.
    wakes: u64,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    source: Arc<dyn RecordSource>,
    credits: Arc<CreditPool>,
    limits: BatchLimits,
}

/// What the dispatcher was told of the partitions' ends.
struct Ends {
    told: BTreeMap<TopicPartition, Offset>,
    told_at: Option<Instant>,
}

impl Ends {
    fn of(partitions: Vec<TopicPartition>) -> Self {
        Self { told: partitions.into_iter().map(|one| (one, Offset::default())).collect(), told_at: None }
    }

    /// Tells ends that have changed, unless some were told a moment ago; gives when to call again then.
    fn tell(&mut self, heads: &LogHeads, sink: &dyn LogSink) -> Option<Duration> {
        let changed: Vec<(TopicPartition, Offset)> = self
            .told
            .iter()
            .map(|(partition, told)| (*partition, heads.end(*partition), *told))
            .filter(|(_, end, told)| end != told)
            .map(|(partition, end, _)| (partition, end))
            .collect();
        if changed.is_empty() {
            return None;
        }
        let pause = self.told_at.map_or(Duration::ZERO, |at| TELL_ENDS_EVERY.saturating_sub(at.elapsed()));
        if !pause.is_zero() {
            return Some(pause);
        }
        self.told_at = Some(Instant::now());
        self.told.extend(changed.iter().copied());
        sink.ends(changed.into_iter().map(|(one, end)| (one, LogEnds::closed(end))).collect());
        None
    }
}

/// How long the reader may sleep after a round.
enum Round {
    /// Something was delivered: look again at once.
    Busy,
    /// Nothing can be done until something changes.
    Idle,
    /// Something failed: look again after a while.
    Later(Duration),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.state().wakes += 1;
        self.wake.notify_one();
    }

    /// The reader thread: rounds over the partitions, asleep while there is nothing to do.
    fn run(&self, sink: &dyn LogSink, mut ends: Ends, heartbeat: &Heartbeat) {
        loop {
            heartbeat.works("a round");
            let (seen, inspections, cursors) = {
                let mut state = self.state();
                if let Some(waiting) = state.closed.as_mut().map(std::mem::take) {
                    state.is_ended = true;
                    state.inspections.clear();
                    drop(state);
                    for closed in waiting {
                        // Whoever closed the reader may not wait for the answer.
                        let _heard = closed.send(());
                    }
                    return;
                }
                (state.wakes, std::mem::take(&mut state.inspections), state.cursors.clone())
            };
            for Inspect { partition, next, answer } in inspections {
                // A lane that was stopped meanwhile does not listen any more.
                let inspected = guard(|| self.inspect(partition, next))
                    .unwrap_or_else(|panic| Err(LogError::Unavailable(panic.to_string())));
                let _heard = answer.send(inspected);
            }
            // A panic is the store's or the dispatcher's; the thread must outlive it, or the group would stall.
            let round = guard(|| self.round(sink, cursors)).unwrap_or_else(|panic| {
                tracing::error!(error = %panic, "reader panicked: it reads again");
                Round::Later(READ_AGAIN)
            });
            let heads = self.source.heads();
            let until_ends = ends.tell(&heads, sink);
            let (limit, seen) = match round {
                Round::Busy => continue,
                Round::Idle => {
                    let until_refresh = heads.refresh_in(REFRESH_EVERY, Instant::now());
                    let limit = until_ends.map_or(until_refresh, |until| until.min(until_refresh));
                    (limit.max(SLEEP_MIN), seen)
                }
                // The credit of what was handed back has counted as a wake-up: only newer ones end the pause.
                Round::Later(pause) => (pause, self.state().wakes),
            };
            heartbeat.waits("records");
            let state = self.state();
            if state.wakes == seen {
                drop(self.wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Reads one batch of every partition that has something and may take it.
    fn round(&self, sink: &dyn LogSink, cursors: BTreeMap<TopicPartition, Cursor>) -> Round {
        let heads = self.source.heads();
        let mut round = self.refresh(&heads);
        for (partition, cursor) in cursors {
            let end = heads.end(partition);
            let (records, bytes) = self.credits.available(partition);
            if cursor.position >= end || records == 0 || bytes == 0 {
                continue;
            }
            let (records, bytes) = (records.min(self.limits.records), bytes.min(self.limits.bytes));
            let read = match self.source.read(partition, cursor.position, records, bytes) {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(partition = %partition, error = %error, "failed to read the log: tries again");
                    // The other partitions may be readable all the same.
                    if matches!(round, Round::Idle) {
                        round = Round::Later(READ_AGAIN);
                    }
                    continue;
                }
            };
            if read.is_empty() {
                // Below its end a partition of this log has no holes.
                tracing::error!(partition = %partition, offset = %cursor.position, "the log lacks records below its end");
                round = Round::Later(READ_AGAIN);
                continue;
            }
            match self.deliver(sink, partition, cursor, end, read) {
                Delivery::Done => round = Round::Busy,
                Delivery::Nothing => {}
                Delivery::HandedBack => {
                    if !matches!(round, Round::Busy) {
                        round = Round::Later(OFFER_AGAIN);
                    }
                }
            }
        }
        round
    }

    /// Reads the ends from the store, if it is time to.
    fn refresh(&self, heads: &LogHeads) -> Round {
        if heads.claim_refresh(REFRESH_EVERY, Instant::now())
            && let Err(error) = self.source.refresh_heads()
        {
            tracing::debug!(%error, "failed to read the ends of the log: tries again");
            heads.refresh_failed();
            return Round::Later(READ_AGAIN);
        }
        Round::Idle
    }

    fn deliver(
        &self,
        sink: &dyn LogSink,
        partition: TopicPartition,
        cursor: Cursor,
        log_end: Offset,
        records: Vec<LogRecord>,
    ) -> Delivery {
        let Some(next) = records.last().map(|record| record.offset.following()) else {
            return Delivery::Nothing;
        };
        let weight = records.iter().map(LogRecord::weight_bytes).sum();
        let Some(credit) = self.credits.try_take(partition, records.len(), weight) else {
            return Delivery::Nothing;
        };
        {
            // Moved before the batch is offered: once it is, the lane may have ended and started anew.
            let mut state = self.state();
            match state.cursors.get_mut(&partition) {
                Some(current)
                    if current.incarnation == cursor.incarnation && current.position == cursor.position =>
                {
                    current.position = next;
                }
                _ => return Delivery::Nothing,
            }
        }
        let batch = RecordBatch {
            topic_partition: partition,
            incarnation: cursor.incarnation,
            from: cursor.position,
            next,
            records,
            log_end,
            credit,
        };
        if sink.read(batch).is_ok() {
            return Delivery::Done;
        }
        if let Some(current) = self.state().cursors.get_mut(&partition)
            && current.incarnation == cursor.incarnation
        {
            current.position = cursor.position;
        }
        Delivery::HandedBack
    }

    fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Result<Inspection, LogError> {
        let low = self.source.low(partition).map_err(unavailable)?;
        let previous = match next {
            Some(next) => self.source.read_previous(partition, next).map_err(unavailable)?,
            None => None,
        };
        Ok(Inspection {
            low,
            high: self.source.heads().end(partition),
            previous: previous.map(|record| (record.offset, record.fingerprint())),
            unreadable_until: None,
        })
    }
}

/// What became of a batch.
enum Delivery {
    Done,
    Nothing,
    HandedBack,
}

fn unavailable(error: StoreError) -> LogError {
    LogError::Unavailable(error.to_string())
}

/// A group's handle on its reader thread.
struct EmbeddedReader {
    shared: Arc<Shared>,
}

impl LogReader for EmbeddedReader {
    fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Reply<Inspection, LogError> {
        let (answer, heard) = oneshot::channel();
        let mut state = self.shared.state();
        if state.closed.is_some() {
            return async { Err(LogError::Closed) }.boxed();
        }
        state.inspections.push(Inspect { partition, next, answer });
        drop(state);
        self.shared.wake();
        async move { heard.await.unwrap_or(Err(LogError::Closed)) }.boxed()
    }

    fn confirm_ownership(&self, _partition: TopicPartition, _next: Offset) -> Reply<bool, LogError> {
        // The data folder's lock is held as long as the process lives.
        async { Ok(true) }.boxed()
    }

    fn start(
        &self,
        partition: TopicPartition,
        incarnation: Incarnation,
        from: Offset,
    ) -> Result<(), LogError> {
        let mut state = self.shared.state();
        if state.closed.is_some() {
            return Err(LogError::Closed);
        }
        state.cursors.insert(partition, Cursor { incarnation, position: from });
        drop(state);
        self.shared.wake();
        Ok(())
    }

    fn stop(&self, partition: TopicPartition, incarnation: Incarnation) {
        let mut state = self.shared.state();
        if state.cursors.get(&partition).is_some_and(|cursor| cursor.incarnation == incarnation) {
            state.cursors.remove(&partition);
        }
    }

    fn log_end(&self, partition: TopicPartition) -> Reply<Offset, LogError> {
        let end = self.shared.source.heads().end(partition);
        async move { Ok(end) }.boxed()
    }

    fn commit_advisory(&self, _partition: TopicPartition, _next: Offset) {
        // Lag tools of the embedded log read the stored progress itself.
    }

    fn close(&self) -> Reply<(), LogError> {
        let (closed, heard) = oneshot::channel();
        let mut state = self.shared.state();
        if state.is_ended {
            return async { Ok(()) }.boxed();
        }
        state.closed.get_or_insert_default().push(closed);
        drop(state);
        self.shared.wake();
        async move {
            // A reader that ended meanwhile is closed as well.
            let _closed = heard.await;
            Ok(())
        }
        .boxed()
    }
}

impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        drop(self.close());
    }
}

#[cfg(test)]
mod tests;
