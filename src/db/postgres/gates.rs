//! Taking the locks of a round (see `shared/locks.rs`).

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text};
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};
use super::fixed::run;
use super::locks::Wanted;
use crate::db::words::WordsRef;

/// Takes them, class by class, each in its order. What has no row yet is nobody's.
pub(super) fn take_locks(connection: &mut Connection, wanted: &Wanted<'_>) -> Result<(), StoreError> {
    if !wanted.names.is_empty() {
        // By the numbers, and not by the names: two names may have one number.
        let names: Vec<WordsRef<'_>> = wanted.names.iter().map(|name| WordsRef(name)).collect();
        let select = diesel::sql_query(
            "SELECT pg_advisory_xact_lock(number)
             FROM (SELECT DISTINCT hashtextextended(name, 0) AS number FROM unnest($1) AS n (name)
                   ORDER BY number OFFSET 0) AS numbers",
        )
        .bind::<Array<Text>, _>(names);
        select.execute(connection).map_err(engine)?;
    }
    if wanted.is_of_relay {
        let select = diesel::sql_query("SELECT 1 FROM leases WHERE name = 'relay' FOR UPDATE");
        run(connection, select).map_err(engine)?;
    }
    if !wanted.jobs.is_empty() {
        let jobs: Vec<&str> = wanted.jobs.iter().copied().collect();
        let select =
            diesel::sql_query("SELECT 1 FROM jobs WHERE job_id = ANY($1) ORDER BY job_id FOR UPDATE")
                .bind::<Array<Text>, _>(jobs);
        run(connection, select).map_err(engine)?;
    }
    if !wanted.lanes.is_empty() {
        let lanes: Vec<i64> = wanted.lanes.iter().copied().collect();
        let select =
            diesel::sql_query("SELECT 1 FROM progress WHERE lane = ANY($1) ORDER BY lane FOR UPDATE")
                .bind::<Array<BigInt>, _>(lanes);
        run(connection, select).map_err(engine)?;
    }
    Ok(())
}
