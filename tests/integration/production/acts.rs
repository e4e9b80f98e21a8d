//! Two processes and every act of an operator: whichever process is asked, the one that has the lane, the relay or the
//! job carries it out within a moment.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::members::{LANES, second_of, shared_place};
use super::outside::{Outside, keys_at};
use super::stage::{Stage, lanes, unique, wait_until_it_works};
use crate::process::client::Client;
use crate::process::crash::settle;
use crate::process::server::{Server, World, wait_for, wait_some};
use crate::services::kafka::Kafka;

/// Partitions of `job-lifecycle`.
const PARTITIONS: u64 = 10;

/// The groups that set poison aside.
const GROUPS: [&str; 2] = ["jobs", "job-metrics"];

/// The partition that is flooded, and how much poison makes a flood.
const FLOODED: u64 = 4;
const FLOOD: usize = 5;
const SECTIONS: &str = "[lanes]\nflood_records = 100\nflood_poison = 5\n";

/// Two servers that share every lane.
pub(super) struct Pair {
    pub(super) stage: Stage,
    second: Server,
    /// The second's, kept as long as it.
    world: World,
}

impl Pair {
    pub(super) fn at(who: &str) -> Self {
        let place = shared_place();
        let stage = Stage::with(who, place.clone(), SECTIONS, "slots = 8\n");
        let world = World::at(place, SECTIONS, "kind = \"none\"\n");
        let second = world.serve();
        let pair = Self { stage, second, world };
        pair.wait_for_lanes();
        pair
    }

    pub(super) fn clients(&self) -> [Client; 2] {
        [self.stage.client(), self.second.client()]
    }

    fn wait_for_lanes(&self) {
        wait_for("both to have lanes, and all of them to work", || {
            let each = self.clients().map(lanes);
            let is_whole = each.iter().map(Vec::len).sum::<usize>() == LANES;
            is_whole
                && each.iter().all(|some| some.iter().any(|lane| lane["group"] == "jobs"))
                && each.iter().flatten().all(|lane| lane["state"] == "running")
        });
    }

    /// Gives whoever does not have a lane.
    fn other_than_owner(&self, group: &str, topic: &str, partition: u64) -> Client {
        let is_it =
            |lane: &Value| lane["group"] == group && lane["topic"] == topic && lane["partition"] == partition;
        let owns = |client: &Client| lanes(*client).iter().any(is_it);
        wait_some("a process that does not have the lane", || {
            let [one, two] = self.clients();
            match (owns(&one), owns(&two)) {
                (true, false) => Some(two),
                (false, true) => Some(one),
                _ => None,
            }
        })
    }

    pub(super) fn stop(self) {
        let Self { stage, second, world: _world } = self;
        second.stop();
        stage.server.stop();
    }
}

fn parked(client: Client) -> Vec<Value> {
    client.get("/parked?limit=1000").json()["parked"].as_array().cloned().unwrap_or_default()
}

/// Asks for something and waits until it is done; tells how long that took.
fn took(what: &str, ask: impl FnOnce(), is_done: impl FnMut() -> bool) -> Duration {
    ask();
    let asked_at = Instant::now();
    wait_for(what, is_done);
    let took = asked_at.elapsed();
    println!("acts: {what}: {took:?}");
    took
}

fn key(partition: u64) -> String {
    keys_at(partition as i32, "acts", 1).remove(0)
}

#[test]
fn parked_keys_held_lanes_and_jobs_obey_whichever_process_is_asked() {
    let pair = Pair::at("acts on lanes");
    let client = pair.stage.client();
    let outside = Outside::of(Kafka::shared(), &pair.stage.world.place().events);
    for partition in 0..PARTITIONS {
        outside.produce("job-lifecycle", partition as i32, &[(key(partition).as_bytes(), b"no event")]);
    }
    let all = GROUPS.len() * PARTITIONS as usize;
    wait_for("every key to be parked", || parked(client).len() == all);
    let wish = |wish: &str, group: &str, partition: u64, key: &str| {
        let asked = pair.other_than_owner(group, "job-lifecycle", partition);
        assert_eq!(asked.wish(wish, group, partition, key).unwrap().status, 202);
    };
    let each = || GROUPS.into_iter().flat_map(|group| (0..PARTITIONS).map(move |number| (group, number)));

    let released = took(
        "all keys to be tried again",
        || each().for_each(|(group, number)| wish("release", group, number, &key(number))),
        || {
            let letters = client.get("/dead-letters?limit=1000").json();
            let letters = letters["dead_letters"].as_array().cloned().unwrap_or_default();
            letters.len() == all && letters.iter().all(|letter| letter["attempts"] == 2)
        },
    );
    let discarded = took(
        "all keys to be discarded",
        || each().for_each(|(group, number)| wish("discard", group, number, &key(number))),
        || parked(client).is_empty(),
    );

    let names = keys_at(FLOODED as i32, "flood", FLOOD);
    let behind = keys_at(FLOODED as i32, "behind", 1).remove(0);
    let flood: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &b"no event"[..])).collect();
    outside.produce("job-lifecycle", FLOODED as i32, &flood);
    outside.produce_event(&behind, FLOODED as i32);
    let held = || {
        let both = pair.clients().map(lanes);
        both.iter().flatten().filter(|lane| lane["state"] == "paused").count()
    };
    wait_for("both groups to hold still", || held() == GROUPS.len());
    let resumed = took(
        "both lanes to go on",
        || {
            for group in GROUPS {
                let body = json!({
                    "group": group, "topic": "job-lifecycle", "partition": FLOODED, "reason": "mended",
                });
                let asked = pair.other_than_owner(group, "job-lifecycle", FLOODED);
                assert_eq!(asked.post("/lanes/resume", &body).unwrap().status, 202);
            }
        },
        || held() == 0 && client.get(&format!("/jobs/{behind}")).status == 200,
    );

    // Jobs run where the scheduler is: in the first.
    let submitted = client.submit("acts", "long", "data-1").unwrap();
    assert!(submitted.status < 300, "{submitted:?}");
    let job = submitted.job_id();
    wait_for("the job to run", || client.get(&format!("/jobs/{job}")).json()["job"]["status"] == "RUNNING");
    let cancelled = took(
        "the job to be cancelled",
        || assert_eq!(pair.second.client().cancel(&job).unwrap().status, 202),
        || client.get(&format!("/jobs/{job}")).json()["job"]["status"] == "CANCELLED",
    );
    println!(
        "acts: released {released:?}, discarded {discarded:?}, resumed {resumed:?}, cancelled {cancelled:?}"
    );
    pair.stop();
}

#[test]
fn lanes_of_a_topic_are_all_resumed_whichever_process_has_them() {
    let pair = Pair::at("acts on all lanes");
    let outside = Outside::of(Kafka::shared(), &pair.stage.world.place().events);
    let of_jobs = |lane: &Value| lane["group"] == "jobs" && lane["topic"] == "job-lifecycle";
    let mut flooded = pair.clients().map(|client| {
        let lanes = lanes(client);
        let first = lanes.iter().find(|lane| of_jobs(lane)).expect("each has a lane of the group");
        first["partition"].as_u64().unwrap()
    });
    flooded.sort_unstable();
    let behind = flooded.map(|partition| {
        let names = keys_at(partition as i32, "all", FLOOD + 1);
        let poison: Vec<(&[u8], &[u8])> =
            names.iter().take(FLOOD).map(|name| (name.as_bytes(), &b"no event"[..])).collect();
        outside.produce("job-lifecycle", partition as i32, &poison);
        outside.produce_event(&names[FLOOD], partition as i32);
        names[FLOOD].clone()
    });
    let held = |group: &str| {
        let both = pair.clients().map(lanes);
        both.iter().flatten().filter(|lane| lane["group"] == group && lane["state"] == "paused").count()
    };
    wait_for("the lanes of both groups to hold still", || GROUPS.iter().all(|group| held(group) == 2));
    let resume = |group: &str| {
        let resume = ["lanes", "resume", "--group", group, "--topic", "job-lifecycle", "--reason", "mended"];
        let output = pair.world.cli(&pair.second, &resume);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };

    let listed = pair.second.client().get("/lanes/paused?group=jobs").json();
    let mut said = String::new();
    took(
        "all lanes of a group to go on",
        || said = resume("jobs"),
        || {
            let applied = |job: &String| pair.second.client().get(&format!("/jobs/{job}")).status == 200;
            held("jobs") == 0 && behind.iter().all(applied)
        },
    );

    let listed: Vec<u64> =
        listed["lanes"].as_array().unwrap().iter().filter_map(|lane| lane["partition"].as_u64()).collect();
    assert_eq!(listed, flooded);
    let wanted: String =
        flooded.iter().map(|partition| format!("lane goes on: jobs/job-lifecycle-{partition}\n")).collect();
    assert_eq!(said, wanted);
    assert_eq!(held("job-metrics"), 2, "another group's lanes are left as they are");
    resume("job-metrics");
    wait_for("the other group to go on", || held("job-metrics") == 0);
    assert_eq!(resume("job-metrics"), "no lane is paused\n");
    pair.stop();
}

/// What the topic takes after it was narrowed, and a record that is too large for it until it is widened.
const NARROW_BYTES: &str = "100000";
const WIDE_BYTES: &str = "1000000";
const LARGE_BYTES: usize = 300_000;

#[test]
fn relay_obeys_whichever_process_is_asked() {
    let mut pair = Pair::at("acts on the relay");
    let outside = Outside::of(Kafka::shared(), &pair.stage.world.place().events);
    wait_until_it_works(&pair.stage.load, pair.stage.client());
    let leads = |client: &Client| client.get("/relay").json()["is_leader"] == true;
    let (leader, other) = wait_some("one of the two to send", || {
        let [one, two] = pair.clients();
        match (leads(&one), leads(&two)) {
            (true, false) => Some((one, two)),
            (false, true) => Some((two, one)),
            _ => None,
        }
    });
    let stopped = || {
        let partitions = leader.get("/relay").json()["partitions"].as_array().cloned().unwrap_or_default();
        partitions.into_iter().find(|partition| partition["condition"] == "stopped")
    };
    let mut large = || -> Vec<u8> { (0..LARGE_BYTES).map(|_| pair.stage.random.below(256) as u8).collect() };

    for act in ["send-again", "set-aside"] {
        outside.configure("job-lifecycle", "max.message.bytes", NARROW_BYTES);
        let name = format!("narrow-{}", unique());
        let answer = other.append("job-lifecycle", Some(name.as_bytes()), &large(), json!({})).unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        let at = wait_some("the partition to stop", stopped);
        let mut body =
            json!({ "topic": at["topic"], "partition": at["partition"], "reason": "the test says so" });
        if act == "send-again" {
            outside.configure("job-lifecycle", "max.message.bytes", WIDE_BYTES);
        } else {
            body["offset"] = at["next"].clone();
        }

        took(
            act,
            || assert!(other.post(&format!("/relay/{act}"), &body).unwrap().status < 300),
            // Whatever waited is gone: what is only tried again would meet the next setting of the topic.
            || leader.get("/relay").json()["waiting_records"] == 0,
        );
    }
    pair.stop();
}

#[test]
fn gap_is_accepted_whichever_process_is_asked() {
    const TOPIC: &str = "system-health";
    let place = shared_place();
    let stage = Stage::at("acts on gaps", place.clone());
    let outside = Outside::of(Kafka::shared(), &stage.world.place().events);
    for partition in 0..3 {
        outside.produce(TOPIC, partition, &[(b"key", b"before"), (b"key", b"before")]);
    }
    wait_until_it_works(&stage.load, stage.client());
    settle(&stage.world);
    let Stage { world, server, .. } = stage;
    server.stop();
    outside.make_anew(TOPIC, 3);
    for partition in 0..3 {
        outside.produce(TOPIC, partition, &[(b"key", b"anew")]);
    }
    let first = world.spawn_and_wait_until_it_listens();
    let second_world = second_of(&place);
    let second = second_world.spawn_and_wait_until_it_listens();
    let clients = [first.client(), second.client()];
    let in_gap = |client: &Client| lanes(*client).into_iter().filter(|lane| lane["state"] == "gap").count();
    wait_for("all lanes to be shared, three of them before a gap", || {
        let each = clients.map(|client| lanes(client).len());
        each.iter().all(|some| *some > 0)
            && each.iter().sum::<usize>() == LANES
            && clients.iter().map(in_gap).sum::<usize>() == 3
    });

    for partition in 0..3 {
        let gaps = clients[0].get("/gaps").json()["gaps"].as_array().cloned().unwrap_or_default();
        let gap = gaps.iter().find(|gap| gap["topic"] == TOPIC && gap["partition"] == partition).unwrap();
        let has = |client: &Client| {
            lanes(*client).iter().any(|lane| lane["topic"] == TOPIC && lane["partition"] == partition)
        };
        let asked = clients.into_iter().find(|client| !has(client)).expect("one of them has it not");
        let body = json!({
            "group": "audit-trail", "topic": TOPIC, "partition": partition, "kind": gap["kind"],
            "next": gap["next"], "low": gap["low"], "reason": "the test says so",
        });
        let is_open = || {
            clients.iter().flat_map(|client| lanes(*client)).any(|lane| {
                lane["topic"] == TOPIC && lane["partition"] == partition && lane["state"] != "running"
            })
        };
        took(
            "a gap to be passed",
            || assert_eq!(asked.post("/gaps/accept", &body).unwrap().status, 202),
            || !is_open(),
        );
    }
    second.stop();
    first.stop();
}
