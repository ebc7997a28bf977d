//! Where the child's work is done: one engine, one piece of work at a time.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use suanli_engine::{
    Activations, Batch, Engine, Fast, Lora, Loss, ModelConfig, Reference, STATE_SEGMENTS, Sampling,
    Settings, StepError, StepSettings, Storage,
};

use crate::child::Replies;
use crate::control::{Control, Verdict};
use crate::memory::{Region, Shared, SharedMemory, TokenRange};
use crate::protocol::{
    CONFIG_BYTES_MAX, EngineKind, Evaluate, Evaluated, Failure, FailureClass, Generate, Generated,
    Moments, NO_LOSS, PROMPT_TOKENS_MAX, Progress, Ready, Reply, STEPS_MAX, Sealed, Start,
    StateHashes, Theta, Train, Trained, Work,
};

/// Bytes of the frozen model that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// What an engine is made for.
pub struct Plan {
    /// Which implementation of ours, where it is to be ours.
    pub engine: EngineKind,
    /// How matrices and activations are held.
    pub storage: Storage,
    /// Threads to compute on.
    pub threads: usize,
    /// The model, with a context as long as what it is trained on.
    pub model: ModelConfig,
    /// The adapters that are trained, and the parameters of the frozen model beside them.
    pub adapters: Option<(Lora, Vec<f32>)>,
}

/// Makes the engine that computes.
pub(super) type Maker<'a> = Box<dyn FnMut(Plan) -> Result<Box<dyn Engine>, Failure> + 'a>;

/// The child's engine and what it works with.
pub(super) struct Desk<'a> {
    make: Maker<'a>,
    /// Until `Start` says what lies in it.
    file: Option<OwnedFd>,
    /// The parameters of the frozen model, if there is one.
    frozen: Option<OwnedFd>,
    bench: Option<Bench>,
    control: Arc<Control>,
    replies: Replies,
}

/// What there is once started.
struct Bench {
    engine: Box<dyn Engine>,
    lora: Option<Lora>,
    memory: SharedMemory,
    threads: u32,
    parts: Parts,
}

/// One batch taken apart: what is read, what is to be said, what counts.
#[derive(Default)]
struct Parts {
    inputs: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl<'a> Desk<'a> {
    pub(super) const fn new(
        make: Maker<'a>,
        file: OwnedFd,
        frozen: Option<OwnedFd>,
        control: Arc<Control>,
        replies: Replies,
    ) -> Self {
        Self { make, file: Some(file), frozen, bench: None, control, replies }
    }

    /// Does one piece of work; partial replies go out meanwhile, the last one is returned.
    pub(super) fn perform(&mut self, id: u64, work: Work) -> Result<Reply, Failure> {
        self.control.begin(id);
        match work {
            Work::Start(start) => self.start(&start).map(Reply::Ready),
            Work::Stop => Ok(Reply::Stopped),
            work => {
                let bench = self.bench.as_mut();
                let bench = bench.ok_or_else(|| Failure::refused("the worker was not started"))?;
                let run = Run { id, control: &self.control, replies: &self.replies };
                bench.perform(work, &run)
            }
        }
    }

    fn start(&mut self, start: &Start) -> Result<Ready, Failure> {
        let refused = |text: &dyn std::fmt::Display| Failure::refused(text.to_string());
        if start.model_json.len() > CONFIG_BYTES_MAX {
            return Err(Failure::refused("the model's configuration is over 64 KiB"));
        }
        let config: ModelConfig = serde_json::from_str(&start.model_json)
            .map_err(|error| Failure::refused(format!("the model's configuration: {error}")))?;
        config.check().map_err(|error| refused(&error))?;
        let lora = start.adapters_json.as_deref().map(|json| {
            let lora: Lora = serde_json::from_str(json)
                .map_err(|error| Failure::refused(format!("the adapters: {error}")))?;
            lora.check().map_err(|error| refused(&error))?;
            Ok::<_, Failure>(lora)
        });
        let lora = lora.transpose()?;
        let trained = lora.as_ref().map_or_else(|| config.parameters(), |l| l.parameters(&config));
        let (expected, found) = (trained as u64, start.layout.parameters);
        if expected != found {
            let text = format!("expected a layout for {expected} parameters, found {found}");
            return Err(Failure::refused(text));
        }
        let file = self.file.take().ok_or_else(|| Failure::refused("already started"))?;
        let memory = SharedMemory::adopt(file, start.layout).map_err(|error| refused(&error))?;
        let threads = usize::from(start.threads.max(1));
        let adapters = match &lora {
            Some(lora) => {
                Some((lora.clone(), read_frozen(self.frozen.take(), config.parameters())?))
            }
            None => None,
        };
        let (engine, storage) = (start.engine, start.storage);
        let engine = (self.make)(Plan { engine, storage, threads, model: config, adapters })?;
        let found = engine.space().len() as u64;
        if found != expected {
            let text = format!("expected an engine of {expected} parameters, found {found}");
            return Err(Failure::refused(text));
        }
        self.control.set_share(start.share);
        let can = engine.capabilities();
        let threads = u32::try_from(can.threads.max(1)).unwrap_or(1);
        self.bench = Some(Bench { engine, lora, memory, threads, parts: Parts::default() });
        Ok(Ready {
            numeric_class: can.numeric_class.to_owned(),
            kernel: can.kernel.to_owned(),
            build: can.build.to_owned(),
            threads,
            parameters: expected,
        })
    }
}

/// The work under way, as seen from outside.
struct Run<'a> {
    id: u64,
    control: &'a Control,
    replies: &'a Replies,
}

impl Bench {
    fn perform(&mut self, work: Work, run: &Run<'_>) -> Result<Reply, Failure> {
        match work {
            Work::Init { seed } => self.init(seed),
            Work::Train(train) => self.train(&train, run).map(Reply::Trained),
            Work::Evaluate(evaluate) => self.evaluate(&evaluate, run).map(Reply::Evaluated),
            Work::Generate(generate) => self.generate(&generate, run).map(Reply::Generated),
            Work::Seal => self.seal().map(Reply::Sealed),
            Work::StateHash => Ok(Reply::StateHash(Box::new(self.state_hash()))),
            Work::Start(_) | Work::Stop => unreachable!("the desk does these itself"),
        }
    }

    fn init(&self, seed: u64) -> Result<Reply, Failure> {
        let config = self.engine.config();
        let initial = match &self.lora {
            Some(lora) => lora.initial(config, seed),
            None => suanli_engine::initial_params(config, seed),
        };
        held_mut(self.memory.base()).copy_from_slice(&initial);
        Ok(Reply::Initialised)
    }

    fn train(&mut self, train: &Train, run: &Run<'_>) -> Result<Trained, Failure> {
        let steps = train.lr.len();
        if steps > STEPS_MAX {
            let text = format!("expected at most {STEPS_MAX} steps, found {steps}");
            return Err(Failure::refused(text));
        }
        // No steps: only the parameters and moments are loaded.
        if steps > 0 {
            let sequences = steps as u64 * u64::from(train.sequences);
            self.check_tokens(train.tokens, sequences, train.length)?;
        }
        self.load(train.theta);
        self.load_moments(train.moments)?;
        let mut done = Trained {
            steps: 0,
            tokens: 0,
            loss_sum: 0.0,
            compute_micros: 0,
            elapsed_micros: 0,
            cancelled: run.control.go_on() == Verdict::End,
        };
        let whole = Instant::now();
        while !done.cancelled && (done.steps as usize) < steps {
            let progress = match self.step(train, done.steps, run)? {
                Some(progress) => progress,
                None => {
                    done.cancelled = true;
                    break;
                }
            };
            done.steps += 1;
            done.tokens += progress.tokens;
            done.loss_sum += f64::from(progress.loss) * progress.tokens as f64;
            done.compute_micros += progress.compute_micros;
            run.replies.send(
                run.id,
                Reply::Progress(Progress {
                    steps_done: done.steps,
                    tokens: done.tokens,
                    ..progress
                }),
            );
        }
        done.elapsed_micros = micros(whole.elapsed());
        self.engine.read(0, &mut held_mut(self.memory.local()));
        Ok(done)
    }

    /// One step and the rest after it; `None` when cancelled before it was complete.
    fn step(
        &mut self,
        train: &Train,
        index: u32,
        run: &Run<'_>,
    ) -> Result<Option<Progress>, Failure> {
        let per_step = u64::from(train.sequences) * (u64::from(train.length) + 1);
        let range = TokenRange {
            start: train.tokens.start + u64::from(index) * per_step,
            len: per_step,
            ..train.tokens
        };
        self.take_apart(range, train.length);
        let settings = StepSettings {
            lr: train.lr[index as usize],
            beta1: train.adam.beta1,
            beta2: train.adam.beta2,
            eps: train.adam.eps,
            weight_decay: train.adam.weight_decay,
            clip: train.adam.clip,
        };
        loop {
            let meter = Meter::start();
            let batch = self.parts.batch(train.sequences, train.length);
            match self.engine.step(&batch.into(), &settings, run.control.flag()) {
                Ok(report) => {
                    let busy = meter.busy(self.threads);
                    // The step counts whatever the verdict: the caller asks again before the next.
                    let _ = run.control.rest(meter.start, busy);
                    return Ok(Some(Progress {
                        steps_done: 1,
                        loss: report.loss,
                        tokens: self.parts.counted(),
                        compute_micros: micros(busy),
                        elapsed_micros: micros(meter.start.elapsed()),
                    }));
                }
                // A pause: the same step again when it is over.
                Err(StepError::Cancelled) if run.control.go_on() == Verdict::GoOn => {}
                Err(StepError::Cancelled) => return Ok(None),
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    fn evaluate(&mut self, evaluate: &Evaluate, run: &Run<'_>) -> Result<Evaluated, Failure> {
        let &Evaluate { sequences, length, at_once, tokens, theta } = evaluate;
        self.check_tokens(tokens, u64::from(sequences), length)?;
        self.load(theta);
        let (mut sum, mut counted, mut done) = (Loss::default(), 0, 0);
        let mut cancelled = false;
        while done < sequences {
            let part = at_once.max(1).min(sequences - done);
            let width = u64::from(length) + 1;
            let start = tokens.start + u64::from(done) * width;
            self.take_apart(TokenRange { start, len: u64::from(part) * width, ..tokens }, length);
            let Some((loss, meter)) = self.evaluate_part(part, length, run)? else {
                cancelled = true;
                break;
            };
            done += part;
            counted += self.parts.counted();
            sum = sum.plus(loss);
            let busy = meter.busy(self.threads);
            let _ = run.control.rest(meter.start, busy);
            let progress = Progress {
                steps_done: done,
                loss: loss.mean() as f32,
                tokens: counted,
                compute_micros: micros(busy),
                elapsed_micros: micros(meter.start.elapsed()),
            };
            run.replies.send(run.id, Reply::Progress(progress));
        }
        Ok(Evaluated { loss: sum.mean(), tokens: counted, cancelled })
    }

    fn evaluate_part(
        &mut self,
        sequences: u32,
        length: u32,
        run: &Run<'_>,
    ) -> Result<Option<(Loss, Meter)>, Failure> {
        loop {
            let meter = Meter::start();
            if self.parts.counted() == 0 {
                return Ok(Some((Loss::default(), meter)));
            }
            let batch = self.parts.batch(sequences, length);
            match self.engine.evaluate(&batch.into(), run.control.flag()) {
                Ok(loss) => return Ok(Some((loss, meter))),
                Err(StepError::Cancelled) if run.control.go_on() == Verdict::GoOn => {}
                Err(StepError::Cancelled) => return Ok(None),
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    fn generate(&mut self, generate: &Generate, run: &Run<'_>) -> Result<Generated, Failure> {
        if generate.prompt.len() > PROMPT_TOKENS_MAX {
            let found = generate.prompt.len();
            let text = format!("expected a prompt of at most {PROMPT_TOKENS_MAX}, found {found}");
            return Err(Failure::refused(text));
        }
        self.load(generate.theta);
        let sampling = Sampling {
            temperature: generate.temperature,
            top_p: generate.top_p,
            top_k: 0,
            tokens_max: (generate.tokens_max as usize).min(PROMPT_TOKENS_MAX),
        };
        let threads = self.threads;
        let mut done = Generated { tokens: 0, cancelled: run.control.go_on() == Verdict::End };
        if done.cancelled {
            return Ok(done);
        }
        loop {
            // After a pause: the same tokens come again, and are not said a second time.
            let mut again = done.tokens;
            let mut meter = Meter::start();
            let mut emit = |token| {
                if again > 0 {
                    again -= 1;
                    return true;
                }
                if generate.stop == Some(token) {
                    return false;
                }
                done.tokens += 1;
                run.replies.send(run.id, Reply::Token(token));
                done.cancelled = run.control.rest(meter.start, meter.busy(threads)) == Verdict::End;
                meter = Meter::start();
                !done.cancelled
            };
            let (prompt, seed, flag) = (&generate.prompt, generate.seed, run.control.flag());
            match self.engine.generate(prompt, &sampling, seed, flag, &mut emit) {
                Ok(()) => return Ok(done),
                Err(StepError::Cancelled) if run.control.go_on() == Verdict::GoOn => {}
                Err(StepError::Cancelled) => {
                    done.cancelled = true;
                    return Ok(done);
                }
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    fn seal(&mut self) -> Result<Sealed, Failure> {
        let bytes = self.engine.seal();
        let mut room = held_mut(self.memory.moments());
        let (expected, found) = (bytes.len(), room.len());
        let Some(room) = room.get_mut(..expected) else {
            let text = format!("expected {expected} bytes for sealed moments, found {found}");
            return Err(Failure::refused(text));
        };
        room.copy_from_slice(&bytes);
        Ok(Sealed { bytes: bytes.len() as u64, steps: self.engine.optimizer_steps() })
    }

    fn state_hash(&self) -> StateHashes {
        let hash = self.engine.state_hash();
        let mut segments = [[0; 32]; STATE_SEGMENTS];
        for (to, from) in segments.iter_mut().zip(hash.segments) {
            *to = from.0;
        }
        StateHashes { root: hash.root.0, segments }
    }

    fn load(&mut self, theta: Theta) {
        let from = match theta {
            Theta::Base => self.memory.base(),
            Theta::Local => self.memory.local(),
            Theta::Keep => return,
        };
        self.engine.write(0, &held(from));
    }

    fn load_moments(&mut self, moments: Moments) -> Result<(), Failure> {
        match moments {
            Moments::Fresh => self.engine.reset_moments(),
            Moments::Keep => {}
            Moments::Import { bytes } => {
                let sealed = held(self.memory.moments());
                let found = sealed.len();
                let sealed = usize::try_from(bytes).ok().and_then(|bytes| sealed.get(..bytes));
                let sealed = sealed.ok_or_else(|| {
                    let text = format!("expected at most {found} bytes of moments, found {bytes}");
                    Failure::refused(text)
                })?;
                self.engine.unseal(sealed).map_err(|error| failure(&error))?;
            }
        }
        Ok(())
    }

    /// Checks that a range is exactly these sequences and lies in its area.
    fn check_tokens(&self, range: TokenRange, sequences: u64, length: u32) -> Result<(), Failure> {
        let expected = sequences.checked_mul(u64::from(length) + 1);
        if sequences == 0 || length == 0 || expected != Some(range.len) {
            let found = range.len;
            return Err(Failure::refused(format!(
                "expected tokens for {sequences} sequences of {length} + 1, found {found}"
            )));
        }
        match self.memory.layout().resolve(range) {
            Some(_) => Ok(()),
            None => Err(Failure::refused(format!("{range:?} lies outside the shared memory"))),
        }
    }

    /// Fills `parts` from a range that was checked.
    fn take_apart(&mut self, range: TokenRange, length: u32) {
        let (area, range) = self.memory.layout().resolve(range).expect("the whole was checked");
        let tokens = held(&self.memory.tokens()[area]);
        self.parts.fill(&tokens[range], length as usize);
    }
}

impl Parts {
    fn fill(&mut self, tokens: &[u32], length: usize) {
        self.inputs.clear();
        self.targets.clear();
        self.weights.clear();
        for sequence in tokens.chunks_exact(length + 1) {
            self.inputs.extend(sequence[..length].iter().map(|token| token & !NO_LOSS));
            self.targets.extend(sequence[1..].iter().map(|token| token & !NO_LOSS));
            let weight = |token: &u32| if token & NO_LOSS == 0 { 1.0 } else { 0.0 };
            self.weights.extend(sequence[1..].iter().map(weight));
        }
    }

    fn batch(&self, sequences: u32, length: u32) -> Batch<'_> {
        Batch {
            sequences: sequences as usize,
            length: length as usize,
            inputs: &self.inputs,
            targets: &self.targets,
            weights: &self.weights,
        }
    }

    /// Tokens that count for the loss.
    fn counted(&self) -> u64 {
        self.weights.iter().filter(|&&weight| weight > 0.0).count() as u64
    }
}

/// How long something took, on the wall and in CPU time of the whole process.
#[derive(Clone, Copy)]
struct Meter {
    start: Instant,
    cpu: Duration,
}

impl Meter {
    fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_time() }
    }

    /// CPU time since, spread over the threads. Time in which others had the CPU does not count
    /// against the owner's limit.
    fn busy(&self, threads: u32) -> Duration {
        cpu_time().saturating_sub(self.cpu) / threads.max(1)
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn held<T>(region: &Region<T>) -> impl std::ops::Deref<Target = Shared<T>>
where
    T: crate::memory::Plain,
{
    region.try_read().expect("one thread works, and lets go of a region before the next")
}

fn held_mut<T>(region: &Region<T>) -> impl std::ops::DerefMut<Target = Shared<T>>
where
    T: crate::memory::Plain,
{
    region.try_write().expect("one thread works, and lets go of a region before the next")
}

fn failure(error: &StepError) -> Failure {
    let class = match error {
        StepError::NotFinite { .. } => FailureClass::NotFinite,
        _ => FailureClass::Refused,
    };
    Failure::new(class, error.to_string())
}

/// The parameters in the file that came with the memory.
fn read_frozen(file: Option<OwnedFd>, parameters: usize) -> Result<Vec<f32>, Failure> {
    let file = file.ok_or_else(|| Failure::refused("no frozen model came with the memory"))?;
    let mut file = File::from(file);
    let unreadable = |error: std::io::Error| Failure::refused(format!("the frozen model: {error}"));
    let (expected, found) = (parameters as u64 * 4, file.metadata().map_err(unreadable)?.len());
    if expected != found {
        let text = format!("expected a frozen model of {expected} bytes, found {found}");
        return Err(Failure::refused(text));
    }
    let mut params = vec![0.0; parameters];
    let mut piece = vec![0; READ_BYTES];
    for values in params.chunks_mut(READ_BYTES / 4) {
        let bytes = &mut piece[..values.len() * 4];
        file.read_exact(bytes).map_err(unreadable)?;
        for (value, word) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*word);
        }
    }
    Ok(params)
}

/// Activations are computed again where keeping them would not fit this machine's free memory.
fn activations_for(config: &ModelConfig, lora: Option<&Lora>, storage: Storage) -> Activations {
    let kept = Activations::Kept;
    let needed = match lora {
        Some(lora) => lora.training_memory_bytes(config, 1, config.context, kept, storage),
        None => config.training_memory_bytes(1, config.context, kept, storage),
    };
    match available_memory_bytes() {
        Some(available) if needed > available => Activations::Recomputed,
        _ => Activations::Kept,
    }
}

/// What the system could give without swapping, where it says so (Linux).
#[must_use]
pub fn available_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The engine of this program.
pub(super) fn build(plan: Plan) -> Result<Box<dyn Engine>, Failure> {
    let failed = |error| failure(&error);
    let Plan { engine, storage, threads, model, adapters } = plan;
    let adapters = adapters.as_ref().map(|(lora, base)| (lora, &base[..]));
    Ok(match engine {
        EngineKind::Fast => {
            let activations = activations_for(&model, adapters.map(|(lora, _)| lora), storage);
            let settings = Settings { threads, activations, storage, ..Settings::default() };
            let engine = match adapters {
                Some((lora, base)) => Fast::adapted(model, lora, base, &settings),
                None => Fast::with(model, &settings),
            };
            Box::new(engine.map_err(failed)?)
        }
        EngineKind::Reference => {
            let engine = match adapters {
                Some((lora, base)) => Reference::<f32>::adapted(model, lora, base),
                None => Reference::new(model),
            };
            Box::new(engine.map_err(failed)?)
        }
    })
}
