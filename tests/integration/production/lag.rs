//! Lag as Horizons tells it beside what Kafka's own tool says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::members::{LANES, second_of, shared_place};
use super::outside::Outside;
use super::stage::{Engine, Stage, place_on, wait_for_lanes, wait_until_it_works};
use crate::process::checker::GROUPS;
use crate::process::client::Client;
use crate::process::crash::settle;
use crate::process::place::{Events, Rows};
use crate::process::server::{pass, wait_for};
use crate::services::kafka::Kafka;
use crate::services::postgres::Cluster;
use crate::services::proxy::{FaultProxy, Faults, Swallow};

/// Records that wait while the database does not answer.
const WAITING: usize = 50;

/// How long the program waits for an answer of the database: longer than the test looks.
const ANSWER_LIMIT_MS: u64 = 60_000;

/// Commits are advisory and come a little later; Kafka's tool takes seconds to start.
const AGREE_LIMIT: Duration = Duration::from_secs(60);

/// Lag by group, topic and partition.
type Lags = BTreeMap<(String, String, u64), u64>;

/// Reads the lag of every series of the metric.
fn told(client: Client) -> Lags {
    let text = client.get("/metrics").text;
    let series = text.lines().filter_map(|line| line.strip_prefix("horizons_lag_records{"));
    let label = |labels: &str, name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    series
        .map(|line| {
            let (labels, value) = line.rsplit_once(' ').unwrap();
            let partition = label(labels, "partition").parse().unwrap();
            let at = (label(labels, "group"), label(labels, "topic"), partition);
            (at, value.parse::<f64>().unwrap() as u64)
        })
        .collect()
}

/// Asks Kafka's own tool for the lag of all groups of a place; partitions without a commit are left out.
fn described(events: &Events) -> Lags {
    let Events::Kafka { prefix, .. } = events else { panic!("the events are not in Kafka") };
    let groups = GROUPS.map(|(group, _)| group).into_iter();
    let rows = groups.flat_map(|group| {
        let rows = Kafka::shared().group_lag(&format!("{prefix}{group}"));
        rows.into_iter().map(move |row| (group, row))
    });
    rows.filter_map(|(group, row)| {
        let topic = row.topic.strip_prefix(prefix.as_str())?;
        Some(((group.to_owned(), topic.to_owned(), row.partition as u64), row.lag? as u64))
    })
    .collect()
}

/// Waits until both say the same of every partition that Kafka's tool knows of.
fn wait_until_they_agree(client: Client, events: &Events) -> Lags {
    let give_up_at = Instant::now() + AGREE_LIMIT;
    loop {
        let of_kafka = described(events);
        let ours: Lags = told(client).into_iter().filter(|(at, _)| of_kafka.contains_key(at)).collect();
        if of_kafka == ours && !ours.is_empty() {
            return ours;
        }
        let differ: Vec<_> = of_kafka.iter().filter(|(at, lag)| ours.get(*at) != Some(lag)).collect();
        assert!(Instant::now() < give_up_at, "Kafka's tool says otherwise: {differ:?}; of {}", ours.len());
    }
}

#[test]
fn lag_agrees_with_kafkas_own_tool() {
    let cluster = Cluster::start();
    let proxy = FaultProxy::in_front_of(([127, 0, 0, 1], cluster.port()).into());
    let direct = cluster.url();
    let url = direct.replace(&format!(":{}", cluster.port()), &format!(":{}", proxy.port()));
    let mut place =
        place_on(Engine::Sqlite, Kafka::shared()).with("HORIZONS_POSTGRES_TIMEOUT_MS", ANSWER_LIMIT_MS);
    place.rows = Rows::Postgres { url, direct, schema: super::stage::unique() };
    let stage = Stage::at("lag", place.clone());
    let outside = Outside::of(Kafka::shared(), &place.events);
    outside.produce("system-health", 1, &[(b"key", b"first")]);
    // No poison: what is parked is lag to Horizons and read to Kafka.
    let client = stage.client();
    assert!(stage.load.submit_new(client, "quick"));
    wait_until_it_works(&stage.load, client);
    settle(&stage.world);

    let idle = wait_until_they_agree(client, &place.events);
    assert!(idle.values().all(|lag| *lag == 0), "{idle:?}");
    assert!(told(client).values().all(|lag| *lag == 0), "an idle topic has a lag: {:?}", told(client));
    let records = vec![(&b"key"[..], &b"payload"[..]); WAITING];
    proxy.set(Faults { swallow: Swallow::Both, ..Faults::default() });
    outside.produce("system-health", 1, &records);
    let behind = wait_until_they_agree(client, &place.events);
    proxy.heal();
    proxy.cut(crate::services::proxy::Cut::Reset);
    let at = ("audit-trail".to_owned(), "system-health".to_owned(), 1);
    wait_for("the lag to be gone", || told(client)[&at] == 0);

    assert_eq!(behind[&at], WAITING as u64);
    {
        let mut ledger = stage.load.ledger.lock().unwrap();
        ledger.foreign.push(("system-health", "key".to_owned()));
    }
    stage.finish();
}

#[test]
fn lag_of_revoked_partitions_is_told_by_their_new_owner_only() {
    let place = shared_place();
    let mut stage = Stage::at("lag of members", place.clone());
    wait_for_lanes(stage.client(), LANES);
    assert_eq!(told(stage.client()).len(), LANES);
    let second = second_of(&place);

    let other = second.serve();
    wait_for("the series to be shared out", || {
        let (mine, theirs) = (told(stage.client()), told(other.client()));
        let twice = mine.keys().any(|at| theirs.contains_key(at));
        !theirs.is_empty() && !twice && mine.len() + theirs.len() == LANES
    });
    other.stop();
    wait_for_lanes(stage.client(), LANES);

    assert_eq!(told(stage.client()).len(), LANES);
    stage.while_working(|_| pass(Duration::from_secs(1)));
    stage.finish();
}
