//! Two relays and one lease: the one that was frozen does nothing when it wakes.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use horizons_actors::command::Command;
use horizons_actors::ids::{Epoch, Offset};
use horizons_actors::ports::Reply;
use horizons_actors::ports::outbox::{
    Cursor, CursorMove, OutboxHeads, OutboxPartition, OutboxRows, OutboxStore, RelayId, RelayLease,
    SetAsideAnswer, SetAsideRecord, WantedRows,
};
use horizons_actors::ports::page::Page;
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::OutgoingRecord;
use horizons_actors::testkit::MemoryStore;

use super::world::{
    Expected, append, check, create_topics, new_prefix, relay_config, start_with, wait_sent, wait_status,
};
use crate::services::kafka::Kafka;
use crate::services::wait::wait_for;

/// Whether a relay is held.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    /// Whoever comes next is held.
    Shut,
    /// Somebody is.
    Holding,
}

/// A store that holds its relay between reading rows and handing them over: a process frozen at the worst time.
struct Freezable {
    inner: MemoryStore,
    heads: Arc<OutboxHeads>,
    gate: Mutex<Gate>,
    wake: Condvar,
}

impl Freezable {
    fn new(inner: MemoryStore) -> Arc<Self> {
        Arc::new(Self { inner, heads: Arc::default(), gate: Mutex::default(), wake: Condvar::new() })
    }

    fn set(&self, gate: Gate) {
        *self.gate.lock().unwrap() = gate;
        self.wake.notify_all();
    }

    fn gate(&self) -> Gate {
        *self.gate.lock().unwrap()
    }

    fn pass(&self) {
        let mut gate = self.gate.lock().unwrap();
        while *gate != Gate::Open {
            *gate = Gate::Holding;
            gate = self.wake.wait(gate).unwrap();
        }
    }
}

impl OutboxStore for Freezable {
    fn outbox_heads(&self) -> Arc<OutboxHeads> {
        // Its own, as another process has: one relay's listener must not replace the other's.
        Arc::clone(&self.heads)
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        self.heads.advance(self.inner.outbox_heads().ends(), std::time::Instant::now());
        Ok(())
    }

    fn take_lease(&self, holder: RelayId, duration: Duration) -> Reply<Option<RelayLease>, StoreError> {
        self.inner.take_lease(holder, duration)
    }

    fn renew_lease(&self, holder: RelayId, epoch: Epoch, duration: Duration) -> Reply<bool, StoreError> {
        self.inner.renew_lease(holder, epoch, duration)
    }

    fn release_lease(&self, holder: RelayId, epoch: Epoch) -> Reply<(), StoreError> {
        self.inner.release_lease(holder, epoch)
    }

    fn cursors(&self) -> Result<Vec<Cursor>, StoreError> {
        self.inner.cursors()
    }

    fn read_outbox(&self, wanted: &[WantedRows], max_bytes: usize) -> Result<Vec<OutboxRows>, StoreError> {
        let rows = self.inner.read_outbox(wanted, max_bytes);
        self.pass();
        rows
    }

    fn advance_cursors(
        &self,
        epoch: Epoch,
        moves: Vec<CursorMove>,
    ) -> Reply<Vec<OutboxPartition>, StoreError> {
        self.inner.advance_cursors(epoch, moves)
    }

    fn set_aside(
        &self,
        command: Command,
        partition: OutboxPartition,
        offset: Offset,
        audit: OutgoingRecord,
    ) -> Reply<SetAsideAnswer, StoreError> {
        self.inner.set_aside(command, partition, offset, audit)
    }

    fn set_aside_records_after(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        limit: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError> {
        self.inner.set_aside_records_after(after, limit)
    }

    fn remove_sent(&self, epoch: Epoch, limit: usize) -> Reply<u64, StoreError> {
        self.inner.remove_sent(epoch, limit)
    }
}

#[test]
fn relay_frozen_holder_is_replaced_and_does_nothing_when_it_wakes() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let store = MemoryStore::new();
    let (left, right) = (Freezable::new(store.clone()), Freezable::new(store.clone()));
    let mut expected = Expected::new();
    append(&store, &mut expected, 0, 2_000);
    let config = || horizons::kafka::relay::RelayConfig {
        writers: horizons::kafka::relay::Writers::Several,
        ..relay_config(kafka.bootstrap(), &prefix)
    };
    let (first, _) = start_with(left.clone(), config());
    wait_status(&first, "the first relay to lead", |status| status.is_leader());
    wait_sent(&store, &expected);
    let (second, _) = start_with(right, config());

    left.set(Gate::Shut);
    append(&store, &mut expected, 2_000, 4_000);
    wait_for("the first relay to be frozen with rows in its hands", || left.gate() == Gate::Holding);
    let held = store.cursors().unwrap().first().map(|cursor| cursor.epoch);
    wait_status(&second, "the second relay to take over", |status| status.is_leader());
    wait_sent(&store, &expected);
    left.set(Gate::Open);
    append(&store, &mut expected, 4_000, 6_000);
    wait_status(&first, "the woken relay to know that it lost", |status| !status.is_leader());
    wait_sent(&store, &expected);

    check(kafka.direct(), &prefix, &expected);
    let owner = store.cursors().unwrap().first().map(|cursor| cursor.epoch);
    assert!(owner > held, "the cursors belong to the second relay");
    assert_eq!(second.status().epoch, owner);
}

#[test]
fn relay_stopped_holder_gives_the_lease_to_the_other_at_once() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let store = MemoryStore::new();
    let mut expected = Expected::new();
    append(&store, &mut expected, 0, 1_000);
    let long = || horizons::kafka::relay::RelayConfig {
        lease: Duration::from_secs(30),
        writers: horizons::kafka::relay::Writers::Several,
        ..relay_config(kafka.bootstrap(), &prefix)
    };
    let (first, _) = start_with(Freezable::new(store.clone()), long());
    wait_status(&first, "the first relay to lead", |status| status.is_leader());
    let (second, _) = start_with(Freezable::new(store.clone()), long());
    wait_sent(&store, &expected);

    let begun = std::time::Instant::now();
    first.stop(Duration::from_secs(10));
    append(&store, &mut expected, 1_000, 2_000);
    wait_status(&second, "the second relay to lead", |status| status.is_leader());
    wait_sent(&store, &expected);

    assert!(begun.elapsed() < Duration::from_secs(20), "the lease was waited for, not given back");
    check(kafka.direct(), &prefix, &expected);
}
