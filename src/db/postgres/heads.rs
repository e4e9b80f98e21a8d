//! Taking offsets of the log, and moving cursors over it, for all partitions of a round at once (design D8, D9).
//!
//! Promises that the ends are moved in the order given, which is that of topics and partitions: two processes
//! never wait for one another in a circle. Cursors are only moved by who has the lease. The row of an end stays locked until the commit, so that the order of
//! offsets is the order of commits.

use std::collections::{HashMap, HashSet};

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable};
use horizons_actors::ids::{Epoch, Offset};
use horizons_actors::ports::outbox::CursorMove;
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};
use super::fixed::Fixed;
use super::records::{Head, WantedOffsets};

/// A new end.
#[derive(QueryableByName)]
struct End {
    #[diesel(sql_type = BigInt)]
    topic: i64,
    #[diesel(sql_type = BigInt)]
    partition: i64,
    #[diesel(sql_type = BigInt)]
    next_offset: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    spread: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    held_at: Option<i64>,
}

/// Moves the ends of partitions, in the order given, and gives the new ones.
pub(super) fn take_offsets(
    connection: &mut Connection,
    wanted: &[WantedOffsets],
) -> Result<Vec<Head>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let upsert = diesel::sql_query(
        "INSERT INTO log_head AS h (topic, partition, next_offset)
         SELECT topic, partition, taken FROM unnest($1, $2, $3) AS w (topic, partition, taken)
         ORDER BY topic, partition
         ON CONFLICT (topic, partition) DO UPDATE SET next_offset = h.next_offset + excluded.next_offset
         RETURNING topic, partition, next_offset, spread, held_at",
    )
    .bind::<Array<BigInt>, _>(wanted.iter().map(|wanted| wanted.topic).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(wanted.iter().map(|wanted| wanted.count).collect::<Vec<_>>());
    let ends = Fixed(upsert).load::<End>(connection).map_err(engine)?;
    let head = |End { next_offset, spread, held_at, .. }: &End| Head {
        end: next_offset.cast_unsigned(),
        spread: *spread,
        held_at: *held_at,
    };
    let ends: HashMap<(i64, i64), Head> =
        ends.iter().map(|end| ((end.topic, end.partition), head(end))).collect();
    wanted
        .iter()
        .map(|wanted| {
            let end = ends.get(&(wanted.topic, wanted.partition)).copied();
            end.ok_or_else(|| StoreError::Broken("an end of the log was not moved".to_owned()))
        })
        .collect()
}

/// A cursor that was moved.
#[derive(QueryableByName)]
struct Moved {
    #[diesel(sql_type = BigInt)]
    topic: i64,
    #[diesel(sql_type = BigInt)]
    partition: i64,
}

/// Moves cursors whose epoch and place are the stored ones; tells of each whether it was moved. No partition comes
/// twice.
pub(super) fn advance_cursors(
    connection: &mut Connection,
    epoch: Epoch,
    moves: &[CursorMove],
) -> Result<Vec<bool>, StoreError> {
    let place =
        |step: &CursorMove| (i64::from(step.partition.topic.code()), i64::from(step.partition.partition.0));
    let of = |number: fn(&CursorMove) -> Offset| -> Vec<i64> {
        moves.iter().map(|step| number(step).0.cast_signed()).collect()
    };
    let (topics, partitions): (Vec<i64>, Vec<i64>) = moves.iter().map(place).unzip();
    let update = diesel::sql_query(
        "UPDATE outbox_cursors AS c SET next_offset = w.next_offset, tail_offset = w.tail_offset
         FROM unnest($2, $3, $4, $5, $6) AS w (topic, partition, from_offset, next_offset, tail_offset)
         WHERE c.topic = w.topic AND c.partition = w.partition AND c.epoch = $1
           AND c.next_offset = w.from_offset
         RETURNING c.topic, c.partition",
    )
    .bind::<BigInt, _>(epoch.0.cast_signed())
    .bind::<Array<BigInt>, _>(topics)
    .bind::<Array<BigInt>, _>(partitions)
    .bind::<Array<BigInt>, _>(of(|step| step.from))
    .bind::<Array<BigInt>, _>(of(|step| step.next))
    .bind::<Array<BigInt>, _>(of(|step| step.tail));
    let moved = Fixed(update).load::<Moved>(connection).map_err(engine)?;
    let moved: HashSet<(i64, i64)> = moved.into_iter().map(|row| (row.topic, row.partition)).collect();
    Ok(moves.iter().map(|step| moved.contains(&place(step))).collect())
}
