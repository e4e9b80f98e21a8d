//! Which rows of a partition are in Kafka already. Pure.
//!
//! What an owner of the cursor has sent beyond it is a run of consecutive rows from the cursor on, in order
//! (an idempotent producer leaves no hole), with records of other producers between them. So the records
//! behind the cursor's place in Kafka are walked once, and each that is the next expected row moves it on.

use std::collections::VecDeque;

use horizons_actors::ids::Offset;

use super::wire::Identity;

/// Walks a partition's records in Kafka beside its rows.
#[derive(Debug)]
pub(super) struct Matcher {
    next: Offset,
    tail: Offset,
    expected: VecDeque<Identity>,
}

impl Matcher {
    /// Starts at a cursor: its next row and its place in Kafka.
    pub(super) fn new(next: Offset, tail: Offset) -> Self {
        Self { next, tail, expected: VecDeque::new() }
    }

    /// Tells which row must be given next, when no row is left to compare with.
    pub(super) fn wants_rows_from(&self) -> Option<Offset> {
        self.expected.is_empty().then_some(self.next)
    }

    /// Takes further rows: those that follow the ones given before.
    pub(super) fn expect(&mut self, rows: impl IntoIterator<Item = Identity>) {
        self.expected.extend(rows);
    }

    /// Takes the next record in Kafka, with its offset there.
    pub(super) fn see(&mut self, at: Offset, record: &Identity) {
        if self.expected.front().is_some_and(|row| row.is_same(record)) {
            self.expected.pop_front();
            self.next = self.next.following();
            self.tail = at.following();
        }
    }

    /// Gives the first row that is not in Kafka, and the place in Kafka behind the last one that is.
    pub(super) const fn found(&self) -> (Offset, Offset) {
        (self.next, self.tail)
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::clock::Timestamp;
    use horizons_actors::record::{Headers, LogRecord, TimestampType};
    use proptest::prelude::*;

    use super::*;

    fn identity(number: u8) -> Identity {
        Identity::of(&LogRecord {
            offset: Offset(0),
            timestamp: Timestamp::from_micros(0),
            timestamp_type: TimestampType::CreateTime,
            key: Some(vec![number].into()),
            headers: Headers::none(),
            payload: None,
        })
    }

    /// Runs a matcher whose rows are given `piece` at a time.
    fn run(rows: &[u8], records: &[(u64, u8)], piece: usize) -> (u64, u64) {
        let mut matcher = Matcher::new(Offset(100), Offset(7));
        for (at, record) in records {
            if let Some(from) = matcher.wants_rows_from() {
                let given = usize::try_from(from.0 - 100).unwrap();
                matcher.expect(rows.iter().skip(given).take(piece).map(|row| identity(*row)));
            }
            matcher.see(Offset(*at), &identity(*record));
        }
        let (next, tail) = matcher.found();
        (next.0 - 100, tail.0)
    }

    #[test]
    fn matcher_nothing_in_kafka_stays_at_cursor() {
        assert_eq!(run(&[1, 2, 3], &[], 2), (0, 7));
        assert_eq!(run(&[1, 2, 3], &[(7, 9), (8, 9)], 2), (0, 7));
    }

    #[test]
    fn matcher_rows_doubled_by_an_older_owner_are_found_once() {
        assert_eq!(run(&[1, 2, 3], &[(7, 1), (8, 2), (9, 1), (10, 2)], 1), (2, 9));
    }

    #[test]
    fn matcher_equal_rows_are_counted_one_by_one() {
        assert_eq!(run(&[1, 1, 1], &[(7, 1), (9, 1)], 3), (2, 10));
    }

    proptest! {
        /// Any run of sent rows among any records of others is found whole, however rows are handed over.
        #[test]
        fn matcher_any_prefix_among_others_is_found_exactly(
            rows in proptest::collection::vec(0_u8..100, 0..40),
            sent in 0_usize..40,
            others in proptest::collection::vec(0_usize..3, 41),
            piece in 1_usize..7,
        ) {
            let sent = sent.min(rows.len());
            let mut records = Vec::new();
            let mut at = 7;
            let mut last = 7;
            for (index, foreign) in others.iter().take(sent + 1).enumerate() {
                for _ in 0..*foreign {
                    records.push((at, 200));
                    at += 2;
                }
                if let Some(row) = rows.get(index).filter(|_| index < sent) {
                    records.push((at, *row));
                    at += 1;
                    last = at;
                }
            }

            let found = run(&rows, &records, piece);

            prop_assert_eq!(found, (sent as u64, last));
        }
    }
}
