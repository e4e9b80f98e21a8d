//! Why a store demands that the process ends.

use std::sync::Arc;

use crate::exit::{Exit, end_now};

/// Exit code when the disk refused to make a commit durable: what is on it cannot be known any more.
pub const EXIT_DISK_FAILED: i32 = Exit::NotDurable.code() as i32;

/// Why the store demands that the process ends.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FatalError {
    /// A write or sync to disk failed while a commit was made durable, or while the log was moved into the
    /// file. A second try may succeed without the data being there.
    #[error("disk failed to make data durable: {0}")]
    Disk(String),
    /// Another process has the lease that this one needs to work.
    #[error("another process has taken lease `{0}`")]
    LeaseLost(&'static str),
    /// The writing thread panicked.
    #[error("the store's writer panicked: {0}")]
    Panicked(String),
}

/// Called once when the process must end; it should not come back outside tests.
pub type FatalHook = Arc<dyn Fn(&FatalError) + Send + Sync>;

/// Gives the hook that ends the process with its own code.
pub(super) fn end_process() -> FatalHook {
    Arc::new(|error| {
        tracing::error!(%error, "store cannot go on: the process ends");
        end_now(Exit::NotDurable)
    })
}
