//! Load on a server that may die at any moment, and a ledger of what it has promised.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::testkit::EventBuilder;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::random::Random;

/// A submit, repeated under its key until it is answered.
#[derive(Debug, Clone)]
pub(crate) struct Submit {
    pub(crate) agent: &'static str,
    /// The job that the key stands for, once an answer has said so.
    pub(crate) job_id: Option<String>,
}

/// A record that was appended.
#[derive(Debug, Clone)]
pub(crate) struct Appended {
    pub(crate) topic: &'static str,
    pub(crate) partition: u64,
    pub(crate) offset: u64,
    pub(crate) key: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) is_poison: bool,
}

/// What was promised so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By idempotency key.
    pub(crate) submits: BTreeMap<String, Submit>,
    pub(crate) appended: Vec<Appended>,
    /// Whether an event may be in the log twice: with no effect the second time.
    pub(crate) may_repeat: bool,
    /// Topics and keys of records that other producers wrote to Kafka.
    pub(crate) foreign: Vec<(&'static str, String)>,
    /// Jobs whose cancel was accepted.
    pub(crate) cancelled: Vec<String>,
    /// Lifecycle events that were given up: partition and offset.
    pub(crate) given_up: Vec<(u64, u64)>,
    /// Answers that are neither success nor a refusal that this load can meet.
    pub(crate) surprises: Vec<String>,
    /// Requests that were sent away with 503.
    pub(crate) sent_away: u64,
}

/// Makes load and remembers.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) ledger: Mutex<Ledger>,
    next: AtomicU64,
}

/// What a submit asks for, by weight. Few never end by themselves, so that slots are left for the others.
const AGENTS: [&str; 16] = [
    "quick", "quick", "quick", "quick", "quick", "quick", "quick", "slow", "slow", "slow", "slow", "slow",
    "fail", "fail", "long", "stubborn",
];

/// One submit in so many is repeated though it was answered.
const REPEAT_ONE_IN: u64 = 8;

/// Answered submits that are repeated after a crash, at most.
const REPEATS_MAX: usize = 8;

/// Cancels and wishes are about one of so many last jobs or poison records: older ones have mostly ended.
const RECENT: usize = 24;

impl Load {
    /// Submits under a key and notes the answer. False when the server is gone.
    pub(crate) fn submit(&self, client: Client, key: &str, agent: &'static str) -> bool {
        let first = self.ledger.lock().unwrap().submits.get(key).cloned();
        let agent = first.as_ref().map_or(agent, |submit| submit.agent);
        if first.is_none() {
            let submit = Submit { agent, job_id: None };
            self.ledger.lock().unwrap().submits.insert(key.to_owned(), submit);
        }
        let Ok(answer) = client.submit(key, agent, "data-1") else { return false };
        let mut ledger = self.ledger.lock().unwrap();
        match answer.status {
            200..=202 => {
                let job_id = answer.job_id();
                let before = ledger.submits.get_mut(key).unwrap().job_id.replace(job_id.clone());
                if before.as_ref().is_some_and(|before| *before != job_id) {
                    ledger.surprises.push(format!("`{key}` was `{before:?}` and is now `{job_id}`"));
                }
            }
            503 => ledger.sent_away += 1,
            _ => ledger.surprises.push(format!("submit: {answer:?}")),
        }
        true
    }

    /// Submits something new.
    pub(crate) fn submit_new(&self, client: Client, agent: &'static str) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Keys sort in the order they were made.
        self.submit(client, &format!("key-{number:06}"), agent)
    }

    pub(crate) fn cancel(&self, client: Client, job_id: &str) -> bool {
        let Ok(answer) = client.cancel(job_id) else { return false };
        let mut ledger = self.ledger.lock().unwrap();
        match answer.status {
            200 | 202 => ledger.cancelled.push(job_id.to_owned()),
            409 => {}
            503 => ledger.sent_away += 1,
            _ => ledger.surprises.push(format!("cancel: {answer:?}")),
        }
        true
    }

    /// Appends another producer's event, or something that is none.
    pub(crate) fn append(&self, client: Client, is_poison: bool) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = if is_poison { format!("poison-{number}") } else { format!("external-{number}") };
        self.append_as(client, &name, is_poison)
    }

    /// Appends another producer's first event of a job of this name, or something that is none under this key.
    /// False when the server is gone.
    pub(crate) fn append_as(&self, client: Client, name: &str, is_poison: bool) -> bool {
        let (key, payload, headers) = if is_poison {
            (name.to_owned(), b"not an event".to_vec(), json!({}))
        } else {
            external_event(name)
        };
        let Ok(answer) = client.append("job-lifecycle", Some(key.as_bytes()), &payload, headers) else {
            return false;
        };
        let mut ledger = self.ledger.lock().unwrap();
        match answer.status {
            // 202: it is on its way to Kafka, and where it will stand there is not known yet.
            201 | 202 => {
                let at = &answer.json()["appended"][0];
                let partition = at["partition"].as_u64().unwrap();
                let offset = at["offset"].as_u64().or_else(|| at["outbox_offset"].as_u64()).unwrap();
                let topic = "job-lifecycle";
                ledger.appended.push(Appended { topic, partition, offset, key, payload, is_poison });
            }
            503 => ledger.sent_away += 1,
            _ => ledger.surprises.push(format!("append: {answer:?}")),
        }
        true
    }

    fn wish(&self, client: Client, random: &mut Random) -> bool {
        let poison: Vec<Appended> = {
            let ledger = self.ledger.lock().unwrap();
            ledger.appended.iter().rev().filter(|record| record.is_poison).take(RECENT).cloned().collect()
        };
        let Some(record) = random.pick(&poison) else { return true };
        let wish = if random.below(2) == 0 { "release" } else { "discard" };
        let group = if random.below(2) == 0 { "jobs" } else { "job-metrics" };
        let Ok(answer) = client.wish(wish, group, record.partition, &record.key) else { return false };
        // 404: it is not parked yet, or not any more.
        if !matches!(answer.status, 202 | 404 | 503) {
            self.ledger.lock().unwrap().surprises.push(format!("{wish}: {answer:?}"));
        }
        true
    }

    /// Does one thing of those that load is made of. False when the server is gone.
    pub(crate) fn step(&self, client: Client, random: &mut Random) -> bool {
        match random.below(20) {
            0..=8 => {
                let agent = random.pick(&AGENTS).copied().unwrap_or("quick");
                self.submit_new(client, agent)
            }
            9..=10 if random.below(REPEAT_ONE_IN) == 0 => {
                let keys: Vec<String> = self.ledger.lock().unwrap().submits.keys().cloned().collect();
                random.pick(&keys).is_none_or(|key| self.submit(client, key, "quick"))
            }
            9..=13 => {
                let jobs = self.jobs();
                random.pick(&jobs).is_none_or(|job_id| self.cancel(client, job_id))
            }
            14..=17 => self.append(client, false),
            18 => self.append(client, true),
            _ => self.wish(client, random),
        }
    }

    /// Works until told to stop or the server is gone.
    pub(crate) fn work(&self, client: Client, mut random: Random, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) && self.step(client, &mut random) {}
    }

    /// Gives the last jobs.
    fn jobs(&self) -> Vec<String> {
        let ledger = self.ledger.lock().unwrap();
        let jobs = ledger.submits.values().rev().filter_map(|submit| submit.job_id.clone());
        jobs.take(RECENT).collect()
    }

    /// Repeats every submit that has no answer, and some that have.
    pub(crate) fn repeat(&self, client: Client, random: &mut Random) {
        let keys: Vec<String> = {
            let ledger = self.ledger.lock().unwrap();
            let (open, answered): (Vec<_>, Vec<_>) =
                ledger.submits.iter().partition(|(_, submit)| submit.job_id.is_none());
            let repeated = (0..REPEATS_MAX).filter_map(|_| random.pick(&answered));
            open.iter().chain(repeated).map(|(key, _)| (*key).clone()).collect()
        };
        for key in keys {
            if !self.submit(client, &key, "quick") {
                return;
            }
        }
    }

    /// Asks for the end of every job that would not end by itself; each is asked for once. False when the
    /// server is gone.
    pub(crate) fn cancel_endless(&self, client: Client) -> bool {
        let endless: Vec<String> = {
            let ledger = self.ledger.lock().unwrap();
            let submits = ledger.submits.values();
            let endless = submits.filter(|submit| matches!(submit.agent, "long" | "stubborn"));
            let jobs = endless.filter_map(|submit| submit.job_id.clone());
            jobs.filter(|job_id| !ledger.cancelled.contains(job_id)).collect()
        };
        endless.iter().all(|job_id| self.cancel(client, job_id))
    }
}

/// Makes the first event of another producer's job: key, payload, headers.
pub(crate) fn external_event(job: &str) -> (String, Vec<u8>, Value) {
    let (payload, headers) = parts(EventBuilder::job_submitted().job(job));
    (job.to_owned(), payload, headers)
}

/// Gives payload and headers of an event that happens now.
pub(crate) fn parts(event: EventBuilder) -> (Vec<u8>, Value) {
    let record = event.at(SystemClock.now()).record();
    let headers: Map<String, Value> = record
        .headers
        .iter()
        .map(|(name, value)| {
            let value = value.map_or(Value::Null, |value| String::from_utf8(value.to_vec()).unwrap().into());
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect();
    (record.payload.unwrap().to_vec(), Value::Object(headers))
}
