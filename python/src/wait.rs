//! Waiting for the runtime from Python: the interpreter is free, and Ctrl-C is heard.

use crate::error::Trouble;
use pyo3::prelude::*;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// How often a wait looks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One reads, one serves; callers wait on threads of their own.
const THREADS: usize = 2;

/// The runtime of this process: made when it is first needed, and never ended.
pub(crate) fn runtime() -> Result<&'static Runtime, Trouble> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("suanli")
        .enable_all()
        .build()
        .map_err(|source| Trouble::Runtime { source })?;
    Ok(RUNTIME.get_or_init(|| made))
}

/// Waits for `work` without the interpreter. A signal ends the wait, and drops the work.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    work: impl Future<Output = Result<T, Trouble>> + Send,
) -> PyResult<T> {
    let runtime = runtime().map_err(|trouble| trouble.raise(py))?;
    let mut work = Box::pin(work);
    loop {
        let turn = async { tokio::time::timeout(LOOK_EVERY, &mut work).await };
        match py.detach(|| runtime.block_on(turn)) {
            Ok(done) => return done.map_err(|trouble| trouble.raise(py)),
            Err(_) => py.check_signals()?,
        }
    }
}
