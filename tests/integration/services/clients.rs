//! Stock clients: KafkaJS and kcat, and what they say of records.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::kafka::{Kafka, SecureListener, script};
use super::tools::run;

/// A record as a stock client is given it or tells it. Bytes that are no UTF-8 arrive as the client renders them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StockRecord {
    pub(crate) topic: String,
    /// Where it stands; not looked at when it is sent.
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<String>,
    /// In their order; a name may come twice.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) value: Option<String>,
}

/// What KafkaJS does in this harness.
#[derive(Debug, Clone, Copy)]
enum Kafkajs {
    Produce,
    Consume,
    Bench,
}

fn kafkajs(what: Kafkajs) -> Command {
    let mut command = Command::new(script("client"));
    command.arg(match what {
        Kafkajs::Produce => "produce",
        Kafkajs::Consume => "consume",
        Kafkajs::Bench => "bench",
    });
    command
}

/// kcat with its own arguments, to be run.
pub(crate) fn kcat(arguments: &[&str]) -> Command {
    let mut command = Command::new("kcat");
    command.args(arguments);
    command
}

impl Kafka {
    /// Sends records by KafkaJS with its default partitioner; returns partition and offset of each.
    pub(crate) fn kafkajs_produce(&self, records: &[StockRecord]) -> Vec<(i32, i64)> {
        let lines: String = records
            .iter()
            .map(|record| {
                let mut headers = serde_json::Map::new();
                for (name, value) in &record.headers {
                    let all = headers.entry(name).or_insert_with(|| json!([]));
                    all.as_array_mut().expect("it was made as one").push(json!(value));
                }
                let StockRecord { topic, key, value, .. } = record;
                format!("{}\n", json!({ "topic": topic, "key": key, "headers": headers, "value": value }))
            })
            .collect();
        let printed = run(kafkajs(Kafkajs::Produce).arg(self.direct()), lines.as_bytes());
        let places = parse_lines(&printed)
            .iter()
            .map(|place| (number(&place["partition"]), place["offset"].as_i64().expect("an offset")))
            .collect::<Vec<_>>();
        assert_eq!(places.len(), records.len(), "KafkaJS tells of every record");
        places
    }

    /// Reads so many records of a topic by KafkaJS, from its beginning.
    pub(crate) fn kafkajs_consume(&self, topic: &str, count: usize) -> Vec<StockRecord> {
        parse_kafkajs(&run(kafkajs(Kafkajs::Consume).args([self.direct(), topic, &count.to_string()]), b""))
    }

    /// Consumes so many records with KafkaJS `eachMessage` doing nothing; returns records a second.
    pub(crate) fn kafkajs_bench(&self, topic: &str, count: u32) -> f64 {
        let printed = run(kafkajs(Kafkajs::Bench).args([self.direct(), topic, &count.to_string()]), b"");
        printed.trim().parse().expect("a rate is a number")
    }

    /// Reads all records that a topic has by kcat, partition by partition.
    pub(crate) fn kcat_consume(&self, topic: &str) -> Vec<StockRecord> {
        let arguments = ["-b", self.direct(), "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J"];
        parse_kcat(&run(&mut kcat(&arguments), b""))
    }
}

/// KafkaJS that reads so many records of a topic from a secure listener, to be run; without an authority it trusts the
/// system's.
pub(crate) fn kafkajs_consume_secure(
    listener: &SecureListener,
    password: &str,
    authority: Option<&Path>,
    topic: &str,
    count: usize,
) -> Command {
    let mut command = kafkajs(Kafkajs::Consume);
    command.args([listener.bootstrap.as_str(), topic, &count.to_string()]);
    let security = json!({ "user": listener.user, "password": password, "authority": authority });
    command.env("KAFKAJS_SECURITY", security.to_string());
    command
}

/// Parses what KafkaJS prints.
pub(crate) fn parse_kafkajs(printed: &str) -> Vec<StockRecord> {
    parse_lines(printed)
        .iter()
        .map(|record| {
            let pairs = record["headers"].as_array().expect("headers are a list");
            let headers = pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
            stock_record(record, headers, &record["value"])
        })
        .collect()
}

/// Parses what `kcat -J` prints.
fn parse_kcat(printed: &str) -> Vec<StockRecord> {
    parse_lines(printed)
        .iter()
        .map(|record| {
            // Names and values by turns; nothing at all without headers.
            let flat = record["headers"].as_array().cloned().unwrap_or_default();
            let (pairs, _) = flat.as_chunks::<2>();
            let headers = pairs.iter().map(|[name, value]| (text(name), text(value))).collect();
            stock_record(record, headers, &record["payload"])
        })
        .collect()
}

fn stock_record(record: &Value, headers: Vec<(String, String)>, value: &Value) -> StockRecord {
    StockRecord {
        topic: text(&record["topic"]),
        partition: number(&record["partition"]),
        offset: record["offset"].as_i64().expect("an offset"),
        key: record["key"].as_str().map(str::to_owned),
        headers,
        value: value.as_str().map(str::to_owned),
    }
}

fn parse_lines(printed: &str) -> Vec<Value> {
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON: {error}: {line}")))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("wanted a text, got {value}")).to_owned()
}

fn number(value: &Value) -> i32 {
    value
        .as_i64()
        .and_then(|one| i32::try_from(one).ok())
        .unwrap_or_else(|| panic!("wanted a number: {value}"))
}
