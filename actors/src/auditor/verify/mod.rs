//! Finds and names what was done to an audit log after it was written.
//!
//! Promises to read entries in one pass and constant memory, from a store or an export alike, and to find every
//! change that leaves any of body, leaf hash, chain, tree and stored state out of step. Where one thing was
//! changed, the finding names its kind, and its place or the one after it; where several were, there is at least
//! one finding, and one change may hide another behind it. Does not find a log that was rewritten consistently
//! up to its stored state: for that, compare the report's root and chain head with a head that was kept elsewhere.
//!
//! How a kind is told from another: an entry whose link does not fit is held back until the next one shows
//! what it was linked to. Linked to what the held one should have been: its hash was edited. Linked to the one
//! before: the held one was inserted. Linked to it as it stands: entries before it are missing, were moved, or
//! its own append time was edited, which the number of entries and the order of offsets decide in the end.

mod report;
#[cfg(test)]
mod tests;

pub use report::{FINDINGS_MAX, Finding, Tampering, VerificationReport};

use crate::auditor::chain::{self, EMPTY_CHAIN_HEAD};
use crate::auditor::leaf::LeafHasher;
use crate::auditor::segment;
use crate::auditor::to_hex;
use crate::auditor::tree::MerkleTree;
use crate::clock::Timestamp;
use crate::effect::AuditMark;
use crate::ids::{LogId, Offset, TopicPartition};
use crate::ports::query::StoredAuditEntry;
use crate::record::Digest32;
use crate::rejection::Rejection;
use crate::state::{AuditLogState, AuditSegment};

use self::report::{Findings, Position};

/// Verifies one audit log, entry by entry.
#[derive(Debug)]
pub struct LogVerifier {
    log_id: LogId,
    topic_partition: TopicPartition,
    hasher: LeafHasher,
    /// Of the leaf hashes that body and chain support.
    tree: MerkleTree,
    /// The index that the next entry must have.
    next_index: u64,
    entries_total: u64,
    duplicates_total: u64,
    malformed_total: u64,
    /// The chain head as the last entry stores it.
    head: Digest32,
    /// The chain head that the last entry should store.
    recomputed_head: Digest32,
    /// The chain head as the entry before the last stores it; none where there was none or a gap.
    head_before: Option<Digest32>,
    /// The last entry, if its link does not fit and it is not known why.
    suspect: Option<Position>,
    /// Whether the last entry was found to be out of order, which explains its links.
    is_last_out_of_order: bool,
    /// Entries that do not follow from what stands before them, the first [`FINDINGS_MAX`].
    breaks: Vec<Position>,
    /// The offset of the last body that has its leaf hash.
    last_offset: Option<Offset>,
    /// Whether that body is the last entry's.
    is_last_offset_known: bool,
    /// The segment that is open by the entries' append times alone.
    segment: AuditSegment,
    findings: Findings,
}

/// What an entry's chain hash was made from.
enum Link {
    /// The entry before it, as it stands.
    Follows(Digest32),
    /// The entry before it, as that should be.
    FollowsRecomputed(Digest32),
    /// The entry before the one before it.
    SkipsPrevious(Digest32),
    /// The entry before it, but with another mark.
    OtherMark(Digest32, String),
    /// The entry before it is not there.
    AfterGap,
    /// None of these.
    Broken,
}

impl LogVerifier {
    /// Makes a verifier of one log, before its first entry.
    pub fn new(log_id: LogId, topic_partition: TopicPartition) -> Self {
        Self {
            hasher: LeafHasher::new(&log_id, topic_partition),
            log_id,
            topic_partition,
            tree: MerkleTree::new(),
            next_index: 0,
            entries_total: 0,
            duplicates_total: 0,
            malformed_total: 0,
            head: EMPTY_CHAIN_HEAD,
            recomputed_head: EMPTY_CHAIN_HEAD,
            head_before: None,
            suspect: None,
            is_last_out_of_order: false,
            breaks: Vec::new(),
            last_offset: None,
            is_last_offset_known: true,
            segment: segment::first_segment(Timestamp::default()),
            findings: Findings::default(),
        }
    }

    /// Takes the next entry, in order of index.
    pub fn push(&mut self, entry: &StoredAuditEntry) {
        let index = entry.position.index;
        let at = Position { index, offset: entry.record.as_ref().map(|record| record.offset) };
        if entry.position.topic_partition != self.topic_partition {
            self.findings.add(Tampering::EntryInserted, at, || {
                format!("the entry belongs to `{}`", entry.position.topic_partition)
            });
            return;
        }
        if index < self.next_index {
            let next_index = self.next_index;
            self.findings.add(Tampering::EntryReordered, at, || {
                format!("wanted index {next_index} or a later one, got {index}")
            });
            return;
        }

        let is_after_gap = index > self.next_index;
        if is_after_gap {
            let missing = self.next_index..index;
            self.findings.add(Tampering::EntryMissing, Position::index(missing.start), || {
                format!("entries {} to {} are missing", missing.start, missing.end - 1)
            });
        }
        let computed_leaf = entry.record.as_ref().map(|record| self.hasher.hash(record));
        let is_body_true = computed_leaf == Some(entry.leaf_hash);
        let is_out_of_order = is_body_true && self.is_out_of_order(at);
        let link = if is_after_gap { Link::AfterGap } else { self.judge_link(entry, computed_leaf) };
        self.judge_previous(&link, at, is_out_of_order);
        let leaf_hash = self.check_leaf(entry, computed_leaf, &link, at);
        self.take(entry, leaf_hash, is_after_gap);
        self.is_last_out_of_order = is_out_of_order;
        self.is_last_offset_known = is_body_true;
        if is_body_true {
            self.last_offset = at.offset;
        }
    }

    /// Ends the verification against the stored state of the log.
    pub fn finish(mut self, state: &AuditLogState) -> VerificationReport {
        if let Some(last) = self.suspect.take() {
            if self.recomputed_head == state.chain_head {
                self.add_chain_hash_edited(last);
                self.head = self.recomputed_head;
            } else {
                self.breaks.push(last);
            }
        }
        self.judge_end(state);
        if self.is_sequence_sound() {
            self.check_state(state);
        }
        let breaks_as = self.kind_of_breaks(state);
        for at in std::mem::take(&mut self.breaks) {
            self.findings
                .add(breaks_as, at, || "the entry does not follow from the one before it".to_owned());
        }

        let (findings, findings_total, findings_by_kind) = self.findings.finish();
        VerificationReport {
            log_id: self.log_id,
            topic_partition: self.topic_partition,
            is_intact: findings_total == 0,
            entries_total: self.entries_total,
            duplicates_total: self.duplicates_total,
            malformed_total: self.malformed_total,
            root: to_hex(&self.tree.root()),
            chain_head: to_hex(&self.head),
            findings,
            findings_total,
            findings_by_kind,
        }
    }

    /// Checks that the offsets of true bodies increase; tells whether this one does not.
    fn is_out_of_order(&mut self, at: Position) -> bool {
        let (Some(offset), Some(last)) = (at.offset, self.last_offset) else { return false };
        if offset > last {
            return false;
        }
        let tampering = if offset == last { Tampering::EntryInserted } else { Tampering::EntryReordered };
        self.findings.add(tampering, at, || format!("wanted an offset above {last}, got {offset}"));
        true
    }

    /// Finds what an entry's chain hash was made from, and with which leaf hash.
    fn judge_link(&self, entry: &StoredAuditEntry, computed_leaf: Option<Digest32>) -> Link {
        let leads_here = |head: &Digest32, leaf: &Digest32, mark: &str| {
            chain::link_stored(head, leaf, entry.appended_at, mark) == entry.chain_hash
        };
        let other_leaf = computed_leaf.filter(|leaf| *leaf != entry.leaf_hash);
        for leaf in std::iter::once(entry.leaf_hash).chain(other_leaf) {
            if leads_here(&self.head, &leaf, &entry.mark) {
                return Link::Follows(leaf);
            }
            if self.suspect.is_some() && leads_here(&self.recomputed_head, &leaf, &entry.mark) {
                return Link::FollowsRecomputed(leaf);
            }
            if self.head_before.is_some_and(|head| leads_here(&head, &leaf, &entry.mark)) {
                return Link::SkipsPrevious(leaf);
            }
            let other_mark = stored_marks().find(|mark| leads_here(&self.head, &leaf, mark));
            if let Some(mark) = other_mark {
                return Link::OtherMark(leaf, mark);
            }
        }
        Link::Broken
    }

    /// Draws from an entry's link what was done to it and to the entry before it.
    fn judge_previous(&mut self, link: &Link, at: Position, is_out_of_order: bool) {
        let held = self.suspect.take();
        match link {
            Link::FollowsRecomputed(_) => {
                if let Some(previous) = held {
                    self.add_chain_hash_edited(previous);
                }
            }
            Link::SkipsPrevious(_) => {
                if !is_out_of_order && !self.is_last_out_of_order {
                    let previous = held.unwrap_or(Position::index(at.index - 1));
                    self.findings.add(Tampering::EntryInserted, previous, || {
                        "the entry after it follows from the entry before it".to_owned()
                    });
                }
            }
            Link::Follows(_) | Link::AfterGap => self.add_break(held),
            Link::OtherMark(_, mark) => {
                self.add_break(held);
                self.findings.add(Tampering::EntryEdited, at, || format!("the mark was `{mark}`"));
            }
            Link::Broken => {
                self.add_break(held);
                // An entry that is out of order is reported as that.
                self.suspect = (!is_out_of_order).then_some(at);
            }
        }
    }

    /// Compares an entry's leaf hash with its body; gives the one that the chain supports.
    fn check_leaf(
        &mut self,
        entry: &StoredAuditEntry,
        computed_leaf: Option<Digest32>,
        link: &Link,
        at: Position,
    ) -> Digest32 {
        let Some(computed) = computed_leaf else {
            self.findings.add(Tampering::BodyMissing, at, || "the body is gone".to_owned());
            return entry.leaf_hash;
        };
        if computed == entry.leaf_hash {
            return computed;
        }
        let supported = match link {
            Link::Follows(leaf)
            | Link::FollowsRecomputed(leaf)
            | Link::SkipsPrevious(leaf)
            | Link::OtherMark(leaf, _) => *leaf,
            Link::AfterGap | Link::Broken => entry.leaf_hash,
        };
        if supported == computed {
            self.findings.add(Tampering::EntryEdited, at, || "the leaf hash is not the body's".to_owned());
        } else {
            self.findings
                .add(Tampering::BodyEdited, at, || "the body does not have the leaf hash".to_owned());
        }
        supported
    }

    /// Moves on behind an entry.
    fn take(&mut self, entry: &StoredAuditEntry, leaf_hash: Digest32, is_after_gap: bool) {
        self.recomputed_head = if is_after_gap {
            entry.chain_hash
        } else {
            chain::link_stored(&self.head, &leaf_hash, entry.appended_at, &entry.mark)
        };
        self.head_before = (!is_after_gap).then_some(self.head);
        self.head = entry.chain_hash;

        // Only ever looked at while no entry is missing: then this is the index.
        let size = self.tree.size();
        let _closed = segment::make_room(&mut self.segment, size, entry.appended_at);
        self.tree.append(leaf_hash);
        self.next_index = entry.position.index + 1;
        self.entries_total += 1;
        self.duplicates_total += u64::from(entry.mark == AuditMark::Duplicate.to_stored());
        self.malformed_total += u64::from(entry.mark.starts_with("malformed:"));
    }

    /// Compares where the entries end with the stored size.
    fn judge_end(&mut self, state: &AuditLogState) {
        let (end, size) = (self.next_index, state.size);
        if end == size {
            return;
        }
        let is_head_reached = self.head == state.chain_head;
        let is_explained = !self.breaks.is_empty()
            || self.findings.has(Tampering::EntryInserted)
            || self.findings.has(Tampering::EntryReordered);
        if is_head_reached && is_explained {
            return;
        }
        if is_head_reached {
            self.findings.add(Tampering::HeadEdited, Position::index(end.min(size)), || {
                format!("the stored size is {size}, the entries up to the stored chain head are {end}")
            });
        } else if end < size {
            self.findings.add(Tampering::LogTruncated, Position::index(end), || {
                format!("entries {end} to {} are missing", size - 1)
            });
        } else if !self.findings.has(Tampering::EntryInserted) {
            self.findings.add(Tampering::EntryInserted, Position::index(size), || {
                format!("the stored size is {size}, but entries go on to {}", end - 1)
            });
        }
    }

    /// Tells whether the entries are a whole log, so that the stored state can be compared with it.
    fn is_sequence_sound(&self) -> bool {
        let is_displaced = [
            Tampering::EntryMissing,
            Tampering::EntryInserted,
            Tampering::EntryReordered,
            Tampering::LogTruncated,
            Tampering::HeadEdited,
        ]
        .into_iter()
        .any(|tampering| self.findings.has(tampering));
        !is_displaced && self.breaks.is_empty()
    }

    /// Compares the stored state with a whole log.
    fn check_state(&mut self, state: &AuditLogState) {
        let mut edited = Vec::new();
        if self.head != state.chain_head {
            edited.push("chain head");
        }
        if self.tree.frontier() != state.frontier {
            edited.push("frontier");
        }
        if self.is_last_offset_known && self.last_offset != state.last_offset {
            edited.push("last offset");
        }
        if !self.is_segment_possible(state) {
            edited.push("open segment");
        }
        for part in edited {
            self.findings.add(Tampering::HeadEdited, Position::index(state.size), || {
                format!("the stored {part} is not the one that the entries give")
            });
        }
    }

    /// Tells whether the stored open segment can be: at least as far as the entries' append times say.
    ///
    /// It may be further, where a timer closed one in a day without entries or before the clock was set back.
    fn is_segment_possible(&self, state: &AuditLogState) -> bool {
        let (open, least) = (&state.segment, &self.segment);
        let is_where_entries_say = open.first_index == least.first_index;
        let is_empty = open.first_index == state.size;
        open.closed.is_none()
            && open.first_index >= least.first_index
            && open.first_index <= state.size
            && open.number >= least.number + u64::from(!is_where_entries_say)
            && (!is_where_entries_say || is_empty || open.opened_at == least.opened_at)
    }

    /// Names what made entries that do not follow from the ones before them.
    fn kind_of_breaks(&self, state: &AuditLogState) -> Tampering {
        if self.findings.has(Tampering::EntryReordered) {
            Tampering::EntryReordered
        } else if self.next_index < state.size && self.head == state.chain_head {
            Tampering::EntryMissing
        } else if self.next_index > state.size {
            Tampering::EntryInserted
        } else {
            Tampering::EntryEdited
        }
    }

    fn add_break(&mut self, held: Option<Position>) {
        if self.breaks.len() < FINDINGS_MAX {
            self.breaks.extend(held);
        }
    }

    fn add_chain_hash_edited(&mut self, at: Position) {
        self.findings.add(Tampering::EntryEdited, at, || {
            "the chain hash is not the one that the next entry follows from".to_owned()
        });
    }
}

/// Lists every mark as it is stored.
fn stored_marks() -> impl Iterator<Item = String> {
    [AuditMark::Event, AuditMark::Duplicate, AuditMark::WrongPartition]
        .into_iter()
        .chain(Rejection::NAMES.into_iter().map(AuditMark::Malformed))
        .map(|mark| mark.to_stored())
}
