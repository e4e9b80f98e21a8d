//! Transactions of other producers at the end of a partition: aborted, removed, and left open.

use rdkafka::producer::Producer as _;
use serde_json::Value;

use super::members::LANES;
use super::outside::Outside;
use super::stage::{Engine, Stage, lanes, metric, place_on, wait_for_lanes, wait_until_it_works};
use crate::process::client::Client;
use crate::process::crash::settle;
use crate::process::server::wait_for;
use crate::services::kafka::Kafka;

/// Only the auditor follows it.
const TOPIC: &str = "system-health";
const PARTITION: i32 = 2;

/// Gives one of the figures of the lane.
fn figure(client: Client, name: &str) -> Value {
    let lane =
        lanes(client).into_iter().find(|lane| lane["topic"] == TOPIC && lane["partition"] == PARTITION);
    lane.map(|lane| lane[name].clone()).unwrap_or_default()
}

#[test]
fn aborted_tail_is_passed_its_removal_is_no_gap_and_an_open_one_shows() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let Stage { world, load, server, .. } = Stage::at("aborted tail", place_on(engine, Kafka::shared()));
        let outside = Outside::of(Kafka::shared(), &world.place().events);
        wait_for_lanes(server.client(), LANES);
        outside.produce(TOPIC, PARTITION, &[(b"key", b"one"), (b"key", b"two")]);

        outside.abort(TOPIC, PARTITION, &[b"three", b"four"]);
        wait_for("the aborted tail to be passed", || figure(server.client(), "next_offset") == 5);
        wait_for("the lag to be gone", || figure(server.client(), "lag_records") == 0);
        settle(&world);
        server.stop();
        outside.truncate(TOPIC, PARTITION, 5);
        let server = world.spawn_and_wait_until_it_listens();
        let client = server.client();
        wait_for_lanes(client, LANES);
        let gaps = client.get("/gaps").json();

        let open = outside.begin(TOPIC, PARTITION, &[b"five"]);
        wait_for("the open transaction to show", || {
            figure(client, "log_high_offset") == 6
                && figure(client, "transaction_open_seconds").as_f64() > Some(0.0)
        });
        let (end, held_back) =
            (figure(client, "log_end_offset"), metric(client, "horizons_open_transaction_records"));
        open.commit_transaction(std::time::Duration::from_secs(30)).unwrap();
        wait_for("the committed tail to be passed", || figure(client, "next_offset") == 7);
        wait_for("nothing to be open", || figure(client, "transaction_open_seconds") == 0.0);
        wait_until_it_works(&load, client);

        assert_eq!(gaps["gaps"], serde_json::json!([]));
        assert_eq!((end, held_back), (Value::from(5), 1.0));
        assert!(world.cli(&server, &["audit", "verify"]).status.success());
        settle(&world);
        server.stop();
    }
}
