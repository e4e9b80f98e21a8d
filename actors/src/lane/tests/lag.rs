//! Lag in records and in seconds, as the board and the metrics show it.

use std::time::Duration;

use prometheus::{Registry, TextEncoder};

use super::world::{LIMIT, Options, World, event, group, lane_of, run};
use crate::clock::Clock;
use crate::metrics::LaneMetrics;
use crate::testkit::{Fault, RevocationEnd, StoreCall, wait_until};

/// Publishes an event of `job-0` whose record says that it was made so long ago.
fn publish_aged(world: &World, sequence: u64, age: Duration) {
    let mut record = event("job-0", sequence).record();
    record.timestamp = world.clock.now().minus(age);
    world.append(record);
}

/// Gives the lag of `job-0`'s lane in records and whole seconds.
fn lag(world: &World) -> (u64, u64) {
    let snapshot = world.snapshot("job-0");
    (snapshot.lag_records, snapshot.lag_seconds as u64)
}

#[test]
fn lag_undelivered_records_count_from_when_they_were_heard_of() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        publish_aged(&world, 1, Duration::ZERO);
        world.settle().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(lag(&world), (0, 0), "an idle lane is not behind");

        world.log.hold(&lane_of("job-0"));
        publish_aged(&world, 2, Duration::from_secs(500));
        wait_until("the end to be heard of", LIMIT, || lag(&world).0 == 1).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(lag(&world), (1, 30));

        world.log.release(&lane_of("job-0"));
        world.settle().await;
        wait_until("the lag to end", LIMIT, || lag(&world) == (0, 0)).await;
    });
}

#[test]
fn lag_delivered_records_count_from_their_timestamps() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        publish_aged(&world, 1, Duration::ZERO);
        world.settle().await;

        world.store.faults().script(StoreCall::Commit, Fault::Hang);
        publish_aged(&world, 2, Duration::from_secs(100));
        wait_until("the commit to hang", LIMIT, || world.store.faults().hanging() == 1).await;
        publish_aged(&world, 3, Duration::from_secs(40));
        wait_until("the end to be heard of", LIMIT, || lag(&world).0 == 2).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        let stuck = lag(&world);
        world.store.faults().script(StoreCall::Commit, Fault::Hang);
        world.store.faults().release_hung();
        wait_until("the next commit to hang", LIMIT, || lag(&world).0 == 1).await;
        let next = lag(&world);
        world.store.faults().release_hung();
        world.settle().await;

        assert_eq!((stuck, next), ((2, 107), (1, 47)));
        wait_until("the lag to end", LIMIT, || lag(&world) == (0, 0)).await;
    });
}

#[test]
fn lag_parked_record_counts_as_a_record_and_not_in_seconds() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();

        world.publish_poison("job-0");
        wait_until("the key to be parked", LIMIT, || world.snapshot("job-0").parked_keys == 1).await;
        tokio::time::sleep(Duration::from_secs(60)).await;

        assert_eq!(lag(&world), (1, 0));
    });
}

#[test]
fn lag_series_of_a_revoked_partition_are_gone() {
    run(|| async {
        let world = World::unassigned(Options::default());
        let registry = Registry::new();
        let metrics = LaneMetrics::register(&registry).unwrap();
        let series = |name: &str| {
            metrics.observe_board(&world.board, world.clock.reading());
            let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        let partition = lane_of("job-0").topic_partition;
        let _tree = world.start();
        wait_until("the member", LIMIT, || world.log.members(&group()).len() == 1).await;
        let member = world.log.members(&group())[0];
        world.log.assign(member, vec![partition]);
        world.log.hold(&lane_of("job-0"));
        publish_aged(&world, 1, Duration::ZERO);
        wait_until("the record to be heard of", LIMIT, || {
            world.board.find_lane(&lane_of("job-0")).is_some() && lag(&world).0 == 1
        })
        .await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let labels =
            format!("{{group=\"recorder\",partition=\"{}\",topic=\"job-lifecycle\"}}", partition.partition);
        assert_eq!(series("horizons_lag_records"), [format!("horizons_lag_records{labels} 1")]);
        let shown = series("horizons_lag_seconds");
        assert!(shown[0].starts_with(&format!("horizons_lag_seconds{labels} 2.5")), "{shown:?}");

        let end = world.log.revoke(member, vec![partition], Duration::from_secs(5)).await;

        assert_eq!(end, RevocationEnd::Finished);
        wait_until("the lane to be gone", LIMIT, || world.board.find_lane(&lane_of("job-0")).is_none()).await;
        for name in ["horizons_lag_records", "horizons_lag_seconds", "horizons_parked_keys"] {
            assert_eq!(series(name), Vec::<String>::new());
        }
    });
}
