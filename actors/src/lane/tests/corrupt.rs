//! Records that cannot be read, and open transactions.

use std::time::Duration;

use actix::Addr;
use prometheus::{Registry, TextEncoder};
use uuid::Uuid;

use super::world::{LIMIT, Options, World, event, lane_of, run};
use crate::clock::Clock;
use crate::command::{Command, CommandKind, Principal};
use crate::gap::{GapAcceptance, GapKind};
use crate::ids::{CommandId, CorrelationId, Offset, UserId};
use crate::metrics::LaneMetrics;
use crate::ports::query::{QueryStore, StoredGap};
use crate::ports::store::{GapAccepted, JobStore};
use crate::snapshot::ActorState;
use crate::supervisor::Supervisor;
use crate::supervisor::message::{RestartLaneOf, StopAll};
use crate::testkit::wait_until;

/// Publishes so many events of `job-0`, from a sequence on.
fn publish(world: &World, from: u64, count: u64) {
    for sequence in from..from + count {
        world.publish(&event("job-0", sequence));
    }
}

/// Makes records of `job-0`'s partition unreadable.
fn corrupt(world: &World, from: u64, until: u64) {
    world.log.corrupt(lane_of("job-0").topic_partition, Offset(from), Offset(until));
}

async fn open_gap(world: &World) -> StoredGap {
    world.wait_for_state("job-0", ActorState::Gap).await;
    let gaps = world.store.gaps(10).await.unwrap();
    gaps.into_iter().find(|gap| gap.decision.is_none()).unwrap()
}

async fn accept(world: &World, tree: &Addr<Supervisor>, found: &StoredGap) -> GapAccepted {
    let gap = found.gap;
    let acceptance = GapAcceptance { lane: found.lane.clone(), kind: gap.kind, next: gap.next, low: gap.low };
    let command = Command {
        command_id: CommandId(Uuid::from_u128(70)),
        correlation_id: CorrelationId(Uuid::from_u128(71)),
        principal: Principal { user_id: UserId::parse("operator").unwrap() },
        reason: Some("the disk is broken".to_owned()),
        idempotency_key: None,
        requested_at: world.clock.now(),
        kind: CommandKind::AcceptGap(acceptance.clone()),
    };
    let accepted = world.store.accept_gap(command, acceptance, event("act", 1).record()).await.unwrap();
    tree.send(RestartLaneOf { lane: found.lane.clone() }).await.unwrap();
    accepted
}

#[test]
fn lane_corrupt_records_wait_for_a_decision_with_all_before_them_applied() {
    run(|| async {
        let world = World::new(Options { batch_records: 2, ..Options::default() });
        corrupt(&world, 5, 8);
        let tree = world.start();

        publish(&world, 1, 12);
        let found = open_gap(&world).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let before = world.applied("job-0").await;
        let snapshot = world.snapshot("job-0");
        let accepted = accept(&world, &tree, &found).await;
        wait_until("the rest to be applied", LIMIT, || world.counted("job-0") == 9).await;

        assert_eq!(before, [1, 2, 3, 4, 5]);
        let gap = found.gap;
        assert_eq!(
            (gap.kind, gap.next, gap.low, gap.high),
            (GapKind::Corrupt, Offset(5), Offset(8), Offset(12))
        );
        assert_eq!((gap.records_skipped(), snapshot.restarts, snapshot.lag_records), (3, 0, 7));
        assert!(matches!(accepted, GapAccepted::Accepted { resumes_at: Offset(8), .. }), "{accepted:?}");
        assert_eq!(world.applied("job-0").await, [1, 2, 3, 4, 5, 9, 10, 11, 12]);
    });
}

#[test]
fn lane_with_accepted_corrupt_records_in_its_window_starts_again() {
    run(|| async {
        let world = World::new(Options { batch_records: 2, ..Options::default() });
        corrupt(&world, 0, 3);
        let tree = world.start();
        publish(&world, 1, 5);
        let found = open_gap(&world).await;
        let accepted = accept(&world, &tree, &found).await;
        wait_until("the rest to be applied", LIMIT, || world.counted("job-0") == 2).await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();

        let _tree = world.start();
        // One that the window knows, and one that is new.
        world.publish(&event("job-0", 4));
        world.publish(&event("job-0", 6));
        world.settle().await;

        assert_eq!((found.gap.next, found.gap.low), (Offset(0), Offset(3)), "a gap at the very first record");
        assert!(matches!(accepted, GapAccepted::Accepted { .. }), "{accepted:?}");
        assert_eq!(world.applied("job-0").await, [4, 5, 6]);
    });
}

#[test]
fn gap_of_corrupt_records_that_are_mended_goes_by_itself_and_nothing_is_lost() {
    run(|| async {
        let world = World::new(Options::default());
        corrupt(&world, 2, 4);
        let tree = world.start();
        publish(&world, 1, 6);
        open_gap(&world).await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();

        world.log.mend(lane_of("job-0").topic_partition);
        let _tree = world.start();
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 2, 3, 4, 5, 6]);
        assert_eq!(world.store.gaps(10).await.unwrap(), []);
    });
}

#[test]
fn open_transaction_shows_the_end_that_readers_do_not_see_and_how_long_it_holds() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        let partition = lane_of("job-0").topic_partition;
        publish(&world, 1, 2);
        world.settle().await;
        world.log.hold_at(partition, Some(Offset(2)));

        publish(&world, 3, 3);
        wait_until("the end to be heard of", LIMIT, || world.snapshot("job-0").log_high_offset == 5).await;
        tokio::time::sleep(Duration::from_secs(90)).await;
        let open = world.snapshot("job-0");
        let registry = Registry::new();
        LaneMetrics::register(&registry).unwrap().observe_board(&world.board, world.clock.reading());
        let metrics = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        world.log.hold_at(partition, None);
        world.settle().await;
        wait_until("the end to be heard of", LIMIT, || world.snapshot("job-0").log_end_offset == 5).await;
        let closed = world.snapshot("job-0");

        assert_eq!((open.next_offset, open.log_end_offset, open.lag_records), (2, 2, 0));
        assert_eq!(open.transaction_open_seconds as u64, 90);
        let held = metrics.lines().find(|line| {
            let partition = format!("partition=\"{}\"", partition.partition);
            line.starts_with("horizons_open_transaction_records") && line.contains(&partition)
        });
        assert!(held.is_some_and(|line| line.ends_with(" 3")), "{metrics}");
        assert_eq!((closed.log_high_offset, closed.transaction_open_seconds as u64), (5, 0));
        assert_eq!(world.applied("job-0").await, [1, 2, 3, 4, 5]);
    });
}
