//! The bookkeeping against every order of events, with a client played by the test.

use bytes::Bytes;
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{Partition, Topic};
use horizons_actors::record::{Headers, TimestampType};
use proptest::prelude::*;

use super::*;

const HERE: TopicPartition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(0) };
const LIMITS: BatchLimits = BatchLimits { records: 4, bytes: 1 << 20 };
const HOLD: Duration = Duration::from_millis(200);

fn record(offset: u64) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        timestamp: Timestamp::from_millis(1),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        headers: Headers::none(),
        payload: Some(Bytes::new()),
    }
}

fn started_at(from: u64) -> Holdings {
    let mut holdings = Holdings::default();
    holdings.assigned(&[HERE]);
    holdings.start(HERE, Incarnation(1), Offset(from));
    apply(&mut holdings);
    holdings
}

fn apply(holdings: &mut Holdings) -> Plan {
    let plan = holdings.plan();
    holdings.applied(&plan);
    plan
}

fn take(holdings: &mut Holdings, offset: u64) -> Taken {
    holdings.take(HERE, record(offset), LIMITS)
}

#[test]
fn plan_assigned_partition_is_not_fetched_until_a_lane_asks() {
    let mut holdings = Holdings::default();
    holdings.assigned(&[HERE]);
    assert!(holdings.plan().is_empty());
    assert_eq!(take(&mut holdings, 0), Taken::Dropped);

    holdings.start(HERE, Incarnation(1), Offset(5));

    assert_eq!(holdings.plan(), Plan { leave: vec![], enter: vec![(HERE, Offset(5))] });
    assert_eq!(take(&mut holdings, 5), Taken::Dropped, "the client was not told yet");
    apply(&mut holdings);
    assert!(holdings.plan().is_empty());
    assert_eq!(take(&mut holdings, 5), Taken::Kept);
}

#[test]
fn start_of_a_newer_incarnation_leaves_and_enters_again() {
    let mut holdings = started_at(0);
    assert_eq!(take(&mut holdings, 0), Taken::Kept);

    holdings.start(HERE, Incarnation(2), Offset(3));
    holdings.start(HERE, Incarnation(1), Offset(0));

    assert_eq!(apply(&mut holdings), Plan { leave: vec![HERE], enter: vec![(HERE, Offset(3))] });
    assert_eq!(take(&mut holdings, 2), Taken::Dropped);
    assert_eq!(take(&mut holdings, 4), Taken::Kept);
    let delivery = holdings.deliver(HERE, LIMITS).unwrap();
    assert_eq!((delivery.incarnation, delivery.from, delivery.next), (Incarnation(2), Offset(3), Offset(5)));
}

#[test]
fn stop_of_an_older_incarnation_changes_nothing() {
    let mut holdings = started_at(0);
    holdings.start(HERE, Incarnation(2), Offset(0));
    apply(&mut holdings);

    holdings.stop(HERE, Incarnation(1));
    assert!(holdings.plan().is_empty());
    holdings.stop(HERE, Incarnation(2));

    assert_eq!(apply(&mut holdings), Plan { leave: vec![HERE], enter: vec![] });
    assert_eq!(take(&mut holdings, 0), Taken::Dropped);
}

#[test]
fn hold_pauses_after_the_limit_and_enters_again_behind_what_waits() {
    let mut holdings = started_at(0);
    let start = Instant::now();
    take(&mut holdings, 0);
    take(&mut holdings, 7);

    holdings.held_back(HERE, start);
    holdings.held_back(HERE, start + HOLD / 2);
    holdings.pause_held(start + HOLD / 2, HOLD);
    assert!(holdings.paused().is_empty());
    assert_eq!(holdings.hold_ends_at(HOLD), Some(start + HOLD));
    holdings.pause_held(start + HOLD, HOLD);

    assert_eq!(holdings.paused(), vec![HERE]);
    assert_eq!(holdings.hold_ends_at(HOLD), None, "others are polled meanwhile");
    assert_eq!(apply(&mut holdings), Plan { leave: vec![HERE], enter: vec![] });
    let delivery = holdings.deliver(HERE, LIMITS).unwrap();
    assert_eq!((delivery.from, delivery.next), (Offset(0), Offset(8)));
    holdings.flowing(HERE, false);
    assert!(holdings.plan().is_empty(), "not before there is room for much");
    holdings.flowing(HERE, true);
    assert_eq!(apply(&mut holdings), Plan { leave: vec![], enter: vec![(HERE, Offset(8))] });
}

#[test]
fn take_back_after_a_newer_start_is_dropped() {
    let mut holdings = started_at(0);
    take(&mut holdings, 0);
    let delivery = holdings.deliver(HERE, LIMITS).unwrap();

    holdings.start(HERE, Incarnation(2), Offset(0));
    holdings.take_back(HERE, delivery);

    assert!(!holdings.is_waiting(HERE));
}

/// What happens in the property below.
#[derive(Debug, Clone, Copy)]
enum Step {
    Fetch(usize),
    Deliver(usize),
    HandBack(usize),
    Start(u64),
    Stop,
    Pause,
    Flow,
    Stale(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_usize..6).prop_map(Step::Fetch),
        4 => (1_usize..6).prop_map(Step::Deliver),
        1 => (1_usize..6).prop_map(Step::HandBack),
        1 => (0_u64..10).prop_map(Step::Start),
        1 => Just(Step::Stop),
        1 => Just(Step::Pause),
        2 => Just(Step::Flow),
        1 => (0_u64..50).prop_map(Step::Stale),
    ]
}

proptest! {
    /// The log holds the even offsets only. Whatever happens, each incarnation sees every record from where it
    /// asked, once, in order, in batches that join.
    #[test]
    fn deliver_any_history_is_whole_and_in_order(steps in proptest::collection::vec(step(), 0..80)) {
        let mut holdings = Holdings::default();
        holdings.assigned(&[HERE]);
        let mut client: Option<u64> = None;
        let mut incarnation = 0;
        let mut expected: Option<(u64, u64)> = None;
        let now = Instant::now();

        for step in steps {
            match step {
                Step::Fetch(count) => for _ in 0..count {
                    let Some(at) = client else { break };
                    let offset = at.next_multiple_of(2);
                    holdings.take(HERE, record(offset), LIMITS);
                    client = Some(offset + 1);
                },
                Step::Stale(offset) => {
                    if client.is_none_or(|at| offset < at) {
                        prop_assert_eq!(take(&mut holdings, offset), Taken::Dropped);
                    }
                }
                Step::Deliver(records) => {
                    if let Some(delivery) = holdings.deliver(HERE, BatchLimits { records, bytes: 1 << 20 }) {
                        let (from, record) = expected.unwrap();
                        prop_assert_eq!((delivery.from.0, delivery.incarnation.0), (from, incarnation));
                        let mut wanted = record;
                        for record in &delivery.cut.records {
                            prop_assert_eq!(record.offset.0, wanted);
                            wanted += 2;
                        }
                        expected = Some((delivery.next.0, wanted));
                    }
                }
                Step::HandBack(records) => {
                    if let Some(delivery) = holdings.deliver(HERE, BatchLimits { records, bytes: 1 << 20 }) {
                        holdings.take_back(HERE, delivery);
                    }
                }
                Step::Start(from) => {
                    incarnation += 1;
                    holdings.start(HERE, Incarnation(incarnation), Offset(from));
                    expected = Some((from, from.next_multiple_of(2)));
                }
                Step::Stop => {
                    holdings.stop(HERE, Incarnation(incarnation));
                    expected = None;
                }
                Step::Pause => {
                    holdings.held_back(HERE, now);
                    holdings.pause_held(now + HOLD, HOLD);
                }
                Step::Flow => holdings.flowing(HERE, !holdings.is_waiting(HERE)),
            }
            let plan = apply(&mut holdings);
            if !plan.leave.is_empty() {
                client = None;
            }
            if let Some((_, from)) = plan.enter.first() {
                prop_assert!(client.is_none(), "entered twice");
                client = Some(from.0);
            }
        }
    }
}
