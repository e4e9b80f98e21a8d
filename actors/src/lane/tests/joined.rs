//! Batches that wait for a lane and are answered together.

use super::flood::{Gathered, Then};
use super::parking::wish;
use super::world::{LIMIT, Options, World, event, lane_of, neighbours, run};
use crate::lane::brake::FloodLimit;
use crate::lane::environment::LaneSettings;
use crate::lane::fault::FaultPoint;
use crate::ports::store::ParkedWish;
use crate::snapshot::ActorState;
use crate::testkit::wait_until;

/// Batches of one record that reach a lane at once.
const WAITING: usize = 50;

/// Makes a world in which so many batches of one record reach the lane at once.
fn waiting(settings: LaneSettings) -> World {
    let gathered = Some(Gathered { batches: WAITING, then: Then::Nothing });
    World::new(Options { batch_records: 1, gathered, settings, ..Options::default() })
}

/// Gives how many records each transaction of a job's lane answered, without those that answered none.
fn answered(world: &World, job: &str) -> Vec<usize> {
    let notices = world.notices.0.lock().unwrap();
    let of_lane = notices.iter().filter(|notice| notice.lane == lane_of(job));
    of_lane.map(|notice| notice.outcomes.len()).filter(|answered| *answered > 0).collect()
}

#[test]
fn waiting_batches_are_answered_together_in_order_up_to_their_limit() {
    for (joined_records, most) in [(1_000, WAITING), (7, 7), (1, 1)] {
        run(|| async {
            let world = waiting(LaneSettings { joined_records, ..LaneSettings::default() });
            for sequence in 1..=WAITING as u64 {
                world.publish(&event("job-0", sequence));
            }

            let _tree = world.start();
            world.settle().await;

            assert_eq!(world.applied("job-0").await, (1..=WAITING as u64).collect::<Vec<_>>());
            let answered = answered(&world, "job-0");
            assert_eq!(answered.iter().sum::<usize>(), WAITING);
            // The first may have come alone.
            assert!(answered.iter().all(|records| *records <= most), "{answered:?}");
            assert!(answered.len() <= WAITING.div_ceil(most) + 1, "{answered:?}");
        });
    }
}

#[test]
fn waiting_batches_stay_below_the_limit_of_bytes() {
    run(|| async {
        let world = waiting(LaneSettings { joined_bytes: 1, ..LaneSettings::default() });
        for sequence in 1..=WAITING as u64 {
            world.publish(&event("job-0", sequence));
        }

        let _tree = world.start();
        world.settle().await;

        assert_eq!(answered(&world, "job-0"), [1; WAITING]);
    });
}

#[test]
fn joined_batches_hold_their_credit_until_they_are_answered() {
    run(|| async {
        let world = waiting(LaneSettings::default());
        for sequence in 1..=WAITING as u64 {
            world.publish(&event("job-0", sequence));
        }
        world.store.faults().away();

        let _tree = world.start();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        world.store.faults().back();
        world.settle().await;

        wait_until("every credit to come back", LIMIT, || world.credit.held_bytes() == 0).await;
        assert_eq!(world.counted("job-0"), WAITING as u64);
    });
}

#[test]
fn joined_batches_are_split_at_poison_and_lose_nothing() {
    run(|| async {
        let world = waiting(LaneSettings::default());
        let (jobs, _) = neighbours(2);
        // One that the store refuses, and one that is no event.
        world.store.faults().refuse_record_of(&lane_of(&jobs[0]), crate::ids::Offset(20));
        for sequence in 1..=20 {
            world.publish(&event(&jobs[0], sequence));
        }
        world.publish(&event(&jobs[0], 21));
        world.publish_poison(&jobs[0]);
        for sequence in 1..=(WAITING - 22) as u64 {
            world.publish(&event(&jobs[1], sequence));
        }

        let _tree = world.start();
        world.settle().await;

        assert_eq!(world.applied(&jobs[0]).await, (1..=20).collect::<Vec<_>>());
        assert_eq!(world.applied(&jobs[1]).await, (1..=(WAITING - 22) as u64).collect::<Vec<_>>());
        world.store.faults().accept_records();
        wish(&world, &jobs[0], ParkedWish::Release).await;
        wait_until("the refused event to be released", LIMIT, || world.counted(&jobs[0]) == 21).await;
    });
}

#[test]
fn joined_batches_stop_at_a_flood_and_go_on_behind_it() {
    run(|| async {
        let flood = FloodLimit { records: 100, poison: 5 };
        let world = waiting(LaneSettings { flood, ..LaneSettings::default() });
        let (jobs, _) = neighbours(10);
        for job in &jobs[..5] {
            world.publish_poison(job);
        }
        for sequence in 1..=(WAITING - 5) as u64 {
            world.publish(&event(&jobs[9], sequence));
        }

        let _tree = world.start();
        world.wait_for_state(&jobs[0], ActorState::Paused).await;
        assert_eq!(world.snapshot(&jobs[0]).next_offset, 5);
        assert!(world.applied(&jobs[9]).await.is_empty());
        world.store.set_desired(&lane_of(&jobs[0]), crate::ports::store::DesiredState::Running);
        world.settle().await;

        assert_eq!(world.applied(&jobs[9]).await, (1..=(WAITING - 5) as u64).collect::<Vec<_>>());
    });
}

#[test]
fn lane_that_panics_with_joined_batches_reads_them_again() {
    run(|| async {
        let world = waiting(LaneSettings::default());
        let partition = lane_of("job-0").topic_partition.partition;
        world.panics.at_point.lock().unwrap().insert((FaultPoint::BeforeCommit, partition), 2);
        for sequence in 1..=WAITING as u64 {
            world.publish(&event("job-0", sequence));
        }

        let _tree = world.start();
        world.settle().await;

        assert_eq!(world.applied("job-0").await, (1..=WAITING as u64).collect::<Vec<_>>());
        wait_until("every credit to come back", LIMIT, || world.credit.held_bytes() == 0).await;
    });
}
