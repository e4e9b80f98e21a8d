//! What the tests of the production path share: a place of its own for each, a server under a steady load, and
//! the judgement at the end.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::checker::Seen;
use crate::process::client::Client;
use crate::process::crash::settle_and_check;
use crate::process::load::Load;
use crate::process::place::{Events, Place, Rows};
use crate::process::random::Random;
use crate::process::server::{Server, World, pass, wait_for};
use crate::services::kafka::Kafka;
use crate::services::postgres::{Cluster, shared};

/// Threads that make load.
const WORKERS: u64 = 4;

/// What each of them waits between two requests, at most: together some thirty requests a second.
const PAUSE_MAX_MS: u64 = 250;

/// The shortest session that Horizons lets be configured: what a dead process holds is free after it.
pub(super) const SESSION_MS: u64 = 6_000;

/// Records that are followed through Kafka: enough to meet most of the ten partitions.
const PROBES: usize = 20;

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// Gives a name that no other test of this or another run has: fit for topics, groups and schemas.
pub(super) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Gives topics of its own on a cluster.
pub(super) fn events_on(kafka: &Kafka) -> Events {
    Events::Kafka {
        bootstrap: kafka.bootstrap().to_owned(),
        direct: kafka.direct().to_owned(),
        prefix: format!("{}.", unique()),
        replication_factor: kafka.broker_count() as u16,
    }
}

/// Gives a schema of its own on a server.
pub(super) fn rows_on(cluster: &Cluster) -> Rows {
    let url = cluster.url();
    Rows::Postgres { direct: url.clone(), url, schema: unique() }
}

/// Gives a place on a cluster, with rows in a folder or on the server that tests share. Sessions are short.
pub(super) fn place_on(engine: Engine, kafka: &Kafka) -> Place {
    let rows = match engine {
        Engine::Sqlite => Rows::Sqlite,
        Engine::Postgres => rows_on(shared()),
    };
    Place { rows, events: events_on(kafka), variables: Vec::new() }
        .with("HORIZONS_KAFKA_SESSION_TIMEOUT_MS", SESSION_MS)
}

/// A server under load.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) load: Load,
    pub(super) random: Random,
    pub(super) server: Server,
}

impl Stage {
    /// Makes topics and starts a server.
    pub(super) fn at(who: &str, place: Place) -> Self {
        Self::with(who, place, "", "slots = 8\n")
    }

    /// The same with settings: whole sections, and keys of the scheduler.
    pub(super) fn with(who: &str, place: Place, sections: &str, scheduler: &str) -> Self {
        let random = Random::seeded(who);
        let world = World::at(place, sections, scheduler);
        world.create_topics();
        let server = world.serve();
        Self { world, load: Load::default(), random, server }
    }

    /// Stops the server in order and starts another; `fault` says where that one is to fail.
    pub(super) fn start_again(&mut self, fault: Option<&str>) {
        self.server.signal(Signal::SIGTERM);
        self.server.wait_for_exit();
        self.server = self.world.spawn(fault);
        self.server.wait_until_ready();
    }

    pub(super) fn client(&self) -> Client {
        self.server.client()
    }

    /// Keeps a steady load on the server while something else is done.
    pub(super) fn while_working<T>(&mut self, act: impl FnOnce(&On<'_>) -> T) -> T {
        let seeds = self.seeds();
        let on = On { server: &self.server, load: &self.load, client: self.server.client() };
        work_steadily(&self.load, on.client, &seeds, || act(&on))
    }

    /// Draws a seed for each thread that makes load.
    pub(super) fn seeds(&mut self) -> Vec<u64> {
        (0..WORKERS).map(|_| self.random.next()).collect()
    }

    /// Waits until everything is done, stops the server in order and has everything judged.
    pub(super) fn finish(self) -> Seen {
        let Self { world, load, mut random, server } = self;
        let started_at = Instant::now();
        let seen = settle_and_check(&world, &load, server, &mut random);
        println!("{seen:?}, settled and judged in {:?}", started_at.elapsed());
        assert!(seen.jobs > 0 && seen.records > seen.jobs, "{seen:?}");
        seen
    }
}

/// What a test may touch while there is load.
pub(super) struct On<'a> {
    pub(super) server: &'a Server,
    pub(super) load: &'a Load,
    pub(super) client: Client,
}

impl On<'_> {
    /// Waits until records that are appended now have come through Kafka into the store, on partitions all
    /// over. Gives how long that took.
    pub(super) fn wait_until_it_works(&self) -> Duration {
        wait_until_it_works(self.load, self.client)
    }

    /// Counts the submits that were answered with a job.
    pub(super) fn accepted(&self) -> usize {
        let ledger = self.load.ledger.lock().unwrap();
        ledger.submits.values().filter(|submit| submit.job_id.is_some()).count()
    }
}

/// Keeps a steady load on a server while something else is done.
pub(super) fn work_steadily<T>(load: &Load, client: Client, seeds: &[u64], act: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in seeds {
            let mut random = Random::of(*seed);
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) && load.step(client, &mut random) {
                    pass(Duration::from_millis(random.below(PAUSE_MAX_MS)));
                }
            });
        }
        // The load must end also where the act fails its test.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        is_over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

/// Waits until records that are appended now have come through Kafka into the store.
pub(super) fn wait_until_it_works(load: &Load, client: Client) -> Duration {
    let started_at = Instant::now();
    let probes: Vec<String> = (0..PROBES).map(|_| format!("probe-{}", unique())).collect();
    for probe in &probes {
        let is_there = || load.ledger.lock().unwrap().appended.iter().any(|record| record.key == *probe);
        wait_for("a record to be taken", || load.append_as(client, probe, false) && is_there());
    }
    for probe in probes {
        wait_for("a record to come through Kafka", || {
            let answer = client.send("GET", &format!("/jobs/{probe}"), &[], None);
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }
    started_at.elapsed()
}

/// Gives every lane that a server has, as it says: with its group.
pub(super) fn lanes(client: Client) -> Vec<Value> {
    let Ok(answer) = client.send("GET", "/actors", &[], None) else { return Vec::new() };
    let tree = answer.json();
    let groups = tree["groups"].as_array().cloned().unwrap_or_default();
    let lanes = groups.iter().flat_map(|group| {
        group["lanes"].as_array().cloned().unwrap_or_default().into_iter().map(|mut lane| {
            lane["group"] = group["group"].clone();
            lane
        })
    });
    lanes.collect()
}

/// Waits until a server has so many lanes and all of them work.
pub(super) fn wait_for_lanes(client: Client, wanted: usize) {
    wait_for("the lanes", || {
        let lanes = lanes(client);
        lanes.len() == wanted && lanes.iter().all(|lane| lane["state"] == "running")
    });
}

/// Reads how `/ready` answers, and the state of one of its probes.
pub(super) fn probe(client: Client, name: &str) -> (u16, String) {
    let Ok(answer) = client.send("GET", "/ready", &[], None) else { return (0, String::new()) };
    let probes = answer.json()["probes"].as_array().cloned().unwrap_or_default();
    let state = probes.iter().find(|probe| probe["name"] == name).map(|probe| probe["state"].clone());
    (answer.status, state.and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default())
}

/// Reads a metric: the sum over its series.
pub(super) fn metric(client: Client, name: &str) -> f64 {
    let text = client.get("/metrics").text;
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    });
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Gives the processor time that some threads of a process have used, by their names.
///
/// *Source*: `proc_pid_stat(5)`, fields 2, 14 and 15, in hundredths of a second.
pub(super) fn processor_time(pid: i32, is_meant: impl Fn(&str) -> bool) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ticks = tasks.filter_map(|task| {
        // A thread may end meanwhile.
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = tail.split(' ').collect();
        let used = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        is_meant(head.split_once('(')?.1).then_some(used)
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
