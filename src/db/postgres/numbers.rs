//! The numbers of audit entries.
//!
//! Promises that no two processes are given the same number: each takes whole blocks from a sequence. A block
//! that was taken over a connection that is gone is not used any more, as the server may have forgotten that it
//! gave it.

use std::cell::Cell;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};

/// Numbers of one block; the sequence counts in the same steps (`migrations/postgres`).
const BLOCK: i64 = 16_384;

/// What is left of a block.
#[derive(Debug, Default)]
pub(super) struct EntryNumbers {
    next: Cell<i64>,
    left: Cell<i64>,
}

/// A row with the first number of a block.
#[derive(QueryableByName)]
struct First {
    #[diesel(sql_type = BigInt)]
    first: i64,
}

impl EntryNumbers {
    /// Takes numbers that follow one another, as many as are wanted or fewer but at least one; gives the first
    /// and how many.
    pub(super) fn take(&self, connection: &mut Connection, wanted: i64) -> Result<(i64, i64), StoreError> {
        if self.left.get() == 0 {
            let block = diesel::sql_query("SELECT nextval('audit_entry_blocks') AS first")
                .get_result::<First>(connection)
                .map_err(engine)?;
            self.next.set(block.first);
            self.left.set(BLOCK);
        }
        let (first, count) = (self.next.get(), wanted.min(self.left.get()));
        self.next.set(first + count);
        self.left.set(self.left.get() - count);
        Ok((first, count))
    }

    /// Forgets what is left.
    pub(super) fn forget(&self) {
        self.left.set(0);
    }
}
