//! The duplicate window (design D19): the event ids of the last records of a lane, in memory. Pure.
//!
//! Promises that an event id seen at a lower offset within the window is recognised, and that an event at the
//! very offset it was seen at before is not: that is a replay. It holds what the log brought, in the order of the
//! log: a record that is taken out of its turn, after it was parked, asks and leaves no trace.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::ids::{EventId, Offset};

/// Where an event was seen.
///
/// *Shape*: packed into 24 bytes, as each lane keeps thousands.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    event_id: EventId,
    /// The offset, and above it whether the event was known when it was seen here.
    place: u64,
}

/// A window that is full grows by this part of what it holds.
const GROWTH: usize = 8;

/// Above every offset: those have 40 bits in what is stored.
const KNOWN_BEFORE: u64 = 1 << 63;

impl Sighting {
    fn new(event_id: EventId, offset: Offset, was_known: bool) -> Self {
        Self { event_id, place: offset.0 | if was_known { KNOWN_BEFORE } else { 0 } }
    }

    const fn offset(self) -> u64 {
        self.place & !KNOWN_BEFORE
    }

    const fn was_known(self) -> bool {
        self.place & KNOWN_BEFORE != 0
    }
}

/// The last event ids of a lane.
#[derive(Debug)]
pub struct DuplicateWindow {
    capacity: usize,
    /// In the order of the log.
    order: VecDeque<Sighting>,
    /// The number of the oldest sighting that is kept; sightings are numbered as they come.
    first_number: u32,
    /// The numbers of the last sighting of each event.
    last: HashTable<u32>,
    hasher: RandomState,
}

impl DuplicateWindow {
    /// Makes an empty window for so many records.
    pub fn new(capacity: usize) -> Self {
        Self::expecting(capacity, 0)
    }

    /// The same, with room for as many as are about to come. All lanes fill their windows at once when a process
    /// starts, and what windows that grow give back piece by piece is used by nobody afterwards.
    pub fn expecting(capacity: usize, records: u64) -> Self {
        let expected = usize::try_from(records).unwrap_or(capacity).min(capacity);
        Self {
            capacity,
            order: VecDeque::with_capacity(expected),
            first_number: 0,
            last: HashTable::with_capacity(expected),
            hasher: RandomState::new(),
        }
    }

    /// Looks an event up and remembers it. Tells whether the same event is known to stand at a lower offset.
    /// Forgets nothing, so that a batch which is thought out again is answered the same;
    /// [`DuplicateWindow::trim`] forgets.
    pub fn check(&mut self, event_id: EventId, offset: Offset) -> bool {
        let newest = self.order.back().map(|sighting| sighting.offset());
        if newest.is_some_and(|newest| offset.0 <= newest) {
            return self.stands_below(event_id, offset);
        }
        // A duplicate keeps its event known: the window spans records, not first sightings.
        let number = self.first_number.wrapping_add(u32::try_from(self.order.len()).unwrap_or(u32::MAX));
        let Self { order, first_number, last, hasher, .. } = self;
        let id_of = |number: u32| id_at(order, *first_number, number);
        let hash = hasher.hash_one(event_id);
        let was_known = match last.find_mut(hash, |number| id_of(*number) == Some(event_id)) {
            Some(known) => {
                *known = number;
                true
            }
            None => {
                let hash_of = |number: &u32| id_of(*number).map_or(0, |event_id| hasher.hash_one(event_id));
                last.insert_unique(hash, number, hash_of);
                false
            }
        };
        if order.len() == order.capacity() {
            // By a part, not to the double: a lane holds its window for as long as it lives.
            order.reserve_exact(order.len() / GROWTH + 1);
        }
        order.push_back(Sighting::new(event_id, offset, was_known));
        was_known
    }

    /// Tells whether an event is known to stand at a lower offset, and remembers nothing: for records that the log
    /// brought long ago.
    pub fn stands_below(&self, event_id: EventId, offset: Offset) -> bool {
        let hash = self.hasher.hash_one(event_id);
        let is_it = |number: &u32| id_at(&self.order, self.first_number, *number) == Some(event_id);
        let Some(last) = self.last.find(hash, is_it) else { return false };
        let last = self.order.get(last.wrapping_sub(self.first_number) as usize);
        if last.is_some_and(|last| last.offset() < offset.0) {
            return true;
        }
        // Its last sighting is this one, or comes later: what was known here was noted here.
        let here = self.order.partition_point(|sighting| sighting.offset() < offset.0);
        match self.order.get(here).filter(|sighting| sighting.offset() == offset.0) {
            Some(here) if here.event_id == event_id => here.was_known(),
            _ => self.order.range(..here).any(|sighting| sighting.event_id == event_id),
        }
    }

    /// Forgets what lies before the window. Called once the records that were looked up are committed.
    pub fn trim(&mut self) {
        while self.order.len() > self.capacity {
            let Some(oldest) = self.order.front().copied() else { return };
            let hash = self.hasher.hash_one(oldest.event_id);
            let number = self.first_number;
            if let Ok(last) = self.last.find_entry(hash, |last| *last == number) {
                last.remove();
            }
            self.order.pop_front();
            self.first_number = number.wrapping_add(1);
        }
    }
}

/// Gives the event of a sighting by its number.
fn id_at(order: &VecDeque<Sighting>, first_number: u32, number: u32) -> Option<EventId> {
    order.get(number.wrapping_sub(first_number) as usize).map(|sighting| sighting.event_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    proptest! {
        #[test]
        fn window_any_stream_agrees_with_a_full_memory(ids in proptest::collection::vec(0_u128..40, 1..300), capacity in 1_usize..60) {
            let mut window = DuplicateWindow::new(capacity);
            let mut records: Vec<u128> = Vec::new();

            for (offset, id) in ids.iter().enumerate() {
                let offset = offset as u64;
                // What must be recognised: whatever stands among the last `capacity` records.
                let is_recent = records.iter().rev().take(capacity).any(|seen| seen == id);

                let found = window.check(EventId(Uuid::from_u128(*id)), Offset(offset));

                window.trim();
                prop_assert_eq!(found, is_recent);
                records.push(*id);
            }
        }

        #[test]
        fn window_asked_about_old_records_forgets_nothing(ids in proptest::collection::vec(0_u128..40, 1..300), old in proptest::collection::vec((0_u128..80, 0_u64..300), 1..50), capacity in 1_usize..60) {
            let mut window = DuplicateWindow::new(capacity);
            let mut undisturbed = DuplicateWindow::new(capacity);
            let mut old = old.into_iter().cycle();
            let mut kept: VecDeque<(u128, u64)> = VecDeque::new();

            for (offset, id) in ids.iter().enumerate() {
                let offset = offset as u64;
                let event_id = EventId(Uuid::from_u128(*id));
                prop_assert_eq!(window.check(event_id, Offset(offset)), undisturbed.check(event_id, Offset(offset)));
                window.trim();
                undisturbed.trim();
                kept.push_back((*id, offset));
                kept.drain(..kept.len().saturating_sub(capacity));
                let (asked, at) = old.next().unwrap();

                let stands_below = window.stands_below(EventId(Uuid::from_u128(asked)), Offset(at));

                // What stood before the window when a kept sighting was new is known by that sighting.
                let is_kept_below = kept.iter().any(|(id, offset)| *id == asked && *offset < at);
                let is_kept_here = kept.contains(&(asked, at));
                prop_assert!(stands_below || !is_kept_below);
                prop_assert!(!stands_below || is_kept_below || is_kept_here);
                window.trim();
            }
        }

        #[test]
        fn window_replay_at_same_offset_is_no_duplicate(ids in proptest::collection::vec(0_u128..1000, 1..50)) {
            let mut window = DuplicateWindow::new(100);
            let first: Vec<_> = ids.iter().enumerate().map(|(offset, id)| window.check(EventId(Uuid::from_u128(*id)), Offset(offset as u64))).collect();

            let again: Vec<_> = ids.iter().enumerate().map(|(offset, id)| window.check(EventId(Uuid::from_u128(*id)), Offset(offset as u64))).collect();

            prop_assert_eq!(first, again);
        }
    }
}
