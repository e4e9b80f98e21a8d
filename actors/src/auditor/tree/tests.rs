//! The tree against published vectors, a slow reference, and forged proofs.

use proptest::prelude::*;

use super::*;
use crate::auditor::leaf::LEAF_HASH_PREFIX;
use crate::auditor::to_hex;

/// The leaves of Certificate Transparency's reference tests.
///
/// *Source*: `cpp/merkletree/merkle_tree_test.cc` of google/certificate-transparency.
const LEAVES: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];

/// The published roots of the trees of size 1 to 8.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

const A: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
const B: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
const C: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
const D: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
const E: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
const F: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";

fn leaf_hashes() -> Vec<Digest32> {
    LEAVES
        .iter()
        .map(|leaf| Sha256::new().chain_update([LEAF_HASH_PREFIX]).chain_update(leaf).finalize().into())
        .collect()
}

/// The RFC's recursive definition of the root, word for word.
fn slow_root(leaves: &[Digest32]) -> Digest32 {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(slow_split(leaves.len()));
            node_hash(&slow_root(left), &slow_root(right))
        }
    }
}

/// The RFC's `PATH(m, D_n)`.
fn slow_path(index: usize, leaves: &[Digest32]) -> Vec<Digest32> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = slow_split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut path, sibling) = if index < k {
        (slow_path(index, left), slow_root(right))
    } else {
        (slow_path(index - k, right), slow_root(left))
    };
    path.push(sibling);
    path
}

/// The RFC's `SUBPROOF(m, D_n, b)`.
fn slow_subproof(size: usize, leaves: &[Digest32], is_whole: bool) -> Vec<Digest32> {
    if size == leaves.len() {
        return if is_whole { Vec::new() } else { vec![slow_root(leaves)] };
    }
    let k = slow_split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if size <= k {
        (slow_subproof(size, left, is_whole), slow_root(right))
    } else {
        (slow_subproof(size - k, right, false), slow_root(left))
    };
    proof.push(sibling);
    proof
}

fn slow_split(size: usize) -> usize {
    let mut k = 1;
    while k * 2 < size {
        k *= 2;
    }
    k
}

fn at(leaves: &[Digest32]) -> impl FnMut(u64) -> Result<Digest32, ProofError> {
    |index| leaves.get(index as usize).copied().ok_or(ProofError::LeafMissing(index))
}

fn hex_of(hashes: &[Digest32]) -> Vec<String> {
    hashes.iter().map(to_hex).collect()
}

fn numbered(count: usize) -> Vec<Digest32> {
    (0..count).map(|number| Sha256::digest(number.to_be_bytes()).into()).collect()
}

#[test]
fn tree_empty_has_the_hash_of_nothing_as_root() {
    let root = MerkleTree::new().root();

    assert_eq!(to_hex(&root), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn tree_published_leaves_have_the_published_roots() {
    let mut tree = MerkleTree::new();

    for (leaf, wanted) in leaf_hashes().into_iter().zip(ROOTS) {
        tree.append(leaf);

        assert_eq!(to_hex(&tree.root()), wanted, "size {}", tree.size());
    }
}

#[test]
fn inclusion_proof_published_leaves_equals_published_proof() {
    let leaves = leaf_hashes();
    let cases: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (0, 8, &[A, B, C]),
        (5, 8, &[D, E, ROOTS[3]]),
        (2, 3, &[ROOTS[1]]),
        (1, 5, &[ROOTS[0], B, D]),
    ];

    for (index, size, wanted) in cases {
        let proof = inclusion_proof(index, size, at(&leaves)).unwrap();

        assert_eq!(hex_of(&proof), wanted, "leaf {index} of {size}");
    }
}

#[test]
fn consistency_proof_published_leaves_equals_published_proof() {
    let leaves = leaf_hashes();
    let cases: [(u64, u64, &[&str]); 4] =
        [(1, 1, &[]), (1, 8, &[A, B, C]), (6, 8, &[F, E, ROOTS[3]]), (2, 5, &[B, D])];

    for (first, second, wanted) in cases {
        let proof = consistency_proof(first, second, at(&leaves)).unwrap();

        assert_eq!(hex_of(&proof), wanted, "{first} of {second}");
    }
}

#[test]
fn proofs_every_size_up_to_40_equal_the_reference_and_verify() {
    let leaves = numbered(40);

    for size in 1..=leaves.len() {
        let leaves = &leaves[..size];
        let root = slow_root(leaves);
        for index in 0..size {
            let proof = inclusion_proof(index as u64, size as u64, at(leaves)).unwrap();
            assert_eq!(proof, slow_path(index, leaves), "leaf {index} of {size}");
            assert_eq!(verify_inclusion(index as u64, size as u64, &leaves[index], &proof, &root), Ok(()));
        }
        for first in 1..=size {
            let proof = consistency_proof(first as u64, size as u64, at(leaves)).unwrap();
            assert_eq!(proof, slow_subproof(first, leaves, true), "{first} of {size}");
            let first_root = slow_root(&leaves[..first]);
            assert_eq!(verify_consistency(first as u64, size as u64, &first_root, &root, &proof), Ok(()));
        }
    }
}

#[test]
fn proofs_sizes_out_of_range_are_refused() {
    let leaves = leaf_hashes();
    let root = slow_root(&leaves);

    assert_eq!(inclusion_proof(8, 8, at(&leaves)), Err(ProofError::IndexOutsideTree { index: 8, size: 8 }));
    assert_eq!(inclusion_proof(0, 9, at(&leaves)), Err(ProofError::LeafMissing(8)));
    assert_eq!(
        verify_inclusion(8, 8, &leaves[7], &[], &root),
        Err(ProofError::IndexOutsideTree { index: 8, size: 8 })
    );
    for (first_size, second_size) in [(0, 8), (0, 0), (9, 8)] {
        let wanted = ProofError::SizesOutOfOrder { first_size, second_size };
        assert_eq!(consistency_proof(first_size, second_size, at(&leaves)), Err(wanted.clone()));
        assert_eq!(verify_consistency(first_size, second_size, &root, &root, &[]), Err(wanted));
    }
}

#[test]
fn proof_accessor_is_asked_in_ascending_order() {
    let leaves = numbered(1000);
    let mut asked = Vec::new();

    inclusion_proof(613, 1000, |index| {
        asked.push(index);
        at(&leaves)(index)
    })
    .unwrap();

    assert!(asked.is_sorted_by(|left, right| left < right));
    assert_eq!(asked.len(), 999);
}

/// Ways to forge a proof.
#[derive(Debug, Clone)]
enum Forgery {
    FlipBit(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, Digest32),
    Double(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Replace(Vec<Digest32>),
}

fn any_forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, bit)| Forgery::FlipBit(at, bit)),
        any::<prop::sample::Index>().prop_map(Forgery::Remove),
        (any::<prop::sample::Index>(), any::<Digest32>()).prop_map(|(at, hash)| Forgery::Insert(at, hash)),
        any::<prop::sample::Index>().prop_map(Forgery::Double),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(a, b)| Forgery::Swap(a, b)),
        prop::collection::vec(any::<Digest32>(), 0..10).prop_map(Forgery::Replace),
    ]
}

fn forge(proof: &[Digest32], forgery: &Forgery) -> Vec<Digest32> {
    let mut forged = proof.to_vec();
    match forgery {
        Forgery::Insert(at, hash) => forged.insert(at.index(proof.len() + 1), *hash),
        Forgery::Replace(hashes) => forged.clone_from(hashes),
        _ if proof.is_empty() => {}
        Forgery::FlipBit(at, bit) => forged[at.index(proof.len())][usize::from(bit / 8)] ^= 1 << (bit % 8),
        Forgery::Remove(at) => drop(forged.remove(at.index(proof.len()))),
        Forgery::Double(at) => forged.insert(at.index(proof.len()), proof[at.index(proof.len())]),
        Forgery::Swap(left, right) => forged.swap(left.index(proof.len()), right.index(proof.len())),
    }
    forged
}

proptest! {
    #[test]
    fn tree_grown_equals_the_reference(count in 0..200usize) {
        let leaves = numbered(count);
        let mut tree = MerkleTree::new();

        for leaf in &leaves {
            tree.append(*leaf);
        }

        prop_assert_eq!(tree.root(), slow_root(&leaves));
        prop_assert_eq!(tree.frontier().len(), count.count_ones() as usize);
    }

    #[test]
    fn inclusion_proof_forged_is_refused(
        size in 1..100usize,
        index in any::<prop::sample::Index>(),
        forgery in any_forgery(),
    ) {
        let leaves = numbered(size);
        let index = index.index(size);
        let proof = slow_path(index, &leaves);
        let forged = forge(&proof, &forgery);
        prop_assume!(forged != proof);

        let answer = verify_inclusion(index as u64, size as u64, &leaves[index], &forged, &slow_root(&leaves));

        prop_assert!(answer.is_err());
    }

    #[test]
    fn inclusion_proof_at_another_place_is_refused(
        size in 2..100usize,
        index in any::<prop::sample::Index>(),
        other_index in 0..130u64,
        other_size in 1..130u64,
    ) {
        let leaves = numbered(size);
        let index = index.index(size);
        let proof = slow_path(index, &leaves);
        let root = slow_root(&leaves);
        prop_assume!(other_index != index as u64);

        prop_assert!(verify_inclusion(other_index, size as u64, &leaves[index], &proof, &root).is_err());
        let length = inclusion_ranges(index as u64, other_size).map(|ranges| ranges.len());
        if length != Ok(proof.len()) {
            prop_assert!(verify_inclusion(index as u64, other_size, &leaves[index], &proof, &root).is_err());
        }
    }

    #[test]
    fn inclusion_proof_of_another_leaf_is_refused(
        size in 2..100usize,
        index in any::<prop::sample::Index>(),
        leaf: Digest32,
    ) {
        let leaves = numbered(size);
        let index = index.index(size);
        let proof = slow_path(index, &leaves);

        let answer = verify_inclusion(index as u64, size as u64, &leaf, &proof, &slow_root(&leaves));

        prop_assert_eq!(answer, Err(ProofError::RootMismatch { size: size as u64 }));
    }

    #[test]
    fn consistency_proof_forged_is_refused(
        second in 1..100usize,
        first in any::<prop::sample::Index>(),
        forgery in any_forgery(),
    ) {
        let leaves = numbered(second);
        let first = first.index(second) + 1;
        let proof = slow_subproof(first, &leaves, true);
        let forged = forge(&proof, &forgery);
        prop_assume!(forged != proof);
        let (first_root, second_root) = (slow_root(&leaves[..first]), slow_root(&leaves));

        let answer = verify_consistency(first as u64, second as u64, &first_root, &second_root, &forged);

        prop_assert!(answer.is_err());
    }

    #[test]
    fn consistency_proof_of_a_rewritten_past_is_refused(
        second in 2..100usize,
        first in any::<prop::sample::Index>(),
        rewritten in any::<prop::sample::Index>(),
    ) {
        let leaves = numbered(second);
        let first = first.index(second - 1) + 1;
        let mut past = leaves[..first].to_vec();
        past[rewritten.index(first)][0] ^= 1;
        let proof = slow_subproof(first, &leaves, true);

        let answer =
            verify_consistency(first as u64, second as u64, &slow_root(&past), &slow_root(&leaves), &proof);

        prop_assert!(answer.is_err());
    }

    #[test]
    fn proofs_of_huge_sizes_never_panic(
        index: u64,
        size: u64,
        proof in prop::collection::vec(any::<Digest32>(), 0..70),
        hash: Digest32,
    ) {
        prop_assert!(verify_inclusion(index, size, &hash, &proof, &[0; 32]).is_err());
        prop_assert!(verify_consistency(index, size, &hash, &[0; 32], &proof).is_err());
    }
}
