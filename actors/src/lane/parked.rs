//! The keys that are parked in a lane, and what operators want of them. Pure.

use std::collections::HashMap;

use bytes::Bytes;

use crate::lane::answer::Summary;
use crate::ports::store::{ParkedKeyState, ParkedWish};

/// Parked keys as committed.
#[derive(Debug, Default)]
pub(super) struct ParkedKeys(HashMap<Bytes, ParkedKeyState>);

impl ParkedKeys {
    /// Takes them as the store has them.
    pub(super) fn of(stored: Vec<ParkedKeyState>) -> Self {
        Self(stored.into_iter().map(|state| (state.key.clone(), state)).collect())
    }

    /// Counts the keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Counts the records that wait behind all of them.
    pub(super) fn records(&self) -> u64 {
        self.0.values().map(|key| key.records).sum()
    }

    /// Reports whether a key is parked.
    pub(super) fn has(&self, key: &Bytes) -> bool {
        self.0.contains_key(key)
    }

    /// Reports whether so many records wait behind a key as may.
    pub(super) fn is_full(&self, key: &Bytes, limit: u64) -> bool {
        self.0.get(key).is_some_and(|parked| parked.records >= limit)
    }

    /// Returns a key's state if an operator wants it to be drained.
    pub(super) fn to_drain(&self, key: &Bytes) -> Option<ParkedKeyState> {
        self.0.get(key).filter(|state| state.wish != ParkedWish::Wait).cloned()
    }

    /// Lists the keys that operators want to be drained.
    pub(super) fn all_to_drain(&self) -> Vec<Bytes> {
        self.0.values().filter(|key| key.wish != ParkedWish::Wait).map(|key| key.key.clone()).collect()
    }

    /// Reports whether there is one that is to be drained.
    pub(super) fn has_to_drain(&self) -> bool {
        self.0.values().any(|key| key.wish != ParkedWish::Wait)
    }

    /// Takes over what a committed transaction changed.
    pub(super) fn take_over(&mut self, summary: &Summary) {
        for parked in &summary.keys_parked {
            let records = self.0.get(&parked.key).map_or(0, |key| key.records);
            let (key, wish) = (parked.key.clone(), ParkedWish::Wait);
            self.0.insert(key.clone(), ParkedKeyState { key, head: parked.head, wish, records });
        }
        for (key, count) in &summary.records_parked {
            if let Some(parked) = self.0.get_mut(key) {
                parked.records += count;
            }
        }
        for (key, count) in &summary.records_unparked {
            if let Some(parked) = self.0.get_mut(key) {
                parked.records = parked.records.saturating_sub(*count);
            }
        }
        for key in &summary.keys_unparked {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{Effects, ParkedRecordId};
    use crate::ids::Offset;
    use crate::testkit::contract::sample;

    fn key() -> Bytes {
        Bytes::from_static(b"job-0")
    }

    fn parked(wish: ParkedWish) -> ParkedKeys {
        ParkedKeys::of(vec![ParkedKeyState { key: key(), head: Offset(3), wish, records: 2 }])
    }

    #[test]
    fn to_drain_is_what_an_operator_asked_for() {
        let rows = [(ParkedWish::Wait, false), (ParkedWish::Release, true), (ParkedWish::DiscardHead, true)];
        for (wish, expected) in rows {
            let parked = parked(wish);

            assert_eq!(parked.has_to_drain(), expected);
            assert_eq!(parked.to_drain(&key()).is_some(), expected);
            assert_eq!(parked.all_to_drain().len(), usize::from(expected));
        }
    }

    #[test]
    fn take_over_counts_records_and_forgets_what_was_asked_about_an_older_head() {
        let mut keys = parked(ParkedWish::Release);
        let records_unparked = vec![ParkedRecordId { key: key(), offset: Offset(3) }];

        keys.take_over(&Summary::of(&Effects { records_unparked, ..sample::parking("job-0", 4) }));

        assert!(!keys.has_to_drain() && keys.is_full(&key(), 2) && !keys.is_full(&key(), 3));
        assert_eq!((keys.len(), keys.records()), (1, 2));
        keys.take_over(&Summary::of(&Effects { keys_unparked: vec![key()], ..Effects::default() }));
        assert!(!keys.has(&key()));
    }
}
