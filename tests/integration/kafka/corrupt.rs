//! Records that cannot be read: in a broker's file, and once on their way.

use std::sync::Arc;

use horizons_actors::ids::{Offset, Topic};
use horizons_actors::ports::log::{GapKind, StartAnswer};

use super::world::{Manner, Member, Store, World, lifecycle};
use crate::services::kafka::{Kafka, KafkaOptions};
use crate::services::segments::{self, Batch, Damage};
use crate::services::wait::wait_for;

/// Writes three lots of records, each in batches of its own, and damages the batch that begins the second; gives it
/// with the end of the log.
fn damaged(world: &World, damage: Damage) -> (Batch, u64) {
    for lot in ["before", "broken", "behind"] {
        world.produce(lifecycle(0), lot, 5);
    }
    let batch = segments::damage(Kafka::shared(), &world.topic(Topic::JobLifecycle), 0, 5, damage);
    (batch, 15)
}

/// Joins a group whose members tell what they apply, as lanes do.
fn join(world: &World, store: &Arc<Store>) -> Member {
    let member = Member::join(&world.log(), store, Manner::Passive);
    member.tell_positions();
    member.wait_assigned(10);
    member
}

/// Opens a partition as a lane does: it looks, and reads from where it stands if nothing is in the way.
fn open(member: &Member, number: u16) -> StartAnswer {
    let (_, answer) = member.look(lifecycle(number));
    if !matches!(answer, StartAnswer::Gap(_)) {
        member.restart(lifecycle(number));
    }
    answer
}

#[test]
fn corrupt_batch_stops_its_partition_before_it_and_is_a_gap_with_its_bounds() {
    for damage in [Damage::Flipped, Damage::Magic, Damage::Compression] {
        let world = World::shared();
        let store = Arc::new(Store::default());
        let (batch, end) = damaged(&world, damage);
        let member = join(&world, &store);

        open(&member, 1);
        open(&member, 0);
        wait_for("the report", || !member.told().broken.is_empty());
        world.produce(lifecycle(1), "other", 5);
        wait_for("the other partition", || store.of(lifecycle(1)).offsets.len() == 5);
        let before = store.of(lifecycle(0)).offsets;
        let (inspection, answer) = member.look(lifecycle(0));
        let broken = member.told().broken.clone();
        store.set_next(lifecycle(0), batch.next);
        let accepted = open(&member, 0);
        wait_for("the rest", || store.of(lifecycle(0)).next == end);

        assert_eq!(
            before,
            (0..batch.base).collect::<Vec<u64>>(),
            "{damage:?}: all before it, nothing behind it"
        );
        assert_eq!(answer, StartAnswer::Gap(GapKind::Corrupt), "{damage:?}");
        assert_eq!(inspection.unreadable_until, Some(Offset(batch.next)), "{damage:?}");
        assert!(broken.iter().all(|(partition, _)| *partition == lifecycle(0)), "{damage:?}: {broken:?}");
        assert_eq!(accepted, StartAnswer::AtNext(Offset(batch.next)), "{damage:?}");
        let read: Vec<u64> = (0..batch.base).chain(batch.next..end).collect();
        assert_eq!(store.of(lifecycle(0)).offsets, read, "{damage:?}");
    }
}

#[test]
fn corrupt_batch_at_the_end_of_the_log_is_a_gap_up_to_the_end() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    world.produce(lifecycle(0), "before", 3);
    world.produce(lifecycle(0), "broken", 1);
    let topic = world.topic(Topic::JobLifecycle);
    segments::damage(Kafka::shared(), &topic, 0, 3, Damage::Flipped);
    let member = join(&world, &store);

    open(&member, 0);
    wait_for("the report", || !member.told().broken.is_empty());
    let (inspection, answer) = member.look(lifecycle(0));
    store.set_next(lifecycle(0), 4);
    open(&member, 0);
    world.produce(lifecycle(0), "behind", 2);
    wait_for("the rest", || store.of(lifecycle(0)).next == 6);

    assert_eq!((answer, inspection.unreadable_until), (StartAnswer::Gap(GapKind::Corrupt), Some(Offset(4))));
    assert_eq!(store.of(lifecycle(0)).offsets, [0, 1, 2, 4, 5]);
}

#[test]
fn corrupt_batch_that_is_mended_is_no_gap() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    world.produce(lifecycle(0), "r", 5);
    let topic = world.topic(Topic::JobLifecycle);
    let whole = segments::copy(Kafka::shared(), &topic, 0);
    segments::damage(Kafka::shared(), &topic, 0, 0, Damage::Flipped);
    let member = join(&world, &store);
    open(&member, 0);
    wait_for("the report", || !member.told().broken.is_empty());
    let (_, broken) = member.look(lifecycle(0));

    segments::put_back(Kafka::shared(), &topic, 0, &whole);
    let mended = open(&member, 0);
    member.wait_applied(5);

    assert_eq!(broken, StartAnswer::Gap(GapKind::Corrupt));
    assert_eq!(mended, StartAnswer::AtNext(Offset(0)));
    assert_eq!(store.of(lifecycle(0)).offsets, [0, 1, 2, 3, 4]);
}

#[test]
fn corrupt_batch_in_the_window_of_a_lane_behind_it_is_stepped_over() {
    let world = World::shared();
    let store = Arc::new(Store::default());
    let (batch, end) = damaged(&world, Damage::Flipped);
    let member = Member::join(&world.log(), &store, Manner::Passive);
    member.wait_assigned(10);

    // A lane that stands behind the batch rebuilds its window from before it.
    store.set_next(lifecycle(0), end);
    member.look(lifecycle(0));
    store.set_next(lifecycle(0), 0);
    member.restart(lifecycle(0));
    wait_for("the end", || store.of(lifecycle(0)).next == end);

    let read: Vec<u64> = (0..batch.base).chain(batch.next..end).collect();
    assert_eq!(store.of(lifecycle(0)).offsets, read);
    assert_eq!(member.told().broken, []);
}

#[test]
fn byte_flipped_once_on_the_wire_loses_nothing_and_is_no_gap() {
    let kafka = Kafka::with(KafkaOptions { proxied: true, ..KafkaOptions::default() });
    let world = World::on(&kafka);
    let store = Arc::new(Store::default());
    let member = join(&world, &store);
    for number in 0..10 {
        open(&member, number);
    }
    world.produce(lifecycle(0), "before", 5);
    member.wait_applied(5);

    kafka.proxy(1).flip_once(b"broken3");
    for lot in ["broken", "behind"] {
        world.produce(lifecycle(0), lot, 5);
        world.produce(lifecycle(1), lot, 5);
    }
    member.wait_applied(25);

    assert!(kafka.proxy(1).has_flipped(), "the byte came by");
    assert_eq!(store.of(lifecycle(0)).offsets, (0..15).collect::<Vec<u64>>());
    assert_eq!(store.of(lifecycle(1)).offsets, (0..10).collect::<Vec<u64>>());
    let wanted = |lots: &[&str]| -> Vec<Option<Vec<u8>>> {
        let of =
            |lot: &&str| (0..5).map(|number| Some(format!("{lot}{number}").into_bytes())).collect::<Vec<_>>();
        lots.iter().flat_map(of).collect()
    };
    assert_eq!(store.of(lifecycle(0)).payloads, wanted(&["before", "broken", "behind"]));
    assert_eq!(member.told().broken, [], "no lane noticed");
}
