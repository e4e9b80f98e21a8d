//! Chooses a record's partition as Kafka's Java client does.
//!
//! Promises that a job lands on the same partition whoever produced its event (E4): the Java client, KafkaJS
//! and librdkafka's `murmur2` partitioner agree with these functions bit for bit.

use crate::ids::{EventId, Partition, Topic};

/// Kafka's seed.
///
/// *Source*: `org.apache.kafka.common.utils.Utils.murmur2`.
const SEED: u32 = 0x9747_b28c;

/// Kafka's multiplier.
const MULTIPLIER: u32 = 0x5bd1_e995;

/// Kafka's shift.
const SHIFT: u32 = 24;

/// Clears the sign of a hash, as Kafka's `toPositive` does.
const POSITIVE: u32 = 0x7fff_ffff;

/// Hashes as Kafka's Java client does.
pub fn murmur2(data: &[u8]) -> i32 {
    let length = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed.wrapping_mul(MULTIPLIER);
    }
    if !tail.is_empty() {
        for (byte, shift) in tail.iter().zip([0, 8, 16]) {
            hash ^= u32::from(*byte) << shift;
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)).cast_signed()
}

/// Chooses the partition by the key, or by the event id's hyphenated text where there is no key.
pub fn partition_for(topic: Topic, key: Option<&[u8]>, event_id: EventId) -> Partition {
    let mut buffer = uuid::Uuid::encode_buffer();
    let bytes = match key {
        Some(key) => key,
        None => event_id.0.hyphenated().encode_lower(&mut buffer).as_bytes(),
    };
    partition_among(topic.partitions(), bytes)
}

/// Chooses one of so many partitions by a key; of none, the first.
pub fn partition_among(partitions: u16, key: &[u8]) -> Partition {
    let number = (murmur2(key).cast_unsigned() & POSITIVE) % u32::from(partitions.max(1));
    Partition(u16::try_from(number).expect("a remainder of a 16-bit number fits 16 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_of_kafkas_own_vectors_is_kafkas() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];

        for (text, wanted) in vectors {
            assert_eq!(murmur2(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn partition_of_a_key_ignores_the_event_id() {
        let one = EventId(uuid::Uuid::from_u128(1));
        let other = EventId(uuid::Uuid::from_u128(2));

        for topic in Topic::ALL {
            let partition = partition_for(topic, Some(b"21"), one);

            // 2147483647 & -973932308 = 1173551340
            assert_eq!(u32::from(partition.0), 1_173_551_340 % u32::from(topic.partitions()));
            assert_eq!(partition, partition_for(topic, Some(b"21"), other));
        }
    }

    #[test]
    fn partition_without_a_key_follows_the_event_id() {
        let id = EventId::parse("0193a1c0-0000-7000-8000-0000000000aa").unwrap();

        let by_id = partition_for(Topic::Notifications, None, id);

        assert_eq!(by_id, partition_for(Topic::Notifications, Some(id.to_string().as_bytes()), id));
        assert!(by_id.0 < Topic::Notifications.partitions());
    }
}
