//! What the core needs from outside, as traits that adapters and fakes implement alike.
//!
//! Promises that a call only queues work and gives back a future: no port ever blocks the caller's thread.
//! The future may be dropped at any time; the work may then happen or not, as after a crash.

pub mod commands;
pub mod log;
pub mod outbox;
pub mod output;
pub mod page;
pub mod query;
pub mod relay;
pub mod scheduler;
pub mod store;
pub mod wishes;
pub mod witness;

use futures_util::future::BoxFuture;

/// The answer of a port, later.
pub type Reply<T, E> = BoxFuture<'static, Result<T, E>>;

/// An error that knows whether the same call may succeed later.
pub trait PortError: std::error::Error {
    /// Tells whether the same call may succeed later.
    fn is_transient(&self) -> bool;
}

impl PortError for store::StoreError {
    fn is_transient(&self) -> bool {
        store::StoreError::is_transient(self)
    }
}

impl PortError for log::LogError {
    fn is_transient(&self) -> bool {
        log::LogError::is_transient(self)
    }
}
