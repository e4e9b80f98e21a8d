//! The test kit: everything a test needs to run Horizons' actors without a broker, a database or a cluster.
//!
//! Promises that the fakes keep the promises of the ports they stand for (fencing, order, all or nothing),
//! and that nothing here starts a thread or waits for real time: a whole system runs inside one tokio (or
//! actix) current-thread runtime under a paused clock. Does not promise durability or speed.
//!
//! | part | stands for |
//! |---|---|
//! | [`MemoryStore`] | the database: `LaneStore`, `JobStore`, `QueryStore`, `RecordSource`; faults are scripted with [`StoreFaults`] |
//! | [`SimulatedLog`] | the event log with group members, rebalances, gaps and zombies |
//! | [`ManualClock`], [`SeededRandomness`] | time and randomness |

pub mod clock;
pub mod contract;
pub mod event;
pub mod memory_store;
pub mod simulated_log;
pub mod wait;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use clock::{ManualClock, SeededRandomness};
pub use event::EventBuilder;
pub use memory_store::{CommittedTransaction, Fault, MemoryStore, StoreCall, StoreFaults};
pub use simulated_log::{BatchLimits, MemberId, RevocationEnd, SimulatedLog};
pub use wait::wait_until;

/// Locks; a panic of another holder is a failed test already, and must not hide its message.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
