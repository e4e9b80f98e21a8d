//! Partitions that are added to a topic: nothing is read of them before an operator adopts them, and a job's order holds
//! across the change.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::parking::wish;
use super::world::{LIMIT, Options, World, event, group, run};
use crate::command::LayoutAdoption;
use crate::event::partition_among;
use crate::ids::{JobId, LaneKey, Offset, Partition, Topic, TopicPartition};
use crate::lane::status::StatusBoard;
use crate::layout::Layout;
use crate::ports::query::QueryStore;
use crate::ports::store::{JobExpectation, JobStore, LaneStore, LayoutAdopted, ParkedWish};
use crate::snapshot::ActorState;
use crate::state::{JobHome, StateKey, StateValue};
use crate::supervisor::message::StopAll;
use crate::testkit::contract::sample;
use crate::testkit::{EventBuilder, wait_until};

/// What the topic begins with, and what it has then.
const BEFORE: u16 = 10;
const AFTER: u16 = 12;

fn ticking() -> Options {
    Options { is_ticking: true, ..Options::default() }
}

fn at(partition: Partition) -> TopicPartition {
    TopicPartition { topic: Topic::JobLifecycle, partition }
}

fn lane_at(partition: Partition) -> LaneKey {
    LaneKey { group: group(), topic_partition: at(partition) }
}

/// Gives where a job is at home among so many partitions.
fn home(job: &str, partitions: u16) -> Partition {
    partition_among(partitions, job.as_bytes())
}

/// Gives a job that goes elsewhere with the change, to a partition that is old or new.
fn moving_job(is_to_added: bool) -> String {
    let is_wanted =
        |job: &String| home(job, BEFORE) != home(job, AFTER) && (home(job, AFTER).0 >= BEFORE) == is_to_added;
    (0..).map(|number| format!("job-{number}")).find(is_wanted).unwrap()
}

/// Publishes an event where its job is at home among so many partitions.
fn publish(world: &World, job: &str, sequence: u64, partitions: u16) {
    publish_as(world, event(job, sequence), home(job, partitions));
}

fn publish_as(world: &World, event: EventBuilder, partition: Partition) {
    let mut record = event.record();
    record.partition = partition;
    world.append(record);
}

/// Adds partitions to the topic, as an administrator does.
fn add_partitions(world: &World) {
    world.store.set_partitions(Topic::JobLifecycle, AFTER);
    world.log.grow(Topic::JobLifecycle, AFTER);
}

/// Adopts the added partitions, as they end now.
async fn adopt(world: &World) -> Layout {
    let ends = (0..AFTER).map(|number| world.end(at(Partition(number)))).collect();
    let adoption = LayoutAdoption { topic: Topic::JobLifecycle, epochs: 1, partitions: AFTER, ends };
    match world.store.adopt_layout(adoption).await.unwrap() {
        LayoutAdopted::Adopted(layout) => layout,
        other => panic!("the layout was not adopted: {other:?}"),
    }
}

/// Waits until every lane, of added partitions too, is at the end of its partition.
async fn settle(world: &World) {
    let is_settled = |number: u16| {
        let progress = world.store.progress_of(&lane_at(Partition(number)));
        progress.and_then(|progress| progress.next).unwrap_or_default() >= world.end(at(Partition(number)))
    };
    wait_until("every lane to be at the end of its partition", LIMIT, || (0..AFTER).all(is_settled)).await;
}

async fn wait_for_waiting(world: &World, partition: Partition, what: &str) {
    wait_until(&format!("lane {partition} to wait for {what}"), LIMIT, || {
        let lane = lane_at(partition);
        let snapshot = world.board.lane(&lane).snapshot(&lane, crate::clock::Clock::reading(&*world.clock));
        snapshot.state == ActorState::Waiting && snapshot.last_error.is_some_and(|error| error.contains(what))
    })
    .await;
}

/// Gives what a lane's state counts of a job.
fn counted(world: &World, job: &str, partition: Partition) -> u64 {
    let key = StateKey::JobAggregate(JobId::parse(job).unwrap(), Default::default());
    match world.store.state_of(&lane_at(partition), &key) {
        Some(StateValue::JobAggregate(row)) => row.cpu_usage_percent.count,
        _ => 0,
    }
}

#[test]
fn added_partition_is_not_read_before_it_is_adopted_and_says_so() {
    run(|| async {
        let world = World::new(ticking());
        let job = moving_job(true);
        let _tree = world.start();
        publish(&world, "job-0", 1, BEFORE);
        add_partitions(&world);
        publish(&world, &job, 1, AFTER);
        publish(&world, "job-0", 2, BEFORE);

        wait_for_waiting(&world, home(&job, AFTER), "horizons topics adopt-layout job-lifecycle").await;
        world.settle().await;

        assert_eq!((world.applied("job-0").await, world.applied(&job).await), (vec![1, 2], Vec::new()));

        adopt(&world).await;
        settle(&world).await;

        assert_eq!(world.applied(&job).await, [1]);
        assert!(world.store.dead_letters(None, None, 10).await.unwrap().is_empty());
    });
}

#[test]
fn lanes_of_the_new_layout_wait_until_all_of_the_old_one_have_passed() {
    for is_to_added in [true, false] {
        run(|| async move {
            let world = World::new(ticking());
            let job = moving_job(is_to_added);
            let _tree = world.start();
            publish(&world, &job, 1, BEFORE);
            world.settle().await;
            world.log.hold(&lane_at(home(&job, BEFORE)));
            publish(&world, &job, 2, BEFORE);
            add_partitions(&world);
            adopt(&world).await;
            publish(&world, &job, 3, AFTER);

            wait_for_waiting(&world, home(&job, AFTER), "must pass").await;

            assert_eq!(world.applied(&job).await, [1]);

            world.log.release(&lane_at(home(&job, BEFORE)));
            settle(&world).await;

            assert_eq!(world.applied(&job).await, [1, 2, 3]);
            // The job's rows came along, and are in one place.
            assert_eq!(counted(&world, &job, home(&job, AFTER)), 3);
            assert_eq!(counted(&world, &job, home(&job, BEFORE)), 0);
        });
    }
}

#[test]
fn change_of_layout_holds_across_another_process() {
    run(|| async {
        let world = World::new(ticking());
        let job = moving_job(true);
        let tree = world.start();
        publish(&world, &job, 1, BEFORE);
        world.settle().await;
        world.log.hold(&lane_at(home(&job, BEFORE)));
        publish(&world, &job, 2, BEFORE);
        add_partitions(&world);
        adopt(&world).await;
        publish(&world, &job, 3, AFTER);
        tree.send(StopAll { within: LIMIT }).await.unwrap();

        let next = World::of_process(&world.store, 1, ticking());
        next.log.grow(Topic::JobLifecycle, AFTER);
        let _tree = next.start();
        settle(&next).await;
        publish(&next, &job, 4, AFTER);
        settle(&next).await;

        assert_eq!(next.applied(&job).await, [1, 2, 3, 4]);
        assert_eq!(counted(&next, &job, home(&job, AFTER)), 4);
    });
}

#[test]
fn key_that_is_parked_holds_the_lane_it_comes_to_until_somebody_decides() {
    run(|| async {
        let world = World::new(ticking());
        // Its lane of before is one that the wishes of `wish` find.
        let job = moving_job(true);
        let _tree = world.start();
        world.publish_poison(&job);
        publish(&world, &job, 2, BEFORE);
        world.settle().await;
        add_partitions(&world);
        adopt(&world).await;
        publish(&world, &job, 3, AFTER);

        wait_for_waiting(&world, home(&job, AFTER), "release or discard").await;

        assert_eq!(world.applied(&job).await, Vec::<u64>::new());

        wish(&world, &job, ParkedWish::DiscardHead).await;
        settle(&world).await;

        assert_eq!(world.applied(&job).await, [2, 3]);
    });
}

#[test]
fn owned_job_stays_in_the_partition_of_its_row() {
    run(|| async {
        let world = World::new(ticking());
        let job = moving_job(false);
        let _tree = world.start();
        let row = sample::job(&job, crate::clock::Timestamp::default());
        let was_home = row.home;
        world.store.write_job(sample::write(JobExpectation::New, row)).await.unwrap();
        publish(&world, &job, 1, BEFORE);
        add_partitions(&world);
        adopt(&world).await;
        publish(&world, &job, 2, BEFORE);
        publish(&world, &job, 3, AFTER);
        settle(&world).await;

        assert_eq!(was_home, JobHome::by(&JobId::parse(&job).unwrap(), Layout::first_of));
        assert_eq!(world.applied(&job).await, [1, 2]);
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        let told: Vec<_> =
            letters.iter().map(|letter| (letter.reason.as_str(), letter.lane.topic_partition)).collect();
        assert_eq!(told, [("wrong_partition", at(home(&job, AFTER)))]);
    });
}

#[test]
fn records_of_producers_that_notice_early_or_late_are_kept_and_told() {
    run(|| async {
        let world = World::new(ticking());
        let job = moving_job(false);
        let _tree = world.start();
        add_partitions(&world);
        // Early: by twelve before that counts, on a partition that was there. Late: by ten after it does not any more.
        publish(&world, &job, 1, AFTER);
        world.settle().await;
        adopt(&world).await;
        publish(&world, &job, 2, BEFORE);
        publish(&world, &job, 3, AFTER);
        settle(&world).await;

        assert_eq!(world.applied(&job).await, [3]);
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        assert_eq!(letters.iter().filter(|letter| letter.reason == "wrong_partition").count(), 2);
    });
}

#[test]
fn layout_that_is_adopted_is_known_on_the_board_within_a_moment() {
    run(|| async {
        let world = World::new(ticking());
        let _tree = world.start();
        world.settle().await;
        add_partitions(&world);
        let adopted = adopt(&world).await;

        wait_until("the board to know", LIMIT, || world.board.layout(Topic::JobLifecycle) == adopted).await;

        let ends = vec![Offset(0); usize::from(AFTER)];
        let again = LayoutAdoption { topic: Topic::JobLifecycle, epochs: 1, partitions: AFTER, ends };
        let answer = world.store.adopt_layout(again).await.unwrap();
        assert_eq!(answer, LayoutAdopted::Changed(adopted.clone()));
        assert_eq!(world.store.read_layouts().await.unwrap(), [adopted]);
    });
}

/// What happens while partitions are added and adopted.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A job's next event, by a producer that counts as the log has partitions now.
    Publish {
        job: usize,
    },
    /// The same, by one that counts the other number.
    PublishOtherwise {
        job: usize,
    },
    Poison {
        job: usize,
    },
    Discard {
        job: usize,
    },
    Hold {
        partition: u16,
    },
    Release {
        partition: u16,
    },
    Add,
    Adopt,
    Restart,
    Pass {
        ms: u64,
    },
}

/// Jobs that are published.
const JOBS: usize = 6;

fn step() -> impl Strategy<Value = Step> {
    let job = 0..JOBS;
    prop_oneof![
        12 => job.clone().prop_map(|job| Step::Publish { job }),
        1 => job.clone().prop_map(|job| Step::PublishOtherwise { job }),
        1 => job.clone().prop_map(|job| Step::Poison { job }),
        1 => job.prop_map(|job| Step::Discard { job }),
        2 => (0..AFTER).prop_map(|partition| Step::Hold { partition }),
        2 => (0..AFTER).prop_map(|partition| Step::Release { partition }),
        2 => Just(Step::Add),
        2 => Just(Step::Adopt),
        1 => Just(Step::Restart),
        4 => (1..2_500_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whenever partitions are added and adopted, whatever lanes are slow, parked or restarted: a job's events are applied in
    /// order, each once, and each that stood at home is applied.
    #[test]
    fn order_of_a_job_holds_across_any_change_of_layout(steps in proptest::collection::vec(step(), 1..60)) {
        let outcome = Arc::new(std::sync::Mutex::new(Vec::new()));
        let told = Arc::clone(&outcome);
        run(|| async move {
            let world = World::new(ticking());
            let mut tree = world.start();
            let mut sequences = [0_u64; JOBS];
            let (mut is_added, mut is_adopted) = (false, false);
            // Whose producer has seen the added partitions before they were adopted, and goes on with them.
            let mut has_noticed = [false; JOBS];
            // What must be applied in the end.
            let mut wanted: Vec<Vec<u64>> = vec![Vec::new(); JOBS];
            for one in steps {
                match one {
                    Step::Publish { job } | Step::PublishOtherwise { job } => {
                        let name = format!("job-{job}");
                        sequences[job] += 1;
                        let is_otherwise = matches!(one, Step::PublishOtherwise { .. });
                        has_noticed[job] |= is_otherwise && is_added && !is_adopted;
                        let by = match is_adopted {
                            true => if is_otherwise { BEFORE } else { AFTER },
                            false => if has_noticed[job] { AFTER } else { BEFORE },
                        };
                        publish(&world, &name, sequences[job], by);
                        // What was put on an added partition early is read later.
                        let place = home(&name, by);
                        let is_home = match is_adopted {
                            true => place == home(&name, AFTER),
                            false => place == home(&name, BEFORE) || place.0 >= BEFORE,
                        };
                        if is_home {
                            wanted[job].push(sequences[job]);
                        }
                    }
                    Step::Poison { job } => {
                        let name = format!("job-{job}");
                        let mut record = event(&name, 1).record();
                        record.payload = Some(Bytes::from_static(b"\xffnot an event"));
                        record.partition = home(&name, if is_adopted || has_noticed[job] { AFTER } else { BEFORE });
                        world.append(record);
                    }
                    Step::Discard { job } => discard(&world, &format!("job-{job}")).await,
                    Step::Hold { partition } => world.log.hold(&lane_at(Partition(partition))),
                    Step::Release { partition } => world.log.release(&lane_at(Partition(partition))),
                    Step::Add if !is_added => {
                        add_partitions(&world);
                        is_added = true;
                    }
                    Step::Adopt if is_added && !is_adopted => {
                        adopt(&world).await;
                        is_adopted = true;
                    }
                    Step::Add | Step::Adopt => {}
                    Step::Restart => {
                        tree.send(StopAll { within: LIMIT }).await.unwrap();
                        tree = world.start_with_board(Arc::new(StatusBoard::default()));
                    }
                    Step::Pass { ms } => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
                }
            }
            if !is_added {
                add_partitions(&world);
            }
            if !is_adopted {
                adopt(&world).await;
            }
            for number in 0..AFTER {
                world.log.release(&lane_at(Partition(number)));
            }
            tree.send(StopAll { within: LIMIT }).await.unwrap();
            let _tree = world.start();
            // What is parked may hold lanes: an operator gives heads up until nothing is.
            for _ in 0..400 {
                for job in 0..JOBS {
                    discard(&world, &format!("job-{job}")).await;
                }
                tokio::time::sleep(std::time::Duration::from_millis(250)).await;
                let is_parked = !world.store.parked_keys(100).await.unwrap().is_empty();
                let is_read = (0..AFTER).all(|number| {
                    let progress = world.store.progress_of(&lane_at(Partition(number)));
                    progress.and_then(|progress| progress.next).unwrap_or_default() >= world.end(at(Partition(number)))
                });
                if is_read && !is_parked {
                    break;
                }
            }
            settle(&world).await;
            for (job, wanted) in wanted.into_iter().enumerate() {
                let applied = world.applied(&format!("job-{job}")).await;
                told.lock().unwrap().push((job, applied, wanted));
            }
        });

        for (job, applied, wanted) in outcome.lock().unwrap().iter() {
            prop_assert_eq!(applied, wanted, "job-{}", job);
        }
    }
}

/// Gives the heads of a job up, in whatever lanes it is parked.
async fn discard(world: &World, job: &str) {
    for parked in world.store.parked_keys(100).await.unwrap() {
        if parked.key == job.as_bytes() {
            let key = crate::command::ParkedKeyId { lane: parked.lane.clone(), key: parked.key.clone() };
            let command = super::parking::command(world, key.clone());
            let audit = EventBuilder::audit_action_recorded().record();
            let _stored = world
                .store
                .set_parked_wish(command, key, ParkedWish::DiscardHead, u32::MAX, audit)
                .await
                .unwrap();
            world.board.lane(&parked.lane).nudge();
        }
    }
}
