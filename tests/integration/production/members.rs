//! Several processes that share the partitions: one joins and leaves again and again, and one sleeps through the
//! end of its session and wakes as a zombie.

use std::time::{Duration, Instant};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::stage::{
    Engine, SESSION_MS, Stage, lanes, place_on, wait_for_lanes, wait_until_it_works, work_steadily,
};
use crate::process::checker::GROUPS;
use crate::process::client::Client;
use crate::process::place::{Place, Rows};
use crate::process::server::{Server, World, pass, wait_for};
use crate::services::kafka::Kafka;

/// Lanes of all groups: the auditor follows 33 partitions, the jobs 10, the metrics 20.
pub(super) const LANES: usize = 63;

/// A process that joins stays for so long.
const STAY: Duration = Duration::from_secs(1);

/// Between two looks at what a frozen process has open: more than any other's round takes, and less than the
/// server waits before it ends the transaction.
const WITHIN_ROUND: Duration = Duration::from_millis(250);

/// Gives a place for several processes.
pub(super) fn shared_place() -> Place {
    place_on(Engine::Postgres, Kafka::shared())
}

/// Gives a second process's folder: it shares everything but runs no jobs.
pub(super) fn second_of(place: &Place) -> World {
    World::at(place.clone(), "", "kind = \"none\"\n")
}

/// Has a process join and leave again and again: every other time after a second, whether it has got any
/// partition or not, and in between as soon as it has some.
fn joined_and_left(how: Signal, rounds: u64) {
    let place = shared_place();
    let mut stage = Stage::at("members", place.clone());
    let second = second_of(&place);
    wait_for_lanes(stage.client(), LANES);

    let (taken, whole_again) = stage.while_working(|on| {
        let mut taken = 0;
        for round in 0..rounds {
            let mut other = second.serve();
            let client = other.client();
            if round % 2 == 0 {
                wait_for("the other process to have lanes", || !lanes(client).is_empty());
                taken += lanes(client).len();
            } else {
                pass(STAY);
            }
            other.signal(how);
            other.wait_for_exit();
        }
        let left_at = Instant::now();
        wait_for_lanes(on.client, LANES);
        on.wait_until_it_works();
        (taken, left_at.elapsed())
    });

    println!(
        "{how}: joined and left {rounds} times, {taken} lanes taken; all back and working {whole_again:?} later"
    );
    stage.finish();
    assert!(taken > 0, "the other process never had a lane");
}

#[test]
fn process_joining_and_leaving_every_second_loses_and_doubles_nothing() {
    joined_and_left(Signal::SIGTERM, crate::process::count("HORIZONS_TEST_JOINS", 5));
}

#[test]
fn process_joining_and_killed_every_second_loses_and_doubles_nothing() {
    joined_and_left(Signal::SIGKILL, crate::process::count("HORIZONS_TEST_JOINS", 5));
}

/// Gives what must not change about the lanes of an owner who is not disturbed: which they are, their lives.
fn lives(client: Client) -> Vec<(String, String, u64, u64, u64)> {
    let text = |lane: &Value, field: &str| lane[field].as_str().unwrap().to_owned();
    let number = |lane: &Value, field: &str| lane[field].as_u64().unwrap();
    let lives = lanes(client).into_iter().map(|lane| {
        let (group, topic) = (text(&lane, "group"), text(&lane, "topic"));
        (group, topic, number(&lane, "partition"), number(&lane, "incarnation"), number(&lane, "restarts"))
    });
    lives.collect()
}

/// A session that has written lanes' progress and waits, in a transaction that is open.
#[derive(QueryableByName, PartialEq)]
struct OpenRound {
    #[diesel(sql_type = Text)]
    backend: String,
}

/// Gives the sessions that have written progress and not committed yet.
fn open_rounds(place: &Place) -> Vec<OpenRound> {
    let Rows::Postgres { direct, schema, .. } = &place.rows else { return Vec::new() };
    let mut operator = PgConnection::establish(direct).unwrap();
    diesel::sql_query(
        "SELECT a.pid || ' since ' || a.xact_start AS backend
         FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid
         WHERE a.state = 'idle in transaction' AND l.mode = 'RowExclusiveLock'
           AND l.relation = to_regclass(quote_ident($1) || '.progress')",
    )
    .bind::<Text, _>(schema)
    .load(&mut operator)
    .unwrap()
}

/// Freezes a server while it has a round that is written and not committed: what another process has open goes
/// on, what this one has stays.
fn freeze_within_a_round(server: &Server, place: &Place) {
    wait_for("the server to be frozen within a round", || {
        server.signal(Signal::SIGSTOP);
        let open = open_rounds(place);
        pass(WITHIN_ROUND);
        let is_held = !open.is_empty() && open_rounds(place).iter().any(|round| open.contains(round));
        if !is_held {
            server.signal(Signal::SIGCONT);
            pass(WITHIN_ROUND);
        }
        is_held
    });
}

#[test]
fn owner_frozen_beyond_its_session_is_refused_when_it_wakes() {
    // What a zombie has locked in the database is free again before its session is over.
    let place = shared_place().with("HORIZONS_POSTGRES_TIMEOUT_MS", SESSION_MS / 2);
    let mut stage = Stage::at("zombie", place.clone());
    // The one that will freeze has a round most of the time that is written and not committed.
    stage.start_again(Some("store-before-commit=delay:150"));
    let second = second_of(&place);
    let rightful = second.serve();
    let heir = rightful.client();
    wait_for("both to have lanes", || {
        let (one, two) = (lanes(stage.client()).len(), lanes(heir).len());
        one > 0 && two > 0 && one + two == LANES
    });
    let seeds = stage.seeds();

    let (taken_over, before) = work_steadily(&stage.load, heir, &seeds, || {
        pass(Duration::from_secs(1));
        freeze_within_a_round(&stage.server, &place);
        let frozen_at = Instant::now();
        wait_for_lanes(heir, LANES);
        let taken_over = frozen_at.elapsed();
        wait_until_it_works(&stage.load, heir);
        let before = lives(heir);
        stage.server.signal(Signal::SIGCONT);
        wait_for("the zombie to learn that it owns nothing", || {
            stage.server.said().matches("partitions lost").count() == GROUPS.len()
        });
        wait_until_it_works(&stage.load, heir);
        (taken_over, before)
    });
    let after = lives(heir);
    println!("zombie: taken over {taken_over:?} after it froze; {} lanes kept afterwards", after.len());
    let disturbed: Vec<_> = after.iter().filter(|life| !before.contains(life)).collect();
    assert!(!after.is_empty() && disturbed.is_empty(), "disturbed: {disturbed:?}");
    // Its round was refused: by the server that has ended its transaction, or by the fence.
    let said = stage.server.said();
    assert!(said.contains("lost the connection to the database") || said.contains("fenced"), "{said}");
    rightful.stop();
    stage.start_again(None);
    // What the zombie's client had taken over before the freeze, it sends when it wakes: Kafka fences groups and
    // the store fences lanes, but nobody fences an idempotent producer. Readers recognise such a record.
    stage.load.ledger.lock().unwrap().may_repeat = true;
    let seen = stage.finish();
    println!("zombie: {} records stand in Kafka twice", seen.repeats);
}

#[test]
fn process_without_the_files_of_a_job_names_the_one_that_has_them() {
    let place = shared_place();
    let stage = Stage::at("files", place.clone());
    let second = second_of(&place);
    let other = second.serve();
    let job = stage.client().submit("key", "quick", "data-1").unwrap().job_id();
    let path = format!("/jobs/{job}/output");

    wait_for("the one that has them to give them", || stage.client().get(&path).status == 200);
    let answer = other.client().get(&path);

    assert_eq!(answer.status, 409, "{answer:?}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    let holder = format!("the files of jobs are with another process: `process {} on ", stage.server.pid());
    assert!(detail.contains(&holder), "{detail}");
    other.stop();
}
