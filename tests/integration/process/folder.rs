//! The data folder taken away from under a running server.

use std::fs;
use std::time::{Duration, Instant};

use horizons::exit::Exit;
use serde_json::json;

use super::client::Client;
use super::server::{Server, World, wait_for, wait_some};

/// From the act to the end of the process; a promise of seconds, on a machine that others use too.
const END_LIMIT: Duration = Duration::from_secs(20);

fn run_job(client: Client) -> String {
    let job = client.post("/jobs", &json!({"agent": "quick", "dataset_id": "d"})).unwrap().job_id();
    wait_for("the job to complete", || {
        client.get(&format!("/jobs/{job}")).json()["job"]["status"] == "COMPLETED"
    });
    job
}

/// Takes the folder away, and sees new work refused and the process end.
fn ends_when(act: impl FnOnce(&World)) -> (World, String, Server) {
    let world = World::new();
    let mut server = world.serve();
    let job = run_job(server.client());

    act(&world);
    let acted_at = Instant::now();

    let refused = server.client().post("/jobs", &json!({"agent": "quick", "dataset_id": "d"})).unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.json()["type"].as_str().unwrap().ends_with("data-folder-gone"), "{refused:?}");
    let ready = wait_some("the process to be unready", || {
        let answer = server.client().send("GET", "/ready", &[], None).ok()?;
        (answer.status == 503).then(|| answer.json())
    });
    let probes = ready["probes"].as_array().unwrap();
    let probe = probes.iter().find(|probe| probe["name"] == "data_folder").unwrap();
    assert_eq!(probe["state"], "failed", "{ready}");
    let status = server.wait_for_exit();
    assert_eq!(status.code(), Some(i32::from(Exit::Gone.code())), "{}", server.said());
    assert!(acted_at.elapsed() < END_LIMIT, "{:?}", acted_at.elapsed());
    assert!(server.said().contains("the data folder is gone"), "{}", server.said());
    (world, job, server)
}

#[test]
fn folder_moved_away_ends_the_server_and_is_whole_when_it_is_put_back() {
    let (world, job, _ended) = ends_when(|world| {
        fs::rename(world.data(), world.folder().join("moved")).unwrap();
    });

    fs::rename(world.folder().join("moved"), world.data()).unwrap();
    let server = world.serve();

    let found = server.client().get(&format!("/jobs/{job}")).json();
    assert_eq!(found["job"]["status"], "COMPLETED", "{found}");
    assert_eq!(run_job(server.client()).len(), job.len());
    server.stop();
}

#[test]
fn folder_removed_ends_the_server() {
    ends_when(|world| fs::remove_dir_all(world.data()).unwrap());
}

#[test]
fn folder_replaced_by_another_ends_the_server() {
    ends_when(|world| {
        fs::rename(world.data(), world.folder().join("moved")).unwrap();
        fs::create_dir_all(world.data().join("attempts")).unwrap();
        for name in ["horizons.db", "horizons.db-wal", "lock"] {
            fs::copy(world.folder().join("moved").join(name), world.data().join(name)).unwrap();
        }
    });
}

#[test]
fn attempts_folder_removed_ends_the_server() {
    ends_when(|world| fs::remove_dir_all(world.data().join("attempts")).unwrap());
}
