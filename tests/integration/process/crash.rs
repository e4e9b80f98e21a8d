//! `kill -9` at random moments under load: nothing is lost, nothing doubled, nothing out of order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::checker::{self, Seen};
use super::client::Client;
use super::load::Load;
use super::look::Look;
use super::random::Random;
use super::server::{Server, World, pass, wait_for};

/// Threads that make load.
const WORKERS: u64 = 6;

/// The longest life of a server that is killed.
const LIFE_MAX_MS: u64 = 700;

/// One start in so many is killed on its way.
const EARLY_KILL_ONE_IN: u64 = 4;

/// The longest time that a server which is killed on its way is given.
const EARLY_LIFE_MAX_MS: u64 = 120;

/// Waits until all that was accepted is done.
pub(super) fn settle(world: &World) {
    let mut look = Look::into(&world.data());
    let give_up_at = Instant::now() + Duration::from_secs(90);
    while !look.is_settled() {
        assert!(Instant::now() < give_up_at, "not settled: {}", look.unsettled());
        pass(Duration::from_millis(20));
    }
}

/// Makes load until a moment has passed or the server is gone.
pub(super) fn work_for(load: &Load, client: Client, random: &mut Random, moment: Duration) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let random = Random::of(random.next());
            scope.spawn(|| load.work(client, random, &is_over));
        }
        pass(moment);
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Lets everything end, stops the server in order and has the folder judged.
pub(super) fn settle_and_check(world: &World, load: &Load, server: Server, random: &mut Random) -> Seen {
    let client = server.client();
    wait_for("every submit to be answered", || {
        load.repeat(client, random);
        load.ledger.lock().unwrap().submits.values().all(|submit| submit.job_id.is_some())
    });
    load.cancel_endless(client);
    settle(world);
    server.stop();
    checker::check(world, &load.ledger.lock().unwrap())
}

#[test]
fn server_killed_at_random_moments_under_load_loses_and_doubles_nothing() {
    let rounds = super::count("HORIZONS_TEST_KILL_ROUNDS", 12);
    let mut random = Random::seeded("kill rounds");
    let world = World::new();
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
        let life = Duration::from_millis(random.below(LIFE_MAX_MS));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                let random = Random::of(random.next());
                scope.spawn(|| load.work(client, random, &is_over));
            }
            pass(life);
            server.kill();
            is_over.store(true, Ordering::Relaxed);
        });
    }
    let seen = settle_and_check(&world, &load, world.serve(), &mut random);

    restarts.sort();
    println!("{rounds} kills: {seen:?}; start to ready, median: {:?}", restarts.get(restarts.len() / 2));
    assert!(seen.jobs > 0 && seen.starts > 0, "{seen:?}");
}
