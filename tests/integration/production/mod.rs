//! The production path under faults: the real program on a real Kafka and a real PostgreSQL (or SQLite), killed,
//! cut off, frozen and fooled; and a judge that reads only Kafka and the database.
//!
//! `docs/faults.md` lists the faults with their measured figures. Counts come from the environment, as
//! everywhere: `tests/run.sh --full` sets the full ones.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "what tests share fails them, and prints seeds and figures"
)]

mod acts;
mod brokers;
mod clients;
mod database;
mod disk;
mod doubt;
mod flood;
mod gaps;
mod kills;
mod lag;
mod layout;
mod letters;
mod life;
mod members;
mod outside;
mod partitioners;
mod relay;
mod secure;
mod stage;
mod transactions;
mod wire;
