//! What a partition looks like to readers after it was trimmed, truncated or made anew.
//!
//! Promises that the records of the source below are never touched: a view only maps the offsets that
//! readers see to those of the source. Pure apart from reading the source.

use std::collections::BTreeSet;

use crate::ids::{Offset, TopicPartition};
use crate::ports::log::{Inspection, LogEnds, RecordSource};
use crate::ports::store::StoreError;
use crate::record::LogRecord;

/// A run of consecutive offsets; it ends where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// The first offset that readers see.
    seen_from: u64,
    /// What the source calls it.
    source_from: u64,
}

/// What readers see of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    low: u64,
    /// At least one, in order of `seen_from`; the last one has no end.
    runs: Vec<Run>,
    /// Offsets that hold nothing a reader is given.
    hidden: BTreeSet<u64>,
    /// Offsets whose records cannot be read: from, and until.
    corrupt: Option<(u64, u64)>,
    /// Where the first open transaction begins.
    open_from: Option<u64>,
}

impl Default for View {
    fn default() -> Self {
        let runs = vec![Run { seen_from: 0, source_from: 0 }];
        Self { low: 0, runs, hidden: BTreeSet::new(), corrupt: None, open_from: None }
    }
}

impl View {
    /// Removes the records below an offset.
    pub(super) fn trim(&mut self, low: Offset) {
        self.low = self.low.max(low.0);
    }

    /// Removes the records from an offset on; what is appended later takes their offsets.
    pub(super) fn truncate(&mut self, end: Offset, source_end: Offset) {
        self.runs.retain(|run| run.seen_from < end.0);
        self.runs.push(Run { seen_from: end.0, source_from: source_end.0 });
        self.low = self.low.min(end.0);
    }

    /// Removes all records; what is appended later starts at 0.
    pub(super) fn recreate(&mut self, source_end: Offset) {
        let runs = vec![Run { seen_from: 0, source_from: source_end.0 }];
        *self = Self { runs, ..Self::default() };
    }

    /// Makes an offset hold nothing that a reader is given.
    pub(super) fn hide(&mut self, offset: Offset) {
        self.hidden.insert(offset.0);
    }

    /// Makes records unreadable.
    pub(super) fn corrupt(&mut self, from: Offset, until: Offset) {
        self.corrupt = Some((from.0, until.0));
    }

    /// Makes all records readable again.
    pub(super) fn mend(&mut self) {
        self.corrupt = None;
    }

    /// Gives where reading goes on if an offset cannot be read.
    pub(super) fn unreadable_until(&self, offset: Offset) -> Option<Offset> {
        self.corrupt
            .filter(|(from, until)| (*from..*until).contains(&offset.0))
            .map(|(_, until)| Offset(until))
    }

    /// Opens a transaction that holds readers back from an offset on, or ends it.
    pub(super) fn hold_at(&mut self, open_from: Option<Offset>) {
        self.open_from = open_from.map(|offset| offset.0);
    }

    /// Gives where the partition ends.
    pub(super) fn ends(&self, source_end: Offset) -> LogEnds {
        let last = self.runs.last().copied().unwrap_or(Run { seen_from: 0, source_from: 0 });
        let high = Offset(last.seen_from + source_end.0.saturating_sub(last.source_from));
        LogEnds { stable: self.open_from.map_or(high, |from| high.min(Offset(from))), high }
    }

    /// Gives the offset up to which readers are given records.
    pub(super) fn high(&self, source_end: Offset) -> Offset {
        self.ends(source_end).stable
    }

    /// Gives the offset of the oldest retained record, or the end of an empty partition.
    pub(super) fn low(&self, source_low: Offset, source_end: Offset) -> Offset {
        let first = self.runs.first().copied().unwrap_or(Run { seen_from: 0, source_from: 0 });
        let retained = first.seen_from + source_low.0.saturating_sub(first.source_from);
        Offset(self.low.max(retained)).min(self.high(source_end))
    }

    /// Finds what the source calls an offset, and how many records follow it in its run.
    fn locate(&self, seen: Offset) -> (Offset, usize) {
        let after = self.runs.partition_point(|run| run.seen_from <= seen.0);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        let source = run.map_or(seen.0, |run| run.source_from + (seen.0 - run.seen_from));
        let length = self
            .runs
            .get(after)
            .map_or(usize::MAX, |next| usize::try_from(next.seen_from - seen.0).unwrap_or(usize::MAX));
        (Offset(source), length)
    }

    /// Reads records as readers see them; gives the position behind them too, which offsets that hold none move as
    /// well.
    pub(super) fn read(
        &self,
        source: &dyn RecordSource,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<(Vec<LogRecord>, Offset), StoreError> {
        let (source_from, length) = self.locate(from);
        let stops = [self.corrupt.map(|(from, _)| from), self.open_from];
        let until_stop = stops.into_iter().flatten().filter_map(|stop| stop.checked_sub(from.0)).min();
        let length =
            length.min(until_stop.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX)));
        let mut records = source.read(partition, source_from, max_records.min(length), max_bytes)?;
        for record in &mut records {
            record.offset = Offset(from.0 + (record.offset.0 - source_from.0));
        }
        let next = records.last().map_or(from, |record| record.offset.following());
        records.retain(|record| !self.hidden.contains(&record.offset.0));
        Ok((records, next))
    }

    /// Looks at the partition from a position.
    pub(super) fn inspect(
        &self,
        source: &dyn RecordSource,
        partition: TopicPartition,
        next: Option<Offset>,
    ) -> Result<Inspection, StoreError> {
        let source_end = source.heads().end(partition);
        let high = self.high(source_end);
        let low = self.low(source.low(partition)?, source_end);
        let previous = match next.map(|next| next.min(high)).filter(|next| *next > low) {
            None => None,
            Some(next) => match (low.0..next.0).rev().find(|offset| !self.hidden.contains(offset)) {
                None => None,
                Some(last) => {
                    let (records, _) = self.read(source, partition, Offset(last), 1, usize::MAX)?;
                    records.first().map(|record| (record.offset, record.fingerprint()))
                }
            },
        };
        let unreadable_until = self.unreadable_until(next.unwrap_or(low));
        Ok(Inspection { low, high, previous, unreadable_until })
    }
}
