//! The lease of the relay, inside the writer's transactions.

use std::time::Duration;

use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine};
use super::lease_row;

/// The one process that sends the outbox to Kafka.
const RELAY: &str = "relay";

/// Takes the lease of the relay unless another has it; gives an epoch above every earlier one.
pub(super) fn take_relay_lease(
    connection: &mut Connection,
    holder: &str,
    duration: Duration,
) -> Result<Option<i64>, StoreError> {
    let epoch = lease_row::take(connection, RELAY, holder, duration, None).map_err(engine)?;
    Ok(epoch.map(u64::cast_signed))
}

/// Prolongs the lease of the relay; false when it is another's.
pub(super) fn renew_relay_lease(
    connection: &mut Connection,
    holder: &str,
    epoch: i64,
    duration: Duration,
) -> Result<bool, StoreError> {
    lease_row::renew(connection, RELAY, holder, epoch.cast_unsigned(), duration).map_err(engine)
}

/// Gives the lease of the relay back.
pub(super) fn release_relay_lease(
    connection: &mut Connection,
    holder: &str,
    epoch: i64,
) -> Result<(), StoreError> {
    lease_row::release(connection, RELAY, holder, epoch.cast_unsigned()).map_err(engine)
}
