//! The test kit: everything a test needs to run Horizons' actors without a broker, a database or a cluster,
//! and to test services that speak to Horizons (feature `testkit`).
//!
//! Promises that the fakes keep the promises of the ports they stand for (fencing, order, all or nothing),
//! and that nothing here starts a thread or waits for real time: a whole system runs inside one tokio (or
//! actix) current-thread runtime under a paused clock. Does not promise durability or speed.
//!
//! | part | what it is for |
//! |---|---|
//! | [`EventBuilder`] | events and records with sensible values |
//! | [`Publisher`] | publishes them, one by one or in batches, and drives a job through its life |
//! | [`Capture`] | keeps what was published, to filter it and to assert about it |
//! | [`LatencyRecorder`] | P50, P95, P99, mean, standard deviation and throughput, per topic |
//! | [`MemoryStore`] | the database: `LaneStore`, `JobStore`, `QueryStore`, `RecordSource`; faults are scripted with [`StoreFaults`] |
//! | [`SimulatedLog`] | the event log with group members, rebalances, gaps and zombies |
//! | [`FakeScheduler`] | the scheduler, with attempts that a test starts, samples and ends |
//! | [`ManualClock`], [`SeededRandomness`] | time and randomness |
//! | [`wait_until`] | waiting for a condition, with a limit |

pub mod capture;
pub mod clock;
pub mod contract;
pub mod event;
pub mod latency;
pub mod memory_store;
pub mod publisher;
pub mod scheduler;
pub mod simulated_log;
pub mod wait;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use capture::{Capture, Captured, CapturedRecord};
pub use clock::{ManualClock, SeededRandomness};
pub use event::EventBuilder;
pub use latency::{LatencyRecorder, LatencySummary};
pub use memory_store::{CommittedTransaction, DeathSide, Fault, MemoryStore, StoreCall, StoreFaults};
pub use publisher::{DrivenJob, PublishError, Publisher};
pub use scheduler::{FakeScheduler, FakeSchedulerError, SchedulerVerdict};
pub use simulated_log::{BatchLimits, MemberId, RevocationEnd, SimulatedLog};
pub use wait::wait_until;

/// Locks; a panic of another holder is a failed test already, and must not hide its message.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
