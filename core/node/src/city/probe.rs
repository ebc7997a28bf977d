//! What measures a link: a region of fixed bytes that every admitted node may read, and a staging
//! area of the same name whose chunks are acknowledged and thrown away.

use bytes::Bytes;
use std::sync::{Arc, LazyLock};
use suanli_base::Hash;
use suanli_rdpa::{RegionInfo, Shape};

/// Bytes of the region, and the most that is staged at once.
pub(super) const BYTES: usize = 4 << 20;
const CHUNK_BYTES: u32 = 1 << 20;

/// Bytes that no line can compress: the hashes of 0, 1, 2 and so on, 64-bit little-endian.
static CONTENT: LazyLock<Bytes> = LazyLock::new(|| {
    let hashes = (0..BYTES as u64 / 32).map(|index| Hash::of(&index.to_le_bytes()));
    hashes.flat_map(|hash| hash.0).collect()
});

static INFO: LazyLock<Arc<RegionInfo>> = LazyLock::new(|| {
    let info = RegionInfo::of(1, &CONTENT, CHUNK_BYTES);
    Arc::new(info.expect("4 MiB are four chunks of 1 MiB"))
});

pub(super) fn info() -> Arc<RegionInfo> {
    Arc::clone(&INFO)
}

pub(super) fn bytes() -> &'static [u8] {
    &CONTENT
}

/// Whether so much may be staged here.
pub(super) const fn fits(shape: Shape) -> bool {
    shape.bytes <= BYTES as u64
}
