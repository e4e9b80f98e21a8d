//! The embedded store: SQLite behind one writing thread with group commit (design D7).
//!
//! Promises what `horizons_actors::ports::store` demands, on one file in a locked folder: what is answered as
//! committed is synced to disk, and a crash at any instant leaves the last commit. Calls never block: writes
//! wait in bounded queues, reads on threads of their own. Does not promise to find damage inside the file when
//! it is opened; the audit log's hashes find tampering later.
//!
//! ```text
//! commands ─┐ bounded                     ┌─ heads, then answers
//!           ├─► writer thread ─► commit ──┤
//! lanes ────┘ (one transaction a round)   └─ write-ahead log ◄── checkpointer thread
//! loads, queries ─► reader threads ─► pool of reading connections ◄── readers of the log
//! ```

use super::{fatal, key, profile};

mod bare;
mod checkpoint;
mod config;
mod connection;
mod engine;
mod folder;
mod link;
mod numbers;
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

pub use bare::BareInsert;
pub use config::{SqliteConfig, open_files};
pub use fatal::{EXIT_DISK_FAILED, FatalError, FatalHook};
pub use profile::WriterTimes;
pub use store::{SqliteReader, SqliteStore};

#[cfg(test)]
mod tests;
