//! Taking offsets of the log, for all partitions of a round at once (design D8).
//!
//! Promises that the ends are moved in the order given, which is that of topics and partitions: two processes
//! never wait for one another in a circle. The row of an end stays locked until the commit, so that the order of
//! offsets is the order of commits.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt};
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};
use super::fixed::Fixed;
use super::records::WantedOffsets;

/// A new end.
#[derive(QueryableByName)]
struct End {
    #[diesel(sql_type = BigInt)]
    topic: i64,
    #[diesel(sql_type = BigInt)]
    partition: i64,
    #[diesel(sql_type = BigInt)]
    next_offset: i64,
}

/// Moves the ends of partitions, in the order given, and gives the new ones.
pub(super) fn take_offsets(
    connection: &mut Connection,
    wanted: &[WantedOffsets],
) -> Result<Vec<u64>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let upsert = diesel::sql_query(
        "INSERT INTO log_head AS h (topic, partition, next_offset)
         SELECT topic, partition, taken FROM unnest($1, $2, $3) AS w (topic, partition, taken)
         ORDER BY topic, partition
         ON CONFLICT (topic, partition) DO UPDATE SET next_offset = h.next_offset + excluded.next_offset
         RETURNING topic, partition, next_offset",
    )
    .bind::<Array<BigInt>, _>(wanted.iter().map(|wanted| wanted.topic).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(wanted.iter().map(|wanted| wanted.count).collect::<Vec<_>>());
    let ends = Fixed(upsert).load::<End>(connection).map_err(engine)?;
    let ends: HashMap<(i64, i64), i64> =
        ends.into_iter().map(|end| ((end.topic, end.partition), end.next_offset)).collect();
    wanted
        .iter()
        .map(|wanted| {
            let end = ends.get(&(wanted.topic, wanted.partition)).copied();
            end.map(i64::cast_unsigned)
                .ok_or_else(|| StoreError::Broken("an end of the log was not moved".to_owned()))
        })
        .collect()
}
