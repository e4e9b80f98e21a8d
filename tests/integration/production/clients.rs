//! Stock clients: what KafkaJS and the Java console producer write is processed, and what Horizons writes is read
//! by KafkaJS and kcat with all its headers.

use std::collections::BTreeSet;

use super::stage::{Engine, Stage, place_on};
use crate::process::load::external_event;
use crate::process::look::Look;
use crate::process::server::wait_for;
use crate::services::clients::StockRecord;
use crate::services::kafka::Kafka;

/// The headers of every record that Horizons writes.
const HEADERS: [&str; 7] = [
    "content-type",
    "correlation-id",
    "event-id",
    "event-type",
    "schema-version",
    "timestamp",
    "traceparent",
];

/// Jobs of other producers, for each client.
const JOBS: usize = 8;

/// Makes another producer's event as a stock client sends it.
fn stock_event(topic: &str, job: &str) -> StockRecord {
    let (key, payload, headers) = external_event(job);
    let headers = headers.as_object().unwrap().iter();
    StockRecord {
        topic: topic.to_owned(),
        key: Some(key),
        headers: headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect(),
        value: Some(String::from_utf8(payload).unwrap()),
        ..StockRecord::default()
    }
}

/// Asserts that a client shows all records of Horizons with all their headers, and gives their event ids.
fn assert_whole(client: &str, records: &[StockRecord], owned: &BTreeSet<String>) -> BTreeSet<String> {
    let ours = records.iter().filter(|record| record.key.as_ref().is_some_and(|key| owned.contains(key)));
    let ids = ours.map(|record| {
        let names: BTreeSet<&str> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, BTreeSet::from(HEADERS), "{client}: {record:?}");
        assert_eq!(record.headers.len(), HEADERS.len(), "{client}: a header twice in {record:?}");
        let body: serde_json::Value = serde_json::from_str(record.value.as_deref().unwrap()).unwrap();
        let header = |wanted: &str| record.headers.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("event-id"), body["event_id"], "{client}");
        assert_eq!(header("event-type"), body["event_type"], "{client}");
        assert_eq!(header("correlation-id"), body["correlation_id"], "{client}");
        header("event-id")
    });
    ids.collect()
}

#[test]
fn records_of_stock_clients_are_processed_and_ours_are_read_by_them() {
    let kafka = Kafka::shared();
    let place = place_on(Engine::Postgres, kafka);
    let stage = Stage::at("stock clients", place);
    let client = stage.client();
    let topics = Look::of(&stage.world);
    let topic = topics.topics().unwrap().name(0);
    let dead = format!("{topic}.dlq");
    let by_kafkajs: Vec<StockRecord> =
        (0..JOBS).map(|n| stock_event(&topic, &format!("kafkajs-{n}"))).collect();
    let by_java: Vec<(String, String)> = (0..JOBS)
        .map(|n| {
            let event = stock_event(&topic, &format!("java-{n}"));
            (event.key.unwrap(), event.value.unwrap())
        })
        .collect();
    let poison = StockRecord {
        topic: topic.clone(),
        key: Some("malformed".to_owned()),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        value: Some("{ this is no event".to_owned()),
        ..StockRecord::default()
    };

    kafka.kafkajs_produce(&by_kafkajs);
    kafka.console_produce(&topic, &by_java);
    let (partition, offset) = kafka.kafkajs_produce(std::slice::from_ref(&poison))[0];
    for name in
        by_kafkajs.iter().filter_map(|event| event.key.clone()).chain(by_java.into_iter().map(|(key, _)| key))
    {
        wait_for("another producer's job", || client.get(&format!("/jobs/{name}")).status == 200);
        assert_eq!(client.get(&format!("/jobs/{name}")).json()["job"]["origin"], "external");
        stage.load.ledger.lock().unwrap().foreign.push(("job-lifecycle", name));
    }
    stage.load.ledger.lock().unwrap().foreign.push(("job-lifecycle", "malformed".to_owned()));
    for key in 0..JOBS {
        assert!(stage.load.submit(client, &format!("key-{key}"), "quick"));
    }
    crate::process::crash::settle(&stage.world);

    let letters = kafka.kcat_consume(&dead);
    assert_eq!(letters.len(), 2, "one for each group: {letters:?}");
    for letter in &letters {
        let header = |wanted: &str| letter.headers.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        assert_eq!((letter.key.as_deref(), &letter.value), (Some("malformed"), &poison.value));
        assert_eq!(header("horizons-origin-topic"), "job-lifecycle");
        assert_eq!(header("horizons-origin-partition"), partition.to_string());
        assert_eq!(header("horizons-origin-offset"), offset.to_string());
    }
    let owned: BTreeSet<String> = {
        let ledger = stage.load.ledger.lock().unwrap();
        ledger.submits.values().filter_map(|submit| submit.job_id.clone()).collect()
    };
    let told = kafka.kcat_consume(&topic);
    let by_kcat = assert_whole("kcat", &told, &owned);
    let by_kafkajs = assert_whole("KafkaJS", &kafka.kafkajs_consume(&topic, told.len()), &owned);
    assert!(by_kcat.len() >= JOBS * 4, "{by_kcat:?}");
    assert_eq!(by_kcat, by_kafkajs);
    stage.finish();
}
