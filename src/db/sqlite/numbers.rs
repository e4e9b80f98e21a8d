//! The numbers of audit entries.
//!
//! Promises that they only grow, so that a commit that failed or may have failed gives none back.

use std::cell::Cell;

use diesel::dsl::max;
use diesel::prelude::*;
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};
use super::schema::{audit_bodies, audit_entries};

/// The number of the next entry.
#[derive(Debug)]
pub(super) struct EntryNumbers {
    next: Cell<i64>,
}

impl EntryNumbers {
    /// Reads where the tables end.
    pub(super) fn load(connection: &mut Connection) -> Result<Self, StoreError> {
        let entries: Option<i64> =
            audit_entries::table.select(max(audit_entries::entry)).first(connection).map_err(engine)?;
        // A body whose entry was removed keeps its number.
        let bodies: Option<i64> =
            audit_bodies::table.select(max(audit_bodies::entry)).first(connection).map_err(engine)?;
        Ok(Self { next: Cell::new(entries.max(bodies).unwrap_or(0).saturating_add(1)) })
    }

    /// Takes numbers that follow one another, as many as are wanted or fewer but at least one; gives the first
    /// and how many. One process writes, so here it is always all of them.
    pub(super) fn take(&self, _: &mut Connection, wanted: i64) -> Result<(i64, i64), StoreError> {
        let first = self.next.get();
        let next = first
            .checked_add(wanted)
            .ok_or_else(|| StoreError::Broken(format!("numbers of audit entries end at {first}")))?;
        self.next.set(next);
        Ok((first, wanted))
    }
}
