//! A record that Kafka refuses for good: nothing overtakes it on its partition, other partitions go on, and an
//! operator sets it aside.

use serde_json::{Value, json};

use super::outside::Outside;
use super::stage::{Engine, On, Stage, place_on, unique};
use crate::process::client::Client;
use crate::process::random::Random;
use crate::process::server::{wait_for, wait_some};
use crate::services::kafka::Kafka;

/// What the topic takes after it was narrowed, room for a batch of small records, and the size of the record that is
/// too large for it.
const NARROW_BYTES: &str = "100000";
const LARGE_BYTES: usize = 300_000;

/// Keys of probes: enough to meet every partition.
const PROBES: usize = 30;

/// Makes bytes that no compression makes small.
fn noise(random: &mut Random) -> Vec<u8> {
    (0..LARGE_BYTES).map(|_| random.below(256) as u8).collect()
}

/// Gives the partitions that wait for an operator.
fn stopped(client: Client) -> Vec<Value> {
    let partitions = client.get("/relay").json()["partitions"].as_array().cloned().unwrap_or_default();
    partitions.into_iter().filter(|partition| partition["condition"] == "stopped").collect()
}

/// Appends events of other producers' jobs, and gives those whose partition is another one.
fn append_elsewhere(on: &On<'_>, partition: u64) -> Vec<String> {
    let probes: Vec<String> = (0..PROBES).map(|_| format!("probe-{}", unique())).collect();
    probes.iter().for_each(|probe| assert!(on.load.append_as(on.client, probe, false)));
    let ledger = on.load.ledger.lock().unwrap();
    let elsewhere = ledger.appended.iter().filter(|record| record.partition != partition);
    elsewhere.map(|record| record.key.clone()).filter(|key| probes.contains(key)).collect()
}

fn refused_for_good(engine: Engine) {
    let mut stage = Stage::at("refused record", place_on(engine, Kafka::shared()));
    let outside = Outside::of(Kafka::shared(), &stage.world.place().events);
    stage.while_working(|on| on.wait_until_it_works());
    outside.configure("job-lifecycle", "max.message.bytes", NARROW_BYTES);
    let large = noise(&mut stage.random);
    let client = stage.client();

    let answer = client.append("job-lifecycle", Some(b"narrow"), &large, json!({})).unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    let partition = answer.json()["appended"][0]["partition"].as_u64().unwrap();
    let refused = wait_some("the partition to stop", || stopped(client).into_iter().next());
    assert_eq!((&refused["topic"], &refused["partition"]), (&json!("job-lifecycle"), &json!(partition)));
    let published = super::stage::metric(client, "horizons_published_records_total");
    stage.while_working(|on| {
        assert!(on.load.append_as(client, "narrow", false));
        for probe in append_elsewhere(on, partition) {
            wait_for("the other partitions", || client.get(&format!("/jobs/{probe}")).status == 200);
        }
    });
    assert!(super::stage::metric(client, "horizons_published_records_total") > published);
    assert_eq!(client.get("/jobs/narrow").status, 404, "the record behind it overtook it");
    assert_eq!(stopped(client).len(), 1);

    let offset = refused["next"].to_string();
    let at = ["--topic", "job-lifecycle", "--partition", &partition.to_string(), "--offset", &offset]
        .map(str::to_owned);
    let mut arguments = vec!["relay".to_owned(), "set-aside".to_owned()];
    arguments.extend(at);
    arguments.extend(["--reason".to_owned(), "too large".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = stage.world.cli(&stage.server, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("what waited behind it", || client.get("/jobs/narrow").status == 200);
    let kept = client.get("/relay/set-aside").json();
    assert_eq!(kept["set_aside"].as_array().map(Vec::len), Some(1), "{kept}");
    stage.finish();
}

#[test]
fn record_too_large_for_its_topic_on_postgres_is_not_overtaken() {
    refused_for_good(Engine::Postgres);
}

#[test]
fn record_too_large_for_its_topic_on_sqlite_is_not_overtaken() {
    refused_for_good(Engine::Sqlite);
}
