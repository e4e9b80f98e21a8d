//! The Kafka adapter against real brokers.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy knows test functions, but not what they share; figures are shown"
)]

mod gaps;
mod loss;
mod raw;
mod reading;
mod rebalance;
mod world;
