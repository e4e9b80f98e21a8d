//! The brake on floods of poison, on real services: a lane holds still at the very record, whatever becomes of the
//! process, until an operator resumes it; nothing behind it is lost, and all others flow meanwhile.

use serde_json::{Value, json};

use super::outside::{Outside, keys_at};
use super::stage::{Engine, Stage, lanes, metric, place_on, probe};
use crate::process::client::Client;
use crate::process::server::wait_for;
use crate::services::kafka::Kafka;

/// The partition that poison is put on, and one that is well.
const PARTITION: i32 = 4;
const OTHER: i32 = 5;

/// So many of the last hundred records make a flood.
const LIMIT: u64 = 20;
const SECTIONS: &str = "[lanes]\nflood_records = 100\nflood_poison = 20\n";

/// Records that are no events, each with a key of its own.
const POISON: u64 = 30;

/// The groups that set poison aside.
const GROUPS: [&str; 2] = ["jobs", "job-metrics"];

/// Tells whether both groups hold still at the record behind the flood.
fn is_held(client: Client) -> bool {
    let held = |lane: &&Value| {
        (lane["topic"].as_str(), lane["partition"].as_i64())
            == (Some("job-lifecycle"), Some(PARTITION.into()))
            && lane["state"] == "paused"
            && lane["next_offset"] == LIMIT
            && lane["last_error"].as_str().is_some_and(|error| error.starts_with("20 of the last"))
    };
    lanes(client).iter().filter(held).count() == GROUPS.len()
}

fn dead_letters(client: Client) -> usize {
    client.get("/dead-letters?limit=1000").json()["dead_letters"].as_array().map_or(0, Vec::len)
}

fn flood(engine: Engine) {
    let place = place_on(engine, Kafka::shared());
    let mut stage = Stage::with("flood of poison", place, SECTIONS, "slots = 8\n");
    let outside = Outside::of(Kafka::shared(), &stage.world.place().events);
    let keys = keys_at(PARTITION, "flood", POISON as usize);
    let behind = keys_at(PARTITION, "behind", 1).remove(0);
    let beside = keys_at(OTHER, "beside", 1).remove(0);
    let poison: Vec<(&[u8], &[u8])> = keys.iter().map(|key| (key.as_bytes(), &b"no event"[..])).collect();

    outside.produce("job-lifecycle", PARTITION, &poison);
    outside.produce_event(&behind, PARTITION);
    outside.produce_event(&beside, OTHER);
    wait_for("both groups to hold still", || is_held(stage.client()));
    wait_for("the other partition to flow", || stage.client().get(&format!("/jobs/{beside}")).status == 200);
    let count = GROUPS.len() * LIMIT as usize;
    assert_eq!(dead_letters(stage.client()), count);
    assert_eq!(metric(stage.client(), "horizons_lane_paused"), 2.0);
    assert_eq!(metric(stage.client(), "horizons_floods_total"), 2.0);
    for group in GROUPS {
        let seen = || probe(stage.client(), &format!("lanes/{group}"));
        wait_for("the held lane to be told", || seen() == (200, "degraded".to_owned()));
    }

    stage.start_again(None);
    wait_for("the next process to hold still", || is_held(stage.client()));
    assert_eq!(dead_letters(stage.client()), count);

    let client = stage.client();
    for group in GROUPS {
        let body = json!({
            "group": group, "topic": "job-lifecycle", "partition": PARTITION, "reason": "the producer is mended",
        });
        let resume = || client.post("/lanes/resume", &body).unwrap().status;
        assert_eq!((resume(), resume()), (202, 409));
    }
    wait_for("the event behind the flood", || client.get(&format!("/jobs/{behind}")).status == 200);
    wait_for("all poison to be set aside", || dead_letters(client) == GROUPS.len() * POISON as usize);
    for group in GROUPS {
        for key in &keys {
            assert_eq!(client.wish("discard", group, PARTITION as u64, key).unwrap().status, 202);
        }
    }
    wait_for("nothing to be parked", || client.get("/parked").json()["parked"] == json!([]));
    {
        let mut ledger = stage.load.ledger.lock().unwrap();
        ledger.foreign.extend(keys.into_iter().map(|key| ("job-lifecycle", key)));
        ledger.foreign.extend([behind, beside].map(|job| ("job-lifecycle", job)));
    }
    assert!(stage.load.submit_new(client, "quick"));
    stage.finish();
}

#[test]
fn flood_of_poison_on_postgres_holds_its_lanes_until_resumed() {
    flood(Engine::Postgres);
}

#[test]
fn flood_of_poison_on_sqlite_holds_its_lanes_until_resumed() {
    flood(Engine::Sqlite);
}
