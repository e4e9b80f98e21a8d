//! How fast it is: run by hand in a release build, beside nothing else.
//!
//! `cargo test --release --features fail-points --test integration relay::measure -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use horizons::kafka::producer::{Compression, ProducerConfig};
use horizons_actors::ids::Topic;
use horizons_actors::ports::store::JobStore;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, producer::DeliveryResult};

use super::world::{
    Expected, append, client, create_topics, event_id, new_prefix, new_store, place, places, relay_config,
    row, start_with, wait_sent, wait_status,
};
use crate::services::kafka::Kafka;
use crate::services::wait::wait_for;

/// Rows of the full outbox.
const ROWS: u64 = 200_000;

/// Events a second at which latency is measured, and for how long.
const RATE: u64 = 1_000;
const SECONDS: u64 = 15;

#[derive(Clone)]
struct Count(Arc<AtomicU64>);

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, _: usize) {
        assert!(result.is_ok());
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends the same rows from memory with the same settings and nothing else.
fn bare_seconds(bootstrap: &str, prefix: &str) -> f64 {
    let delivered = Arc::new(AtomicU64::new(0));
    let mut config = client(bootstrap);
    config
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "1000000")
        .set("max.in.flight.requests.per.connection", "5");
    let producer: ThreadedProducer<Count> =
        config.create_with_context(Count(Arc::clone(&delivered))).unwrap();
    let places = places();
    let rows: Vec<_> =
        (0..ROWS).map(|number| row(places[(number % places.len() as u64) as usize], number)).collect();
    let begun = Instant::now();
    for row in &rows {
        let topic = format!("{prefix}{}", row.topic);
        let id = row.headers.get("event-id").unwrap();
        let headers = OwnedHeaders::new().insert(Header { key: "event-id", value: Some(id) });
        producer
            .send(
                BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic, 1)
                    .partition(i32::from(row.partition.0))
                    .key(row.key.as_deref().unwrap())
                    .payload(row.payload.as_deref().unwrap())
                    .headers(headers),
            )
            .map_err(|(error, _)| error)
            .unwrap();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    assert_eq!(delivered.load(Ordering::Relaxed), ROWS);
    begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement, not a promise"]
fn relay_full_outbox_throughput_beside_bare_producer() {
    let kafka = Kafka::shared();
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    append(store.as_ref(), &mut expected, 0, ROWS);
    for round in 0..3 {
        let bare_prefix = new_prefix();
        create_topics(kafka.direct(), &bare_prefix, 1);
        let bare = bare_seconds(kafka.bootstrap(), &bare_prefix);
        println!("round {round}: bare producer {:.0} records/s", ROWS as f64 / bare);
    }
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let begun = Instant::now();
    let (_relay, _registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
    wait_sent(store.as_ref(), &expected);
    println!("relay {:.0} records/s", ROWS as f64 / begun.elapsed().as_secs_f64());
}

#[test]
#[ignore = "a measurement, not a promise"]
fn relay_publish_latency_at_a_thousand_a_second() {
    let kafka = Kafka::shared();
    for linger in [Duration::ZERO, Duration::from_micros(500), Duration::from_millis(2)] {
        let prefix = new_prefix();
        create_topics(kafka.direct(), &prefix, 1);
        let (store, _folder) = new_store();
        let producer =
            ProducerConfig { linger, compression: Compression::None, ..relay_config("", "").producer };
        let config =
            horizons::kafka::relay::RelayConfig { producer, ..relay_config(kafka.bootstrap(), &prefix) };
        let (relay, registry) = start_with(store.clone(), config);
        wait_status(&relay, "the relay to lead", |status| status.is_leader());
        // Each partition's first record goes alone, after a look: not what is measured.
        let mut expected = Expected::new();
        append(store.as_ref(), &mut expected, 0, 430);
        wait_sent(store.as_ref(), &expected);
        let warm = buckets(&registry);

        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for number in 0..RATE * SECONDS {
            let due = begun + Duration::from_micros(number * 1_000_000 / RATE);
            wait_for("the next record to fall due", || {
                let left = due.saturating_duration_since(Instant::now());
                std::thread::park_timeout(left);
                Instant::now() >= due
            });
            let place = place(Topic::JobLifecycle, (number % 10) as u16);
            let record = row(place, 100_000 + number);
            drop(event_id(number));
            runtime.block_on(store.append_records(vec![record], Vec::new())).unwrap();
        }
        wait_status(&relay, "everything to be sent", |status| status.waiting_records == 0);

        let all = buckets(&registry);
        let counts: Vec<(f64, u64)> =
            all.iter().zip(&warm).map(|((bound, now), (_, before))| (*bound, now - before)).collect();
        let total = counts.last().map_or(0, |(_, count)| *count);
        let quantile = |part: f64| {
            let rank = (total as f64 * part).ceil() as u64;
            counts
                .iter()
                .find(|(_, count)| *count >= rank)
                .map_or(f64::INFINITY, |(bound, _)| *bound * 1_000.0)
        };
        println!(
            "linger {linger:?}: {total} records, P50 <= {} ms, P95 <= {} ms, P99 <= {} ms, took {:?}",
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            begun.elapsed()
        );
    }
}

/// Sums the publish latency's cumulative buckets over all topics.
fn buckets(registry: &prometheus::Registry) -> Vec<(f64, u64)> {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == "horizons_publish_seconds").unwrap();
    let mut sums: Vec<(f64, u64)> = Vec::new();
    for metric in family.get_metric() {
        for (index, bucket) in metric.get_histogram().get_bucket().iter().enumerate() {
            if sums.len() <= index {
                sums.push((bucket.upper_bound(), 0));
            }
            sums[index].1 += bucket.cumulative_count();
        }
    }
    sums
}
