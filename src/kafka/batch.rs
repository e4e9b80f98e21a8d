//! A batch in the making: records of one partition, in order, from a position on. Pure.
//!
//! Promises that offsets strictly increase, that a record below the position is not taken twice, and that
//! batches join without a seam: what one starts from is where the one before it ended, whatever offsets are
//! missing between records (compaction, markers of transactions).

use horizons_actors::ids::Offset;
use horizons_actors::record::LogRecord;

use super::config::BatchLimits;

/// Records on their way into a batch.
#[derive(Debug, Default)]
pub(super) struct OpenBatch {
    records: Vec<LogRecord>,
    bytes: usize,
}

/// A batch's worth of records, cut off.
#[derive(Debug)]
pub(super) struct Cut {
    /// The records.
    pub(super) records: Vec<LogRecord>,
    /// What they weigh.
    pub(super) bytes: usize,
}

impl OpenBatch {
    /// Takes a record after the ones before it.
    pub(super) fn push(&mut self, record: LogRecord) {
        self.bytes += record.weight_bytes();
        self.records.push(record);
    }

    /// Tells whether the batch has reached a limit.
    pub(super) fn is_full(&self, limits: BatchLimits) -> bool {
        self.records.len() >= limits.records || self.bytes >= limits.bytes
    }

    /// Tells whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Gives the offset after the last record that waits.
    pub(super) fn end(&self) -> Option<Offset> {
        self.records.last().map(|record| record.offset.following())
    }

    /// Cuts off what fits into a limit, from the front: at least one record, if any waits.
    pub(super) fn cut(&mut self, limits: BatchLimits) -> Option<Cut> {
        let mut bytes = 0;
        let mut count = 0;
        for record in &self.records {
            let weight = record.weight_bytes();
            if count > 0 && (count >= limits.records || bytes + weight > limits.bytes) {
                break;
            }
            bytes += weight;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        self.bytes -= bytes;
        let rest = self.records.split_off(count);
        let records = std::mem::replace(&mut self.records, rest);
        Some(Cut { records, bytes })
    }

    /// Puts back what was cut off and could not be handed on.
    pub(super) fn put_back(&mut self, cut: Cut) {
        let Cut { mut records, bytes } = cut;
        records.append(&mut self.records);
        self.records = records;
        self.bytes += bytes;
    }

    /// Drops what waits.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use horizons_actors::clock::Timestamp;
    use horizons_actors::record::{Headers, TimestampType};
    use proptest::prelude::*;

    use super::*;

    fn record(offset: u64, payload_bytes: usize) -> LogRecord {
        LogRecord {
            offset: Offset(offset),
            timestamp: Timestamp::from_millis(1),
            timestamp_type: TimestampType::CreateTime,
            key: None,
            headers: Headers::none(),
            payload: Some(Bytes::from(vec![0; payload_bytes])),
        }
    }

    #[test]
    fn cut_record_larger_than_the_limit_goes_alone() {
        let mut open = OpenBatch::default();
        open.push(record(0, 10_000));
        open.push(record(1, 0));

        let cut = open.cut(BatchLimits { records: 10, bytes: 100 }).unwrap();

        assert_eq!(cut.records.len(), 1);
        assert_eq!(open.end(), Some(Offset(2)));
    }

    proptest! {
        #[test]
        fn cut_any_records_and_limits_keep_order_and_weight(
            sizes in proptest::collection::vec(0..500_usize, 0..60),
            cuts in proptest::collection::vec((1..20_usize, 1..3_000_usize, any::<bool>()), 0..60),
        ) {
            let mut open = OpenBatch::default();
            for (number, size) in sizes.iter().enumerate() {
                open.push(record(number as u64, *size));
            }
            let mut seen = Vec::new();
            for (records, bytes, is_put_back) in cuts {
                let Some(cut) = open.cut(BatchLimits { records, bytes }) else { break };
                let weight: usize = cut.records.iter().map(LogRecord::weight_bytes).sum();
                prop_assert_eq!(weight, cut.bytes);
                prop_assert!(cut.records.len() <= records);
                prop_assert!(cut.bytes <= bytes || cut.records.len() == 1);
                if is_put_back {
                    open.put_back(cut);
                } else {
                    seen.extend(cut.records.iter().map(|record| record.offset.0));
                }
            }
            while let Some(cut) = open.cut(BatchLimits { records: 7, bytes: usize::MAX }) {
                seen.extend(cut.records.iter().map(|record| record.offset.0));
            }
            prop_assert!(open.is_empty() && open.bytes == 0);
            prop_assert_eq!(seen, (0..sizes.len() as u64).collect::<Vec<u64>>());
        }
    }
}
