//! What a verification found, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::{LogId, Offset, TopicPartition};

/// Most findings that a report lists; all are counted. Who needs more has no use for the log any more.
pub const FINDINGS_MAX: usize = 100;

/// Names a kind of tampering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tampering {
    /// A body is not the one that was recorded.
    BodyEdited,
    /// A body is gone.
    BodyMissing,
    /// A hash, the mark or the append time of an entry was changed.
    EntryEdited,
    /// Entries between others were deleted.
    EntryMissing,
    /// An entry was put in that was never appended there.
    EntryInserted,
    /// Entries stand in another order.
    EntryReordered,
    /// Entries at the end were deleted.
    LogTruncated,
    /// The stored state of the log (size, chain head, frontier, last offset, open segment) was changed.
    HeadEdited,
}

/// One finding.
///
/// *Shape*: ordered by `index`, then kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The index of the first bad entry, or where an entry should be.
    pub index: u64,
    /// What was done.
    pub tampering: Tampering,
    /// The offset of the record at fault, where its body is there.
    pub offset: Option<Offset>,
    /// What does not fit, for a person.
    pub detail: String,
}

/// What the verification of one log found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerificationReport {
    /// The log.
    pub log_id: LogId,
    /// The partition.
    #[serde(flatten)]
    pub topic_partition: TopicPartition,
    /// Whether nothing was found.
    pub is_intact: bool,
    /// Entries read.
    pub entries_total: u64,
    /// Entries that are marked as duplicates.
    pub duplicates_total: u64,
    /// Entries that are marked as malformed.
    pub malformed_total: u64,
    /// The Merkle root that the entries give, in hexadecimal; compare it with a signed head.
    pub root: String,
    /// The chain head that the entries give, in hexadecimal; compare it with a signed head.
    pub chain_head: String,
    /// The first findings, in order of index, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// All findings.
    pub findings_total: u64,
    /// All findings by kind.
    pub findings_by_kind: BTreeMap<Tampering, u64>,
}

/// Findings on their way into a report.
#[derive(Debug, Default)]
pub(super) struct Findings {
    listed: Vec<Finding>,
    by_kind: BTreeMap<Tampering, u64>,
}

impl Findings {
    /// Counts a finding, and lists it while there is room.
    pub(super) fn add(&mut self, tampering: Tampering, at: Position, detail: impl FnOnce() -> String) {
        *self.by_kind.entry(tampering).or_default() += 1;
        if self.listed.len() < FINDINGS_MAX {
            let Position { index, offset } = at;
            self.listed.push(Finding { index, tampering, offset, detail: detail() });
        }
    }

    /// Tells whether there is a finding of this kind.
    pub(super) fn has(&self, tampering: Tampering) -> bool {
        self.by_kind.contains_key(&tampering)
    }

    /// Ends the list, in order.
    pub(super) fn finish(mut self) -> (Vec<Finding>, u64, BTreeMap<Tampering, u64>) {
        self.listed.sort();
        let total = self.by_kind.values().sum();
        (self.listed, total, self.by_kind)
    }
}

/// Where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The index of the entry.
    pub(super) index: u64,
    /// The record's offset, where the body is there.
    pub(super) offset: Option<Offset>,
}

impl Position {
    /// Names a place without a record.
    pub(super) fn index(index: u64) -> Self {
        Self { index, offset: None }
    }
}
