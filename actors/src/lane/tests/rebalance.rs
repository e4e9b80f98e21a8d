//! Assignment, revocation, zombies and gaps, with two processes over one store.

use std::sync::Arc;
use std::time::Duration;

use super::world::{LIMIT, Options, World, event, group, lane_of, neighbours, run};
use crate::ids::{Offset, Topic};
use crate::lane::status::StatusBoard;
use crate::snapshot::ActorState;
use crate::supervisor::message::StopAll;
use crate::testkit::{Fault, RevocationEnd, StoreCall, wait_until};

#[test]
fn rebalance_partition_moves_without_loss_or_doubling() {
    run(|| async {
        let world = World::unassigned(Options::default());
        let partition = lane_of("job-0").topic_partition;
        let _first = world.start();
        wait_until("the first member", LIMIT, || world.log.members(&group()).len() == 1).await;
        let _second = world.start_with_board(Arc::new(StatusBoard::default()));
        wait_until("the second member", LIMIT, || world.log.members(&group()).len() == 2).await;
        let members = world.log.members(&group());
        world.log.assign(members[0], vec![partition]);

        for round in 0..6_u64 {
            for sequence in 1..=10 {
                world.publish(&event("job-0", round * 10 + sequence));
            }
            let (from, to) = (members[round as usize % 2], members[(round as usize + 1) % 2]);
            let end = world.log.revoke(from, vec![partition], Duration::from_secs(5)).await;
            assert_eq!(end, RevocationEnd::Finished);
            world.log.assign(to, vec![partition]);
        }
        wait_until("everything to be applied", LIMIT, || world.counted("job-0") == 60).await;

        assert_eq!(world.applied("job-0").await, (1..=60).collect::<Vec<_>>());
    });
}

#[test]
fn zombie_with_a_late_write_is_fenced_and_the_owner_is_undisturbed() {
    run(|| async {
        let world = World::unassigned(Options::default());
        let partition = lane_of("job-0").topic_partition;
        let zombie_board = Arc::new(StatusBoard::default());
        let _zombie = world.start_with_board(Arc::clone(&zombie_board));
        wait_until("the first member", LIMIT, || world.log.members(&group()).len() == 1).await;
        let _owner = world.start();
        wait_until("the second member", LIMIT, || world.log.members(&group()).len() == 2).await;
        let members = world.log.members(&group());
        world.log.assign(members[0], vec![partition]);
        world.publish(&event("job-0", 1));
        wait_until("the first event", LIMIT, || world.counted("job-0") == 1).await;

        // The zombie thinks about the second event for a long time.
        let (jobs, _) = neighbours(2);
        world.store.faults().script(StoreCall::Load, Fault::Hang);
        world.publish(&event(&jobs[1], 1));
        wait_until("the zombie to hang", LIMIT, || world.store.faults().hanging() == 1).await;
        // The partition goes to the other process; nobody told the zombie.
        world.log.assign(members[1], vec![partition]);
        world.publish(&event(&jobs[1], 2));
        wait_until("the owner to apply both", LIMIT, || world.counted(&jobs[1]) == 2).await;
        world.store.faults().release_hung();

        let lane = lane_of("job-0");
        wait_until("the zombie to stay down", LIMIT, || {
            zombie_board.lane(&lane).state() == ActorState::Stopped
        })
        .await;
        assert_eq!(world.applied(&jobs[1]).await, [1, 2]);
        assert_eq!(world.counted(&jobs[1]), 2);
        assert_eq!(world.snapshot("job-0").restarts, 0, "the owner was disturbed");
    });
}

#[test]
fn zombie_that_loses_its_partition_asks_no_more_whether_it_owns_it() {
    run(|| async {
        let world = World::unassigned(Options::default());
        let partition = lane_of("job-0").topic_partition;
        let board = Arc::new(StatusBoard::default());
        let _zombie = world.start_with_board(Arc::clone(&board));
        wait_until("the first member", LIMIT, || world.log.members(&group()).len() == 1).await;
        let _owner = world.start();
        wait_until("the second member", LIMIT, || world.log.members(&group()).len() == 2).await;
        let members = world.log.members(&group());
        let lane = lane_of("job-0");
        world.log.assign(members[0], vec![partition]);
        world.store.faults().script(StoreCall::Load, Fault::Hang);
        world.publish(&event("job-0", 1));
        wait_until("the zombie to hang", LIMIT, || world.store.faults().hanging() == 1).await;
        world.log.assign(members[1], vec![partition]);
        wait_until("the owner to apply it", LIMIT, || world.counted("job-0") == 1).await;
        // The log answers only after the zombie has heard that the partition is lost.
        world.log.fail_calls(20);
        world.store.faults().release_hung();
        wait_until("the fence", LIMIT, || board.lane(&lane).state() == ActorState::Restarting).await;

        world.log.lose(members[0], vec![partition]);
        wait_until("the lane to be gone", LIMIT, || board.find_lane(&lane).is_none()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;

        assert!(board.find_lane(&lane).is_none(), "a late answer brought the lane back");
    });
}

#[test]
fn lost_partition_stops_its_lane_at_once() {
    run(|| async {
        let world = World::unassigned(Options::default());
        let partition = lane_of("job-0").topic_partition;
        let _tree = world.start();
        wait_until("the member", LIMIT, || world.log.members(&group()).len() == 1).await;
        let member = world.log.members(&group())[0];
        world.log.assign(member, vec![partition]);
        world.publish(&event("job-0", 1));
        wait_until("the first event", LIMIT, || world.counted("job-0") == 1).await;

        world.log.lose(member, vec![partition]);
        wait_until("the lane to be gone", LIMIT, || world.board.find_lane(&lane_of("job-0")).is_none()).await;
        world.publish(&event("job-0", 2));
        world.log.assign(member, vec![partition]);
        wait_until("the second event", LIMIT, || world.counted("job-0") == 2).await;

        assert_eq!(world.applied("job-0").await, [1, 2]);
    });
}

#[test]
fn gap_in_the_log_stops_the_lane_and_names_the_kind() {
    for (kind, change) in [
        (
            "trimmed",
            (|world: &World| world.log.trim(lane_of("job-0").topic_partition, Offset(8))) as fn(&World),
        ),
        ("beyond_end", |world| world.log.truncate(lane_of("job-0").topic_partition, Offset(2))),
        ("replaced", |world| {
            world.log.recreate(lane_of("job-0").topic_partition);
            for sequence in 100..110 {
                world.publish(&event("job-0", sequence));
            }
        }),
    ] {
        run(|| async move {
            let world = World::new(Options::default());
            let tree = world.start();
            for sequence in 1..=5 {
                world.publish(&event("job-0", sequence));
            }
            world.settle().await;
            tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
            for sequence in 6..=10 {
                world.publish(&event("job-0", sequence));
            }
            change(&world);

            let _tree = world.start();
            world.wait_for_state("job-0", ActorState::Gap).await;

            let error = world.snapshot("job-0").last_error.unwrap_or_default();
            assert!(error.contains(kind), "{kind}: {error}");
            assert_eq!(world.applied("job-0").await, [1, 2, 3, 4, 5], "{kind}");
        });
    }
}

#[test]
fn gap_under_a_running_lane_stops_it_and_shows_the_lag() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        for sequence in 1..=5 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;
        world.log.hold(&lane_of("job-0"));
        for sequence in 6..=10 {
            world.publish(&event("job-0", sequence));
        }
        wait_until("the lag", LIMIT, || world.snapshot("job-0").lag_records == 5).await;

        world.log.trim(lane_of("job-0").topic_partition, Offset(8));
        world.log.release(&lane_of("job-0"));
        world.wait_for_state("job-0", ActorState::Gap).await;

        let snapshot = world.snapshot("job-0");
        assert_eq!((snapshot.restarts, snapshot.lag_records), (0, 5), "looking again is no failure");
        assert_eq!(world.applied("job-0").await, [1, 2, 3, 4, 5]);
    });
}

#[test]
fn stop_all_leaves_no_lane_at_work_and_returns_every_credit() {
    run(|| async {
        let world = World::new(Options::default());
        let tree = world.start();
        for sequence in 1..=50 {
            world.publish(&event("job-0", sequence));
        }

        tree.send(StopAll { within: Duration::from_secs(5) }).await.unwrap();

        wait_until("every credit to come back", LIMIT, || world.credit.held_bytes() == 0).await;
        assert!(world.log.members(&group()).is_empty(), "a reader was left over");
        let commits = world.notices.0.lock().unwrap().len();
        world.publish(&event("job-0", 51));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(world.notices.0.lock().unwrap().len(), commits, "a lane went on");
        assert_eq!(Topic::JobLifecycle.partitions(), 10);
    });
}
