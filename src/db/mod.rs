//! The databases behind the store ports (design D7).
//!
//! Promises that every adapter here answers the ports of `horizons_actors::ports` alike; the same contract
//! tests run against each. Adapters never use one another.
//!
//! What does not differ is written once, in `shared/`, and compiled by each engine's folder as a module of its own:
//! the same statements, with the engine's own types and its own cache. Such a file names only `super::engine`
//! (the connection, how rows are written in bulk, what a failure means), `super::link` (the writer's connection),
//! `super::numbers` and `super::store` of its engine.

mod bare_tables;
pub mod error;
pub mod fatal;
mod key;
pub mod log_choice;
mod outcome;
pub mod postgres;
mod profile;
pub mod sqlite;
mod words;

pub use profile::WriterTimes;
