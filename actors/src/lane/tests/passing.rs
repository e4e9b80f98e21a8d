//! Offsets that hold no record: markers of transactions, and records of aborted ones.

use std::time::Duration;

use super::world::{LIMIT, Options, World, event, group, lane_of, run};
use crate::ids::Offset;
use crate::supervisor::message::StopAll;
use crate::testkit::{Fault, StoreCall, wait_until};

/// Publishes events of `job-0` that nobody is ever given, as those of an aborted transaction.
fn publish_aborted(world: &World, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        let end = world.end(lane_of("job-0").topic_partition);
        world.log.hide(lane_of("job-0").topic_partition, end);
        world.publish(&event("job-0", sequence));
    }
}

/// Gives the stored position of `job-0`'s lane.
fn stored_next(world: &World) -> Option<u64> {
    world.store.progress_of(&lane_of("job-0")).and_then(|progress| progress.next).map(|next| next.0)
}

#[test]
fn lane_offsets_without_records_are_passed_and_stored() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish(&event("job-0", 1));
        world.settle().await;

        publish_aborted(&world, 2..=40);
        wait_until("the tail to be passed", LIMIT, || stored_next(&world) == Some(40)).await;
        let (snapshot, commits) = (world.snapshot("job-0"), world.notices.0.lock().unwrap().len());
        world.publish(&event("job-0", 41));
        world.settle().await;

        assert_eq!((snapshot.next_offset, snapshot.lag_records), (40, 0));
        assert_eq!(snapshot.lag_seconds as u64, 0);
        assert_eq!(world.applied("job-0").await, [1, 41]);
        assert_eq!(world.counted("job-0"), 2);
        assert!(commits <= 6, "{commits} transactions for a tail of four batches");
        let told = world.log.group_offsets(&group());
        assert_eq!(told.get(&lane_of("job-0").topic_partition), Some(&Offset(41)));
    });
}

#[test]
fn lane_passing_with_the_store_away_is_tried_again_and_stored_once() {
    for fault in [Fault::Unavailable, Fault::UnknownWritten, Fault::UnknownUnwritten] {
        run(|| async move {
            let world = World::new(Options::default());
            let _tree = world.start();
            world.publish(&event("job-0", 1));
            world.settle().await;

            world.store.faults().script_next(StoreCall::Commit, 3, &fault);
            publish_aborted(&world, 2..=3);
            wait_until("the tail to be passed", LIMIT, || stored_next(&world) == Some(3)).await;
            world.publish(&event("job-0", 4));
            world.settle().await;

            assert_eq!(world.applied("job-0").await, [1, 4], "{fault:?}");
            assert_eq!(world.snapshot("job-0").restarts, 0, "{fault:?}");
        });
    }
}

#[test]
fn timer_behind_an_aborted_tail_fires() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish(&event("job-0", 1).user("timer"));
        world.settle().await;

        publish_aborted(&world, 2..=3);
        let orders = || world.store.orders().len();
        wait_until("the timer to be answered", Duration::from_secs(60), || orders() == 1).await;

        assert_eq!(stored_next(&world), Some(3));
    });
}

#[test]
fn lane_whose_passed_tail_was_removed_finds_no_gap() {
    run(|| async {
        let world = World::new(Options::default());
        let tree = world.start();
        world.publish(&event("job-0", 1));
        publish_aborted(&world, 2..=3);
        world.settle().await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();

        world.log.trim(lane_of("job-0").topic_partition, Offset(3));
        let _tree = world.start();
        world.publish(&event("job-0", 4));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 4]);
    });
}

#[test]
fn lane_opened_behind_an_aborted_tail_still_knows_its_last_record() {
    run(|| async {
        let world = World::new(Options::default());
        let tree = world.start();
        world.publish(&event("job-0", 1));
        publish_aborted(&world, 2..=3);
        world.settle().await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();

        world.log.recreate(lane_of("job-0").topic_partition);
        for sequence in 11..=15 {
            world.publish(&event("job-0", sequence));
        }
        let _tree = world.start();
        world.wait_for_state("job-0", crate::snapshot::ActorState::Gap).await;

        let error = world.snapshot("job-0").last_error.unwrap_or_default();
        assert!(error.contains("replaced"), "{error}");
    });
}
