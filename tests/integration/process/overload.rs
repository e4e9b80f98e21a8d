//! More than a slow store can take: sent away in time, within a budget of memory, and nothing accepted is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::crash::settle_and_check;
use super::load::Load;
use super::random::Random;
use super::server::{Server, World, pass};

/// What a commit waits: a hundred times what it takes on a slow disk.
const COMMIT_DELAY_MS: u64 = 400;

/// Clients at the same time.
const CLIENTS: usize = 64;

/// How long they keep on.
const FLOOD: Duration = Duration::from_secs(5);

/// What the flood may take above an idle server, in KiB: the configured credit, a mebibyte of body for each
/// client, and as much again for what holds them.
const GROWTH_MAX_KIB: u64 = (8 + CLIENTS as u64) * 2 * 1024;

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn overload_of_a_slow_store_is_sent_away_and_loses_nothing() {
    let sections = "[http]\nlisten = \"127.0.0.1:0\"\nsubmit_wait_ms = 100\n\
        [store]\nfolder = \"data\"\ncommand_queue = 16\n\
        [lanes]\ncredit_total_bytes = 8388608\n";
    let world = World::with(sections, "slots = 4\n");
    let load = Load::default();
    let mut random = Random::seeded("overload");
    let mut server = world.spawn(Some(&format!("store-before-commit=delay:{COMMIT_DELAY_MS}")));
    server.wait_until_ready();
    let client = server.client();
    let idle = resident_kib(&server);
    let is_over = AtomicBool::new(false);
    let most = AtomicU64::new(idle);
    let retry_after = AtomicU64::new(0);

    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(load.submit_new(client, "quick"), "the server is gone");
                }
            });
        }
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                most.fetch_max(resident_kib(&server), Ordering::Relaxed);
                let answer = client.submit("probe", "quick", "data-1").unwrap();
                if answer.status == 503 {
                    let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
                    retry_after.fetch_max(seconds, Ordering::Relaxed);
                }
                pass(Duration::from_millis(20));
            }
        });
        pass(FLOOD);
        is_over.store(true, Ordering::Relaxed);
    });
    let (sent_away, accepted) = {
        let mut ledger = load.ledger.lock().unwrap();
        let accepted = ledger.submits.values().filter(|submit| submit.job_id.is_some()).count();
        let sent_away = ledger.sent_away;
        // The rest was never promised: only what was accepted must be there.
        ledger.submits.retain(|_, submit| submit.job_id.is_some());
        (sent_away, accepted)
    };
    server.kill();
    let mut server = world.spawn(None);
    server.wait_until_ready();
    load.submit(server.client(), "probe", "quick");
    let seen = settle_and_check(&world, &load, server, &mut random);

    let growth = most.load(Ordering::Relaxed) - idle;
    println!("accepted {accepted}, sent away {sent_away}, grew by {growth} KiB over {idle} KiB, {seen:?}");
    assert!(accepted > 0 && sent_away > 0);
    assert!(retry_after.load(Ordering::Relaxed) > 0, "no 503 named a Retry-After");
    assert!(growth <= GROWTH_MAX_KIB, "grew by {growth} KiB");
}
