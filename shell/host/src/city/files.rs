//! What a city keeps on disk, and the bulk work on it.
//!
//! Layout below the data folder: `city.key`, `city.toml`, `log/` (entries and snapshots), `blobs/`
//! (payloads, updates, outer states, by hash), `content/ROOT` with `content/ROOT.info` (what
//! trainers brought), `staging/` (content on its way), `heads/JOB/` (the signed chain of rounds,
//! never cut).

use crate::packed::{root_of, unpack_file};
use crate::trainable::Trainable;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use suanli_base::{Hash, JobId, NodeId, Round};
use suanli_bus::authority::Settled;
use suanli_bus::merge::{Outer, OuterState, Part, check_payload, hash_chunks, merge};
use suanli_bus::state::MergeOrder;
use suanli_bus::{Frozen, JobSpec};
use suanli_identity::Signed;
use suanli_log::StateBlobs;
use suanli_node::city::{Done, Settle, SettleFault, Source, Stage, Work};
use suanli_params::{Codec, chunk_count, chunk_range, encoded_len};
use suanli_rdpa::RegionInfo;
use suanli_store::{Blobs, Disk, DiskError, LogFiles, LogFilesError, RealDisk, write_atomic};

/// Where a city's bytes lie.
#[derive(Clone)]
pub(crate) struct Files {
    pub folder: PathBuf,
    pub disk: Arc<RealDisk>,
    pub blobs: Arc<Blobs>,
}

impl Files {
    pub(crate) fn open(folder: &Path) -> Result<Self, DiskError> {
        let disk = Arc::new(RealDisk::new(folder));
        for dir in ["content", "staging", "heads"] {
            disk.create_dir(dir)?;
        }
        let blobs = Arc::new(Blobs::open(disk.clone(), "blobs")?);
        Ok(Self { folder: folder.to_path_buf(), disk, blobs })
    }

    /// The descriptions of all stored content.
    pub(crate) fn contents(&self) -> Result<Vec<RegionInfo>, DiskError> {
        let mut found = Vec::new();
        for file in self.disk.list("content")? {
            let Some(root) = file.name.strip_suffix(".info") else { continue };
            let bytes = self.disk.read(&format!("content/{}", file.name))?;
            let info: Option<RegionInfo> = postcard::from_bytes(&bytes).ok();
            // A description without its bytes is not offered: the trainer writes it again.
            let whole = info.filter(|info| {
                let length = std::fs::metadata(self.content(info.root)).map(|m| m.len());
                let named = info.root.to_string() == root && info.check().is_ok();
                named && length.ok() == Some(info.shape.bytes)
            });
            found.extend(whole);
        }
        Ok(found)
    }

    pub(crate) fn content(&self, root: Hash) -> PathBuf {
        self.folder.join("content").join(root.to_string())
    }

    /// Where something is on its way, by a name of its own.
    fn staged(&self, name: &str) -> PathBuf {
        self.folder.join("staging").join(name)
    }

    /// Where a trainer's content is on its way.
    fn brought(&self, by: NodeId, root: Hash) -> PathBuf {
        self.staged(&format!("{root}.{by}"))
    }

    /// Throws away what was on its way when an earlier run ended: nobody knows of it any more.
    pub(crate) fn clear_staging(&self) -> Result<(), DiskError> {
        let left = self.disk.list("staging")?;
        left.iter().try_for_each(|file| self.disk.remove(&format!("staging/{}", file.name)))
    }

    /// Takes a file in as content: its bytes are checked against the description.
    pub(crate) fn take_in(&self, from: &Path, info: &RegionInfo) -> std::io::Result<()> {
        let bytes = std::fs::read(from)?;
        let chunk = usize::try_from(info.shape.chunk_bytes).unwrap_or(usize::MAX);
        let matches = bytes.len() as u64 == info.shape.bytes
            && bytes.chunks(chunk).map(Hash::of).eq(info.chunks.iter().copied());
        if !matches {
            let text = format!("{} does not hold what its description says", from.display());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        let staged = self.staged(&info.root.to_string());
        std::fs::write(&staged, &bytes)?;
        self.settle_content(&staged, info)
    }

    /// Makes staged content permanent: bytes synced, then named, then described.
    fn settle_content(&self, staged: &Path, info: &RegionInfo) -> std::io::Result<()> {
        std::fs::File::open(staged)?.sync_all()?;
        std::fs::rename(staged, self.content(info.root))?;
        let bytes = postcard::to_stdvec(info).expect("our own types always encode");
        write_atomic(&*self.disk, "content", &format!("{}.info", info.root), &bytes)
            .map_err(std::io::Error::other)
    }

    /// Unpacks the model beside which a job trains adapters, unless it lies there already.
    fn unpack(&self, frozen: &Frozen) -> Result<(), String> {
        let (packed, plain) = (self.content(frozen.packed_root), self.content(frozen.root));
        let text = |error: std::io::Error| format!("the frozen model: {error}");
        if plain.exists() && root_of(&plain).map_err(text)? == frozen.root {
            return Ok(());
        }
        let made = self.staged(&frozen.root.to_string());
        if unpack_file(&packed, &made, frozen.parameters).map_err(text)? != frozen.root {
            return Err("the frozen model does not have the root the job names".into());
        }
        std::fs::rename(&made, &plain).map_err(text)?;
        self.disk.sync_dir("content").map_err(|error| error.to_string())
    }

    /// Reads a piece of a region.
    pub(crate) fn read(
        &self,
        source: Source,
        runs: &[(u64, u32)],
        length: u32,
    ) -> std::io::Result<Vec<u8>> {
        let path = match source {
            Source::Blob(hash) => self.blobs.place(hash),
            Source::Content(root) => self.content(root),
            Source::Spec(_) | Source::Tensors(_) | Source::Probe => {
                return Err(std::io::ErrorKind::Unsupported.into());
            }
        };
        let mut bytes = vec![0; length as usize];
        let file = std::fs::File::open(path)?;
        let mut rest = &mut bytes[..];
        for (offset, length) in runs {
            let (run, behind) = rest.split_at_mut(*length as usize);
            file.read_exact_at(run, *offset)?;
            rest = behind;
        }
        Ok(bytes)
    }

    fn floats(&self, hash: Hash) -> Result<Vec<f32>, String> {
        let bytes = self.blobs.get(hash).map_err(|error| error.to_string())?;
        let words = bytes.chunks_exact(4);
        Ok(words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
    }

    fn put_floats(&self, values: &[f32]) -> Result<Hash, String> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.blobs.put(&bytes).map_err(|error| error.to_string())
    }
}

/// Bulk work in order, on a thread of its own.
pub(super) struct Bulk {
    files: Files,
    staged: BTreeMap<Stage, Vec<u8>>,
    /// Content on its way of which the disk has refused a chunk.
    holed: BTreeSet<Stage>,
    heads: BTreeMap<JobId, LogFiles>,
}

/// The bulk thread cannot go on: the process must stop and recover.
pub(super) type Fatal = String;

impl Bulk {
    pub(super) const fn new(files: Files) -> Self {
        Self { files, staged: BTreeMap::new(), holed: BTreeSet::new(), heads: BTreeMap::new() }
    }

    /// Does one piece of work.
    pub(super) fn perform(&mut self, work: Work) -> Result<Option<Done>, Fatal> {
        match work {
            Work::Stage { stage, offset, bytes, total } => {
                self.stage(stage, offset, &bytes, total)?;
                Ok(None)
            }
            Work::Unstage(stage) => {
                self.staged.remove(&stage);
                self.holed.remove(&stage);
                if let Stage::Content { by, root } = stage {
                    // What is left of it is thrown away at the next start.
                    let _ = std::fs::remove_file(self.files.brought(by, root));
                }
                Ok(None)
            }
            Work::Store { by, info } => {
                let (root, stored) = (info.root, self.store(by, &info));
                if let Err(error) = &stored {
                    eprintln!("suanli: content {} could not be stored: {error}", root.short());
                }
                Ok(Some(Done::Stored { root, info, stored: stored.is_ok() }))
            }
            Work::Settle(settle) => Ok(Some(self.settle(*settle))),
            Work::Merge { order, spec } => self.merge(&order, &spec).map(Some),
            Work::Found { job, spec } => {
                let state = self.found(&spec);
                Ok(Some(Done::Founded { job, state }))
            }
            Work::Catalogue { job, theta, updates, codec, parameters } => {
                self.catalogue(job, theta, &updates, codec, parameters).map(Some)
            }
            Work::KeepHead { job, version, head } => {
                self.keep_head(job, version, &head)?;
                Ok(None)
            }
            Work::ReadHeads { conn, job, from, count } => {
                let heads = self.read_heads(job, from, count)?;
                Ok(Some(Done::Heads { conn, job, heads }))
            }
            Work::Forget(blobs) => {
                for blob in blobs {
                    if let Err(error) = self.files.blobs.delete(blob) {
                        eprintln!("suanli: a blob that nobody needs stays on disk: {error}");
                    }
                }
                Ok(None)
            }
            Work::Read { .. } | Work::Evaluate { .. } | Work::KeepBooks(_) => Ok(None),
        }
    }

    fn stage(&mut self, stage: Stage, offset: u64, bytes: &[u8], total: u64) -> Result<(), Fatal> {
        match stage {
            Stage::Lease(_) => {
                let place = self.staged.entry(stage).or_default();
                let (Ok(start), Ok(total)) = (usize::try_from(offset), usize::try_from(total))
                else {
                    return Ok(());
                };
                place.resize(total, 0);
                if let Some(place) = place.get_mut(start..start + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
            }
            Stage::Content { by, root } => {
                let path = self.files.brought(by, root);
                let file =
                    std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
                if let Err(error) = file.and_then(|file| file.write_all_at(bytes, offset)) {
                    self.holed.insert(stage);
                    eprintln!("suanli: content {} could not be written: {error}", root.short());
                }
            }
        }
        Ok(())
    }

    /// Makes what a trainer brought permanent, if the disk has taken all of it.
    fn store(&mut self, by: NodeId, info: &RegionInfo) -> std::io::Result<()> {
        let (root, path) = (info.root, self.files.brought(by, info.root));
        if self.holed.remove(&Stage::Content { by, root }) {
            std::fs::remove_file(path)?;
            return Err(std::io::Error::other("the disk did not take all of it"));
        }
        self.files.settle_content(&path, info)
    }

    fn settle(&mut self, settle: Settle) -> Done {
        let (node, lease) = (settle.node, settle.lease);
        let result = self.try_settle(settle).map(Box::new);
        Done::Settled { node, lease, result }
    }

    fn try_settle(&self, settle: Settle) -> Result<Settled, SettleFault> {
        let payload = self.staged.get(&Stage::Lease(settle.lease)).ok_or(SettleFault::Disk)?;
        let parameters = usize::try_from(settle.parameters).map_err(|_| SettleFault::Payload)?;
        let norm_squared =
            check_payload(settle.codec, payload, parameters).map_err(|_| SettleFault::Payload)?;
        let put = |bytes: &[u8]| {
            self.files.blobs.put(bytes).map_err(|error| {
                eprintln!("suanli: a contribution could not be stored: {error}");
                SettleFault::Disk
            })
        };
        let signed = postcard::to_stdvec(&settle.signed).expect("our own types always encode");
        Ok(Settled {
            node: settle.node,
            contribution: settle.contribution,
            contribution_blob: put(&signed)?,
            payload_blob: put(payload)?,
            norm_squared,
        })
    }

    fn merge(&self, order: &MergeOrder, spec: &JobSpec) -> Result<Done, Fatal> {
        let files = &self.files;
        let payloads = order.items.iter().map(|item| files.blobs.get(item.payload));
        let payloads: Vec<Vec<u8>> =
            payloads.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let items = order.items.iter().zip(&payloads);
        let parts: Vec<Part<'_>> = items
            .map(|(item, payload)| Part { payload, weight: item.weight, clip: item.clip })
            .collect();
        let mut theta = files.floats(order.state.theta)?;
        let mut momentum = files.floats(order.state.momentum)?;
        let mut residual = files.floats(order.state.residual)?;
        let training = &spec.training;
        let outer =
            Outer { lr: training.outer_lr, momentum: order.outer_momentum, codec: training.codec };
        let state =
            OuterState { theta: &mut theta, momentum: &mut momentum, residual: &mut residual };
        let update = merge(&parts, &outer, state).map_err(|error| error.to_string())?;
        let blob = files.blobs.put(&update.bytes).map_err(|error| error.to_string())?;
        let state = StateBlobs {
            theta: files.put_floats(&theta)?,
            momentum: files.put_floats(&momentum)?,
            residual: files.put_floats(&residual)?,
        };
        Ok(Done::Merged {
            job: order.job,
            round: order.round,
            update: blob,
            update_chunks: update.update_chunks,
            theta_chunks: update.theta_chunks,
            state,
        })
    }

    fn found(&self, spec: &JobSpec) -> Result<(StateBlobs, Vec<Hash>), String> {
        let path = self.files.content(spec.theta_root);
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let words = bytes.chunks_exact(4);
        let theta: Vec<f32> = words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
        if let Some(at) = theta.iter().position(|value| !value.is_finite()) {
            return Err(format!("parameter {at} of the first parameters is not finite"));
        }
        let chunks = hash_chunks(&theta);
        if suanli_params::root(&chunks) != spec.theta_root {
            return Err("the first parameters do not have the root the job names".into());
        }
        Trainable::of(spec)?;
        if let Some(frozen) = &spec.frozen {
            self.files.unpack(frozen)?;
        }
        let zeros = self.files.put_floats(&vec![0.0; theta.len()])?;
        let state =
            StateBlobs { theta: self.files.put_floats(&theta)?, momentum: zeros, residual: zeros };
        Ok((state, chunks))
    }

    fn catalogue(
        &self,
        job: JobId,
        theta: Hash,
        updates: &[(Round, Hash)],
        codec: Codec,
        parameters: u64,
    ) -> Result<Done, Fatal> {
        let parameters = usize::try_from(parameters).map_err(|error| error.to_string())?;
        let theta_chunks = hash_chunks(&self.files.floats(theta)?);
        let mut known = Vec::new();
        for (version, blob) in updates {
            let bytes = self.files.blobs.get(*blob).map_err(|error| error.to_string())?;
            let mut at = 0;
            let mut chunks = Vec::new();
            for index in 0..chunk_count(parameters) {
                let end = at + encoded_len(codec, chunk_range(parameters, index).len());
                let piece = bytes.get(at..end).ok_or("an update of the wrong length")?;
                chunks.push(Hash::of(piece));
                at = end;
            }
            known.push((*version, *blob, chunks));
        }
        Ok(Done::Catalogued { job, theta_chunks, updates: known })
    }

    fn heads_of(&mut self, job: JobId) -> Result<&mut LogFiles, Fatal> {
        if !self.heads.contains_key(&job) {
            let log = open_heads(&self.files, job).map_err(|error| error.to_string())?.0;
            self.heads.insert(job, log);
        }
        Ok(self.heads.get_mut(&job).expect("inserted above"))
    }

    fn keep_head(&mut self, job: JobId, version: Round, head: &Signed) -> Result<(), Fatal> {
        let log = self.heads_of(job)?;
        let next = log.chain().next_seq();
        if version.0 < next {
            return Ok(());
        }
        if version.0 > next {
            return Err(format!(
                "the chain of rounds of job {} ends at version {next}, but version {version} was committed; restore heads/ from a copy",
                job.short()
            ));
        }
        let bytes = postcard::to_stdvec(head).expect("our own types always encode");
        log.append(&[bytes]).map_err(|error| error.to_string())
    }

    fn read_heads(&mut self, job: JobId, from: Round, count: usize) -> Result<Vec<Signed>, Fatal> {
        // Read anew: a member this far behind is rare, and the chain may be long. Not opened anew,
        // which mends files: this process may hold the same log open.
        self.heads_of(job)?;
        let read = LogFiles::inspect(&*self.files.disk, &heads_dir(job), Hash(job.0));
        let heads = read.map_err(|error| error.to_string())?.bodies;
        let skip = usize::try_from(from.0).unwrap_or(usize::MAX);
        let heads = heads.iter().skip(skip).take(count);
        heads.map(|bytes| postcard::from_bytes(bytes).map_err(|e| e.to_string())).collect()
    }
}

fn heads_dir(job: JobId) -> String {
    format!("heads/{job}")
}

/// Opens a job's chain of heads, making it if it is new: version v is record v.
pub(crate) fn open_heads(
    files: &Files,
    job: JobId,
) -> Result<(LogFiles, Vec<Vec<u8>>), LogFilesError> {
    let dir = heads_dir(job);
    let exists = files.folder.join(&dir).is_dir();
    if !exists {
        return Ok((LogFiles::create(files.disk.clone(), &dir, Hash(job.0))?, Vec::new()));
    }
    let (log, recovered) = LogFiles::open(files.disk.clone(), &dir, Hash(job.0))?;
    Ok((log, recovered.bodies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_which_the_disk_refused_a_chunk_is_not_called_stored() {
        // A chunk that could not be written was said and forgotten: the trainer heard that all was
        // stored, with a hole in it.
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let info = RegionInfo::of(1, &[7; 150], 100).unwrap();
        let (by, root) = (NodeId([1; 32]), info.root);
        let stage = Stage::Content { by, root };
        let mut bulk = Bulk::new(files.clone());
        let write = |bulk: &mut Bulk, offset, len| {
            let bytes = vec![7; len].into();
            assert!(bulk.perform(Work::Stage { stage, offset, bytes, total: 150 }).is_ok());
        };
        let stored = |bulk: &mut Bulk| {
            let done = bulk.perform(Work::Store { by, info: info.clone() });
            matches!(done, Ok(Some(Done::Stored { stored: true, .. })))
        };
        // A folder in its place: the disk refuses the first chunk, and takes the second.
        let place = files.brought(by, root);
        std::fs::create_dir(&place).unwrap();
        write(&mut bulk, 0, 100);
        std::fs::remove_dir(&place).unwrap();
        write(&mut bulk, 100, 50);
        assert!(!stored(&mut bulk) && !files.content(root).exists());
        write(&mut bulk, 0, 100);
        write(&mut bulk, 100, 50);
        assert!(stored(&mut bulk));
        assert_eq!(files.contents().unwrap(), std::slice::from_ref(&info));
        // What an earlier run left on its way does not get into what comes.
        std::fs::write(&place, [9; 300]).unwrap();
        files.clear_staging().unwrap();
        assert!(!place.exists());
    }
}
