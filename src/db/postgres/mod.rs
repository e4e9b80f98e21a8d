//! The production store: PostgreSQL behind one writing thread with group commit (design D7).
//!
//! Promises what `horizons_actors::ports::store` demands, in one schema of a database that several processes may
//! share: what is answered as committed is durable on the server; a lane is written by its newest owner alone,
//! whatever process that is in. Calls never block: writes wait in bounded queues, reads on threads of their own.
//! A server that is away is answered as such within a fraction of a second, and found again by itself.
//!
//! ```text
//! commands ─┐ bounded                     ┌─ heads, then answers
//!           ├─► writer thread ─► commit ──┤
//! lanes ────┘ (one transaction a round)   └─ connection ◄── connector thread, when it was lost
//! loads, queries ─► reader threads ─► pool of reading connections
//! ```

#![allow(clippy::duplicate_mod, reason = "what does not differ is compiled by each engine, see `db`")]

use super::{fatal, key, profile};

mod bare;
mod config;
mod connection;
mod engine;
mod errors;
mod fixed;
mod gates;
mod heads;
mod holder;
mod lease;
mod link;
mod migrate;
mod numbers;
mod progress;
mod scan;
mod store;

#[path = "../shared/audit_append.rs"]
mod audit_append;
#[path = "../shared/audit_query.rs"]
mod audit_query;
#[path = "../shared/effects.rs"]
mod effects;
#[path = "../shared/gaps.rs"]
mod gaps;
#[path = "../shared/identity.rs"]
mod identity;
#[path = "../shared/job_list.rs"]
mod job_list;
#[path = "../shared/jobs.rs"]
mod jobs;
#[path = "../shared/lane_operations.rs"]
mod lane_operations;
#[path = "../shared/lanes.rs"]
mod lanes;
#[path = "../shared/layouts.rs"]
mod layouts;
#[path = "../shared/locks.rs"]
mod locks;
#[path = "../shared/operation.rs"]
mod operation;
#[path = "../shared/outbox.rs"]
mod outbox;
#[path = "../shared/pages.rs"]
mod pages;
#[path = "../shared/parking.rs"]
mod parking;
#[path = "../shared/placing.rs"]
mod placing;
#[path = "../shared/ports.rs"]
mod ports;
#[path = "../shared/queries.rs"]
mod queries;
#[path = "../shared/query.rs"]
mod query;
#[path = "../shared/queue.rs"]
mod queue;
#[path = "../shared/readers.rs"]
mod readers;
#[path = "../shared/records.rs"]
mod records;
#[path = "../shared/round.rs"]
mod round;
#[path = "../shared/schema.rs"]
mod schema;
#[path = "../shared/source.rs"]
mod source;
#[path = "../shared/state.rs"]
mod state;
#[path = "../shared/state_rows.rs"]
mod state_rows;
#[path = "../shared/trials.rs"]
mod trials;
#[path = "../shared/wishes.rs"]
mod wishes;
#[path = "../shared/writer.rs"]
mod writer;

pub use bare::{BareCopy, checkpoint};
pub use config::{ConnectionUrl, Migrations, PostgresConfig, UnsafeServer};
pub use fatal::{EXIT_DISK_FAILED, FatalError, FatalHook};
pub use lease::{Lease, Taken};
pub use migrate::{migrate, remove_schema};
pub use profile::WriterTimes;
pub use store::{PostgresReader, PostgresStore};

#[cfg(test)]
mod tests;
