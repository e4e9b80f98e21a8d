//! Every act of an operator while the connection is cut around its COMMIT: the answer says that it is not known what
//! became of it and how to find out, and it was done once or not at all.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};

use super::database::{commit_of, place_with, proxy_before, says_unknown};
use super::outside::{Outside, keys_at};
use super::stage::{lanes, wait_until_it_works};
use crate::process::client::{Answer, Client};
use crate::process::crash::settle;
use crate::process::load::Load;
use crate::process::server::{World, wait_for, wait_some};
use crate::services::kafka::Kafka;
use crate::services::postgres::Cluster;
use crate::services::proxy::{Cut, Direction, FaultProxy};

/// Partitions for each kind of act, and how much poison makes a flood.
const PARKED: i32 = 2;
const FLOODED: i32 = 4;
const FLOOD: usize = 5;
const SECTIONS: &str = "[lanes]\nflood_records = 100\nflood_poison = 5\n";

/// A topic that only the auditor follows, made anew to have gaps.
const GAPS_IN: &str = "system-health";

/// What `job-lifecycle` takes, narrowed and widened again, and a record between the two.
const NARROW_BYTES: &str = "100000";
const WIDE_BYTES: &str = "1000000";
const LARGE_BYTES: usize = 300_000;

/// Which side of the COMMIT the connection is cut on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    Behind,
}

/// An act that is possible now, until it is done.
struct Act<'a> {
    name: &'a str,
    path: &'a str,
    body: Value,
    is_done: Box<dyn Fn() -> bool + 'a>,
}

/// Who asks, and what stands between the program and its database.
struct Doubt<'a> {
    client: Client,
    cluster: &'a Cluster,
    schema: &'a str,
    proxy: &'a FaultProxy,
}

impl Doubt<'_> {
    fn ask(&self, act: &Act<'_>, reason: &str) -> Answer {
        let mut body = act.body.clone();
        body["reason"] = reason.into();
        self.client.post(act.path, &body).unwrap()
    }

    /// Counts the acts that were stored for this reason, by their audit records.
    fn stored(&self, reason: &str) -> String {
        self.cluster.sql(&format!(
            "SELECT count(*) FROM {}.log WHERE position(convert_to('{reason}', 'UTF8') IN payload) > 0",
            self.schema
        ))
    }

    fn cut(&self, act: &Act<'_>, side: Side) {
        let reason = format!("doubt-{}-{side:?}", act.name);
        let fired = self.proxy.fired();
        match side {
            Side::Before => self.proxy.cut_before(Direction::Up, commit_of(&reason), Cut::Reset),
            Side::Behind => self.proxy.cut_behind(Direction::Up, commit_of(&reason), Cut::Reset),
        }
        // Until the program has its connection again it is busy, and nothing has come by.
        let answer = wait_some("an answer", || {
            let answer = self.ask(act, &reason);
            (answer.status != 503 || self.proxy.fired() > fired).then_some(answer)
        });

        assert!(self.proxy.fired() > fired && says_unknown(&answer), "{reason}: {answer:?}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        let (_, find_out) = detail.split_once("is not known: ").unwrap();
        assert!(!find_out.is_empty(), "{reason}: {detail}");
        if side == Side::Before {
            assert_eq!(self.stored(&reason), "0", "{reason}");
            assert!(!(act.is_done)(), "{reason}");
            let answer = wait_some("an answer that is none of a database that is away", || {
                Some(self.ask(act, &reason)).filter(|answer| answer.status != 503)
            });
            assert!(answer.status < 300, "{reason}: {answer:?}");
        }
        wait_for(&format!("{reason} to be done"), &act.is_done);
        assert_eq!(self.stored(&reason), "1", "{reason}");
    }
}

/// Tells in which state a lane is.
fn lane_state(client: Client, group: &str, topic: &str, partition: i32) -> String {
    let is_it =
        |lane: &Value| lane["group"] == group && lane["topic"] == topic && lane["partition"] == partition;
    let lane = lanes(client).into_iter().find(is_it);
    lane.and_then(|lane| lane["state"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Gives how often the head of a parked key was tried; none where nothing is parked.
fn tried(client: Client, key: &str) -> Option<u64> {
    let key = Value::from(BASE64.encode(key));
    let is_it = |one: &Value| one["group"] == "jobs" && one["key_base64"] == key;
    let is_letter = |one: &Value| one["group"] == "jobs" && one["record"]["key_base64"] == key;
    let parked = client.get("/parked?limit=1000").json()["parked"].as_array().cloned().unwrap_or_default();
    let letters = client.get("/dead-letters?limit=1000").json()["dead_letters"].as_array().cloned();
    parked.iter().find(|one| is_it(one))?;
    letters?.iter().find(|one| is_letter(one))?["attempts"].as_u64()
}

fn parked_acts(doubt: &Doubt<'_>, outside: &Outside<'_>) {
    let client = doubt.client;
    for (name, side) in [
        ("release", Side::Before),
        ("release", Side::Behind),
        ("discard", Side::Before),
        ("discard", Side::Behind),
    ] {
        let key = keys_at(PARKED, &format!("{name}-{side:?}"), 1).remove(0);
        outside.produce("job-lifecycle", PARKED, &[(key.as_bytes(), b"no event")]);
        wait_for("the key to be parked", || tried(client, &key) == Some(1));
        let wanted = if name == "release" { Some(2) } else { None };
        let act = Act {
            name,
            path: &format!("/parked/{name}"),
            body: json!({
                "group": "jobs", "topic": "job-lifecycle", "partition": PARKED,
                "key_base64": BASE64.encode(&key),
            }),
            is_done: Box::new(|| tried(client, &key) == wanted),
        };
        doubt.cut(&act, side);
    }
}

fn resume(doubt: &Doubt<'_>, outside: &Outside<'_>) {
    let client = doubt.client;
    let names = keys_at(FLOODED, "flood", FLOOD);
    let flood: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &b"no event"[..])).collect();
    outside.produce("job-lifecycle", FLOODED, &flood);
    for (group, side) in [("jobs", Side::Before), ("job-metrics", Side::Behind)] {
        let is_held = move || lane_state(client, group, "job-lifecycle", FLOODED) == "paused";
        wait_for("the lane to hold still", is_held);
        let act = Act {
            name: "resume",
            path: "/lanes/resume",
            body: json!({ "group": group, "topic": "job-lifecycle", "partition": FLOODED }),
            is_done: Box::new(move || !is_held()),
        };
        doubt.cut(&act, side);
    }
}

fn accept_gaps(doubt: &Doubt<'_>) {
    let client = doubt.client;
    for (partition, side) in [(0, Side::Before), (1, Side::Behind)] {
        let gap = wait_some("the gap", || {
            let gaps = client.get("/gaps").json()["gaps"].as_array().cloned().unwrap_or_default();
            gaps.into_iter().find(|gap| gap["topic"] == GAPS_IN && gap["partition"] == partition)
        });
        let act = Act {
            name: "accept",
            path: "/gaps/accept",
            body: json!({
                "group": "audit-trail", "topic": GAPS_IN, "partition": partition, "kind": gap["kind"],
                "next": gap["next"], "low": gap["low"],
            }),
            is_done: Box::new(move || lane_state(client, "audit-trail", GAPS_IN, partition) == "running"),
        };
        doubt.cut(&act, side);
    }
}

fn relay_acts(doubt: &Doubt<'_>, outside: &Outside<'_>) {
    let client = doubt.client;
    let stopped = || {
        let partitions = client.get("/relay").json()["partitions"].as_array().cloned().unwrap_or_default();
        partitions.into_iter().find(|partition| partition["condition"] == "stopped")
    };
    // Not one byte of it is like the next, so that it stays as large however it is sent.
    let mut random = crate::process::random::Random::seeded("doubt");
    let large: Vec<u8> = (0..LARGE_BYTES).map(|_| random.below(256) as u8).collect();
    for (name, side) in [
        ("send-again", Side::Before),
        ("send-again", Side::Behind),
        ("set-aside", Side::Before),
        ("set-aside", Side::Behind),
    ] {
        outside.configure("job-lifecycle", "max.message.bytes", NARROW_BYTES);
        let key = format!("{name}-{side:?}");
        let taken = wait_some("the record to be taken", || {
            let answer = client.append("job-lifecycle", Some(key.as_bytes()), &large, json!({})).unwrap();
            Some(answer).filter(|answer| answer.status != 503)
        });
        assert_eq!(taken.status, 202, "{taken:?}");
        let at = wait_some("the partition to stop", stopped);
        let mut body = json!({ "topic": at["topic"], "partition": at["partition"] });
        if name == "send-again" {
            outside.configure("job-lifecycle", "max.message.bytes", WIDE_BYTES);
        } else {
            body["offset"] = at["next"].clone();
        }
        let again = body.clone();
        let reason = format!("doubt-{name}-{side:?}");
        let kept = || client.get("/relay/set-aside").json()["set_aside"].as_array().map_or(0, Vec::len);
        let kept_before = kept();
        let act = Act {
            name,
            path: &format!("/relay/{name}"),
            body,
            is_done: match name {
                "set-aside" => Box::new(move || kept() == kept_before + 1),
                _ => Box::new(move || doubt.stored(&reason) == "1"),
            },
        };
        doubt.cut(&act, side);
        // The broker may not yet have heard that it takes more.
        wait_for("nothing to wait", || {
            if name == "send-again" && stopped().is_some() {
                doubt.ask(
                    &Act { name, path: act.path, body: again.clone(), is_done: Box::new(|| true) },
                    "again",
                );
            }
            client.get("/relay").json()["waiting_records"] == 0
        });
    }
}

#[test]
fn acts_of_operators_cut_around_commit_say_that_they_are_in_doubt_and_are_done_once_or_not() {
    let cluster = Cluster::start();
    let proxy = proxy_before(&cluster);
    let world = World::at(place_with(&cluster, Some(&proxy)), SECTIONS, "");
    world.create_topics();
    let outside = Outside::of(Kafka::shared(), &world.place().events);
    let server = world.serve();
    for partition in [0, 1] {
        outside.produce(GAPS_IN, partition, &[(b"key", b"before"), (b"key", b"before")]);
    }
    wait_until_it_works(&Load::default(), server.client());
    settle(&world);
    server.stop();
    outside.make_anew(GAPS_IN, 3);
    for partition in [0, 1] {
        outside.produce(GAPS_IN, partition, &[(b"key", b"anew")]);
    }
    let server = world.spawn_and_wait_until_it_listens();
    let schema = world.place().schema().to_owned();
    let doubt = Doubt { client: server.client(), cluster: &cluster, schema: &schema, proxy: &proxy };

    accept_gaps(&doubt);
    parked_acts(&doubt, &outside);
    resume(&doubt, &outside);
    relay_acts(&doubt, &outside);

    server.stop();
}
