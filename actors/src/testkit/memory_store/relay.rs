//! The relay's lease, its cursors, and what operators set aside.
//!
//! Promises what [`OutboxStore`] promises to several relays at once; the lease ends by the process's own clock,
//! as a database's lease ends by the database's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::locked;
use super::faults::StoreCall;
use super::outbox::ends_after;
use super::{MemoryStore, State};
use crate::command::Command;
use crate::ids::{Epoch, Offset, Topic};
use crate::ports::Reply;
use crate::ports::log::RecordSource;
use crate::ports::outbox::{
    Cursor, CursorMove, KEPT_SENT_ROWS, OutboxHeads, OutboxPartition, OutboxRows, OutboxStore, RelayId,
    RelayLease, SetAsideAnswer, SetAsideRecord, WantedRows,
};
use crate::ports::page::Page;
use crate::ports::store::StoreError;
use crate::ports::wishes::Wished;
use crate::record::{LogRecord, OutgoingRecord};

/// Who holds the lease, and until when.
#[derive(Debug)]
struct Held {
    holder: RelayId,
    until: Instant,
}

/// The tables of the relay.
#[derive(Debug, Default)]
pub(super) struct RelayTables {
    held: Option<Held>,
    epoch: Epoch,
    cursors: BTreeMap<OutboxPartition, Cursor>,
    set_aside: Vec<SetAsideRecord>,
}

impl RelayTables {
    fn take(
        &mut self,
        holder: RelayId,
        duration: Duration,
        now: Instant,
        partitions: impl Fn(Topic) -> u16,
    ) -> Option<RelayLease> {
        let is_free = self.held.as_ref().is_none_or(|held| held.holder == holder || held.until <= now);
        if !is_free {
            return None;
        }
        self.held = Some(Held { holder, until: now + duration });
        self.epoch = self.epoch.following();
        for partition in OutboxPartition::all_of(partitions) {
            let fresh = Cursor { partition, next: Offset(0), tail: None, epoch: self.epoch };
            self.cursors.entry(partition).or_insert(fresh).epoch = self.epoch;
        }
        Some(RelayLease { epoch: self.epoch, cursors: self.cursors.values().copied().collect() })
    }

    /// Gives the first row of a partition that is not sent.
    pub(super) fn next(&self, partition: OutboxPartition) -> Offset {
        self.cursors.get(&partition).map(|cursor| cursor.next).unwrap_or_default()
    }

    fn is_held(&self, holder: RelayId, epoch: Epoch) -> bool {
        self.epoch == epoch && self.held.as_ref().is_some_and(|held| held.holder == holder)
    }

    fn advance(&mut self, epoch: Epoch, step: &CursorMove) -> Result<bool, StoreError> {
        let Some(cursor) = self.cursors.get_mut(&step.partition) else { return Ok(false) };
        if cursor.epoch != epoch || cursor.next != step.from {
            return Ok(false);
        }
        if step.next < step.from || cursor.tail.is_some_and(|tail| step.tail < tail) {
            let detail = format!("cursor of `{}` wanted to go back to {}", step.partition, step.next);
            return Err(StoreError::Broken(detail));
        }
        cursor.next = step.next;
        cursor.tail = Some(step.tail);
        Ok(true)
    }
}

impl OutboxStore for MemoryStore {
    fn outbox_heads(&self) -> Arc<OutboxHeads> {
        Arc::clone(&self.shared.outbox_heads)
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        RecordSource::refresh_heads(self)
    }

    fn take_lease(&self, holder: RelayId, duration: Duration) -> Reply<Option<RelayLease>, StoreError> {
        self.run_write(StoreCall::Lease, None, move |state| {
            let State { relay, layouts, outbox, .. } = state;
            let partitions = |topic: Topic| {
                let counted = layouts.get(&topic).map_or(topic.partitions(), |layout| layout.partitions());
                counted.max(outbox.begun(topic).unwrap_or_default())
            };
            Ok((relay.take(holder, duration, Instant::now(), partitions), Vec::new()))
        })
    }

    fn renew_lease(&self, holder: RelayId, epoch: Epoch, duration: Duration) -> Reply<bool, StoreError> {
        self.run_write(StoreCall::Lease, None, move |state| {
            let is_held = state.relay.is_held(holder, epoch);
            if is_held {
                state.relay.held = Some(Held { holder, until: Instant::now() + duration });
            }
            Ok((is_held, Vec::new()))
        })
    }

    fn release_lease(&self, holder: RelayId, epoch: Epoch) -> Reply<(), StoreError> {
        self.run_write(StoreCall::Lease, None, move |state| {
            if state.relay.is_held(holder, epoch) {
                state.relay.held = None;
            }
            Ok(((), Vec::new()))
        })
    }

    fn cursors(&self) -> Result<Vec<Cursor>, StoreError> {
        self.read_records(|_| ())?;
        Ok(locked(&self.shared.state).relay.cursors.values().copied().collect())
    }

    fn read_outbox(&self, wanted: &[WantedRows], max_bytes: usize) -> Result<Vec<OutboxRows>, StoreError> {
        self.read_records(|outbox| {
            let mut bytes = 0;
            let mut found: Vec<OutboxRows> = Vec::new();
            for WantedRows { partition, from, limit } in wanted {
                let mut rows: Vec<LogRecord> = Vec::new();
                for record in outbox.from(*partition, *from).take(*limit) {
                    bytes += record.weight_bytes();
                    let is_first = rows.is_empty() && found.is_empty();
                    if bytes > max_bytes && !is_first {
                        break;
                    }
                    rows.push(record.clone());
                }
                if !rows.is_empty() {
                    found.push(OutboxRows { partition: *partition, rows });
                }
                if bytes > max_bytes {
                    break;
                }
            }
            found
        })
    }

    fn advance_cursors(
        &self,
        epoch: Epoch,
        moves: Vec<CursorMove>,
    ) -> Reply<Vec<OutboxPartition>, StoreError> {
        self.run_write(StoreCall::AdvanceCursors, None, move |state| {
            let mut refused = Vec::new();
            for step in &moves {
                if !state.relay.advance(epoch, step)? {
                    refused.push(step.partition);
                }
            }
            Ok((refused, Vec::new()))
        })
    }

    fn set_aside(
        &self,
        command: Command,
        partition: OutboxPartition,
        offset: Offset,
        audit: OutgoingRecord,
    ) -> Reply<SetAsideAnswer, StoreError> {
        self.run_write(StoreCall::SetAside, None, move |state| {
            state.outbox.check(std::slice::from_ref(&audit))?;
            let next = state.relay.cursors.get(&partition).map_or(Offset(0), |cursor| cursor.next);
            let record = state.outbox.from(partition, offset).next().cloned();
            let (Some(cursor), Some(record)) = (state.relay.cursors.get_mut(&partition), record) else {
                return Ok((SetAsideAnswer::NotAtCursor { next }, Vec::new()));
            };
            if next != offset || record.offset != offset {
                return Ok((SetAsideAnswer::NotAtCursor { next }, Vec::new()));
            }
            cursor.next = offset.following();
            state.relay.set_aside.push(SetAsideRecord {
                partition,
                record,
                command_id: command.command_id.0,
                set_aside_at: command.requested_at,
            });
            state.relay.set_aside.sort_by_key(|kept| (kept.partition, kept.record.offset));
            state.jobs.commands.push(command);
            state.wished(Wished::Outbox(partition));
            state.outbox.append(&audit);
            Ok((SetAsideAnswer::Done, ends_after(std::slice::from_ref(&audit), &state.outbox)))
        })
    }

    fn set_aside_records_after(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        limit: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError> {
        self.run_read(StoreCall::Query, move |state| {
            let behind = state
                .relay
                .set_aside
                .iter()
                .filter(|kept| after.is_none_or(|after| (kept.partition, kept.record.offset) > after));
            Ok(Page::of(behind.cloned(), limit))
        })
    }

    fn remove_sent(&self, epoch: Epoch, limit: usize) -> Reply<u64, StoreError> {
        self.run_write(StoreCall::RemoveSent, None, move |state| {
            let mut left = limit as u64;
            if state.relay.epoch == epoch {
                for cursor in state.relay.cursors.values() {
                    let end = Offset(cursor.next.0.saturating_sub(KEPT_SENT_ROWS));
                    left -= state.outbox.remove_below(cursor.partition, end, left);
                }
            }
            Ok((limit as u64 - left, Vec::new()))
        })
    }
}
