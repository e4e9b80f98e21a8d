//! Panics, a store that is away, and memory under overload.

use std::time::Duration;

use super::world::{LIMIT, Options, World, event, event_id, lane_of, neighbours, run};
use crate::effect::Outcome;
use crate::ids::Offset;
use crate::lane::credit::CreditLimits;
use crate::lane::fault::FaultPoint;
use crate::ports::store::DesiredState;
use crate::snapshot::ActorState;
use crate::supervisor::message::StopAll;
use crate::testkit::{Fault, StoreCall, wait_until};

const SEQUENCES: std::ops::RangeInclusive<u64> = 1..=30;

async fn publish_and_check(world: &World, jobs: &[String]) {
    for sequence in SEQUENCES {
        for job in jobs {
            world.publish(&event(job, sequence));
        }
    }
    world.settle().await;
    check(world, jobs).await;
}

async fn check(world: &World, jobs: &[String]) {
    for job in jobs {
        assert_eq!(world.applied(job).await, SEQUENCES.collect::<Vec<_>>(), "{job}");
        assert_eq!(world.counted(job), *SEQUENCES.end(), "{job}");
    }
}

#[test]
fn lane_many_jobs_applies_each_once_in_order() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        let (mut jobs, other) = neighbours(4);
        jobs.push(other);

        publish_and_check(&world, &jobs).await;

        let outcomes: usize =
            world.notices.0.lock().unwrap().iter().map(|notice| notice.outcomes.len()).sum();
        assert_eq!(outcomes, 150);
    });
}

#[test]
fn lane_panic_at_any_point_restarts_it_and_loses_nothing() {
    for point in [
        FaultPoint::Started,
        FaultPoint::BeforeBatch,
        FaultPoint::BeforeApply,
        FaultPoint::BeforeCommit,
        FaultPoint::AfterCommit,
    ] {
        run(|| async move {
            let world = World::new(Options::default());
            let (mut jobs, other) = neighbours(2);
            let lane = lane_of(&jobs[0]);
            let key = (point, lane.topic_partition.partition);
            world.panics.at_point.lock().unwrap().insert(key, 2);
            jobs.push(other.clone());
            let _tree = world.start();

            publish_and_check(&world, &jobs).await;

            assert_eq!(world.panics.at_point.lock().unwrap()[&key], 0, "{point:?} was passed");
            assert_eq!(world.snapshot(&jobs[0]).restarts, 2, "{point:?}");
            assert_eq!(world.snapshot(&other).restarts, 0, "{point:?}: another lane was restarted");
            assert!(world.escalations.lock().unwrap().is_empty());
        });
    }
}

#[test]
fn lane_panic_works_again_within_twenty_milliseconds() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish(&event("job-0", 1));
        world.settle().await;
        let key = (FaultPoint::BeforeBatch, lane_of("job-0").topic_partition.partition);
        world.panics.at_point.lock().unwrap().insert(key, 1);
        let started = tokio::time::Instant::now();

        world.publish(&event("job-0", 2));
        world.settle().await;

        assert!(started.elapsed() <= Duration::from_millis(20), "{:?}", started.elapsed());
    });
}

#[test]
fn lane_panic_on_one_event_is_charged_to_it_and_spares_the_restart_budget() {
    run(|| async {
        let world = World::new(Options::default());
        let (jobs, _) = neighbours(3);
        // Two panics pass; a third would make the event poison.
        world.panics.on_event.lock().unwrap().insert(event_id(&jobs[0], 3), 2);
        world.panics.in_finish.lock().unwrap().insert(event_id(&jobs[1], 5), 2);
        let _tree = world.start();

        publish_and_check(&world, &jobs).await;

        assert_eq!(world.snapshot(&jobs[0]).restarts, 0);
        assert_eq!(world.snapshot(&jobs[0]).parked_keys, 0);
    });
}

#[test]
fn lane_event_that_always_panics_is_parked_while_others_flow() {
    for is_in_finish in [false, true] {
        run(|| async move {
            let world = World::new(Options::default());
            let (jobs, _) = neighbours(3);
            let where_to = if is_in_finish { &world.panics.in_finish } else { &world.panics.on_event };
            where_to.lock().unwrap().insert(event_id(&jobs[0], 3), u32::MAX);
            let _tree = world.start();

            for sequence in SEQUENCES {
                for job in &jobs {
                    world.publish(&event(job, sequence));
                }
            }
            world.settle().await;

            check(&world, &jobs[1..]).await;
            assert_eq!(world.applied(&jobs[0]).await, [1, 2]);
            let snapshot = world.snapshot(&jobs[0]);
            assert_eq!((snapshot.restarts, snapshot.parked_keys, snapshot.parked_records), (0, 1, 28));
        });
    }
}

#[test]
fn lane_restart_budget_spent_escalates_to_the_group_and_then_out() {
    run(|| async {
        let world = World::new(Options::default());
        let key = (FaultPoint::Started, lane_of("job-0").topic_partition.partition);
        world.panics.at_point.lock().unwrap().insert(key, u32::MAX);

        let _tree = world.start();

        let escalations = world.escalations.clone();
        wait_until("the escalation", LIMIT, || !escalations.lock().unwrap().is_empty()).await;
        assert!(escalations.lock().unwrap()[0].contains("restart budget"), "{escalations:?}");
    });
}

#[test]
fn lane_store_away_waits_and_goes_on_by_itself() {
    run(|| async {
        let world = World::new(Options::default());
        let (jobs, _) = neighbours(2);
        let _tree = world.start();
        world.publish(&event(&jobs[0], 1));
        world.publish(&event(&jobs[1], 1));
        world.settle().await;

        world.store.faults().script_next(StoreCall::Commit, 40, &Fault::Unavailable);
        for sequence in 2..=30 {
            world.publish(&event(&jobs[0], sequence));
            world.publish(&event(&jobs[1], sequence));
        }
        world.wait_for_state(&jobs[0], ActorState::Waiting).await;
        world.store.faults().away();
        tokio::time::advance(Duration::from_secs(60)).await;
        world.store.faults().back();
        world.settle().await;

        check(&world, &jobs).await;
        assert_eq!(world.snapshot(&jobs[0]).restarts, 0);
    });
}

#[test]
fn lane_lost_answer_to_commit_is_resolved_by_reading_progress() {
    for fault in [Fault::UnknownWritten, Fault::UnknownUnwritten] {
        run(|| async move {
            let world = World::new(Options::default());
            let (jobs, _) = neighbours(2);
            world.store.faults().script_next(StoreCall::Commit, 2, &fault);
            let _tree = world.start();

            publish_and_check(&world, &jobs).await;

            assert_eq!(world.snapshot(&jobs[0]).restarts, 0, "{fault:?}");
        });
    }
}

#[test]
fn lane_data_that_the_store_refuses_is_split_off_and_parked() {
    run(|| async {
        let world = World::new(Options::default());
        let (jobs, _) = neighbours(3);
        let lane = lane_of(&jobs[0]);
        // The second event of the second job: offset 4 of three jobs in turn.
        world.store.faults().refuse_record_of(&lane, Offset(4));
        let _tree = world.start();

        for sequence in SEQUENCES {
            for job in &jobs {
                world.publish(&event(job, sequence));
            }
        }
        wait_until("the refused event to be parked", LIMIT, || {
            world.store.faults().accept_records();
            true
        })
        .await;
        world.settle().await;

        check(&world, &[jobs[0].clone(), jobs[2].clone()]).await;
    });
}

#[test]
fn lane_duplicate_at_another_offset_has_no_second_effect() {
    run(|| async {
        let world = World::new(Options::default());
        let tree = world.start();
        world.publish(&event("job-0", 1));
        world.publish(&event("job-0", 2));
        world.publish(&event("job-0", 1));
        world.settle().await;

        // The window is rebuilt from the log: a restart does not forget what was seen.
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        let _tree = world.start();
        world.publish(&event("job-0", 2));
        world.publish(&event("job-0", 3));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 2, 3]);
        assert_eq!(world.snapshot("job-0").duplicate_total, 2);
    });
}

#[test]
fn lane_that_rebuilds_its_window_takes_a_part_of_its_credit_until_it_is_whole() {
    run(|| async {
        let credits = CreditLimits { lane_records: 80, ..Options::default().credits };
        let world = World::new(Options { credits, ..Options::default() });
        let tree = world.start();
        for sequence in 1..=200 {
            world.publish(&event("job-0", sequence));
        }
        world.settle().await;

        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        let _tree = world.start();
        world.publish(&event("job-0", 200));
        world.settle().await;

        assert_eq!(world.snapshot("job-0").duplicate_total, 1);
        wait_until("all of the credit", LIMIT, || world.reader_calls.credit() == (10, 80)).await;
    });
}

#[test]
fn lane_refused_event_is_recorded_and_parks_nobody() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.publish(&event("job-0", 1));
        world.publish(&event("job-0", 2).user("refused"));
        world.publish(&event("job-0", 3));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 3]);
        let snapshot = world.snapshot("job-0");
        assert_eq!((snapshot.refused_total, snapshot.parked_keys), (1, 0));
    });
}

#[test]
fn lane_overload_holds_no_more_than_the_budget() {
    run(|| async {
        let credits = CreditLimits { lane_records: 40, lane_bytes: 40_000, total_bytes: 60_000 };
        let world = World::new(Options { credits, ..Options::default() });
        world.store.faults().slow(Duration::from_millis(500));
        let (mut jobs, other) = neighbours(2);
        jobs.push(other);
        let _tree = world.start();

        for sequence in SEQUENCES {
            for job in &jobs {
                world.publish(&event(job, sequence));
            }
        }
        let mut most = 0;
        wait_until("the overload to pass", LIMIT, || {
            most = most.max(world.credit.held_bytes());
            world.counted(&jobs[2]) == 30 && world.counted(&jobs[0]) == 30 && world.counted(&jobs[1]) == 30
        })
        .await;

        assert!(most > 0 && most <= 60_000, "{most}");
        wait_until("every credit to come back", LIMIT, || world.credit.held_bytes() == 0).await;
        check(&world, &jobs).await;
    });
}

#[test]
fn lane_pause_holds_records_until_resumed_and_outlives_a_restart() {
    run(|| async {
        let world = World::new(Options::default());
        let lane = lane_of("job-0");
        world.store.set_desired(&lane, DesiredState::Paused);
        let tree = world.start();
        world.publish(&event("job-0", 1));
        world.wait_for_state("job-0", ActorState::Paused).await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        let _tree = world.start();
        world.wait_for_state("job-0", ActorState::Paused).await;
        assert!(world.applied("job-0").await.is_empty());

        world.store.set_desired(&lane, DesiredState::Running);
        world.board.lane(&lane).nudge();
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1]);
    });
}

#[test]
fn timer_panic_is_kept_and_harms_no_record() {
    run(|| async {
        let world = World::new(Options::default());
        *world.panics.in_tick.lock().unwrap() = 4;
        let _tree = world.start();
        world.publish(&event("job-0", 1).user("timer"));
        world.settle().await;

        wait_until("the timer to be answered", LIMIT, || world.store.orders().len() == 1).await;
        world.publish(&event("job-0", 2));
        world.settle().await;

        assert_eq!(world.applied("job-0").await, [1, 2]);
        assert_eq!(world.snapshot("job-0").restarts, 0);
        assert!(world.store.timers_of(&lane_of("job-0")).is_empty());
    });
}

#[test]
fn timer_backlog_after_downtime_comes_before_it() {
    run(|| async {
        let world = World::new(Options::default());
        let tree = world.start();
        world.publish(&event("job-0", 1).user("timer"));
        world.settle().await;
        tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        for sequence in SEQUENCES.skip(1) {
            world.publish(&event("job-0", sequence));
        }
        world.clock.advance(Duration::from_secs(3_600));

        let _tree = world.start();
        wait_until("the timer to be answered", LIMIT, || world.store.orders().len() == 1).await;

        let notices = world.notices.0.lock().unwrap();
        let tick = notices.iter().rposition(|notice| notice.outcomes.is_empty()).unwrap();
        let applied: usize = notices[..tick]
            .iter()
            .flat_map(|notice| &notice.outcomes)
            .filter(|one| **one == Outcome::Applied)
            .count();
        assert_eq!(applied, 30, "the timer fired before the backlog was applied");
    });
}
