//! The worker as a real process: this test program started again as `worker_child_entry`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use suanli_base::Random;
use suanli_engine::{Batch, Cancel, Engine, Fast, ModelConfig, StepSettings};
use suanli_worker::{
    AdamSettings, CallError, DeathCause, Evaluate, FailureClass, Generate, Layout, Moments,
    Progress, Reply, SendError, ShareOfCpu, SharedMemory, SpawnError, Theta, TokenRange, Train,
    Trained, Work, Worker, WorkerEvent, WorkerSpec, child, protocol,
};

/// What the other tests start. By itself it does nothing: its input is no socket of an agent.
#[test]
#[ignore = "the child's side of the other tests"]
fn worker_child_entry() {
    if rustix::net::sockopt::socket_type(std::io::stdin()).is_ok() {
        std::process::exit(i32::from(child::main()));
    }
}

const SEQUENCES: u32 = 2;
const LENGTH: u32 = 16;
const STEP_TOKENS: u64 = SEQUENCES as u64 * (LENGTH as u64 + 1);
const AREA_TOKENS: u64 = 1000 * STEP_TOKENS;
const SETTINGS: StepSettings =
    StepSettings { lr: 0.0, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 };

/// Milliseconds a step.
fn small() -> ModelConfig {
    ModelConfig {
        vocab: 64,
        hidden: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        ffn: 48,
        context: 32,
        ..ModelConfig::demo()
    }
}

fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn spec(model: ModelConfig) -> WorkerSpec {
    let layout = Layout::for_model(model.parameters(), 2, AREA_TOKENS);
    let entry = ["--exact", "worker_child_entry", "--ignored", "--nocapture"];
    WorkerSpec { args: entry.iter().map(Into::into).collect(), ..WorkerSpec::new(model, layout) }
}

/// A started worker with initial parameters in theta base and tokens in area 0.
async fn started(spec: WorkerSpec) -> Worker {
    let model = spec.model.clone();
    let mut worker = Worker::spawn(exe(), spec).unwrap();
    worker.ready().await.unwrap();
    assert_eq!(worker.call(Work::Init { seed: 7 }, |_| {}).await.unwrap(), Reply::Initialised);
    let mut area = worker.handle().memory().tokens()[0].try_write().unwrap();
    area.copy_from_slice(&tokens(&model));
    drop(area);
    worker
}

fn tokens(model: &ModelConfig) -> Vec<u32> {
    let mut random = Random::new(11);
    (0..AREA_TOKENS).map(|_| random.below(model.vocab as u64) as u32).collect()
}

fn rate(step: usize) -> f32 {
    1e-3 / (1.0 + step as f32 / 50.0)
}

fn training(steps: usize) -> Train {
    Train {
        sequences: SEQUENCES,
        length: LENGTH,
        lr: (0..steps).map(rate).collect(),
        adam: AdamSettings {
            beta1: SETTINGS.beta1,
            beta2: SETTINGS.beta2,
            eps: SETTINGS.eps,
            weight_decay: SETTINGS.weight_decay,
            clip: SETTINGS.clip,
        },
        tokens: TokenRange { area: 0, start: 0, len: steps as u64 * STEP_TOKENS },
        moments: Moments::Fresh,
        theta: Theta::Base,
    }
}

fn train(steps: usize) -> Work {
    Work::Train(Box::new(training(steps)))
}

/// The same steps in this process.
fn in_process(model: &ModelConfig, steps: usize) -> Fast {
    let mut engine = Fast::new(model.clone(), 1).unwrap();
    engine.params_mut().copy_from_slice(&suanli_engine::initial_params(model, 7));
    let tokens = tokens(model);
    for (step, tokens) in tokens.chunks_exact(STEP_TOKENS as usize).take(steps).enumerate() {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for sequence in tokens.chunks_exact(LENGTH as usize + 1) {
            inputs.extend(&sequence[..LENGTH as usize]);
            targets.extend(&sequence[1..]);
        }
        let batch = Batch {
            sequences: SEQUENCES as usize,
            length: LENGTH as usize,
            inputs: &inputs,
            targets: &targets,
            weights: &vec![1.0; inputs.len()],
        };
        let settings = StepSettings { lr: rate(step), ..SETTINGS };
        engine.step(&batch.into(), &settings, &Cancel::new()).unwrap();
    }
    engine
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn local(worker: &Worker) -> Vec<u32> {
    bits(&worker.handle().memory().local().try_read().unwrap())
}

async fn root(worker: &mut Worker) -> [u8; 32] {
    match worker.call(Work::StateHash, |_| {}).await.unwrap() {
        Reply::StateHash(hashes) => hashes.root,
        other => panic!("{other:?}"),
    }
}

async fn next(worker: &mut Worker) -> WorkerEvent {
    let event = tokio::time::timeout(Duration::from_secs(30), worker.event()).await;
    event.expect("a worker answers").expect("a living worker has events")
}

async fn progress(worker: &mut Worker) -> Progress {
    match next(worker).await {
        WorkerEvent::Reply { reply: Reply::Progress(progress), .. } => progress,
        other => panic!("{other:?}"),
    }
}

/// Skips progress.
async fn trained(worker: &mut Worker) -> Trained {
    loop {
        match next(worker).await {
            WorkerEvent::Reply { reply: Reply::Progress(_), .. } => {}
            WorkerEvent::Reply { reply: Reply::Trained(trained), .. } => return trained,
            other => panic!("{other:?}"),
        }
    }
}

fn pid(worker: &Worker) -> Pid {
    Pid::from_raw(worker.handle().process().unwrap() as i32).unwrap()
}

#[tokio::test]
async fn training_in_the_child_gives_the_same_bits_as_in_this_process() {
    let mut worker = started(spec(small())).await;
    let mut steps_seen = Vec::new();
    let reply = worker.call(train(12), |reply| match reply {
        Reply::Progress(progress) => steps_seen.push(progress.steps_done),
        other => panic!("{other:?}"),
    });
    let Reply::Trained(trained) = reply.await.unwrap() else { panic!("another reply") };
    assert_eq!((trained.steps, trained.cancelled), (12, false));
    assert_eq!(trained.tokens, 12 * u64::from(SEQUENCES * LENGTH));
    assert_eq!(steps_seen, (1..=12).collect::<Vec<_>>());

    let judge = in_process(&small(), 12);
    assert_eq!(local(&worker), bits(judge.params()));
    assert_eq!(root(&mut worker).await, judge.state_hash().root.0);
    let base = bits(&worker.handle().memory().base().try_read().unwrap());
    assert_eq!(base, bits(&suanli_engine::initial_params(&small(), 7)), "the base stays");
}

#[tokio::test]
async fn sealed_moments_and_theta_continue_in_another_process_as_if_nothing_had_happened() {
    let half = |from: usize| Train {
        lr: (from..from + 6).map(rate).collect(),
        tokens: TokenRange { area: 0, start: from as u64 * STEP_TOKENS, len: 6 * STEP_TOKENS },
        ..training(6)
    };
    let mut worker = started(spec(small())).await;
    worker.call(Work::Train(Box::new(half(0))), |_| {}).await.unwrap();
    let sealed = worker.call(Work::Seal, |_| {}).await.unwrap();
    let Reply::Sealed(sealed) = sealed else { panic!("{sealed:?}") };
    assert_eq!(sealed.steps, 6);
    let mut on = Train { theta: Theta::Keep, moments: Moments::Keep, ..half(6) };
    worker.call(Work::Train(Box::new(on.clone())), |_| {}).await.unwrap();
    let (straight, hash) = (local(&worker), root(&mut worker).await);

    worker.call(Work::Train(Box::new(half(0))), |_| {}).await.unwrap();
    kill_process(pid(&worker), Signal::KILL).unwrap();
    assert!(matches!(next(&mut worker).await, WorkerEvent::Died(_)));
    worker.respawn().unwrap();
    worker.ready().await.unwrap();
    on.theta = Theta::Local;
    on.moments = Moments::Import { bytes: sealed.bytes };
    worker.call(Work::Train(Box::new(on)), |_| {}).await.unwrap();
    assert_eq!(local(&worker), straight);
    assert_eq!(root(&mut worker).await, hash);
}

#[tokio::test]
async fn a_cancel_is_answered_at_once_with_the_last_complete_step() {
    let mut worker = started(spec(small())).await;
    let id = worker.handle().send(train(1000)).unwrap();
    for _ in 0..3 {
        progress(&mut worker).await;
    }
    let asked = Instant::now();
    worker.handle().cancel(id);
    let trained = trained(&mut worker).await;
    let waited = asked.elapsed();
    assert!(waited < Duration::from_millis(500), "a cancel took {waited:?}");
    assert!(trained.cancelled && (3..1000).contains(&trained.steps), "{trained:?}");

    let judge = in_process(&small(), trained.steps as usize);
    assert_eq!(local(&worker), bits(judge.params()));
    assert_eq!(root(&mut worker).await, judge.state_hash().root.0, "moments are that step's too");
    // The next work is not touched by the cancel.
    let Reply::Trained(again) = worker.call(train(2), |_| {}).await.unwrap() else { panic!() };
    assert_eq!((again.steps, again.cancelled), (2, false));
}

#[tokio::test]
async fn a_cancel_lands_within_a_long_step() {
    // A step of this takes seconds, so that an answer in time cannot come from between two.
    let model = ModelConfig { context: 1024, ..ModelConfig::demo() };
    let mut worker = started(spec(model)).await;
    let (sequences, length) = (8, 1024);
    let len = sequences * (length + 1);
    let tokens = TokenRange { area: 0, start: 0, len };
    let long = Train { sequences: 8, length: 1024, lr: vec![1e-3], tokens, ..training(1) };
    let id = worker.handle().send(Work::Train(Box::new(long))).unwrap();
    // Long enough to be inside the step, far too short for its end.
    let early = tokio::time::timeout(Duration::from_millis(300), worker.event()).await;
    assert!(early.is_err(), "the step should still run: {early:?}");
    let asked = Instant::now();
    worker.handle().cancel(id);
    let trained = trained(&mut worker).await;
    let waited = asked.elapsed();
    assert_eq!((trained.steps, trained.cancelled), (0, true));
    assert!(waited < Duration::from_millis(500), "a cancel took {waited:?}");
    let base = bits(&worker.handle().memory().base().try_read().unwrap());
    assert_eq!(local(&worker), base, "a step that did not complete leaves no trace");
}

#[tokio::test]
async fn a_pause_stops_the_work_and_changes_no_bit_of_it() {
    let mut worker = started(spec(small())).await;
    worker.handle().send(train(400)).unwrap();
    progress(&mut worker).await;
    worker.handle().set_share(ShareOfCpu::PAUSED);
    // What was under way when the pause came may still be told; then there is silence.
    let mut told = 1;
    let quiet = Duration::from_millis(400);
    while tokio::time::timeout(quiet, worker.event()).await.is_ok() {
        told += 1;
    }
    assert!(told < 400, "the work ended before the pause");
    let cpu = cpu_ticks(&worker);
    assert!(tokio::time::timeout(quiet, worker.event()).await.is_err(), "work in a pause");
    assert_eq!(cpu_ticks(&worker), cpu, "a paused worker uses no CPU");
    worker.handle().set_share(ShareOfCpu::WHOLE);
    let trained = trained(&mut worker).await;
    assert_eq!((trained.steps, trained.cancelled), (400, false));
    assert_eq!(local(&worker), bits(in_process(&small(), 400).params()));
}

#[tokio::test]
async fn pauses_within_a_text_change_none_of_its_tokens_and_say_none_twice() {
    let mut worker = started(spec(small())).await;
    worker.call(train(10), |_| {}).await.unwrap();
    let generate = |tokens_max| {
        Work::Generate(Box::new(Generate {
            prompt: vec![1, 2, 3],
            tokens_max,
            temperature: 1.0,
            top_p: 1.0,
            seed: 4,
            stop: None,
            theta: Theta::Local,
        }))
    };
    let mut whole = Vec::new();
    let note = |reply: &Reply, said: &mut Vec<u32>| {
        if let Reply::Token(token) = reply {
            said.push(*token);
        }
    };
    worker.call(generate(12), |reply| note(reply, &mut whole)).await.unwrap();
    assert!(whole.len() > 8, "{whole:?}");
    let handle = worker.handle().clone();
    let pauses = async {
        for micros in (0..30).map(|round| round * 37) {
            handle.set_share(ShareOfCpu::PAUSED);
            tokio::time::sleep(Duration::from_micros(200)).await;
            handle.set_share(ShareOfCpu::WHOLE);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    };
    let texts = async {
        for _ in 0..5 {
            let mut said = Vec::new();
            worker.call(generate(12), |reply| note(reply, &mut said)).await.unwrap();
            assert_eq!(said, whole);
        }
    };
    tokio::join!(pauses, texts);
}

/// User and system time of the process so far, in the kernel's ticks.
fn cpu_ticks(worker: &Worker) -> u64 {
    let stat = format!("/proc/{}/stat", worker.handle().process().unwrap());
    let stat = std::fs::read_to_string(stat).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_quarter_of_the_cpu_makes_steps_take_four_times_their_cpu_time() {
    let share = ShareOfCpu::new(250).unwrap();
    let mut worker = started(WorkerSpec { share, ..spec(small()) }).await;
    // The owner's limit holds in each run. How much longer a run takes beyond it is the machine's
    // load, so the shortest is only held against the shortest without a limit.
    let limited = ratios(&mut worker).await;
    assert!(limited.iter().all(|&ratio| ratio > 3.9), "{limited:?}");
    worker.handle().set_share(ShareOfCpu::WHOLE);
    let whole = ratios(&mut worker).await;
    let shortest = |ratios: &[f64]| ratios.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(shortest(&whole) < shortest(&limited), "{whole:?} {limited:?}");
}

/// Time on the wall over CPU time of some trainings.
async fn ratios(worker: &mut Worker) -> Vec<f64> {
    let mut ratios = Vec::new();
    for _ in 0..8 {
        let reply = worker.call(train(30), |_| {}).await.unwrap();
        let Reply::Trained(trained) = reply else { panic!("{reply:?}") };
        ratios.push(trained.elapsed_micros as f64 / trained.compute_micros as f64);
    }
    ratios
}

#[tokio::test]
async fn a_death_at_any_moment_is_reported_and_another_worker_goes_on() {
    let mut worker = started(spec(small())).await;
    let base = bits(&worker.handle().memory().base().try_read().unwrap());
    let mut random = Random::new(5);
    for round in 0..12 {
        let id = worker.handle().send(train(1000)).unwrap();
        let moment = Duration::from_micros(random.below(30_000));
        let killed = pid(&worker);
        let killer = tokio::spawn(async move {
            tokio::time::sleep(moment).await;
            kill_process(killed, Signal::KILL).unwrap();
        });
        let death = loop {
            match next(&mut worker).await {
                WorkerEvent::Died(death) => break death,
                WorkerEvent::Reply { reply: Reply::Progress(_), .. } => {}
                other => panic!("round {round}: {other:?}"),
            }
        };
        killer.await.unwrap();
        assert_eq!(death.cause, DeathCause::Ended);
        assert_eq!(death.status.and_then(|status| status.signal()), Some(9), "{death}");
        assert_eq!(death.lost, [id]);
        assert!(worker.event().await.is_none(), "nothing follows a death");
        assert!(matches!(worker.handle().send(Work::Seal), Err(SendError::Dead)));
        // Its regions are free again.
        drop(worker.handle().memory().local().try_write().unwrap());
        worker.respawn().unwrap();
        worker.ready().await.unwrap();
    }
    assert_eq!(bits(&worker.handle().memory().base().try_read().unwrap()), base);
    worker.call(train(3), |_| {}).await.unwrap();
    assert_eq!(local(&worker), bits(in_process(&small(), 3).params()));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_child_has_no_environment_and_no_descriptor_that_was_not_meant_for_it() {
    // A descriptor that whoever started the agent forgot to mark, as a shell's `3>` would.
    let (stray, _other) = UnixStream::pair().unwrap();
    let stray: OwnedFd = rustix::io::dup(&stray).unwrap();
    assert!(!rustix::io::fcntl_getfd(&stray).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(std::env::vars_os().count() > 1, "this process has an environment to leak");

    let worker = started(spec(small())).await;
    let process = PathBuf::from(format!("/proc/{}", worker.handle().process().unwrap()));
    let environment = std::fs::read(process.join("environ")).unwrap();
    let mut variables = environment.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    assert!(variables.all(|variable| variable.starts_with(b"SUANLI_KERNEL=")));

    let mut open: Vec<(String, String)> = std::fs::read_dir(process.join("fd"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let leads = std::fs::read_link(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), leads.to_string_lossy().into_owned())
        })
        .collect();
    open.sort();
    let numbers: Vec<&str> = open.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(numbers[..3], ["0", "1", "2"], "{open:?}");
    // Of its own it has the memory, and nothing else.
    let expected = ["socket:", "/dev/null", "pipe:", "/memfd:suanli-worker"];
    assert!(open.len() <= expected.len(), "{open:?}");
    for ((_, leads), expected) in open.iter().zip(expected) {
        assert!(leads.starts_with(expected), "{open:?}");
    }
    drop(stray);
}

#[tokio::test]
async fn work_that_does_not_fit_is_refused_and_the_worker_lives() {
    let mut worker = started(spec(small())).await;
    let beyond = TokenRange { area: 0, start: AREA_TOKENS - 1, len: STEP_TOKENS };
    let works = [
        Work::Train(Box::new(Train { sequences: 0, ..training(1) })),
        Work::Train(Box::new(Train { tokens: beyond, ..training(1) })),
        Work::Train(Box::new(Train {
            tokens: TokenRange { area: 9, ..training(1).tokens },
            ..training(1)
        })),
        Work::Train(Box::new(Train { lr: vec![f32::NAN], ..training(1) })),
        Work::Train(Box::new(Train {
            moments: Moments::Import { bytes: u64::MAX },
            ..training(1)
        })),
        Work::Train(Box::new(Train { moments: Moments::Import { bytes: 100 }, ..training(1) })),
        Work::Evaluate(Evaluate {
            sequences: u32::MAX,
            length: u32::MAX,
            at_once: 1,
            tokens: beyond,
            theta: Theta::Base,
        }),
    ];
    for work in works {
        match worker.call(work.clone(), |_| {}).await {
            Err(CallError::Failed(failure)) => {
                assert_eq!(failure.class, FailureClass::Refused, "{work:?}");
            }
            other => panic!("{work:?}: {other:?}"),
        }
    }
    // No steps is no mistake: it loads the parameters and moments and leaves them so.
    worker.call(train(0), |_| {}).await.unwrap();
    assert_eq!(local(&worker), bits(in_process(&small(), 0).params()));
    worker.call(train(2), |_| {}).await.unwrap();
    assert_eq!(local(&worker), bits(in_process(&small(), 2).params()));
}

#[tokio::test]
async fn a_model_that_the_memory_was_not_made_for_is_refused() {
    let wrong = WorkerSpec { model: ModelConfig { vocab: 65, ..small() }, ..spec(small()) };
    let mut worker = Worker::spawn(exe(), wrong).unwrap();
    let refused = worker.ready().await;
    assert!(matches!(refused, Err(CallError::Failed(_))), "{refused:?}");
}

#[tokio::test]
async fn a_region_is_never_in_two_hands() {
    let mut worker = started(spec(small())).await;
    let reading = worker.handle().memory().local().clone().try_read_owned().unwrap();
    let refused = worker.handle().send(train(1));
    assert!(matches!(refused, Err(SendError::InUse { region: "theta local" })), "{refused:?}");
    drop(reading);
    let id = worker.handle().send(train(1000)).unwrap();
    let memory = worker.handle().memory();
    assert!(memory.local().try_read().is_err(), "the child writes it");
    assert!(memory.base().try_write().is_err() && memory.base().try_read().is_ok());
    assert!(memory.tokens()[0].try_write().is_err() && memory.tokens()[1].try_write().is_ok());
    worker.handle().cancel(id);
    trained(&mut worker).await;
    assert!(worker.handle().memory().local().try_write().is_ok());
}

#[tokio::test]
async fn evaluating_in_parts_and_generating_answer_from_the_parameters_asked_for() {
    let mut worker = started(spec(small())).await;
    let evaluate = |theta| {
        let tokens = TokenRange { area: 0, start: 0, len: 5 * (u64::from(LENGTH) + 1) };
        Work::Evaluate(Evaluate { sequences: 5, length: LENGTH, at_once: 2, tokens, theta })
    };
    let before = worker.call(evaluate(Theta::Base), |_| {}).await.unwrap();
    let Reply::Evaluated(before) = before else { panic!("{before:?}") };
    assert_eq!(before.tokens, u64::from(5 * LENGTH));
    // Nothing is known yet: about the loss of an even guess among 64.
    assert!((before.loss - 64f64.ln()).abs() < 0.5, "{before:?}");
    worker.call(train(40), |_| {}).await.unwrap();
    let after = worker.call(evaluate(Theta::Local), |_| {}).await.unwrap();
    let Reply::Evaluated(after) = after else { panic!("{after:?}") };
    assert!(after.loss < before.loss, "{after:?} after {before:?}");

    let generate = Generate {
        prompt: vec![1, 2, 3],
        tokens_max: 8,
        temperature: 0.0,
        top_p: 1.0,
        seed: 1,
        stop: None,
        theta: Theta::Local,
    };
    let mut made = Vec::new();
    let work = Work::Generate(Box::new(generate));
    let reply = worker.call(work, |reply| match reply {
        Reply::Token(token) => made.push(*token),
        other => panic!("{other:?}"),
    });
    let Reply::Generated(generated) = reply.await.unwrap() else { panic!("another reply") };
    assert_eq!(generated.tokens as usize, made.len());
    let mut judged = Vec::new();
    let sampling =
        suanli_engine::Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, tokens_max: 8 };
    let mut judge = in_process(&small(), 40);
    judge
        .generate(&[1, 2, 3], &sampling, 1, &suanli_engine::Cancel::new(), &mut |token| {
            judged.push(token);
            true
        })
        .unwrap();
    assert_eq!(made, judged);
}

#[tokio::test]
async fn dropping_a_worker_kills_its_process() {
    let worker = started(spec(small())).await;
    worker.handle().send(train(1000)).unwrap();
    let handle = worker.handle().clone();
    let process = pid(&worker);
    drop(worker);
    // Reaped too: a zombie would still take a signal.
    let gone = async {
        while handle.process().is_some() || test_kill_process(process).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the process is gone");
    assert!(matches!(handle.send(Work::Seal), Err(SendError::Dead)));
}

#[test]
fn a_worker_whose_agent_is_gone_ends_in_the_middle_of_its_work() {
    let spec = spec(small());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let memory = SharedMemory::create(spec.layout).unwrap();
    memory.send(ours.as_fd(), None).unwrap();
    let mut process = std::process::Command::new(exe())
        .args(&spec.args)
        .stdin(OwnedFd::from(theirs))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = protocol::Start {
        model_json: serde_json::to_string(&spec.model).unwrap(),
        adapters_json: None,
        engine: spec.engine,
        storage: spec.storage,
        threads: 1,
        share: ShareOfCpu::WHOLE,
        layout: spec.layout,
    };
    let mut socket = ours;
    for (id, work) in [(0, Work::Start(Box::new(start))), (1, train(1000))] {
        use std::io::Write as _;
        let frame = protocol::encode(&protocol::ToWorker::Work { id, work }).unwrap();
        socket.write_all(&frame).unwrap();
    }
    let working = loop {
        let message: Option<protocol::FromWorker> = protocol::read_frame(&mut socket).unwrap();
        if let Some(Reply::Progress(progress)) = message.map(|message| message.reply) {
            break progress;
        }
    };
    assert_eq!(working.steps_done, 1);
    drop(socket);
    let asked = Instant::now();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_process_that_talks_nonsense_is_killed_and_its_last_words_are_kept() {
    // `sleep` outlives the shell for a while and holds its error stream: nobody may wait for that.
    let script = "echo no engine here >&2; printf '\\377\\377\\377\\177' >&0; sleep 5";
    let sh = WorkerSpec { args: vec!["-c".into(), script.into()], ..spec(small()) };
    let started = Instant::now();
    let mut worker = Worker::spawn("/bin/sh".into(), sh).unwrap();
    let died = worker.ready().await;
    let Err(CallError::Died(death)) = died else { panic!("{died:?}") };
    assert!(matches!(death.cause, DeathCause::Broken(_)), "{death:?}");
    assert_eq!(death.lost, [0]);
    assert_eq!(death.last_words, "no engine here\n");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(death.to_string().contains("expected a frame of at most 1048576 bytes"), "{death}");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let missing = Worker::spawn("/nonexistent/suanli".into(), spec(small()));
    let Err(error @ SpawnError::System { .. }) = missing else { panic!("it started") };
    assert!(error.to_string().contains("/nonexistent/suanli"), "{error}");
}

#[tokio::test]
async fn asked_to_stop_it_ends_by_itself() {
    let mut worker = started(spec(small())).await;
    assert_eq!(worker.call(Work::Stop, |_| {}).await.unwrap(), Reply::Stopped);
    let WorkerEvent::Died(death) = next(&mut worker).await else { panic!("more events") };
    assert_eq!(death.status.and_then(|status| status.code()), Some(0), "{death}");
    assert!(death.lost.is_empty());
}
