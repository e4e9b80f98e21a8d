//! Connections to Kafka that are cut, slow, narrow, swallowed and refused, by a proxy in front of the broker.

use std::time::Duration;

use super::members::LANES;
use super::outside::Outside;
use super::stage::{Engine, Stage, place_on, wait_for_lanes};
use crate::process::server::pass;
use crate::services::kafka::{Kafka, KafkaOptions};
use crate::services::proxy::{Cut, Direction, Faults, Swallow};

/// How long each fault lasts.
const FAULT: Duration = Duration::from_secs(2);

/// Bytes after which a connection is cut in the middle of something, at most.
const CUT_WITHIN_BYTES: u64 = 20_000;

#[test]
fn connections_to_kafka_cut_and_slowed_lose_and_double_nothing() {
    let rounds = crate::process::count("HORIZONS_TEST_WIRE_ROUNDS", 1);
    let kafka = Kafka::with(KafkaOptions { proxied: true, ..KafkaOptions::default() });
    let mut stage = Stage::at("wire", place_on(Engine::Postgres, &kafka));
    let proxy = kafka.proxy(1);
    let faults = [
        ("slow", Faults { latency: Duration::from_millis(200), ..Faults::default() }),
        ("narrow", Faults { bytes_per_second: Some(20_000), ..Faults::default() }),
        ("in pieces", Faults { segment_bytes: Some(7), ..Faults::default() }),
        ("swallowing what is sent", Faults { swallow: Swallow::Up, ..Faults::default() }),
        ("swallowing what is answered", Faults { swallow: Swallow::Down, ..Faults::default() }),
        ("refusing", Faults { refuse: true, ..Faults::default() }),
    ];

    for _ in 0..rounds {
        for how in [Cut::Reset, Cut::Close, Cut::HalfOpen] {
            for direction in [Direction::Up, Direction::Down] {
                let bytes = 1 + stage.random.below(CUT_WITHIN_BYTES) as usize;
                let fired = proxy.fired();
                let took = stage.while_working(|on| {
                    proxy.cut_after(direction, bytes, how);
                    crate::process::server::wait_for("the cut", || proxy.fired() > fired);
                    on.wait_until_it_works()
                });
                println!("cut ({how:?}, {direction:?}, after {bytes} bytes): works after {took:?}");
            }
        }
    }
    for (name, faults) in faults {
        let took = stage.while_working(|on| {
            proxy.set(faults);
            if faults.refuse {
                proxy.cut(Cut::Reset);
            }
            pass(FAULT);
            proxy.heal();
            on.wait_until_it_works()
        });
        println!("{name} for {FAULT:?}: works after {took:?}");
    }
    stage.finish();
}

#[test]
fn byte_flipped_once_on_its_way_from_kafka_loses_and_doubles_nothing() {
    let kafka = Kafka::with(KafkaOptions { proxied: true, ..KafkaOptions::default() });
    let place = place_on(Engine::Sqlite, &kafka);
    let mut stage = Stage::at("a flipped byte", place.clone());
    let outside = Outside::of(&kafka, &place.events);
    let proxy = kafka.proxy(1);

    let took = stage.while_working(|on| {
        proxy.flip_once(b"changed on its way");
        outside.produce("system-health", 1, &[(b"key", b"changed on its way")]);
        crate::process::server::wait_for("the byte to come by", || proxy.has_flipped());
        on.wait_until_it_works()
    });
    println!("a byte flipped: works after {took:?}");
    wait_for_lanes(stage.client(), LANES);
    let gaps = stage.client().get("/gaps").json();
    stage.load.ledger.lock().unwrap().foreign.push(("system-health", "key".to_owned()));

    assert_eq!(gaps["gaps"], serde_json::json!([]));
    stage.finish();
}
