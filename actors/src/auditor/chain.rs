//! The hash chain over the entries of an audit log.
//!
//! Promises that every entry commits to all before it, in their order, and to its own mark and append time,
//! which are no part of the record and so of no leaf. Costs two blocks of SHA-256 an entry.
//!
//! *Shape*: SHA-256 of [`CHAIN_DOMAIN`], the chain head before (32 bytes), the leaf hash (32 bytes), the append
//! time (i64, microseconds, big-endian) and the mark as it is stored (`event`, `duplicate`,
//! `malformed:<reason>`). All but the last have a fixed length, so the encoding is injective.

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::effect::AuditMark;
use crate::record::Digest32;

/// Is hashed first, so that no hash made for anything else is a link; the last byte is the version.
pub const CHAIN_DOMAIN: [u8; 16] = *b"horizons/chain/1";

/// The chain head of a log without entries.
pub const EMPTY_CHAIN_HEAD: Digest32 = [0; 32];

/// Gives the chain head after an entry.
pub fn link(previous: &Digest32, leaf_hash: &Digest32, appended_at: Timestamp, mark: &AuditMark) -> Digest32 {
    let hash = begin(previous, leaf_hash, appended_at);
    let hash = match mark {
        AuditMark::Event => hash.chain_update("event"),
        AuditMark::Duplicate => hash.chain_update("duplicate"),
        AuditMark::Malformed(reason) => hash.chain_update("malformed:").chain_update(reason),
        AuditMark::WrongPartition => hash.chain_update("wrong_partition"),
    };
    hash.finalize().into()
}

/// Gives the chain head after an entry whose mark is known only as it is stored.
pub fn link_stored(
    previous: &Digest32,
    leaf_hash: &Digest32,
    appended_at: Timestamp,
    mark: &str,
) -> Digest32 {
    begin(previous, leaf_hash, appended_at).chain_update(mark).finalize().into()
}

fn begin(previous: &Digest32, leaf_hash: &Digest32, appended_at: Timestamp) -> Sha256 {
    Sha256::new()
        .chain_update(CHAIN_DOMAIN)
        .chain_update(previous)
        .chain_update(leaf_hash)
        .chain_update(appended_at.as_micros().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auditor::testing::any_mark;

    proptest! {
        #[test]
        fn chain_stored_mark_links_as_the_mark_does(
            previous: Digest32,
            leaf: Digest32,
            micros: i64,
            mark in any_mark(),
        ) {
            let at = Timestamp::from_micros(micros);

            let stored = link_stored(&previous, &leaf, at, &mark.to_stored());

            prop_assert_eq!(link(&previous, &leaf, at, &mark), stored);
        }

        #[test]
        fn chain_any_changed_input_changes_the_head(
            previous: Digest32,
            leaf: Digest32,
            micros: i64,
            mark in any_mark(),
            bit in 0..256usize,
            other_mark in any_mark(),
        ) {
            let at = Timestamp::from_micros(micros);
            let head = link(&previous, &leaf, at, &mark);
            let flip = |digest: &Digest32| {
                let mut flipped = *digest;
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            };

            prop_assert_ne!(link(&flip(&previous), &leaf, at, &mark), head);
            prop_assert_ne!(link(&previous, &flip(&leaf), at, &mark), head);
            prop_assert_ne!(link(&previous, &leaf, Timestamp::from_micros(micros ^ 1), &mark), head);
            prop_assert_eq!(link(&previous, &leaf, at, &other_mark) == head, other_mark == mark);
        }
    }

    #[test]
    fn chain_longest_mark_fits_two_blocks() {
        const BLOCK_BYTES: usize = 64;
        const PADDING_BYTES: usize = 9;
        let fixed = CHAIN_DOMAIN.len() + 2 * EMPTY_CHAIN_HEAD.len() + size_of::<i64>();

        for reason in crate::rejection::Rejection::NAMES {
            let mark = AuditMark::Malformed(reason).to_stored();

            assert!(fixed + mark.len() + PADDING_BYTES <= 2 * BLOCK_BYTES, "{mark}");
        }
    }

    #[test]
    fn chain_fixed_entry_has_the_documented_bytes() {
        let mut bytes = b"horizons/chain/1".to_vec();
        bytes.extend_from_slice(&[0; 32]);
        bytes.extend_from_slice(&[7; 32]);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
        bytes.extend_from_slice(b"malformed:unknown_type");

        let head = link(
            &EMPTY_CHAIN_HEAD,
            &[7; 32],
            Timestamp::from_micros(9),
            &AuditMark::Malformed("unknown_type"),
        );

        assert_eq!(head, Digest32::from(Sha256::digest(bytes)));
    }
}
