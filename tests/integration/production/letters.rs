//! Dead letters end to end: poison in Kafka is parked and copied to `<topic>.dlq` with where it came from; an
//! operator releases and discards; records of other producers and of stock clients.

use std::collections::BTreeMap;

use serde_json::Value;

use super::outside::{Outside, keys_at};
use super::stage::{Engine, Stage, place_on};
use crate::process::checker::Record;
use crate::process::client::Client;
use crate::process::crash::settle;
use crate::process::look::Look;
use crate::process::server::wait_for;
use crate::process::topics::DEAD_LETTER_CODE;
use crate::services::kafka::Kafka;

/// The partition that poison is put on; which one does not matter.
const PARTITION: i32 = 4;

/// Gives the headers that tell where a dead letter comes from.
fn origin(record: &Record) -> BTreeMap<&str, String> {
    let ours = record.headers.iter().filter(|(name, _)| name.starts_with("horizons-"));
    ours.map(|(name, value)| (name.as_str(), String::from_utf8(value.clone().unwrap_or_default()).unwrap()))
        .collect()
}

fn parked(client: Client) -> Vec<Value> {
    client.get("/parked").json()["parked"].as_array().cloned().unwrap_or_default()
}

fn end_to_end(engine: Engine) {
    let stage = Stage::at("dead letters", place_on(engine, Kafka::shared()));
    let client = stage.client();
    let outside = Outside::of(Kafka::shared(), &stage.world.place().events);
    let key = keys_at(PARTITION, "external", 1).remove(0);
    let poison: (&[u8], &[u8]) = (key.as_bytes(), b"not an event");

    outside.produce("job-lifecycle", PARTITION, &[poison]);
    wait_for("both groups to park the key", || parked(client).len() == 2);
    outside.produce_event(&key, PARTITION);
    wait_for("the event to wait behind it", || parked(client).iter().all(|row| row["records"] == 2));
    let letters = wait_for_letters(&stage, 2);
    let groups: Vec<String> =
        letters.iter().map(|letter| origin(letter)["horizons-origin-group"].clone()).collect();
    for letter in &letters {
        let origin = origin(letter);
        assert_eq!(letter.payload, poison.1);
        assert_eq!((letter.topic, letter.partition), (DEAD_LETTER_CODE, PARTITION as u64));
        assert_eq!(origin["horizons-origin-topic"], "job-lifecycle");
        assert_eq!(origin["horizons-origin-partition"], PARTITION.to_string());
        assert_eq!(origin["horizons-origin-offset"], "0");
        assert!(
            origin.contains_key("horizons-rejection-reason") && origin.contains_key("horizons-rejected-at")
        );
    }
    assert!(groups.iter().any(|group| group == "jobs") && groups.iter().any(|group| group == "job-metrics"));

    let wish = |wish: &str, group: &str| {
        assert_eq!(client.wish(wish, group, PARTITION as u64, &key).unwrap().status, 202);
    };
    wish("release", "jobs");
    wait_for("the head to be tried again", || {
        client.get("/dead-letters?group=jobs").json()["dead_letters"][0]["attempts"] == 2
    });
    assert_eq!(parked(client).len(), 2, "poison stays poison");
    assert_eq!(client.get(&format!("/jobs/{key}")).status, 404);
    wish("discard", "jobs");
    wish("discard", "job-metrics");
    wait_for("the event behind it", || client.get(&format!("/jobs/{key}")).status == 200);
    wait_for("nothing to be parked", || parked(client).is_empty());
    {
        let mut ledger = stage.load.ledger.lock().unwrap();
        ledger.foreign.push(("job-lifecycle", key.clone()));
    }
    assert!(stage.load.submit_new(client, "quick"));
    stage.finish();
}

/// Waits for so many records of dead-letter topics.
fn wait_for_letters(stage: &Stage, wanted: usize) -> Vec<Record> {
    settle(&stage.world);
    let look = Look::of(&stage.world);
    let records = look.topics().unwrap().read_all();
    let letters: Vec<Record> =
        records.into_iter().filter(|record| record.topic >= DEAD_LETTER_CODE).collect();
    assert_eq!(letters.len(), wanted, "{letters:?}");
    letters
}

#[test]
fn poison_in_kafka_on_postgres_is_parked_and_released_and_discarded() {
    end_to_end(Engine::Postgres);
}

#[test]
fn poison_in_kafka_on_sqlite_is_parked_and_released_and_discarded() {
    end_to_end(Engine::Sqlite);
}
