//! The writing thread's connection, and the write-ahead log that it keeps small.

use std::sync::Arc;

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

    /// Has nothing to look after when a round failed: the connection is part of this process.
    pub(super) const fn check(&self, _: &EntryNumbers) {}

    /// Notes that a round was committed.
    pub(super) fn committed(&self) {
        self.wal.written();
    }

    /// Waits until the write-ahead log is in the file, when it has become too large; for a while only, as a reader
    /// of another process may hang.
    pub(super) fn after_round(&mut self) -> Result<(), FatalError> {
        if !self.wal.is_too_large() {
            return Ok(());
        }
        tracing::warn!("write-ahead log is at its limit: writing waits for the file");
        let emptied = self.connection.batch_execute(&empty_log_command());
        self.wal.waited();
        match emptied {
            Ok(()) => Ok(()),
            Err(error) if fault_of(&error.to_string()) == Fault::Disk => {
                Err(FatalError::Disk(error.to_string()))
            }
            Err(error) => {
                tracing::warn!(%error, "failed to empty the write-ahead log");
                Ok(())
            }
        }
    }
}
