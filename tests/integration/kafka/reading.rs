//! Reading: order, completeness, starts, what records look like, credit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use horizons::kafka::record::UNREADABLE_HEADER;
use horizons_actors::ids::{Incarnation, Offset, Topic};
use horizons_actors::lane::credit::CreditLimits;
use horizons_actors::ports::log::{LogEnds, LogError};

use super::raw::{RawRecord, produce_raw};
use super::world::{Manner, Member, PLENTY, Store, World, ask, lifecycle};
use crate::services::wait::wait_for;

/// Records of the test of order, over all partitions.
const RECORDS: usize = 100_000;

#[test]
fn reader_lanes_restarted_while_reading_get_everything_in_order() {
    let world = World::shared();
    let partitions = Topic::JobLifecycle.partitions();
    let each = RECORDS / usize::from(partitions);
    for number in 0..partitions {
        world.produce(lifecycle(number), "r", each);
    }
    let log = world.log();
    let store = Arc::new(Store::default());

    let member = Member::join(&log, &store, Manner::Prompt);
    member.wait_assigned(usize::from(partitions));
    let mut restarts = 0_u16;
    wait_for("the records", || {
        member.restart(lifecycle(restarts % partitions));
        restarts += 1;
        store.applied() >= RECORDS
    });

    for number in 0..partitions {
        let stored = store.of(lifecycle(number));
        assert_eq!(stored.offsets, (0..each as u64).collect::<Vec<u64>>(), "partition {number}");
    }
    assert_eq!(store.seams.load(Ordering::SeqCst), 0);
    assert!(restarts > 10, "{restarts}");
    assert_eq!(member.told().broken, vec![]);
}

#[test]
fn reader_is_started_at_the_stored_offset_and_not_before_it_is_asked() {
    let world = World::shared();
    world.produce(lifecycle(3), "r", 50);
    let log = world.log();
    let store = Arc::new(Store::default());
    store.set_next(lifecycle(3), 20);
    let member = Member::join(&log, &store, Manner::Passive);
    member.wait_assigned(10);

    let end = ask(member.reader.log_end(lifecycle(3))).unwrap();
    let batches_before = member.told().batches;
    member.restart(lifecycle(3));
    member.wait_applied(30);
    wait_for("the end", || member.told().ends.get(&lifecycle(3)) == Some(&LogEnds::closed(Offset(50))));

    assert_eq!((end, batches_before), (Offset(50), 0));
    assert_eq!(store.of(lifecycle(3)).offsets, (20..50).collect::<Vec<u64>>());
    let elsewhere = member.reader.start(
        horizons_actors::ids::TopicPartition { topic: Topic::AuditTrail, partition: lifecycle(0).partition },
        Incarnation(1),
        Offset(0),
    );
    assert!(matches!(elsewhere, Err(LogError::NotAssigned(_))));
}

#[test]
fn record_null_empty_and_hostile_headers_come_the_same_each_time() {
    let world = World::shared();
    let header = |name: &[u8], value: Option<&[u8]>| (name.to_vec(), value.map(<[u8]>::to_vec));
    let records = [
        RawRecord::default(),
        RawRecord { key: Some(vec![]), payload: Some(vec![]), headers: vec![] },
        RawRecord {
            key: Some(b"\xff\0k".to_vec()),
            payload: Some(b"\0".to_vec()),
            headers: vec![
                header(b"first", Some(b"1")),
                header(b"\xff\xfe", Some(b"hidden")),
                header(b"", None),
                header(b"last", Some(b"")),
            ],
        },
    ];
    produce_raw(&world, lifecycle(0), &records);
    let log = world.log();
    let store = Arc::new(Store::default());
    let member = Member::join(&log, &store, Manner::Prompt);
    member.wait_applied(records.len());

    let read = member.records();
    let shown: Vec<_> = read.iter().map(|record| (record.key.clone(), record.payload.clone())).collect();
    let written: Vec<_> = records.iter().map(|record| (record.key.clone(), record.payload.clone())).collect();
    assert_eq!(
        shown.into_iter().map(|(k, p)| (k.map(|k| k.to_vec()), p.map(|p| p.to_vec()))).collect::<Vec<_>>(),
        written
    );
    let headers: Vec<_> = read[2].headers.iter().collect();
    let expected: Vec<(&[u8], Option<&[u8]>)> =
        vec![(b"first", Some(b"1")), (UNREADABLE_HEADER, None), (b"", None), (b"last", Some(b""))];
    assert_eq!(headers, expected);
    let inspection = member.inspect(lifecycle(0), Some(Offset(3)));
    assert_eq!(inspection.previous, Some((Offset(2), read[2].fingerprint())), "the same on another client");
}

#[test]
fn credit_exhausted_pauses_the_full_lane_alone_and_goes_on_later() {
    let world = World::shared();
    let log = world.log();
    let store = Arc::new(Store::default());
    let limits = CreditLimits { lane_records: 100, ..PLENTY };
    let member = Member::join_with(&log, &store, Manner::Prompt, limits, vec![Topic::JobLifecycle]);
    member.wait_assigned(10);
    member.keep_credit();

    world.produce(lifecycle(0), "a", 5_000);
    wait_for("the full lane", || store.of(lifecycle(0)).offsets.len() == 100);
    // Long after the reader has held still: others are read on, and the full lane is not.
    for round in 0..10 {
        world.produce(lifecycle(1), "b", 5);
        wait_for("the other lane", || store.of(lifecycle(1)).offsets.len() == 5 * (round + 1));
    }
    let held = store.of(lifecycle(0)).offsets.len();
    member.release_credit();
    wait_for("the rest", || store.of(lifecycle(0)).offsets.len() == 5_000);

    assert_eq!(held, 100);
    assert_eq!(store.of(lifecycle(0)).offsets, (0..5_000).collect::<Vec<u64>>());
    assert_eq!(store.seams.load(Ordering::SeqCst), 0);
}

#[test]
fn inspect_many_partitions_at_once_is_quick_and_right() {
    let world = World::shared();
    for number in 0..10 {
        world.produce(lifecycle(number), "r", 20 + usize::from(number));
    }
    world.trim(lifecycle(9), 10);
    let log = world.log();
    let store = Arc::new(Store::default());
    let member = Member::join(&log, &store, Manner::Passive);
    member.wait_assigned(10);

    let started = Instant::now();
    let all = futures_util::future::join_all(
        (0..10).map(|number| member.reader.inspect(lifecycle(number), Some(Offset(15)))),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let looked = runtime.block_on(all);
    let took = started.elapsed();

    for (number, inspection) in looked.into_iter().enumerate() {
        let inspection = inspection.unwrap();
        let low = if number == 9 { 10 } else { 0 };
        assert_eq!((inspection.low, inspection.high), (Offset(low), Offset(20 + number as u64)));
        assert_eq!(inspection.previous.map(|(offset, _)| offset), Some(Offset(14)));
    }
    let trimmed = member.inspect(lifecycle(9), Some(Offset(10)));
    assert_eq!(trimmed.previous, None, "what was before is gone");
    println!("10 partitions inspected in {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
