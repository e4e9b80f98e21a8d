//! Gaps: what the log no longer holds is never passed over in silence.

use std::sync::Arc;
use std::time::Duration;

use horizons::kafka::config::KafkaConfig;
use horizons_actors::ids::{Offset, Topic};
use horizons_actors::lane::start::start_answer;
use horizons_actors::ports::log::{GapKind, StartAnswer};

use super::world::{Manner, Member, Store, World, ask, lifecycle};
use crate::services::wait::wait_for;

/// How often what was read is compared, in these tests.
const RECHECK: Duration = Duration::from_secs(1);

fn world() -> World {
    let mut world = World::shared();
    world.config = KafkaConfig { recheck_every: RECHECK, ..world.config };
    world
}

/// What a lane that stored `next` finds when it looks.
#[expect(clippy::print_stdout, reason = "tells what was compared where a test fails")]
fn look(member: &Member, store: &Store) -> StartAnswer {
    let stored = store.of(lifecycle(0));
    let next = Some(Offset(stored.next));
    let inspection = member.inspect(lifecycle(0), next);
    println!("stored: {next:?} {:?}, log: {inspection:?}", stored.last.map(|digest| digest[0]));
    start_answer(next, stored.last, &inspection)
}

/// Reads so many records of one partition into the store.
fn read(world: &World, store: &Arc<Store>, records: usize) -> Member {
    world.produce(lifecycle(0), "old", records);
    let member = Member::join(&world.log(), store, Manner::Prompt);
    member.wait_assigned(10);
    member.wait_applied(records);
    member
}

#[test]
fn position_out_of_range_is_broken_and_then_a_gap() {
    let world = world();
    let store = Arc::new(Store::default());
    world.produce(lifecycle(0), "r", 20);
    world.trim(lifecycle(0), 10);
    let member = Member::join(&world.log(), &store, Manner::Passive);
    member.wait_assigned(10);

    let started = member.restart(lifecycle(0));
    wait_for("the report", || member.told().broken.contains(&(lifecycle(0), started)));
    store.set_next(lifecycle(0), 5);
    let below = look(&member, &store);
    store.set_next(lifecycle(0), 15);
    member.restart(lifecycle(0));
    member.wait_applied(5);

    assert_eq!(below, StartAnswer::Gap(GapKind::Trimmed));
    assert_eq!(store.of(lifecycle(0)).offsets, (15..20).collect::<Vec<u64>>(), "it reads on afterwards");
}

#[test]
fn records_trimmed_below_a_paused_reader_are_a_gap() {
    let world = world();
    let store = Arc::new(Store::default());
    let member = read(&world, &store, 10);
    member.close().unwrap();
    drop(member);
    world.produce(lifecycle(0), "new", 10);
    world.trim(lifecycle(0), 15);

    let member = Member::join(&world.log(), &store, Manner::Passive);
    member.wait_assigned(10);

    assert_eq!(look(&member, &store), StartAnswer::Gap(GapKind::Trimmed));
}

#[test]
fn topic_made_anew_under_a_stopped_reader_is_a_gap() {
    for (records, expected) in [(4, GapKind::BeyondEnd), (15, GapKind::Replaced)] {
        let world = world();
        let store = Arc::new(Store::default());
        let member = read(&world, &store, 10);
        member.close().unwrap();
        drop(member);

        world.delete(Topic::JobLifecycle);
        world.create(Topic::JobLifecycle);
        world.produce(lifecycle(0), "new", records);
        let member = Member::join(&world.log(), &store, Manner::Passive);
        member.wait_assigned(10);

        assert_eq!(look(&member, &store), StartAnswer::Gap(expected));
    }
}

#[test]
fn topic_made_anew_under_a_running_reader_is_broken_and_then_a_gap() {
    for (records, expected) in [(0, GapKind::BeyondEnd), (4, GapKind::BeyondEnd), (15, GapKind::Replaced)] {
        let world = world();
        let store = Arc::new(Store::default());
        let member = read(&world, &store, 10);
        let before = store.of(lifecycle(0));

        world.delete(Topic::JobLifecycle);
        world.create(Topic::JobLifecycle);
        world.produce(lifecycle(0), "new", records);
        let leaves = || {
            let told = member.told();
            told.broken.iter().any(|(partition, _)| *partition == lifecycle(0)) || told.lost.len() == 10
        };
        wait_for("the report", leaves);
        println!("made anew with {records} records: {:?} broken", member.told().broken);

        let inspection = member.inspect(lifecycle(0), Some(Offset(before.next)));
        let answer = start_answer(Some(Offset(before.next)), before.last, &inspection);
        assert_eq!(answer, StartAnswer::Gap(expected), "{records} records: {inspection:?}");
    }
}

#[test]
fn topic_deleted_under_a_running_reader_delivers_nothing_and_shows() {
    let world = world();
    let store = Arc::new(Store::default());
    let member = read(&world, &store, 10);

    world.delete(Topic::JobLifecycle);
    wait_for("a sign", || member.told().health.last().is_some_and(Result::is_err));

    assert_eq!(store.applied(), 10);
    assert!(ask(member.reader.inspect(lifecycle(0), Some(Offset(10)))).is_err());
}
