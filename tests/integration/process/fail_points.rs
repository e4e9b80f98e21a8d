//! Kills aimed at named points: between every step that must not be torn from the next.

use std::time::Duration;

use super::checker::Seen;
use super::client::Client;
use super::crash::{settle_and_check, work_during};
use super::load::Load;
use super::random::Random;
use super::server::{World, pass, wait_some};

/// How long a server that does not come by its point is given.
const LIFE: Duration = Duration::from_millis(700);

/// Points of the server, and up to which hit they are aimed at.
const SERVER_POINTS: [(&str, u64); 5] = [
    ("scheduler-after-accept", 6),
    ("orchestrator-after-accept", 6),
    ("store-after-progress", 120),
    ("store-before-commit", 120),
    ("store-after-commit", 120),
];

/// Commits of a start: every lane takes its epoch, in a few groups.
const HITS_OF_A_START: u64 = 8;

/// Kills servers again and again at one point, every other time on the way of a start, and has all of it judged.
fn kill_at(point: &str, hits_max: u64) -> Seen {
    let rounds = super::count("HORIZONS_TEST_AIMED_ROUNDS", 4);
    let mut random = Random::seeded(point);
    let world = World::new();
    let load = Load::default();
    let mut deaths = 0;

    for round in 0..rounds {
        let hits = if round % 2 == 0 { hits_max } else { hits_max.min(HITS_OF_A_START) };
        let mut server = world.spawn(Some(&format!("{point}:{}=kill", 1 + random.below(hits))));
        if server.wait_until_ready_or_gone() {
            load.repeat(server.client(), &mut random);
            work_during(&load, server.client(), &mut random, || pass(LIFE));
        }
        deaths += u64::from(!server.is_running());
        server.kill();
    }
    let seen = settle_and_check(&world, &load, world.serve(), &mut random);

    println!("{point}: {deaths} of {rounds} lives ended there, {seen:?}");
    assert!(deaths > 0, "no server came by `{point}`");
    seen
}

/// Runs jobs whose shims all die at a point, until `is_seen`, kills the server too, and has all of it judged.
fn kill_shims_at(point: &str, is_seen: impl Fn(Client) -> bool) -> Seen {
    let mut random = Random::seeded(point);
    let world = World::new();
    let load = Load::default();
    let mut server = world.spawn(Some(&format!("{point}=kill")));
    server.wait_until_ready();
    let client = server.client();
    work_during(&load, client, &mut random, || {
        pass(LIFE);
        wait_some("what the point leads to", || is_seen(client).then_some(()));
    });
    server.kill();

    let seen = settle_and_check(&world, &load, world.serve(), &mut random);

    println!("{point}: {seen:?}");
    seen
}

/// Tells whether some attempt was given up.
fn has_failed(client: Client) -> bool {
    let failed = client.get("/jobs?status=FAILED&limit=1").json();
    failed["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty())
}

#[test]
fn server_killed_after_the_scheduler_accepts_starts_each_agent_once() {
    let (point, hits) = SERVER_POINTS[0];

    let seen = kill_at(point, hits);

    assert!(seen.starts > 0);
}

#[test]
fn server_killed_before_the_order_is_answered_starts_each_agent_once() {
    let (point, hits) = SERVER_POINTS[1];

    let seen = kill_at(point, hits);

    assert!(seen.starts > 0);
}

#[test]
fn server_killed_around_its_commits_loses_and_doubles_nothing() {
    for (point, hits) in &SERVER_POINTS[2..] {
        kill_at(point, *hits);
    }
}

#[test]
fn shims_killed_before_their_claim_leave_their_attempts_to_others() {
    kill_shims_at("shim-before-claim", |_| true);
}

#[test]
fn shims_killed_after_their_claim_never_start_an_agent() {
    let seen = kill_shims_at("shim-after-claim", has_failed);

    assert!(seen.by_status.contains_key("FAILED"), "{seen:?}");
}

#[test]
fn shims_killed_before_their_result_start_each_agent_once() {
    let seen = kill_shims_at("shim-after-agent-exit", has_failed);

    assert!(seen.starts > 0 && seen.by_status.contains_key("FAILED"), "{seen:?}");
}
