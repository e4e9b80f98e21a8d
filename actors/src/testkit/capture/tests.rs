//! Filters and assertions, and what they say when they fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::*;
use crate::testkit::{EventBuilder, Fault, ManualClock, MemoryStore, StoreCall};

fn fixture() -> (MemoryStore, Arc<ManualClock>, Capture) {
    let store = MemoryStore::new();
    let clock = Arc::new(ManualClock::at(crate::testkit::event::DEFAULT_TIME));
    let capture = Capture::of(Arc::new(store.clone()), clock.clone());
    (store, clock, capture)
}

fn failure_of(assertion: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion has to fail");
    payload.downcast_ref::<String>().cloned().expect("failures are texts")
}

#[test]
fn filters_each_keep_what_they_name() {
    let (store, _clock, capture) = fixture();
    let correlation = CorrelationId(uuid::Uuid::from_u128(7));
    store.append(EventBuilder::job_running().job("a").user("ada").record()).unwrap();
    store.append(EventBuilder::job_running().job("b").user("bob").correlation(correlation).record()).unwrap();
    store.append(EventBuilder::job_metrics_recorded().job("a").user("ada").record()).unwrap();

    capture.all().assert_count(3);
    capture.all().of_type(EventType::JobRunning).assert_count(2);
    capture.all().of_job("a").of_topic(Topic::JobMetrics).assert_count(1);
    capture.all().of_user("bob").assert_count(1);
    capture.all().of_correlation(correlation).of_job("b").assert_published();
    capture.all().of_job("a").of_user("bob").assert_count(0);
}

#[test]
fn capture_poison_keeps_the_rejection() {
    let (store, _clock, capture) = fixture();
    let mut record = EventBuilder::job_running().record();
    record.payload = Some(Bytes::from_static(b"\xff"));
    store.append(record).unwrap();

    let poison = capture.all().poison();

    poison.assert_count(1);
    assert!(failure_of(|| poison.assert_count(0)).contains(" poison: malformed bytes"), "{poison:?}");
}

#[test]
fn assertion_that_fails_says_what_was_wanted_and_lists_what_there_is() {
    let (store, clock, capture) = fixture();
    clock.advance(Duration::from_millis(12));
    let partition = EventBuilder::job_running().job("a").record().partition;
    store.append(EventBuilder::job_running().job("a").record()).unwrap();
    store.append(EventBuilder::job_running().job("b").record()).unwrap();

    let text = failure_of(|| capture.all().of_job("a").assert_order(&[EventType::JobQueued]));

    let wanted = format!(
        "wanted exactly [job.queued] (job `a`), got 1 of 2 captured:\n  job-lifecycle-{partition}@0 job.running \
         job=a sequence=1 user=ada correlation=0193a1c0-0000-7000-8000-0000000000c1 after 12ms"
    );
    assert_eq!(text, wanted);
}

#[test]
fn assert_latency_bound_is_exact() {
    let (store, clock, capture) = fixture();
    clock.advance(Duration::from_millis(12));
    store.append(EventBuilder::job_running().record()).unwrap();

    capture.all().assert_latency_within(Duration::from_millis(12));
    let text = failure_of(|| capture.all().assert_latency_within(Duration::from_millis(11)));

    assert!(text.starts_with("wanted every record within 11ms (slowest 12ms)"), "{text}");
}

#[test]
fn assert_sequences_finds_a_hole_a_double_and_a_swap() {
    for (sequences, wanted) in [([1, 3], "sequence 2"), ([1, 1], "sequence 2"), ([2, 1], "sequence 3")] {
        let (store, _clock, capture) = fixture();
        for sequence in sequences {
            store.append(EventBuilder::job_running().sequence(sequence).record()).unwrap();
        }

        let text = failure_of(|| capture.all().assert_sequences_without_holes());

        assert!(text.starts_with(&format!("wanted {wanted} of job `job-1`")), "{text}");
    }
}

#[test]
fn capture_failed_read_is_made_up_for() {
    let (store, _clock, capture) = fixture();
    store.faults().script(StoreCall::ReadRecords, Fault::Unavailable);
    store.append(EventBuilder::job_running().record()).unwrap();

    let captured = capture.all();

    captured.assert_count(1);
    assert!(store.faults().calls(StoreCall::ReadRecords) >= 2);
}
