//! Bugs that were found in the lane, each as the smallest history that shows it.

use std::time::Duration;

use super::parking::wish;
use super::world::{LIMIT, Options, World, event, event_id, lane_of, neighbours, run};
use crate::lane::environment::LaneSettings;
use crate::ports::store::ParkedWish;
use crate::snapshot::ActorState;
use crate::supervisor::message::StopAll;
use crate::testkit::{Fault, StoreCall, wait_until};

fn with_window(records: usize) -> Options {
    let settings = LaneSettings { duplicate_window_records: records, ..LaneSettings::default() };
    Options { settings, ..Options::default() }
}

#[test]
fn lane_commit_tried_again_still_knows_the_batch_s_duplicates() {
    run(|| async {
        let world = World::new(with_window(4));
        let _tree = world.start();
        world.publish(&event("job-0", 1));
        world.settle().await;
        world.store.faults().script(StoreCall::Commit, Fault::Unavailable);

        world.publish(&event("job-0", 1));
        for sequence in 2..=7 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;

        assert_eq!(world.counted("job-0"), 7);
    });
}

#[test]
fn lane_duplicate_of_a_duplicate_within_the_window_is_recognised() {
    run(|| async {
        let world = World::new(with_window(4));
        let _tree = world.start();

        for sequence in [1, 2, 3, 1, 4, 5, 1] {
            world.publish(&event("job-0", sequence));
            world.settle().await;
        }

        assert_eq!(world.counted("job-0"), 5);
    });
}

#[test]
fn lane_event_whose_keys_panic_is_parked_and_spares_the_restart_budget() {
    run(|| async {
        let world = World::new(Options::default());
        let (jobs, _) = neighbours(2);
        world.panics.in_keys.lock().unwrap().insert(event_id(&jobs[0], 2), u32::MAX);
        let _tree = world.start();
        for sequence in 1..=4 {
            world.publish(&event(&jobs[0], sequence));
            world.publish(&event(&jobs[1], sequence));
        }
        world.settle().await;

        assert_eq!(world.applied(&jobs[0]).await, [1]);
        assert_eq!(world.applied(&jobs[1]).await, [1, 2, 3, 4]);
        assert_eq!(world.snapshot(&jobs[0]).restarts, 0);

        wish(&world, &jobs[0], ParkedWish::Release).await;
        let is_waiting = || world.panics.in_keys.lock().unwrap()[&event_id(&jobs[0], 2)] <= u32::MAX - 6;
        wait_until("the release to be tried", LIMIT, is_waiting).await;
        world.panics.in_keys.lock().unwrap().clear();
        wish(&world, &jobs[0], ParkedWish::Release).await;
        wait_until("the rest to be drained", LIMIT, || world.counted(&jobs[0]) == 4).await;

        assert_eq!(world.snapshot(&jobs[0]).restarts, 0);
    });
}

#[test]
fn parked_key_at_its_limit_lets_another_key_be_released() {
    run(|| async {
        let settings = LaneSettings { parked_key_limit: 5, ..LaneSettings::default() };
        let world = World::new(Options { settings, ..Options::default() });
        let (jobs, _) = neighbours(2);
        let _tree = world.start();
        world.publish_poison(&jobs[1]);
        world.publish(&event(&jobs[1], 1));
        world.publish_poison(&jobs[0]);
        for sequence in 1..=5 {
            world.publish(&event(&jobs[0], sequence));
        }
        world.settle().await;
        world.publish(&event(&jobs[0], 6));
        world.wait_for_state(&jobs[0], ActorState::Waiting).await;

        wish(&world, &jobs[1], ParkedWish::DiscardHead).await;
        wait_until("the other key to be drained", LIMIT, || world.counted(&jobs[1]) == 1).await;

        assert_eq!(world.applied(&jobs[1]).await, [1]);
        assert!(world.applied(&jobs[0]).await.is_empty());
    });
}

#[test]
fn parked_key_at_its_limit_released_while_nobody_ran_is_drained_at_start() {
    run(|| async {
        let settings = LaneSettings { parked_key_limit: 5, ..LaneSettings::default() };
        let world = World::new(Options { settings, batch_records: 7, ..Options::default() });
        let tree = world.start();
        world.publish_poison("job-0");
        for sequence in 1..=7 {
            world.publish(&event("job-0", sequence));
            if sequence == 3 {
                world.settle().await;
            }
        }
        world.settle().await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        for sequence in 8..=10 {
            world.publish(&event("job-0", sequence));
        }
        wish(&world, "job-0", ParkedWish::DiscardHead).await;

        let _tree = world.start();
        wait_until("everything to be applied", LIMIT, || world.counted("job-0") == 10).await;

        assert_eq!(world.applied("job-0").await, (1..=10).collect::<Vec<_>>());
    });
}

/// Lets the timers of two jobs of one lane fall due together while one of them is broken, and checks that
/// the other is answered at once, the broken one when it is well again, and no restart is spent.
fn check_broken_timer(break_first_of: fn(&World, &str)) {
    run(|| async move {
        let world = World::new(Options::default());
        let (jobs, _) = neighbours(2);
        let lane = lane_of(&jobs[0]);
        let _tree = world.start();
        for job in &jobs {
            world.publish(&event(job, 1).user("timer"));
        }
        world.settle().await;
        let first = world.store.timers_of(&lane)[0].id.key.clone();
        break_first_of(&world, &first);
        let answered =
            || world.store.orders().iter().map(|(order, _)| order.job_id.to_string()).collect::<Vec<_>>();

        wait_until("a timer to be answered", LIMIT, || !answered().is_empty()).await;
        assert!(!answered().contains(&first), "the broken timer was answered first");
        assert_eq!(world.store.timers_of(&lane).len(), 1, "the broken timer is kept");
        wait_until("the other to be answered", LIMIT, || answered().len() == 2).await;

        assert!(world.store.timers_of(&lane).is_empty());
        assert_eq!(world.snapshot(&first).restarts, 0);
    });
}

#[test]
fn timer_whose_effects_the_store_refuses_is_postponed_alone() {
    check_broken_timer(|world, job| {
        // Once for both timers together, once for the first alone.
        for _ in 0..2 {
            world.store.faults().script_commit(&lane_of(job), Fault::Data("asked for".to_owned()));
        }
    });
}

#[test]
fn timer_whose_finish_panics_is_postponed_alone() {
    check_broken_timer(|world, job| {
        // Once for both timers together, then as often as the first is tried.
        world.panics.in_timer_finish.lock().unwrap().insert(job.to_owned(), 4);
    });
}

#[test]
fn timer_whose_keys_panic_is_postponed_alone() {
    check_broken_timer(|world, job| {
        world.panics.in_timer_keys.lock().unwrap().insert(job.to_owned(), 3);
    });
}

#[test]
fn parked_key_at_its_limit_does_not_hold_up_a_stop() {
    run(|| async {
        let settings = LaneSettings { parked_key_limit: 5, ..LaneSettings::default() };
        let world = World::new(Options { settings, batch_records: 1, ..Options::default() });
        let tree = world.start();
        world.publish_poison("job-0");
        for sequence in 1..=10 {
            world.publish(&event("job-0", sequence));
        }
        world.wait_for_state("job-0", ActorState::Waiting).await;
        let started = tokio::time::Instant::now();

        tree.send(StopAll { within: Duration::from_secs(60) }).await.unwrap();

        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    });
}

#[test]
fn lane_whose_store_is_away_stops_between_two_tries() {
    run(|| async {
        let world = World::new(Options::default());
        let tree = world.start();
        world.publish(&event("job-0", 1));
        world.settle().await;
        world.store.faults().script_next(StoreCall::Commit, usize::from(u16::MAX), &Fault::Unavailable);
        world.publish(&event("job-0", 2));
        world.wait_for_state("job-0", ActorState::Waiting).await;
        let started = tokio::time::Instant::now();

        tree.send(StopAll { within: Duration::from_secs(60) }).await.unwrap();

        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!(world.applied("job-0").await, [1]);
    });
}
