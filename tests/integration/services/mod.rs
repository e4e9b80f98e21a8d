//! Real services for tests, and faults in front of them.
//!
//! Promises that a service which a test is given accepts connections, that nothing outlives the test process,
//! and that nothing is skipped: what cannot be started fails the test with its log. Files here use one another
//! by `super` only.

#![expect(clippy::panic, reason = "what tests share fails them")]

pub(crate) mod kafka;
pub(crate) mod postgres;
pub(crate) mod proxy;
mod proxy_connection;
#[cfg(test)]
mod proxy_tests;
pub(crate) mod wait;
