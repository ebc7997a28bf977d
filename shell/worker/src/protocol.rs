//! What the agent and the worker process say to each other over the inherited socket.
//!
//! A frame is a length (u32, little-endian, at most [`FRAME_BYTES_MAX`]) and that many bytes of
//! postcard. The order of the variants is the wire format: whoever changes it counts
//! [`VERSION`](crate::memory::VERSION), which comes with the memory, up by one. Both ends are the
//! same binary but where an owner's program computes.
//!
//! Work is done in order, one at a time, each under an id that only grows. Control acts at once,
//! whatever is running.

use std::io::{self, Read};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use suanli_engine::Storage;

use crate::memory::{Layout, TokenRange};

/// The longest frame either side accepts. The largest honest one is a `Train` with a learning rate
/// for each of [`STEPS_MAX`] steps: a quarter of this.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The most steps of one `Train`.
pub const STEPS_MAX: usize = 1 << 16;
/// The most tokens of a prompt, and the most that one `Generate` makes.
pub const PROMPT_TOKENS_MAX: usize = 1 << 16;
/// The longest model configuration, as JSON.
pub const CONFIG_BYTES_MAX: usize = 1 << 16;
/// The longest text of a failure; longer ones are cut.
pub const FAILURE_TEXT_BYTES_MAX: usize = 4096;
/// How much work may wait in the worker.
pub const WORK_QUEUE_MAX: usize = 16;
/// A token word with this bit set is read, but predicting it costs nothing: its loss weight is 0.
/// Sampled orders pad the last sequence of a document set this way.
pub const NO_LOSS: u32 = 1 << 31;

/// The share of the CPU the owner gives, in thousandths of the engine's threads. 0 is a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ShareOfCpu(u16);

/// A share above the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a CPU share of 0 to 1000 per mille, found {found}: set the owner's limit in that range"
)]
pub struct ShareError {
    /// The share asked for, per mille.
    pub found: u16,
}

impl ShareOfCpu {
    /// Nothing: stop within 50 ms and wait.
    pub const PAUSED: Self = Self(0);
    /// Everything: no sleep between steps.
    pub const WHOLE: Self = Self(1000);

    /// A share of `per_mille` thousandths.
    ///
    /// # Errors
    /// When it is more than the whole.
    pub const fn new(per_mille: u16) -> Result<Self, ShareError> {
        if per_mille > 1000 { Err(ShareError { found: per_mille }) } else { Ok(Self(per_mille)) }
    }

    /// The share in thousandths.
    #[must_use]
    pub const fn per_mille(self) -> u16 {
        self.0
    }

    /// Whether this is a pause.
    #[must_use]
    pub const fn is_paused(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<u16> for ShareOfCpu {
    type Error = ShareError;
    fn try_from(per_mille: u16) -> Result<Self, ShareError> {
        Self::new(per_mille)
    }
}

impl From<ShareOfCpu> for u16 {
    fn from(share: ShareOfCpu) -> Self {
        share.0
    }
}

/// One message from the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Something to do in its turn; answered under the same id.
    Work {
        /// Greater than every id before it.
        id: u64,
        /// What to do.
        work: Work,
    },
    /// Ends all work up to and including this id at its last complete step.
    Cancel {
        /// The last id to end.
        through: u64,
    },
    /// The owner's limit from now on.
    Share(ShareOfCpu),
}

/// What a worker can be asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Builds the engine. The first work of every child, and only the first.
    Start(Box<Start>),
    /// Draws the initial parameters from a seed into theta base.
    Init {
        /// The job's seed.
        seed: u64,
    },
    /// Inner steps; theta local holds the result.
    Train(Box<Train>),
    /// The loss on held-out tokens.
    Evaluate(Evaluate),
    /// Continues a prompt.
    Generate(Box<Generate>),
    /// Rounds the moments in place and puts their sealed bytes into the shared memory.
    Seal,
    /// Hashes the state: parameters and moments.
    StateHash,
    /// Ends the process after what came before.
    Stop,
}

/// Which implementation of the engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineKind {
    /// Fixed-order kernels on several threads.
    #[default]
    Fast,
    /// The plain, slow judge.
    Reference,
}

/// What a worker is built for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The engine's `ModelConfig` as JSON.
    pub model_json: String,
    /// The engine's `Lora` as JSON, when adapters are trained beside the frozen model whose file
    /// came along with the memory.
    pub adapters_json: Option<String>,
    /// Which implementation.
    pub engine: EngineKind,
    /// How it holds matrices and activations.
    pub storage: Storage,
    /// Threads it computes on.
    pub threads: u16,
    /// The owner's limit at the beginning.
    pub share: ShareOfCpu,
    /// Where things lie in the shared memory.
    pub layout: Layout,
}

/// Where an operation takes its parameters from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Theta {
    /// The published version, theta base.
    Base,
    /// The result of the last `Train`, theta local.
    Local,
    /// Whatever the engine holds.
    Keep,
}

/// Where `Train` takes AdamW's moments from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moments {
    /// Zero, and step 0.
    Fresh,
    /// Whatever the engine holds.
    Keep,
    /// The sealed bytes in the shared memory, which hold the step count too.
    Import {
        /// How many of them.
        bytes: u64,
    },
}

/// AdamW's settings but for the learning rate, which is per step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamSettings {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// The gradient's norm is clipped to this; 0 for no clipping.
    pub clip: f32,
}

/// `lr.len()` inner steps, each on the next `sequences` sequences of `length + 1` tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Sequences of one step.
    pub sequences: u32,
    /// Tokens predicted in a sequence.
    pub length: u32,
    /// The learning rate of each step. Their number is the number of steps.
    pub lr: Vec<f32>,
    /// The other numbers of AdamW.
    pub adam: AdamSettings,
    /// Where the tokens lie: `lr.len() * sequences * (length + 1)` of them.
    pub tokens: TokenRange,
    /// Where the moments come from.
    pub moments: Moments,
    /// Where the parameters come from.
    pub theta: Theta,
}

/// The loss of `sequences` sequences of `length + 1` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluate {
    /// Sequences in all.
    pub sequences: u32,
    /// Tokens predicted in a sequence.
    pub length: u32,
    /// How many sequences are computed at a time. Bounds the memory; the result may depend on it in
    /// the last bits, so it is the caller's to fix.
    pub at_once: u32,
    /// Where the tokens lie.
    pub tokens: TokenRange,
    /// Whose loss. The engine holds these parameters afterwards.
    pub theta: Theta,
}

/// A continuation of a prompt, token by token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// The most tokens to make.
    pub tokens_max: u32,
    /// 0 for the likeliest token always.
    pub temperature: f32,
    /// Draw among the likeliest that together have this probability; 1 for all.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
    /// Ends the text when drawn; it is not handed out.
    pub stop: Option<u32>,
    /// Whose parameters. The engine holds them afterwards.
    pub theta: Theta,
}

/// One message from the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromWorker {
    /// The work it belongs to.
    pub id: u64,
    /// What happened.
    pub reply: Reply,
}

/// What a worker says about its work. All but `Progress` and `Token` end it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// `Start` is done.
    Ready(Ready),
    /// `Init` is done: theta base is written.
    Initialised,
    /// One more step of `Train` or one more part of `Evaluate`.
    Progress(Progress),
    /// `Train` is over: theta local is written.
    Trained(Trained),
    /// `Evaluate` is over.
    Evaluated(Evaluated),
    /// One more token of `Generate`.
    Token(u32),
    /// `Generate` is over.
    Generated(Generated),
    /// `Seal` is done: the sealed moments are written.
    Sealed(Sealed),
    /// `StateHash` is done.
    StateHash(Box<StateHashes>),
    /// `Stop`: the process ends.
    Stopped,
    /// The work could not be done. The state is the last complete step's.
    Failed(Failure),
}

impl Reply {
    /// Whether the work goes on after this.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        matches!(self, Self::Progress(_) | Self::Token(_))
    }
}

/// What the engine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The definition of the arithmetic: equal classes give equal bits.
    pub numeric_class: String,
    /// Which instructions carry it out.
    pub kernel: String,
    /// The engine's build.
    pub build: String,
    /// Threads it computes on.
    pub threads: u32,
    /// Parameters it holds.
    pub parameters: u64,
}

/// How far a `Train` or an `Evaluate` is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Complete steps (of `Train`) or sequences (of `Evaluate`).
    pub steps_done: u32,
    /// The loss of the last one.
    pub loss: f32,
    /// Tokens so far.
    pub tokens: u64,
    /// CPU time of the last step, spread over the threads: what the owner's limit is held against.
    pub compute_micros: u64,
    /// Time of the last step on the wall, with the rest before it that the limit asked for.
    pub elapsed_micros: u64,
}

/// The end of a `Train`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Complete steps.
    pub steps: u32,
    /// Tokens that counted for the loss.
    pub tokens: u64,
    /// The sum over tokens of their loss, before each step.
    pub loss_sum: f64,
    /// CPU time, as in [`Progress::compute_micros`].
    pub compute_micros: u64,
    /// Time on the wall, rests and pauses included: what a replica's speed is measured from.
    pub elapsed_micros: u64,
    /// Whether it was ended before its last step.
    pub cancelled: bool,
}

/// The end of an `Evaluate`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The mean loss of a token; 0 with 0 tokens.
    pub loss: f64,
    /// Tokens that counted.
    pub tokens: u64,
    /// Whether it was ended before the last sequence.
    pub cancelled: bool,
}

/// The end of a `Generate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// Tokens made.
    pub tokens: u32,
    /// Whether it was ended from outside.
    pub cancelled: bool,
}

/// The sealed moments in the shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Their length.
    pub bytes: u64,
    /// The optimiser's step count, which they hold too.
    pub steps: u64,
}

/// The hashes of the engine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHashes {
    /// The root of all.
    pub root: [u8; 32],
    /// Of its 16 segments.
    pub segments: [[u8; 32]; 16],
}

/// Why work could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the worker could not do it: {text}")]
pub struct Failure {
    /// What kind of reason.
    pub class: FailureClass,
    /// For a person; at most [`FAILURE_TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureClass {
    /// The work does not fit the worker, its memory or the order of things: the agent's defect.
    Refused,
    /// A loss or a gradient was not finite: the job's settings, or parameters that are broken.
    NotFinite,
    /// More work than [`WORK_QUEUE_MAX`] waits: ask later.
    Busy,
    /// The engine failed in another way.
    Engine,
}

impl Failure {
    /// A failure of this class; the text is cut to its bound.
    #[must_use]
    pub fn new(class: FailureClass, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > FAILURE_TEXT_BYTES_MAX {
            let end = (0..=FAILURE_TEXT_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end));
            text.truncate(end.unwrap_or(0));
        }
        Self { class, text }
    }

    /// A refusal.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(FailureClass::Refused, text)
    }
}

/// A frame that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than the bound.
    #[error("expected a frame of at most {max} bytes, found {found}")]
    TooLong {
        /// Its length.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// Not what postcard writes for this type.
    #[error("a frame of {length} bytes is not a message of this build: {source}")]
    Malformed {
        /// Its length.
        length: usize,
        /// What is wrong.
        source: postcard::Error,
    },
    /// The socket failed or ended inside a frame.
    #[error("the socket between agent and worker failed: {0}")]
    Socket(#[from] io::Error),
}

/// The bytes of one frame.
///
/// # Errors
/// When the message is longer than a frame may be.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame)
        .map_err(|source| FrameError::Malformed { length: 0, source })?;
    let length = checked_length(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// The message of a frame's body.
///
/// # Errors
/// When the bytes are not exactly one message.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let malformed = |source| FrameError::Malformed { length: body.len(), source };
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(malformed(postcard::Error::SerdeDeCustom)),
        Err(source) => Err(malformed(source)),
    }
}

/// The length of a body from a frame's first four bytes.
///
/// # Errors
/// When it is over the bound.
pub fn body_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    checked_length(u32::from_le_bytes(prefix) as usize).map(|length| length as usize)
}

/// Reads one message; `None` when the other side has ended between two frames.
///
/// # Errors
/// When the socket fails, ends inside a frame, or says something that is no message.
pub fn read_frame<T: DeserializeOwned>(socket: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; 4];
    match socket.read_exact(&mut prefix[..1]) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    socket.read_exact(&mut prefix[1..])?;
    let mut body = vec![0; body_length(prefix)?];
    socket.read_exact(&mut body)?;
    decode(&body).map(Some)
}

fn checked_length(length: usize) -> Result<u32, FrameError> {
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { found: length, max: FRAME_BYTES_MAX });
    }
    Ok(u32::try_from(length).expect("a length under 1 MiB fits in 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(steps: usize) -> ToWorker {
        let adam =
            AdamSettings { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 };
        let tokens = TokenRange { area: 1, start: 7, len: 99 };
        ToWorker::Work {
            id: 3,
            work: Work::Train(Box::new(Train {
                sequences: 4,
                length: 128,
                lr: vec![1e-3; steps],
                adam,
                tokens,
                moments: Moments::Import { bytes: 12 },
                theta: Theta::Base,
            })),
        }
    }

    #[test]
    fn a_message_reads_back_and_the_end_between_frames_is_no_error() {
        let sent = [train(2), ToWorker::Cancel { through: 9 }, ToWorker::Share(ShareOfCpu::PAUSED)];
        let bytes: Vec<u8> = sent.iter().flat_map(|m| encode(m).unwrap()).collect();
        let mut socket = bytes.as_slice();
        for message in &sent {
            assert_eq!(read_frame::<ToWorker>(&mut socket).unwrap().as_ref(), Some(message));
        }
        assert!(read_frame::<ToWorker>(&mut socket).unwrap().is_none());
    }

    #[test]
    fn every_truncation_of_a_frame_is_an_error_and_never_a_message() {
        let frame = encode(&train(3)).unwrap();
        for end in 1..frame.len() {
            assert!(read_frame::<ToWorker>(&mut &frame[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_anything_is_read() {
        let mut socket = &[0xff, 0xff, 0xff, 0x7f][..];
        let error = read_frame::<ToWorker>(&mut socket).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { found: 0x7fff_ffff, .. }), "{error}");
        assert!(matches!(encode(&vec![0u8; FRAME_BYTES_MAX]), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn the_longest_honest_train_fits_and_trailing_bytes_do_not() {
        let mut frame = encode(&train(STEPS_MAX)).unwrap();
        frame.push(0);
        assert!(decode::<ToWorker>(&frame[4..frame.len() - 1]).is_ok());
        assert!(decode::<ToWorker>(&frame[4..]).is_err());
    }

    #[test]
    fn a_share_over_the_whole_cannot_be_read_from_the_wire() {
        let mut body = postcard::to_stdvec(&ToWorker::Share(ShareOfCpu::WHOLE)).unwrap();
        assert_eq!(decode::<ToWorker>(&body).unwrap(), ToWorker::Share(ShareOfCpu::WHOLE));
        body[1] += 1;
        assert!(decode::<ToWorker>(&body).is_err());
        assert_eq!(ShareOfCpu::new(1001), Err(ShareError { found: 1001 }));
    }

    #[test]
    fn a_long_failure_is_cut_between_characters() {
        let failure = Failure::refused("粒".repeat(FAILURE_TEXT_BYTES_MAX));
        assert_eq!(failure.text.len(), FAILURE_TEXT_BYTES_MAX / 3 * 3);
    }
}
