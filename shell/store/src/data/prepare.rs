//! The preparation itself: survey, tokenizer, tokens, samples, shards.
//!
//! The files are read up to three times, in bounded memory: once to learn how much there is and
//! where the held-out part begins, once more for a tokenizer that is trained, and once for tokens.
//! Reading is one thread's work; making tokens, which takes far longer, is shared by all cores.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suanli_base::{Hash, Permutation, mix64};
use suanli_engine::Cancel;
use suanli_engine::tokenizer::Tokenizer;
use suanli_params::root;

use super::documents::{Reading, Text, Visit, read};
use super::error::{DataError, io};
use super::manifest::{
    Counts, DataManifest, FORMAT, HELD_OUT, MANIFEST, Prepared, SHARD_BYTES_MAX, SHARDS_MAX, Shard,
    TOKENIZER, byte_chunks, remove, shard_name,
};
use super::samples::SampleLayout;
use super::sources::{Found, find};
use super::tokens::{Kind, Part, TokenFile, TokenWriter, Workers};
use crate::FolderLock;
use crate::job_file::{JobFile, TokenizerKind, TokenizerSection};

/// Most text a BPE is trained on; of more, an even sample is taken.
const TOKENIZER_BYTES_MAX: u64 = 32 << 20;
/// Most documents of a job: eight bytes are kept of each.
const DOCUMENTS_MAX: usize = 1 << 26;
/// A folder so named is being written, or was when its process was killed.
const WORK_PREFIX: &str = ".preparing-";
/// How far a cut inside a document may move to reach a line's end.
const LINE_SEARCH_BYTES: usize = 64 << 10;

/// How data are prepared: with the text, all that the output depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The field of a `.jsonl` line, or the column of a Parquet file, with the text.
    pub field: String,
    /// Share of the text kept out of training.
    pub held_out: f64,
    /// Most bytes of text to use.
    pub max_bytes: Option<u64>,
    /// How text becomes tokens.
    pub tokenizer: TokenizerSection,
    /// A sample is one token longer than this.
    pub context: usize,
    /// What keys the shuffle.
    pub seed: u64,
}

impl Recipe {
    /// The recipe that a job file asks for.
    #[must_use]
    pub fn of_job(job: &JobFile) -> Self {
        Self {
            field: job.data.field.clone(),
            held_out: job.data.held_out,
            max_bytes: job.data.max_bytes,
            tokenizer: job.tokenizer.clone(),
            context: job.model.context,
            seed: job.training.seed,
        }
    }

    /// The hash of the recipe and of the format it leads to; with that of a tokenizer that came
    /// from elsewhere.
    fn hash_with(&self, tokenizer: Option<&str>) -> Hash {
        match tokenizer {
            None => self.hash(),
            Some(json) => Hash::of_parts(
                "suanli 2026 data recipe with a tokenizer",
                &[&self.hash().0, &Hash::of(json.as_bytes()).0],
            ),
        }
    }

    /// The hash of the recipe and of the format it leads to.
    ///
    /// # Panics
    /// Never: our own types always encode.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let text = serde_json::to_vec(self).expect("our own types always encode");
        Hash::of_parts("suanli 2026 data recipe", &[&FORMAT.to_le_bytes(), &text])
    }
}

/// What a preparation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Reading everything once: how much there is.
    Surveying,
    /// Training the tokenizer; this stage does not move until it is over.
    TrainingTokenizer,
    /// Making tokens of the text.
    Tokenizing,
    /// Writing the samples in training order.
    Writing,
}

/// How far a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes, or for [`Stage::Writing`] samples, that are done.
    pub done: u64,
    /// Of how many; an estimate while surveying.
    pub total: u64,
}

/// Prepares the data that `paths` name into a folder of their own below `folder`, or finds them
/// prepared there by an earlier run.
///
/// # Errors
/// Whatever is wrong with paths, files, text or disk; then, and when `cancel` is raised, nothing
/// is left behind.
pub fn prepare(
    paths: &[PathBuf],
    recipe: &Recipe,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
    cancel: &Cancel,
) -> Result<Prepared, DataError> {
    prepare_with(Given::default(), paths, recipe, folder, progress, cancel)
}

/// What a caller may decide beside the recipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The tokenizer of a checkpoint, which a recipe of the kind [`TokenizerKind::Checkpoint`] asks
    /// for and no other.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Threads to make tokens on; nothing means one for each core. The output is the same.
    pub threads: Option<NonZeroUsize>,
}

/// As [`prepare()`], with what the caller gives.
///
/// # Errors
/// As there, and when a tokenizer is missing or one too many.
pub fn prepare_with(
    given: Given<'_>,
    paths: &[PathBuf],
    recipe: &Recipe,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
    cancel: &Cancel,
) -> Result<Prepared, DataError> {
    let wanted = recipe.tokenizer.kind == TokenizerKind::Checkpoint;
    if wanted != given.tokenizer.is_some() {
        return Err(DataError::TokenizerGiven { wanted });
    }
    let json = given.tokenizer.map(Tokenizer::to_json).transpose()?;
    let found = find(paths)?;
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let _alone = alone_in(folder)?;
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = given.threads.unwrap_or_else(cores);
    let mut run = Run { found, recipe, given: given.tokenizer, threads, progress, cancel };
    let survey = run.survey()?;
    let recipe_hash = recipe.hash_with(json.as_deref());
    let key = Hash::of_parts("suanli 2026 prepared data", &[&survey.input.0, &recipe_hash.0]);
    let target = folder.join(&key.to_string()[..16]);
    if target.exists() {
        match Prepared::open(&target) {
            Ok(prepared) => return Ok(prepared),
            // Made by us from input that is still there: make it anew.
            Err(DataError::Damaged { .. }) => remove(&target)?,
            Err(error) => return Err(error),
        }
    }
    let work = folder.join(format!("{WORK_PREFIX}{}", &key.to_string()[..16]));
    fs::create_dir(&work).map_err(io("create", &work))?;
    let made = run.make(&survey, recipe_hash, &work).and_then(|()| {
        fs::rename(&work, &target).map_err(io("create", &target))?;
        sync_folder(folder)
    });
    if let Err(error) = made {
        remove(&work)?;
        return Err(error);
    }
    Prepared::open(&target)
}

/// Makes this process the only one that prepares data in `folder`, until what it returns is
/// dropped, and removes what a killed one left half made.
fn alone_in(folder: &Path) -> Result<FolderLock, DataError> {
    let alone = FolderLock::take(folder)?;
    for entry in fs::read_dir(folder).map_err(io("list", folder))? {
        let entry = entry.map_err(io("list", folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(WORK_PREFIX.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(alone)
}

struct Run<'a> {
    found: Found,
    recipe: &'a Recipe,
    threads: NonZeroUsize,
    /// The tokenizer of a checkpoint.
    given: Option<&'a Tokenizer>,
    progress: &'a mut dyn FnMut(Progress),
    cancel: &'a Cancel,
}

/// What the first reading learned.
struct Survey {
    input: Hash,
    documents: u64,
    bytes: u64,
    /// Text before this byte is for training.
    cut: u64,
}

impl<'a> Run<'a> {
    fn reading(&self) -> Reading<'a> {
        let bytes = match self.given {
            Some(given) => matches!(given, Tokenizer::Bytes),
            None => self.recipe.tokenizer.kind == TokenizerKind::Bytes,
        };
        Reading {
            field: &self.recipe.field,
            text: if bytes { Text::Bytes } else { Text::Utf8 },
            max_bytes: self.recipe.max_bytes.unwrap_or(u64::MAX),
        }
    }

    fn survey(&mut self) -> Result<Survey, DataError> {
        let sizes = self.found.files.iter().map(|file| fs::metadata(&file.path));
        let total = sizes.map(|size| size.map_or(0, |size| size.len())).sum();
        let reading = self.reading();
        let mut visit = Surveyor {
            hasher: TextHasher::new(),
            ends: Vec::new(),
            bytes: 0,
            total,
            progress: self.progress,
        };
        read(&self.found.files, reading, self.cancel, &mut visit)?;
        let Surveyor { hasher, ends, bytes, .. } = visit;
        if bytes == 0 {
            return Err(DataError::Empty { files: self.found.files.len() as u64 });
        }
        let cut = held_out_begin(&ends, bytes, self.recipe.held_out);
        Ok(Survey { input: hasher.finish(), documents: ends.len() as u64, bytes, cut })
    }

    fn make(&mut self, survey: &Survey, recipe: Hash, work: &Path) -> Result<(), DataError> {
        let tokenizer = self.tokenizer(survey)?;
        let vocab = u32::try_from(tokenizer.vocab_size()).expect("at most 2^20 entries");
        let sample_tokens = u32::try_from(self.recipe.context + 1).expect("a bounded context");
        let token_bytes = if vocab <= 1 << 16 { 2 } else { 4 };
        let layout = SampleLayout { sample_tokens, token_bytes, vocab };
        let (training, held_out, held_out_bytes) = self.tokens(survey, &tokenizer, layout, work)?;
        let counts = Counts {
            files: self.found.files.len() as u64,
            documents: survey.documents,
            text_bytes: survey.bytes,
            held_out_bytes,
            training_tokens: training.tokens,
            held_out_tokens: held_out.tokens,
            skipped: self.found.skipped,
        };
        let (samples, held) = (training.samples(layout), held_out.samples(layout));
        if samples == 0 || held == 0 {
            return Err(DataError::TooLittle {
                sample_tokens: u64::from(sample_tokens),
                training: training.tokens,
                held_out: held_out.tokens,
            });
        }
        let per_shard = SHARD_BYTES_MAX / width(layout);
        if samples.div_ceil(per_shard) > SHARDS_MAX as u64 {
            let max = SHARDS_MAX as u64 * per_shard;
            let advice = "set `max_bytes` under [data]";
            return Err(DataError::TooMany { what: "training samples", max, advice });
        }
        let mut shuffled = Shuffled::open(&training, layout, mix64(self.recipe.seed ^ 0x7A1))?;
        let mut shards = Vec::new();
        let mut first = 0;
        while first < samples {
            (self.progress)(Progress { stage: Stage::Writing, done: first, total: samples });
            let end = samples.min(first + per_shard);
            let path = work.join(shard_name(shards.len()));
            shards.push(shuffled.write(first..end, &path, self.cancel)?);
            first = end;
        }
        let mut shuffled = Shuffled::open(&held_out, layout, mix64(self.recipe.seed ^ 0x4E1D))?;
        let held_out_shard =
            shuffled.write(0..held.min(per_shard), &work.join(HELD_OUT), self.cancel)?;
        for file in [training, held_out] {
            fs::remove_file(&file.path).map_err(io("remove", &file.path))?;
        }
        let tokenizer_json = tokenizer.to_json()?;
        let manifest = DataManifest {
            format: FORMAT,
            input: survey.input,
            recipe,
            tokenizer: Hash::of(tokenizer_json.as_bytes()),
            vocab,
            token_bytes,
            sample_tokens,
            samples,
            shards,
            held_out: held_out_shard,
            counts,
        };
        write_synced(&work.join(TOKENIZER), tokenizer_json.as_bytes())?;
        write_synced(&work.join(MANIFEST), manifest.to_json().as_bytes())?;
        sync_folder(work)?;
        (self.progress)(Progress { stage: Stage::Writing, done: samples, total: samples });
        Ok(())
    }

    /// The tokenizer; a trained one sees nothing of the held-out text.
    fn tokenizer(&mut self, survey: &Survey) -> Result<Tokenizer, DataError> {
        let TokenizerSection { kind, vocab } = self.recipe.tokenizer;
        if let Some(given) = self.given {
            return Ok(given.clone());
        }
        if kind == TokenizerKind::Bytes {
            return Ok(Tokenizer::Bytes);
        }
        let total = survey.cut.min(TOKENIZER_BYTES_MAX);
        (self.progress)(Progress { stage: Stage::TrainingTokenizer, done: 0, total });
        let reading = self.reading();
        let mut visit = Gatherer {
            cut: survey.cut,
            at: 0,
            every: survey.cut.div_ceil(TOKENIZER_BYTES_MAX).max(1),
            index: 0,
            left: TOKENIZER_BYTES_MAX,
            texts: Vec::new(),
        };
        read(&self.found.files, reading, self.cancel, &mut visit)?;
        let tokenizer = Tokenizer::train(visit.texts, vocab)?;
        (self.progress)(Progress { stage: Stage::TrainingTokenizer, done: total, total });
        Ok(tokenizer)
    }

    fn tokens(
        &mut self,
        survey: &Survey,
        tokenizer: &Tokenizer,
        layout: SampleLayout,
        work: &Path,
    ) -> Result<(TokenFile, TokenFile, u64), DataError> {
        let training = TokenWriter::create(work.join("training.tokens"), layout)?;
        let held_out = TokenWriter::create(work.join("held-out.tokens"), layout)?;
        let reading = self.reading();
        std::thread::scope(|scope| {
            let mut visit = Tokenize {
                survey,
                has_end: !tokenizer.document_end().is_empty(),
                at: 0,
                document: None,
                held_out_bytes: 0,
                hasher: TextHasher::new(),
                workers: Workers::start(scope, self.threads, tokenizer, training, held_out),
                progress: self.progress,
            };
            read(&self.found.files, reading, self.cancel, &mut visit)?;
            if visit.hasher.finish() != survey.input {
                return Err(DataError::Changed);
            }
            let (held_out_bytes, done) = (visit.held_out_bytes, visit.at);
            let (training, held_out) = visit.workers.finish()?;
            (visit.progress)(Progress { stage: Stage::Tokenizing, done, total: done });
            Ok((training, held_out, held_out_bytes))
        })
    }
}

/// Where the held-out text begins: at the end of the document nearest to the share asked for; when
/// that would be less than half of it or more than twice, inside a document.
fn held_out_begin(ends: &[u64], bytes: u64, share: f64) -> u64 {
    let wanted = ((bytes as f64 * share) as u64).clamp(1, bytes);
    let exact = bytes - wanted;
    let nearest = ends.iter().copied().min_by_key(|end| end.abs_diff(exact)).unwrap_or(0);
    let held = bytes - nearest;
    if held >= wanted.div_ceil(2) && held <= wanted.saturating_mul(2) && nearest > 0 {
        nearest
    } else {
        exact
    }
}

/// How much of `text`, which begins at byte `at` of all text, is before the cut. A cut inside a
/// document moves on to the next line, or at least to the next character.
fn before_cut(text: &[u8], at: u64, cut: u64) -> usize {
    let Ok(exact) = usize::try_from(cut.saturating_sub(at)) else { return text.len() };
    if exact >= text.len() || exact == 0 {
        return exact.min(text.len());
    }
    let near = &text[exact..text.len().min(exact + LINE_SEARCH_BYTES)];
    if text[exact - 1] == b'\n' {
        return exact;
    }
    match near.iter().position(|&byte| byte == b'\n') {
        Some(line_end) => exact + line_end + 1,
        None => exact + near.iter().take(3).take_while(|&&byte| byte & 0xC0 == 0x80).count(),
    }
}

/// The hash of all documents: their bytes, each followed by its length.
struct TextHasher {
    hasher: blake3::Hasher,
    document: u64,
}

impl TextHasher {
    fn new() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key("suanli 2026 data input"), document: 0 }
    }

    fn piece(&mut self, text: &[u8]) {
        self.hasher.update(text);
        self.document += text.len() as u64;
    }

    fn end(&mut self) {
        self.hasher.update(&std::mem::take(&mut self.document).to_le_bytes());
    }

    fn finish(&self) -> Hash {
        Hash(*self.hasher.finalize().as_bytes())
    }
}

struct Surveyor<'a> {
    hasher: TextHasher,
    /// Where each document ends, in bytes of all text.
    ends: Vec<u64>,
    bytes: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Visit for Surveyor<'_> {
    fn piece(&mut self, text: &[u8]) -> Result<(), DataError> {
        self.hasher.piece(text);
        self.bytes += text.len() as u64;
        let total = self.total.max(self.bytes);
        (self.progress)(Progress { stage: Stage::Surveying, done: self.bytes, total });
        Ok(())
    }

    fn end(&mut self) -> Result<(), DataError> {
        self.hasher.end();
        if self.ends.len() >= DOCUMENTS_MAX {
            let advice = "set `max_bytes` under [data]";
            return Err(DataError::TooMany {
                what: "documents",
                max: DOCUMENTS_MAX as u64,
                advice,
            });
        }
        self.ends.push(self.bytes);
        Ok(())
    }
}

/// Collects the text that a tokenizer is trained on.
struct Gatherer {
    cut: u64,
    at: u64,
    /// Takes one piece of so many.
    every: u64,
    index: u64,
    left: u64,
    texts: Vec<String>,
}

impl Visit for Gatherer {
    fn piece(&mut self, text: &[u8]) -> Result<(), DataError> {
        let training = &text[..before_cut(text, self.at, self.cut)];
        self.at += text.len() as u64;
        let turn = self.index.is_multiple_of(self.every);
        self.index += 1;
        if turn && training.len() as u64 <= self.left && !training.is_empty() {
            self.left -= training.len() as u64;
            self.texts.push(String::from_utf8_lossy(training).into_owned());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), DataError> {
        Ok(())
    }
}

struct Tokenize<'a> {
    survey: &'a Survey,
    at: u64,
    /// What the last piece of the current document was for; nothing at its beginning.
    document: Option<Part>,
    /// Whether the tokenizer says more at the end of a document.
    has_end: bool,
    held_out_bytes: u64,
    hasher: TextHasher,
    workers: Workers,
    progress: &'a mut dyn FnMut(Progress),
}

impl Visit for Tokenize<'_> {
    fn piece(&mut self, text: &[u8]) -> Result<(), DataError> {
        self.hasher.piece(text);
        let (training, held_out) = text.split_at(before_cut(text, self.at, self.survey.cut));
        let done = self.workers.done();
        for (part, text) in [(Part::Training, training), (Part::HeldOut, held_out)] {
            if !text.is_empty() {
                let begins = self.document.replace(part).is_none();
                let kind = if begins { Kind::Begins } else { Kind::GoesOn };
                self.workers.piece(text, part, kind)?;
            }
        }
        self.at += text.len() as u64;
        self.held_out_bytes += held_out.len() as u64;
        if self.workers.done() != done || done == 0 {
            let total = self.survey.bytes.max(self.at);
            let done = self.workers.done();
            (self.progress)(Progress { stage: Stage::Tokenizing, done, total });
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), DataError> {
        self.hasher.end();
        match self.document.take() {
            Some(part) if self.has_end => self.workers.piece(&[], part, Kind::Ends),
            _ => Ok(()),
        }
    }
}

/// Reads the samples of a token file in a keyed permuted order.
struct Shuffled {
    file: File,
    path: PathBuf,
    layout: SampleLayout,
    order: Permutation,
}

impl Shuffled {
    fn open(tokens: &TokenFile, layout: SampleLayout, key: u64) -> Result<Self, DataError> {
        let file = File::open(&tokens.path).map_err(io("open", &tokens.path))?;
        let order = Permutation::new(tokens.samples(layout), key);
        Ok(Self { file, path: tokens.path.clone(), layout, order })
    }

    /// Writes some samples as a shard.
    fn write(
        &mut self,
        samples: std::ops::Range<u64>,
        path: &Path,
        cancel: &Cancel,
    ) -> Result<Shard, DataError> {
        let width = width(self.layout);
        let stride = width - u64::from(self.layout.token_bytes);
        let count = samples.end - samples.start;
        let size = usize::try_from(width).expect("a sample fits in memory");
        let all = usize::try_from(count * width).expect("a shard fits in memory");
        let mut bytes = vec![0; all];
        for (sample, out) in samples.zip(bytes.chunks_exact_mut(size)) {
            if cancel.is_raised() {
                return Err(DataError::Cancelled);
            }
            let from = SeekFrom::Start(self.order.at(sample) * stride);
            self.file.seek(from).map_err(io("read", &self.path))?;
            self.file.read_exact(out).map_err(io("read", &self.path))?;
        }
        write_synced(path, &bytes)?;
        Ok(Shard { bytes: bytes.len() as u64, samples: count, root: root(&byte_chunks(&bytes)) })
    }
}

fn width(layout: SampleLayout) -> u64 {
    u64::from(layout.sample_tokens) * u64::from(layout.token_bytes)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let mut file = File::create_new(path).map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

fn sync_folder(folder: &Path) -> Result<(), DataError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync", folder))
}
