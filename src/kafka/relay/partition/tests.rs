//! One partition through any history: order, completeness, and stops.

use horizons_actors::ids::{Epoch, LogTopic, Partition, Topic};
use proptest::prelude::*;

use super::*;

const HERE: OutboxPartition =
    OutboxPartition { topic: LogTopic::Record(Topic::JobLifecycle), partition: Partition(2) };

fn cursor(next: u64, tail: Option<u64>) -> Cursor {
    Cursor { partition: HERE, next: Offset(next), tail: tail.map(Offset), epoch: Epoch(1) }
}

fn flowing(now: Instant) -> PartitionState {
    let mut state = PartitionState::new(&cursor(0, Some(0)), Offset(0));
    send(&mut state, 1, now);
    state.acknowledged(Offset(0), Offset(0), now);
    state
}

fn send(state: &mut PartitionState, rows: usize, now: Instant) {
    for _ in 0..rows.min(state.may_send(rows, now)) {
        let offset = state.unsent();
        state.sent(offset, 1, Timestamp::from_micros(0), now);
    }
}

#[test]
fn partition_row_that_was_sent_alone_and_got_company_is_only_doubted() {
    let now = Instant::now();
    let mut state = PartitionState::new(&cursor(0, Some(0)), Offset(0));
    send(&mut state, 1, now);
    // The sender asked before the time ran out for which the broker is held to know the producer.
    state.sent(Offset(1), 1, Timestamp::from_micros(0), now);

    let in_company = state.failed(Offset(0), true, "batch too large".to_owned(), now);
    state.rebuilt();

    assert_eq!(in_company, Verdict::Doubt);
    assert!(!matches!(state.phase(), Phase::Stopped { .. }));
}

#[test]
fn partition_first_row_of_a_producer_goes_alone() {
    let now = Instant::now();
    let mut state = PartitionState::new(&cursor(0, Some(5)), Offset(0));

    assert_eq!(state.may_send(10, now), 1);
    send(&mut state, 10, now);
    assert_eq!(state.may_send(10, now), 0);
    state.acknowledged(Offset(0), Offset(5), now);
    assert_eq!(state.may_send(10, now), 10);
    assert_eq!(state.may_send(10, now + KNOWN_FOR), 1, "the broker may have forgotten the producer");
}

#[test]
fn partition_with_rows_beyond_cursor_looks_before_it_sends() {
    let now = Instant::now();
    let mut state = PartitionState::new(&cursor(3, Some(5)), Offset(9));

    assert_eq!(state.may_send(10, now), 0);
    assert_eq!(state.begin_look(now), Some((Offset(3), Some(Offset(5)))));
    assert_eq!(state.begin_look(now), None);
    assert_eq!(state.found(Offset(3), Offset(5), Offset(8)), 2);

    assert_eq!((state.next(), state.unsent(), state.phase()), (Offset(5), Offset(5), &Phase::Flowing));
    let wanted = CursorMove { partition: HERE, from: Offset(3), next: Offset(5), tail: Offset(8) };
    assert_eq!(state.unstored(), Some(wanted));
}

#[test]
fn partition_never_looked_at_stores_its_place_first() {
    let now = Instant::now();
    let mut state = PartitionState::new(&cursor(0, None), Offset(0));

    assert_eq!((state.phase(), state.must_store_first()), (&Phase::Unknown, true));
    state.begin_look(now);
    state.found(Offset(0), Offset(0), Offset(44));
    let step = state.unstored().unwrap();
    state.was_stored(&step);

    assert_eq!((step.from, step.next, step.tail), (Offset(0), Offset(0), Offset(44)));
    assert!(!state.must_store_first() && state.unstored().is_none());
}

#[test]
fn partition_batch_refused_for_good_tries_its_rows_one_by_one() {
    let now = Instant::now();
    let mut state = flowing(now);
    send(&mut state, 4, now);

    assert_eq!(state.failed(Offset(2), true, "too large".to_owned(), now), Verdict::Doubt);
    state.rebuilt();
    assert_eq!(state.begin_look(now), Some((Offset(1), Some(Offset(1)))));
    state.found(Offset(1), Offset(1), Offset(1));
    send(&mut state, 4, now);
    assert_eq!(state.oldest().map(|sent| sent.offset), Some(Offset(1)));
    state.acknowledged(Offset(1), Offset(1), now);
    assert_eq!(state.may_send(9, now), 1, "still among the doubtful rows");
    send(&mut state, 4, now);
    assert_eq!(state.failed(Offset(2), true, "too large".to_owned(), now), Verdict::Stopped);
    state.rebuilt();

    assert_eq!(state.phase(), &Phase::Stopped { at: Offset(2), why: "too large".to_owned() });
    assert_eq!((state.next(), state.may_send(9, now), state.begin_look(now)), (Offset(2), 0, None));
    state.was_moved(&cursor(3, Some(2)));
    assert_eq!((state.next(), state.phase()), (Offset(3), &Phase::Unknown));
}

#[test]
fn partition_refused_at_hand_over_lets_earlier_rows_end() {
    let now = Instant::now();
    let mut state = flowing(now);
    send(&mut state, 2, now);

    assert_eq!(state.refused_at_hand_over("too large".to_owned()), Verdict::Stopped);
    state.acknowledged(Offset(1), Offset(1), now);
    state.acknowledged(Offset(2), Offset(2), now);

    assert_eq!((state.next(), state.may_send(9, now)), (Offset(3), 0));
    assert!(matches!(state.phase(), Phase::Stopped { at: Offset(3), .. }));
}

#[test]
fn partition_set_aside_under_rows_in_flight_goes_on_behind_it() {
    let now = Instant::now();
    let mut state = flowing(now);
    send(&mut state, 3, now);

    state.was_moved(&cursor(2, Some(1)));
    let late = state.acknowledged(Offset(1), Offset(1), now);
    state.acknowledged(Offset(2), Offset(2), now);

    assert_eq!(late, None);
    assert_eq!((state.next(), state.unsent()), (Offset(3), Offset(4)));
}

/// What may happen to a partition.
#[derive(Debug, Clone)]
enum Happens {
    Send(usize),
    Acknowledge(usize),
    FailPassing(usize),
    FailForGood(usize),
    Look,
    LookFails,
    Store,
    SetAside,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (1_usize..6).prop_map(Happens::Send),
        6 => (0_usize..6).prop_map(Happens::Acknowledge),
        1 => (0_usize..6).prop_map(Happens::FailPassing),
        1 => (0_usize..6).prop_map(Happens::FailForGood),
        4 => Just(Happens::Look),
        1 => Just(Happens::LookFails),
        2 => Just(Happens::Store),
        1 => Just(Happens::SetAside),
    ]
}

/// Kafka as the partition sees it: rows that were appended, in order; what is in flight and not appended.
#[derive(Default)]
struct World {
    log: Vec<u64>,
    set_aside: Vec<u64>,
    /// Rows of the present producer that the broker has not seen, in order.
    under_way: VecDeque<u64>,
}

proptest! {
    /// Whatever happens: Kafka holds every row once, in order, but for those set aside; the cursor never
    /// stands above a row that is in neither place.
    #[test]
    fn partition_any_history_keeps_order_and_sends_once(history in proptest::collection::vec(happens(), 1..200)) {
        let mut now = Instant::now();
        let mut state = PartitionState::new(&cursor(0, None), Offset(0));
        let mut world = World::default();

        for step in history {
            now += Duration::from_secs(10);
            match step {
                Happens::Send(rows) => {
                    if !state.must_store_first() {
                        let before = state.unsent().0;
                        send(&mut state, rows, now);
                        world.under_way.extend(before..state.unsent().0);
                    }
                }
                Happens::Acknowledge(rows) => {
                    for _ in 0..rows {
                        let Some(row) = world.under_way.pop_front() else { break };
                        world.log.push(row);
                        let at = Offset(world.log.len() as u64 - 1);
                        let answered = state.acknowledged(Offset(row), at, now);
                        prop_assert!(answered.is_some() || world.set_aside.contains(&row));
                    }
                }
                Happens::FailPassing(appended) | Happens::FailForGood(appended) => {
                    // Some of what is under way was appended and its answer lost; then one fails.
                    for _ in 0..appended {
                        let Some(row) = world.under_way.pop_front() else { break };
                        world.log.push(row);
                    }
                    let Some(row) = world.under_way.front().copied() else {
                        // Everything was appended: the connection is lost all the same.
                        if state.oldest().is_some() {
                            state.failed(state.next(), false, "cut".to_owned(), now);
                            state.rebuilt();
                        }
                        continue;
                    };
                    let is_permanent = matches!(step, Happens::FailForGood(_));
                    state.failed(Offset(row), is_permanent, "refused".to_owned(), now);
                    world.under_way.clear();
                    state.rebuilt();
                }
                Happens::Look => {
                    if let Some((from, tail)) = state.begin_look(now) {
                        let tail = tail.map_or(world.log.len(), |tail| usize::try_from(tail.0).unwrap());
                        let mut next = from.0;
                        let mut found = tail as u64;
                        for (at, row) in world.log.iter().enumerate().skip(tail) {
                            if *row == next {
                                next += 1;
                                found = at as u64 + 1;
                            }
                        }
                        state.found(from, Offset(next), Offset(found));
                    }
                }
                Happens::LookFails => {
                    if state.begin_look(now).is_some() {
                        state.look_failed("away".to_owned(), now);
                    }
                }
                Happens::Store => {
                    if let Some(step) = state.unstored() {
                        prop_assert!(step.next >= step.from);
                        state.was_stored(&step);
                    }
                }
                Happens::SetAside => {
                    if let Phase::Stopped { at, .. } = state.phase().clone()
                        && at == state.next()
                    {
                        if let Some(step) = state.unstored() {
                            state.was_stored(&step);
                        }
                        world.set_aside.push(at.0);
                        let tail = state.stored.1.map(|tail| tail.0);
                        state.was_moved(&cursor(at.0 + 1, tail));
                    }
                }
            }
            let mut wanted: Vec<u64> = (0..).filter(|row| !world.set_aside.contains(row)).take(world.log.len()).collect();
            wanted.truncate(world.log.len());
            prop_assert_eq!(&world.log, &wanted);
            for row in 0..state.next().0 {
                prop_assert!(world.log.contains(&row) || world.set_aside.contains(&row));
            }
        }
    }
}
