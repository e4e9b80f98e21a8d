//! The lease of the relay, as rows of the writer's transaction (design D9).
//!
//! Promises what `OutboxStore` promises of it: it expires by the database's clock, and a new epoch is taken in the
//! transaction that gives every cursor to it. One of a process that has died on the same machine is taken over at
//! once.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};
use super::holder::Holder;

/// The lease's name among all.
const NAME: &str = "relay";

/// No epoch: they count from 1.
const NO_EPOCH: i64 = -1;

/// The number of a holding.
#[derive(QueryableByName)]
struct Holding {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// Who holds it.
#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = Nullable<Text>)]
    holder: Option<String>,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// Names a relay of this process.
fn named(relay: &str) -> Result<String, StoreError> {
    let process = Holder::this()
        .map_err(|error| StoreError::Broken(format!("failed to name this process: {error}")))?;
    Ok(format!("{process} {relay}"))
}

/// Gives a time in the database's unit.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Takes the lease, and gives its new epoch; none while another relay holds it.
pub(super) fn take_relay_lease(
    connection: &mut Connection,
    relay: &str,
    duration: Duration,
) -> Result<Option<i64>, StoreError> {
    let holder = named(relay)?;
    if let Some(epoch) = try_take(connection, &holder, duration, NO_EPOCH)? {
        return Ok(Some(epoch));
    }
    let found: Option<Held> = diesel::sql_query("SELECT holder, epoch FROM leases WHERE name = $1")
        .bind::<Text, _>(NAME)
        .get_result(connection)
        .optional()
        .map_err(engine)?;
    let is_dead = |holder: &str| Holder::parse(holder).is_some_and(|holder| holder.is_dead());
    match found {
        Some(Held { holder: Some(other), epoch }) if is_dead(&other) => {
            try_take(connection, &holder, duration, epoch)
        }
        _ => Ok(None),
    }
}

/// Takes the lease if nobody holds it, its time is over, or its holding is the one of `dead_epoch`.
fn try_take(
    connection: &mut Connection,
    holder: &str,
    duration: Duration,
    dead_epoch: i64,
) -> Result<Option<i64>, StoreError> {
    let taken: Option<Holding> = diesel::sql_query(
        "INSERT INTO leases AS l (name, holder, epoch, expires_at)
         VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond')
         ON CONFLICT (name) DO UPDATE
         SET holder = excluded.holder, epoch = l.epoch + 1, expires_at = excluded.expires_at
         WHERE l.holder IS NULL OR l.holder = excluded.holder OR l.expires_at <= clock_timestamp() OR l.epoch = $4
         RETURNING epoch",
    )
    .bind::<Text, _>(NAME)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(micros(duration))
    .bind::<BigInt, _>(dead_epoch)
    .get_result(connection)
    .optional()
    .map_err(engine)?;
    Ok(taken.map(|taken| taken.epoch))
}

/// Prolongs the lease; false when it is another's.
pub(super) fn renew_relay_lease(
    connection: &mut Connection,
    relay: &str,
    epoch: i64,
    duration: Duration,
) -> Result<bool, StoreError> {
    let changed = diesel::sql_query(
        "UPDATE leases SET expires_at = clock_timestamp() + $4 * interval '1 microsecond'
         WHERE name = $1 AND holder = $2 AND epoch = $3",
    )
    .bind::<Text, _>(NAME)
    .bind::<Text, _>(named(relay)?)
    .bind::<BigInt, _>(epoch)
    .bind::<BigInt, _>(micros(duration))
    .execute(connection)
    .map_err(engine)?;
    Ok(changed == 1)
}

/// Gives the lease back, if it is still held.
pub(super) fn release_relay_lease(
    connection: &mut Connection,
    relay: &str,
    epoch: i64,
) -> Result<(), StoreError> {
    diesel::sql_query(
        "UPDATE leases SET holder = NULL, expires_at = clock_timestamp()
         WHERE name = $1 AND holder = $2 AND epoch = $3",
    )
    .bind::<Text, _>(NAME)
    .bind::<Text, _>(named(relay)?)
    .bind::<BigInt, _>(epoch)
    .execute(connection)
    .map_err(engine)?;
    Ok(())
}
