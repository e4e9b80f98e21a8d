//! Producers that choose partitions in different ways: kcat as it is (CRC32) and told to use murmur2. Whatever they do to
//! one job's story, its state never goes back, no event counts twice, and what was put elsewhere is kept and told.

use horizons_actors::event::partition_among;
use horizons_actors::ids::Topic;
use horizons_actors::testkit::EventBuilder;
use serde_json::Value;

use super::outside::Outside;
use super::stage::{Engine, Stage, metric, place_on};
use crate::process::client::Client;
use crate::process::load::parts;
use crate::process::server::wait_for;
use crate::services::clients::kcat;
use crate::services::kafka::Kafka;
use crate::services::tools::run;

/// Jobs of other producers; nine of ten are put apart by the two partitioners.
const JOBS: usize = 12;

/// The groups that apply `job-lifecycle`.
const GROUPS: usize = 2;

/// Gives the events of a job, in the order in which they happen.
fn story(job: &str) -> [EventBuilder; 4] {
    let steps = [
        EventBuilder::job_submitted(),
        EventBuilder::job_queued(),
        EventBuilder::job_running(),
        EventBuilder::job_completed(),
    ];
    let mut sequence = 0;
    steps.map(|step| {
        sequence += 1;
        step.job(job).sequence(sequence)
    })
}

/// Has kcat send lines of key and payload, with a setting of the client library or as it is.
fn produce(kafka: &Kafka, topic: &str, setting: Option<&str>, events: &[(String, Vec<u8>)]) {
    let mut command = kcat(&["-P", "-b", kafka.direct(), "-t", topic, "-K", "\t"]);
    if let Some(setting) = setting {
        command.args(["-X", setting]);
    }
    let mut lines = Vec::new();
    for (key, payload) in events {
        lines.extend([key.as_bytes(), b"\t", payload, b"\n"].concat());
    }
    run(&mut command, &lines);
}

/// Gives the payload of one event of every job.
fn step(jobs: &[String], number: usize) -> Vec<(String, Vec<u8>)> {
    let event = |job: &String| (job.clone(), parts(story(job).into_iter().nth(number).unwrap()).0);
    jobs.iter().map(event).collect()
}

fn wrong_partition(client: Client) -> Vec<Value> {
    let letters = client.get("/dead-letters?limit=1000").json()["dead_letters"].as_array().cloned();
    letters.unwrap_or_default().into_iter().filter(|letter| letter["reason"] == "wrong_partition").collect()
}

/// Tells the story of each job by two producers in turn: the one that chooses otherwise sends `job.running`, late, and
/// repeats `job.completed`.
fn partitioners(engine: Engine) {
    let kafka = Kafka::shared();
    let stage = Stage::at("partitioners", place_on(engine, kafka));
    let client = stage.client();
    let topic = Outside::of(kafka, &stage.world.place().events).name("job-lifecycle");
    let jobs: Vec<String> = (0..JOBS).map(|number| format!("told-by-two-{number}")).collect();
    let murmur2 = Some("topic.partitioner=murmur2_random");

    for number in [0, 1, 3] {
        produce(kafka, &topic, murmur2, &step(&jobs, number));
    }
    for job in &jobs {
        wait_for("a job to be completed", || status(client, job) == "COMPLETED");
    }
    produce(kafka, &topic, None, &step(&jobs, 2));
    produce(kafka, &topic, None, &step(&jobs, 3));

    let places: Vec<(String, i32)> = kafka
        .kcat_consume(&topic)
        .into_iter()
        .map(|record| (record.key.unwrap(), record.partition))
        .collect();
    assert_eq!(places.len(), JOBS * 5);
    let is_stray = |(job, partition): &&(String, i32)| {
        i32::from(partition_among(Topic::JobLifecycle.partitions(), job.as_bytes()).0) != *partition
    };
    let strays = places.iter().filter(is_stray).count();
    assert!(strays >= JOBS, "the two partitioners agree: {places:?}");
    wait_for("every stray record to be kept", || wrong_partition(client).len() == strays * GROUPS);
    for job in &jobs {
        assert_eq!(status(client, job), "COMPLETED", "{job}");
        let entries = client.get(&format!("/audit/entries?job={job}")).json();
        let marks = entries["entries"].as_array().cloned().unwrap_or_default();
        let stray = marks.iter().filter(|entry| entry["mark"] == "wrong_partition").count();
        let expected = places.iter().filter(is_stray).filter(|(one, _)| one == job).count();
        assert_eq!((marks.len(), stray), (5, expected), "{job}: {entries}");
    }
    let counted = metric(client, "horizons_rejections_total");
    assert_eq!(counted, (strays * GROUPS) as f64);
    assert_eq!(client.get("/parked").json()["parked"], serde_json::json!([]));
    assert_eq!(metric(client, "horizons_lane_paused"), 0.0);
    stage.server.stop();
}

fn status(client: Client, job: &str) -> Value {
    client.get(&format!("/jobs/{job}")).json()["job"]["status"].clone()
}

#[test]
fn stories_told_by_two_partitioners_on_postgres_never_go_back() {
    partitioners(Engine::Postgres);
}

#[test]
fn stories_told_by_two_partitioners_on_sqlite_never_go_back() {
    partitioners(Engine::Sqlite);
}
