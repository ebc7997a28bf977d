//! A city and its families as they run, in one process but for the engines: real sockets on
//! loopback, real disks, real worker processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use suanli_base::NodeId;
use suanli_engine::tokenizer::Tokenizer;
use suanli_engine::{Cancel, ModelConfig, Reference, initial_params};
use suanli_host::control::{
    CityInit, CityOptions, CityReady, CityStatus, Client, ControlReply, ControlRequest,
    DoorOptions, FamilyNote, FamilyOptions, FamilyState, FamilyStatus, JobState, Limits, Refusal,
    RefusalClass, SOCKET_NAME, Stop, StopReason, Stopper,
};
use suanli_host::network::{self, NetworkOptions};
use suanli_host::{city, family, job, relay};
use suanli_identity::{Role, SecretKey};
use suanli_link::dial::Prefer;
use suanli_link::reader::Reader;
use suanli_link::{Way, connect};
use suanli_rdpa::{Hello, RegionName, UplinkLimits};
use suanli_store::checkpoint::{self, Card, Companions, Contents, Loaded, Overwrite};
use suanli_store::job_file::JobFile;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// What the other tests start. By itself it does nothing: its input is no socket of an agent.
#[test]
#[ignore = "the child's side of the other tests"]
fn worker_child_entry() {
    if rustix::net::sockopt::socket_type(std::io::stdin()).is_ok() {
        std::process::exit(i32::from(suanli_worker::child::main()));
    }
}

/// A program of a member's own, which trains with an engine of its choice.
#[test]
#[ignore = "the child's side of the other tests"]
fn trainer_child_entry() {
    if rustix::net::sockopt::socket_type(std::io::stdin()).is_ok() {
        let code = suanli_worker::child::outside(|plan| {
            let engine = Reference::<f32>::new(plan.model);
            let engine =
                engine.map_err(|error| suanli_worker::Failure::refused(error.to_string()))?;
            Ok(Box::new(engine))
        });
        std::process::exit(i32::from(code));
    }
}

/// The same, as an owner would name it; it leaves `mark` behind when it is started.
fn trainer(mark: &Path) -> Vec<OsString> {
    let exe = std::env::current_exe().unwrap().into_os_string();
    let script = format!("echo started > '{}'; exec \"$0\" \"$@\"", mark.display());
    let entry = ["--exact", "trainer_child_entry", "--ignored", "--nocapture"];
    let shell = ["sh".into(), "-c".into(), script.into(), exe];
    shell.into_iter().chain(entry.iter().map(Into::into)).collect()
}

fn program() -> Vec<OsString> {
    let exe = std::env::current_exe().unwrap().into_os_string();
    let entry = ["--exact", "worker_child_entry", "--ignored", "--nocapture"];
    [exe].into_iter().chain(entry.iter().map(Into::into)).collect()
}

type Running = (Stopper, JoinHandle<Result<(), Refusal>>);

async fn start_city(folder: &Path) -> (Running, CityReady) {
    start_city_with(folder, DoorOptions::on("127.0.0.1:0".parse().unwrap())).await
}

async fn start_city_with(folder: &Path, doors: DoorOptions) -> (Running, CityReady) {
    let (stopper, stop) = Stopper::new();
    let (ready, when_ready) = oneshot::channel();
    let options = CityOptions {
        folder: folder.to_path_buf(),
        doors,
        upload: UplinkLimits::default(),
        worker: program(),
        stop,
        ready: Some(ready),
    };
    let running = tokio::spawn(city::serve(options));
    let ready = when_ready.await.unwrap();
    ((stopper, running), ready)
}

fn start_family(folder: PathBuf, name: &str, ready: &CityReady) -> Running {
    start_noted_family(folder, name, ready, None)
}

/// A family that trains with a program of its own.
fn start_trainer(
    folder: PathBuf,
    ready: &CityReady,
    mark: &Path,
    notes: Option<mpsc::UnboundedSender<FamilyNote>>,
) -> Running {
    start_family_with(folder, "own", ready, notes, trainer(mark))
}

fn start_noted_family(
    folder: PathBuf,
    name: &str,
    ready: &CityReady,
    notes: Option<mpsc::UnboundedSender<FamilyNote>>,
) -> Running {
    start_family_with(folder, name, ready, notes, Vec::new())
}

fn start_family_with(
    folder: PathBuf,
    name: &str,
    ready: &CityReady,
    notes: Option<mpsc::UnboundedSender<FamilyNote>>,
    trainer: Vec<OsString>,
) -> Running {
    let (stopper, options) = family_options(folder, name, ready);
    (stopper, tokio::spawn(family::run(FamilyOptions { notes, trainer, ..options })))
}

/// A family whose owner limits what goes up.
fn start_limited_family(folder: PathBuf, ready: &CityReady, upload: &UplinkLimits) -> Running {
    let (stopper, mut options) = family_options(folder, "limited", ready);
    options.limits.upload = upload.clone();
    (stopper, tokio::spawn(family::run(options)))
}

fn family_options(folder: PathBuf, name: &str, ready: &CityReady) -> (Stopper, FamilyOptions) {
    let (stopper, stop): (Stopper, Stop) = Stopper::new();
    let options = FamilyOptions {
        folder,
        ticket: ready.ticket.clone(),
        name: Some(name.into()),
        limits: Limits { threads: Some(1), share_percent: 70, ..Limits::default() },
        prefer: Prefer::Auto,
        trainer: Vec::new(),
        worker: program(),
        stop,
        ready: None,
        notes: None,
    };
    (stopper, options)
}

async fn stop((stopper, running): Running) {
    stopper.stop(StopReason::Control);
    running.await.unwrap().unwrap();
}

const JOB: &str = r#"
[model]
hidden = 32
layers = 2
heads = 2
kv_heads = 1
ffn = 48
context = 32
[data]
paths = ["text.txt"]
[training]
inner_steps = 6
batch_sequences = 2
lr = 0.01
rounds = 5
[replicas]
min = 2
expected = 2
"#;

fn prepare(folder: &Path) -> job::Prepared {
    prepare_job(folder, JOB)
}

fn prepare_job(folder: &Path, text_of_job: &str) -> job::Prepared {
    let text: String = (0..4000).map(|i| format!("line {i}: {}\n", i * i % 97)).collect();
    std::fs::write(folder.join("text.txt"), text).unwrap();
    let file = JobFile::parse(text_of_job).unwrap();
    let out = folder.join("prepared");
    job::prepare("small", &file, folder, &out, &mut |_| {}, &Cancel::new()).unwrap()
}

async fn status(folder: &Path) -> CityStatus {
    let mut client = Client::connect(folder).await.unwrap();
    match client.call(&ControlRequest::Status).await.unwrap() {
        ControlReply::City(status) => *status,
        other => panic!("expected a status, found {other:?}"),
    }
}

/// [`JOB`], for members that compute as they like.
fn any_engine() -> String {
    JOB.replace("[training]", "[training]\nengine = \"any\"")
}

/// A running city that was handed a job.
async fn city_with_job(root: &Path, text_of_job: &str) -> (PathBuf, Running, CityReady) {
    let folder = root.join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let prepared = prepare_job(root, text_of_job);
    let (city, ready) = start_city(&folder).await;
    let mut client = Client::connect(&folder).await.unwrap();
    let request = ControlRequest::Submit { folder: prepared.folder.clone() };
    client.call(&request).await.unwrap();
    (folder, city, ready)
}

/// [`JOB`], for a member alone.
fn for_one() -> String {
    JOB.replace("min = 2\nexpected = 2", "min = 1\nexpected = 1")
}

async fn family_status(folder: &Path) -> FamilyStatus {
    let mut client = Client::connect(folder).await.unwrap();
    match client.call(&ControlRequest::Status).await.unwrap() {
        ControlReply::Family(status) => *status,
        other => panic!("expected a family, found {other:?}"),
    }
}

/// Waits until a family satisfies `holds`, or fails after a minute with what it saw last.
async fn until_family(folder: &Path, holds: impl Fn(&FamilyStatus) -> bool) -> FamilyStatus {
    let mut last = FamilyStatus::default();
    for _ in 0..600 {
        if folder.join(SOCKET_NAME).exists() {
            last = family_status(folder).await;
        }
        if holds(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute; last: {last:#?}");
}

/// Waits until the city's job satisfies `holds`, or fails after a minute with what it saw last.
async fn until(folder: &Path, holds: impl Fn(&CityStatus) -> bool) -> CityStatus {
    let mut last = CityStatus::default();
    for _ in 0..600 {
        last = status(folder).await;
        if holds(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within a minute; last: {last:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_families_train_a_job_to_its_end_and_the_loss_falls() {
    let root = tempfile::tempdir().unwrap();
    let (folder, city, ready) = city_with_job(root.path(), JOB).await;
    let families = [
        start_family(root.path().join("a"), "a", &ready),
        start_family(root.path().join("b"), "b", &ready),
    ];
    let over = |status: &CityStatus| {
        status.jobs[0].state == JobState::Done && status.jobs[0].losses.len() >= 2
    };
    let status = until(&folder, over).await;
    let job = &status.jobs[0];
    let (first, last) = (job.losses[0].loss, job.losses.last().unwrap().loss);
    assert!(last < first, "{first} to {last}");
    assert_eq!(job.round, 5);
    let contributions: u64 = job.contributions.iter().map(|c| c.contributions).sum();
    assert_eq!((job.contributions.len(), contributions >= 8), (2, true), "{job:#?}");
    for family in families {
        stop(family).await;
    }
    stop(city).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_trains_whatever_codec_its_updates_travel_in() {
    for codec in ["f32", "f16", "bf16", "int8", "int4", "topk"] {
        let root = tempfile::tempdir().unwrap();
        let job = for_one().replace("[training]", &format!("[training]\ncodec = \"{codec}\""));
        let (folder, city, ready) = city_with_job(root.path(), &job).await;
        let family = start_family(root.path().join("a"), "a", &ready);
        let over = |status: &CityStatus| {
            status.jobs[0].state == JobState::Done && status.jobs[0].losses.len() >= 2
        };
        let status = until(&folder, over).await;
        let losses = &status.jobs[0].losses;
        assert!(losses.last().unwrap().loss < losses[0].loss, "{codec}: {losses:?}");
        stop(family).await;
        stop(city).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_a_day_hold_over_a_restart_and_no_work_is_begun_in_vain() {
    let root = tempfile::tempdir().unwrap();
    let (folder, city, ready) = city_with_job(root.path(), &for_one()).await;
    let home = root.path().join("a");
    let limit = 30_000;
    let upload = UplinkLimits { bytes_per_day: limit, ..UplinkLimits::default() };
    let rests = |status: &FamilyStatus| status.state == FamilyState::Paused;

    let family = start_limited_family(home.clone(), &ready, &upload);
    let first = until_family(&home, rests).await;
    let (used, count) = (first.limits.uploaded_today_bytes, first.contributions);
    assert_eq!(first.limits.upload_bytes_per_day, Some(limit));
    assert!(count > 0 && used <= limit && limit - used < used / count, "{first:#?}");
    assert!(first.reason.as_ref().unwrap().contains("limits of upload"), "{first:#?}");
    stop(family).await;

    let family = start_limited_family(home.clone(), &ready, &upload);
    let again = until_family(&home, rests).await;
    assert_eq!((again.limits.uploaded_today_bytes, again.contributions), (used, 0), "{again:#?}");
    assert!(again.reason.as_ref().unwrap().contains("limits of upload"), "{again:#?}");
    let parameters = 4 * status(&folder).await.jobs[0].parameters;
    assert!(again.bytes_down < parameters, "nothing is fetched in vain: {again:#?}");
    assert_ne!(status(&folder).await.jobs[0].state, JobState::Done);
    stop(family).await;

    let family = start_limited_family(home.clone(), &ready, &UplinkLimits::default());
    until(&folder, |status| status.jobs[0].state == JobState::Done).await;
    stop(family).await;
    stop(city).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_of_upload_holds() {
    let root = tempfile::tempdir().unwrap();
    let (folder, city, ready) = city_with_job(root.path(), &for_one()).await;
    let home = root.path().join("a");
    let rate = 20_000;
    let upload = UplinkLimits { bytes_per_s: rate, ..UplinkLimits::default() };
    let begun = std::time::Instant::now();
    let family = start_limited_family(home.clone(), &ready, &upload);
    until(&folder, |status| status.jobs[0].state == JobState::Done).await;
    let took = begun.elapsed().as_secs_f64();
    let limits = family_status(&home).await.limits;
    let (sent, largest) = (limits.uploaded_today_bytes as f64, 20e3);
    assert_eq!(limits.upload_bytes_per_s, Some(rate));
    assert!(sent > 3.0 * largest, "something to slow down: {sent} bytes");
    assert!(sent - largest <= took * rate as f64, "{sent} bytes in {took:.2} s");
    stop(family).await;
    stop(city).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_trains_with_a_program_of_its_own_beside_one_that_does_not() {
    let root = tempfile::tempdir().unwrap();
    let (folder, city, ready) = city_with_job(root.path(), &any_engine()).await;
    let mark = root.path().join("mark");
    let families = [
        start_trainer(root.path().join("a"), &ready, &mark, None),
        start_family(root.path().join("b"), "b", &ready),
    ];
    let over = |status: &CityStatus| {
        status.jobs[0].state == JobState::Done && status.jobs[0].losses.len() >= 2
    };
    let status = until(&folder, over).await;
    let job = &status.jobs[0];
    assert!(job.losses.last().unwrap().loss < job.losses[0].loss, "{:?}", job.losses);
    let each: Vec<u64> = job.contributions.iter().map(|c| c.contributions).collect();
    assert!(each.len() == 2 && each.iter().all(|count| *count >= 3), "{each:?}");
    assert!(mark.exists(), "its program was started");
    for family in families {
        stop(family).await;
    }
    stop(city).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_equal_bits_takes_no_program_of_a_members_own() {
    let root = tempfile::tempdir().unwrap();
    let (_, city, ready) = city_with_job(root.path(), JOB).await;
    let (notes, mut noted) = mpsc::unbounded_channel();
    let mark = root.path().join("mark");
    let family = start_trainer(root.path().join("a"), &ready, &mark, Some(notes));
    let why = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let FamilyNote::Other(text) = noted.recv().await.unwrap() {
                return text;
            }
        }
    });
    let why = why.await.unwrap();
    assert!(why.contains("f32-chain-1") && why.contains("--trainer"), "{why}");
    assert!(!mark.exists(), "its program was not started");
    stop(family).await;
    stop(city).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trainer_that_does_not_begin_ends_its_family_with_its_last_words() {
    let root = tempfile::tempdir().unwrap();
    let (_, city, ready) = city_with_job(root.path(), &any_engine()).await;
    for (at, command, expected) in [
        ("a", vec!["/nowhere/python"], "/nowhere/python"),
        ("b", vec!["sh", "-c", "echo no device here >&2; exit 3"], "no device here"),
    ] {
        let trainer = command.into_iter().map(OsString::from).collect();
        let family = start_family_with(root.path().join(at), at, &ready, None, trainer);
        let ended = tokio::time::timeout(Duration::from_secs(30), family.1).await.unwrap();
        let refusal = ended.unwrap().unwrap_err();
        assert_eq!(refusal.class, RefusalClass::Environment, "{refusal:?}");
        assert!(refusal.message.contains(expected), "{refusal:?}");
    }
    stop(city).await;
}

/// The city tells members nothing but its relay, so they meet it there; the bytes are those of QUIC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_that_know_only_a_relay_train_a_job_to_its_end() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let prepared = prepare(root.path());
    let any = "127.0.0.1:0".parse().unwrap();
    let relay = relay::start(any, &root.path().join("relay.key"), None).await.unwrap();
    let Way::Relay(via) = relay.way().clone() else { panic!("a relay is named by its way") };
    let doors = DoorOptions {
        advertise: vec![relay.way().secret_text()],
        via: Some(via),
        ..DoorOptions::on(any)
    };
    let (city, ready) = start_city_with(&folder, doors).await;
    let pass = relay.way().secret_text();
    let pass = pass.split_once('#').unwrap().1;
    assert_eq!(ready.addresses, [relay.way().to_string()]);
    assert!(!ready.addresses[0].contains(pass) && pass.len() > 40, "the pass is for tickets only");
    let mut client = Client::connect(&folder).await.unwrap();
    let request = ControlRequest::Submit { folder: prepared.folder.clone() };
    client.call(&request).await.unwrap();
    let home = root.path().join("a");
    let families =
        [start_family(home.clone(), "a", &ready), start_family(root.path().join("b"), "b", &ready)];
    until(&folder, |status| status.jobs[0].state == JobState::Done).await;
    let mut family = Client::connect(&home).await.unwrap();
    let ControlReply::Family(family) = family.call(&ControlRequest::Status).await.unwrap() else {
        panic!("a family says how it is")
    };
    let link = family.link.unwrap();
    assert_eq!((link.kind.as_str(), link.why.as_str()), ("quic", "only"));
    let looked =
        network::look(NetworkOptions { folder: home, ..Default::default() }).await.unwrap();
    let measured = looked.measured.unwrap();
    assert!(measured.down_bit_per_s > 1e6 && measured.up_bit_per_s > 1e6, "{measured:?}");
    assert!(looked.ways.len() == 1 && looked.ways[0].took_ms.is_some(), "{:?}", looked.ways);
    for family in families {
        stop(family).await;
    }
    stop(city).await;
    relay.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tensors_of_a_job_can_be_read_without_its_model() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let prepared = prepare(root.path());
    let (city, ready) = start_city(&folder).await;
    let mut client = Client::connect(&folder).await.unwrap();
    let request = ControlRequest::Submit { folder: prepared.folder.clone() };
    let ControlReply::Submitted { job } = client.call(&request).await.unwrap() else {
        panic!("the job was not taken in")
    };
    until(&folder, |status| !status.jobs.is_empty()).await;
    // Once as it was taken in, once by a city that has begun again with its log.
    read_the_tensors(&ready, &job).await;
    stop(city).await;
    let (city, ready) = start_city(&folder).await;
    read_the_tensors(&ready, &job).await;
    stop(city).await;
}

async fn read_the_tensors(ready: &CityReady, job: &str) {
    let key = SecretKey::from_seed(&[7; 32]);
    let expected = NodeId::from(ready.city);
    let link = connect(&ready.addresses[0], &key, expected, Duration::from_secs(10)).await.unwrap();
    let ticket = ready.ticket.as_ref().unwrap().to_bytes();
    let mut reader = Reader::connect(link, Hello::new(Role::Join, ticket), 1).await.unwrap();
    let name = |part: &str| RegionName::new(format!("job/{job}/{part}")).unwrap();
    // The parameters are there once the city has hashed them.
    let mut theta = reader.open(name("theta")).await;
    for _ in 0..600 {
        if theta.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        theta = reader.open(name("theta")).await;
    }
    let theta = theta.unwrap();
    let opened = reader.open(name("theta.tensors")).await.unwrap();
    let mut text = vec![0; usize::try_from(opened.info.shape.bytes).unwrap()];
    reader.read(&opened, &mut text).await.unwrap();
    let catalogue: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(catalogue["format"], 1);
    let mut end = 0;
    for tensor in catalogue["tensors"].as_array().unwrap() {
        assert_eq!((&tensor["dtype"], &tensor["offset"]), (&"f32".into(), &end.into()));
        let shape = tensor["shape"].as_array().unwrap();
        end += 4 * shape.iter().map(|size| size.as_u64().unwrap()).product::<u64>();
    }
    assert_eq!(end, theta.info.shape.bytes);
    assert_eq!(catalogue["tensors"][0]["name"], "model.embed_tokens.weight");
    reader.close().await;
}

/// A checkpoint as other software leaves it: biases, more entries than its tokenizer has, and small
/// files that only that software reads.
fn checkpoint(folder: &Path) -> Loaded {
    let ours = Tokenizer::train(["line 1: 2\n".repeat(50)], 262).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&ours.to_json().unwrap()).unwrap();
    json["added_tokens"] =
        serde_json::json!([{"id": ours.vocab_size(), "content": "<|end|>", "special": true}]);
    let tokenizer = Tokenizer::from_any_json(&json.to_string()).unwrap();
    let config = ModelConfig {
        vocab: 272,
        hidden: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        ffn: 48,
        context: 64,
        qkv_bias: true,
        ..ModelConfig::demo()
    };
    let params = initial_params(&config, 9);
    let contents = Contents {
        config: &config,
        params: &params,
        tokenizer: &tokenizer,
        companions: &Companions::default(),
        card: &Card::default(),
    };
    checkpoint::write(folder, &contents, Overwrite::OursOnly).unwrap();
    std::fs::remove_file(folder.join("suanli.json")).unwrap();
    std::fs::write(folder.join("chat_template.jinja"), "{{ messages }}").unwrap();
    checkpoint::read(folder).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_city_goes_on_from_a_checkpoint_and_gives_it_back_whole() {
    let root = tempfile::tempdir().unwrap();
    let before = checkpoint(&root.path().join("base"));
    let text: String = (0..3000).map(|i| format!("line {i}: {}\n", i * i % 97)).collect();
    std::fs::write(root.path().join("text.txt"), text).unwrap();
    let job = "[model]\nfrom = \"base\"\ncontext = 32\n[data]\npaths = [\"text.txt\"]\n\
               [training]\ninner_steps = 4\nbatch_sequences = 2\nrounds = 2\nstorage = \"bf16\"\n";
    let file = JobFile::parse_in(job, root.path()).unwrap();
    let out = root.path().join("prepared");
    let prepared =
        job::prepare("on", &file, root.path(), &out, &mut |_| {}, &Cancel::new()).unwrap();
    let theta: Vec<u8> = before.params.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(std::fs::read(&prepared.contents[0].0).unwrap() == theta, "first parameters");
    // The city takes in nothing that was computed in another way.
    let spec = suanli_bus::JobSpec::from_bytes(&prepared.spec).unwrap();
    assert_eq!(spec.numeric_class, "bf16-chain-1");

    let folder = root.path().join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let (city, ready) = start_city(&folder).await;
    let mut client = Client::connect(&folder).await.unwrap();
    client.call(&ControlRequest::Submit { folder: prepared.folder.clone() }).await.unwrap();
    let family = start_family(root.path().join("a"), "a", &ready);
    let done = |status: &CityStatus| status.jobs[0].state == JobState::Done;
    let status = until(&folder, done).await;
    let (job, dir) = (status.jobs[0].id.clone(), root.path().join("export"));
    client.call(&ControlRequest::Export { job, dir: dir.clone(), adapters: false }).await.unwrap();
    let after = checkpoint::read(&dir).unwrap();
    assert_eq!((&after.config, &after.companions), (&before.config, &before.companions));
    assert_eq!(after.tokenizer.to_json().unwrap(), before.tokenizer.to_json().unwrap());
    assert_eq!(std::fs::read_to_string(dir.join("chat_template.jinja")).unwrap(), "{{ messages }}");
    let moved = after.params.iter().zip(&before.params).filter(|(a, b)| a != b).count();
    assert!(moved > before.params.len() / 2, "{moved} of {} changed", before.params.len());
    stop(family).await;
    stop(city).await;
}

/// The parameters of a model with adapters merged into it, written down plainly.
fn merged(folder: &Path, model: &Loaded) -> Vec<f32> {
    let (lora, adapters) = checkpoint::read_adapter(folder, &model.config).unwrap();
    let mut params = model.params.clone();
    lora.merge(&model.config, &adapters, &mut params);
    params
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_train_adapters_beside_a_checkpoint_that_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let before = checkpoint(&root.path().join("base"));
    let text: String = (0..3000).map(|i| format!("line {i}: {}\n", i * i % 97)).collect();
    std::fs::write(root.path().join("text.txt"), text).unwrap();
    let job = "[model]\nfrom = \"base\"\ncontext = 32\n[data]\npaths = [\"text.txt\"]\n\
               [lora]\nrank = 4\ntargets = [\"q_proj\", \"v_proj\", \"down_proj\"]\n\
               [training]\ninner_steps = 6\nbatch_sequences = 2\nrounds = 3\n\
               [replicas]\nmin = 2\nexpected = 2\n";
    let file = JobFile::parse_in(job, root.path()).unwrap();
    let out = root.path().join("prepared");
    let prepared =
        job::prepare("lora", &file, root.path(), &out, &mut |_| {}, &Cancel::new()).unwrap();
    let folder = root.path().join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let (city, ready) = start_city(&folder).await;
    let mut client = Client::connect(&folder).await.unwrap();
    client.call(&ControlRequest::Submit { folder: prepared.folder.clone() }).await.unwrap();
    let first = start_family(root.path().join("a"), "a", &ready);
    let second = start_family(root.path().join("b"), "b", &ready);
    until(&folder, |status| status.jobs[0].round >= 1).await;
    // One that comes back has the frozen model on its disk, and its sealed state fits.
    stop(second).await;
    let kept = |name: &str| std::fs::read_dir(root.path().join(name).join("frozen")).unwrap();
    let file = kept("b").next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 * before.params.len() as u64);
    let second = start_family(root.path().join("b"), "b", &ready);
    let over = |status: &CityStatus| {
        let job = &status.jobs[0];
        job.state == JobState::Done && job.losses.last().is_some_and(|last| last.round == 3)
    };
    let status = until(&folder, over).await;
    let job = &status.jobs[0];
    let (start, end) = (job.losses[0].loss, job.losses.last().unwrap().loss);
    assert!(end < start, "{start} to {end}");
    let frozen = frozen_of(&prepared);
    assert!(job.parameters < frozen.parameters / 4, "{}", frozen.adapters);
    assert!(frozen.packed_bytes < 4 * frozen.parameters * 9 / 10, "{}", frozen.packed_bytes);

    let export = |name: &str, adapters| {
        let dir = root.path().join(name);
        ControlRequest::Export { job: job.id.clone(), dir, adapters }
    };
    client.call(&export("adapters", true)).await.unwrap();
    client.call(&export("model", false)).await.unwrap();
    let after = checkpoint::read(&root.path().join("model")).unwrap();
    assert_eq!((&after.config, &after.companions), (&before.config, &before.companions));
    let expected = merged(&root.path().join("adapters"), &before);
    assert!(after.params == expected, "the merged model is the checkpoint and its adapters");
    assert!(expected != before.params);
    let config = std::fs::read_to_string(root.path().join("adapters/adapter_config.json")).unwrap();
    assert!(config.contains("\"base_model_name_or_path\": \"base\""), "{config}");
    stop(first).await;
    stop(second).await;
    stop(city).await;
}

/// What the specification says of the model beside which adapters are trained.
fn frozen_of(prepared: &job::Prepared) -> suanli_bus::Frozen {
    let spec = suanli_bus::JobSpec::from_bytes(&prepared.spec).unwrap();
    spec.frozen.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_adapters_exports_none() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let prepared = prepare(root.path());
    let (city, _) = start_city(&folder).await;
    let mut client = Client::connect(&folder).await.unwrap();
    client.call(&ControlRequest::Submit { folder: prepared.folder.clone() }).await.unwrap();
    let dir = root.path().join("adapters");
    let request = ControlRequest::Export { job: "small".into(), dir: dir.clone(), adapters: true };
    let error = client.call(&request).await.unwrap_err().to_string();
    assert!(error.contains("no adapters") && !dir.exists(), "{error}");
    // Nothing of the city is at work in the folder when it goes.
    until(&folder, |status| !status.jobs[0].losses.is_empty()).await;
    stop(city).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_reads_that_the_city_is_away_and_that_the_family_has_left() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("city");
    city::init(&folder, &CityInit { name: "test".into() }).unwrap();
    let (city, ready) = start_city(&folder).await;
    stop(city).await;
    let (notes, mut noted) = mpsc::unbounded_channel();
    let home = root.path().join("a");
    let family = start_noted_family(home.clone(), "a", &ready, Some(notes));
    let note = noted.recv().await.unwrap();
    assert!(
        matches!(&note, FamilyNote::Unreachable { address, .. } if *address == ready.addresses[0])
    );

    let (city, again) = start_city(&folder).await;
    assert_eq!(again.addresses, ready.addresses, "a city takes its port again");
    assert_eq!(noted.recv().await.unwrap(), FamilyNote::Again { city: ready.city });
    let joined = until(&folder, |status| {
        status.members.first().is_some_and(|member| member.share_percent == Some(70))
    });
    assert_eq!(joined.await.members[0].name, "a");
    let mut client = Client::connect(&home).await.unwrap();
    client.call(&ControlRequest::SetShare { percent: 30 }).await.unwrap();
    until(&folder, |status| status.members[0].share_percent == Some(30)).await;

    let left = client.call(&ControlRequest::Leave).await.unwrap();
    assert_eq!(left, ControlReply::Done, "the answer comes before the process ends");
    family.1.await.unwrap().unwrap();
    until(&folder, |status| status.members.is_empty()).await;
    stop(city).await;
}
