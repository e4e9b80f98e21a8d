//! The harness's own promises about Kafka: it starts in time, is killed, frozen and restarted with its data, dies
//! with who started it, and its tools and the stock clients say what they should.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clients::{StockRecord, kafkajs_consume_secure, kcat, parse_kafkajs};
use super::kafka::{Kafka, KafkaOptions, is_running, script};
use super::proxy::{Cut, Direction, Faults};
use super::tools::{GroupLag, Tool, run};
use super::wait::wait_for;

/// A broker that takes longer has not started "within seconds"; a busy machine with two cores gets its time.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How long a client tries that must not succeed.
const GIVE_UP: &str = "3";

fn record(topic: &str, key: &str, value: &str) -> StockRecord {
    StockRecord {
        topic: topic.to_owned(),
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
        ..StockRecord::default()
    }
}

#[test]
fn broker_killed_and_restarted_has_its_port_and_its_data() {
    let started = Instant::now();
    let kafka = Kafka::start(1);
    let took = started.elapsed();
    println!("one broker accepts after {took:?}");
    let (bootstrap, pid) = (kafka.bootstrap().to_owned(), kafka.pid(1));
    kafka.create_topic("kept", 2);
    let sent = kafka.kafkajs_produce(&[record("kept", "a", "first")]);

    kafka.kill(1);
    let refused = std::net::TcpStream::connect(&bootstrap).unwrap_err().kind();
    kafka.restart(1);

    assert!(took < START_LIMIT, "{took:?}");
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    assert_ne!(kafka.pid(1), pid);
    let found = kafka.kcat_consume("kept");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].partition, found[0].offset), sent[0]);
    assert_eq!(found[0].value.as_deref(), Some("first"));
    let folder = kafka.folder().to_owned();
    let last = kafka.pid(1);
    drop(kafka);
    wait_for("the broker's end", || !is_running(last));
    wait_for("the folder to be gone", || !folder.exists());
}

#[test]
fn brokers_die_with_a_killed_starter() {
    let folder = tempfile::tempdir().unwrap();
    // The shell stands for a test process: it holds the pipe, and is killed.
    let program = r#"exec 9> >(exec "$0" start "$1" --remove); echo "$$"; exec sleep 600"#;
    let mut starter = Command::new("bash")
        .args(["-c", program])
        .arg(script("kafka"))
        .arg(folder.path().join("kafka"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(starter.stdout.take().unwrap()).lines().map(Result::unwrap);
    let broker = lines.find_map(|line| line.strip_prefix("KAFKA_PID_1=").map(str::to_owned)).unwrap();
    let broker = Pid::from_raw(broker.parse().unwrap());
    lines.find(|line| line == "KAFKA_READY=yes").unwrap();
    assert!(is_running(broker));

    kill(Pid::from_raw(starter.id().cast_signed()), Signal::SIGKILL).unwrap();
    starter.wait().unwrap();

    wait_for("the broker's end", || !is_running(broker));
    wait_for("its folder to be gone", || !folder.path().join("kafka").exists());
}

#[test]
fn three_brokers_elect_another_leader_and_take_the_killed_one_back() {
    let started = Instant::now();
    let kafka = Kafka::start(3);
    println!("three brokers accept after {:?}", started.elapsed());
    assert!(started.elapsed() < START_LIMIT, "{:?}", started.elapsed());
    kafka.create_topic("led", 1);
    let first = kafka.leader("led", 0);

    kafka.kill(first);
    wait_for("another leader", || {
        kafka.leaders("led").get(&0).is_some_and(|id| *id > 0 && usize::try_from(*id).unwrap() != first)
    });
    let sent = kafka.kafkajs_produce(&[record("led", "a", "while one is away")]);
    kafka.restart(first);
    let second = kafka.leader("led", 0);
    // In order: its leadership moves before it ends.
    kafka.terminate(second);

    assert_eq!(sent, [(0, 0)]);
    wait_for("a third leader", || {
        kafka.leaders("led").get(&0).is_some_and(|id| *id > 0 && usize::try_from(*id).unwrap() != second)
    });
    assert_eq!(kafka.kcat_consume("led").len(), 1);
    for n in (1..=kafka.broker_count()).filter(|n| *n != second) {
        kafka.kill(n);
    }
    kafka.restart_all();
    assert_eq!(kafka.kcat_consume("led").len(), 1, "records outlive the end of all brokers");
}

#[test]
fn broker_stopped_answers_nothing_until_continued() {
    let kafka = Kafka::start(1);
    kafka.create_topic("frozen", 1);
    let list = ["-b", kafka.bootstrap(), "-L", "-m", GIVE_UP];

    kafka.stop(1);
    let while_stopped = kcat(&list).output().unwrap();
    kafka.cont(1);

    assert!(!while_stopped.status.success());
    let printed = run(kcat(&list).arg("-q"), b"");
    assert!(printed.contains("frozen"), "{printed}");
}

#[test]
fn clients_of_a_proxied_broker_come_through_the_proxy_and_the_harness_past_it() {
    let kafka = Kafka::with(KafkaOptions { proxied: true, ..KafkaOptions::default() });
    kafka.create_topic("proxied", 1);
    assert_eq!(kafka.proxies().len(), 1);
    assert_eq!(kafka.proxy(1).accepted(), 0, "the harness goes past the proxy");
    let send = ["-b", kafka.bootstrap(), "-P", "-t", "proxied", "-K", ":"];
    run(&mut kcat(&send), b"key:value\n");
    assert!(kafka.proxy(1).bytes(Direction::Up) > 0);

    kafka.proxy(1).set(Faults { refuse: true, ..Faults::default() });
    kafka.proxy(1).cut(Cut::Reset);
    let cut_off = kcat(&["-b", kafka.bootstrap(), "-L", "-m", GIVE_UP]).output().unwrap();

    assert!(!cut_off.status.success());
    assert_eq!(kafka.kcat_consume("proxied").len(), 1, "the harness still reaches it");
}

#[test]
fn secure_listener_takes_the_right_password_and_no_other() {
    let kafka = Kafka::shared();
    let secure = kafka.secure().unwrap();
    kafka.create_topic("secure", 1);
    kafka.kafkajs_produce(&[record("secure", "a", "behind a password")]);
    // Not kcat: before 2.6.1 its library sends a nonce that Kafka 4 refuses, whatever the password.
    let consume =
        |password: &str, authority| kafkajs_consume_secure(&secure, password, authority, "secure", 1);
    let authority = Some(secure.authority.as_path());

    let found = parse_kafkajs(&run(&mut consume(&secure.password, authority), b""));
    let wrong = consume("wrong", authority).output().unwrap();
    let distrusted = consume(&secure.password, None).output().unwrap();

    assert_eq!(found[0].value.as_deref(), Some("behind a password"));
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && said.contains("SASL"), "{said}");
    let said = String::from_utf8_lossy(&distrusted.stderr);
    assert!(!distrusted.status.success() && said.contains("certificate"), "{said}");
}

#[test]
fn records_of_kafkajs_are_read_by_kcat_and_kafkajs_with_all_headers() {
    let kafka = Kafka::shared();
    kafka.create_topic("headers", 3);
    let pairs = [("ce_id", "1"), ("ce_id", "2"), ("empty", ""), ("größe", "50 µm"), ("quote", "a\"b\\c")];
    let headers = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let full = StockRecord { headers, ..record("headers", "job-1", "{\"a\": 1}") };
    let bare =
        StockRecord { topic: "headers".to_owned(), key: Some("tomb".to_owned()), ..StockRecord::default() };
    let mut wanted = [full, bare];

    let places = kafka.kafkajs_produce(&wanted);

    for (record, (partition, offset)) in wanted.iter_mut().zip(places) {
        (record.partition, record.offset) = (partition, offset);
    }
    let in_order = |mut records: Vec<StockRecord>| {
        records.sort_by(|one, other| one.key.cmp(&other.key));
        records
    };
    assert_eq!(in_order(kafka.kcat_consume("headers")), wanted);
    assert_eq!(in_order(kafka.kafkajs_consume("headers", 2)), wanted);
}

#[test]
fn tools_tell_progress_of_groups_and_cut_topics() {
    let kafka = Kafka::shared();
    kafka.create_topic_with("lagging", 1, &[("retention.ms", "3600000")]);
    let rate = kafka.producer_performance("lagging", 500, 100);
    let commit =
        ["--topic", "lagging:0", "--group", "slow", "--reset-offsets", "--to-offset", "200", "--execute"];
    kafka.tool(Tool::ConsumerGroups, &commit);

    let lag = kafka.group_lag("slow");
    kafka.delete_records("lagging", 0, 150);
    let described = kafka.tool(Tool::Topics, &["--describe", "--topic", "lagging"]);

    assert!(rate > 0.0, "{rate}");
    let (topic, committed, lag_records) = ("lagging".to_owned(), Some(200), Some(300));
    assert_eq!(lag, [GroupLag { topic, partition: 0, committed, end: 500, lag: lag_records }]);
    assert_eq!(kafka.offsets("lagging", 0), (150, 500));
    assert!(described.contains("retention.ms=3600000"), "{described}");
    assert_eq!(kafka.leader("lagging", 0), 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    let until = r#"{"version": 1, "partitions": [{"topic": "lagging", "partition": 0, "offset": 180}]}"#;
    std::fs::write(file.path(), until).unwrap();
    kafka.tool(Tool::DeleteRecords, &["--offset-json-file", file.path().to_str().unwrap()]);
    assert_eq!(kafka.offsets("lagging", 0), (180, 500));
    kafka.delete_topic("lagging");
    kafka.create_topic("lagging", 1);
    assert_eq!(kafka.offsets("lagging", 0), (0, 0), "a topic made again begins anew");
}

#[test]
fn measuring_tools_and_clients_give_figures() {
    let kafka = Kafka::shared();
    kafka.create_topic("measured", 1);

    let latency = kafka.end_to_end_latency("measured", 200, 100);
    let rate = kafka.kafkajs_bench("measured", 200);
    let consume = ["--topic", "measured", "--from-beginning", "--max-messages", "200"];
    let read = kafka.tool(Tool::ConsoleConsumer, &consume);

    assert!(latency.mean_ms > 0.0 && latency.p50_ms <= latency.p99_ms, "{latency:?}");
    assert!(latency.p99_ms <= latency.p999_ms, "{latency:?}");
    assert!(rate > 0.0, "{rate}");
    assert_eq!(read.lines().count(), 200);
    assert!(!kafka.cluster_id().is_empty());
}
