//! The Merkle tree of RFC 9162 over leaf hashes, and its proofs.
//!
//! Promises the roots, inclusion proofs and consistency proofs of the RFC, and verifiers that take a proof only
//! if it is exactly as long as the sizes ask for. Keeps no inner node: the roots of the perfect subtrees (the
//! frontier) are all that appending needs, and proofs are made from leaf hashes.
//!
//! *Source*: [RFC 9162, section 2.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1).

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::record::Digest32;

/// What is hashed before two children, so that no leaf can be taken for an inner node.
///
/// *Source*: [RFC 9162, 2.1.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.1).
pub const NODE_HASH_PREFIX: u8 = 0x01;

/// Bytes of a node before it is hashed: the prefix and two hashes.
const NODE_BYTES: usize = 65;

/// Tells why a proof cannot be made or does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index is not in a tree of that size.
    #[error("failed to prove inclusion: wanted an index below the size `{size}`, got `{index}`")]
    IndexOutsideTree {
        /// The index.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The first size is not within 1 and the second; an empty tree is a prefix of all and proves nothing.
    #[error("failed to prove consistency: wanted a first size in 1..={second_size}, got `{first_size}`")]
    SizesOutOfOrder {
        /// The size of the earlier tree.
        first_size: u64,
        /// The size of the later tree.
        second_size: u64,
    },
    /// A leaf hash that the proof needs is not there.
    #[error("failed to make a proof: wanted the leaf hash at index `{0}`, got none")]
    LeafMissing(u64),
    /// The proof is not as long as the sizes ask for.
    #[error("failed to verify a proof: wanted {wanted} hashes, got {got}")]
    WrongLength {
        /// Hashes that a proof between these sizes has.
        wanted: usize,
        /// Hashes that were given.
        got: usize,
    },
    /// The proof leads to another root.
    #[error("failed to verify a proof: it leads to another root of the tree of size `{size}`")]
    RootMismatch {
        /// The size of the tree whose root is missed.
        size: u64,
    },
}

/// Gives the hash of an inner node.
pub fn node_hash(left: &Digest32, right: &Digest32) -> Digest32 {
    let mut node = [NODE_HASH_PREFIX; NODE_BYTES];
    let (_, children) = node.split_at_mut(1);
    let (left_half, right_half) = children.split_at_mut(left.len());
    left_half.copy_from_slice(left);
    right_half.copy_from_slice(right);
    Sha256::digest(node).into()
}

/// Appends a leaf hash to a tree that is given by its size and frontier; the caller counts the size up.
///
/// The frontier must have one root per set bit of `size`; missing ones cannot be merged and are left out.
pub fn append(size: u64, frontier: &mut Vec<Digest32>, leaf_hash: Digest32) {
    debug_assert_eq!(frontier.len(), size.count_ones() as usize, "one root per set bit of the size");
    let mut root = leaf_hash;
    for _ in 0..size.trailing_ones() {
        if let Some(left) = frontier.pop() {
            root = node_hash(&left, &root);
        }
    }
    frontier.push(root);
}

/// Gives the root of a tree from its frontier, largest subtree first; of an empty one the hash of nothing.
pub fn root(frontier: &[Digest32]) -> Digest32 {
    let mut smallest_first = frontier.iter().rev();
    match smallest_first.next() {
        None => Sha256::digest([]).into(),
        Some(last) => smallest_first.fold(*last, |right, left| node_hash(left, &right)),
    }
}

/// A tree that grows at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MerkleTree {
    size: u64,
    frontier: Vec<Digest32>,
}

impl MerkleTree {
    /// Makes an empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a leaf hash.
    pub fn append(&mut self, leaf_hash: Digest32) {
        append(self.size, &mut self.frontier, leaf_hash);
        self.size += 1;
    }

    /// Counts the leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives the roots of the perfect subtrees, largest first.
    pub fn frontier(&self) -> &[Digest32] {
        &self.frontier
    }

    /// Gives the root.
    pub fn root(&self) -> Digest32 {
        root(&self.frontier)
    }
}

/// Lists the ranges of leaves whose roots prove that the leaf at `index` is in the tree, in order of the proof.
///
/// For callers that read leaf hashes by range; others use [`inclusion_proof`].
///
/// *Errors*: [`ProofError::IndexOutsideTree`].
///
/// *Source*: [RFC 9162, 2.1.3.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.3.1).
pub fn inclusion_ranges(index: u64, size: u64) -> Result<Vec<Range<u64>>, ProofError> {
    if index >= size {
        return Err(ProofError::IndexOutsideTree { index, size });
    }
    let mut ranges = Vec::new();
    let mut tree = 0..size;
    while tree.end - tree.start > 1 {
        let middle = split(&tree);
        if index < middle {
            ranges.push(middle..tree.end);
            tree.end = middle;
        } else {
            ranges.push(tree.start..middle);
            tree.start = middle;
        }
    }
    ranges.reverse();
    Ok(ranges)
}

/// Lists the ranges of leaves whose roots prove that the tree of `first_size` is a prefix of the one of
/// `second_size`, in order of the proof.
///
/// For callers that read leaf hashes by range; others use [`consistency_proof`].
///
/// *Errors*: [`ProofError::SizesOutOfOrder`].
///
/// *Source*: [RFC 9162, 2.1.4.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.4.1).
pub fn consistency_ranges(first_size: u64, second_size: u64) -> Result<Vec<Range<u64>>, ProofError> {
    if first_size == 0 || first_size > second_size {
        return Err(ProofError::SizesOutOfOrder { first_size, second_size });
    }
    let mut ranges = Vec::new();
    let mut tree = 0..second_size;
    while first_size < tree.end {
        let middle = split(&tree);
        if first_size <= middle {
            ranges.push(middle..tree.end);
            tree.end = middle;
        } else {
            ranges.push(tree.start..middle);
            tree.start = middle;
        }
    }
    // A subtree that begins at 0 is the whole first tree, whose root the verifier knows.
    if tree.start > 0 {
        ranges.push(tree);
    }
    ranges.reverse();
    Ok(ranges)
}

/// Makes the proof that the leaf at `index` is in the tree of the first `size` leaves.
///
/// Asks for leaf hashes in ascending order, each once and never the leaf's own.
///
/// *Errors*: [`ProofError::IndexOutsideTree`], or the accessor's error.
///
/// *Source*: [RFC 9162, 2.1.3.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.3.1).
pub fn inclusion_proof<E: From<ProofError>>(
    index: u64,
    size: u64,
    leaf_hash_at: impl FnMut(u64) -> Result<Digest32, E>,
) -> Result<Vec<Digest32>, E> {
    range_roots(&inclusion_ranges(index, size)?, leaf_hash_at)
}

/// Makes the proof that the tree of `first_size` leaves is a prefix of the tree of `second_size` leaves.
///
/// Asks for leaf hashes in ascending order, each at most once.
///
/// *Errors*: [`ProofError::SizesOutOfOrder`], or the accessor's error.
///
/// *Source*: [RFC 9162, 2.1.4.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.4.1).
pub fn consistency_proof<E: From<ProofError>>(
    first_size: u64,
    second_size: u64,
    leaf_hash_at: impl FnMut(u64) -> Result<Digest32, E>,
) -> Result<Vec<Digest32>, E> {
    range_roots(&consistency_ranges(first_size, second_size)?, leaf_hash_at)
}

/// Checks that a leaf is at `index` of the tree of `size` leaves with this root.
///
/// Size and root must come from one head that is trusted: some proofs hold for a neighbouring size as well,
/// because from their leaf both trees look alike.
///
/// *Errors*: [`ProofError::IndexOutsideTree`], [`ProofError::WrongLength`], [`ProofError::RootMismatch`].
///
/// *Source*: [RFC 9162, 2.1.3.2](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.3.2); the length is
/// checked first, so that a wrong one has a name of its own.
pub fn verify_inclusion(
    index: u64,
    size: u64,
    leaf_hash: &Digest32,
    proof: &[Digest32],
    expected_root: &Digest32,
) -> Result<(), ProofError> {
    let wanted = inclusion_ranges(index, size)?.len();
    if proof.len() != wanted {
        return Err(ProofError::WrongLength { wanted, got: proof.len() });
    }
    let mut walk = Walk { node: index, last: size - 1 };
    let mut computed = *leaf_hash;
    for sibling in proof {
        computed = match walk.up() {
            Side::Left => node_hash(sibling, &computed),
            Side::Right => node_hash(&computed, sibling),
        };
    }
    check_root(&computed, expected_root, size)
}

/// Checks that the tree of `first_size` leaves with this root is a prefix of the later one.
///
/// *Errors*: [`ProofError::SizesOutOfOrder`], [`ProofError::WrongLength`], [`ProofError::RootMismatch`].
///
/// *Source*: [RFC 9162, 2.1.4.2](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.4.2); trees of one size
/// are consistent by an empty proof and equal roots.
pub fn verify_consistency(
    first_size: u64,
    second_size: u64,
    first_root: &Digest32,
    second_root: &Digest32,
    proof: &[Digest32],
) -> Result<(), ProofError> {
    let wanted = consistency_ranges(first_size, second_size)?.len();
    if proof.len() != wanted {
        return Err(ProofError::WrongLength { wanted, got: proof.len() });
    }
    if first_size == second_size {
        return check_root(first_root, second_root, first_size);
    }
    let known = first_size.is_power_of_two().then_some(first_root);
    let mut path = known.into_iter().chain(proof);
    let Some(start) = path.next() else {
        return Err(ProofError::WrongLength { wanted, got: 0 });
    };
    let mut walk = Walk { node: first_size - 1, last: second_size - 1 };
    walk.skip_right_edge();
    let (mut first_computed, mut second_computed) = (*start, *start);
    for sibling in path {
        match walk.up() {
            Side::Left => {
                first_computed = node_hash(sibling, &first_computed);
                second_computed = node_hash(sibling, &second_computed);
            }
            Side::Right => second_computed = node_hash(&second_computed, sibling),
        }
    }
    check_root(&first_computed, first_root, first_size)?;
    check_root(&second_computed, second_root, second_size)
}

fn check_root(computed: &Digest32, expected: &Digest32, size: u64) -> Result<(), ProofError> {
    if computed == expected { Ok(()) } else { Err(ProofError::RootMismatch { size }) }
}

/// Where the next hash of a proof stands.
enum Side {
    Left,
    Right,
}

/// The way from a node up to the root: the RFC's `fn` and `sn`.
struct Walk {
    node: u64,
    last: u64,
}

impl Walk {
    /// Goes up one level of the proof.
    fn up(&mut self) -> Side {
        let is_right_child = self.node & 1 == 1;
        let side = if is_right_child || self.node == self.last { Side::Left } else { Side::Right };
        if matches!(side, Side::Left) && !is_right_child {
            // A lone last node is handed up unchanged until it has a left sibling.
            while self.node & 1 == 0 && self.node != 0 {
                self.shift();
            }
        }
        self.shift();
        side
    }

    /// Goes up while the node is a right child: to the largest perfect subtree that ends the first tree.
    fn skip_right_edge(&mut self) {
        while self.node & 1 == 1 {
            self.shift();
        }
    }

    fn shift(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

/// Gives where a tree of at least two leaves splits: after the largest power of two below its size.
fn split(tree: &Range<u64>) -> u64 {
    let size = tree.end - tree.start;
    tree.start + (1 << (size - 1).ilog2())
}

/// Gives the roots of ranges, which do not overlap, in the order of the ranges.
fn range_roots<E>(
    ranges: &[Range<u64>],
    mut leaf_hash_at: impl FnMut(u64) -> Result<Digest32, E>,
) -> Result<Vec<Digest32>, E> {
    let mut ascending: Vec<(usize, &Range<u64>)> = ranges.iter().enumerate().collect();
    ascending.sort_unstable_by_key(|(_, range)| range.start);
    let mut roots = Vec::with_capacity(ranges.len());
    for (place, range) in ascending {
        let mut subtree = MerkleTree::new();
        for index in range.clone() {
            subtree.append(leaf_hash_at(index)?);
        }
        roots.push((place, subtree.root()));
    }
    roots.sort_unstable_by_key(|(place, _)| *place);
    Ok(roots.into_iter().map(|(_, root)| root).collect())
}

#[cfg(test)]
mod tests;
