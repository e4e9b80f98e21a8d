//! A reader of the log that stops reading: the server works on, ends when it is told to, and is ended when it is stuck.

use std::io::Read;
use std::process::{ChildStderr, Command};
use std::time::{Duration, Instant};

use horizons::exit::Exit;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use serde_json::json;

use super::client::Client;
use super::server::{Server, World, wait_for};

/// The smallest pipe: full after a few lines.
const PIPE_BYTES: i32 = 4096;

/// An orderly end takes a second longer when nobody takes the last lines.
const END_LIMIT: Duration = Duration::from_secs(5 + 3);

/// Starts a server that logs all it can into a pipe that nobody reads.
fn serve_unread(world: &World, fault: Option<&str>) -> (Server, ChildStderr) {
    let prepare = |command: &mut Command| {
        command.env("HORIZONS_LOG_LEVEL", "trace");
        if let Some(fault) = fault {
            command.env("HORIZONS_FAIL_AT", fault);
        }
    };
    let (mut server, pipe) = world.spawn_into_pipe(prepare);
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).unwrap();
    server.wait_until_ready();
    (server, pipe)
}

fn dropped(client: Client) -> f64 {
    let text = client.get("/metrics").text;
    let line = text.lines().find(|line| line.starts_with("horizons_log_lines_dropped_total")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Asks until lines are dropped: then the pipe and the queue behind it are full.
fn fill(client: Client) {
    wait_for("lines of the log to be dropped", || {
        for _ in 0..100 {
            assert_eq!(client.get("/live").status, 200);
        }
        dropped(client) > 0.0
    });
}

#[test]
fn server_with_a_stalled_log_reader_answers_and_ends_in_order() {
    let world = World::with("[lanes]\ndrain_timeout_ms = 5000\n", "slots = 4\n");
    let (mut server, _pipe) = serve_unread(&world, None);
    let client = server.client();
    fill(client);

    let answer = client.post("/jobs", &json!({"agent": "quick", "dataset_id": "d"})).unwrap();
    let job = answer.job_id();
    wait_for("the job to complete", || {
        client.get(&format!("/jobs/{job}")).json()["job"]["status"] == "COMPLETED"
    });
    assert_eq!(client.get("/ready").status, 200);
    let asked_at = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_for_exit();

    assert_eq!(status.code(), Some(i32::from(Exit::Done.code())));
    assert!(asked_at.elapsed() < END_LIMIT, "{:?}", asked_at.elapsed());
}

#[test]
fn server_whose_log_is_read_again_tells_what_was_dropped_and_its_last_lines() {
    let world = World::new();
    let (mut server, mut pipe) = serve_unread(&world, None);
    fill(server.client());
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    // What was queued is read before what is said from now on.
    wait_for("no more lines to be dropped", || {
        let before = dropped(server.client());
        (0..100).for_each(|_| assert_eq!(server.client().get("/live").status, 200));
        dropped(server.client()) <= before
    });

    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(i32::from(Exit::Done.code())));

    let text = reading.join().unwrap().unwrap();
    assert!(text.contains("lines of the log were dropped"), "{text}");
    assert!(text.contains("HTTP has stopped"), "{text}");
}

#[test]
fn server_that_cannot_start_says_why_though_it_logs_through_a_queue() {
    let world = World::new();
    let _first = world.serve();

    let (code, said) = world.serve_in_vain();

    assert_eq!(code, Some(i32::from(Exit::Occupied.code())), "{said}");
    assert!(said.contains("error: failed to lock data folder"), "{said}");
}

#[cfg(feature = "fail-points")]
#[test]
fn server_stuck_with_a_stalled_log_reader_is_ended_by_the_watchdog() {
    let world = World::with("[lanes]\nstuck_after_ms = 1000\n", "slots = 4\n");
    let (mut server, _pipe) = serve_unread(&world, Some("behaviour-event/jobs~stuck-job=hang"));
    let client = server.client();
    fill(client);

    let (key, payload, headers) = super::load::external_event("stuck-job");
    client.append("job-lifecycle", Some(key.as_bytes()), &payload, headers).unwrap();

    assert_eq!(server.wait_for_exit().code(), Some(i32::from(Exit::Stuck.code())));
}

#[cfg(feature = "fail-points")]
#[test]
fn server_that_cannot_end_in_order_ends_at_the_second_signal() {
    let world = World::with("[lanes]\ndrain_timeout_ms = 600000\n", "slots = 4\n");
    let (mut server, _pipe) = serve_unread(&world, Some("behaviour-event/jobs~stuck-job=hang"));
    let client = server.client();
    fill(client);
    let (key, payload, headers) = super::load::external_event("stuck-job");
    client.append("job-lifecycle", Some(key.as_bytes()), &payload, headers).unwrap();

    server.signal(Signal::SIGTERM);
    wait_for("intake to stop", || client.send("GET", "/live", &[], None).is_err());
    server.signal(Signal::SIGTERM);

    assert_eq!(server.wait_for_exit().code(), Some(i32::from(Exit::Interrupted.code())));
}
