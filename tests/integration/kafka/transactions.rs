//! Transactions of other producers: committed, aborted, open; and what they leave at the end of a partition.

use std::sync::Arc;
use std::time::Duration;

use horizons_actors::ids::{Offset, Topic};
use horizons_actors::ports::log::{LogEnds, StartAnswer};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::world::{Manner, Member, Store, World, lifecycle};
use crate::services::wait::wait_for;

const CALL_LIMIT: Duration = Duration::from_secs(30);

/// A producer with a transaction open that has written so many records to the first partition.
fn begin(world: &World, id: &str, records: usize) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", world.direct())
        .set("transactional.id", format!("{}{id}", world.config.topic_prefix))
        .create()
        .unwrap();
    producer.init_transactions(CALL_LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    let topic = world.topic(Topic::JobLifecycle);
    for number in 0..records {
        let payload = format!("{id}{number}");
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(payload.as_bytes());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(CALL_LIMIT).unwrap();
    producer
}

fn next(store: &Store) -> u64 {
    store.of(lifecycle(0)).next
}

fn ends(member: &Member) -> Option<LogEnds> {
    member.told().ends.get(&lifecycle(0)).copied()
}

fn joined(world: &World, store: &Arc<Store>) -> Member {
    let member = Member::join(&world.log(), store, Manner::Prompt);
    member.wait_assigned(10);
    member
}

#[test]
fn transaction_at_the_end_is_passed_with_its_marker() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    let member = joined(&world, &store);
    world.produce(lifecycle(0), "r", 3);

    begin(&world, "aborted", 4).abort_transaction(CALL_LIMIT).unwrap();
    wait_for("the aborted tail to be passed", || next(&store) == 8);
    begin(&world, "committed", 2).commit_transaction(CALL_LIMIT).unwrap();
    wait_for("the committed tail to be passed", || next(&store) == 11);
    wait_for("the end", || ends(&member) == Some(LogEnds::closed(Offset(11))));
    world.produce(lifecycle(0), "r", 1);
    member.wait_applied(6);

    assert_eq!(store.of(lifecycle(0)).offsets, [0, 1, 2, 8, 9, 11], "aborted records are given to nobody");
    assert_eq!(store.seams.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn transaction_that_is_open_holds_records_back_and_shows_the_end_behind_it() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    let member = joined(&world, &store);
    world.produce(lifecycle(0), "r", 2);
    member.wait_applied(2);

    let open = begin(&world, "open", 3);
    world.produce(lifecycle(0), "behind", 2);
    wait_for("the end behind it", || ends(&member) == Some(LogEnds { stable: Offset(2), high: Offset(7) }));
    let held_back = store.applied();
    open.commit_transaction(CALL_LIMIT).unwrap();
    wait_for("all of it", || next(&store) == 8);
    wait_for("the end", || ends(&member) == Some(LogEnds::closed(Offset(8))));

    assert_eq!(held_back, 2);
    assert_eq!(store.of(lifecycle(0)).offsets, (0..7).collect::<Vec<u64>>());
}

#[test]
fn transaction_whose_marker_was_removed_behind_a_lane_is_no_gap() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    let member = joined(&world, &store);
    world.produce(lifecycle(0), "r", 2);
    begin(&world, "aborted", 1).abort_transaction(CALL_LIMIT).unwrap();
    wait_for("the tail to be passed", || next(&store) == 4);

    world.trim(lifecycle(0), 4);
    let (inspection, answer) = member.look(lifecycle(0));
    member.restart(lifecycle(0));
    world.produce(lifecycle(0), "r", 1);
    member.wait_applied(3);

    assert_eq!((inspection.low, answer), (Offset(4), StartAnswer::AtNext(Offset(4))));
    assert_eq!(store.of(lifecycle(0)).offsets, [0, 1, 4]);
    assert_eq!(member.told().broken, []);
}

#[test]
fn transactions_before_a_lane_that_starts_anew_at_a_lower_place_lose_nothing() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    let member = joined(&world, &store);
    for round in 0..5 {
        world.produce(lifecycle(0), "r", 3);
        begin(&world, &format!("aborted{round}"), 2).abort_transaction(CALL_LIMIT).unwrap();
    }
    wait_for("the end", || next(&store) == 30);
    let all = store.of(lifecycle(0)).offsets;

    // Each life of a lane begins at a place below what the client has handed out before.
    for from in [0, 11, 4, 0, 26, 0] {
        store.set_next(lifecycle(0), from);
        let before = store.of(lifecycle(0)).offsets.len();
        member.restart(lifecycle(0));
        wait_for("the end again", || next(&store) == 30);
        let read = store.of(lifecycle(0)).offsets.split_off(before);
        let wanted: Vec<u64> = all.iter().copied().filter(|offset| *offset >= from).collect();
        assert_eq!(read, wanted, "from {from}");
    }
}
