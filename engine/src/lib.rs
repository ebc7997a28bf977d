//! The model and how it learns: plain reference, fast CPU kernels, optimiser, tokenizer, data order, generation.
//!
//! Not for: rounds, leases, merging or the wire; nothing here reads a clock, a file or a socket.
//!
//! Invariants: the same input gives the same bits whatever the threads and the instruction set
//! (every element is one chain of fused multiply-adds in a fixed order, every row reduction runs
//! over 16 virtual lanes and a fixed tree, every transcendental function is our own); a step that
//! did not complete leaves no trace.

pub mod chat;
mod config;
mod fast;
mod init;
mod lora;
mod math;
pub mod order;
mod reference;
mod rotary;
mod sampling;
mod state;
mod task;
pub mod text;
pub mod tokenizer;
mod traits;

pub use config::{
    Activations, CONTEXT_MAX, ConfigError, LAYERS_MAX, ModelConfig, NUMERIC_CLASS,
    NUMERIC_CLASS_ANY, NUMERIC_CLASS_BF16, RopeScaling, Storage, VOCAB_MAX, WIDTH_MAX,
};
pub use fast::{Fast, KernelChoice, KernelError, Matmul, Settings};
pub use init::initial_params;
pub use lora::{Lora, RANK_MAX, Target};
pub use reference::{Float, Reference};
pub use state::State;
pub use task::{Batch, Entry, Exit, Objective, Pair, Part, Task};
pub use traits::{
    Cancel, Capabilities, Engine, Loss, STATE_SEGMENTS, Sampling, SealFault, StateHash, StepError,
    StepReport, StepSettings,
};
