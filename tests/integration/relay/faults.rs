//! Brokers killed and frozen, connections cut: no overtaking, nothing lost, nothing doubled.

use std::time::{Duration, Instant};

use super::world::{
    Expected, append, check, create_topics, metric, new_prefix, new_store, relay_config, start_with,
    wait_sent, wait_status,
};
use crate::services::kafka::{Kafka, KafkaOptions};
use crate::services::proxy::{Cut, Direction, contains};
use crate::services::wait::wait_for;

/// How long a broker is frozen.
const FROZEN: Duration = Duration::from_secs(10);

#[test]
fn relay_broker_killed_and_restarted_sends_on_in_order() {
    let kafka = Kafka::start(1);
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    let (relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));

    for round in 0..3 {
        append(store.as_ref(), &mut expected, round * 8_000, round * 8_000 + 6_000);
        let before = (round * 8_000) as f64;
        wait_for("rows to be on their way", || {
            metric(&registry, "horizons_published_records_total") > before
        });
        kafka.kill(1);
        // Users are answered as ever; the outbox grows.
        append(store.as_ref(), &mut expected, round * 8_000 + 6_000, (round + 1) * 8_000);
        wait_status(&relay, "the status to tell that the broker is away", |status| {
            status.trouble.is_some() && status.waiting_records >= 2_000
        });
        kafka.restart(1);
        wait_sent(store.as_ref(), &expected);
    }

    check(kafka.direct(), &prefix, &expected);
    wait_status(&relay, "the trouble to be over", |status| status.trouble.is_none());
}

#[test]
fn relay_broker_frozen_sends_on_in_order_and_does_not_spin() {
    let kafka = Kafka::start(1);
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    let (_relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
    append(store.as_ref(), &mut expected, 0, 10_000);
    wait_for("rows to be on their way", || metric(&registry, "horizons_published_records_total") > 0.0);

    kafka.stop(1);
    append(store.as_ref(), &mut expected, 10_000, 15_000);
    let (begun, spent) = (Instant::now(), processor_time());
    wait_for("the broker to have been frozen long enough", || begun.elapsed() >= FROZEN);
    let spent = processor_time() - spent;
    kafka.cont(1);
    wait_sent(store.as_ref(), &expected);

    check(kafka.direct(), &prefix, &expected);
    assert!(spent < FROZEN * 3 / 4, "took {spent:?} of processor time while nothing could be done");
}

#[test]
fn relay_connections_cut_in_flight_nothing_overtakes() {
    let kafka = Kafka::with(KafkaOptions { proxied: true, ..KafkaOptions::default() });
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let mut expected = Expected::new();
    let (_relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
    let proxy = kafka.proxy(1);

    for round in 0..15_u64 {
        let (from, fired) = (round * 2_000, proxy.fired());
        let is_batch = |bytes: &[u8]| contains(bytes, b"filling");
        match round % 3 {
            // The batch does not arrive.
            0 => proxy.cut_before(Direction::Up, is_batch, Cut::Reset),
            // It arrives, and its answer does not.
            1 => proxy.cut_behind(Direction::Up, is_batch, Cut::Reset),
            // It arrives in part.
            _ => proxy.cut_after(Direction::Up, 40_000, Cut::Reset),
        }
        append(store.as_ref(), &mut expected, from, from + 2_000);
        wait_for("a connection to be cut", || proxy.fired() > fired);
        wait_for("rows to be sent after the cut", || {
            metric(&registry, "horizons_published_records_total") > from as f64
        });
    }
    wait_sent(store.as_ref(), &expected);

    check(kafka.direct(), &prefix, &expected);
}

/// Gives the processor time of this process.
fn processor_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs())
    };
    of(usage.user_time()) + of(usage.system_time())
}
