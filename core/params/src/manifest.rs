//! What a region holds: its size, its version and the hash of each of its chunks.

use serde::{Deserialize, Serialize};
use suanli_base::{FragmentId, Hash, Round};

use crate::chunk::CHUNK_ELEMENTS;
use crate::codec::{Codec, encoded_len};
use crate::merkle::root;

/// Bytes of a chunk of a region that holds plain bytes (data shards); the last may be shorter.
pub const BYTE_CHUNK: usize = 65_536;

/// Chunks of one region: 2^20, that is 64 Gi elements or 64 GiB, and 32 MiB of hashes.
pub const CHUNKS_MAX: usize = 1 << 20;

/// What the bytes of a region are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Numbers under a codec, cut into chunks of [`CHUNK_ELEMENTS`].
    Elements {
        /// How they are written.
        codec: Codec,
        /// How many.
        elements: u64,
    },
    /// Plain bytes, cut into chunks of [`BYTE_CHUNK`].
    Bytes {
        /// How many.
        bytes: u64,
    },
}

/// A manifest or a chunk was refused: the fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The region is larger than any may be.
    #[error("a region has at most {max} chunks, this one would have {found}")]
    TooLarge {
        /// Chunks its size would make.
        found: u64,
        /// The most.
        max: usize,
    },
    /// The number of hashes does not fit the size.
    #[error("a region of this size has {expected} chunks, the manifest lists {found}")]
    Count {
        /// Chunks its size makes.
        expected: usize,
        /// Hashes listed.
        found: usize,
    },
    /// The root is not the root of the hashes listed.
    #[error("the manifest's root is {}, its chunks have root {}", expected.short(), found.short())]
    Root {
        /// The root it names.
        expected: Hash,
        /// The root of its hashes.
        found: Hash,
    },
    /// There is no such chunk.
    #[error("chunk {index} of a region of {count} chunks does not exist")]
    Index {
        /// Which chunk.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A chunk came with a wrong length.
    #[error("chunk {index} has {expected} bytes, {found} came")]
    ChunkLength {
        /// Which chunk.
        index: usize,
        /// Its length.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// A chunk came with other bytes than the manifest promises.
    #[error("chunk {index} has hash {}, the manifest promises {}; fetch it from another peer", found.short(), expected.short())]
    ChunkHash {
        /// Which chunk.
        index: usize,
        /// The hash promised.
        expected: Hash,
        /// The hash of what came.
        found: Hash,
    },
}

impl Content {
    /// How many chunks a region of this content has.
    ///
    /// # Errors
    /// [`ManifestError::TooLarge`] above [`CHUNKS_MAX`].
    pub fn chunk_count(&self) -> Result<usize, ManifestError> {
        let found = match self {
            Self::Elements { elements, .. } => elements.div_ceil(CHUNK_ELEMENTS as u64),
            Self::Bytes { bytes } => bytes.div_ceil(BYTE_CHUNK as u64),
        };
        match usize::try_from(found) {
            Ok(count) if count <= CHUNKS_MAX => Ok(count),
            _ => Err(ManifestError::TooLarge { found, max: CHUNKS_MAX }),
        }
    }

    /// The bytes of chunk `index`.
    ///
    /// # Errors
    /// [`ManifestError`] when the region is too large or has no such chunk.
    pub fn chunk_len(&self, index: usize) -> Result<usize, ManifestError> {
        let count = self.chunk_count()?;
        if index >= count {
            return Err(ManifestError::Index { index, count });
        }
        let part = |total: u64, chunk: usize| {
            let rest = total - (index * chunk) as u64;
            usize::try_from(rest.min(chunk as u64)).expect("at most a chunk")
        };
        Ok(match *self {
            Self::Elements { codec, elements } => {
                encoded_len(codec, part(elements, CHUNK_ELEMENTS))
            }
            Self::Bytes { bytes } => part(bytes, BYTE_CHUNK),
        })
    }

    /// All bytes of a region of this content.
    ///
    /// # Errors
    /// [`ManifestError::TooLarge`] above [`CHUNKS_MAX`].
    pub fn total_bytes(&self) -> Result<u64, ManifestError> {
        let count = self.chunk_count()?;
        let Some(last) = count.checked_sub(1) else { return Ok(0) };
        Ok(last as u64 * self.chunk_len(0)? as u64 + self.chunk_len(last)? as u64)
    }
}

/// What a region holds at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionManifest {
    /// The fragment it belongs to.
    pub fragment: FragmentId,
    /// The version.
    pub version: Round,
    /// What its bytes are.
    pub content: Content,
    /// BLAKE3 of each chunk's bytes as they travel.
    pub chunks: Vec<Hash>,
    /// The root over `chunks`.
    pub root: Hash,
}

impl RegionManifest {
    /// The manifest of a region whose bytes are at hand.
    ///
    /// # Errors
    /// [`ManifestError`] when `bytes` are too many, or not as many as `content` says.
    pub fn of(
        fragment: FragmentId,
        version: Round,
        content: Content,
        bytes: &[u8],
    ) -> Result<Self, ManifestError> {
        let count = content.chunk_count()?;
        let mut chunks = Vec::with_capacity(count);
        let mut rest = bytes;
        for index in 0..count {
            let expected = content.chunk_len(index)?;
            let Some((chunk, after)) = rest.split_at_checked(expected) else {
                return Err(ManifestError::ChunkLength { index, expected, found: rest.len() });
            };
            chunks.push(Hash::of(chunk));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(ManifestError::ChunkLength {
                index: count,
                expected: 0,
                found: rest.len(),
            });
        }
        Self::of_chunks(fragment, version, content, chunks)
    }

    /// The manifest of a region whose chunk hashes are known.
    ///
    /// # Errors
    /// [`ManifestError`] when they are not as many as `content` says.
    pub fn of_chunks(
        fragment: FragmentId,
        version: Round,
        content: Content,
        chunks: Vec<Hash>,
    ) -> Result<Self, ManifestError> {
        let root = root(&chunks);
        let manifest = Self { fragment, version, content, chunks, root };
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks that size, number of hashes and root agree.
    ///
    /// # Errors
    /// [`ManifestError`] when they do not.
    pub fn check(&self) -> Result<(), ManifestError> {
        let expected = self.content.chunk_count()?;
        if expected != self.chunks.len() {
            return Err(ManifestError::Count { expected, found: self.chunks.len() });
        }
        let found = root(&self.chunks);
        if found != self.root {
            return Err(ManifestError::Root { expected: self.root, found });
        }
        Ok(())
    }

    /// Checks the bytes of one chunk as they came.
    ///
    /// # Errors
    /// [`ManifestError`] when they are not the chunk that the manifest promises.
    pub fn check_chunk(&self, index: usize, bytes: &[u8]) -> Result<(), ManifestError> {
        let expected = self.content.chunk_len(index)?;
        if bytes.len() != expected {
            return Err(ManifestError::ChunkLength { index, expected, found: bytes.len() });
        }
        let Some(&expected) = self.chunks.get(index) else {
            return Err(ManifestError::Index { index, count: self.chunks.len() });
        };
        let found = Hash::of(bytes);
        if found != expected {
            return Err(ManifestError::ChunkHash { index, expected, found });
        }
        Ok(())
    }

    /// The hash that names all of this: fragment, version, content and root. What is signed.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let (kind, count) = match self.content {
            Content::Elements { codec, elements } => (codec.id(), elements),
            Content::Bytes { bytes } => (0, bytes),
        };
        Hash::of_parts(
            "suanli 2026 region manifest",
            &[
                &self.fragment.0.to_le_bytes(),
                &self.version.0.to_le_bytes(),
                &[kind],
                &count.to_le_bytes(),
                self.root.as_bytes(),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(content: Content, bytes: &[u8]) -> Result<RegionManifest, ManifestError> {
        RegionManifest::of(FragmentId(0), Round(3), content, bytes)
    }

    #[test]
    fn a_manifest_knows_its_chunks_and_refuses_others() {
        let bytes = vec![7_u8; BYTE_CHUNK + 10];
        let content = Content::Bytes { bytes: bytes.len() as u64 };
        let region = manifest(content, &bytes).unwrap();
        assert_eq!(region.check(), Ok(()));
        assert_eq!(region.check_chunk(1, &bytes[BYTE_CHUNK..]), Ok(()));
        let long = region.check_chunk(1, &bytes[BYTE_CHUNK - 1..]);
        assert!(matches!(
            long,
            Err(ManifestError::ChunkLength { index: 1, expected: 10, found: 11 })
        ));
        assert!(matches!(region.check_chunk(1, &[0; 10]), Err(ManifestError::ChunkHash { .. })));
        assert!(matches!(region.check_chunk(2, &[]), Err(ManifestError::Index { .. })));
    }

    #[test]
    fn a_manifest_that_disagrees_with_itself_is_refused() {
        let content = Content::Bytes { bytes: 10 };
        let good = manifest(content, &[1; 10]).unwrap();
        let mut wrong = good.clone();
        wrong.root.0[0] ^= 1;
        assert!(matches!(wrong.check(), Err(ManifestError::Root { .. })));
        let mut wrong = good.clone();
        wrong.content = Content::Bytes { bytes: 70_000 };
        assert!(matches!(wrong.check(), Err(ManifestError::Count { expected: 2, found: 1 })));
        let mut wrong = good;
        wrong.content = Content::Elements { codec: Codec::F32, elements: u64::MAX };
        assert!(matches!(wrong.check(), Err(ManifestError::TooLarge { .. })));
        assert!(manifest(content, &[1; 9]).is_err());
        assert!(manifest(content, &[1; 11]).is_err());
    }

    #[test]
    fn sizes_follow_the_codec() {
        let elements = CHUNK_ELEMENTS as u64 + 65;
        let f32s = Content::Elements { codec: Codec::F32, elements };
        assert_eq!(f32s.total_bytes(), Ok(elements * 4));
        let int4 = Content::Elements { codec: Codec::Int4, elements };
        assert_eq!(int4.chunk_len(0), Ok(34 * 1024));
        assert_eq!(int4.chunk_len(1), Ok(34 + 3));
        assert_eq!(Content::Bytes { bytes: 0 }.total_bytes(), Ok(0));
    }
}
