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

mod audit_append;
mod audit_query;
mod bare;
mod checkpoint;
mod config;
mod connection;
mod effects;
mod folder;
mod jobs;
mod key;
mod lanes;
mod parking;
mod profile;
mod queries;
mod query;
mod queue;
mod readers;
mod records;
mod round;
mod schema;
mod source;
mod state;
mod store;
mod writer;

pub use bare::BareInsert;
pub use config::{EXIT_DISK_FAILED, FatalError, FatalHook, SqliteConfig};
pub use profile::WriterTimes;
pub use store::{SqliteReader, SqliteStore};

#[cfg(test)]
mod tests;
