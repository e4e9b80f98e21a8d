//! `kill -9` at random moments under load: nothing is lost, nothing doubled, nothing out of order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::checker::{self, Seen};
use super::client::Client;
use super::load::{Load, Submit};
use super::look::Look;
use super::random::Random;
use super::server::{Server, World, pass, wait_for};

/// Threads that make load.
const WORKERS: u64 = 6;

/// The longest life of a server that is killed.
const LIFE_MAX_MS: u64 = 700;

/// Agents that never end are cancelled in one life out of so many: in between they hold slots across crashes.
const CLEAR_ONE_IN: u64 = 3;

/// One start in so many is killed on its way.
const EARLY_KILL_ONE_IN: u64 = 4;

/// The longest time that a server which is killed on its way is given.
const EARLY_LIFE_MAX_MS: u64 = 120;

/// How long nothing may move while something is left to be done.
const STALL_LIMIT: Duration = Duration::from_secs(90);

/// How long settling may take, whatever moves. After hundreds of kills every lane tries a batch of records one by
/// one, which takes minutes.
const SETTLE_LIMIT: Duration = Duration::from_secs(1_200);

/// Waits until all that was accepted is done.
pub(crate) fn settle(world: &World) {
    let mut look = Look::of(world);
    let began_at = Instant::now();
    let (mut left, mut looked_at) = (String::new(), began_at);
    while !look.is_settled() {
        pass(Duration::from_millis(20));
        if looked_at.elapsed() < STALL_LIMIT {
            continue;
        }
        let now_left = look.unsettled();
        assert!(now_left != left && began_at.elapsed() < SETTLE_LIMIT, "not settled: {now_left}");
        (left, looked_at) = (now_left, Instant::now());
    }
}

/// Makes load while something else is done, or until the server is gone.
pub(crate) fn work_during(load: &Load, client: Client, random: &mut Random, act: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let random = Random::of(random.next());
            scope.spawn(|| load.work(client, random, &is_over));
        }
        act();
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Lets everything end, stops the server in order and has the folder judged.
pub(crate) fn settle_and_check(world: &World, load: &Load, server: Server, random: &mut Random) -> Seen {
    let client = server.client();
    wait_for("every submit to be answered", || {
        load.repeat(client, random);
        load.ledger.lock().unwrap().submits.values().all(|submit| submit.job_id.is_some())
    });
    assert!(load.cancel_endless(client), "the server is gone");
    settle(world);
    server.stop();
    checker::check(world, &load.ledger.lock().unwrap())
}

#[test]
fn server_killed_at_random_moments_under_load_loses_and_doubles_nothing() {
    let rounds = super::count("HORIZONS_TEST_KILL_ROUNDS", 12);
    let mut random = Random::seeded("kill rounds");
    let world = World::with("", "slots = 8\n");
    let load = Load::default();
    let mut restarts = Vec::new();

    for _ in 0..rounds {
        let started_at = Instant::now();
        let mut server = world.spawn(None);
        if random.below(EARLY_KILL_ONE_IN) == 0 {
            pass(Duration::from_millis(random.below(EARLY_LIFE_MAX_MS)));
            server.kill();
            continue;
        }
        server.wait_until_ready();
        restarts.push(started_at.elapsed());
        let client = server.client();
        load.repeat(client, &mut random);
        if random.below(CLEAR_ONE_IN) == 0 {
            load.cancel_endless(client);
        }
        let life = Duration::from_millis(random.below(LIFE_MAX_MS));
        work_during(&load, client, &mut random, || {
            pass(life);
            server.kill();
        });
    }
    let seen = settle_and_check(&world, &load, world.serve(), &mut random);

    restarts.sort();
    println!("{rounds} kills: {seen:?}; start to ready, median: {:?}", restarts.get(restarts.len() / 2));
    assert!(seen.starts > 0 && seen.records > seen.jobs, "{seen:?}");
    assert!(seen.by_status.contains_key("COMPLETED"), "{seen:?}");
}

/// Breaks a folder that is in order, and gives what the checker says.
fn judged_after(damage: impl FnOnce(&World, &Load)) -> String {
    let world = World::new();
    let load = Load::default();
    let server = world.serve();
    for agent in ["quick", "slow"] {
        assert!(load.submit_new(server.client(), agent));
    }
    settle_and_check(&world, &load, server, &mut Random::of(1));
    damage(&world, &load);
    checker::judge(&world, &load.ledger.lock().unwrap()).unwrap_err()
}

fn execute(world: &World, statement: &str) {
    let file = world.data().join("horizons.db").display().to_string();
    let mut connection = SqliteConnection::establish(&file).unwrap();
    connection.batch_execute(statement).unwrap();
}

#[test]
fn checker_of_crashes_finds_what_is_lost_or_doubled() {
    let statements = [
        ("DELETE FROM job_timeline WHERE sequence = 3", "timeline of"),
        ("UPDATE jobs SET is_live = 1", "not over"),
        ("UPDATE job_views SET is_confirmed = 0", "view of"),
        ("UPDATE job_aggregates SET cpu_count = cpu_count + 1", "aggregates"),
        ("UPDATE status_counts SET entered = entered + 1", "status counts"),
        ("UPDATE progress SET next_offset = 0", "progress"),
        (
            "DELETE FROM log WHERE position = (SELECT max(position) FROM log WHERE position < 1 << 56)",
            "heads of",
        ),
        ("DROP TRIGGER audit_entries_refuse_delete; DELETE FROM audit_entries WHERE entry & 1", "audit"),
        ("DROP TRIGGER audit_runs_refuse_delete; DELETE FROM audit_runs", "audit"),
        (
            "DROP TRIGGER audit_bodies_refuse_update; UPDATE audit_bodies SET payload = x'00'",
            "bytes of entry",
        ),
        ("DELETE FROM jobs", "jobs: wanted"),
    ];
    for (statement, named) in statements {
        let found = judged_after(|world, _| execute(world, statement));

        assert!(found.contains(named), "{statement}: {found}");
    }
    let found = judged_after(|world, _| {
        let notes = std::fs::read_to_string(world.notes()).unwrap();
        std::fs::write(world.notes(), format!("{notes}{notes}")).unwrap();
    });
    assert!(found.contains("2 starts"), "{found}");
    let found = judged_after(|_, load| {
        let submit = Submit { agent: "quick", job_id: Some("forgotten".to_owned()) };
        load.ledger.lock().unwrap().submits.insert("promised".to_owned(), submit);
    });
    assert!(found.contains("forgotten"), "{found}");
}
