//! The compare-and-set of progress, for all lanes of a round at once (design D2).
//!
//! Promises that rows are locked in order of lane, so that two processes that both believe to own the same
//! lanes never wait for one another in a circle.

use std::collections::{HashMap, HashSet};

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Nullable};
use horizons_actors::ports::store::{LaneTransaction, StoreError};

use super::engine::{Connection, engine};
use super::lanes::{self, Ownership, Seen};

/// Moves the progress of lanes whose fence and position are the stored ones; gives what became of each.
pub(super) fn advance(
    connection: &mut Connection,
    transactions: &[(i64, &LaneTransaction)],
) -> Result<Vec<Ownership>, StoreError> {
    let mut owned = vec![Ownership::Fenced; transactions.len()];
    let mut left: Vec<usize> = (0..transactions.len()).collect();
    // One statement changes a row once: a lane's second transaction is tried after its first.
    while !left.is_empty() {
        let mut seen = HashSet::new();
        let (now, later): (Vec<usize>, Vec<usize>) = left
            .into_iter()
            .partition(|index| transactions.get(*index).is_some_and(|(lane, _)| seen.insert(*lane)));
        let moved = Advance::of(now.iter().filter_map(|index| transactions.get(*index)))
            .load::<Moved>(connection)
            .map_err(engine)?;
        let moved: HashMap<i64, Seen> = moved
            .into_iter()
            .map(|(lane, size, due_at)| {
                (lane, Seen { audit_size: Some(size.unwrap_or(0)), next_timer: Some(due_at) })
            })
            .collect();
        for index in now {
            if let (Some((lane, transaction)), Some(owned)) = (transactions.get(index), owned.get_mut(index))
                && let Some(seen) = moved.get(lane)
            {
                lanes::check_forward(transaction)?;
                *owned = Ownership::Owned(*seen);
            }
        }
        left = later;
    }
    Ok(owned)
}

/// What the statement gives of a lane whose progress it has moved: its number, the size of its audit log and when
/// its earliest timer falls due.
type Moved = (i64, Option<i64>, Option<i64>);

/// The statement, which is prepared once for any number of lanes.
#[derive(Default)]
struct Advance {
    lanes: Vec<i64>,
    epochs: Vec<i64>,
    revisions: Vec<i64>,
    from: Vec<Option<i64>>,
    next: Vec<i64>,
    fingerprints: Vec<Option<Vec<u8>>>,
}

impl Advance {
    fn of<'a>(transactions: impl Iterator<Item = &'a (i64, &'a LaneTransaction)>) -> Self {
        let mut statement = Self::default();
        for (lane, transaction) in transactions {
            statement.lanes.push(*lane);
            statement.epochs.push(transaction.fence.epoch.0.cast_signed());
            statement.revisions.push(transaction.fence.revision.0.cast_signed());
            statement.from.push(transaction.from.map(|offset| offset.0.cast_signed()));
            statement.next.push(transaction.next.0.cast_signed());
            statement.fingerprints.push(transaction.last_fingerprint.map(|print| print.to_vec()));
        }
        statement
    }
}

impl QueryId for Advance {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Advance {
    type SqlType = (BigInt, Nullable<BigInt>, Nullable<BigInt>);
}

impl RunQueryDsl<Connection> for Advance {}

impl QueryFragment<Pg> for Advance {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH claim AS MATERIALIZED (SELECT * FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.lanes)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.epochs)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.revisions)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<BigInt>>, _>(&self.from)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.next)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.fingerprints)?;
        out.push_sql(
            ") AS c (lane, epoch, revision, from_offset, next_offset, print)),
            held AS MATERIALIZED (
                SELECT p.lane FROM progress AS p JOIN claim AS c ON c.lane = p.lane ORDER BY p.lane FOR UPDATE OF p
            )
            UPDATE progress AS p
            SET revision = p.revision + 1,
                next_offset = c.next_offset,
                starts_at_next = CASE WHEN p.next_offset = c.next_offset THEN p.starts_at_next ELSE 0 END,
                starts_aside = CASE WHEN p.next_offset = c.next_offset THEN 0 ELSE p.starts_aside END,
                last_fingerprint = coalesce(c.print, p.last_fingerprint)
            FROM claim AS c JOIN held AS h ON h.lane = c.lane
            WHERE p.lane = c.lane AND p.owner_epoch = c.epoch AND p.revision = c.revision
              AND p.next_offset IS NOT DISTINCT FROM c.from_offset
            RETURNING p.lane,
                      (SELECT a.size FROM audit_logs AS a WHERE a.lane = p.lane),
                      (SELECT min(t.due_at) FROM timers AS t WHERE t.lane = p.lane)",
        );
        Ok(())
    }
}
