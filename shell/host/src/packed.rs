//! Models as they travel, packed without loss (`docs/spec/params.md`), and as they lie on disk: f32,
//! little-endian. A chunk at a time, so that memory does not grow with the model.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use suanli_base::Hash;
use suanli_bus::Frozen;
use suanli_params::{CHUNK_ELEMENTS, PackError, Packing, pack, packed_chunk_len, root, unpack};

/// Packs a model, on all of this machine's threads.
pub(crate) fn pack_model(params: &[f32]) -> Result<Vec<u8>, PackError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunks = params.len().div_ceil(CHUNK_ELEMENTS);
    let share = chunks.div_ceil(threads).max(1) * CHUNK_ELEMENTS;
    let mut packed = std::thread::scope(|scope| {
        let work = |part| {
            move || {
                let mut out = Vec::new();
                pack(Packing::F32, part, &mut out).map(|()| out)
            }
        };
        let running: Vec<_> = params.chunks(share).map(|part| scope.spawn(work(part))).collect();
        let parts = running.into_iter().map(|one| one.join().expect("packing does not panic"));
        parts.collect::<Result<Vec<_>, _>>()
    })?
    .into_iter();
    // Chunks packed apart give the same bytes one after the other.
    let mut out = packed.next().unwrap_or_default();
    packed.for_each(|part| out.extend_from_slice(&part));
    Ok(out)
}

/// Unpacks the file `from` into a new file `to`, synced, and returns the Merkle root of what it holds.
///
/// # Errors
/// Of kind `InvalidData` when the file is not the packing of so many parameters: the fault of whoever
/// packed it.
pub(crate) fn unpack_file(from: &Path, to: &Path, parameters: u64) -> io::Result<Hash> {
    let bad = |text: String| {
        let text = format!("{} is no packed model: {text}", from.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let file = File::open(from)?;
    let made = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(to)?;
    let mut out = BufWriter::new(made);
    let (mut values, mut bytes, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
    let mut held: Vec<u8> = Vec::new();
    let mut left = parameters;
    while left > 0 {
        let elements = usize::try_from(left).map_or(CHUNK_ELEMENTS, |n| n.min(CHUNK_ELEMENTS));
        let most = Packing::F32.len_max(elements);
        (&file).take(most.saturating_sub(held.len()) as u64).read_to_end(&mut held)?;
        let length = packed_chunk_len(Packing::F32, elements, &held);
        let length = length.map_err(|error| bad(error.to_string()))?;
        let length = length.ok_or_else(|| bad(format!("{left} parameters are missing")))?;
        values.resize(elements, 0.0);
        unpack(Packing::F32, &held[..length], &mut values)
            .map_err(|error| bad(error.to_string()))?;
        held.drain(..length);
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        chunks.push(Hash::of(&bytes));
        out.write_all(&bytes)?;
        left -= elements as u64;
    }
    if !held.is_empty() || (&file).read(&mut [0])? > 0 {
        return Err(bad("it goes on after the last parameter".into()));
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(root(&chunks))
}

/// The Merkle root over a file's chunks of parameters.
pub(crate) fn root_of(path: &Path) -> io::Result<Hash> {
    root_of_chunks(path, 4 * CHUNK_ELEMENTS)
}

/// The Merkle root over a file's chunks of so many bytes.
pub(crate) fn root_of_chunks(path: &Path, chunk_bytes: usize) -> io::Result<Hash> {
    let file = File::open(path)?;
    let (mut chunks, mut chunk) = (Vec::new(), Vec::new());
    loop {
        chunk.clear();
        if (&file).take(chunk_bytes as u64).read_to_end(&mut chunk)? == 0 {
            return Ok(root(&chunks));
        }
        chunks.push(Hash::of(&chunk));
    }
}

/// What a job says of a model and its adapters.
pub(crate) fn describe(name: String, params: &[f32], packed: &[u8], adapters: String) -> Frozen {
    let chunks: Vec<Hash> = packed.chunks(Frozen::PACKED_CHUNK).map(Hash::of).collect();
    Frozen {
        name,
        parameters: params.len() as u64,
        root: root(&suanli_bus::merge::hash_chunks(params)),
        packed_bytes: packed.len() as u64,
        packed_root: root(&chunks),
        adapters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(parameters: usize) -> Vec<f32> {
        let mut random = suanli_base::Random::new(7);
        (0..parameters).map(|_| (random.below(2000) as f32 - 1000.0) / 4096.0).collect()
    }

    #[test]
    fn a_model_packed_on_many_threads_is_packed_as_on_one_and_unpacks_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("packed"), folder.path().join("model"));
        for parameters in [1, CHUNK_ELEMENTS, 5 * CHUNK_ELEMENTS + 3] {
            let params = model(parameters);
            let packed = pack_model(&params).unwrap();
            let mut alone = Vec::new();
            pack(Packing::F32, &params, &mut alone).unwrap();
            assert_eq!(packed, alone);
            std::fs::write(&from, &packed).unwrap();
            let found = unpack_file(&from, &to, parameters as u64).unwrap();
            let bytes: Vec<u8> = params.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(std::fs::read(&to).unwrap(), bytes);
            let said = describe("m".into(), &params, &packed, String::new());
            assert_eq!((said.root, said.packed_bytes), (found, packed.len() as u64));
            assert_eq!(root_of(&to).unwrap(), found);
            assert_eq!(root_of_chunks(&from, Frozen::PACKED_CHUNK).unwrap(), said.packed_root);
        }
    }

    #[test]
    fn what_ends_early_goes_on_or_is_no_packing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("packed"), folder.path().join("model"));
        let parameters = CHUNK_ELEMENTS + 9;
        let good = pack_model(&model(parameters)).unwrap();
        let long = [&good[..], &[0]].concat();
        let swollen = [&[0xFF; 4], &good[4..]].concat();
        for (bytes, of) in [
            (&good[..good.len() - 1], parameters),
            (&good[..0], parameters),
            (&long, parameters),
            (&good, parameters + CHUNK_ELEMENTS),
            (&good, parameters - 1),
            (&swollen, parameters),
        ] {
            std::fs::write(&from, bytes).unwrap();
            let error = unpack_file(&from, &to, of as u64).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
