//! A program without root's rights.
//!
//! Becoming somebody else needs root; without it these tests fail and say so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::unistd::geteuid;

use super::client::Client;
use super::server::{World, wait_for};

/// Debian's user without rights.
const NOBODY: &str = "nobody";

fn is_clean(world: &World) -> bool {
    fs::read_dir(world.data().join("attempts")).unwrap().count() == 0
}

fn submit(client: Client, agent: &str) -> String {
    let answer = client.submit(agent, agent, "data-1").unwrap();
    assert!((200..=202).contains(&answer.status), "{answer:?}");
    answer.job_id()
}

fn status(client: Client, job: &str) -> String {
    client.get(&format!("/jobs/{job}")).json()["job"]["status"].as_str().unwrap().to_owned()
}

fn wait_until_completed(client: Client, job: &str) {
    wait_for("the job's end", || !["SUBMITTED", "QUEUED", "RUNNING"].contains(&status(client, job).as_str()));
    let job = client.get(&format!("/jobs/{job}")).json();
    assert_eq!(job["job"]["status"], "COMPLETED", "{job}");
}

#[test]
fn work_folder_with_closed_folders_is_removed_by_a_server_without_rights() {
    assert!(geteuid().is_root(), "becoming somebody else needs root");
    let kept = tempfile::tempdir().unwrap();
    let outside = kept.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(kept.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&outside, Permissions::from_mode(0o777)).unwrap();
    fs::write(outside.join("file"), "kept").unwrap();
    let sections = format!(
        r#"
[jobs]
clean_after_ms = 0
[agents.closed]
program = "/bin/sh"
arguments = ["-c", "mkdir -p a/b/c locked/in; echo x > a/b/file; ln -s {} a/link; ln -s .. locked/in/up; chmod 555 a/b a; chmod 0 locked"]
"#,
        outside.display()
    );
    let world = World::with(&sections, "slots = 1\n");
    let mut server = world.spawn_as(NOBODY);
    server.wait_until_ready();

    let job = submit(server.client(), "closed");
    wait_until_completed(server.client(), &job);

    wait_for("the work folder to go", || is_clean(&world));
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    server.stop();
}
