//! The duplicate window (design D19): the event ids of the last records of a lane, in memory. Pure.
//!
//! Promises that an event id seen at a lower offset within the window is recognised, and that an event at the
//! very offset it was seen at before is not: that is a replay.

use std::collections::{HashMap, VecDeque};

use crate::ids::{EventId, Offset};

/// The last event ids of a lane.
#[derive(Debug)]
pub struct DuplicateWindow {
    capacity: usize,
    order: VecDeque<(EventId, Offset)>,
    first_seen: HashMap<EventId, Offset>,
}

impl DuplicateWindow {
    /// Makes an empty window for so many records.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), first_seen: HashMap::new() }
    }

    /// Looks an event up and remembers it. Answers the lower offset at which the same event stands, if it
    /// is known to stand at one.
    pub fn check(&mut self, event_id: EventId, offset: Offset) -> Option<Offset> {
        match self.first_seen.get(&event_id) {
            Some(seen) if *seen < offset => return Some(*seen),
            Some(seen) if *seen == offset => return None,
            _ => {}
        }
        self.first_seen.insert(event_id, offset);
        self.order.push_back((event_id, offset));
        while self.order.len() > self.capacity {
            if let Some((oldest, at)) = self.order.pop_front()
                && self.first_seen.get(&oldest) == Some(&at)
            {
                self.first_seen.remove(&oldest);
            }
        }
        None
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
            let mut firsts: Vec<(u128, u64)> = Vec::new();

            for (offset, id) in ids.iter().enumerate() {
                let offset = offset as u64;
                // What must be recognised: first sightings that no `capacity` newer first sightings pushed out.
                let recent = firsts.iter().rev().take(capacity).find(|(seen, _)| seen == id).map(|(_, at)| Offset(*at));

                let found = window.check(EventId(Uuid::from_u128(*id)), Offset(offset));

                prop_assert_eq!(found, recent);
                if found.is_none() {
                    firsts.push((*id, offset));
                }
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
