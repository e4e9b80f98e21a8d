//! Which event log the store's rows are about (design D8).
//!
//! Promises that a store is never opened for another log than the one it remembers: positions, audit entries and
//! parked records would be taken for another log's.

use diesel::prelude::*;
use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::ids::LogId;
use horizons_actors::ports::store::StoreError;
use uuid::Uuid;

use super::engine::{Connection, engine};
use super::schema::store_identity;
use super::state;
use crate::db::log_choice::{LogChoice, is_on_kafka};

/// What came of the question.
#[derive(Debug)]
pub(super) enum Identity {
    /// The store is about this log.
    Settled(LogId),
    /// It is about another one.
    Other(LogId),
    /// It remembers none, and nobody can tell.
    Unknown,
}

/// Reads which log the store is about.
pub(super) fn read(connection: &mut Connection) -> Result<Option<LogId>, StoreError> {
    let text: Option<String> =
        store_identity::table.select(store_identity::log_id).first(connection).optional().map_err(engine)?;
    text.map(|text| state::parsed("log id", &text, LogId::parse)).transpose()
}

/// Reads which log the store is about, or decides it; inside a transaction that writes.
pub(super) fn settle(connection: &mut Connection, choice: &LogChoice) -> Result<Identity, StoreError> {
    let stored = read(connection)?;
    Ok(match (stored, choice) {
        (Some(stored), LogChoice::Embedded) if !is_on_kafka(&stored) => Identity::Settled(stored),
        (Some(stored), LogChoice::RememberedKafka) if is_on_kafka(&stored) => Identity::Settled(stored),
        (Some(stored), LogChoice::Kafka(wanted)) if stored == *wanted => Identity::Settled(stored),
        (Some(stored), LogChoice::Embedded | LogChoice::RememberedKafka | LogChoice::Kafka(_)) => {
            Identity::Other(stored)
        }
        (None, LogChoice::RememberedKafka) => Identity::Unknown,
        (None, LogChoice::Embedded) => {
            let made = Uuid::new_v4().to_string();
            Identity::Settled(store(connection, state::parsed("log id", &made, LogId::parse)?)?)
        }
        (None, LogChoice::Kafka(wanted)) => Identity::Settled(store(connection, wanted.clone())?),
    })
}

fn store(connection: &mut Connection, log_id: LogId) -> Result<LogId, StoreError> {
    diesel::insert_into(store_identity::table)
        .values((
            store_identity::one.eq(1),
            store_identity::log_id.eq(log_id.as_str()),
            store_identity::created_at.eq(SystemClock.now().as_micros()),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(log_id)
}
