//! The outbox relay against a real Kafka, each test with topics of its own.
//!
//! Promises to look only from outside: rows go in through the store's port, and what Kafka holds is read by a
//! consumer that knows nothing of the relay.

#![expect(clippy::panic, reason = "clippy knows test functions, but not what they share")]

/// Kills of the relay, inside this process and as a process of its own.
mod crash;
/// Brokers killed and frozen, connections cut.
mod faults;
/// What a record looks like on the other side.
mod headers;
/// Two relays and one lease.
mod lease;
/// How fast it is; run by hand.
mod measure;
/// Order and completeness without faults.
mod order;
/// Records that Kafka refuses for good.
mod refusal;
/// Stores, topics, rows, and the independent checker.
mod world;
