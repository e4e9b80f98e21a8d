//! How the engines carry out what the store asks of them, over tables that have grown.
//!
//! Each engine is given a store with many rows in every table that grows, then everything that lanes, the
//! orchestrator, the relay, operators and people ask is asked once or more. PostgreSQL itself tells of every statement
//! what it did (`auto_explain`), so that none is forgotten: none may walk a table that grows, and none may look at
//! more of an index than what it brings. SQLite tells how it would carry out what it was asked.

#![expect(clippy::panic, reason = "clippy knows test functions, but not what they share")]

/// The rows that are there beforehand.
mod fill;
mod postgres;
mod sqlite;
/// Everything that is asked.
mod used;

/// Rows of every table that grows.
fn rows() -> u64 {
    crate::process::count("HORIZONS_TEST_PLAN_ROWS", 20_000)
}

/// Tables that grow with events, jobs, or what goes wrong.
const GROWING: [&str; 18] = [
    "audit_bodies",
    "audit_entries",
    "audit_runs",
    "dead_letters",
    "gaps",
    "idempotency_keys",
    "job_aggregates",
    "job_events",
    "job_timeline",
    "job_views",
    "jobs",
    "log",
    "orders",
    "outbox_set_aside",
    "parked_keys",
    "parked_records",
    "refusals",
    "timers",
];
