//! Pages: what one call for a list reads at most.
//!
//! Promises that a list is bounded in bytes as well as in rows, whatever is asked for: a page ends early, and says
//! so, before a row that would make it larger than [`PAGE_BYTES`]. A row that is larger alone comes alone.

use std::ops::Deref;

use crate::effect::TimelineEntry;
use crate::ports::outbox::SetAsideRecord;
use crate::ports::query::{
    ListedJob, StoredAuditEntry, StoredDeadLetter, StoredGap, StoredParkedKey, StoredRefusal,
};
use crate::ports::store::JobRow;
use crate::record::LogRecord;
use crate::state::JobView;

/// Most stored bytes of a page: some records of the largest size. What is made of it on the way to a caller (text
/// of bytes, JSON) takes several times as much.
pub const PAGE_BYTES: usize = 4 << 20;

/// Most rows of one page, whatever is asked for.
pub const PAGE_ROWS: usize = 10_000;

/// Some rows of a list, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether more follow.
    pub has_more: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), has_more: false }
    }
}

impl<T: PartialEq, const N: usize> PartialEq<[T; N]> for Page<T> {
    fn eq(&self, other: &[T; N]) -> bool {
        self.rows == other
    }
}

impl<T: PartialEq> PartialEq<Vec<T>> for Page<T> {
    fn eq(&self, other: &Vec<T>) -> bool {
        self.rows == *other
    }
}

impl<T> Deref for Page<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.rows
    }
}

impl<T> IntoIterator for Page<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<T: Weighed> Page<T> {
    /// Takes rows in their order, as many as a page holds.
    pub fn of(rows: impl IntoIterator<Item = T>, limit: usize) -> Self {
        let mut room = PageRoom::new(limit);
        let mut page = Self::default();
        for row in rows {
            if !room.take(row.weight_bytes()) {
                page.has_more = true;
                break;
            }
            page.rows.push(row);
        }
        page
    }
}

/// What is left of a page while it is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRoom {
    rows: usize,
    bytes: usize,
    is_empty: bool,
}

impl PageRoom {
    /// Begins a page of so many rows at most.
    pub fn new(limit: usize) -> Self {
        Self { rows: limit.min(PAGE_ROWS), bytes: PAGE_BYTES, is_empty: true }
    }

    /// Gives how many rows it may still hold.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Takes a row of some bytes; false where it does not fit, and then nothing does.
    pub fn take(&mut self, bytes: usize) -> bool {
        if self.rows == 0 || (bytes > self.bytes && !self.is_empty) {
            self.rows = 0;
            return false;
        }
        // Nothing stands beside a row that is larger than a page.
        self.rows = if bytes > self.bytes { 0 } else { self.rows - 1 };
        self.bytes = self.bytes.saturating_sub(bytes);
        self.is_empty = false;
        true
    }
}

/// A row that knows what of it counts against a page: what has no small bound of its own.
pub trait Weighed {
    /// Gives its bytes.
    fn weight_bytes(&self) -> usize;
}

/// Gives the bytes of key, headers and payload.
fn bytes_of(record: &LogRecord) -> usize {
    let part = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
    part(&record.key) + record.headers.as_block().len() + part(&record.payload)
}

impl Weighed for JobRow {
    fn weight_bytes(&self) -> usize {
        let reason = self.cancel.as_ref().map(|cancel| &cancel.reason);
        let message = self.failure.as_ref().map(|failure| &failure.error_message);
        self.parameters.len() + reason.map_or(0, String::len) + message.map_or(0, String::len)
    }
}

impl Weighed for JobView {
    fn weight_bytes(&self) -> usize {
        0
    }
}

impl Weighed for ListedJob {
    fn weight_bytes(&self) -> usize {
        match self {
            ListedJob::Owned(row) => row.weight_bytes(),
            ListedJob::External(view) => view.weight_bytes(),
        }
    }
}

impl Weighed for TimelineEntry {
    fn weight_bytes(&self) -> usize {
        self.payload.len()
    }
}

impl Weighed for StoredRefusal {
    fn weight_bytes(&self) -> usize {
        self.detail.len()
    }
}

impl Weighed for StoredAuditEntry {
    fn weight_bytes(&self) -> usize {
        self.record.as_ref().map_or(0, bytes_of)
    }
}

impl Weighed for StoredDeadLetter {
    fn weight_bytes(&self) -> usize {
        bytes_of(&self.record) + self.detail.len()
    }
}

impl Weighed for StoredParkedKey {
    fn weight_bytes(&self) -> usize {
        self.key.len() + self.detail.len()
    }
}

impl Weighed for StoredGap {
    fn weight_bytes(&self) -> usize {
        let reason = self.decision.as_ref().and_then(|decision| decision.reason.as_ref());
        reason.map_or(0, String::len)
    }
}

impl Weighed for SetAsideRecord {
    fn weight_bytes(&self) -> usize {
        bytes_of(&self.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(usize);

    impl Weighed for Bytes {
        fn weight_bytes(&self) -> usize {
            self.0
        }
    }

    fn paged(weights: &[usize], limit: usize) -> (usize, bool) {
        let page = Page::of(weights.iter().map(|weight| Bytes(*weight)), limit);
        (page.len(), page.has_more)
    }

    #[test]
    fn page_ends_before_what_does_not_fit() {
        let half = PAGE_BYTES / 2;

        assert_eq!(paged(&[half, half, 1], 9), (2, true));
        assert_eq!(paged(&[half, half], 9), (2, false));
        assert_eq!(paged(&[1, 1, 1], 2), (2, true));
        assert_eq!(paged(&[1, 1], 2), (2, false));
        assert_eq!(paged(&[], 2), (0, false));
    }

    #[test]
    fn page_of_one_row_that_is_larger_has_that_row_alone() {
        assert_eq!(paged(&[PAGE_BYTES + 1, 0], 9), (1, true));
        assert_eq!(paged(&[1, PAGE_BYTES + 1], 9), (1, true));
    }
}
