//! The databases behind the store ports (design D7).
//!
//! Promises that every adapter here answers the ports of `horizons_actors::ports` alike; the same contract
//! tests run against each. Adapters never use one another.

pub mod error;
pub mod sqlite;
