//! An orderly end under load: in time, and the running agents go on without the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use horizons::exit::Exit;
use nix::sys::signal::Signal;

use super::client::Client;
use super::crash::settle_and_check;
use super::load::Load;
use super::random::Random;
use super::server::{World, pass, wait_for};

/// What lanes and requests may take, as configured, and the process's end.
const END_LIMIT: Duration = Duration::from_secs(5 + 3);

fn ended_under_load(signal: Signal) {
    let mut random = Random::seeded("shutdown");
    let world = World::with("[lanes]\ndrain_timeout_ms = 5000\n", "slots = 4\n");
    let load = Load::default();
    let mut server = world.serve();
    let client = server.client();
    load.submit_new(client, "long");
    let long = load.ledger.lock().unwrap().submits["key-000000"].job_id.clone().unwrap();
    let status = |client: Client| client.get(&format!("/jobs/{long}")).json()["job"]["status"].clone();
    wait_for("the agent to run", || status(client) == "RUNNING");
    let is_over = AtomicBool::new(false);

    let took = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // No cancels: the long agent must be there when all is over.
                while !is_over.load(Ordering::Relaxed) {
                    if !load.submit_new(client, "slow") {
                        return;
                    }
                }
            });
        }
        pass(Duration::from_millis(500));
        let asked_at = Instant::now();
        server.signal(signal);
        let ended = server.wait_for_exit();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(ended.code(), Some(i32::from(Exit::Done.code())), "{}", server.said());
        asked_at.elapsed()
    });

    println!("{signal}: ended after {took:?}");
    assert!(took < END_LIMIT, "{took:?}");
    let is_alive = |world: &World| world.processes().iter().any(|(_, command)| command.contains("sleep 600"));
    assert!(is_alive(&world), "{:?}", world.processes());
    let server = world.serve();
    assert_eq!(status(server.client()), "RUNNING");
    assert!(is_alive(&world), "{:?}", world.processes());
    settle_and_check(&world, &load, server, &mut random);
}

#[test]
fn server_interrupted_under_load_ends_in_time_and_the_next_one_goes_on() {
    ended_under_load(Signal::SIGINT);
}

#[test]
fn server_terminated_under_load_ends_in_time_and_the_next_one_goes_on() {
    ended_under_load(Signal::SIGTERM);
}
