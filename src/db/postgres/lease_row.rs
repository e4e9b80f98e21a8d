//! The rows of leases: taken, renewed and given back by the database's clock, each by one statement.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::engine::Connection;

/// No epoch: the first holding has number 1.
const NO_EPOCH: i64 = 0;

/// A row with an epoch.
#[derive(QueryableByName)]
struct EpochRow {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// A row about a holder.
#[derive(QueryableByName)]
struct HolderRow {
    #[diesel(sql_type = Nullable<Text>)]
    holder: Option<String>,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// Gives a time in the database's unit.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Takes a lease that nobody holds, that expired, or whose holding `dead_epoch` is known to be over; gives the
/// number of the new holding.
pub(super) fn take(
    connection: &mut Connection,
    name: &str,
    holder: &str,
    time: Duration,
    dead_epoch: Option<u64>,
) -> QueryResult<Option<u64>> {
    let taken = diesel::sql_query(
        "INSERT INTO leases AS l (name, holder, epoch, expires_at)
         VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond')
         ON CONFLICT (name) DO UPDATE
         SET holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at
         WHERE l.holder IS NULL OR l.holder = excluded.holder OR l.expires_at <= clock_timestamp() OR l.epoch = $4
         RETURNING epoch",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(micros(time))
    .bind::<BigInt, _>(dead_epoch.map_or(NO_EPOCH, u64::cast_signed))
    .get_result::<EpochRow>(connection)
    .optional()?;
    Ok(taken.map(|row| row.epoch.cast_unsigned()))
}

/// Gives who holds a lease, and the number of the holding.
pub(super) fn holder(connection: &mut Connection, name: &str) -> QueryResult<Option<(String, u64)>> {
    let found = diesel::sql_query("SELECT holder, epoch FROM leases WHERE name = $1")
        .bind::<Text, _>(name)
        .get_result::<HolderRow>(connection)
        .optional()?;
    Ok(found.and_then(|row| row.holder.map(|holder| (holder, row.epoch.cast_unsigned()))))
}

/// Prolongs a holding; false when it is over. One that expired and that nobody else took goes on.
pub(super) fn renew(
    connection: &mut Connection,
    name: &str,
    holder: &str,
    epoch: u64,
    time: Duration,
) -> QueryResult<bool> {
    let changed = diesel::sql_query(
        "UPDATE leases SET expires_at = clock_timestamp() + $4 * interval '1 microsecond'
         WHERE name = $1 AND holder = $2 AND epoch = $3",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(epoch.cast_signed())
    .bind::<BigInt, _>(micros(time))
    .execute(connection)?;
    Ok(changed == 1)
}

/// Gives a holding back; one that is over already is left.
pub(super) fn release(connection: &mut Connection, name: &str, holder: &str, epoch: u64) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE leases SET holder = NULL, expires_at = clock_timestamp()
         WHERE name = $1 AND holder = $2 AND epoch = $3",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(epoch.cast_signed())
    .execute(connection)
    .map(|_| ())
}
