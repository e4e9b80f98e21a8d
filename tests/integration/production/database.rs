//! Faults of PostgreSQL: restarted, killed, its backends ended, connections cut around COMMIT, a black hole.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde_json::{Value, json};

use super::stage::{Engine, Stage, lanes, place_on, unique};
use crate::process::client::Answer;
use crate::process::load::external_event;
use crate::process::place::{Events, Place, Rows};
use crate::process::server::{World, pass, wait_for, wait_some};
use crate::services::kafka::Kafka;
use crate::services::postgres::Cluster;
use crate::services::proxy::{Cut, Direction, FaultProxy, Faults, Swallow, contains};

/// How long the server stays away after it was ended.
const AWAY: Duration = Duration::from_secs(1);

/// How long backends are ended again and again, and the pause in between.
const TERMINATING: Duration = Duration::from_secs(5);
const TERMINATION_PAUSE: Duration = Duration::from_millis(150);

/// How long nothing arrives.
const BLACK_HOLE: Duration = Duration::from_secs(4);

/// What the program waits for an answer before it takes the connection for dead: less than the black hole lasts.
const ANSWER_LIMIT_MS: u64 = 1_500;

/// Gives a place whose rows are on this server, past or through a proxy.
pub(super) fn place_with(cluster: &Cluster, proxy: Option<&FaultProxy>) -> Place {
    let direct = cluster.url();
    let url = match proxy {
        Some(proxy) => direct.replace(&format!(":{}", cluster.port()), &format!(":{}", proxy.port())),
        None => direct.clone(),
    };
    let place = place_on(Engine::Sqlite, Kafka::shared());
    Place { rows: Rows::Postgres { url, direct, schema: unique() }, ..place }
}

pub(super) fn proxy_before(cluster: &Cluster) -> FaultProxy {
    FaultProxy::in_front_of(SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port())))
}

fn taken_away(who: &str, take_away: impl Fn(&Cluster)) {
    let rounds = crate::process::count("HORIZONS_TEST_DATABASE_ROUNDS", 2);
    let mut cluster = Cluster::start();
    let mut stage = Stage::at(who, place_with(&cluster, None));
    stage.while_working(|on| on.wait_until_it_works());

    for _ in 0..rounds {
        let took = stage.while_working(|on| {
            take_away(&cluster);
            pass(AWAY);
            cluster.restart();
            on.wait_until_it_works()
        });
        println!("{who}: works {took:?} after it accepts again");
    }
    stage.finish();
}

#[test]
fn postgres_restarted_under_load_loses_and_doubles_nothing() {
    taken_away("PostgreSQL restarted", Cluster::terminate);
}

#[test]
fn postgres_killed_under_load_loses_and_doubles_nothing() {
    taken_away("PostgreSQL killed", Cluster::kill);
}

#[test]
fn backends_ended_again_and_again_lose_and_double_nothing() {
    let cluster = Cluster::start();
    let mut stage = Stage::at("backends ended", place_with(&cluster, None));
    let mut operator = PgConnection::establish(&cluster.url()).unwrap();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

    let (times, took) = stage.while_working(|on| {
        let until = Instant::now() + TERMINATING;
        let mut times = 0;
        while Instant::now() < until {
            operator.batch_execute(terminate).unwrap();
            times += 1;
            pass(TERMINATION_PAUSE);
        }
        (times, on.wait_until_it_works())
    });
    println!("all backends ended {times} times in {TERMINATING:?}: works after {took:?}");
    stage.finish();
}

#[test]
fn connections_cut_around_commit_lose_and_double_nothing() {
    let rounds = crate::process::count("HORIZONS_TEST_COMMIT_CUTS", 6);
    let cluster = Cluster::start();
    let proxy = proxy_before(&cluster);
    let mut stage = Stage::at("cut around COMMIT", place_with(&cluster, Some(&proxy)));
    stage.while_working(|on| on.wait_until_it_works());
    let is_commit = |bytes: &[u8]| contains(bytes, b"COMMIT");

    for round in 0..rounds {
        let how = if stage.random.below(2) == 0 { Cut::Reset } else { Cut::Close };
        let fired = proxy.fired();
        let took = stage.while_working(|on| {
            // Not at the first commit that comes by, or every round would be about the same statement.
            pass(Duration::from_millis(50 * (round + 1)));
            if round % 2 == 0 {
                proxy.cut_before(Direction::Up, is_commit, how);
            } else {
                proxy.cut_behind(Direction::Up, is_commit, how);
            }
            wait_for("a COMMIT to come by", || proxy.fired() > fired);
            on.wait_until_it_works()
        });
        let place = if round % 2 == 0 { "before" } else { "behind" };
        println!("cut {place} a COMMIT ({how:?}): works after {took:?}");
    }
    stage.finish();
}

/// Finds the COMMIT of the transaction that carries a name: the next one on the connection that does.
pub(super) fn commit_of(name: &str) -> impl Fn(&[u8]) -> bool + Send + 'static {
    let (name, is_carried) = (name.to_owned(), AtomicBool::new(false));
    move |bytes| {
        is_carried.fetch_or(contains(bytes, name.as_bytes()), Ordering::Relaxed);
        // Its last bytes: an earlier COMMIT may stand before the name.
        is_carried.load(Ordering::Relaxed) && bytes.ends_with(b"COMMIT\0")
    }
}

/// Tells whether an answer says that it is not known what became of the request, and does not send it away.
pub(super) fn says_unknown(answer: &Answer) -> bool {
    answer.status == 503
        && answer.json()["type"] == "urn:horizons:problem:outcome-unknown"
        && answer.header("retry-after").is_none()
}

#[test]
fn acts_whose_commit_may_be_done_are_never_said_to_be_nothing() {
    let cluster = Cluster::start();
    let proxy = proxy_before(&cluster);
    let world = World::at(Place { events: Events::Embedded, ..place_with(&cluster, Some(&proxy)) }, "", "");
    let server = world.serve();
    let client = server.client();
    let long = client.submit("long", "long", "data-long").unwrap().job_id();
    let poison = client.append("job-lifecycle", Some(b"parked-key"), b"not an event", json!({})).unwrap();
    let partition = poison.json()["appended"][0]["partition"].as_u64().unwrap();
    wait_for("the key to be parked", || client.get("/parked").text.contains("jobs"));

    // Each act, and a name that its transaction carries.
    type Act<'a> = Box<dyn Fn() -> Answer + 'a>;
    let acts: [(&str, &str, Act<'_>); 4] = [
        ("submit", "data-lost", Box::new(|| client.submit("lost", "quick", "data-lost").unwrap())),
        ("cancel", "the test says so", Box::new(|| client.cancel(&long).unwrap())),
        (
            "append",
            "record-lost",
            Box::new(|| client.append("notifications", Some(b"record-lost"), b"x", json!({})).unwrap()),
        ),
        (
            "release",
            "parked-key",
            Box::new(|| client.wish("release", "jobs", partition, "parked-key").unwrap()),
        ),
    ];
    for (name, carried, act) in &acts {
        for is_done in [true, false] {
            // Lanes that work have COMMITs of their own.
            wait_for("the lanes to rest", || {
                let lag = |lane: &Value| lane["lag_seconds"].as_f64().unwrap_or_default();
                lanes(client).iter().all(|lane| lag(lane) == 0.0)
            });
            let fired = proxy.fired();
            if is_done {
                proxy.cut_behind(Direction::Up, commit_of(carried), Cut::Reset);
            } else {
                proxy.cut_before(Direction::Up, commit_of(carried), Cut::Reset);
            }
            // Until the program has its connection again it is busy, and nothing has come by.
            let answer = wait_some("an answer", || {
                let answer = act();
                (answer.status != 503 || proxy.fired() > fired).then_some(answer)
            });
            if proxy.fired() == fired {
                // A repeated submit or cancel is answered from what is stored; the job may have ended of it by now.
                let has_ended =
                    *name == "cancel" && answer.status == 409 && answer.json()["state"] == "CANCELLED";
                assert!(answer.status < 300 || has_ended, "{name}: {answer:?}");
                proxy.heal();
                continue;
            }
            // Of a submit the program itself may have found the job.
            assert!(answer.status < 300 || says_unknown(&answer), "{name}: {answer:?}");
        }
    }

    let job = client.submit("lost", "quick", "data-lost").unwrap().job_id();
    wait_for("the job that was in doubt", || {
        client.send("GET", &format!("/jobs/{job}"), &[], None).is_ok_and(|answer| answer.status == 200)
    });
    let jobs = cluster.sql(&format!("SELECT count(*) FROM {}.jobs", world.place().schema()));
    assert_eq!(jobs, "2", "the key made one job");
    server.stop();
}

#[test]
fn lost_commit_answer_on_the_embedded_log_is_seen_without_another_append() {
    let rounds = crate::process::count("HORIZONS_TEST_COMMIT_CUTS", 6);
    let cluster = Cluster::start();
    let proxy = proxy_before(&cluster);
    let place = Place { events: Events::Embedded, ..place_with(&cluster, Some(&proxy)) };
    let world = World::at(place, "", "");
    let server = world.serve();
    let client = server.client();

    for round in 0..rounds {
        let how = if round % 2 == 0 { Cut::Reset } else { Cut::Close };
        let job = format!("unheard-{}", unique());
        let fired = proxy.fired();
        proxy.cut_behind(Direction::Up, commit_of(&job), how);

        let (key, payload, headers) = external_event(&job);
        let answer = client.append("job-lifecycle", Some(key.as_bytes()), &payload, headers).unwrap();
        let asked_at = Instant::now();
        assert_eq!(proxy.fired(), fired + 1);
        assert!(says_unknown(&answer), "{answer:?}");
        wait_for("a record whose COMMIT was not answered", || {
            client.send("GET", &format!("/jobs/{job}"), &[], None).is_ok_and(|answer| answer.status == 200)
        });
        println!("answer to COMMIT lost ({how:?}): seen after {:?}", asked_at.elapsed());
    }

    wait_for("every lane to be at its end", || lanes(client).iter().all(|lane| lane["lag_records"] == 0));
    let counted = cluster.sql(&format!(
        "SELECT (SELECT sum(next_offset) FROM {schema}.log_head), (SELECT count(*) FROM {schema}.log),
                (SELECT count(*) FROM {schema}.audit_entries),
                (SELECT count(*) FROM {schema}.job_timeline)",
        schema = world.place().schema()
    ));
    let written = 2 * rounds;
    assert_eq!(counted, format!("{written}|{written}|{written}|{rounds}"), "a record and its act, each once");
    server.stop();
}

#[test]
fn postgres_behind_a_black_hole_loses_and_doubles_nothing() {
    let cluster = Cluster::start();
    let proxy = proxy_before(&cluster);
    let place = place_with(&cluster, Some(&proxy)).with("HORIZONS_POSTGRES_TIMEOUT_MS", ANSWER_LIMIT_MS);
    let mut stage = Stage::at("black hole", place);
    stage.while_working(|on| on.wait_until_it_works());

    for swallow in [Swallow::Up, Swallow::Down, Swallow::Both] {
        let took = stage.while_working(|on| {
            proxy.set(Faults { swallow, ..Faults::default() });
            pass(BLACK_HOLE);
            proxy.heal();
            // Bytes are missing in the middle: as a router that has forgotten them, it resets what is left.
            proxy.cut(Cut::Reset);
            on.wait_until_it_works()
        });
        println!("black hole ({swallow:?}) for {BLACK_HOLE:?}: works after {took:?}");
    }
    stage.finish();
}
