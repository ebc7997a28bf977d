//! The held-out loss of each version, measured by a worker process of the city's own.

use super::files::Files;
use crate::trainable::Trainable;
use std::ffi::OsString;
use std::path::PathBuf;
use suanli_base::{Hash, JobId, Round};
use suanli_bus::JobSpec;
use suanli_node::city::Done;
use suanli_worker::{Evaluate, Reply, ShareOfCpu, Theta, TokenRange, Work as EngineWork, Worker};
use tokio::sync::mpsc;

/// Tokens of the held-out set that are measured each time: the first so many, always the same.
const TOKENS_MAX: u64 = 16 << 10;
/// Sequences at once: part of what fixes the bits of the result.
const AT_ONCE: u32 = 8;

/// A version to be measured.
pub(super) struct Order {
    pub job: JobId,
    pub version: Round,
    pub theta: Hash,
    pub spec: Box<JobSpec>,
}

/// Measures until the loop is gone.
pub(super) async fn run(
    files: Files,
    program: (PathBuf, Vec<OsString>),
    mut orders: mpsc::UnboundedReceiver<Order>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut bench: Option<(JobId, Worker, u32)> = None;
    while let Some(order) = orders.recv().await {
        if bench.as_ref().is_none_or(|(job, ..)| *job != order.job) {
            bench = match open(&files, &program, &order).await {
                Ok((worker, sequences)) => Some((order.job, worker, sequences)),
                Err(error) => {
                    eprintln!("suanli: the held-out loss cannot be measured: {error}");
                    None
                }
            };
        }
        let loss = match bench.as_mut() {
            Some((_, worker, sequences)) => measure(&files, worker, *sequences, &order).await,
            None => Err("no worker process".into()),
        };
        if let Err(error) = &loss {
            eprintln!("suanli: version {} was not measured: {error}", order.version);
            bench = None;
        }
        let (job, version) = (order.job, order.version);
        // The loop has ended; nobody waits for this any more.
        let _ = done.send(Done::Evaluated { job, version, loss: loss.ok() });
    }
}

async fn open(
    files: &Files,
    (exe, args): &(PathBuf, Vec<OsString>),
    order: &Order,
) -> Result<(Worker, u32), String> {
    let spec = &order.spec;
    let held = &spec.data.held_out;
    let words = u64::from(spec.data.sample_tokens);
    let sequences = (TOKENS_MAX / (words - 1)).clamp(1, held.samples);
    let total = sequences * words;
    let frozen = || files.content(spec.frozen.as_ref().map_or(Hash::ZERO, |f| f.root));
    let length = spec.data.sample_tokens as usize - 1;
    let mut worker_spec = Trainable::of(spec)?.worker(length, total, frozen);
    worker_spec.args.clone_from(args);
    worker_spec.share = ShareOfCpu::WHOLE;
    let mut worker = Worker::spawn(exe.clone(), worker_spec).map_err(|error| error.to_string())?;
    worker.ready().await.map_err(|error| error.to_string())?;
    let width = usize::from(spec.data.token_bytes);
    let bytes = std::fs::read(files.content(held.root)).map_err(|error| error.to_string())?;
    let wanted = usize::try_from(total).map_err(|error| error.to_string())? * width;
    let bytes = bytes.get(..wanted).ok_or("the held-out samples are too short")?;
    let mut area = worker.handle().memory().tokens()[0].clone().write_owned().await;
    for (word, token) in area.iter_mut().zip(bytes.chunks_exact(width)) {
        let mut wide = [0; 4];
        wide[..width].copy_from_slice(token);
        *word = u32::from_le_bytes(wide);
    }
    drop(area);
    Ok((worker, u32::try_from(sequences).map_err(|error| error.to_string())?))
}

async fn measure(
    files: &Files,
    worker: &mut Worker,
    sequences: u32,
    order: &Order,
) -> Result<f32, String> {
    let bytes = files.blobs.get(order.theta).map_err(|error| error.to_string())?;
    {
        let mut base = worker.handle().memory().base().clone().write_owned().await;
        for (value, w) in base.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes([w[0], w[1], w[2], w[3]]);
        }
    }
    let words = order.spec.data.sample_tokens;
    let work = EngineWork::Evaluate(Evaluate {
        sequences,
        length: words - 1,
        at_once: AT_ONCE,
        tokens: TokenRange { area: 0, start: 0, len: u64::from(sequences) * u64::from(words) },
        theta: Theta::Base,
    });
    match worker.call(work, |_: &Reply| {}).await.map_err(|error| error.to_string())? {
        Reply::Evaluated(evaluated) if evaluated.tokens > 0 => Ok(evaluated.loss as f32),
        _ => Err("the engine did not evaluate".into()),
    }
}
