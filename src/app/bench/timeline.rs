//! When each record was due, committed as published, and committed by every group that follows its topic.
//!
//! Promises exact times for every record, kept by partition and offset: the outbox's offsets and Kafka's are the
//! same here, because the topics are new and the relay alone writes to them (the run checks it at its end).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use horizons_actors::ids::{Group, LogTopic, Offset, Topic, TopicPartition};
use horizons_actors::lane::notice::{CommitListener, CommitNotice};
use horizons_actors::latency::{LatencyRecorder, LatencySummary};
use horizons_actors::ports::log::LogHeads;
use horizons_actors::ports::store::AppendedAt;
use tokio::sync::Notify;

/// What is known of one partition, each by offset.
#[derive(Debug, Default)]
struct Partition {
    due: BTreeMap<u64, Instant>,
    published: Vec<Instant>,
    applied: HashMap<Group, Vec<Instant>>,
}

impl Partition {
    /// Counts what every follower has applied.
    fn done(&self, followers: usize) -> usize {
        if self.applied.len() < followers {
            return 0;
        }
        self.applied.values().map(Vec::len).min().unwrap_or(0)
    }
}

/// The times of a run.
pub(super) struct Timeline {
    followers: BTreeMap<Topic, usize>,
    partitions: Mutex<BTreeMap<TopicPartition, Partition>>,
    moved: Notify,
}

/// What the records of a load took.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    /// From the commit of the publish to the last group's commit.
    pub(super) effects: LatencySummary,
    /// From the time a record was due to the last group's commit.
    pub(super) from_due: LatencySummary,
    /// From the time a record was due to the commit of its publish.
    pub(super) publish: LatencySummary,
    /// From the commit of the publish to each group's commit.
    pub(super) groups: BTreeMap<Group, LatencySummary>,
}

impl Timeline {
    /// Begins with how many groups follow each topic.
    pub(super) fn new(followers: BTreeMap<Topic, usize>) -> Arc<Self> {
        Arc::new(Self { followers, partitions: Mutex::default(), moved: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes when partitions of a store grow, from now on.
    pub(super) fn follow(self: &Arc<Self>, heads: &Arc<LogHeads>) {
        let (noted, read) = (Arc::clone(self), Arc::downgrade(heads));
        heads.on_advance(move || {
            if let Some(heads) = read.upgrade() {
                noted.grew(&heads, Instant::now());
            }
        });
    }

    fn grew(&self, heads: &LogHeads, now: Instant) {
        let mut partitions = self.lock();
        for partition in self.followers.keys().copied().flat_map(Topic::all_partitions) {
            let end = usize::try_from(heads.end(partition).0).unwrap_or(usize::MAX);
            if end > 0 {
                let known = &mut partitions.entry(partition).or_default().published;
                known.resize(end.max(known.len()), now);
            }
        }
    }

    /// Notes when a record was due.
    pub(super) fn due(&self, at: AppendedAt, due: Instant) {
        let LogTopic::Record(topic) = at.topic else { return };
        let partition = TopicPartition { topic, partition: at.partition };
        self.lock().entry(partition).or_default().due.insert(at.offset.0, due);
    }

    /// Counts the records that every follower has applied.
    pub(super) fn done(&self) -> u64 {
        let followers = |topic| self.followers.get(&topic).copied().unwrap_or(usize::MAX);
        let done = |(at, known): (&TopicPartition, &Partition)| known.done(followers(at.topic)) as u64;
        self.lock().iter().map(done).sum()
    }

    /// Waits until something was applied, up to a limit; tells whether something was.
    pub(super) async fn moved(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.moved.notified()).await.is_ok()
    }

    /// Gives the ends of partitions as they are known here.
    pub(super) fn ends(&self) -> Vec<(TopicPartition, Offset)> {
        self.lock().iter().map(|(at, known)| (*at, Offset(known.published.len() as u64))).collect()
    }

    /// Gives what the records took that were due from a time on.
    pub(super) fn latencies(&self, from: Instant, elapsed: Duration) -> Latencies {
        let (mut effects, mut from_due, mut publish) =
            (LatencyRecorder::default(), LatencyRecorder::default(), LatencyRecorder::default());
        let mut groups: BTreeMap<Group, LatencyRecorder> = BTreeMap::new();
        for (at, known) in self.lock().iter() {
            for (offset, due) in known.due.iter().filter(|(_, due)| **due >= from) {
                let Ok(index) = usize::try_from(*offset) else { continue };
                let Some(published) = known.published.get(index).copied() else { continue };
                let mut last = published;
                for (group, applied) in &known.applied {
                    let Some(applied) = applied.get(index).copied() else { continue };
                    last = last.max(applied);
                    let took = applied.saturating_duration_since(published);
                    groups.entry(group.clone()).or_default().record(at.topic, took);
                }
                effects.record(at.topic, last.saturating_duration_since(published));
                from_due.record(at.topic, last.saturating_duration_since(*due));
                publish.record(at.topic, published.saturating_duration_since(*due));
            }
        }
        Latencies {
            effects: effects.summary(elapsed),
            from_due: from_due.summary(elapsed),
            publish: publish.summary(elapsed),
            groups: groups.into_iter().map(|(group, all)| (group, all.summary(elapsed))).collect(),
        }
    }
}

impl CommitListener for Timeline {
    fn committed(&self, notice: &CommitNotice) {
        let now = Instant::now();
        let end = usize::try_from(notice.next.0).unwrap_or(usize::MAX);
        {
            let mut partitions = self.lock();
            let known = partitions.entry(notice.lane.topic_partition).or_default();
            let applied = known.applied.entry(notice.lane.group.clone()).or_default();
            applied.resize(end.max(applied.len()), now);
        }
        self.moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::clock::Timestamp;
    use horizons_actors::ids::{LaneKey, Partition as Number};

    use super::*;

    const AT: TopicPartition = TopicPartition { topic: Topic::JobLifecycle, partition: Number(3) };

    fn commit(timeline: &Timeline, group: Group, next: u64) {
        timeline.committed(&CommitNotice {
            lane: LaneKey { group, topic_partition: AT },
            from: Offset(0),
            next: Offset(next),
            committed_at: Timestamp::from_micros(0),
            outcomes: Vec::new(),
            notices: Vec::new(),
        });
    }

    fn due(timeline: &Timeline, offset: u64, at: Instant) {
        let topic = LogTopic::Record(AT.topic);
        timeline.due(AppendedAt { topic, partition: AT.partition, offset: Offset(offset) }, at);
    }

    #[test]
    fn timeline_record_is_done_when_its_last_follower_has_it() {
        let timeline = Timeline::new([(AT.topic, 2)].into());
        let heads = Arc::new(LogHeads::default());
        timeline.follow(&heads);
        let start = Instant::now();
        heads.advance([(AT, Offset(2))]);
        due(&timeline, 0, start);
        due(&timeline, 1, start);

        commit(&timeline, Group::audit_trail(), 2);
        let done_by_one = timeline.done();
        commit(&timeline, Group::jobs(), 1);
        let done_by_both = timeline.done();
        commit(&timeline, Group::jobs(), 2);

        assert_eq!((done_by_one, done_by_both, timeline.done()), (0, 1, 2));
        assert_eq!(timeline.ends(), vec![(AT, Offset(2))]);
        let latencies = timeline.latencies(start, Duration::from_secs(1));
        assert_eq!((latencies.effects.count, latencies.publish.count, latencies.groups.len()), (2, 2, 2));
        let jobs = latencies.groups[&Group::jobs()];
        assert_eq!(latencies.effects.max_ms, jobs.max_ms, "the last group counts");
        assert!(latencies.from_due.max_ms >= latencies.effects.max_ms);
    }

    #[test]
    fn timeline_records_due_before_the_window_do_not_count() {
        let timeline = Timeline::new([(AT.topic, 1)].into());
        let heads = Arc::new(LogHeads::default());
        timeline.follow(&heads);
        heads.advance([(AT, Offset(2))]);
        let start = Instant::now();
        due(&timeline, 0, start);
        due(&timeline, 1, start + Duration::from_millis(1));
        commit(&timeline, Group::audit_trail(), 2);

        let latencies = timeline.latencies(start + Duration::from_millis(1), Duration::from_secs(1));

        assert_eq!(latencies.effects.count, 1);
    }
}
