//! The Kafka adapter against real brokers.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy knows test functions, but not what they share"
)]

mod corrupt;
mod gaps;
mod loss;
mod raw;
mod reading;
mod rebalance;
mod transactions;
mod world;
