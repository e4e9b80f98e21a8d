//! Everything that looks at Horizons from outside, with real processes, files and services: one binary, one
//! file or folder per feature or situation.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails fails its test, and the lints know test functions only"
)]

/// The rules of the house that a compiler does not know.
mod architecture;
/// Where audit entries stand in the SQLite store, and what tampering with that leaves to be found.
mod audit_runs;
/// The benchmark on real services.
mod benchmark;
/// The program as a person starts it: arguments, output, exit codes, and what client commands send.
mod cli;
/// Files, variables and defaults, and the documents that describe them.
mod config;
/// The documents: links, paths, commands, and lists that must be complete.
mod documents;
/// The HTTP interface over real connections: every route, every refusal, limits on clients.
mod http;
/// The Kafka adapter against real brokers: reading, gaps, rebalances, losses.
mod kafka;
/// The local scheduler: attempts as child processes under their shim; limits, ends, crashes, restarts.
mod local_scheduler;
/// How SQLite and PostgreSQL carry out what the store asks, over tables that have grown.
mod plans;
/// The PostgreSQL store's schema, roles, leases, and what it does in outages.
mod postgres_store;
/// The program as a process under load, kills, damage and bad input.
mod process;
/// The program on a real Kafka and a real PostgreSQL, while these and it itself fail.
mod production;
/// The outbox relay against a real Kafka: order, completeness, crashes, faults, refusals, leases.
mod relay;
/// Real services, and faults in front of them; with the tests of both.
mod services;
/// The SQLite store's file, folder, limits and triggers.
mod store;
