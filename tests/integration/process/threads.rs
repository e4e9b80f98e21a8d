//! The watchdog from outside: every thread is watched, and only time in which the process ran counts.

use std::time::Duration;

use horizons::exit::Exit;
use nix::sys::signal::Signal;

use super::server::{World, pass, wait_for};

/// The watchdog's limit in these tests: the least that the configuration takes.
const STUCK_AFTER: &str = "[lanes]\nstuck_after_ms = 1000\n";

#[test]
fn server_stopped_for_longer_than_the_watchdogs_limit_goes_on() {
    let world = World::with(STUCK_AFTER, "slots = 4\n");
    let mut server = world.serve();

    for _ in 0..3 {
        server.signal(Signal::SIGSTOP);
        pass(Duration::from_millis(2500));
        server.signal(Signal::SIGCONT);
        pass(Duration::from_millis(300));
    }
    // As long as the watchdog would need to find whoever it misses.
    pass(Duration::from_millis(1500));

    assert!(server.is_running(), "{}", server.said());
    assert_eq!(server.client().get("/ready").status, 200);
    server.stop();
}

#[test]
fn server_shows_every_thread_that_is_watched() {
    let world = World::new();
    let server = world.serve();

    let named = |name: &str| {
        let tree = server.client().get("/actors").json();
        tree["threads"].as_array().unwrap().iter().any(|thread| thread["thread"] == name)
    };
    for thread in [
        "main",
        "front",
        "dispatch",
        "jobs",
        "lanes-0",
        "lanes-1",
        "store-writer",
        "store-checkpoint",
        "store-load-0",
        "store-query-0",
        "reader-audit-trail",
        "reader-job-metrics",
        "reader-jobs",
        "scheduler-watcher",
    ] {
        wait_for(thread, || named(thread));
    }
    server.stop();
}

#[cfg(feature = "fail-points")]
#[test]
fn server_whose_store_writer_hangs_is_ended_with_its_name() {
    let world = World::with(STUCK_AFTER, "slots = 4\n");
    let mut server = world.spawn(Some("store-before-commit=hang"));

    let status = server.wait_for_exit();

    assert_eq!(status.code(), Some(i32::from(Exit::Stuck.code())), "{}", server.said());
    let log = server.log();
    let line = log.iter().find(|line| line["message"] == "thread is stuck: the process ends").unwrap();
    assert_eq!((&line["thread"], &line["does"]), (&"store-writer".into(), &"a commit".into()), "{line}");
}
