//! A log that is not the one that was read: cut short under a stopped consumer, made anew with fewer and with more
//! records, or damaged in a broker's file. The lane stops and says so; an operator decides; the other lanes do not notice.

use serde_json::Value;

use super::members::LANES;
use super::outside::Outside;
use super::stage::{Engine, Stage, lanes, place_on, probe, wait_until_it_works};
use crate::process::client::Client;
use crate::process::crash::settle;
use crate::process::look::Look;
use crate::process::server::{Server, World, wait_for};
use crate::services::kafka::Kafka;
use crate::services::segments::{self, Damage};

/// The topic that is damaged: only the auditor follows it, and it takes any bytes.
const TOPIC: &str = "system-health";

/// Its number and its partitions.
const TOPIC_CODE: u64 = 4;
const PARTITIONS: i32 = 3;

/// Records that are read before the damage.
const BEFORE: usize = 20;

fn records(name: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("{name} {number}").into_bytes()).collect()
}

fn produce(outside: &Outside<'_>, payloads: &[Vec<u8>]) {
    let records: Vec<(&[u8], &[u8])> =
        payloads.iter().map(|payload| (&b"key"[..], payload.as_slice())).collect();
    outside.produce(TOPIC, 0, &records);
}

/// Gives the payloads that the auditor has of the damaged partition, oldest first.
fn audited(world: &World) -> Vec<Vec<u8>> {
    let from = format!(
        "audit_runs JOIN lanes USING (lane)
         JOIN audit_entries ON entry BETWEEN base_entry AND base_entry + entries - 1
         JOIN audit_bodies USING (entry)
         WHERE topic = {TOPIC_CODE} AND partition = 0 ORDER BY lane, first_index, entry"
    );
    let rows = Look::of(world).rows("'payload', hex(payload)", &from);
    let decode = |row: &Value| crate::process::checker::bytes(row["payload"].as_str().unwrap());
    rows.iter().map(decode).collect()
}

/// Gives the lanes that wait for a decision.
fn in_gap(client: Client) -> Vec<Value> {
    lanes(client).into_iter().filter(|lane| lane["state"] == "gap").collect()
}

/// Gives what the command line lists as open.
fn listed(world: &World, server: &Server) -> Vec<Value> {
    let output = world.cli(server, &["gaps", "list", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Lets a server read records, stops it, has the log damaged, starts it again and follows the gap to its end:
/// `kept` is what must be read after the operator's word, and nothing before.
fn damaged(who: &str, damage: impl FnOnce(&Outside<'_>), kept: &[Vec<u8>]) {
    let Stage { world, load, mut random, server } =
        Stage::at(who, place_on(Engine::Postgres, Kafka::shared()));
    let outside = Outside::of(Kafka::shared(), &world.place().events);
    produce(&outside, &records("before", BEFORE));
    wait_until_it_works(&load, server.client());
    settle(&world);
    assert_eq!(audited(&world), records("before", BEFORE));
    server.stop();

    damage(&outside);
    let server = world.spawn_and_wait_until_it_listens();
    let client = server.client();
    wait_for("the lane to stop at the gap", || in_gap(client).len() == 1);
    let lane = in_gap(client).remove(0);
    assert_eq!((&lane["topic"], &lane["partition"]), (&Value::from(TOPIC), &Value::from(0)), "{lane}");
    wait_for("the gap to be told", || probe(client, "lanes/audit-trail") == (200, "degraded".to_owned()));
    wait_for("the other lanes to work", || {
        lanes(client).iter().filter(|lane| lane["state"] == "running").count() == LANES - 1
    });
    wait_until_it_works(&load, client);
    assert_eq!(audited(&world), records("before", BEFORE), "applied without a decision");
    let gaps = listed(&world, &server);
    let gap = gaps.iter().find(|gap| gap["topic"] == TOPIC && gap["partition"] == 0);
    let gap = gap.unwrap_or_else(|| panic!("no gap of the lane: {gaps:?}"));
    assert_eq!(gap["state"], "open", "{gap}");

    let (next, low) = (gap["next"].to_string(), gap["low"].to_string());
    let lane = ["--group", "audit-trail", "--topic", TOPIC, "--partition", "0"];
    let what = ["--kind", gap["kind"].as_str().unwrap(), "--next", &next, "--low", &low];
    let accept = [&["gaps", "accept"][..], &lane, &what, &["--reason", "the test says so"]].concat();
    let output = world.cli(&server, &accept);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wanted = [records("before", BEFORE), kept.to_vec()].concat();
    wait_for("what is kept to be read", || audited(&world).len() >= wanted.len());
    assert_eq!(audited(&world), wanted);
    wait_for("every lane to work", || {
        lanes(client).iter().filter(|lane| lane["state"] == "running").count() == LANES
    });
    wait_until_it_works(&load, client);
    load.repeat(client, &mut random);
    assert!(world.cli(&server, &["audit", "verify"]).status.success());
    settle(&world);
    server.stop();
}

#[test]
fn topic_made_anew_with_fewer_records_waits_for_a_decision() {
    let anew = records("anew", BEFORE / 4);
    let damage = |outside: &Outside<'_>| {
        outside.make_anew(TOPIC, PARTITIONS);
        produce(outside, &anew);
    };

    damaged("made anew with fewer", damage, &anew);
}

#[test]
fn topic_made_anew_with_more_records_waits_for_a_decision() {
    let anew = records("anew", BEFORE * 2);
    let damage = |outside: &Outside<'_>| {
        outside.make_anew(TOPIC, PARTITIONS);
        produce(outside, &anew);
    };

    damaged("made anew with more", damage, &anew);
}

#[test]
fn log_truncated_under_a_stopped_consumer_waits_for_a_decision() {
    let behind = records("behind", BEFORE);
    let damage = |outside: &Outside<'_>| {
        produce(outside, &behind);
        outside.truncate(TOPIC, 0, BEFORE + BEFORE / 2);
    };

    damaged("truncated", damage, &behind[BEFORE / 2..]);
}

#[test]
fn corrupt_batch_under_a_stopped_consumer_waits_for_a_decision() {
    let behind = records("behind", BEFORE);
    let damage = |outside: &Outside<'_>| {
        produce(outside, &records("broken", 1));
        produce(outside, &behind);
        let topic = outside.name(TOPIC);
        let batch = segments::damage(Kafka::shared(), &topic, 0, BEFORE as u64, Damage::Flipped);
        assert_eq!((batch.base, batch.next), (BEFORE as u64, BEFORE as u64 + 1), "the record is alone");
    };

    damaged("a corrupt batch", damage, &behind);
}
