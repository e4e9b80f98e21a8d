//! Events that kill the process: found after a known number of deaths, and never by kills from outside.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use horizons_actors::event::JobStatus;
use horizons_actors::testkit::EventBuilder;
use horizons_actors::trial::{DEATHS_BEFORE_POISON, UNCLEAN_ENDS_BEFORE_TRIALS};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::client::Client;
use super::crash::settle_and_check;
use super::load::{Appended, Load, parts};
use super::look::Look;
use super::place::{Place, Rows};
use super::random::Random;
use super::server::{Server, World, pass, wait_for, wait_some};
use crate::services::postgres::{shared, unique};

/// What the payload of a deadly event holds: its user.
const MARKER: &str = "bomb-layer";

/// Aborts the process inside the group `jobs` when such an event is applied.
const BOMB: &str = "behaviour-event/jobs~bomb-layer=abort";

/// Deaths of an event in a lane that had no unclean end before: those until the lane is careful, and those in its
/// trial.
const DEATHS_AT_FIRST: u32 = UNCLEAN_ENDS_BEFORE_TRIALS + DEATHS_BEFORE_POISON;

/// The least deaths of an event, those in its trial: a lane that had nothing to do at earlier unclean ends has
/// counted them, and is careful from the start when the event is there before it opens.
const DEATHS_AT_LEAST: u32 = DEATHS_BEFORE_POISON;

/// Deaths that no test comes to unless nobody is convicted.
const DEATHS_MAX: u32 = 20;

/// Threads that make load.
const FEEDERS: u64 = 3;

/// How long load is made before something happens.
const FEEDING: Duration = Duration::from_millis(300);

/// Lives in a row that are killed on their way, before one is given load again.
const EARLY_KILLS: u64 = 9;

/// Submits jobs and appends events of others, no poison, while something else is done or until the server is gone.
fn feed_during(load: &Load, client: Client, act: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for feeder in 0..FEEDERS {
            let is_over = &is_over;
            scope.spawn(move || {
                let agent = if feeder == 0 { "slow" } else { "quick" };
                while !is_over.load(Ordering::Relaxed)
                    && load.submit_new(client, agent)
                    && load.append(client, false)
                {}
            });
        }
        act();
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Appends two events of a job that belongs to somebody else, the first of them deadly. The server may be gone
/// before it has answered.
fn append_bomb(client: Client, job: &str, second: EventBuilder) {
    let first = EventBuilder::job_submitted().job(job).user(MARKER);
    let records: Vec<Value> = [first, second.job(job)]
        .into_iter()
        .map(|event| {
            let (payload, headers) = parts(event);
            json!({
                "key_base64": BASE64.encode(job),
                "value_base64": BASE64.encode(payload),
                "headers": headers,
            })
        })
        .collect();
    if let Ok(answer) = client.post("/topics/job-lifecycle/records", &json!({ "records": records })) {
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

/// Finds what is about a key in a list; nothing when the server is gone.
fn find(client: Client, target: &str, list: &str, key_of: &str, key: &str) -> Option<Value> {
    let answer = client.send("GET", target, &[], None).ok().filter(|answer| answer.status == 200)?;
    let key = BASE64.encode(key);
    let rows = answer.json()[list].as_array()?.clone();
    rows.into_iter().find(|row| row.pointer(key_of).is_some_and(|found| *found == key))
}

fn letter(client: Client, key: &str) -> Option<Value> {
    find(client, "/dead-letters?group=jobs", "dead_letters", "/record/key_base64", key)
}

fn parked(client: Client, key: &str) -> Option<Value> {
    find(client, "/parked", "parked", "/key_base64", key)
}

/// Starts servers with the bomb until one lives to see something; answers it, and how many died.
fn die_until(world: &World, is_seen: impl Fn(Client) -> bool) -> (Server, u32) {
    let mut deaths = 0;
    loop {
        let mut server = world.spawn(Some(BOMB));
        let is_alive = server.wait_until_ready_or_gone()
            && wait_some("the death of a server, or what it was to live for", || {
                if is_seen(server.client()) {
                    return Some(true);
                }
                (!server.is_running()).then_some(false)
            });
        if is_alive {
            return (server, deaths);
        }
        expect_bomb(&mut server);
        deaths += 1;
        assert!(deaths < DEATHS_MAX, "nothing was convicted");
    }
}

/// Waits for the end of a server that must be the bomb's work.
fn expect_bomb(server: &mut Server) {
    let status = server.wait_for_exit();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}: {}", server.said());
}

/// Waits until a server dies of the bomb, and starts others until the key is parked because of it.
fn convict(world: &World, server: &mut Server, job: &str) -> (Server, u32, Value) {
    expect_bomb(server);
    let (server, deaths) = die_until(world, |client| letter(client, job).is_some());
    let letter = letter(server.client(), job).unwrap();
    assert_eq!(
        (&letter["reason"], &letter["state"], &letter["attempts"]),
        (&json!("process_died"), &json!("parked"), &json!(1)),
        "{letter}"
    );
    let key = wait_some("both records to be parked", || {
        parked(server.client(), job).filter(|key| key["records"] == json!(2))
    });
    assert_eq!((&key["reason"], &key["wish"]), (&json!("process_died"), &json!("wait")), "{key}");
    assert_eq!(server.client().get(&format!("/jobs/{job}")).status, 404);
    (server, 1 + deaths, letter)
}

/// Asks for something about the key of a dead letter.
fn wish(client: Client, wish: &str, job: &str, letter: &Value) {
    let answer = client.wish(wish, "jobs", letter["partition"].as_u64().unwrap(), job).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// Notes both events of a job, now that it is known where they stand.
fn promise(load: &Load, job: &str, letter: &Value) {
    let [partition, offset] = ["partition", "offset"].map(|field| letter[field].as_u64().unwrap());
    let payload = BASE64.decode(letter["record"]["value_base64"].as_str().unwrap()).unwrap();
    let (topic, key) = ("job-lifecycle", job.to_owned());
    let record = Appended { topic, partition, offset, key, payload, is_poison: false };
    load.ledger.lock().unwrap().appended.push(record);
}

#[test]
fn event_that_aborts_the_process_is_convicted_and_released_and_discarded() {
    convict_release_and_discard(&World::new());
}

#[test]
fn event_that_aborts_the_process_on_postgres_is_convicted_and_released_and_discarded() {
    let url = shared().url();
    let rows = Rows::Postgres { direct: url.clone(), url, schema: unique("deadly") };
    convict_release_and_discard(&World::at(Place { rows, ..Place::embedded() }, "", "slots = 4\n"));
}

/// Has one event of another producer convicted, released in vain, and released once the cause is mended; and
/// another one convicted and discarded.
fn convict_release_and_discard(world: &World) {
    let started_at = Instant::now();
    let mut random = Random::seeded("deadly events");
    let load = Load::default();
    let mut server = world.spawn(Some(BOMB));
    server.wait_until_ready();
    let client = server.client();

    // While jobs run, somebody appends an event that nobody survives.
    feed_during(&load, client, || {
        pass(FEEDING);
        let queued = EventBuilder::job_status_changed(JobStatus::Submitted, JobStatus::Queued);
        append_bomb(client, "deadly-1", queued.sequence(2));
        server.wait_for_exit();
    });
    let (server, first_deaths, first) = convict(world, &mut server, "deadly-1");
    promise(&load, "deadly-1", &first);
    assert_eq!(first_deaths, DEATHS_AT_FIRST);

    // Released while it is deadly still: its trial begins at once, because it is known.
    wish(server.client(), "release", "deadly-1", &first);
    let mut server = server;
    expect_bomb(&mut server);
    let is_tried_again =
        |client| letter(client, "deadly-1").is_some_and(|letter| letter["attempts"] == json!(2));
    let (server, more_deaths) = die_until(world, is_tried_again);
    assert_eq!(1 + more_deaths, DEATHS_BEFORE_POISON);
    let again = letter(server.client(), "deadly-1").unwrap();
    assert_eq!((&again["reason"], &again["state"]), (&json!("process_died"), &json!("parked")), "{again}");
    assert_eq!(parked(server.client(), "deadly-1").unwrap()["wish"], json!("wait"));
    server.stop();

    // Released once the cause is mended.
    let server = world.serve();
    let client = server.client();
    wish(client, "release", "deadly-1", &first);
    wait_for("the released key to drain", || parked(client, "deadly-1").is_none());
    assert_eq!(letter(client, "deadly-1").unwrap()["state"], json!("released"));
    assert_eq!(client.get("/jobs/deadly-1").json()["job"]["status"], json!("QUEUED"));
    server.stop();

    // Another one, which is given up while it is deadly still.
    let (mut server, _) = die_until(world, |_| true);
    append_bomb(server.client(), "deadly-2", EventBuilder::job_submitted().sequence(2));
    let (mut server, second_deaths, second) = convict(world, &mut server, "deadly-2");
    assert!((DEATHS_AT_LEAST..=DEATHS_AT_FIRST).contains(&second_deaths), "{second_deaths} deaths");
    promise(&load, "deadly-2", &second);
    let place = (second["partition"].as_u64().unwrap(), second["offset"].as_u64().unwrap());
    load.ledger.lock().unwrap().given_up.push(place);
    let client = server.client();
    wish(client, "discard", "deadly-2", &second);
    wait_for("the discarded key to drain", || parked(client, "deadly-2").is_none());
    assert_eq!(letter(client, "deadly-2").unwrap()["state"], json!("discarded"));
    assert!(server.is_running());

    let seen = settle_and_check(world, &load, server, &mut random);
    println!(
        "{first_deaths}, then {}, then {second_deaths} deaths; {seen:?}; {:?}",
        1 + more_deaths,
        started_at.elapsed()
    );
    assert!(seen.starts > 0, "{seen:?}");
}

#[test]
fn servers_killed_on_their_way_under_load_convict_nobody() {
    let rounds = super::count("HORIZONS_TEST_EARLY_KILLS", 30);
    let mut random = Random::seeded("early kills");
    let world = World::new();
    let load = Load::default();
    let started_at = Instant::now();
    let server = world.serve();
    // Late enough that some servers are inside their first trials, and some behind them.
    let life_max = started_at.elapsed() * 2;
    feed_during(&load, server.client(), || pass(FEEDING));
    server.kill();
    let (mut careful, mut kills) = (0, 0);

    while kills < rounds {
        let mut server = world.spawn(None);
        if kills % (EARLY_KILLS + 1) == EARLY_KILLS {
            server.wait_until_ready();
            let client = server.client();
            load.repeat(client, &mut random);
            feed_during(&load, client, || pass(FEEDING));
        } else {
            let life = u64::try_from(life_max.as_micros()).unwrap();
            pass(Duration::from_micros(random.below(life)));
        }
        careful += u64::from(server.said().contains("the lane tries one thing at a time"));
        assert!(server.is_running(), "{}", server.said());
        server.kill();
        kills += 1;
    }
    let seen = settle_and_check(&world, &load, world.serve(), &mut random);

    println!("{kills} kills, {careful} servers were careful; {seen:?}; {:?}", started_at.elapsed());
    assert_eq!(Look::into(&world.data()).count("dead_letters"), 0);
    assert!(careful > 0, "no server tried anything");
}
