//! Faults of brokers, three of them: the leader of the busiest partition killed, all away, one frozen.

use std::time::{Duration, Instant};

use super::stage::{Engine, Stage, place_on, probe, processor_time};
use crate::process::look::Look;
use crate::process::server::{pass, wait_for};
use crate::services::kafka::{Kafka, KafkaOptions};

/// How long a killed broker stays away.
const AWAY: Duration = Duration::from_secs(2);

/// How long a frozen broker stays frozen: longer than the cluster waits for it.
const FROZEN: Duration = Duration::from_secs(6);

/// What all that talks to brokers may use of one processor while they are away, in percent, above what it takes
/// while they are there: it must not spin. The rest of the process has the load to carry, which grows meanwhile.
const SPIN_MAX_PERCENT: u128 = 20;

/// How long the load is measured before.
const BEFORE: Duration = Duration::from_secs(3);

/// Tells whether a thread talks to brokers: the client library's own, and ours that work with it.
fn talks_to_brokers(name: &str) -> bool {
    ["rdk:", "reader-", "kafka-", "relay"].iter().any(|known| name.starts_with(known))
}

/// Lets time pass, and gives what all that talks to brokers uses of one processor meanwhile, in percent.
fn percent_during(time: Duration, pid: i32) -> u128 {
    let (began_at, used) = (Instant::now(), processor_time(pid, talks_to_brokers));
    pass(time);
    let spent = processor_time(pid, talks_to_brokers).saturating_sub(used);
    spent.as_micros() * 100 / began_at.elapsed().as_micros()
}

fn three() -> Kafka {
    Kafka::with(KafkaOptions { three: true, ..KafkaOptions::default() })
}

/// Finds the broker that leads the partition with the most records.
fn leader_of_busiest(kafka: &Kafka, stage: &Stage) -> usize {
    let look = Look::of(&stage.world);
    let topics = look.topics().expect("the events are in Kafka");
    let ends = topics.ends(false).expect("the brokers answer");
    let ((topic, partition), _) = ends.into_iter().max_by_key(|(_, (_, end))| *end).unwrap();
    kafka.leader(&topics.name(topic), partition as i32)
}

#[test]
fn leader_of_the_busiest_partition_killed_loses_and_doubles_nothing() {
    let rounds = crate::process::count("HORIZONS_TEST_BROKER_KILLS", 2);
    let kafka = three();
    let mut stage = Stage::at("leader killed", place_on(Engine::Postgres, &kafka));
    stage.while_working(|on| on.wait_until_it_works());

    for _ in 0..rounds {
        let leader = leader_of_busiest(&kafka, &stage);
        let (without, with) = stage.while_working(|on| {
            kafka.kill(leader);
            let without = on.wait_until_it_works();
            pass(AWAY);
            kafka.restart(leader);
            (without, on.wait_until_it_works())
        });
        println!("broker {leader} killed: all partitions work after {without:?}; back again: {with:?}");
    }
    stage.finish();
}

#[test]
fn brokers_all_away_submits_go_on_and_nothing_is_lost() {
    let away = Duration::from_secs(crate::process::count("HORIZONS_TEST_BROKERS_AWAY_S", 10));
    let kafka = three();
    let mut stage = Stage::at("brokers away", place_on(Engine::Postgres, &kafka));
    stage.while_working(|on| on.wait_until_it_works());

    let (accepted, before, percent, recovery) = stage.while_working(|on| {
        let before = percent_during(BEFORE, on.server.pid());
        (1..=kafka.broker_count()).for_each(|n| kafka.kill(n));
        let accepted = on.accepted();
        let percent = percent_during(away, on.server.pid());
        for name in ["event_log", "relay"] {
            let seen = || probe(on.client, name);
            wait_for("the outage to be told", || seen() == (200, "degraded".to_owned()));
        }
        let accepted = on.accepted() - accepted;
        kafka.restart_all();
        let recovery = on.wait_until_it_works();
        for name in ["event_log", "relay"] {
            wait_for("the end of the outage to be told", || probe(on.client, name) == (200, "ok".to_owned()));
        }
        (accepted, before, percent, recovery)
    });
    println!(
        "all brokers away for {away:?}: {accepted} submits accepted, {percent} % of a processor for what talks to them \
         ({before} % before); \
         works {recovery:?} after they accept again"
    );
    stage.finish();

    assert!(accepted as u64 >= away.as_secs(), "{accepted} submits in {away:?}");
    assert!(before > 0, "no thread talks to brokers");
    assert!(percent < before + SPIN_MAX_PERCENT, "{percent} % of a processor, {before} % before");
}

#[test]
fn broker_frozen_for_longer_than_its_session_loses_and_doubles_nothing() {
    let kafka = three();
    let mut stage = Stage::at("broker frozen", place_on(Engine::Postgres, &kafka));
    stage.while_working(|on| on.wait_until_it_works());
    let leader = leader_of_busiest(&kafka, &stage);

    let (frozen, thawed) = stage.while_working(|on| {
        kafka.stop(leader);
        let frozen = on.wait_until_it_works();
        pass(FROZEN.saturating_sub(frozen));
        kafka.cont(leader);
        (frozen, on.wait_until_it_works())
    });

    println!("broker {leader} frozen: all partitions work after {frozen:?}; thawed: {thawed:?}");
    stage.finish();
}
