//! Poison, parked jobs, release and discard (requirements C4, C6).

use std::time::Duration;

use bytes::Bytes;

use super::world::{LIMIT, Options, World, event, event_id, lane_of, neighbours, run};
use crate::clock::Clock;
use crate::command::{Command, CommandKind, ParkedKeyId, Principal};
use crate::ids::{CommandId, CorrelationId, LogTopic, Offset, Topic, UserId};
use crate::lane::dead_letter::header;
use crate::lane::environment::LaneSettings;
use crate::ports::query::QueryStore;
use crate::ports::store::{JobStore, ParkedWish, WishAnswer};
use crate::snapshot::ActorState;
use crate::supervisor::message::StopAll;
use crate::testkit::{EventBuilder, wait_until};

/// Makes an operator's command about a parked key.
pub(super) fn command(world: &World, key: ParkedKeyId) -> Command {
    Command {
        command_id: CommandId(uuid::Uuid::from_u128(1)),
        correlation_id: CorrelationId(uuid::Uuid::from_u128(2)),
        principal: Principal { user_id: UserId::parse("operator").unwrap() },
        reason: None,
        idempotency_key: None,
        requested_at: world.clock.now(),
        kind: CommandKind::ReleaseKey(key),
    }
}

/// Stores a wish about a job's key, as an operator's command does to any process.
pub(super) async fn wish(world: &World, job: &str, wish: ParkedWish) {
    let key = ParkedKeyId { lane: lane_of(job), key: Bytes::copy_from_slice(job.as_bytes()) };
    let command = command(world, key.clone());
    let audit = EventBuilder::audit_action_recorded().record();
    let answer = world.store.set_parked_wish(command, key, wish, u32::MAX, audit).await.unwrap();
    assert_eq!(answer, WishAnswer::Stored, "the key is parked");
}

async fn wait_parked(world: &World, job: &str, keys: u64) {
    wait_until("the parked keys", LIMIT, || world.snapshot(job).parked_keys == keys).await;
}

#[test]
fn poison_event_is_kept_with_its_bytes_and_parks_only_its_job() {
    run(|| async {
        let world = World::new(Options::default());
        let (jobs, _) = neighbours(2);
        let _tree = world.start();
        world.publish(&event(&jobs[0], 1));
        let (partition, offset) = world.publish_poison(&jobs[0]);
        world.publish(&event(&jobs[0], 2));
        world.publish(&event(&jobs[1], 1));
        world.settle().await;

        assert_eq!(world.applied(&jobs[0]).await, [1]);
        assert_eq!(world.applied(&jobs[1]).await, [1]);
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].record.payload.as_deref(), Some(&b"\xffnot an event"[..]));
        assert_eq!((letters[0].reason.as_str(), letters[0].state.as_str()), ("malformed_bytes", "parked"));
        let copies = world.store.records(LogTopic::DeadLetter(Topic::JobLifecycle), partition.partition);
        assert_eq!(copies.len(), 1);
        assert_eq!(copies[0].headers.get(header::ORIGIN_OFFSET), Some(offset.to_string().as_bytes()));
        assert_eq!(copies[0].payload, letters[0].record.payload);
    });
}

#[test]
fn poison_without_key_is_dead_lettered_and_parks_nobody() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        let mut record = event("job-0", 1).record();
        record.key = None;
        world.append(record);
        world.publish(&event("job-0", 1));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1]);
        let snapshot = world.snapshot("job-0");
        assert_eq!((snapshot.dead_lettered_total, snapshot.parked_keys), (1, 0));
    });
}

#[test]
fn release_after_the_cause_is_gone_drains_in_order_before_live_events() {
    run(|| async {
        let settings = LaneSettings { drain_records: 4, ..LaneSettings::default() };
        let world = World::new(Options { settings, ..Options::default() });
        world.panics.on_event.lock().unwrap().insert(event_id("job-0", 2), u32::MAX);
        let _tree = world.start();
        for sequence in 1..=20 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;
        assert_eq!(world.applied("job-0").await, [1]);

        world.panics.on_event.lock().unwrap().clear();
        wish(&world, "job-0", ParkedWish::Release).await;
        for sequence in 21..=30 {
            world.publish(&event("job-0", sequence));
        }
        wait_parked(&world, "job-0", 0).await;
        world.settle().await;

        assert_eq!(world.applied("job-0").await, (1..=30).collect::<Vec<_>>());
        assert_eq!(world.counted("job-0"), 30);
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        assert_eq!(letters[0].state, "released");
    });
}

#[test]
fn release_while_still_poison_parks_again_at_the_head() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish_poison("job-0");
        world.publish(&event("job-0", 1));
        world.settle().await;

        wish(&world, "job-0", ParkedWish::Release).await;
        let tries = || async { world.store.dead_letters(None, None, 10).await.unwrap()[0].attempts };
        let commits = world.notices.0.lock().unwrap().len();
        wait_until("the drain to be tried", LIMIT, || world.notices.0.lock().unwrap().len() > commits).await;

        assert_eq!(tries().await, 2);
        assert!(world.applied("job-0").await.is_empty());
        assert_eq!(world.snapshot("job-0").parked_keys, 1);
        assert_eq!(world.store.parked_keys(10).await.unwrap()[0].wish, ParkedWish::Wait);
    });
}

#[test]
fn discard_gives_up_the_head_alone_and_drains_the_rest() {
    run(|| async {
        let settings = LaneSettings { drain_records: 2, ..LaneSettings::default() };
        let world = World::new(Options { settings, ..Options::default() });
        let _tree = world.start();
        world.publish_poison("job-0");
        for sequence in 1..=7 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;

        wish(&world, "job-0", ParkedWish::DiscardHead).await;
        wait_parked(&world, "job-0", 0).await;

        assert_eq!(world.applied("job-0").await, (1..=7).collect::<Vec<_>>());
        let letters = world.store.dead_letters(None, None, 10).await.unwrap();
        assert_eq!((letters.len(), letters[0].state.as_str()), (1, "discarded"));
    });
}

#[test]
fn release_of_a_second_poison_parks_at_the_second() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish_poison("job-0");
        world.publish(&event("job-0", 1));
        world.publish_poison("job-0");
        world.publish(&event("job-0", 2));
        world.settle().await;

        wish(&world, "job-0", ParkedWish::DiscardHead).await;
        wait_until("the first to be drained", LIMIT, || world.counted("job-0") == 1).await;
        assert_eq!(world.applied("job-0").await, [1]);
        assert_eq!(world.store.parked_of(&lane_of("job-0"), &Bytes::from_static(b"job-0")).len(), 2);

        wish(&world, "job-0", ParkedWish::DiscardHead).await;
        wait_parked(&world, "job-0", 0).await;

        assert_eq!(world.applied("job-0").await, [1, 2]);
    });
}

#[test]
fn parked_key_at_its_limit_holds_the_partition_until_released() {
    run(|| async {
        let settings = LaneSettings { parked_key_limit: 5, ..LaneSettings::default() };
        let world = World::new(Options { settings, batch_records: 1, ..Options::default() });
        let (jobs, _) = neighbours(2);
        let _tree = world.start();
        world.publish_poison(&jobs[0]);
        for sequence in 1..=10 {
            world.publish(&event(&jobs[0], sequence));
        }
        world.publish(&event(&jobs[1], 1));
        world.wait_for_state(&jobs[0], ActorState::Waiting).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(world.applied(&jobs[1]).await.is_empty());

        wish(&world, &jobs[0], ParkedWish::DiscardHead).await;
        world.settle().await;

        assert_eq!(world.applied(&jobs[0]).await, (1..=10).collect::<Vec<_>>());
        assert_eq!(world.applied(&jobs[1]).await, [1]);
    });
}

/// Makes a world whose lanes know the event ids of so many records.
fn world_with_window(records: usize) -> World {
    let settings = LaneSettings { duplicate_window_records: records, ..LaneSettings::default() };
    World::new(Options { settings, ..Options::default() })
}

#[test]
fn events_behind_a_parked_key_are_no_errors() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish_poison("job-0");
        for sequence in 1..=19 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;

        let lane = world.snapshot("job-0");

        assert_eq!((lane.recent.error_rate, lane.recent.waiting_rate), (0.05, 0.95));
        assert_eq!((lane.parked_total, lane.waiting_total, lane.parked_records), (1, 19, 20));
    });
}

#[test]
fn retry_parked_behind_poison_is_recognised_however_late_it_is_drained() {
    run(|| async {
        let world = world_with_window(4);
        let (jobs, _) = neighbours(2);
        let _tree = world.start();
        world.publish(&event(&jobs[0], 1));
        world.publish_poison(&jobs[0]);
        world.publish(&event(&jobs[0], 1));
        world.publish(&event(&jobs[0], 2));
        world.publish(&event(&jobs[0], 2));
        for sequence in 1..=10 {
            world.publish(&event(&jobs[1], sequence));
        }
        world.settle().await;
        let lane = world.snapshot(&jobs[0]);
        let (poison, waiting, duplicates) = (lane.parked_total, lane.waiting_total, lane.duplicate_total);
        assert_eq!((poison, waiting, duplicates), (1, 1, 2), "a duplicate does not wait");

        wish(&world, &jobs[0], ParkedWish::DiscardHead).await;
        wait_parked(&world, &jobs[0], 0).await;

        assert_eq!(world.applied(&jobs[0]).await, [1, 2]);
        assert_eq!(world.counted(&jobs[0]), 2);
    });
}

#[test]
fn drain_pushes_no_live_record_out_of_the_duplicate_window() {
    run(|| async {
        let world = world_with_window(4);
        let (jobs, _) = neighbours(2);
        let _tree = world.start();
        world.publish_poison(&jobs[0]);
        for sequence in 1..=9 {
            world.publish(&event(&jobs[0], sequence));
        }
        world.publish(&event(&jobs[1], 1));
        world.settle().await;
        wish(&world, &jobs[0], ParkedWish::DiscardHead).await;
        wait_parked(&world, &jobs[0], 0).await;

        world.publish(&event(&jobs[1], 1));
        world.settle().await;

        assert_eq!(world.counted(&jobs[0]), 9);
        assert_eq!((world.counted(&jobs[1]), world.applied(&jobs[1]).await), (1, vec![1]));
    });
}

#[test]
fn drain_after_a_restart_applies_each_parked_record_once() {
    run(|| async {
        let world = world_with_window(6);
        let tree = world.start();
        world.publish_poison("job-0");
        for sequence in [1, 2, 1, 3, 2] {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        wish(&world, "job-0", ParkedWish::DiscardHead).await;

        // The window is read anew, and the parked records lie within it.
        let _tree = world.start();
        wait_until("the queue to be drained", LIMIT, || world.counted("job-0") == 3).await;
        world.publish(&event("job-0", 3));
        world.publish(&event("job-0", 4));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 2, 3, 4]);
        assert_eq!(world.counted("job-0"), 4);
    });
}

#[test]
fn retry_of_the_poison_itself_waits_for_nobody_and_has_no_effect_of_its_own() {
    for (wished, wanted) in [(ParkedWish::Release, vec![1, 2]), (ParkedWish::DiscardHead, vec![2])] {
        run(|| async {
            let world = world_with_window(20);
            // In `keys` too: nothing has asked the window about the event when it is found to be poison.
            world.panics.in_keys.lock().unwrap().insert(event_id("job-0", 1), u32::MAX);
            let _tree = world.start();
            world.publish(&event("job-0", 1));
            world.settle().await;
            world.publish(&event("job-0", 1));
            world.settle().await;
            assert_eq!(world.snapshot("job-0").parked_total, 1);

            world.panics.in_keys.lock().unwrap().clear();
            wish(&world, "job-0", wished).await;
            wait_parked(&world, "job-0", 0).await;
            world.publish(&event("job-0", 1));
            world.publish(&event("job-0", 2));
            world.settle().await;

            assert_eq!(world.applied("job-0").await, wanted, "{wished:?}");
        });
    }
}

#[test]
fn retry_that_the_store_refuses_parks_nobody() {
    run(|| async {
        let world = world_with_window(4);
        let _tree = world.start();
        world.store.faults().refuse_record_of(&lane_of("job-0"), Offset(1));
        for sequence in [1, 1, 2, 3, 4, 5, 6] {
            world.publish(&event("job-0", sequence));
        }

        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 2, 3, 4, 5, 6]);
        let snapshot = world.snapshot("job-0");
        assert_eq!((snapshot.dead_lettered_total, snapshot.parked_keys), (1, 0));
    });
}

#[test]
fn drain_that_is_asked_to_stop_ends_between_transactions_and_the_next_life_goes_on() {
    run(|| async {
        let settings = LaneSettings { drain_records: 5, ..LaneSettings::default() };
        let world = World::new(Options { settings, ..Options::default() });
        let tree = world.start();
        world.publish_poison("job-0");
        for sequence in 1..=50 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;
        let waiting = || world.store.parked_of(&lane_of("job-0"), &Bytes::from_static(b"job-0")).len();
        assert_eq!(waiting(), 51);
        wish(&world, "job-0", ParkedWish::DiscardHead).await;
        world.store.faults().slow(Duration::from_secs(1));
        wait_until("the drain to begin", LIMIT, || waiting() < 51).await;

        tree.send(StopAll { within: Duration::from_secs(60) }).await.unwrap();

        let left = waiting();
        assert!((30..51).contains(&left), "{left} records were left");
        world.store.faults().slow(Duration::ZERO);
        let _tree = world.start();
        wait_until("the queue to be drained", LIMIT, || waiting() == 0).await;
        assert_eq!(world.applied("job-0").await, (1..=50).collect::<Vec<u64>>());
    });
}
