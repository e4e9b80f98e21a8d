//! Where keys are at home: the stored epochs of a topic's layout.
//!
//! Promises that a topic has a first epoch from the moment its first lane is opened, and that none is ever
//! forgotten: a record is judged by the one that is in force at its offset.

use diesel::prelude::*;
use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::ids::{LogId, Offset, Topic};
use horizons_actors::layout::{Layout, LayoutEpoch};
use horizons_actors::ports::store::StoreError;

use super::engine::{Connection, engine, insert_or_ignore};
use super::schema::layout_epochs;
use crate::db::error::unreadable;

/// Reads a topic's layout, storing what it begins with if there is none. Inside a transaction that writes.
pub(super) fn read_or_make(
    connection: &mut Connection,
    log_id: &LogId,
    topic: Topic,
) -> Result<Layout, StoreError> {
    if let Some(layout) = read(connection, log_id, topic)? {
        return Ok(layout);
    }
    let first = Layout::first_of(topic);
    // Another process may store the same at the same time.
    insert_or_ignore!(connection, layout_epochs::table, columns(log_id, topic, 0, first.newest()));
    Ok(first)
}

/// Reads a topic's layout; none before its first lane was opened.
pub(super) fn read(
    connection: &mut Connection,
    log_id: &LogId,
    topic: Topic,
) -> Result<Option<Layout>, StoreError> {
    let rows: Vec<(i64, Vec<u8>)> = layout_epochs::table
        .filter(layout_epochs::log_id.eq(log_id.as_str()))
        .filter(layout_epochs::topic.eq(i64::from(topic.code())))
        .order(layout_epochs::epoch)
        .select((layout_epochs::partitions, layout_epochs::from_offsets))
        .load(connection)
        .map_err(engine)?;
    let mut epochs = rows.into_iter().map(|(partitions, from)| epoch(partitions, &from));
    let Some(first) = epochs.next() else { return Ok(None) };
    Ok(Some(Layout::new(topic, first?, epochs.collect::<Result<_, _>>()?)))
}

fn epoch(partitions: i64, from: &[u8]) -> Result<LayoutEpoch, StoreError> {
    let partitions = u16::try_from(partitions).map_err(|_| unreadable("partitions", partitions))?;
    let (offsets, rest) = from.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(unreadable("offsets of a layout", format_args!("{} bytes", from.len())));
    }
    let from = offsets.iter().map(|bytes| Offset(u64::from_be_bytes(*bytes))).collect();
    Ok(LayoutEpoch { partitions, from })
}

/// The columns of an epoch on their way into the table.
#[derive(Insertable)]
#[diesel(table_name = layout_epochs)]
struct Columns {
    log_id: String,
    topic: i64,
    epoch: i64,
    partitions: i64,
    from_offsets: Vec<u8>,
    adopted_at: i64,
}

fn columns(log_id: &LogId, topic: Topic, number: i64, epoch: &LayoutEpoch) -> Columns {
    Columns {
        log_id: log_id.as_str().to_owned(),
        topic: i64::from(topic.code()),
        epoch: number,
        partitions: i64::from(epoch.partitions),
        from_offsets: epoch.from.iter().flat_map(|offset| offset.0.to_be_bytes()).collect(),
        adopted_at: SystemClock.now().as_micros(),
    }
}
