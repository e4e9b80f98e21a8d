//! `kill -9` of the program at random moments under load, and how soon the next one works.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::stage::{Engine, Stage, lanes, place_on};
use crate::process::client::Client;
use crate::process::load::Load;
use crate::process::server::pass;
use crate::services::kafka::Kafka;

/// The longest life of a server that is killed, once it works.
const LIFE_MAX_MS: u64 = 1_500;

/// One start in so many is killed on its way.
const EARLY_KILL_ONE_IN: u64 = 4;

/// The longest time that a server which is killed on its way is given.
const EARLY_LIFE_MAX_MS: u64 = 600;

/// Agents that never end are cancelled in one life out of so many: in between they hold slots across kills.
const CLEAR_ONE_IN: u64 = 3;

/// From the assignment of partitions to the first commit, in the median: the goal is a second, and it is
/// printed; on a machine that builds something else meanwhile it is several. Beyond this, something is waited for.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// Waits for a lane and for its first commit, as the server's own clock has them; one that works was submitted
/// to before. Gives the time between.
fn first_commit(client: Client, load: &Load) -> Option<Duration> {
    let give_up_at = Instant::now() + Duration::from_secs(30);
    let mut assigned_at = None;
    while Instant::now() < give_up_at {
        let lanes = lanes(client);
        if assigned_at.is_none() && !lanes.is_empty() {
            assigned_at = Some(Instant::now());
            load.submit_new(client, "quick");
        }
        let commits = lanes.iter().filter_map(|lane| lane["last_commit_at"].as_str());
        if let (Some(assigned_at), Some(_)) = (assigned_at, commits.min()) {
            return Some(assigned_at.elapsed());
        }
        pass(Duration::from_millis(2));
    }
    None
}

/// Prints the quantiles of times.
fn told(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| {
        times.get((times.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default()
    };
    format!("median {:?}, p95 {:?}, longest {:?} of {}", at(50), at(95), at(100), times.len())
}

fn killed_again_and_again(engine: Engine) {
    let rounds = crate::process::count("HORIZONS_TEST_PRODUCTION_KILLS", 12);
    // Static membership: a process that comes back need not wait for the end of its own last session.
    let place = place_on(engine, Kafka::shared()).with("HORIZONS_KAFKA_INSTANCE_ID", "one");
    let mut stage = Stage::at("production kills", place);
    let (mut to_assigned, mut to_commit) = (Vec::new(), Vec::new());

    for _ in 0..rounds {
        let life = Duration::from_millis(stage.random.below(LIFE_MAX_MS));
        stage.while_working(|on| {
            pass(life);
            on.server.signal(Signal::SIGKILL);
        });
        stage.server.wait_for_exit();
        if stage.random.below(EARLY_KILL_ONE_IN) == 0 {
            let server = stage.world.spawn(None);
            pass(Duration::from_millis(stage.random.below(EARLY_LIFE_MAX_MS)));
            server.kill();
        }
        let spawned_at = Instant::now();
        stage.server = stage.world.serve();
        if let Some(took) = first_commit(stage.client(), &stage.load) {
            to_commit.push(took);
            to_assigned.push(spawned_at.elapsed() - took);
        }
        stage.load.repeat(stage.client(), &mut stage.random);
        if stage.random.below(CLEAR_ONE_IN) == 0 {
            stage.load.cancel_endless(stage.client());
        }
    }
    let seen = stage.finish();

    println!(
        "{engine:?}, {rounds} kills: start to assigned {}; assigned to first commit {}",
        told(&mut to_assigned),
        told(&mut to_commit)
    );
    assert!(seen.starts > 0 && seen.by_status.contains_key("COMPLETED"), "{seen:?}");
    assert_eq!(to_commit.len() as u64, rounds, "some server committed nothing");
    let median = to_commit[to_commit.len() / 2];
    assert!(median <= COMMIT_LIMIT, "{}", told(&mut to_commit));
}

#[test]
fn server_killed_at_random_on_sqlite_and_kafka_loses_and_doubles_nothing() {
    killed_again_and_again(Engine::Sqlite);
}

#[test]
fn server_killed_at_random_on_postgres_and_kafka_loses_and_doubles_nothing() {
    killed_again_and_again(Engine::Postgres);
}
