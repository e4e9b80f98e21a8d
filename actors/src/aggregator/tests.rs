//! The aggregator as a fold over events, whatever the batches.

use proptest::prelude::*;

use super::*;
use crate::event::JobStatus::{Completed, Failed, Queued, Running, Submitted};
use crate::jobs::fixture::{Rows, changed, event, event_id, job, pair, typed};

fn lane() -> Rows<MetricsAggregator> {
    Rows::new(MetricsAggregator)
}

fn sample(cpu: f64, memory: f64, io: u64, seconds: f64) -> JobMetricsRecorded {
    JobMetricsRecorded {
        cpu_usage_percent: cpu,
        memory_usage_mb: memory,
        io_operations: io,
        execution_time_seconds: seconds,
        attempt: Attempt(1),
        summary: false,
    }
}

fn summary(cpu: f64, memory: f64, io: u64, seconds: f64) -> JobMetricsRecorded {
    JobMetricsRecorded { summary: true, ..sample(cpu, memory, io, seconds) }
}

fn recorded(sequence: u64, measured: JobMetricsRecorded) -> Event {
    event(&job("a"), sequence, Payload::JobMetricsRecorded(measured))
}

fn row(lane: &Rows<MetricsAggregator>, attempt: u32) -> Option<&JobAggregate> {
    match lane.rows.get(&StateKey::JobAggregate(job("a"), Attempt(attempt))) {
        Some(StateValue::JobAggregate(row)) => Some(row),
        _ => None,
    }
}

fn count(lane: &Rows<MetricsAggregator>, status: JobStatus) -> u64 {
    match lane.rows.get(&StateKey::StatusCount(status)) {
        Some(StateValue::StatusCount(count)) => *count,
        _ => 0,
    }
}

#[test]
fn aggregator_samples_give_count_sum_and_extremes() {
    let mut lane = lane();

    let answers = lane.apply(&[
        recorded(1, sample(50.0, 100.0, 7, 1.0)),
        recorded(2, sample(100.0, 120.0, 5, 2.0)),
        recorded(3, sample(150.0, 80.0, 0, 3.0)),
    ]);

    assert_eq!(answers, [None, None, None]);
    let row = row(&lane, 1).expect("a row");
    assert_eq!(row.cpu_usage_percent, Aggregate { count: 3, sum: 300.0, min: 50.0, max: 150.0 });
    assert_eq!(row.memory_usage_mb, Aggregate { count: 3, sum: 300.0, min: 80.0, max: 120.0 });
    assert_eq!(row.io_operations, Aggregate { count: 3, sum: 12.0, min: 0.0, max: 7.0 });
    assert_eq!(row.execution_time_seconds, Aggregate { count: 3, sum: 6.0, min: 1.0, max: 3.0 });
    assert_eq!((row.last_sequence, row.updated_at, row.summary), (Some(Sequence(3)), lane.now, None));
    assert_eq!(row.cpu_usage_percent.mean(), Some(100.0));
}

#[test]
fn aggregator_attempts_are_kept_apart() {
    let mut lane = lane();

    lane.apply(&[
        recorded(1, sample(10.0, 1.0, 1, 1.0)),
        recorded(2, JobMetricsRecorded { attempt: Attempt(2), ..sample(30.0, 1.0, 1, 1.0) }),
    ]);

    assert_eq!(row(&lane, 1).expect("a row").cpu_usage_percent.mean(), Some(10.0));
    assert_eq!(row(&lane, 2).expect("a row").cpu_usage_percent.mean(), Some(30.0));
}

#[test]
fn aggregator_event_said_again_is_late_and_not_counted() {
    let (mut lane, job_id) = (lane(), job("a"));
    let sampled = [recorded(1, sample(50.0, 100.0, 7, 1.0)), recorded(2, sample(60.0, 90.0, 7, 1.0))];
    let entered =
        [changed(&job_id, 2, Submitted, Queued, 1, false), changed(&job_id, 4, Queued, Running, 1, false)];
    lane.apply(&sampled);
    lane.apply(&entered);

    let answers = lane.apply(&[sampled, entered].concat());

    assert_eq!(answers, [Some("late_sequence"); 4]);
    assert_eq!(row(&lane, 1).expect("a row").memory_usage_mb.count, 2);
    assert_eq!((count(&lane, Queued), count(&lane, Running)), (1, 1));
}

#[test]
fn aggregator_sequences_of_jobs_and_attempts_are_kept_apart() {
    let mut lane = lane();
    let second = JobMetricsRecorded { attempt: Attempt(2), ..sample(30.0, 1.0, 1, 1.0) };

    let answers = lane.apply(&[
        recorded(5, sample(10.0, 1.0, 1, 1.0)),
        recorded(6, second),
        event(&job("b"), 1, Payload::JobMetricsRecorded(sample(1.0, 1.0, 1, 1.0))),
        changed(&job("b"), 1, Submitted, Queued, 1, false),
        changed(&job("a"), 9, Submitted, Queued, 1, false),
    ]);

    assert_eq!(answers, [None; 5]);
    assert_eq!(count(&lane, Queued), 2);
}

#[test]
fn aggregator_summary_is_kept_beside_and_not_counted() {
    let mut lane = lane();

    let answers = lane.apply(&[
        recorded(1, sample(50.0, 100.0, 7, 1.0)),
        recorded(2, summary(40.0, 130.0, 9, 2.0)),
        recorded(3, summary(40.0, 130.0, 9, 2.0)),
        recorded(4, summary(41.0, 130.0, 9, 2.0)),
    ]);

    assert_eq!(answers, [None, None, None, Some("summary_repeated")]);
    let row = row(&lane, 1).expect("a row");
    assert_eq!(row.memory_usage_mb, Aggregate { count: 1, sum: 100.0, min: 100.0, max: 100.0 });
    let kept = row.summary.expect("totals");
    assert_eq!((kept.cpu_usage_percent, kept.memory_usage_mb), (40.0, 130.0));
    assert_eq!((kept.io_operations, kept.execution_time_seconds), (9, 2.0));
    assert_eq!(row.last_sequence, Some(Sequence(3)));
}

#[test]
fn aggregator_summary_without_samples_counts_nothing() {
    let mut lane = lane();

    lane.apply(&[recorded(1, summary(40.0, 130.0, 9, 2.0))]);

    let row = row(&lane, 1).expect("a row");
    assert_eq!(row.memory_usage_mb, Aggregate::default());
    assert_eq!(row.memory_usage_mb.mean(), None);
    assert_eq!(summary_differences(row), []);
}

#[test]
fn aggregator_value_that_cannot_be_measured_is_refused_and_the_next_applied() {
    let mut lane = lane();

    let answers = lane.apply(&[
        recorded(1, sample(f64::NAN, 1.0, 1, 1.0)),
        recorded(2, sample(1.0, f64::INFINITY, 1, 1.0)),
        recorded(3, summary(1.0, 1.0, 1, -1.0)),
        recorded(4, sample(f64::MAX, 1.0, 1, 1.0)),
        recorded(5, sample(f64::MAX, 1.0, 1, 1.0)),
        recorded(6, sample(0.0, 3.0, 1, 1.0)),
    ]);

    let invalid = Some("invalid_measurement");
    assert_eq!(answers, [invalid, invalid, invalid, None, Some("sum_overflows"), None]);
    let row = row(&lane, 1).expect("a row");
    assert_eq!(row.cpu_usage_percent, Aggregate { count: 2, sum: f64::MAX, min: 0.0, max: f64::MAX });
    assert_eq!(row.memory_usage_mb, Aggregate { count: 2, sum: 4.0, min: 1.0, max: 3.0 });
}

#[test]
fn aggregator_event_without_job_is_refused() {
    let mut lane = lane();
    let mut nobody = recorded(1, sample(1.0, 1.0, 1, 1.0));
    nobody.job_id = None;
    let mut unnumbered = changed(&job("a"), 2, Submitted, Queued, 1, false);
    unnumbered.sequence = None;

    assert_eq!(lane.apply(&[nobody, unnumbered]), [Some("field_missing"), Some("field_missing")]);
    assert!(lane.rows.is_empty());
}

#[test]
fn aggregator_pair_is_counted_once() {
    let (mut lane, job_id) = (lane(), job("a"));
    let mut life = vec![typed(&job_id, 1, Submitted, 0, false)];
    life.extend(pair(&job_id, 2, Submitted, Queued, 1, false));
    life.extend(pair(&job_id, 4, Queued, Running, 1, false));
    life.extend(pair(&job_id, 6, Running, Failed, 1, true));
    life.extend(pair(&job_id, 8, Failed, Queued, 2, false));
    lane.own(&life);

    let answers = lane.apply(&life);

    assert!(answers.iter().all(Option::is_none), "{answers:?}");
    let counts = JobStatus::ALL.map(|status| count(&lane, status));
    assert_eq!(counts, [1, 2, 1, 0, 1, 0]);
}

#[test]
fn aggregator_change_that_enters_nothing_is_not_counted() {
    let (mut lane, job_id) = (lane(), job("a"));

    let answers = lane.apply(&[
        changed(&job_id, 1, Running, Running, 1, false),
        changed(&job_id, 2, Submitted, Submitted, 1, false),
        changed(&job_id, 3, Running, Submitted, 1, false),
    ]);

    assert_eq!(answers, [None, None, None]);
    assert!(lane.rows.is_empty());
}

#[test]
fn aggregator_foreign_record_of_an_owned_job_is_not_counted() {
    let (mut lane, job_id) = (lane(), job("a"));
    let life = pair(&job_id, 2, Running, Completed, 1, false);
    lane.own(&life);
    let mut forged = changed(&job_id, 2, Running, Failed, 1, false);
    forged.event_id = event_id(&job("other"), 2);

    let answers = lane.apply(&[forged, life[0].clone(), life[1].clone()]);

    assert_eq!(answers, [Some("foreign_event"), None, None]);
    assert_eq!((count(&lane, Failed), count(&lane, Completed)), (0, 1));
}

/// A row: greatest memory, calls and run time of the samples, and what differs from 100 MiB, 100 calls, 100 s.
type Compared = (f64, u64, f64, &'static [(Quantity, Deviation)]);

const COMPARED: [Compared; 6] = [
    (100.0, 100, 100.0, &[]),
    (101.0, 101, 99.0, &[]),
    (102.0, 100, 100.0, &[(Quantity::MemoryUsageMb, Deviation::Above)]),
    (100.0, 90, 100.0, &[(Quantity::IoOperations, Deviation::Below)]),
    (100.0, 100, 98.0, &[(Quantity::ExecutionTimeSeconds, Deviation::Below)]),
    (
        50.0,
        200,
        103.0,
        &[
            (Quantity::MemoryUsageMb, Deviation::Below),
            (Quantity::IoOperations, Deviation::Above),
            (Quantity::ExecutionTimeSeconds, Deviation::Above),
        ],
    ),
];

#[test]
fn summary_that_differs_from_the_samples_is_reported() {
    for (memory, io, seconds, wanted) in COMPARED {
        let mut lane = lane();
        lane.apply(&[
            recorded(1, sample(5.0, memory, io, seconds)),
            recorded(2, sample(5.0, 1.0, 0, 1.0)),
            recorded(3, summary(90.0, 100.0, 100, 100.0)),
        ]);

        let differences = summary_differences(row(&lane, 1).expect("a row"));

        let got: Vec<_> = differences.iter().map(|found| (found.quantity, found.deviation)).collect();
        assert_eq!(got, wanted, "{memory} {io} {seconds}");
    }
}

/// Builds the aggregate of samples with whole numbers, whose sums are exact in any order.
fn aggregate(samples: &[u32]) -> Aggregate {
    let add = |sum: Aggregate, sample: &u32| sum.with(f64::from(*sample)).expect("whole numbers stay finite");
    samples.iter().fold(Aggregate::default(), add)
}

fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let measured = (0_u32..500, 0_u32..500, 0_u64..500, 0_u32..500, 1_u32..3, prop::bool::weighted(0.1));
    let metrics = measured.prop_map(|(cpu, memory, io, seconds, attempt, summary)| {
        Payload::JobMetricsRecorded(JobMetricsRecorded {
            attempt: Attempt(attempt),
            summary,
            ..sample(f64::from(cpu), f64::from(memory), io, f64::from(seconds))
        })
    });
    let status = || prop::sample::select(JobStatus::ALL.to_vec());
    let lifecycle = (status(), status())
        .prop_map(|(previous, current)| changed(&job("a"), 1, previous, current, 1, false).payload);
    prop::collection::vec(prop_oneof![3 => metrics, 1 => lifecycle], 1..80).prop_map(|payloads| {
        (1..).zip(payloads).map(|(sequence, payload)| event(&job("a"), sequence, payload)).collect()
    })
}

proptest! {
    #[test]
    fn aggregator_any_batch_boundaries_give_the_same_rows(events in any_events(), sizes in prop::collection::vec(1_usize..9, 1..20)) {
        let (mut whole, mut split) = (lane(), lane());

        let wanted = whole.apply(&events);
        let got = split.apply_in_batches(&events, &sizes);

        prop_assert_eq!(got, wanted);
        prop_assert_eq!(&split.rows, &whole.rows);
    }

    #[test]
    fn aggregator_rows_are_the_fold_of_the_samples(events in any_events()) {
        let mut lane = lane();

        lane.apply(&events);

        for attempt in [1, 2] {
            let samples: Vec<u32> = events
                .iter()
                .filter_map(|event| match &event.payload {
                    Payload::JobMetricsRecorded(measured) if !measured.summary && measured.attempt.0 == attempt => {
                        Some(measured.memory_usage_mb as u32)
                    }
                    _ => None,
                })
                .collect();
            let got = row(&lane, attempt).map(|row| row.memory_usage_mb).unwrap_or_default();
            prop_assert_eq!(got, aggregate(&samples));
        }
    }

    /// Against a memory of everything: no window stands before the behaviour here.
    #[test]
    fn aggregator_retry_however_late_has_no_second_effect(
        events in any_events(),
        retries in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..80), 1..20),
    ) {
        let (mut once, mut repeated) = (lane(), lane());
        let mut stream: Vec<(usize, bool, Event)> =
            events.iter().cloned().enumerate().map(|(place, event)| (place, false, event)).collect();
        for (which, later) in retries {
            let place = which.index(events.len());
            stream.push((place.saturating_add(later), true, events[place].clone()));
        }
        stream.sort_by_key(|(place, is_retry, _)| (*place, *is_retry));
        let stream: Vec<Event> = stream.into_iter().map(|(_, _, event)| event).collect();

        once.apply(&events);
        repeated.apply(&stream);

        prop_assert_eq!(&repeated.rows, &once.rows);
    }

    #[test]
    fn aggregate_merged_is_the_aggregate_of_all(left in prop::collection::vec(any::<u32>(), 0..30), right in prop::collection::vec(any::<u32>(), 0..30)) {
        let all: Vec<u32> = left.iter().chain(&right).copied().collect();

        let merged = aggregate(&left).merged(aggregate(&right));

        prop_assert_eq!(merged, aggregate(&all));
        prop_assert_eq!(merged, aggregate(&right).merged(aggregate(&left)));
    }

    #[test]
    fn aggregate_mean_lies_between_its_extremes(samples in prop::collection::vec(any::<u32>(), 1..50)) {
        let aggregate = aggregate(&samples);

        let mean = aggregate.mean().expect("there are samples");

        prop_assert!(aggregate.min <= mean && mean <= aggregate.max);
    }
}
