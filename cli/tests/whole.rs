//! The commands by hand, with real processes on loopback: a city, a family, a job from its file to
//! a text that the trained model writes, and everything that can be done wrong on the way.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod suanli;

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};
use suanli::Suanli;

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const JOB: &str = "[data]\npaths = ['text.txt']\n[model]\nhidden = 16\nlayers = 1\nheads = 2\n\
    ffn = 32\ncontext = 16\n[training]\nrounds = 3\ninner_steps = 4\n[replicas]\nmin = 1\n\
    expected = 1\n";

/// A node: its process, and what it prints. It stops when dropped, as its standard input ends.
struct Node {
    child: Child,
    lines: BufReader<ChildStdout>,
    _stdin: ChildStdin,
}

impl Node {
    fn start(home: &Suanli, arguments: &[&str]) -> Self {
        let mut command = home.command(arguments);
        command.args(["--json", "--stop-on-eof"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take().unwrap();
        Self { child, lines, _stdin: stdin }
    }

    /// What it says when it is ready.
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn code(mut self) -> Option<i32> {
        until(|| self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "nothing came of it within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn json(home: &Suanli, arguments: &[&str]) -> Value {
    let ended = home.run(&[arguments, &["--json"]].concat());
    serde_json::from_str(&ended.works().output).unwrap()
}

/// A home with a founded city in `city`, a job and its text.
fn home() -> Suanli {
    let home = Suanli::new();
    home.write("text.txt", &"All the world is a stage, and all the men and women.\n".repeat(200));
    home.write("job.toml", JOB);
    json(&home, &["city", "init", "--dir", "city"]);
    home
}

fn serve(home: &Suanli) -> (Node, String) {
    let mut city = Node::start(home, &["city", "serve", "--dir", "city"]);
    let ticket = city.line()["ticket"].as_str().unwrap().to_owned();
    (city, ticket)
}

#[test]
fn from_a_text_to_a_model_that_writes_one() {
    let home = home();
    let (city, ticket) = serve(&home);
    let join = ["join", &ticket, "--dir", "family", "--name", "attic", "--threads", "1"];
    let mut family = Node::start(&home, &join);
    assert_eq!(family.line()["name"], "attic");

    let job = json(&home, &["train", "job.toml", "--city", "city", "--yes"]);
    let done = until(|| {
        let status = json(&home, &["status", "--dir", "city"]);
        let job = status["city"]["jobs"][0].clone();
        let measured = job["losses"].as_array().unwrap().last().cloned().unwrap_or_default();
        (job["state"] == "done" && measured["round"] == 3).then_some(job)
    });
    assert_eq!(
        (&done["id"], &done["round"], &done["name"]),
        (&job["job"], &3.into(), &"job".into())
    );
    assert_eq!(done["contributions"][0]["name"], "attic");
    assert_eq!(done["contributions"][0]["contributions"], 3);
    let losses: Vec<f64> =
        done["losses"].as_array().unwrap().iter().map(|p| p["loss"].as_f64().unwrap()).collect();
    assert!(losses.len() == 4 && losses[3] < losses[0], "{losses:?}");
    home.run(&["jobs", "--dir", "city"]).works().prints("3/3").prints("job");

    let exported = json(&home, &["export", "--dir", "city", "--out", "model"]);
    assert_eq!(exported["round"], 3);
    home.run(&["export", "--dir", "city", "--out", "model"]).fails(3).says("not empty");
    home.run(&["export", "nothing", "--dir", "city", "--out", "other"]).fails(3).says("nothing");
    home.run(&["generate", "--checkpoint", "model", "--prompt", "All the"]).works().prints("All");

    home.run(&["leave", "--dir", "family"]).works();
    assert_eq!(family.code(), Some(0));
    home.run(&["city", "stop", "--dir", "city"]).works();
    assert_eq!(city.code(), Some(0));
    let verified = json(&home, &["log", "verify", "city"]);
    assert_eq!(
        (&verified["jobs"][0]["rounds"], &verified["jobs"][0]["id"]),
        (&3.into(), &job["job"])
    );
    a_flipped_bit_is_found(&home);
}

/// In the log, in the chain of rounds, in the parameters: each is code 7 and nothing is changed.
fn a_flipped_bit_is_found(home: &Suanli) {
    let city = std::path::PathBuf::from(home.path("city"));
    let heads = std::fs::read_dir(city.join("heads")).unwrap().next().unwrap().unwrap().path();
    let largest = |folder: &std::path::Path| {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.max_by_key(|file| file.metadata().unwrap().len()).unwrap()
    };
    for file in [largest(&city.join("log")), largest(&heads)] {
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 3] ^= 8;
        std::fs::write(&file, &bad).unwrap();
        home.run(&["log", "verify", "city"]).fails(7);
        if file.starts_with(city.join("log")) {
            home.run(&["city", "serve", "--dir", "city"]).fails(7);
        }
        assert_eq!(std::fs::read(&file).unwrap(), bad, "verifying changed {}", file.display());
        std::fs::write(&file, &good).unwrap();
    }
    home.run(&["log", "verify", "city"]).works();
    for blob in std::fs::read_dir(city.join("blobs")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    home.run(&["log", "verify", "city"]).fails(7).says("does not match its hash");
}

#[test]
fn a_family_pauses_resumes_changes_its_share_and_stops_cleanly() {
    let home = home();
    let (city, ticket) = serve(&home);
    home.write("ticket", &ticket);
    let mut family = Node::start(&home, &["join", "ticket", "--dir", "family", "--share", "50"]);
    family.line();
    let status = || json(&home, &["status", "--dir", "family"])["family"].clone();
    assert_eq!(status()["limits"]["share_percent"], 50);
    home.run(&["pause", "--dir", "family"]).works();
    assert_eq!(status()["state"], "paused");
    home.run(&["resume", "--dir", "family"]).works();
    assert_ne!(status()["state"], "paused");
    home.run(&["share", "20", "--dir", "family"]).works();
    assert_eq!(status()["limits"]["share_percent"], 20);
    home.run(&["share", "0", "--dir", "family"]).fails(2);
    // What a city does not do, and a family neither.
    home.run(&["pause", "--dir", "city"]).fails(2).says("expected a family");
    home.run(&["city", "ticket", "--dir", "family"]).fails(2).says("expected a city");
    drop(city);
    // The city is gone; the family waits for it and still obeys its owner.
    home.run(&["pause", "--dir", "family"]).works();
}

#[test]
fn tickets_folders_and_ports_that_will_not_do_have_their_codes() {
    let home = home();
    home.run(&["city", "init", "--dir", "city"]).fails(6).says("holds a city already");
    home.run(&["city", "serve", "--dir", "nowhere"]).fails(2).says("city init");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = port.local_addr().unwrap().to_string();
    home.run(&["city", "serve", "--dir", "city", "--listen", &taken]).fails(6).says("in use");

    let (_city, ticket) = serve(&home);
    home.run(&["city", "serve", "--dir", "city"]).fails(6).says("city");
    let mut typo = ticket.clone().into_bytes();
    let last = typo.last_mut().unwrap();
    *last = if *last == b'a' { b'b' } else { b'a' };
    let typo = String::from_utf8(typo).unwrap();
    home.run(&["join", &typo, "--dir", "family"]).fails(4).says("typing error");
    let watch = json(&home, &["city", "ticket", "--dir", "city", "--role", "watch"]);
    let watch = watch["ticket"].as_str().unwrap();
    home.run(&["join", watch, "--dir", "family"]).fails(4).says("\"join\"");
    home.run(&["train", "job.toml", "--yes", "--city", &ticket]).fails(4).says("\"train\"");
    assert!(!home.exists("family"), "a refused join left something behind");
}

#[test]
fn bad_data_never_reaches_the_city() {
    let home = home();
    let (_city, _ticket) = serve(&home);
    let train = ["train", "job.toml", "--city", "city", "--yes"];
    home.run(&train[..4]).fails(2).says("--yes");
    home.write("text.txt", "");
    home.run(&train).fails(3).says("empty");
    home.write("text.txt", "too short");
    home.run(&train).fails(3).says("too little");
    std::fs::remove_file(home.path("text.txt")).unwrap();
    home.run(&train).fails(3).says("text.txt");
    assert_eq!(json(&home, &["jobs", "--dir", "city"])["jobs"], serde_json::json!([]));
}

#[test]
fn a_job_comes_over_the_network_with_a_ticket_of_its_own() {
    let home = home();
    let (_city, _) = serve(&home);
    let ticket = json(&home, &["city", "ticket", "--dir", "city", "--role", "train"]);
    let ticket = ticket["ticket"].as_str().unwrap();
    let job = json(&home, &["train", "job.toml", "--city", ticket, "--yes", "--name", "far"]);
    let jobs = json(&home, &["jobs", "--dir", "city"]);
    assert_eq!((&jobs["jobs"][0]["id"], &jobs["jobs"][0]["name"]), (&job["job"], &"far".into()));
    assert_eq!(jobs["jobs"][0]["state"], "waiting");
}

#[test]
fn grants_are_given_shown_handed_on_and_revoked() {
    let home = home();
    let (city, _) = serve(&home);
    let mine = json(&home, &["grant", "node"]);
    let node = mine["node"].as_str().unwrap();
    assert_eq!(json(&home, &["grant", "node"])["node"], node, "the key is drawn once");
    let other = json(&home, &["grant", "node", "--key", "other.key"]);
    let other = other["node"].as_str().unwrap();

    let wish = ["--regions", "job/7/", "--bytes", "10M", "--rate", "1M", "--depth", "1"];
    let issue = [&["city", "grant", "--dir", "city", "--to", node][..], &wish].concat();
    let grant = json(&home, &issue)["grant"].as_str().unwrap().to_owned();
    let shown = json(&home, &["grant", "show", &grant]);
    assert_eq!((&shown["holder"], &shown["regions"]), (&node.into(), &"job/7/".into()));
    assert_eq!((&shown["bytes"], &shown["depth"]), (&(10 << 20).into(), &1.into()));
    assert_eq!(shown["rights"], "read, subscribe");
    home.run(&["grant", "show", &grant]).works().prints("job/7/").prints("10.0 MiB");
    home.run(&["grant", "show", &grant, "--lang", "zh"]).works().prints("授权给节点");

    let narrow = ["--regions", "job/7/theta", "--rights", "read", "--expires", "1h"];
    let narrow = [&["grant", "narrow", &grant, "--to", other][..], &narrow].concat();
    let part = json(&home, &narrow)["grant"].as_str().unwrap().to_owned();
    home.write("part.txt", &format!("{part}\n"));
    let shown = json(&home, &["grant", "show", "part.txt"]);
    assert_eq!((&shown["holder"], &shown["regions"]), (&other.into(), &"job/7/theta".into()));
    assert_eq!(
        (&shown["links"].as_array().unwrap().len(), &shown["bytes"]),
        (&2, &(10 << 20).into())
    );

    // What goes beyond the grant, by whoever cannot, and what is none.
    home.run(&["grant", "narrow", &grant, "--to", other, "--regions", "/"])
        .fails(4)
        .says("more regions");
    home.run(&["grant", "narrow", &grant, "--to", other, "--key", "other.key"]).fails(4);
    home.run(&["grant", "narrow", &part, "--to", node, "--key", "other.key"])
        .fails(4)
        .says("may not be handed on");
    home.run(&["grant", "narrow", &grant, "--to", other, "--key", "none.key"]).fails(6);
    home.run(&["grant", "show", &grant[..grant.len() - 1]]).fails(4).says("typing error");
    home.run(&["grant", "show", "hello"]).fails(4).says("suanligrant1");
    home.run(&["city", "grant", "--dir", "city", "--to", "12", "--regions", "/"]).fails(2);

    assert_eq!(json(&home, &["city", "revoke", "/", "--dir", "city"])["epoch"], 1);
    let epoch = json(&home, &["city", "revoke", "job/7/", "--dir", "city"])["epoch"].clone();
    assert_eq!(epoch, 2);
    // The next one is good again.
    let grant = json(&home, &issue)["grant"].as_str().unwrap().to_owned();
    assert_eq!(json(&home, &["grant", "show", &grant])["epoch"], 2);
    home.run(&["city", "revoke", "a//b", "--dir", "city"]).fails(2);
    drop(city);
}
