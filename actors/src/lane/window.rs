//! The duplicate window (design D19): the event ids of the last records of a lane, in memory. Pure.
//!
//! Promises that an event id seen at a lower offset within the window is recognised, and that an event at the
//! very offset it was seen at before is not: that is a replay. It holds what the log brought, in the order of the
//! log: a record that is taken out of its turn, after it was parked, asks and leaves no trace.

use std::collections::{HashMap, VecDeque};

use crate::ids::{EventId, Offset};

/// The last event ids of a lane.
#[derive(Debug)]
pub struct DuplicateWindow {
    capacity: usize,
    order: VecDeque<(EventId, Offset)>,
    /// Where each event was seen first, and last.
    seen: HashMap<EventId, (Offset, Offset)>,
}

impl DuplicateWindow {
    /// Makes an empty window for so many records.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), seen: HashMap::new() }
    }

    /// Looks an event up and remembers it. Answers the lower offset at which the same event stands, if it
    /// is known to stand at one. Forgets nothing, so that a batch which is thought out again is answered
    /// the same; [`DuplicateWindow::trim`] forgets.
    pub fn check(&mut self, event_id: EventId, offset: Offset) -> Option<Offset> {
        let Some((first, last)) = self.seen.get_mut(&event_id) else {
            self.seen.insert(event_id, (offset, offset));
            self.order.push_back((event_id, offset));
            return None;
        };
        if *last < offset {
            // A duplicate keeps its event known: the window spans records, not first sightings.
            *last = offset;
            self.order.push_back((event_id, offset));
        }
        if *first < offset {
            return Some(*first);
        }
        *first = offset;
        None
    }

    /// Tells whether an event is known to stand at a lower offset, and remembers nothing: for records that the log
    /// brought long ago.
    pub fn stands_below(&self, event_id: EventId, offset: Offset) -> bool {
        self.seen.get(&event_id).is_some_and(|(first, _)| *first < offset)
    }

    /// Forgets what lies before the window. Called once the records that were looked up are committed.
    pub fn trim(&mut self) {
        while self.order.len() > self.capacity {
            if let Some((oldest, at)) = self.order.pop_front()
                && self.seen.get(&oldest).is_some_and(|(_, last)| *last == at)
            {
                self.seen.remove(&oldest);
            }
        }
    }
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
            let mut records: Vec<(u128, u64)> = Vec::new();

            for (offset, id) in ids.iter().enumerate() {
                let offset = offset as u64;
                // What must be recognised: whatever stands among the last `capacity` records.
                let recent = records.iter().rev().take(capacity).find(|(seen, _)| seen == id).map(|(_, first)| *first);

                let found = window.check(EventId(Uuid::from_u128(*id)), Offset(offset));

                window.trim();
                prop_assert_eq!(found, recent.map(Offset));
                records.push((*id, recent.unwrap_or(offset)));
            }
        }

        #[test]
        fn window_asked_about_old_records_forgets_nothing(ids in proptest::collection::vec(0_u128..40, 1..300), old in proptest::collection::vec((0_u128..80, 0_u64..300), 1..50), capacity in 1_usize..60) {
            let mut window = DuplicateWindow::new(capacity);
            let mut undisturbed = DuplicateWindow::new(capacity);
            let mut old = old.into_iter().cycle();

            for (offset, id) in ids.iter().enumerate() {
                let (id, offset) = (EventId(Uuid::from_u128(*id)), Offset(offset as u64));
                prop_assert_eq!(window.check(id, offset), undisturbed.check(id, offset));
                window.trim();
                undisturbed.trim();
                let (id, offset) = old.next().unwrap();
                let known = undisturbed.seen.get(&EventId(Uuid::from_u128(id)));

                let stands_below = window.stands_below(EventId(Uuid::from_u128(id)), Offset(offset));

                prop_assert_eq!(stands_below, known.is_some_and(|(first, _)| first.0 < offset));
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
