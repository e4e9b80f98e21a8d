//! Time from the commit that published an event to the commit of its last effect.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use horizons_actors::ids::{Group, Offset, Topic, TopicPartition};
use horizons_actors::lane::notice::{CommitListener, CommitNotice};
use horizons_actors::latency::{LatencyRecorder, LatencySummary};
use horizons_actors::ports::log::LogHeads;

use super::check::followers;

/// What is known of one partition.
#[derive(Default)]
struct Partition {
    /// Ends of the partition and when they were committed, oldest first.
    published: VecDeque<(Offset, Instant)>,
    /// How far each group is.
    applied: HashMap<Group, Offset>,
    /// Below it every group has applied everything.
    done: Offset,
    /// When every group had applied something for the first time.
    warm_since: Option<Instant>,
}

#[derive(Default)]
struct Measured {
    partitions: BTreeMap<TopicPartition, Partition>,
    recorder: LatencyRecorder,
    /// What was published before its partition had once gone all the way: connections, fetches and statements are
    /// made for the first, and the others wait behind it.
    cold: LatencyRecorder,
}

/// What was measured.
pub(super) struct Latencies {
    /// Of all events but those of the cold start.
    pub(super) all: LatencySummary,
    /// The same by topic.
    pub(super) by_topic: Vec<(Topic, LatencySummary)>,
    /// Of the events that were published before their partition had once gone all the way.
    pub(super) cold: LatencySummary,
}

/// Measures every event of a run, whose log is new.
pub(super) struct LatencyListener {
    measured: Arc<Mutex<Measured>>,
}

fn locked(measured: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LatencyListener {
    /// Measures what is published to a store with these heads from now on.
    pub(super) fn over(heads: Arc<LogHeads>) -> Self {
        let measured: Arc<Mutex<Measured>> = Arc::default();
        let (noted, read) = (Arc::clone(&measured), Arc::downgrade(&heads));
        heads.on_advance(move || {
            if let Some(heads) = read.upgrade() {
                note_ends(&noted, &heads);
            }
        });
        Self { measured }
    }

    /// Gives the latencies of all events, the cold start apart.
    pub(super) fn summaries(&self, elapsed: Duration) -> Latencies {
        let measured = locked(&self.measured);
        Latencies {
            all: measured.recorder.summary(elapsed),
            by_topic: measured.recorder.by_topic(elapsed),
            cold: measured.cold.summary(elapsed),
        }
    }
}

/// Notes when partitions grew. Called right after the commit, on the thread that committed.
fn note_ends(measured: &Mutex<Measured>, heads: &LogHeads) {
    let now = Instant::now();
    let mut measured = locked(measured);
    for partition in Topic::ALL.into_iter().flat_map(Topic::all_partitions) {
        let end = heads.end(partition);
        let known = measured.partitions.entry(partition).or_default();
        if end > known.published.back().map_or(known.done, |(end, _)| *end) {
            known.published.push_back((end, now));
        }
    }
}

impl CommitListener for LatencyListener {
    fn committed(&self, notice: &CommitNotice) {
        let now = Instant::now();
        let mut measured = locked(&self.measured);
        let Measured { partitions, recorder, cold } = &mut *measured;
        let topic = notice.lane.topic_partition.topic;
        let partition = partitions.entry(notice.lane.topic_partition).or_default();
        partition.applied.insert(notice.lane.group.clone(), notice.next);
        if partition.applied.len() < followers(topic).len() {
            return;
        }
        let done = partition.applied.values().min().copied().unwrap_or_default();
        while partition.done < done
            && let Some((end, published)) = partition.published.front().copied()
        {
            let upto = end.min(done);
            let events = usize::try_from(upto.0 - partition.done.0).unwrap_or(usize::MAX);
            let is_warm = partition.warm_since.is_some_and(|since| published > since);
            let into = if is_warm { &mut *recorder } else { &mut *cold };
            into.record_batch(topic, events, now.saturating_duration_since(published));
            partition.done = upto;
            if end <= done {
                partition.published.pop_front();
            }
        }
        if partition.done > Offset(0) {
            partition.warm_since.get_or_insert(now);
        }
    }
}
