//! A job that writes without end: the disk gets full, and everything that is needed to end that still works.
//!
//! The data folder is on a small file system in memory. Mounting needs the right to; without it a test fails and
//! says so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use super::client::Client;
use super::crash::settle_and_check;
use super::damage::SmallDisk;
use super::load::Load;
use super::place::Place;
use super::random::Random;
use super::server::{Server, World, wait_for, wait_some};

/// The size of the disk: a database of some megabytes, a ballast of four, and what the job fills.
const DISK_BYTES: u64 = 64 << 20;

/// Cleans up at once, because only that makes room; and a job that goes on writing whatever it is told.
const SECTIONS: &str = r#"
[jobs]
clean_after_ms = 0
[agents.flood]
program = "/bin/sh"
arguments = ["-c", "trap '' TERM; while :; do head -c 262144 /dev/zero; done 2>/dev/null"]
[agents.hoard]
program = "/bin/sh"
arguments = ["-c", "while :; do head -c 262144 /dev/zero >> hoard; done 2>/dev/null"]
"#;

/// Makes a world whose rows and events are at a place, with agents that fill its data folder.
pub(crate) fn world_at(place: Place) -> World {
    World::at(place, SECTIONS, "slots = 4\n")
}

fn world() -> World {
    world_at(Place::embedded())
}

fn mount(data: &Path) -> SmallDisk<'_> {
    SmallDisk::mount(data, DISK_BYTES).expect("mounting a file system in memory needs root")
}

fn disk_probe(client: Client) -> Value {
    let answer = client.get("/ready");
    let body = answer.json();
    let probes = body["probes"].as_array().unwrap();
    probes.iter().find(|probe| probe["name"] == "disk").cloned().unwrap_or(Value::Null)
}

fn is_ready(client: Client) -> bool {
    client.get("/ready").status == 200
}

fn submit(load: &Load, client: Client, agent: &'static str) -> String {
    assert!(load.submit(client, agent, agent));
    load.ledger.lock().unwrap().submits[agent].job_id.clone().unwrap()
}

fn status(client: Client, job: &str) -> String {
    client.get(&format!("/jobs/{job}")).json()["job"]["status"].as_str().unwrap().to_owned()
}

fn wait_until_full(server: &Server) {
    wait_for("the disk to be full", || server.said().contains("disk full: new work is refused"));
}

fn cancel(load: &Load, client: Client, job: &str) {
    assert!(load.cancel(client, job));
    assert!(load.ledger.lock().unwrap().cancelled.iter().any(|cancelled| cancelled == job));
}

fn ballast_bytes(data: &Path) -> u64 {
    fs::metadata(data.join("ballast")).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Fills the disk by a job, looks at what is told meanwhile, ends the job, and waits for everything to be well.
pub(crate) fn fill_and_end(world: &World, agent: &'static str) {
    let data = world.data();
    let _disk = mount(&data);
    let load = Load::default();
    let server = world.serve();
    let client = server.client();
    assert!(load.submit_new(client, "quick"));
    wait_for("the ballast", || ballast_bytes(&data) > 0);
    let ballast = ballast_bytes(&data);

    let job = submit(&load, client, agent);
    wait_until_full(&server);

    // What was looked at just now is not looked at again at once.
    wait_for("ready to tell", || disk_probe(client).to_string().contains("disk full"));
    assert!(!is_ready(client));
    wait_for("the metric to tell", || client.get("/metrics").text.contains("horizons_disk_full 1"));
    let refused = client.submit("late", "quick", "data-1").unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.json()["type"].as_str().unwrap().ends_with("disk-full"), "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("disk full"), "{refused:?}");
    wait_for("what the job takes to be told", || {
        let space = client.get(&format!("/jobs/{job}")).json()["job"]["space"].clone();
        let bytes = |part: &str| space[part].as_u64().unwrap_or(0);
        bytes("output_bytes") + bytes("work_bytes") > DISK_BYTES / 2
    });

    cancel(&load, client, &job);

    wait_for("the job's end", || status(client, &job) == "CANCELLED");
    wait_for("room", || is_ready(client));
    wait_for("the ballast to be whole again", || ballast_bytes(&data) == ballast);
    assert!(load.submit_new(client, "quick"));
    settle_and_check(world, &load, server, &mut Random::of(1));
}

#[test]
fn disk_filled_by_output_of_a_job_lets_it_be_cancelled_and_recovers_by_itself() {
    fill_and_end(&world(), "flood");
}

#[test]
fn disk_filled_by_a_work_folder_lets_the_job_be_cancelled_and_recovers_by_itself() {
    fill_and_end(&world(), "hoard");
}

#[test]
fn disk_filled_by_a_job_lets_a_killed_server_start_cancel_and_clean_up() {
    let world = world();
    let data = world.data();
    let _disk = mount(&data);
    let load = Load::default();
    let server = world.serve();
    assert!(load.submit_new(server.client(), "quick"));
    let job = submit(&load, server.client(), "flood");
    wait_until_full(&server);
    server.kill();
    // What the ballast had left is gone too, as after a disk that others filled.
    fill(&data);

    let server = world.spawn_and_wait_until_it_listens();
    let client = server.client();
    wait_for("the disk to be found full", || server.said().contains("disk full: new work is refused"));
    cancel(&load, client, &job);

    wait_for("the job's end", || status(client, &job) == "CANCELLED");
    fs::remove_file(data.join("filler")).unwrap();
    wait_for("room", || is_ready(client));
    assert!(load.submit_new(client, "quick"));
    settle_and_check(&world, &load, server, &mut Random::of(1));
}

/// Takes all the room that is left.
fn fill(data: &Path) {
    let mut file = fs::File::create(data.join("filler")).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
}

#[test]
fn disk_filled_by_somebody_else_makes_agents_hold_still_and_go_on() {
    let world = world();
    let data = world.data();
    let _disk = mount(&data);
    let load = Load::default();
    let server = world.serve();
    let client = server.client();
    wait_for("the ballast", || ballast_bytes(&data) > 0);
    let ballast = ballast_bytes(&data);
    let long = submit(&load, client, "long");
    let agent = wait_some("the agent's start", || {
        let mine = world.processes().into_iter().find(|(_, command)| command.contains("sleep 600"));
        (status(client, &long) == "RUNNING").then_some(mine?.0)
    });

    fill(&data);
    wait_for("the ballast to be given up", || ballast_bytes(&data) < ballast);
    wait_for("the agent to hold still", || state_of(agent) == Some('T'));
    fs::remove_file(data.join("filler")).unwrap();

    wait_for("the agent to go on", || state_of(agent) == Some('S'));
    wait_for("room", || is_ready(client));
    wait_for("the ballast to be whole again", || ballast_bytes(&data) == ballast);
    cancel(&load, client, &long);
    wait_for("the job's end", || status(client, &long) == "CANCELLED");
    settle_and_check(&world, &load, server, &mut Random::of(1));
}

fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
