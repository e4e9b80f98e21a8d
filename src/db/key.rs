//! Keys that are packed into one 64-bit rowid.
//!
//! Promises that packed keys sort as their parts do, and that a part which does not fit is refused as data,
//! never cut.

use horizons_actors::ids::{LogTopic, Offset, Partition, TopicPartition};
use horizons_actors::ports::store::StoreError;

/// Bits of an offset or index: a thousand years of ten records a second in each partition, and still room
/// for the other parts in a positive 64-bit integer.
const OFFSET_BITS: u32 = 40;

/// The first offset that does not fit.
pub(super) const OFFSET_END: u64 = 1 << OFFSET_BITS;

/// Bits of a partition number.
const PARTITION_BITS: u32 = 16;

/// Packs an offset with the number of its lane; `lane` comes from the table of lanes, which checks its range.
pub(super) fn in_lane(lane: i64, offset: u64) -> Result<i64, StoreError> {
    Ok((lane << OFFSET_BITS) | low_bits(offset)?)
}

/// Gives the first and the last key of a lane.
pub(super) fn lane_range(lane: i64) -> (i64, i64) {
    let first = lane << OFFSET_BITS;
    (first, first | (LOW_MASK))
}

/// The bits of the offset.
const LOW_MASK: i64 = (1 << OFFSET_BITS) - 1;

/// Gives the offset or index of a packed key.
pub(super) const fn offset_of(key: i64) -> u64 {
    (key & LOW_MASK).cast_unsigned()
}

/// Gives the lane of a packed key.
pub(super) const fn lane_of(key: i64) -> i64 {
    key >> OFFSET_BITS
}

/// Gives the first and the last key of a partition of the log.
pub(super) fn log_range(topic: LogTopic, partition: Partition) -> (i64, i64) {
    let first = ((i64::from(topic.code()) << PARTITION_BITS) | i64::from(partition.0)) << OFFSET_BITS;
    (first, first | LOW_MASK)
}

/// Gives the topic's number and the partition of a packed position in the log.
pub(super) const fn place_of(position: i64) -> (i64, i64) {
    let place = position >> OFFSET_BITS;
    (place >> PARTITION_BITS, place & ((1 << PARTITION_BITS) - 1))
}

/// Packs the position of a record in the log.
pub(super) fn in_log(topic: LogTopic, partition: Partition, offset: Offset) -> Result<i64, StoreError> {
    Ok(log_range(topic, partition).0 | low_bits(offset.0)?)
}

/// Gives the first and the last key of a partition of record.
pub(super) fn record_range(partition: TopicPartition) -> (i64, i64) {
    log_range(LogTopic::Record(partition.topic), partition.partition)
}

/// Checks that a number fits the low bits.
pub(super) fn low_bits(number: u64) -> Result<i64, StoreError> {
    if number < OFFSET_END {
        Ok(number.cast_signed())
    } else {
        Err(StoreError::Data(format!("wanted an offset or index below {OFFSET_END}, got {number}")))
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::ids::Topic;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packed_key_any_parts_round_trips(lane in 1_i64..(1 << 23), offset in 0..OFFSET_END) {
            let key = in_lane(lane, offset).unwrap();

            prop_assert!(key > 0);
            prop_assert_eq!((lane_of(key), offset_of(key)), (lane, offset));
        }

        #[test]
        fn packed_position_any_partitions_never_overlap(left in 0_u16.., right in 0_u16.., a in 0_usize..5, b in 0_usize..5) {
            let (left_topic, right_topic) = (LogTopic::DeadLetter(Topic::ALL[a]), LogTopic::Record(Topic::ALL[b]));

            let (first, last) = log_range(left_topic, Partition(left));
            let (other_first, other_last) = log_range(right_topic, Partition(right));

            prop_assert!(first >= 0 && first < last);
            prop_assert!(last < other_first || other_last < first);
            prop_assert_eq!(place_of(last), (i64::from(left_topic.code()), i64::from(left)));
        }
    }

    #[test]
    fn packed_key_offset_too_large_is_data_error() {
        assert!(matches!(in_lane(1, OFFSET_END), Err(StoreError::Data(_))));
        assert!(matches!(
            in_log(LogTopic::Record(Topic::AuditTrail), Partition(0), Offset(u64::MAX)),
            Err(StoreError::Data(_))
        ));
    }
}
