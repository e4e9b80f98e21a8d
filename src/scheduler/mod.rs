//! The adapters behind the core's scheduler port (requirement P7).
//!
//! Promises that each one keeps the contract of [`horizons_actors::ports::scheduler`]. Knows nothing of jobs,
//! events or the store.

pub mod elsewhere;
pub mod local;
