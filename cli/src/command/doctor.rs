//! `suanli doctor`: what this machine gives to training, and whether its arithmetic is sound.

use crate::context::Context;
use crate::exit::{Class, Failure, Whose};
use crate::{show, words};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use suanli_engine::{
    Batch, Cancel, Engine as _, Fast, KernelChoice, Matmul, ModelConfig, Settings, StateHash,
    StepError, StepSettings, initial_params,
};

const KERNELS: [(&str, KernelChoice); 3] = [
    ("avx512", KernelChoice::Avx512),
    ("avx2", KernelChoice::Avx2),
    ("portable", KernelChoice::Portable),
];
/// How long a speed is measured.
const SPAN: Duration = Duration::from_millis(700);

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    version: &'static str,
    /// The instructions that training uses.
    kernel: &'static str,
    /// Those that this CPU has.
    kernels: Vec<&'static str>,
    numeric_class: &'static str,
    threads: usize,
    /// Whether a few steps gave the same bits with all of them, on one thread and on all.
    same_bits: bool,
    gflop_per_s: f64,
    tokens_per_s: f64,
    memory_available_bytes: Option<u64>,
    folders: Vec<Place>,
}

/// A folder that the program uses.
#[derive(Debug, Serialize)]
struct Place {
    purpose: &'static str,
    path: String,
    writable: bool,
}

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wrong = |error: StepError| {
        Failure::usage(error.to_string(), "unset SUANLI_KERNEL, or set it to one of these")
    };
    let (same_bits, kernels) = same_bits(threads).map_err(wrong)?;
    let mut engine = Fast::new(ModelConfig::demo(), threads).map_err(wrong)?;
    let can = engine.capabilities();
    let found = Found {
        version: env!("CARGO_PKG_VERSION"),
        kernel: can.kernel,
        kernels,
        numeric_class: can.numeric_class,
        threads,
        same_bits,
        gflop_per_s: product_rate(threads).map_err(wrong)?,
        tokens_per_s: training_rate(&mut engine).map_err(wrong)?,
        memory_available_bytes: suanli_worker::available_memory_bytes(),
        folders: places(context)?,
    };
    context.answer(&found, || report(context, &found))?;
    if !found.same_bits {
        return Err(Failure {
            class: Class::Corrupt,
            whose: Whose::ThisMachine,
            what: "this machine computes other bits than itself: its memory or CPU is not sound, \
                   or overclocked"
                .to_owned(),
            next: "do not lend it; test its memory, and undo any overclocking".to_owned(),
        });
    }
    if let Some(place) = found.folders.iter().find(|place| !place.writable) {
        return Err(Failure {
            class: Class::Environment,
            whose: Whose::ThisMachine,
            what: format!("{} cannot be written to", show::printable(&place.path)),
            next: "change its owner or rights, or choose another with --dir".to_owned(),
        });
    }
    Ok(())
}

fn report(context: &Context, found: &Found) -> String {
    let language = context.language;
    let memory = found.memory_available_bytes.map_or_else(|| "?".to_owned(), show::bytes);
    let kernels = found.kernels.join(", ");
    let mut lines = vec![
        format!("suanli {}", found.version),
        words::doctor_kernel(language, found.kernel, &kernels, found.threads),
        if found.same_bits {
            words::doctor_same_bits(language, found.numeric_class)
        } else {
            words::doctor_other_bits(language)
        },
        words::doctor_speed(
            language,
            &format!("{:.0}", found.gflop_per_s),
            &format!("{:.0}", found.tokens_per_s),
        ),
        words::doctor_memory(language, &memory),
    ];
    for place in &found.folders {
        let path = show::printable(&place.path);
        lines.push(match place.writable {
            true => words::doctor_folder(language, place.purpose, &path),
            false => words::doctor_folder_closed(language, place.purpose, &path),
        });
    }
    lines.join("\n")
}

/// A few steps of a small model with every kernel there is, on one thread and on all.
fn same_bits(threads: usize) -> Result<(bool, Vec<&'static str>), StepError> {
    let (mut hashes, mut names) = (Vec::new(), Vec::new());
    for (name, kernel) in KERNELS {
        for threads in [1, threads] {
            let settings = Settings { threads, kernel, ..Settings::default() };
            match steps(&settings) {
                Ok(hash) => hashes.push(hash),
                Err(StepError::Kernel(_)) => continue,
                Err(other) => return Err(other),
            }
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
    }
    Ok((hashes.windows(2).all(|pair| pair[0] == pair[1]), names))
}

fn steps(settings: &Settings) -> Result<StateHash, StepError> {
    let config = ModelConfig {
        vocab: 61,
        hidden: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn: 70,
        context: 33,
        ..ModelConfig::demo()
    };
    let mut engine = Fast::with(config.clone(), settings)?;
    engine.write(0, &initial_params(&config, 1));
    let tokens = 3 * config.context;
    let ids: Vec<u32> = (0..=tokens as u32).map(|i| i * 37 % 61).collect();
    let weights = vec![1.0; tokens];
    let batch = Batch {
        sequences: 3,
        length: config.context,
        inputs: &ids[..tokens],
        targets: &ids[1..],
        weights: &weights,
    };
    for _ in 0..3 {
        engine.step(&batch.into(), &StepSettings::default(), &Cancel::new())?;
    }
    Ok(engine.state_hash())
}

/// Floating-point operations a second of a product of training's size.
fn product_rate(threads: usize) -> Result<f64, StepError> {
    let shape @ [m, n, k] = [512, 512, 256];
    let mut matmul = Matmul::new(KernelChoice::Best, threads)?;
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
    let work = 2e-9 * (m * n * k) as f64;
    Ok(work
        * per_second(|| {
            matmul.multiply(shape, &a, &b, &mut c);
            Ok(())
        })?)
}

/// Tokens a second of training the demo's model.
fn training_rate(engine: &mut Fast) -> Result<f64, StepError> {
    let config = engine.config().clone();
    engine.write(0, &initial_params(&config, 1));
    let tokens = 4 * config.context;
    let ids: Vec<u32> = (0..=tokens as u32).map(|i| i * 37 % 256).collect();
    let weights = vec![1.0; tokens];
    let batch = Batch {
        sequences: 4,
        length: config.context,
        inputs: &ids[..tokens],
        targets: &ids[1..],
        weights: &weights,
    };
    let (settings, cancel) = (StepSettings { lr: 1e-4, ..StepSettings::default() }, Cancel::new());
    let steps = per_second(|| engine.step(&batch.into(), &settings, &cancel).map(|_| ()))?;
    Ok(tokens as f64 * steps)
}

fn per_second(mut work: impl FnMut() -> Result<(), StepError>) -> Result<f64, StepError> {
    // The first one warms caches and threads up.
    work()?;
    let (begun, mut done) = (Instant::now(), 0_u32);
    while done == 0 || begun.elapsed() < SPAN {
        work()?;
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn places(context: &Context) -> Result<Vec<Place>, Failure> {
    let none = crate::arguments::Folder::default();
    let each = [
        ("city", context.city_folder(&none)?),
        ("family", context.family_folder(&none)?),
        ("prepared", context.folders.prepared()?),
    ];
    let place = |(purpose, path): (&'static str, std::path::PathBuf)| Place {
        purpose,
        writable: is_writable(&path),
        path: path.to_string_lossy().into_owned(),
    };
    Ok(each.into_iter().map(place).collect())
}

/// Whether the folder, or the nearest above it that there is, lets this user make something in it.
fn is_writable(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there.is_some_and(|path| {
        let rights = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        path.is_dir() && rustix::fs::access(path, rights).is_ok()
    })
}
