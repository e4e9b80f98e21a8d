//! Batches, counts, failures and a job's life.

use super::*;
use crate::clock::Timestamp;
use crate::event::EventType;
use crate::testkit::{Capture, Fault, ManualClock, StoreCall};

fn fixture() -> (MemoryStore, Publisher, Capture) {
    let store = MemoryStore::new();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(5_000)));
    let capture = Capture::of(Arc::new(store.clone()), clock.clone());
    (store.clone(), Publisher::new(store, clock), capture)
}

#[tokio::test]
async fn publish_batch_counts_per_topic_and_measures() {
    let (_store, publisher, capture) = fixture();
    let events: Vec<Event> = EventBuilder::one_of_each().iter().map(EventBuilder::build).collect();

    let places = publisher.publish_batch(&events).await.unwrap();

    assert_eq!(places.len(), 11);
    assert_eq!(publisher.counts().values().copied().collect::<Vec<_>>(), vec![7, 1, 1, 1, 1]);
    assert_eq!(publisher.latencies().summary(std::time::Duration::from_secs(1)).count, 11);
    capture.all().poison().assert_count(0);
}

#[tokio::test]
async fn publish_one_bad_event_of_a_batch_publishes_none() {
    let (store, publisher, capture) = fixture();
    let good = EventBuilder::job_running().build();
    let bad = EventBuilder::job_running().change(|event| event.job_id = None).build();

    let answer = publisher.publish_batch(&[good, bad]).await;

    assert!(matches!(answer, Err(PublishError::Encode(_))), "{answer:?}");
    assert_eq!(store.faults().calls(StoreCall::AppendRecords), 0);
    assert_eq!((capture.all().count(), publisher.failures()), (0, 1));
}

#[tokio::test]
async fn publish_injected_failures_publish_nothing_and_the_retry_succeeds() {
    let (store, publisher, capture) = fixture();
    publisher.fail_next(1);
    store.faults().script(StoreCall::AppendRecords, Fault::Unavailable);
    let mut job = publisher.job("j1", "ada");

    let scripted = job.submit().await.unwrap_err();
    let store_away = job.submit().await.unwrap_err();
    job.submit().await.unwrap();

    assert!(scripted.is_transient() && store_away.is_transient());
    assert_eq!(publisher.failures(), 2);
    capture.all().of_job("j1").assert_order(&[EventType::JobSubmitted]);
}

#[tokio::test]
async fn job_driven_through_a_retry_to_its_end_keeps_sequences_attempts_and_pairs() {
    let (_store, publisher, capture) = fixture();
    let mut job = publisher.job("j1", "ada");

    job.submit().await.unwrap();
    job.queue().await.unwrap();
    job.run().await.unwrap();
    job.fail_and_retry().await.unwrap();
    job.queue().await.unwrap();
    job.run().await.unwrap();
    job.metrics(3).await.unwrap();
    job.summary().await.unwrap();
    job.complete().await.unwrap();

    let lifecycle = capture.all().of_job("j1").of_topic(Topic::JobLifecycle);
    lifecycle.assert_order(&[
        EventType::JobSubmitted,
        EventType::JobStatusChanged,
        EventType::JobQueued,
        EventType::JobStatusChanged,
        EventType::JobRunning,
        EventType::JobStatusChanged,
        EventType::JobFailed,
        EventType::JobStatusChanged,
        EventType::JobQueued,
        EventType::JobStatusChanged,
        EventType::JobRunning,
        EventType::JobStatusChanged,
        EventType::JobCompleted,
    ]);
    capture.all().of_job("j1").assert_sequences_without_holes();
    capture.all().of_correlation(job.correlation_id()).of_user("ada").assert_count(17);
    assert_eq!((job.status(), job.attempt()), (JobStatus::Completed, Attempt(2)));
    let retried = lifecycle.events().into_iter().filter(|event| match &event.payload {
        Payload::JobStatusChanged(changed) => changed.will_retry,
        Payload::JobFailed(failed) => failed.will_retry,
        _ => false,
    });
    assert_eq!(retried.count(), 2);
    assert_eq!(job.events().len(), 17);
}

#[tokio::test]
async fn job_cancelled_names_its_user() {
    let (_store, publisher, _capture) = fixture();
    let mut job = publisher.job("j1", "grace");
    job.submit().await.unwrap();

    job.cancel().await.unwrap();

    let last = job.events().last().map(|event| event.payload.clone());
    assert!(
        matches!(last, Some(Payload::JobCancelled(cancelled)) if cancelled.cancelled_by.as_str() == "grace")
    );
}

#[tokio::test]
async fn lag_without_commits_is_every_record() {
    let (store, publisher, _capture) = fixture();
    let log = SimulatedLog::over(Arc::new(store));
    let place = publisher.publish(&EventBuilder::job_running().build()).await.unwrap();

    let lag = publisher.lag(&log, &Group::jobs(), &[Topic::JobLifecycle]);

    let partition = TopicPartition { topic: Topic::JobLifecycle, partition: place.partition };
    assert_eq!(lag, BTreeMap::from([(partition, 1)]));
}
