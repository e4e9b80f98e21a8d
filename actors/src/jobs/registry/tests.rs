//! The registry and its supervisors as actors: started, retired, rebuilt, never lost.

use super::bench::{Bench, Break, Vanish, lane_of, run, until, view};
use super::fake_query::FakeQuery;
use super::*;
use crate::event::JobStatus;
use crate::ids::Sequence;
use crate::jobs::fixture;
use crate::lane::behaviour::Notice;

#[test]
fn registry_first_committed_event_starts_a_supervisor() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.until_read(1).await;

        bench.commit(&[view("a", JobStatus::Submitted, 1)]);

        let found = bench.until_status("a", JobStatus::Submitted).await;
        assert_eq!(found.job_id, fixture::job("a"));
        assert_eq!((found.last_sequence, found.since), (Sequence(1), fixture::at(1)));
        assert_eq!((found.is_external, found.attempt.0), (false, 1));
        assert_eq!(bench.jobs.live_supervisors(), 1);
    });
}

#[test]
fn registry_transitions_reach_the_same_supervisor_until_the_end() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Queued, 3)]);
        let started = bench.until_status("a", JobStatus::Queued).await;

        bench.commit(&[view("a", JobStatus::Queued, 3), view("a", JobStatus::Running, 5)]);
        let running = bench.until_status("a", JobStatus::Running).await;
        bench.commit(&[view("a", JobStatus::Completed, 6)]);
        bench.until_retired("a").await;
        bench.commit(&[view("a", JobStatus::Completed, 7)]);

        assert_eq!(running.live_since, started.live_since);
        assert_eq!(bench.counts().await.live, 0);
        assert_eq!(bench.counts().await.supervisor_restarts, 0);
    });
}

#[test]
fn registry_job_that_is_left_loses_its_supervisor_until_it_is_heard_of() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5)]);
        bench.until_status("a", JobStatus::Running).await;

        bench.jobs.on_notices(&[Notice::JobLeft(fixture::job("a"))]);
        bench.until_retired("a").await;
        bench.commit(&[view("a", JobStatus::Running, 6)]);

        bench.until_status("a", JobStatus::Running).await;
        assert_eq!(bench.counts().await.supervisor_restarts, 0);
    });
}

#[test]
fn registry_failed_job_keeps_its_supervisor_while_it_retries() {
    run(async {
        let bench = Bench::start(FakeQuery::default());

        bench.commit(&[JobView { will_retry: true, ..view("a", JobStatus::Failed, 6) }]);

        bench.until_status("a", JobStatus::Failed).await;
        bench.commit(&[view("a", JobStatus::Failed, 9)]);
        bench.until_retired("a").await;
    });
}

#[test]
fn registry_start_reads_every_live_job_over_pages() {
    run(async {
        let query = FakeQuery::default();
        let jobs = PAGE_JOBS * 2 + 1;
        for number in 0..jobs {
            query.put(&view(&format!("job-{number:06}"), JobStatus::Running, 5));
        }
        query.put(&view("over", JobStatus::Completed, 7));

        let bench = Bench::start(query);

        bench.until_read(1).await;
        assert_eq!(bench.counts().await.live, jobs as u64);
        assert_eq!(bench.supervisor("over").await, None);
        assert_eq!(bench.query.pages_read.load(Ordering::Relaxed), 4);
        bench.until_status(&format!("job-{:06}", jobs - 1), JobStatus::Running).await;
    });
}

#[test]
fn registry_partition_goes_and_comes_supervisors_follow() {
    run(async {
        let query = FakeQuery::default();
        query.put(&view("a", JobStatus::Running, 5));
        let bench = Bench::start(query);
        bench.until_status("a", JobStatus::Running).await;

        bench.board.remove_lane(&lane_of("a"));
        bench.until_retired("a").await;
        let while_away = bench.counts().await.live;
        bench.board.lane(&lane_of("a"));
        bench.until_status("a", JobStatus::Running).await;

        assert_eq!(while_away, 0);
        assert_eq!(bench.counts().await.supervisor_restarts, 0);
    });
}

#[test]
fn supervisor_panic_rebuilds_it_and_touches_no_other() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5), view("b", JobStatus::Queued, 3)]);
        let before = bench.until_status("b", JobStatus::Queued).await;

        bench.break_actor(Some("a")).await;

        until(|| async { (bench.counts().await.supervisor_restarts == 1).then_some(()) }).await;
        let rebuilt = bench.until_status("a", JobStatus::Running).await;
        assert_eq!(rebuilt.last_sequence, Sequence(5));
        assert_eq!(bench.supervisor("b").await, Some(before));
        let counts = bench.counts().await;
        assert_eq!((counts.live, counts.rebuilding, counts.registry_restarts), (2, 0, 0));
        assert_eq!(counts.last_error.as_deref(), Some("panicked: the supervisor breaks"));
    });
}

#[test]
fn supervisor_panic_is_told_before_the_next_tick() {
    run(async {
        let started = tokio::time::Instant::now();
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5)]);
        bench.until_status("a", JobStatus::Running).await;
        // The clock is set just past a tick, so that the next one is far.
        let past_tick = TICK.mul_f64((started.elapsed().as_secs_f64() / TICK.as_secs_f64()).ceil() + 0.1);
        tokio::time::sleep_until(started + past_tick).await;

        bench.break_actor(Some("a")).await;

        until(|| async { (bench.counts().await.supervisor_restarts == 1).then_some(()) }).await;
        assert!(started.elapsed() < past_tick + TICK / 2);
    });
}

#[test]
fn supervisor_that_ends_without_a_word_is_found_and_rebuilt() {
    run(async {
        let query = FakeQuery::default();
        // More than one tick's slice, so that the last is found only if the next tick goes on from there.
        for number in 0..=SWEEP_CHILDREN {
            query.put(&view(&format!("job-{number:06}"), JobStatus::Running, 5));
        }
        let last = format!("job-{SWEEP_CHILDREN:06}");
        let bench = Bench::start(query);
        bench.until_read(1).await;
        let before = bench.until_status(&last, JobStatus::Running).await;

        let vanish = Vanish(fixture::job(&last));
        bench.jobs.registry().expect("it runs").send(vanish).await.expect("taken");

        until(|| async { (bench.counts().await.supervisor_restarts == 1).then_some(()) }).await;
        let rebuilt = bench.until_status(&last, JobStatus::Running).await;
        assert!(rebuilt.live_since > before.live_since);
        assert_eq!(bench.counts().await.live, SWEEP_CHILDREN as u64 + 1);
    });
}

#[test]
fn supervisor_panic_of_a_job_that_ends_meanwhile_rebuilds_nothing() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.until_read(1).await;
        bench.commit(&[view("a", JobStatus::Running, 5)]);
        bench.until_status("a", JobStatus::Running).await;
        bench.query.hold(true);
        bench.break_actor(Some("a")).await;
        until(|| async { (bench.counts().await.rebuilding == 1).then_some(()) }).await;
        // The delay before the rebuild passes, so that its reading shows the job alive and is kept back.
        tokio::time::advance(Duration::from_secs(1)).await;
        bench.counts().await;

        bench.commit(&[view("a", JobStatus::Completed, 7)]);
        until(|| async { (bench.counts().await.rebuilding == 0).then_some(()) }).await;
        bench.query.hold(false);
        bench.jobs.resync();
        bench.until_read(2).await;

        assert_eq!(bench.supervisor("a").await, None);
    });
}

#[test]
fn supervisor_that_keeps_panicking_never_ends_the_registry() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5), view("b", JobStatus::Running, 5)]);

        for restarts in 1..=4 {
            bench.until_status("a", JobStatus::Running).await;
            bench.break_actor(Some("a")).await;
            until(|| async { (bench.counts().await.supervisor_restarts == restarts).then_some(()) }).await;
        }

        let counts = bench.counts().await;
        assert_eq!((counts.live, counts.rebuilding, counts.registry_restarts), (1, 1, 0));
        bench.until_status("b", JobStatus::Running).await;
        tokio::time::advance(Duration::from_secs(60)).await;
        bench.until_status("a", JobStatus::Running).await;
    });
}

#[test]
fn registry_panic_rebuilds_every_supervisor_from_the_store() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5), view("b", JobStatus::Queued, 3)]);
        bench.until_status("b", JobStatus::Queued).await;

        bench.break_actor(None).await;

        until(|| async { (bench.counts().await.registry_restarts == 1).then_some(()) }).await;
        bench.until_status("a", JobStatus::Running).await;
        bench.until_status("b", JobStatus::Queued).await;
        assert_eq!(bench.counts().await.last_error.as_deref(), Some("panicked: the registry breaks"));
        assert!(bench.escalated.lock().expect("not poisoned").is_empty());
    });
}

#[test]
fn registry_event_committed_while_it_is_down_is_read_from_the_store() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.until_read(1).await;
        let registry = bench.jobs.registry().expect("it runs");
        let broken = registry.send(Break(None));
        broken.await.expect("the registry took it");

        bench.commit(&[view("a", JobStatus::Running, 5)]);

        bench.until_status("a", JobStatus::Running).await;
    });
}

#[test]
fn registry_budget_spent_escalates_once() {
    run(async {
        let bench = Bench::start(FakeQuery::default());

        for _ in 0..4 {
            bench.break_actor(None).await;
            until(|| async {
                let is_down = bench.jobs.registry().is_err();
                is_down.then_some(())
            })
            .await;
        }

        until(|| async { (!bench.escalated.lock().expect("not poisoned").is_empty()).then_some(()) }).await;
        assert_eq!(*bench.escalated.lock().expect("not poisoned"), ["panicked: the registry breaks"]);
        let answer = bench.jobs.job_supervisor(fixture::job("a")).await;
        assert_eq!(answer, Err(RegistryError::NotRunning));
    });
}

#[test]
fn registry_mailbox_full_reads_the_store_and_blocks_nobody() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.until_read(1).await;
        let jobs = MAILBOX_MESSAGES * 3;

        // Nothing is awaited in between, so the registry cannot take any of these.
        for number in 0..jobs {
            bench.commit(&[view(&format!("job-{number}"), JobStatus::Running, 5)]);
        }

        until(|| async { (bench.jobs.live_supervisors() == jobs as u64).then_some(()) }).await;
        assert!(bench.counts().await.missed > 0);
        bench.until_status(&format!("job-{}", jobs - 1), JobStatus::Running).await;
    });
}

#[test]
fn supervisor_mailbox_full_takes_the_newest_view_later() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.until_read(1).await;
        bench.commit(&[view("a", JobStatus::Queued, 3)]);
        bench.until_status("a", JobStatus::Queued).await;

        // The registry hears these in one go, before the supervisor on its arbiter can.
        for sequence in 4..40 {
            bench.commit(&[view("a", JobStatus::Running, sequence)]);
        }

        let newest = until(|| async {
            bench.supervisor("a").await.filter(|found| found.last_sequence == Sequence(39))
        })
        .await;
        assert_eq!(newest.status, JobStatus::Running);
        assert_eq!(bench.counts().await.supervisor_restarts, 0);
    });
}

#[test]
fn registry_word_of_an_end_lost_retires_the_supervisor_on_reading() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5), view("b", JobStatus::Running, 5)]);
        bench.until_status("a", JobStatus::Running).await;
        bench.until_read(1).await;
        bench.query.put(&view("a", JobStatus::Completed, 7));

        bench.jobs.registry().expect("it runs").send(Resync).await.expect("taken");

        bench.until_retired("a").await;
        bench.until_status("b", JobStatus::Running).await;
    });
}

#[test]
fn registry_job_that_ends_during_a_reading_stays_ended() {
    run(async {
        let query = FakeQuery::default();
        query.put(&view("a", JobStatus::Running, 5));
        query.hold(true);
        let bench = Bench::start(query);
        until(|| async { (bench.query.pages_read.load(Ordering::Relaxed) == 1).then_some(()) }).await;

        bench.commit(&[view("a", JobStatus::Completed, 7)]);
        bench.counts().await;
        bench.query.hold(false);

        bench.until_read(1).await;
        assert_eq!(bench.supervisor("a").await, None);
    });
}

#[test]
fn registry_job_that_begins_during_a_reading_stays() {
    run(async {
        let query = FakeQuery::default();
        query.hold(true);
        let bench = Bench::start(query);
        until(|| async { (bench.query.pages_read.load(Ordering::Relaxed) == 1).then_some(()) }).await;

        bench.commit(&[view("a", JobStatus::Submitted, 1)]);
        bench.until_status("a", JobStatus::Submitted).await;
        bench.query.hold(false);

        bench.until_read(1).await;
        assert_eq!(bench.counts().await.live, 1);
    });
}

#[test]
fn registry_page_older_than_a_transition_changes_nothing() {
    run(async {
        let query = FakeQuery::default();
        query.put(&view("a", JobStatus::Queued, 3));
        query.hold(true);
        let bench = Bench::start(query);
        until(|| async { (bench.query.pages_read.load(Ordering::Relaxed) == 1).then_some(()) }).await;

        bench.commit(&[view("a", JobStatus::Running, 5)]);
        bench.until_status("a", JobStatus::Running).await;
        bench.query.hold(false);

        bench.until_read(1).await;
        bench.until_status("a", JobStatus::Running).await;
    });
}

#[test]
fn registry_store_away_or_panicking_reads_until_it_answers() {
    run(async {
        let query = FakeQuery::default();
        query.put(&view("a", JobStatus::Running, 5));
        query.failures_left.store(7, Ordering::Relaxed);
        query.is_panicking.store(true, Ordering::Relaxed);

        let bench = Bench::start(query);

        bench.until_status("a", JobStatus::Running).await;
        assert!(bench.query.pages_read.load(Ordering::Relaxed) >= 9);
        assert_eq!(bench.counts().await.registry_restarts, 0);
    });
}

#[test]
fn handle_stopped_ends_every_actor_and_starts_none() {
    run(async {
        let bench = Bench::start(FakeQuery::default());
        bench.commit(&[view("a", JobStatus::Running, 5)]);
        bench.until_status("a", JobStatus::Running).await;

        bench.jobs.stop();

        until(|| async { bench.jobs.registry().is_err().then_some(()) }).await;
        assert_eq!(bench.jobs.live_supervisors(), 0);
        bench.commit(&[view("a", JobStatus::Completed, 7)]);
        assert_eq!(bench.jobs.job_counts().await, Err(RegistryError::NotRunning));
        assert!(bench.escalated.lock().expect("not poisoned").is_empty());
    });
}
