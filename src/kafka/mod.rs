//! Apache Kafka: the event log, and publishing to it.

mod batch;
mod commits;
pub mod config;
pub mod error;
mod holdings;
pub mod names;
pub mod producer;
pub mod record;
pub mod relay;
