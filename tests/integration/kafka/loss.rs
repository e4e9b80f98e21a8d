//! Brokers that go away and come back; what an idle reader costs; how late records are; topics and TLS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons::kafka::cluster_id;
use horizons::kafka::config::{KafkaConfig, SaslConfig, ScramHash, SecurityConfig, TlsConfig};
use horizons::kafka::error::KafkaLogError;
use horizons::kafka::topics::{Created, Difference, plan};
use horizons::secret::Secret;
use horizons_actors::ids::Topic;

use super::world::{Manner, Member, PLENTY, Store, World, ask, lifecycle};
use crate::services::kafka::Kafka;
use crate::services::wait::wait_for;

#[test]
fn broker_killed_and_back_shows_and_recovers_by_itself() {
    let kafka = Kafka::start(1);
    let world = World::on(&kafka);
    let store = Arc::new(Store::default());
    let member = Member::join(&world.log(), &store, Manner::Prompt);
    member.wait_assigned(10);
    world.produce(lifecycle(0), "r", 100);
    member.wait_applied(100);

    kafka.kill(1);
    wait_for("the loss to show", || member.told().health.last().is_some_and(Result::is_err));
    let away = ask(member.reader.log_end(lifecycle(0)));
    kafka.restart(1);
    wait_for("the recovery to show", || member.told().health.last().is_some_and(Result::is_ok));
    world.produce(lifecycle(0), "r", 100);
    member.wait_applied(200);

    assert!(away.unwrap_err().is_transient());
    assert_eq!(store.of(lifecycle(0)).offsets, (0..200).collect::<Vec<u64>>());
    assert_eq!(member.told().broken, vec![], "a broker that comes back is no gap");
}

#[test]
fn close_without_a_broker_ends_in_time() {
    let kafka = Kafka::start(1);
    let world = World::on(&kafka);
    let store = Arc::new(Store::default());
    let member = Member::join(&world.log(), &store, Manner::Prompt);
    member.wait_assigned(10);
    kafka.kill(1);

    let started = Instant::now();
    let _closed_or_given_up = member.close();
    let took = started.elapsed();

    println!("closed without a broker after {took:?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
}

#[test]
fn cluster_id_unreachable_cluster_is_named_in_time() {
    let config = KafkaConfig::new("127.0.0.1:1");
    let started = Instant::now();

    let error = cluster_id(&config, Duration::from_secs(1)).unwrap_err();

    assert!(matches!(error, KafkaLogError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn tls_and_scram_are_spoken() {
    let kafka = Kafka::shared();
    let secure = kafka.secure().unwrap();
    let with_password = |password: &str| {
        let tls = Some(TlsConfig { ca_file: Some(secure.authority.clone()), ..TlsConfig::default() });
        let (user, password) = (secure.user.clone(), Secret::new(password));
        let sasl = Some(SaslConfig { hash: ScramHash::Sha512, user, password });
        KafkaConfig { security: SecurityConfig { tls, sasl }, ..KafkaConfig::new(&secure.bootstrap) }
    };
    let limit = Duration::from_secs(20);

    let id = cluster_id(&with_password(&secure.password), limit).unwrap();
    let refused = cluster_id(&with_password("wrong"), Duration::from_secs(2));
    let mut world = World::shared();
    let secured = with_password(&secure.password);
    world.config = KafkaConfig { bootstrap: secured.bootstrap, security: secured.security, ..world.config };
    let store = Arc::new(Store::default());
    let member = Member::join(&world.log(), &store, Manner::Prompt);
    world.produce(lifecycle(0), "r", 10);
    member.wait_applied(10);

    assert_eq!(id.as_str(), kafka.cluster_id());
    assert!(refused.is_err());
}

#[test]
fn topics_are_created_checked_and_described() {
    let world = World::shared();
    let planned = plan(&world.config.topic_prefix, 1);
    let admin = world.admin();

    let missing = admin.check(&planned).unwrap();
    let created = admin.create(&planned).unwrap();
    wait_for("the topics to be seen", || admin.check(&planned).unwrap().is_empty());
    let mut other = planned.clone();
    other[0].settings.insert("retention.ms", "1".to_owned());
    let differences = admin.check(&other).unwrap();

    assert_eq!(missing.iter().filter(|one| matches!(one, Difference::Missing { .. })).count(), 9);
    assert_eq!(created.iter().filter(|(_, one)| *one == Created::Existed).count(), 1);
    assert_eq!(differences.len(), 1);
    assert!(differences[0].to_string().contains("retention.ms"), "{}", differences[0]);
}

/// Processor time of this process's threads with these names, in clock ticks (1/100 s).
fn reader_ticks() -> u64 {
    let names = ["reader-", "kafka-inspector", "rdk:"];
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        // A thread may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (head, tail) = stat.rsplit_once(") ").unwrap();
        if names.iter().any(|name| head.contains(name)) {
            let fields: Vec<u64> = tail.split(' ').skip(11).take(2).map(|one| one.parse().unwrap()).collect();
            ticks += fields[0] + fields[1];
        }
    }
    ticks
}

#[test]
#[ignore = "measures this process, so it wants to be alone: run it by name"]
fn idle_readers_cost_little_and_records_come_at_once() {
    let world = World::shared();
    Topic::ALL
        .into_iter()
        .filter(|topic| *topic != Topic::JobLifecycle)
        .for_each(|topic| world.create(topic));
    let stores: Vec<_> = (0..3).map(|_| Arc::new(Store::default())).collect();
    let members: Vec<Member> = stores
        .iter()
        .enumerate()
        .map(|(number, store)| {
            let mut world_config = world.config.clone();
            world_config.group_prefix = format!("{}{number}", world_config.group_prefix);
            let log = horizons::kafka::KafkaLog::new(
                horizons_actors::ids::LogId::parse("test").unwrap(),
                world_config,
            )
            .unwrap();
            Member::join_with(&log, store, Manner::Prompt, PLENTY, Topic::ALL.to_vec())
        })
        .collect();
    members.iter().for_each(|member| member.wait_assigned(33));
    let quiet = Instant::now();
    wait_for("a quiet moment", || quiet.elapsed() > Duration::from_secs(3));

    let (before, started) = (reader_ticks(), Instant::now());
    wait_for("ten idle seconds", || started.elapsed() > Duration::from_secs(10));
    let idle_share = (reader_ticks() - before) as f64 / 100.0 / started.elapsed().as_secs_f64();

    let records = 5_000;
    let partitions: Vec<_> = (0..10).map(lifecycle).collect();
    world.produce_stamped(&partitions, records, Duration::from_millis(1));
    members.iter().for_each(|member| member.wait_applied(records));
    let busy_batches = members[0].told().batches;
    let mut delays: Vec<Duration> = members.iter().flat_map(|member| member.told().delays.clone()).collect();
    delays.sort_unstable();
    let at = |share: f64| delays[(delays.len() as f64 * share) as usize];
    println!(
        "idle: {:.2} % of a core; at 1000/s, from send to sink: median {:?}, p99 {:?}, max {:?}; {busy_batches} batches",
        idle_share * 100.0,
        at(0.5),
        at(0.99),
        delays[delays.len() - 1],
    );

    assert!(idle_share < 0.03, "{idle_share}");
    assert!(at(0.5) < Duration::from_millis(20), "{:?}", at(0.5));
}
