//! Horizons.

pub mod faults;
pub mod run_agent;
pub mod scheduler;
