//! Keys have a home partition: what other partitioners put elsewhere is kept, counted, audited and never applied.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::world::{Options, World, event, event_id, group, lane_of, run};
use crate::auditor::Auditor;
use crate::effect::AuditMark;
use crate::event::partition_among;
use crate::ids::{Group, JobId, LaneKey, LogTopic, Partition, Topic, TopicPartition};
use crate::jobs::Jobs;
use crate::lane::behaviour::{BehaviourFactory, Notice};
use crate::ports::query::{AuditFilter, QueryStore};
use crate::record::OutgoingRecord;
use crate::snapshot::ActorState;
use crate::testkit::EventBuilder;

/// Chooses a partition as librdkafka does unless told otherwise.
fn by_crc32(key: &[u8]) -> Partition {
    let mut crc = u32::MAX;
    for byte in key {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    Partition((!crc % u32::from(Topic::JobLifecycle.partitions())) as u16)
}

/// Puts a record where librdkafka's default partitioner puts it.
fn astray(mut record: OutgoingRecord) -> OutgoingRecord {
    record.partition = by_crc32(record.key.as_deref().unwrap_or_default());
    record
}

/// Gives a job that the two partitioners put apart.
fn strayed_job() -> String {
    let is_apart = |job: &String| by_crc32(job.as_bytes()) != partition_among(10, job.as_bytes());
    (0..).map(|number| format!("job-{number}")).find(is_apart).unwrap()
}

/// Gives the recording group's lane of a partition.
fn lane_at(partition: Partition) -> LaneKey {
    LaneKey { group: group(), topic_partition: TopicPartition { topic: Topic::JobLifecycle, partition } }
}

#[test]
fn record_in_a_wrong_partition_is_kept_and_not_applied_and_nobody_waits_behind_it() {
    run(|| async {
        let world = World::new(Options::default());
        let job = strayed_job();
        let _tree = world.start();
        let stray = astray(event(&job, 2).record());
        let wrong = lane_at(stray.partition);
        let payload = stray.payload.clone();
        world.publish(&event(&job, 1));
        world.append(stray);
        world.append(astray(event(&job, 3).record()));
        world.publish(&event(&job, 4));
        world.settle().await;

        assert_eq!(world.applied(&job).await, [1, 4]);
        assert_eq!(world.counted(&job), 2);
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        let told: Vec<_> = letters.iter().map(|letter| (letter.reason.as_str(), &letter.lane)).collect();
        assert_eq!(told, [("wrong_partition", &wrong), ("wrong_partition", &wrong)]);
        assert!(letters.iter().any(|letter| letter.record.payload == payload));
        assert!(letters.iter().all(|letter| letter.state != "parked"));
        let copies =
            world.store.records(LogTopic::DeadLetter(Topic::JobLifecycle), wrong.topic_partition.partition);
        assert_eq!(copies.len(), 2);
        let snapshot = world.board.lane(&wrong).snapshot(&wrong, crate::clock::Clock::reading(&*world.clock));
        assert_eq!((snapshot.dead_lettered_total, snapshot.parked_keys), (2, 0));
    });
}

#[test]
fn record_in_a_wrong_partition_does_not_hide_the_same_event_at_home() {
    run(|| async {
        let world = World::new(Options::default());
        let job = strayed_job();
        let _tree = world.start();
        world.append(astray(event(&job, 1).record()));
        world.settle().await;
        world.publish(&event(&job, 1));
        world.append(astray(event(&job, 1).record()));
        world.settle().await;

        assert_eq!(world.applied(&job).await, [1]);
        assert_eq!(world.counted(&job), 1);
    });
}

#[test]
fn records_in_a_wrong_partition_are_no_flood_of_poison() {
    run(|| async {
        let world = World::new(Options::default());
        let job = strayed_job();
        let _tree = world.start();
        for sequence in 1..=300 {
            // Whatever they hold is not looked at.
            let mut record = astray(event(&job, sequence).record());
            record.payload = Some(Bytes::from(format!("\u{0}no event {sequence}")));
            world.append(record);
        }
        world.settle().await;

        let wrong = lane_at(by_crc32(job.as_bytes()));
        assert_eq!(world.board.lane(&wrong).state(), ActorState::Running);
        let letters = world.store.dead_letters(None, None, 1_000).await.unwrap();
        assert_eq!(letters.iter().filter(|letter| letter.reason == "wrong_partition").count(), 300);
    });
}

#[test]
fn record_whose_key_is_absent_or_another_jobs_is_never_applied() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        let mut without = event("job-0", 1).record();
        without.key = None;
        let mut other = event("job-0", 2).record();
        other.key = Some(Bytes::from_static(b"job-7"));
        other.partition = lane_of("job-7").topic_partition.partition;
        world.append(without);
        world.append(other);
        world.publish(&event("job-0", 3));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [3]);
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        assert!(letters.iter().all(|letter| letter.reason == "misplaced"), "{letters:?}");
        assert_eq!(letters.len(), 2);
    });
}

#[test]
fn record_in_a_wrong_partition_is_audited_with_a_mark_of_its_own() {
    run(|| async {
        let world = World::new(Options::default());
        let job = strayed_job();
        let auditor: BehaviourFactory = Arc::new(|| Box::new(Auditor::of(vec![Topic::JobLifecycle])));
        let _tree = world.start_groups(Arc::clone(&world.board), vec![auditor]);
        world.publish(&event(&job, 1));
        world.append(astray(event(&job, 2).record()));
        world.settle_group(Group::audit_trail()).await;

        let filter =
            AuditFilter { job_id: Some(JobId::parse(&job).unwrap()), limit: 10, ..AuditFilter::default() };
        let page = world.store.audit_entries(filter).await.unwrap();
        let mut marks: Vec<&str> = page.entries.iter().map(|entry| entry.mark.as_str()).collect();
        marks.sort_unstable();
        assert_eq!(marks, ["event", "wrong_partition"]);
        assert_eq!(AuditMark::WrongPartition.to_stored(), "wrong_partition");
    });
}

/// One event of a job's story, and who published it: the first producer uses murmur2, the second one CRC32.
#[derive(Debug, Clone, Copy)]
struct Told {
    job: usize,
    by_second: bool,
    is_repeated_by_other: bool,
}

fn told() -> impl Strategy<Value = Told> {
    (0..4_usize, any::<bool>(), any::<bool>()).prop_map(|(job, by_second, is_repeated_by_other)| Told {
        job,
        by_second,
        is_repeated_by_other,
    })
}

/// The events of an external job in the order in which they happen.
fn story(job: &str, step: usize) -> Option<EventBuilder> {
    let builder = match step {
        0 => EventBuilder::job_submitted(),
        1 => EventBuilder::job_queued(),
        2 => EventBuilder::job_running(),
        3 => EventBuilder::job_completed(),
        _ => return None,
    };
    let sequence = step as u64 + 1;
    Some(builder.job(job).sequence(sequence).event_id(event_id(job, sequence)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Two causal producers with different partitioners tell one story: a view never goes back, and an event counts
    /// once, wherever its copies are.
    #[test]
    fn views_never_go_back_whatever_partitioners_producers_use(told in proptest::collection::vec(told(), 1..24)) {
        let (seen, expected) = (Arc::new(std::sync::Mutex::new(Vec::new())), expected(&told));
        let noted = Arc::clone(&seen);
        run(|| async move {
            let world = World::new(Options::default());
            let jobs: BehaviourFactory = Arc::new(|| Box::new(Jobs::new(Duration::from_secs(60))));
            let _tree = world.start_groups(Arc::clone(&world.board), vec![jobs]);
            let mut steps = [0_usize; 4];
            for one in &told {
                let job = format!("job-{}", one.job);
                let Some(event) = story(&job, steps[one.job]) else { continue };
                steps[one.job] += 1;
                let mut copies = vec![one.by_second];
                copies.extend(one.is_repeated_by_other.then_some(!one.by_second));
                for by_second in copies {
                    let record = event.record();
                    world.append(if by_second { astray(record) } else { record });
                    // What was published is seen before what it causes: the worst case for a story in two partitions.
                    world.settle_group(Group::jobs()).await;
                }
            }
            for notice in world.notices.0.lock().unwrap().iter() {
                for notice in &notice.notices {
                    let Notice::JobChanged(view) = notice else { continue };
                    noted.lock().unwrap().push((view.job_id.clone(), view.last_sequence.0, view.last_event_id));
                }
            }
        });

        let mut last: HashMap<JobId, u64> = HashMap::new();
        let mut counted = HashSet::new();
        let mut applied: Vec<(String, u64)> = Vec::new();
        for (job, sequence, event_id) in seen.lock().unwrap().iter() {
            prop_assert!(last.insert(job.clone(), *sequence).unwrap_or(0) < *sequence, "{job} went back to {sequence}");
            prop_assert!(counted.insert(*event_id), "{job}/{sequence} counted twice");
            applied.push((job.to_string(), *sequence));
        }
        prop_assert_eq!(applied, expected);
    }
}

/// Gives what is applied: what a producer put where its job is at home.
fn expected(told: &[Told]) -> Vec<(String, u64)> {
    let mut steps = [0_u64; 4];
    let mut applied = Vec::new();
    for one in told {
        if steps[one.job] == 4 {
            continue;
        }
        steps[one.job] += 1;
        let job = format!("job-{}", one.job);
        let is_home_by_both = by_crc32(job.as_bytes()) == partition_among(10, job.as_bytes());
        if is_home_by_both || !one.by_second || one.is_repeated_by_other {
            applied.push((job, steps[one.job]));
        }
    }
    applied
}
