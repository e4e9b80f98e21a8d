//! The thread that looks at single records and at the ends of partitions, for all groups together.
//!
//! Promises that many questions at once cost a few requests; that no question waits longer than its time
//! limit; and that a running lane hears of a log that changed under it. It has a client of its own, a member
//! of no group, so that looking never disturbs reading.
//!
//! # A topic that was made anew under a running consumer
//!
//! librdkafka 2.12.1 takes a topic of the same name for the same topic: when its id changes, it notes the new
//! one and goes on at the old offset (`rdkafka_topic.c` carries a FIXME about just that). Against Kafka 4.3:
//!
//! - Deleted and not made again: fetches fail in silence. With its next refresh of metadata (after up to 30 s)
//!   the client reports `UnknownTopicOrPartition`, and the partitions are lost. Meanwhile questions for the
//!   topic's ends time out, and the reader tells that its log is not well.
//! - Made anew with fewer records, none included: the next fetch is out of range, within a second, and
//!   `auto.offset.reset=error` reports it, without saying for which partition; all lanes of the group look
//!   again. An end below a lane's position says the same, and is believed after [`SETTLE_AFTER`].
//! - Made anew with more records: nothing is reported, and the consumer reads on from the middle of the new
//!   topic. Only the record before its position tells; it is read again every
//!   [`recheck_every`](super::config::KafkaConfig::recheck_every), and at once after an error about a topic.
//!   Until that happens a lane may have applied records from behind the gap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use horizons_actors::heartbeat;
use horizons_actors::ids::{Offset, Partition, Topic, TopicPartition};
use horizons_actors::lane::guard::guard;
use horizons_actors::ports::Reply;
use horizons_actors::ports::log::{Inspection, LogEnds, LogError};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::oneshot;

use super::config::KafkaConfig;
use super::context::log_line;
use super::look::{Bounds, LookError, Looker, Previous, Sees};
use super::names::TopicNames;
use super::shared::Shared;

/// How often the ends of assigned partitions are asked for.
const TICK: Duration = Duration::from_secs(1);

/// How long a round may wait for those ends: a log that answers later than that is not well.
const TICK_LIMIT: Duration = Duration::from_secs(2);

/// For how long a log may end below a position, or hold nothing below it, before that is believed: a partition's new
/// leader may at first know of fewer committed records than its predecessor did.
const SETTLE_AFTER: Duration = Duration::from_secs(3);

/// How long the thread waits before it asks again about a log that has not settled.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Rounds of questions that must fail before a log counts as away: a leader that moves is no loss.
const FAILURES_UNTIL_AWAY: u32 = 2;

/// How long a look may take before the thread counts as stuck: each of its requests has a limit, for every partition.
const LOOK_LIMIT: Duration = Duration::from_secs(600);

/// A question.
enum Ask {
    Inspect {
        partition: TopicPartition,
        next: Option<Offset>,
        answer: oneshot::Sender<Result<Inspection, LogError>>,
        /// Since when the log was seen to end below the position, or to hold nothing below it.
        unsettled_since: Option<Instant>,
    },
    End {
        partition: TopicPartition,
        answer: oneshot::Sender<Result<Offset, LogError>>,
    },
}

impl Ask {
    fn is_given_up(&self) -> bool {
        match self {
            Ask::Inspect { answer, .. } => answer.is_closed(),
            Ask::End { answer, .. } => answer.is_closed(),
        }
    }
}

#[derive(Default)]
struct Queue {
    asks: Vec<Ask>,
    watched: Vec<Weak<Shared>>,
    is_recheck_due: bool,
    is_started: bool,
    is_ended: bool,
}

struct Inner {
    config: KafkaConfig,
    names: TopicNames,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The handle on the thread; the thread ends with the last one.
pub(super) struct Inspector {
    inner: Arc<Inner>,
}

impl Inspector {
    pub(super) fn new(config: KafkaConfig, names: TopicNames) -> Self {
        let queue = Mutex::default();
        Self { inner: Arc::new(Inner { config, names, queue, changed: Condvar::new() }) }
    }

    /// Looks at a partition from a position.
    pub(super) fn inspect(
        &self,
        partition: TopicPartition,
        next: Option<Offset>,
    ) -> Reply<Inspection, LogError> {
        let (answer, heard) = oneshot::channel();
        self.ask(Ask::Inspect { partition, next, answer, unsettled_since: None }, heard)
    }

    /// Gives the end of a partition.
    pub(super) fn end(&self, partition: TopicPartition) -> Reply<Offset, LogError> {
        let (answer, heard) = oneshot::channel();
        self.ask(Ask::End { partition, answer }, heard)
    }

    fn ask<T: Send + 'static>(
        &self,
        ask: Ask,
        heard: oneshot::Receiver<Result<T, LogError>>,
    ) -> Reply<T, LogError> {
        let mut queue = self.inner.queue();
        queue.asks.push(ask);
        let started = self.start(&mut queue);
        drop(queue);
        self.inner.changed.notify_one();
        let limit = self.inner.config.request_limit + SETTLE_AFTER;
        async move {
            started?;
            match tokio::time::timeout(limit, heard).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(LogError::Closed),
                Err(_) => Err(LogError::Unavailable(format!("no answer within {limit:?}"))),
            }
        }
        .boxed()
    }

    /// Watches a reader's partitions from now on.
    pub(super) fn watch(&self, reader: &Arc<Shared>) -> Result<(), LogError> {
        let mut queue = self.inner.queue();
        queue.watched.push(Arc::downgrade(reader));
        self.start(&mut queue)?;
        drop(queue);
        self.inner.changed.notify_one();
        Ok(())
    }

    /// Makes the next round compare what lanes were handed last with what the log holds.
    pub(super) fn recheck_soon(&self) {
        self.inner.queue().is_recheck_due = true;
    }

    fn start(&self, queue: &mut Queue) -> Result<(), LogError> {
        if queue.is_started {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::Builder::new().name("kafka-inspector".to_owned());
        thread
            .spawn(move || Rounds::new(inner).run())
            .map_err(|error| LogError::Unavailable(format!("failed to start a thread: {error}")))?;
        queue.is_started = true;
        Ok(())
    }
}

impl Drop for Inspector {
    fn drop(&mut self) {
        self.inner.queue().is_ended = true;
        self.inner.changed.notify_one();
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What wakes the thread.
struct Work {
    asks: Vec<Ask>,
    is_tick: bool,
    is_recheck: bool,
}

/// The thread's own state.
struct Rounds {
    inner: Arc<Inner>,
    /// Made on first use, and anew when it cannot be made.
    looker: Option<Looker>,
    /// The same for one that sees open transactions.
    high_looker: Option<Looker>,
    next_tick: Instant,
    next_recheck: Instant,
    ask_again_at: Option<Instant>,
    /// Questions that wait for a log to settle.
    settling: Vec<Ask>,
    /// Since when a lane's position has been above the end.
    beyond: BTreeMap<(usize, TopicPartition), Instant>,
    failures: u32,
}

impl Rounds {
    fn new(inner: Arc<Inner>) -> Self {
        let now = Instant::now();
        Self {
            next_tick: now + TICK,
            next_recheck: now + inner.config.recheck_every,
            ask_again_at: None,
            inner,
            looker: None,
            high_looker: None,
            settling: Vec::new(),
            beyond: BTreeMap::new(),
            failures: 0,
        }
    }

    fn run(mut self) {
        let heartbeat = heartbeat::register("kafka-inspector");
        while let Some(Work { asks, is_tick, is_recheck }) = self.wait() {
            heartbeat.works_at_most("a look", LOOK_LIMIT);
            // A panic would be the client library's; lanes that wait for it must hear something.
            let served = guard(|| {
                if !asks.is_empty() {
                    self.serve(asks);
                }
                if is_tick {
                    self.tick(is_recheck);
                }
            });
            if let Err(panic) = served {
                tracing::error!(error = %panic, "inspector panicked: it looks again");
                (self.looker, self.high_looker) = (None, None);
            }
            heartbeat.waits("questions");
        }
    }

    /// Sleeps until there is something to do; none when the log is closed.
    fn wait(&mut self) -> Option<Work> {
        let inner = Arc::clone(&self.inner);
        let mut queue = inner.queue();
        loop {
            if queue.is_ended {
                return None;
            }
            queue.watched.retain(|reader| reader.strong_count() > 0);
            let now = Instant::now();
            let mut asks = std::mem::take(&mut queue.asks);
            if self.ask_again_at.is_some_and(|at| at <= now) {
                self.ask_again_at = None;
                asks.append(&mut self.settling);
            }
            let is_tick = !queue.watched.is_empty() && (self.next_tick <= now || queue.is_recheck_due);
            if !asks.is_empty() || is_tick {
                let mut is_recheck = false;
                if is_tick {
                    self.next_tick = now + TICK;
                    is_recheck = std::mem::take(&mut queue.is_recheck_due) || self.next_recheck <= now;
                }
                if is_recheck {
                    self.next_recheck = now + inner.config.recheck_every;
                }
                asks.retain(|ask| !ask.is_given_up());
                return Some(Work { asks, is_tick, is_recheck });
            }
            let tick = (!queue.watched.is_empty()).then_some(self.next_tick);
            let until = [tick, self.ask_again_at].into_iter().flatten().min();
            queue = match until {
                None => inner.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let limit = until.saturating_duration_since(now);
                    inner.changed.wait_timeout(queue, limit).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn looker(&mut self) -> Result<&Looker, LookError> {
        if self.looker.is_none() {
            self.looker = Some(Looker::new(&self.inner.config, self.inner.names.clone(), Sees::Committed)?);
        }
        self.looker.as_ref().ok_or(LookError::Gone)
    }

    /// Asks where partitions end, open transactions included; what is not answered is left out.
    fn highs(&mut self, partitions: &BTreeSet<TopicPartition>) -> Bounds {
        if self.high_looker.is_none() {
            let made = Looker::new(&self.inner.config, self.inner.names.clone(), Sees::Everything);
            self.high_looker = made.ok();
        }
        let looker = self.high_looker.as_ref();
        looker.map(|looker| looker.highs(partitions, TICK_LIMIT)).unwrap_or_default()
    }

    /// Answers questions, all with the same few requests.
    fn serve(&mut self, asks: Vec<Ask>) {
        let mut of_low = BTreeSet::new();
        let mut of_high = BTreeSet::new();
        for ask in &asks {
            match ask {
                Ask::Inspect { partition, .. } => {
                    of_low.insert(*partition);
                    of_high.insert(*partition);
                }
                Ask::End { partition, .. } => {
                    of_high.insert(*partition);
                }
            }
        }
        let limit = self.inner.config.request_limit;
        let looked = self.looker().map(|looker| (looker.lows(&of_low), looker.highs(&of_high, limit)));
        let (lows, highs) = match looked {
            Ok(looked) => looked,
            Err(error) => return refuse(asks, &error.to_string()),
        };
        let bounds = |partition: &TopicPartition| -> Result<(Offset, Offset), String> {
            let of = |found: &BTreeMap<TopicPartition, Result<Offset, String>>| {
                found.get(partition).cloned().unwrap_or_else(|| Err("no answer".to_owned()))
            };
            Ok((of(&lows)?, of(&highs)?))
        };
        let mut wanted: BTreeSet<Previous> = BTreeSet::new();
        let mut open = Vec::new();
        for ask in asks {
            match ask {
                Ask::End { partition, answer } => {
                    let end = highs.get(&partition).cloned().unwrap_or_else(|| Err("no answer".to_owned()));
                    // Whoever asked may have given up; so below.
                    let _heard = answer.send(end.map_err(LogError::Unavailable));
                }
                Ask::Inspect { partition, next, answer, unsettled_since } => match bounds(&partition) {
                    Err(reason) => {
                        let _heard = answer.send(Err(LogError::Unavailable(reason)));
                    }
                    Ok((_, high))
                        if next.is_some_and(|next| next > high) && !has_settled(unsettled_since) =>
                    {
                        self.ask_later(Ask::Inspect { partition, next, answer, unsettled_since });
                    }
                    Ok((low, high)) => {
                        let before = next.filter(|next| *next > low && *next <= high);
                        let previous = before.map(|next| Previous { partition, next, low });
                        wanted.extend(previous);
                        open.push((partition, next, unsettled_since, answer, (low, high), previous));
                    }
                },
            }
        }
        let found = match self.looker() {
            Ok(looker) => looker.previous(&wanted).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        for (partition, next, unsettled_since, answer, (low, high), previous) in open {
            let inspection = match (&found, previous) {
                (_, None) => Ok(Inspection { low, high, previous: None, unreadable_until: None }),
                (Ok(found), Some(asked)) => match found.get(&asked).copied().flatten() {
                    // Its own bounds say that there are offsets below the position. Without a record there, nothing
                    // tells whether the log is still the same: that is not believed at once.
                    None if !has_settled(unsettled_since) => {
                        self.ask_later(Ask::Inspect { partition, next, answer, unsettled_since });
                        continue;
                    }
                    previous => Ok(Inspection { low, high, previous, unreadable_until: None }),
                },
                (Err(reason), Some(_)) => Err(LogError::Unavailable(reason.clone())),
            };
            let _heard = answer.send(inspection);
        }
    }

    /// Puts a question back whose log has not settled.
    fn ask_later(&mut self, mut ask: Ask) {
        let now = Instant::now();
        if let Ask::Inspect { unsettled_since, .. } = &mut ask {
            unsettled_since.get_or_insert(now);
        }
        self.settling.push(ask);
        self.ask_again_at = Some(now + ASK_AGAIN);
    }

    /// Asks where assigned partitions end, and tells the readers.
    fn tick(&mut self, is_recheck: bool) {
        let readers: Vec<Arc<Shared>> = self.inner.queue().watched.iter().filter_map(Weak::upgrade).collect();
        if readers.is_empty() {
            return;
        }
        let mut partitions: BTreeSet<TopicPartition> =
            readers.iter().flat_map(|reader| reader.owned()).collect();
        if partitions.is_empty() {
            // A member that lost everything while the brokers are away is to say so, and when they answer again.
            partitions.insert(TopicPartition { topic: Topic::JobLifecycle, partition: Partition(0) });
        }
        let ends = match self.looker() {
            Ok(looker) => looker.highs(&partitions, TICK_LIMIT),
            Err(error) => partitions.iter().map(|one| (*one, Err(error.to_string()))).collect(),
        };
        let known: BTreeMap<TopicPartition, Offset> =
            ends.iter().filter_map(|(one, end)| end.as_ref().ok().map(|end| (*one, *end))).collect();
        self.failures = if known.is_empty() { self.failures.saturating_add(1) } else { 0 };
        // Asked for afterwards, so that an end that moves on is not taken for one that is held back.
        let highs = if known.is_empty() { Bounds::new() } else { self.highs(&partitions) };
        let all: BTreeMap<TopicPartition, LogEnds> = known
            .iter()
            .map(|(one, stable)| {
                let high = highs.get(one).and_then(|high| high.as_ref().ok()).copied();
                (*one, LogEnds { stable: *stable, high: high.map_or(*stable, |high| high.max(*stable)) })
            })
            .collect();
        for reader in &readers {
            let owned = reader.owned();
            let error = match owned.as_slice() {
                // It has no partition of its own to ask about: whether brokers answer at all is what it tells.
                [] if known.is_empty() => ends.values().find_map(|end| end.as_ref().err().cloned()),
                owned => owned.iter().find_map(|one| ends.get(one)?.as_ref().err().cloned()),
            };
            match error {
                Some(error) if !known.is_empty() || self.failures >= FAILURES_UNTIL_AWAY => {
                    reader.tell_health(Err(error));
                }
                Some(_) => {}
                None => reader.tell_health(Ok(())),
            }
            reader.tell_ends(&all);
        }
        self.find_positions_beyond(&readers, &known);
        if is_recheck && !known.is_empty() {
            self.recheck(&readers);
        }
    }

    /// Finds lanes whose position is above the end, for longer than a new leader may need.
    fn find_positions_beyond(&mut self, readers: &[Arc<Shared>], ends: &BTreeMap<TopicPartition, Offset>) {
        let mut beyond = BTreeMap::new();
        for reader in readers {
            for (partition, mark) in reader.marks() {
                if ends.get(&partition).is_none_or(|end| mark.position <= *end) {
                    continue;
                }
                let key = (Arc::as_ptr(reader) as usize, partition);
                let since = self.beyond.get(&key).copied().unwrap_or_else(Instant::now);
                if since.elapsed() >= SETTLE_AFTER {
                    tracing::warn!(group = %reader.group, partition = %partition, position = %mark.position, "the log ends below a lane's position");
                    reader.tell_broken(partition, mark.incarnation);
                } else {
                    beyond.insert(key, since);
                }
            }
        }
        self.beyond = beyond;
    }

    /// Reads again what lanes were handed last, and compares.
    fn recheck(&mut self, readers: &[Arc<Shared>]) {
        let mut marks = Vec::new();
        for reader in readers {
            for (partition, mark) in reader.marks() {
                if let Some(last) = mark.last {
                    marks.push((reader, partition, mark.incarnation, last));
                }
            }
        }
        let partitions: BTreeSet<TopicPartition> = marks.iter().map(|mark| mark.1).collect();
        let Ok(looker) = self.looker() else { return };
        let lows = looker.lows(&partitions);
        let asked = |partition: TopicPartition, offset: Offset| -> Option<Previous> {
            let low = *lows.get(&partition)?.as_ref().ok()?;
            (offset >= low).then_some(Previous { partition, next: offset.following(), low })
        };
        let wanted = marks.iter().filter_map(|(_, partition, _, last)| asked(*partition, last.0)).collect();
        let found = match looker.previous(&wanted) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error = %error, "failed to compare what lanes were handed: later again");
                return;
            }
        };
        for (reader, partition, incarnation, last) in marks {
            let held = asked(partition, last.0).and_then(|asked| found.get(&asked).copied().flatten());
            if held.is_some_and(|held| held.0 == last.0 && held.1 != last.1) {
                tracing::warn!(group = %reader.group, partition = %partition, offset = %last.0, "the log holds another record than a lane was handed");
                reader.tell_broken(partition, incarnation);
            }
        }
    }
}

fn has_settled(unsettled_since: Option<Instant>) -> bool {
    unsettled_since.is_some_and(|since| since.elapsed() >= SETTLE_AFTER)
}

fn refuse(asks: Vec<Ask>, reason: &str) {
    for ask in asks {
        let error = LogError::Unavailable(reason.to_owned());
        // Whoever asked may have given up.
        match ask {
            Ask::Inspect { answer, .. } => drop(answer.send(Err(error))),
            Ask::End { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

/// The client library's view of the inspector: only its log lines matter.
pub(super) struct InspectorContext;

/// The inspector's client.
pub(super) type InspectorConsumer = BaseConsumer<InspectorContext>;

impl ClientContext for InspectorContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return; // Asked for, and no error.
        }
        tracing::debug!(error = %error, reason, "the client reports an error");
    }
}

impl ConsumerContext for InspectorContext {}
