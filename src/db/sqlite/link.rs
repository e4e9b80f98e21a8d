//! The writing thread's connection, and the write-ahead log that it keeps small.

use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use horizons_actors::ports::store::StoreError;

use super::checkpoint::WriteAheadLog;
use super::connection::empty_log_command;
use super::engine::Connection;
use super::numbers::EntryNumbers;
use crate::db::error::{Fault, fault_of};
use crate::db::fatal::FatalError;

/// The one connection that writes.
pub(super) struct Link {
    connection: Connection,
    wal: Arc<WriteAheadLog>,
}

impl Link {
    pub(super) const fn new(connection: Connection, wal: Arc<WriteAheadLog>) -> Self {
        Self { connection, wal }
    }

    /// Gives the connection, which is always there.
    pub(super) fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        Ok(&mut self.connection)
    }

    /// Gives how long a commit may take, if longer than the watchdog's time: it waits for the disk alone.
    pub(super) const fn commit_limit(&self) -> Duration {
        Duration::ZERO
    }

    /// Has nothing to look after when a round failed: the connection is part of this process.
    pub(super) const fn check(&self, _: &EntryNumbers) {}

    /// Notes that a round was committed.
    pub(super) fn committed(&self) {
        self.wal.written();
    }

    /// Begins the write-ahead log anew when it is long. Waits until it is in the file when it has become too large
    /// all the same; for a while only, as a reader of another process may hang.
    pub(super) fn after_round(&mut self) -> Result<(), FatalError> {
        if self.wal.is_too_large() {
            tracing::warn!("write-ahead log is at its limit: writing waits for the file");
            let emptied = self.connection.batch_execute(&empty_log_command());
            self.wal.waited();
            return judge(emptied);
        }
        judge(self.wal.begin_anew(&mut self.connection))
    }
}

/// Ends the process where the disk failed; any other failure only leaves the log as long as it is.
fn judge(moved: QueryResult<()>) -> Result<(), FatalError> {
    match moved {
        Ok(()) => Ok(()),
        Err(error) if fault_of(&error.to_string()) == Fault::Disk => Err(FatalError::Disk(error.to_string())),
        Err(error) => {
            tracing::warn!(%error, "failed to move the write-ahead log into the file");
            Ok(())
        }
    }
}
