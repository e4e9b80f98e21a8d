//! The brake on floods of poison (requirement C5).

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::parking::wish;
use super::world::{Deadly, LIMIT, Options, World, event, event_id, lane_of, neighbours, run};
use crate::ids::{Offset, Topic};
use crate::lane::brake::FloodLimit;
use crate::lane::environment::LaneSettings;
use crate::ports::query::QueryStore;
use crate::ports::store::{JobStore, ParkedWish, ResumeAnswer};
use crate::snapshot::ActorState;
use crate::testkit::{DeathSide, EventBuilder, MemoryStore, StoreCall, wait_until};
use crate::trial::UNCLEAN_ENDS_BEFORE_TRIALS;

/// A world whose lanes hold still at so much poison among the last 20 records.
fn options(poison: usize) -> Options {
    let flood = FloodLimit { records: 20, poison };
    Options { settings: LaneSettings { flood, ..LaneSettings::default() }, ..Options::default() }
}

async fn resume(world: &World, job: &str) {
    let audit = EventBuilder::audit_action_recorded().record();
    assert_eq!(world.store.resume_lane(lane_of(job), audit).await.unwrap(), ResumeAnswer::Resumed);
}

async fn letters(store: &MemoryStore) -> usize {
    store.dead_letters(None, None, 100).await.unwrap().len()
}

#[test]
fn flood_holds_its_lane_at_the_limit_and_what_follows_stays_in_the_log() {
    run(|| async {
        let world = World::new(options(5));
        let (jobs, other) = neighbours(12);
        for job in &jobs[..8] {
            world.publish_poison(job);
        }
        for job in jobs[8..].iter().chain([&other]) {
            world.publish(&event(job, 1));
        }
        let _tree = world.start();
        world.wait_for_state(&jobs[0], ActorState::Paused).await;
        wait_until("the other lane to flow", LIMIT, || world.counted(&other) == 1).await;

        let snapshot = world.snapshot(&jobs[0]);
        assert_eq!((snapshot.parked_keys, snapshot.next_offset), (5, 5), "it holds at the record behind");
        assert_eq!(letters(&world.store).await, 5);
        assert_eq!(snapshot.lag_records, 12);
        let reason = snapshot.last_error.unwrap_or_default();
        assert!(reason.starts_with("5 of the last 5 records were poison"), "{reason}");

        // Another three are below the limit, as a resumed lane counts anew.
        resume(&world, &jobs[0]).await;
        world.settle().await;

        assert_eq!(letters(&world.store).await, 8);
        for job in &jobs[8..] {
            assert_eq!((world.applied(job).await, world.counted(job)), (vec![1], 1));
        }
        assert_eq!(world.snapshot(&jobs[0]).state, ActorState::Running);
    });
}

#[test]
fn flood_that_goes_on_holds_a_resumed_lane_again() {
    run(|| async {
        let world = World::new(options(5));
        let (jobs, _) = neighbours(11);
        for job in &jobs {
            world.publish_poison(job);
        }
        let _tree = world.start();
        for held in [5, 10] {
            wait_until("the lane to hold still", LIMIT, || {
                let snapshot = world.snapshot(&jobs[0]);
                (snapshot.state, snapshot.next_offset) == (ActorState::Paused, held)
            })
            .await;
            resume(&world, &jobs[0]).await;
        }
        world.settle().await;

        assert_eq!(letters(&world.store).await, 11);
    });
}

#[test]
fn flood_holds_every_later_process_until_it_is_resumed() {
    let store = MemoryStore::new();
    let (jobs, _) = neighbours(8);
    for number in 0..2 {
        let world = World::of_process(&store, number, options(5));
        run(|| async {
            if number == 0 {
                for job in &jobs[..7] {
                    world.publish_poison(job);
                }
                world.publish(&event(&jobs[7], 1));
            }
            let _tree = world.start();
            world.wait_for_state(&jobs[0], ActorState::Paused).await;
            let snapshot = world.snapshot(&jobs[0]);
            let reason = snapshot.last_error.unwrap_or_default();

            assert_eq!(snapshot.next_offset, 5, "process {number}");
            assert!(reason.starts_with("5 of the last 5 records were poison"), "{number}: {reason}");
        });
    }

    let world = World::of_process(&store, 2, options(5));
    run(|| async {
        // Whoever resumes it speaks to another process: this one finds out by itself.
        let _tree = world.start();
        world.wait_for_state(&jobs[0], ActorState::Paused).await;
        resume(&world, &jobs[0]).await;
        world.settle().await;

        assert_eq!(world.applied(&jobs[7]).await, [1]);
    });
}

#[test]
fn poison_that_is_spread_out_is_no_flood() {
    run(|| async {
        let world = World::new(options(5));
        let (jobs, _) = neighbours(21);
        // One in thirteen: at most three among the last twenty and a batch.
        for (index, job) in jobs.iter().take(20).enumerate() {
            if index % 3 == 0 {
                world.publish_poison(job);
            }
            for sequence in 1..=4 {
                world.publish(&event(&jobs[20], index as u64 * 4 + sequence));
            }
        }
        let _tree = world.start();
        world.settle().await;

        assert_eq!(letters(&world.store).await, 7);
        assert_eq!(world.counted(&jobs[20]), 80);
    });
}

#[test]
fn records_behind_parked_keys_are_no_flood() {
    run(|| async {
        let world = World::new(options(2));
        let (jobs, _) = neighbours(1);
        for _ in 0..30 {
            world.publish_poison(&jobs[0]);
        }
        let _tree = world.start();
        world.settle().await;

        assert_eq!((letters(&world.store).await, world.snapshot(&jobs[0]).parked_keys), (1, 1));
    });
}

#[test]
fn limit_of_zero_never_holds_a_lane() {
    run(|| async {
        let world = World::new(options(0));
        let (jobs, _) = neighbours(40);
        for job in &jobs {
            world.publish_poison(job);
        }
        let _tree = world.start();
        world.settle().await;

        assert_eq!(letters(&world.store).await, 40);
    });
}

#[test]
fn released_keys_are_drained_while_the_lane_is_held() {
    run(|| async {
        let world = World::new(options(3));
        let (jobs, _) = neighbours(5);
        for job in &jobs[..3] {
            world.panics.on_event.lock().unwrap().insert(event_id(job, 1), u32::MAX);
        }
        for job in &jobs[..3] {
            world.publish(&event(job, 1));
        }
        let _tree = world.start();
        world.wait_for_state(&jobs[0], ActorState::Paused).await;
        for job in &jobs[3..] {
            world.publish(&event(job, 1));
        }
        world.panics.on_event.lock().unwrap().clear();
        for job in &jobs[..3] {
            wish(&world, job, ParkedWish::Release).await;
        }
        wait_until("the keys to be drained", LIMIT, || world.snapshot(&jobs[0]).parked_keys == 0).await;

        let snapshot = world.snapshot(&jobs[0]);
        assert_eq!((snapshot.state, snapshot.next_offset), (ActorState::Paused, 3));
        resume(&world, &jobs[0]).await;
        world.settle().await;
        for job in &jobs {
            assert_eq!((world.applied(job).await, world.counted(job)), (vec![1], 1));
        }
        let progress = world.store.progress_of(&lane_of(&jobs[0])).and_then(|progress| progress.next);
        assert_eq!(progress, Some(Offset(5)));
    });
}

#[test]
fn careful_lane_that_is_held_does_not_even_decode_what_follows() {
    let store = MemoryStore::new();
    let (jobs, _) = neighbours(6);
    let poison = |job: &str, payload: &'static [u8]| {
        let mut record = event(job, 1).record();
        record.payload = Some(Bytes::from_static(payload));
        store.append(record).unwrap();
    };
    for job in &jobs[..5] {
        poison(job, b"no event");
    }
    poison(&jobs[5], b"deadly");
    for process in 1..=UNCLEAN_ENDS_BEFORE_TRIALS {
        run(|| async {
            let world = World::of_process(&store, process, options(3));
            world.store.die_after_calls(u64::from(Topic::JobLifecycle.partitions()), DeathSide::Before);
            let _tree = world.start();
            wait_until("a death", LIMIT, || world.store.is_dead()).await;
        });
    }

    run(|| async {
        let world = World::of_process(&store, UNCLEAN_ENDS_BEFORE_TRIALS + 1, options(3));
        let payloads = HashSet::from([Bytes::from_static(b"deadly")]);
        let victim = Some(world.store.clone());
        *world.panics.deadly.lock().unwrap() = Deadly { payloads, victim, ..Deadly::default() };
        let _tree = world.start();
        world.wait_for_state(&jobs[0], ActorState::Paused).await;
        // It looks whether it is still held, and goes on holding.
        tokio::time::sleep(Duration::from_secs(10)).await;

        assert_eq!((world.snapshot(&jobs[0]).next_offset, world.store.is_dead()), (3, false));
        assert!(world.store.faults().calls(StoreCall::WriteTrial) > 0, "it was careful");
        assert!(world.store.faults().calls(StoreCall::ReadOrders) <= 11, "once a second");
    });
}
