//! How long an event takes from the commit that published it to the last effect of all groups, on each store
//! (figure 3 of the design).
//!
//! Promises the whole program but for HTTP and the scheduler: outbox, relay, Kafka, and every group that exists;
//! a load whose events are due at fixed times, whatever becomes of those before; and that every event was
//! applied by every group, once, when the figures are printed. Events are those of many jobs at a time over all
//! partitions, and each is appended alone, as an orchestrator's transaction with one event is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::ids::{Topic, TopicPartition};
use horizons_actors::latency::{LatencyRecorder, LatencySummary};
use horizons_actors::ports::query::QueryStore;
use horizons_actors::record::OutgoingRecord;
use tokio::sync::Semaphore;

use super::kafka::{DISK_LIMIT_BYTES, Place, numbered};
use super::load::Load;
use super::report::{Figure, per_second};
use super::timeline::{Latencies, Timeline};
use super::{failed, print, verify};
use crate::app::kafka::kafka_config;
use crate::app::topics::failure as kafka_failure;
use crate::app::{Extras, OpenStore, Running, behaviours, open_failure};
use crate::cli::{BenchOptions, Form, KafkaBench, OpenLoop, Output};
use crate::config::{Config, SchedulerKind, StoreEngine};
use crate::db::postgres::{self, BareCopy};
use crate::db::sqlite::BareInsert;
use crate::exit::{Exit, Failure};
use crate::kafka::bare::{self, wait_until};

/// How long nothing may be applied while something waits.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What is sent before anything is measured, in seconds of the load.
const WARM_UP_SECONDS: u32 = 3;

/// Appends that are under way when the maximum is measured.
const APPENDS_AT_ONCE: usize = 256;

/// Seconds of the load's rate that the search for the maximum sends.
const MAXIMUM_SECONDS: u32 = 20;

/// Commands that may wait for the writer.
const COMMAND_QUEUE: usize = 1 << 20;

/// Seconds that the bare commits and round trips are measured for.
const BARE_SECONDS: u32 = 10;

/// The goal, in milliseconds.
const GOAL_MS: f64 = 10.0;

/// What the services do alone under the same load.
struct Bare {
    commit: LatencySummary,
    kafka: LatencySummary,
}

/// What one store did.
struct Measured {
    name: &'static str,
    at_rate: Latencies,
    maximum: f64,
    at_half: Latencies,
    bare: Bare,
}

/// Measures every store and prints.
pub(super) async fn measure(
    mut config: Config,
    options: &BenchOptions,
    services: &KafkaBench,
    open_loop: OpenLoop,
    folder: &Path,
    output: &mut Output<'_>,
) -> Result<Exit, Failure> {
    config.scheduler.kind = SchedulerKind::Elsewhere;
    // A load that is more than the store takes waits here: sent away, it would not be measured.
    config.store.command_queue = COMMAND_QUEUE;
    config.store.disk_limit_bytes = config.store.disk_limit_bytes.max(DISK_LIMIT_BYTES);
    let mut engines = vec![(StoreEngine::Sqlite, "sqlite")];
    if services.postgres.is_some() {
        engines.push((StoreEngine::Postgres, "postgres"));
    }
    for (engine, name) in engines {
        config.store.engine = engine;
        config.store.folder = folder.join(name);
        let place = Place::make(&config, services)?;
        let measured =
            measure_at(&place, name, options, services, open_loop, &folder.join(format!("{name}-bare")))
                .await;
        place.clear();
        let measured = measured?;
        print(&figures(&measured), output)?;
        if output.form() == Form::Text {
            let Measured { at_rate, at_half, maximum, .. } = measured;
            output.line(&format!("{name} at {}/s: {}", open_loop.rate, at_rate.effects))?;
            output.line(&format!("{name} at half of {maximum:.0}/s: {}", at_half.effects))?;
        }
    }
    Ok(Exit::Done)
}

async fn measure_at(
    place: &Place,
    name: &'static str,
    options: &BenchOptions,
    services: &KafkaBench,
    open_loop: OpenLoop,
    bare_folder: &Path,
) -> Result<Measured, Failure> {
    let OpenLoop { rate, seconds } = open_loop;
    let mut load = Load::new(SystemClock.now(), options.payload_bytes as usize);
    let bare = bare_latencies(place, services, &mut load, rate, bare_folder)?;

    let followers = followers(&place.config);
    let timeline = Timeline::new(followers);
    let opened = OpenStore::open(&place.config, None)?;
    timeline.follow(&opened.store.heads());
    let extras = Extras { listeners: vec![Arc::clone(&timeline) as _], ..Extras::default() };
    let running = Running::start(&place.config, opened, extras)?;
    let measured = async {
        // The first records wait for groups to form.
        send(&running, &timeline, &mut load, rate, rate).await?;
        let (from, elapsed) = send(&running, &timeline, &mut load, rate, rate * seconds).await?;
        let at_rate = timeline.latencies(from, elapsed);
        let maximum = maximum(&running, &timeline, &mut load, rate * MAXIMUM_SECONDS).await?;
        let half = ((maximum / 2.0) as u32).max(1);
        let (from, elapsed) = send(&running, &timeline, &mut load, half, half * seconds).await?;
        let at_half = timeline.latencies(from, elapsed);
        check(&running, &timeline, place).await?;
        Ok::<_, Failure>((at_rate, maximum, at_half))
    }
    .await;
    running.stop().await;
    let (at_rate, maximum, at_half) = measured?;
    Ok(Measured { name, at_rate, maximum, at_half, bare })
}

/// Counts the groups that follow each topic.
fn followers(config: &Config) -> BTreeMap<Topic, usize> {
    let mut followers = BTreeMap::new();
    for topic in behaviours(config).iter().flat_map(|behaviour| behaviour().topics()) {
        *followers.entry(topic).or_default() += 1;
    }
    followers
}

fn next_records(load: &mut Load, count: u32) -> Result<Vec<OutgoingRecord>, Failure> {
    (0..count).map(|_| load.next_record().map_err(|error| Failure::new(Exit::Failed, &error))).collect()
}

/// Appends events when they are due, and waits until all are applied; gives when the part begins that counts,
/// and how long it lasted.
async fn send(
    running: &Running,
    timeline: &Arc<Timeline>,
    load: &mut Load,
    rate: u32,
    count: u32,
) -> Result<(Instant, Duration), Failure> {
    let warm_up = rate * WARM_UP_SECONDS;
    let records = next_records(load, warm_up + count)?;
    let interval = Duration::from_secs(1) / rate;
    let start = Instant::now() + Duration::from_millis(100);
    let from = start + interval * warm_up;
    let refused = Arc::new(AtomicU64::new(0));
    let (store, front) = (Arc::clone(&running.store), running.front());
    let (noted, counted) = (Arc::clone(timeline), Arc::clone(&refused));
    let wanted = timeline.done() + u64::from(warm_up + count);
    // A thread of its own: what it waits for must not hold up what it measures.
    let sender = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        for (number, record) in (0_u32..).zip(records) {
            let due = start + interval * number;
            wait_until(due);
            let appended = store.append_records(vec![record], Vec::new());
            let (noted, counted) = (Arc::clone(&noted), Arc::clone(&counted));
            front.spawn(async move {
                match appended.await {
                    Ok(places) => places.into_iter().for_each(|at| noted.due(at, due)),
                    Err(error) => {
                        tracing::warn!(%error, "an event of the load was not taken");
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let sender = sender.map_err(|error| Failure::new(Exit::Failed, &error))?;
    settled(timeline, wanted, &refused).await?;
    sender.join().map_err(|_| Failure::text(Exit::Failed, "the thread of the load ended by a panic"))?;
    Ok((from, from.elapsed()))
}

/// Waits until so many records are applied by all.
async fn settled(timeline: &Timeline, wanted: u64, refused: &AtomicU64) -> Result<(), Failure> {
    let mut seen = (timeline.done(), Instant::now());
    loop {
        let done = timeline.done();
        let refused = refused.load(Ordering::Relaxed);
        if refused > 0 {
            let text = format!("the load is more than the store takes: {refused} events were refused");
            return Err(Failure::text(Exit::Failed, text));
        }
        if done >= wanted {
            return Ok(());
        }
        if done > seen.0 {
            seen = (done, Instant::now());
        }
        if seen.1.elapsed() > STALL_LIMIT {
            let text = format!("events are not applied: wanted {wanted}, got {done} and then none");
            return Err(Failure::text(Exit::Failed, text));
        }
        timeline.moved(Duration::from_millis(100)).await;
    }
}

/// Appends events as fast as they are taken, so many at a time; gives how many are applied in a second.
async fn maximum(
    running: &Running,
    timeline: &Arc<Timeline>,
    load: &mut Load,
    count: u32,
) -> Result<f64, Failure> {
    let records = next_records(load, count)?;
    let wanted = timeline.done() + u64::from(count);
    let refused = Arc::new(AtomicU64::new(0));
    let places = Arc::new(Semaphore::new(APPENDS_AT_ONCE));
    let (store, front) = (Arc::clone(&running.store), running.front());
    let counted = Arc::clone(&refused);
    let start = Instant::now();
    running.front().spawn(async move {
        for record in records {
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let appended = store.append_records(vec![record], Vec::new());
            let counted = Arc::clone(&counted);
            front.spawn(async move {
                if appended.await.is_err() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                drop(place);
            });
        }
    });
    settled(timeline, wanted, &refused).await?;
    Ok(per_second(u64::from(count), start.elapsed()))
}

/// Checks that Kafka holds what was published, no more, and that the audit trail does as well.
async fn check(running: &Running, timeline: &Timeline, place: &Place) -> Result<(), Failure> {
    let published = timeline.ends();
    let partitions: Vec<TopicPartition> = published.iter().map(|(partition, _)| *partition).collect();
    let held = place.admin().and_then(|admin| admin.ends(&partitions)).map_err(kafka_failure)?;
    if held != published {
        let text = format!("Kafka does not hold what was published: wanted {published:?}, got {held:?}");
        return Err(Failure::text(Exit::Failed, text));
    }
    let records: u64 = published.iter().map(|(_, end)| end.0).sum();
    let queries: Arc<dyn QueryStore> = Arc::clone(&running.store) as _;
    verify(&queries, records).await
}

/// Measures commits and round trips through Kafka alone, under the same load.
fn bare_latencies(
    place: &Place,
    services: &KafkaBench,
    load: &mut Load,
    rate: u32,
    folder: &Path,
) -> Result<Bare, Failure> {
    let interval = Duration::from_secs(1) / rate;
    let records = next_records(load, rate * BARE_SECONDS)?;
    let elapsed = Duration::from_secs(u64::from(BARE_SECONDS));
    let summary = |samples: Vec<Duration>| {
        let mut recorder = LatencyRecorder::default();
        for sample in samples {
            recorder.record(Topic::JobLifecycle, sample);
        }
        recorder.summary(elapsed)
    };
    let mut commits = Vec::with_capacity(records.len());
    let start = Instant::now();
    match place.config.store.engine {
        StoreEngine::Sqlite => {
            let mut sink = BareInsert::open(folder).map_err(|error| open_failure(&error))?;
            for (number, record) in (0_u32..).zip(&records) {
                wait_until(start + interval * number);
                commits.push(sink.insert(&[numbered([record], u64::from(number))]).map_err(failed)?);
            }
        }
        StoreEngine::Postgres => {
            let settings = place.postgres();
            let opened = |error| open_failure(&error);
            let mut sink = BareCopy::open(&settings).map_err(opened)?;
            for (number, record) in (0_u32..).zip(&records) {
                wait_until(start + interval * number);
                commits.push(sink.copy(std::slice::from_ref(record)).map_err(failed)?);
            }
            drop(sink);
            postgres::remove_schema(&settings).map_err(opened)?;
        }
    }
    // Topics of their own: those of the run are for the relay alone.
    let trips = Place::make(&place.config, services)?;
    let kafka = bare::round_trips(&kafka_config(&trips.config), &records, interval).map_err(kafka_failure);
    trips.clear();
    Ok(Bare { commit: summary(commits), kafka: summary(kafka?) })
}

/// Gives the figures of one store.
fn figures(measured: &Measured) -> Vec<Figure> {
    let Measured { name, at_rate, maximum, at_half, bare } = measured;
    let Bare { commit, kafka } = bare;
    let limit = kafka.p99_ms + commit.p99_ms;
    let ms = |figure: String, value: f64, limit: &'static str, limit_value: f64| {
        Figure::single(figure, "ms", value, limit, limit_value)
    };
    let mut figures = vec![
        ms(format!("latency_p99_kafka_{name}"), at_rate.effects.p99_ms, "goal", GOAL_MS),
        ms(format!("latency_p99_kafka_{name}"), at_rate.effects.p99_ms, "kafka_and_commit_p99", limit),
        ms(
            format!("latency_p50_kafka_{name}"),
            at_rate.effects.p50_ms,
            "kafka_and_commit_p50",
            kafka.p50_ms + commit.p50_ms,
        ),
        ms(
            format!("latency_p95_kafka_{name}"),
            at_rate.effects.p95_ms,
            "kafka_and_commit_p95",
            kafka.p95_ms + commit.p95_ms,
        ),
        ms(
            format!("latency_max_kafka_{name}"),
            at_rate.effects.max_ms,
            "kafka_and_commit_max",
            kafka.max_ms + commit.max_ms,
        ),
        ms(format!("from_due_p99_kafka_{name}"), at_rate.from_due.p99_ms, "kafka_and_commit_p99", limit),
        ms(format!("publish_p50_{name}"), at_rate.publish.p50_ms, "commit_p50", commit.p50_ms),
        ms(format!("publish_p99_{name}"), at_rate.publish.p99_ms, "commit_p99", commit.p99_ms),
        ms(
            format!("bare_kafka_p50_{name}"),
            kafka.p50_ms,
            "kafka_and_commit_p50",
            kafka.p50_ms + commit.p50_ms,
        ),
        ms(format!("bare_kafka_p99_{name}"), kafka.p99_ms, "kafka_and_commit_p99", limit),
        Figure::single(
            format!("maximum_kafka_{name}"),
            "events/s",
            *maximum,
            "rate",
            at_rate.effects.throughput_per_second,
        ),
        ms(
            format!("latency_p50_half_kafka_{name}"),
            at_half.effects.p50_ms,
            "p50_at_rate",
            at_rate.effects.p50_ms,
        ),
        ms(
            format!("latency_p99_half_kafka_{name}"),
            at_half.effects.p99_ms,
            "p99_at_rate",
            at_rate.effects.p99_ms,
        ),
        ms(
            format!("from_due_p99_half_kafka_{name}"),
            at_half.from_due.p99_ms,
            "p99_at_rate",
            at_rate.effects.p99_ms,
        ),
    ];
    for (group, summary) in &at_rate.groups {
        let all = &at_rate.effects;
        figures.push(ms(format!("latency_p50_{name}_{group}"), summary.p50_ms, "all_groups_p50", all.p50_ms));
        figures.push(ms(format!("latency_p99_{name}_{group}"), summary.p99_ms, "all_groups_p99", all.p99_ms));
    }
    figures
}
