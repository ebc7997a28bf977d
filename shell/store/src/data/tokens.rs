//! Tokens of the text: made on several threads, kept in the order of the text.
//!
//! The thread that reads collects pieces into jobs and hands them to the others in turn; it takes
//! the results back in the same turn. Each piece is encoded for itself whatever job it is in, so
//! the tokens do not depend on the number of threads.
//!
//! Invariants: per thread at most [`JOBS_PER_THREAD`] jobs are under way, and all together hold at
//! most [`BYTES_PER_THREAD`] times the threads of text, or one single piece that is longer.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use suanli_engine::tokenizer::{Tokenizer, TokenizerError};

use super::error::{DataError, io};
use super::samples::SampleLayout;

/// Short pieces are joined to jobs of this size: enough that handing one over costs nothing.
const JOB_BYTES: usize = 256 << 10;
/// Jobs of a thread: one in its hands, one that waits so that it need not.
const JOBS_PER_THREAD: usize = 2;
/// Text under way for each thread.
const BYTES_PER_THREAD: usize = 4 << 20;
/// More threads than any reader can feed.
const THREADS_MAX: usize = 256;

/// What a piece of text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// To train with.
    Training,
    /// To measure with.
    HeldOut,
}

/// Where in its document a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is the first.
    Begins,
    /// Others went before.
    GoesOn,
    /// No text: the document is over.
    Ends,
}

/// A file of tokens in the order of the text.
pub(super) struct TokenFile {
    pub(super) path: PathBuf,
    pub(super) tokens: u64,
}

impl TokenFile {
    /// Whole samples in it: each begins where the one before has its last target.
    pub(super) fn samples(&self, layout: SampleLayout) -> u64 {
        self.tokens.saturating_sub(1) / u64::from(layout.sample_tokens - 1)
    }
}

/// Writes tokens as they come.
pub(super) struct TokenWriter {
    path: PathBuf,
    file: BufWriter<File>,
    token_bytes: u8,
    bytes: u64,
}

impl TokenWriter {
    pub(super) fn create(path: PathBuf, layout: SampleLayout) -> Result<Self, DataError> {
        let file = File::create_new(&path).map_err(io("create", &path))?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { path, file, token_bytes: layout.token_bytes, bytes: 0 })
    }

    fn write(&mut self, tokens: &[u8]) -> Result<(), DataError> {
        self.bytes += tokens.len() as u64;
        self.file.write_all(tokens).map_err(io("write", &self.path))
    }

    fn finish(mut self) -> Result<TokenFile, DataError> {
        self.file.flush().map_err(io("write", &self.path))?;
        Ok(TokenFile { path: self.path, tokens: self.bytes / u64::from(self.token_bytes) })
    }
}

/// Some pieces of text, one after another.
#[derive(Default)]
struct Job {
    text: Vec<u8>,
    /// Where each piece ends, what it is for, and where it stands.
    pieces: Vec<(usize, Part, Kind)>,
}

/// A job's tokens, as bytes of a token file.
#[derive(Default)]
struct Made {
    training: Vec<u8>,
    held_out: Vec<u8>,
}

/// One of the other threads, seen from the one that reads.
struct Worker {
    jobs: SyncSender<Job>,
    made: Receiver<Result<Made, TokenizerError>>,
}

/// The other threads, and the files that their tokens go to.
pub(super) struct Workers {
    workers: Vec<Worker>,
    /// Jobs handed out so far: job number n went to worker n modulo their number.
    handed_out: usize,
    /// Bytes of text in each job that is not back, the oldest first.
    under_way: VecDeque<usize>,
    job: Job,
    training: TokenWriter,
    held_out: TokenWriter,
    /// Bytes of text whose tokens are in the files.
    done: u64,
}

impl Workers {
    /// Starts `threads` threads, which end when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        threads: NonZeroUsize,
        tokenizer: &'scope Tokenizer,
        training: TokenWriter,
        held_out: TokenWriter,
    ) -> Self {
        let width = usize::from(training.token_bytes);
        let workers = (0..threads.get().min(THREADS_MAX)).map(|_| {
            // Neither side ever waits to hand something over: no more is under way than fits.
            let (jobs, todo) = sync_channel::<Job>(JOBS_PER_THREAD);
            let (done, made) = sync_channel(JOBS_PER_THREAD);
            scope.spawn(move || {
                for job in todo {
                    if done.send(encode(tokenizer, &job, width)).is_err() {
                        break;
                    }
                }
            });
            Worker { jobs, made }
        });
        Self {
            workers: workers.collect(),
            handed_out: 0,
            under_way: VecDeque::new(),
            job: Job::default(),
            training,
            held_out,
            done: 0,
        }
    }

    /// Bytes of text whose tokens are made and written.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Takes the next piece.
    pub(super) fn piece(&mut self, text: &[u8], part: Part, kind: Kind) -> Result<(), DataError> {
        self.job.text.extend_from_slice(text);
        self.job.pieces.push((self.job.text.len(), part, kind));
        if self.job.text.len() >= JOB_BYTES { self.hand_out() } else { Ok(()) }
    }

    /// Waits for what is under way, and closes the files: training and held out.
    pub(super) fn finish(mut self) -> Result<(TokenFile, TokenFile), DataError> {
        self.hand_out()?;
        while !self.under_way.is_empty() {
            self.take_back()?;
        }
        Ok((self.training.finish()?, self.held_out.finish()?))
    }

    fn hand_out(&mut self) -> Result<(), DataError> {
        let job = std::mem::take(&mut self.job);
        let bytes = job.text.len();
        while self.is_full(bytes) {
            self.take_back()?;
        }
        let worker = &self.workers[self.handed_out % self.workers.len()];
        worker.jobs.send(job).expect("a worker ends after this, or panics");
        self.handed_out += 1;
        self.under_way.push_back(bytes);
        Ok(())
    }

    /// Whether a job of so many bytes must wait for an older one.
    fn is_full(&self, bytes: usize) -> bool {
        let threads = self.workers.len();
        let text = self.under_way.iter().sum::<usize>() + bytes;
        !self.under_way.is_empty()
            && (self.under_way.len() >= threads * JOBS_PER_THREAD
                || text > threads * BYTES_PER_THREAD)
    }

    fn take_back(&mut self) -> Result<(), DataError> {
        let Some(bytes) = self.under_way.pop_front() else { return Ok(()) };
        let oldest = self.handed_out - self.under_way.len() - 1;
        let worker = &self.workers[oldest % self.workers.len()];
        let made = worker.made.recv().expect("a worker ends after this, or panics")?;
        self.training.write(&made.training)?;
        self.held_out.write(&made.held_out)?;
        self.done += bytes as u64;
        Ok(())
    }
}

fn encode(tokenizer: &Tokenizer, job: &Job, width: usize) -> Result<Made, TokenizerError> {
    let (mut made, mut start) = (Made::default(), 0);
    for &(end, part, kind) in &job.pieces {
        let out = match part {
            Part::Training => &mut made.training,
            Part::HeldOut => &mut made.held_out,
        };
        let mut put = |tokens: &[u32]| {
            out.extend(tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(width)));
        };
        let text = &job.text[start..end];
        match kind {
            Kind::Begins => {
                put(tokenizer.document_start());
                put(&tokenizer.encode(text)?);
            }
            Kind::GoesOn => put(&tokenizer.encode_more(text)?),
            Kind::Ends => put(tokenizer.document_end()),
        }
        start = end;
    }
    Ok(made)
}
