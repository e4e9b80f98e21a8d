//! Real services for tests, and faults in front of them.
//!
//! Promises that a service which a test is given accepts connections, that nothing outlives the test process,
//! and that nothing is skipped: what cannot be started fails the test with its log. Files here use one another
//! by `super` only.

#![expect(clippy::panic, reason = "what tests share fails them")]

pub(crate) mod clients;
pub(crate) mod kafka;
mod kafka_tests;
mod partition_tests;
pub(crate) mod postgres;
mod postgres_faults;
pub(crate) mod promtool;
pub(crate) mod proxy;
mod proxy_connection;
mod proxy_tests;
pub(crate) mod segments;
pub(crate) mod tools;
mod topics;
pub(crate) mod wait;
