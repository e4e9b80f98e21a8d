//! Kills of the relay, inside this process and as a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons::db::sqlite::{SqliteConfig, SqliteStore};

use super::world::{
    Expected, append, check, create_topics, is_sent, metric, new_prefix, new_store, relay_config, start,
    start_with, wait_sent,
};
use crate::services::kafka::Kafka;
use crate::services::wait::{WAIT_LIMIT, wait_for};

/// Kills in one test.
const KILLS: u64 = 20;

/// Rows appended before each.
const ROWS_PER_KILL: u64 = 4_000;

/// Gives numbers that look random, the same in every run.
fn mixed(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

#[test]
fn relay_dropped_without_flush_many_times_loses_and_doubles_nothing() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    let mut skipped = 0.0;

    for kill in 0..KILLS {
        append(store.as_ref(), &mut expected, kill * ROWS_PER_KILL, (kill + 1) * ROWS_PER_KILL);
        let (relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
        let after = (mixed(kill) % ROWS_PER_KILL) as f64;
        wait_for("so many rows to be published", || {
            metric(&registry, "horizons_published_records_total")
                + metric(&registry, "horizons_publish_skipped_total")
                >= after
        });
        relay.abandon();
        skipped += metric(&registry, "horizons_publish_skipped_total");
    }
    let _relay = start(store.clone(), kafka.bootstrap(), &prefix);
    wait_sent(store.as_ref(), &expected);

    check(kafka.direct(), &prefix, &expected);
    assert!(skipped > 0.0, "no kill came between an acknowledgement and its stored cursor");
}

/// What the process under test is told.
const FOLDER: &str = "HORIZONS_RELAY_TEST_FOLDER";
const BOOTSTRAP: &str = "HORIZONS_RELAY_TEST_BOOTSTRAP";
const PREFIX: &str = "HORIZONS_RELAY_TEST_PREFIX";
const TURN: &str = "HORIZONS_RELAY_TEST_TURN";

/// Runs a relay until the process is killed; what is to be told goes to standard output. Does nothing unless
/// it is the process under test: [`relay_process_killed_many_times_loses_and_doubles_nothing`] starts it.
#[test]
fn relay_process_under_test() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (bootstrap, prefix) = (std::env::var(BOOTSTRAP).unwrap(), std::env::var(PREFIX).unwrap());
    let turn: u64 = std::env::var(TURN).unwrap().parse().unwrap();
    let store = Arc::new(SqliteStore::open(SqliteConfig::new(Path::new(&folder))).unwrap());
    let (_relay, registry) = start_with(store.clone(), relay_config(&bootstrap, &prefix));
    let mut ignored = Expected::new();
    append(store.as_ref(), &mut ignored, turn * ROWS_PER_KILL, (turn + 1) * ROWS_PER_KILL);
    println!("\nappended");
    let after = (mixed(turn + 77) % ROWS_PER_KILL) as f64;
    wait_for("so many rows to be published", || {
        metric(&registry, "horizons_published_records_total")
            + metric(&registry, "horizons_publish_skipped_total")
            >= after
    });
    println!("\nkill me");
    let end = Instant::now() + WAIT_LIMIT;
    while Instant::now() < end {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

#[test]
fn relay_process_killed_many_times_loses_and_doubles_nothing() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let folder = tempfile::tempdir().unwrap();

    for turn in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay::crash::relay_process_under_test", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(BOOTSTRAP, kafka.bootstrap())
            .env(PREFIX, &prefix)
            .env(TURN, turn.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_told = lines.map_while(Result::ok).any(|line| line == "kill me");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_told, "the process ended before it was killed");
    }
    let store = Arc::new(SqliteStore::open(SqliteConfig::new(folder.path())).unwrap());
    let mut expected = Expected::new();
    let rows = KILLS * ROWS_PER_KILL;
    let places = super::world::places();
    for number in 0..rows {
        let place = places[(number % places.len() as u64) as usize];
        expected.entry(place).or_default().push(super::world::event_id(number));
    }
    let _relay = start(store.clone(), kafka.bootstrap(), &prefix);
    wait_sent(store.as_ref(), &expected);

    assert!(is_sent(store.as_ref(), &expected));
    check(kafka.direct(), &prefix, &expected);
}
