//! What agents wrote, as a person reads it through the command line.

use std::io::Read;
use std::process::{Output, Stdio};

use horizons::exit::Exit;

use super::server::{Server, World, wait_for};

/// Agents that write; `loud` waits until somebody removes its file.
fn world() -> World {
    let script = |text: &str| serde_json::to_string(&["-c", text]).unwrap();
    let loud = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done; echo trouble >&2";
    let odd = "printf 'a\\377\\033[2J\\n'";
    let agents = format!(
        "[agents.loud]\nprogram = \"/bin/sh\"\narguments = {}\n[agents.odd]\nprogram = \"/bin/sh\"\narguments = {}\n",
        script(loud),
        script(odd)
    );
    World::with(&agents, "slots = 4\n")
}

fn submit(world: &World, server: &Server, agent: &str) -> String {
    let output = world.cli(server, &["jobs", "submit", agent, "data-1", "--json"]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    line["job_id"].as_str().unwrap().to_owned()
}

fn text(output: &Output, exit: Exit) -> &str {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit.code())), "{said}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn logs_follow_a_running_attempt_to_its_end() {
    let world = world();
    let server = world.serve();
    let job = submit(&world, &server, "loud");
    wait_for("the agent's first line", || world.cli(&server, &["jobs", "logs", &job]).stdout == b"begun\n");
    let mut follower = world
        .command(&["jobs", "logs", &job, "--follow"])
        .env("HORIZONS_URL", format!("http://{}", server.client().0))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = [0; 6];
    follower.stdout.as_mut().unwrap().read_exact(&mut followed).unwrap();

    let work = std::fs::read_dir(world.data().join("attempts")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(work.join("work/go"), "").unwrap();

    let mut rest = String::new();
    follower.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((&followed, rest.as_str()), (b"begun\n", "done\n"));
    assert!(follower.wait().unwrap().success());
    assert_eq!(text(&world.cli(&server, &["jobs", "logs", &job, "--stderr"]), Exit::Done), "trouble\n");
    assert_eq!(
        text(&world.cli(&server, &["jobs", "logs", &job, "--json"]), Exit::Done),
        "{\"content_base64\":\"YmVndW4KZG9uZQo=\",\"stream\":\"stdout\"}\n"
    );
    server.stop();
}

#[test]
fn logs_are_the_bytes_that_were_written() {
    let world = world();
    let server = world.serve();
    let job = submit(&world, &server, "odd");

    wait_for("the agent's line", || world.cli(&server, &["jobs", "logs", &job]).stdout == b"a\xff\x1b[2J\n");
    server.stop();
}

#[test]
fn logs_of_no_attempt_or_no_job_say_so() {
    let world = world();
    let server = world.serve();
    let job = submit(&world, &server, "odd");

    let later = world.cli(&server, &["jobs", "logs", &job, "--attempt", "7"]);
    let beginning: String = job.chars().take(12).collect();
    let shortened = world.cli(&server, &["jobs", "logs", &beginning, "--attempt", "7"]);
    let nobody = world.cli(&server, &["jobs", "logs", "no-such-job"]);

    for output in [&later, &shortened] {
        text(output, Exit::Refused);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("output of attempt `{job}#7` does not exist")), "{said}");
    }
    text(&nobody, Exit::Refused);
    server.stop();
}
