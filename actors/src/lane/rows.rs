//! The rows of state that a lane keeps in memory. Pure.
//!
//! Promises that what is kept is what the last transaction left: rows that only this lane writes stay, those that
//! others write are loaded anew for every transaction.

use std::collections::HashMap;

use crate::ids::JobId;
use crate::state::{StateKey, StateValue};

/// Rows as committed.
#[derive(Debug)]
pub(super) struct Rows {
    kept: HashMap<StateKey, StateValue>,
    limit: usize,
}

impl Rows {
    /// Keeps nothing yet; at more rows than the limit, all are forgotten and loaded anew.
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: HashMap::new(), limit }
    }

    /// Begins a transaction that needs rows. Returns those to load, each once, in order.
    pub(super) fn missing(&mut self, mut wanted: Vec<StateKey>) -> Vec<StateKey> {
        if self.kept.len() > self.limit {
            self.kept.clear();
        }
        self.kept.retain(|key, _| key.is_lane_owned());
        wanted.retain(|key| !self.has(key));
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Reports whether a row is kept.
    pub(super) fn has(&self, key: &StateKey) -> bool {
        self.kept.contains_key(key)
    }

    /// Keeps rows that were loaded or committed.
    pub(super) fn keep(&mut self, rows: impl IntoIterator<Item = (StateKey, StateValue)>) {
        self.kept.extend(rows);
    }

    /// Forgets the views of jobs that are followed no longer.
    pub(super) fn retire(&mut self, jobs: impl IntoIterator<Item = JobId>) {
        for job_id in jobs {
            self.kept.remove(&StateKey::JobView(job_id));
        }
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.kept.clear();
    }

    /// What a workspace is laid over.
    pub(super) const fn all(&self) -> &HashMap<StateKey, StateValue> {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Sequence;

    fn owned(name: &str) -> StateKey {
        StateKey::LastSequence(JobId::parse(name).unwrap())
    }

    fn foreign(name: &str) -> StateKey {
        StateKey::JobHome(JobId::parse(name).unwrap())
    }

    fn value() -> StateValue {
        StateValue::LastSequence(Sequence(1))
    }

    #[test]
    fn missing_names_each_row_once_and_rows_of_others_every_time() {
        let mut rows = Rows::new(10);
        let wanted = vec![foreign("b"), owned("a"), owned("a")];

        let first = rows.missing(wanted.clone());
        rows.keep(first.iter().map(|key| (key.clone(), value())));
        let second = rows.missing(wanted);

        assert_eq!(first.len(), 2);
        assert_eq!(second, [foreign("b")]);
    }

    #[test]
    fn missing_beyond_the_limit_forgets_everything() {
        let mut rows = Rows::new(1);
        rows.keep(["a", "b"].map(|name| (owned(name), value())));

        assert_eq!(rows.missing(vec![owned("a")]), [owned("a")]);
        assert!(!rows.has(&owned("b")));
    }
}
