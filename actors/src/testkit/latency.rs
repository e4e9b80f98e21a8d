//! Measuring latencies in tests: the recorder, and timing by tokio's clock.
//!
//! Promises that under a paused clock the measured time is the simulated one, so that a bound in a test
//! never depends on the machine.

use tokio::time::Instant;

pub use crate::latency::{LatencyRecorder, LatencySummary};

use crate::ids::Topic;

impl LatencyRecorder {
    /// Runs a future and records how long it took, by tokio's clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use horizons_actors::ids::Topic;
    /// use horizons_actors::testkit::LatencyRecorder;
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    /// # runtime.block_on(async {
    /// let mut latencies = LatencyRecorder::default();
    ///
    /// latencies.time(Topic::JobMetrics, tokio::time::sleep(Duration::from_millis(5))).await;
    ///
    /// assert_eq!(latencies.summary(Duration::from_secs(1)).p99_ms, 5.0);
    /// # });
    /// ```
    ///
    /// *Cancel safety*: a dropped call records nothing.
    pub async fn time<T>(&mut self, topic: Topic, work: impl Future<Output = T>) -> T {
        self.time_batch(topic, 1, work).await
    }

    /// Runs a future that does a batch and records how long each of its events took: as long as the batch.
    ///
    /// *Cancel safety*: a dropped call records nothing.
    pub async fn time_batch<T>(&mut self, topic: Topic, events: usize, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let output = work.await;
        self.record_batch(topic, events, started.elapsed());
        output
    }
}
