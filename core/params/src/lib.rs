//! The parameter space: tensors, chunks, manifests, wire codecs, error feedback, sealing of moments.
//!
//! Not for: optimisers and merges (`bus`, `engine`), moving bytes (`rdpa`), files (`store`). Nothing
//! here starts a thread; whoever wants several cores splits a buffer at chunk boundaries, and gets
//! the same bytes as from one call.
//!
//! Invariants:
//! - Parameters are one flat `f32` buffer in the order of [`Space`]; bytes are little-endian.
//! - Same input, same bits: every operation is one IEEE 754 single-precision addition,
//!   multiplication, division or square root in a written order. No reciprocal estimates, no fused
//!   multiply-add, no reassociation; SIMD width cannot show.
//! - Decoding checks the exact length, finite numbers and the canonical form before it changes
//!   anything.
//!
//! The byte formats are written down in `docs/spec/params.md` and frozen by the files in
//! `docs/spec/vectors`.

mod absmax;
mod chunk;
mod codec;
mod feedback;
mod float;
mod int4;
mod int8;
mod manifest;
mod merkle;
mod norm;
mod planes;
mod seal;
mod space;
mod tile;
mod topk;
mod update;
mod wide;

pub use chunk::{CHUNK_ELEMENTS, chunk_count, chunk_range};
pub use codec::{BLOCK, Codec, CodecError, accumulate, decode, encode, encoded_len, validate};
pub use feedback::{FeedbackError, encode_with_feedback};
pub use int4::INT4_LARGEST;
pub use int8::INT8_LARGEST;
pub use manifest::{BYTE_CHUNK, CHUNKS_MAX, Content, ManifestError, RegionManifest};
pub use merkle::{PathError, path, root, verify_path};
pub use norm::sum_of_squares;
pub use planes::{PackError, Packing, pack, packed_chunk_len, unpack};
pub use seal::{SealError, seal_moments, sealed_len, unseal_moments};
pub use space::{Space, SpaceError, Tensor, TensorSpec};
pub use topk::TOPK_LARGEST;
pub use update::{UpdateError, apply_update};
