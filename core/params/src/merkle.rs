//! The root over a list of chunk hashes, and proofs that one chunk hash stands in it.
//!
//! Leaves, inner nodes and the root are hashed under different contexts, and the root mixes in the
//! number of leaves: no list can pass for another, no inner node for a leaf (RFC 6962, section 2.1,
//! has the same shape: a node without a partner goes up unchanged).

use suanli_base::Hash;

const LEAF: &str = "suanli 2026 merkle leaf";
const NODE: &str = "suanli 2026 merkle node";
const ROOT: &str = "suanli 2026 merkle root";

/// A proof was refused: the fault of whoever gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// There is no such leaf.
    #[error("leaf {index} of a tree of {count} leaves does not exist")]
    Index {
        /// Which leaf.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The path is too long or too short for its tree.
    #[error("leaf {index} of {count} has a path of {expected} hashes, {found} came")]
    Length {
        /// Which leaf.
        index: usize,
        /// How many there are.
        count: usize,
        /// Hashes its path has.
        expected: usize,
        /// Hashes that came.
        found: usize,
    },
    /// The path leads to another root.
    #[error("the path of leaf {index} leads to root {}, expected {}", found.short(), expected.short())]
    Root {
        /// Which leaf.
        index: usize,
        /// The root that was known.
        expected: Hash,
        /// The root the path leads to.
        found: Hash,
    },
}

/// The Merkle root over chunk hashes, in their order.
#[must_use]
pub fn root(chunks: &[Hash]) -> Hash {
    let mut level: Vec<Hash> = chunks.iter().map(leaf).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(parent).collect();
    }
    crown(chunks.len(), level.first().copied().unwrap_or(Hash::ZERO))
}

/// The siblings that lead from leaf `index` to the root, lowest first.
///
/// # Errors
/// [`PathError::Index`] when there is no such leaf.
pub fn path(chunks: &[Hash], index: usize) -> Result<Vec<Hash>, PathError> {
    if index >= chunks.len() {
        return Err(PathError::Index { index, count: chunks.len() });
    }
    let mut level: Vec<Hash> = chunks.iter().map(leaf).collect();
    let mut siblings = Vec::new();
    let mut at = index;
    while level.len() > 1 {
        siblings.extend(level.get(at ^ 1));
        level = level.chunks(2).map(parent).collect();
        at /= 2;
    }
    Ok(siblings)
}

/// Checks that `chunk` is leaf `index` of the `count` leaves under `expected`.
///
/// # Errors
/// [`PathError`] when it is not shown to be.
pub fn verify_path(
    expected: Hash,
    count: usize,
    index: usize,
    chunk: Hash,
    path: &[Hash],
) -> Result<(), PathError> {
    if index >= count {
        return Err(PathError::Index { index, count });
    }
    let length = path_len(count, index);
    if path.len() != length {
        return Err(PathError::Length { index, count, expected: length, found: path.len() });
    }
    let mut siblings = path.iter();
    let (mut hash, mut at, mut width) = (leaf(&chunk), index, count);
    while width > 1 {
        if at ^ 1 < width {
            let sibling = siblings.next().expect("the path's length was checked");
            hash = if at % 2 == 0 { node(&hash, sibling) } else { node(sibling, &hash) };
        }
        (at, width) = (at / 2, width.div_ceil(2));
    }
    let found = crown(count, hash);
    if found == expected { Ok(()) } else { Err(PathError::Root { index, expected, found }) }
}

fn path_len(count: usize, index: usize) -> usize {
    let (mut at, mut width, mut length) = (index, count, 0);
    while width > 1 {
        length += usize::from(at ^ 1 < width);
        (at, width) = (at / 2, width.div_ceil(2));
    }
    length
}

fn leaf(chunk: &Hash) -> Hash {
    Hash::of_parts(LEAF, &[chunk.as_bytes()])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Hash::of_parts(NODE, &[left.as_bytes(), right.as_bytes()])
}

fn parent(pair: &[Hash]) -> Hash {
    match pair {
        [left, right] => node(left, right),
        _ => pair[0],
    }
}

fn crown(count: usize, top: Hash) -> Hash {
    Hash::of_parts(ROOT, &[&(count as u64).to_le_bytes(), top.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: usize) -> Vec<Hash> {
        (0..count).map(|i| Hash::of(&i.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_has_a_path_that_holds() {
        for count in 0..40 {
            let chunks = hashes(count);
            let top = root(&chunks);
            for index in 0..count {
                let proof = path(&chunks, index).unwrap();
                assert_eq!(verify_path(top, count, index, chunks[index], &proof), Ok(()));
                let other = Hash::of(b"other");
                assert!(verify_path(top, count, index, other, &proof).is_err());
                assert!(verify_path(top, count + 1, index, chunks[index], &proof).is_err());
                let neighbour = (index + 1) % count;
                if neighbour != index {
                    assert!(verify_path(top, count, neighbour, chunks[index], &proof).is_err());
                }
                let mut longer = proof.clone();
                longer.push(other);
                let long = verify_path(top, count, index, chunks[index], &longer);
                assert!(matches!(long, Err(PathError::Length { .. })));
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at].0[31] ^= 1;
                    assert!(verify_path(top, count, index, chunks[index], &changed).is_err());
                }
            }
            assert!(path(&chunks, count).is_err());
        }
    }

    #[test]
    fn lists_of_different_length_or_order_have_different_roots() {
        let mut roots: Vec<Hash> = (0..20).map(|count| root(&hashes(count))).collect();
        let mut turned = hashes(5);
        turned.swap(0, 1);
        roots.push(root(&turned));
        roots.push(root(&[Hash::ZERO]));
        // An inner node handed in as a leaf.
        let pair = hashes(2);
        roots.push(root(&[node(&leaf(&pair[0]), &leaf(&pair[1]))]));
        let distinct: std::collections::BTreeSet<_> = roots.iter().collect();
        assert_eq!(distinct.len(), roots.len());
    }
}
