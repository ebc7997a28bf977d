//! The worker process: the engine in a child of the agent, and the agent's side of it.
//!
//! The agent holds keys and links; the engine, which turns strangers' numbers into more numbers,
//! runs in `suanli worker` with neither: an environment emptied but for `SUANLI_KERNEL`, no
//! sockets but its end of one inherited pair, the parameters in memory shared with the agent. Its
//! death at any moment is an ordinary event ([`WorkerEvent::Died`]), after which
//! [`Worker::respawn`] starts another on the same memory.
//!
//! Not for: deciding what to train, touching disks or networks, holding a version of anything.
//!
//! Invariants:
//! - The memory changes hands by the protocol: a region belongs to the child from the command that
//!   names it until that command's last reply, or until the child was reaped. The agent's locks on
//!   the regions ([`memory`]) make reading it meanwhile unsayable.
//! - A cancelled or paused command leaves the last complete step.
//! - Everything the child says is bounded and typed; a broken frame is the child's death.

pub mod child;
mod confine;
mod control;
mod desk;
pub mod memory;
pub mod protocol;
mod supervisor;

pub use desk::{Plan, available_memory_bytes};
pub use memory::{Layout, LayoutError, MemoryError, Region, SharedMemory, TokenRange};
pub use protocol::{
    AdamSettings, EngineKind, Evaluate, Evaluated, Failure, FailureClass, Generate, Generated,
    Moments, Progress, Ready, Reply, Sealed, ShareError, ShareOfCpu, StateHashes, Theta, Train,
    Trained, Work,
};
pub use supervisor::{
    Adapters, CallError, Death, DeathCause, SendError, SpawnError, Worker, WorkerEvent,
    WorkerHandle, WorkerSpec,
};
