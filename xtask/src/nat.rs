//! Two homes behind routers, and a city that nobody can reach from outside, joined by the program
//! itself: in network namespaces of an unprivileged user, with the kernel's own address translation.
//!
//! ```text
//!   home of the city -- router --+                +-- router -- home of a family
//!        10.0.1.2     203.0.113.2 \-- outside ---/ 198.51.100.2    10.0.2.2
//!                                    (relay)    \-- router without UDP -- another home
//! ```
//!
//! And a network of two machines: a city whose ticket names an address that nobody has, and a family
//! that finds it by its key.
//!
//! Each router drops what comes from outside and is no answer, as a home's does.

mod wall;

use crate::tree;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How the test ended.
pub(crate) enum Ended {
    Passed,
    Failed,
    /// Users may not make namespaces here, or a program it needs is not installed.
    NotHere,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Passed => Self::SUCCESS,
            Ended::Failed => Self::FAILURE,
            Ended::NotHere => Self::from(3),
        }
    }
}

/// How long two homes may take to find a straight way.
const PATIENCE: Duration = Duration::from_secs(30);
const RELAY_PORT: &str = "3340";

/// Builds the program unless it was, and runs the test in namespaces of its own.
pub(crate) fn run(build: bool) -> Result<Ended> {
    if build {
        let built = Command::new(tree::cargo())
            .current_dir(tree::root())
            .args(["build", "--locked", "--workspace", "--bin", "suanli"])
            .status()?;
        ensure!(built.success(), "cargo build ended with {built}");
    }
    for program in ["unshare", "nsenter", "ip"] {
        if Command::new(program).arg("--help").output().is_err() {
            println!("nat: {program} is not installed (util-linux, iproute2): not tested");
            return Ok(Ended::NotHere);
        }
    }
    let probe = unshared().arg("true").output()?;
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr);
        println!("nat: users may not make namespaces here: not tested ({})", why.trim());
        return Ok(Ended::NotHere);
    }
    let own = std::env::current_exe()?;
    let status = unshared().arg(own).args(["nat", "--inside"]).stdin(Stdio::null()).status()?;
    Ok(if status.success() { Ended::Passed } else { Ended::Failed })
}

fn unshared() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--kill-child"]);
    command
}

/// Sets up a router, in its own namespace.
pub(crate) fn router(kind: &str) -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    wall::build("out", kind == "no-udp")
}

/// A namespace, held by a process that sleeps.
struct Space(Child);

impl Space {
    fn new() -> Result<Self> {
        let held = Command::new("unshare").args(["--net", "sleep", "300"]).spawn()?;
        let space = Self(held);
        // Until it is there, its process is in the namespace of this one.
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let theirs = format!("/proc/{}/ns/net", space.0.id());
        for _ in 0..200 {
            if std::fs::read_link(&theirs)? != own {
                return Ok(space);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("no network namespace after two seconds")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.0.id().to_string();
        command.args(["--target", &pid, "--net", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    fn ip(&self, words: &str) -> Result<()> {
        done(self.command("ip").args(words.split(' ')))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// A process that is stopped as Ctrl-C does when it is let go.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

fn end(child: &mut Child) {
    // It may be gone already.
    let _ = child.kill();
    let _ = child.wait();
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(())
}

/// A home behind its router; both live as long as this.
struct Home {
    home: Space,
    _router: Space,
}

impl Home {
    /// The `number`th, which the world sees at `seen` and reaches by `gate`.
    fn new(number: u8, gate: &str, seen: &str, kind: &str) -> Result<Self> {
        let (router, home) = (Space::new()?, Space::new()?);
        let (outside, inside) = (router.0.id(), home.0.id());
        let here = |words: &str| done(Command::new("ip").args(words.split(' ')));
        let port = format!("port{number}");
        here(&format!("link add {port} type veth peer name out netns {outside}"))?;
        here(&format!("addr add {gate}/24 dev {port}"))?;
        here(&format!("link set {port} up"))?;
        router.ip(&format!("addr add {seen}/24 dev out"))?;
        router.ip("link set lo up")?;
        router.ip("link set out up")?;
        router.ip(&format!("route add default via {gate}"))?;
        router.ip(&format!("link add in type veth peer name eth netns {inside}"))?;
        router.ip(&format!("addr add 10.0.{number}.1/24 dev in"))?;
        router.ip("link set in up")?;
        home.ip(&format!("addr add 10.0.{number}.2/24 dev eth"))?;
        home.ip("link set lo up")?;
        home.ip("link set eth up")?;
        home.ip(&format!("route add default via 10.0.{number}.1"))?;
        done(router.command(std::env::current_exe()?).args(["nat", "--router", kind]))?;
        Ok(Self { home, _router: router })
    }
}

/// The test, in a user namespace and a network namespace of its own, which is the world outside.
pub(crate) fn inside() -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    done(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let city = Home::new(1, "203.0.113.1", "203.0.113.2", "home")?;
    let family = Home::new(2, "198.51.100.1", "198.51.100.2", "home")?;
    let walled = Home::new(3, "192.0.2.1", "192.0.2.2", "no-udp")?;
    let folder = tree::target().join("nat");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let at = |name: &str| folder.join(name);

    let listen = format!("0.0.0.0:{RELAY_PORT}");
    let relay = start(
        &mut Command::new(program()),
        &["relay", "--listen", &listen, "--host", "203.0.113.1", "--json"],
        &[("--key", &at("relay.key"))],
        &at("relay.out"),
    )?;
    let way = answer(&at("relay.out"), "relay")?;
    done(Command::new(program()).args(["city", "init", "--dir"]).arg(at("city")))?;
    let serving = start(
        &mut city.home.command(program()),
        &["city", "serve", "--listen", "0.0.0.0:7000", "--via", &way, "--json"],
        &[("--dir", &at("city"))],
        &at("city.out"),
    )?;
    let ticket = answer(&at("city.out"), "ticket")?;

    let straight = join(&family.home, &ticket, &at("straight"))?;
    let took = wait_for(&at("straight"), |link| {
        let remote = link["remote"].as_str().unwrap_or_default();
        link["relayed"] == false && remote.starts_with("203.0.113.2:")
    })?;
    println!(
        "nat: two homes behind routers meet straight, {:.1} s after `join`",
        took.as_secs_f64()
    );

    let by_relay = join(&walled.home, &ticket, &at("walled"))?;
    let took = wait_for(&at("walled"), |link| link["relayed"] == true)?;
    println!(
        "nat: a home without UDP meets the city at the relay after {:.1} s",
        took.as_secs_f64()
    );

    let doctor = walled
        .home
        .command(program())
        .args(["doctor", "--network", "--json", "--dir"])
        .arg(at("walled"))
        .output()?;
    let found: Value = serde_json::from_slice(&doctor.stdout).context("what doctor answers")?;
    let rate = found["measured"]["up_bit_per_s"].as_f64().unwrap_or(0.0);
    let says = |name| {
        found["findings"].as_array().is_some_and(|all| all.iter().any(|f| f["finding"] == name))
    };
    ensure!(rate > 1e6 && says("only_relay"), "doctor: {found}");
    println!(
        "nat: doctor measures {:.0} Mbit/s by the relay, and says that there is no other way",
        rate / 1e6
    );
    drop((by_relay, straight, serving, relay));
    by_key(&folder)
}

/// A city and a family on one network, and an address in the ticket that nobody has.
fn by_key(folder: &Path) -> Result<()> {
    let (city, family) = (Space::new()?, Space::new()?);
    city.ip(&format!("link add eth type veth peer name eth netns {}", family.0.id()))?;
    for (space, own) in [(&city, "10.0.9.1"), (&family, "10.0.9.2")] {
        space.ip(&format!("addr add {own}/24 dev eth"))?;
        space.ip("link set lo up")?;
        space.ip("link set eth up")?;
        space.ip("route add default dev eth")?;
    }
    let at = |name: &str| folder.join(name);
    done(Command::new(program()).args(["city", "init", "--dir"]).arg(at("near-city")))?;
    let nobody = "10.0.9.77:7000";
    let _serving = start(
        &mut city.command(program()),
        &["city", "serve", "--listen", "0.0.0.0:7000", "--advertise", nobody, "--json"],
        &[("--dir", &at("near-city"))],
        &at("near-city.out"),
    )?;
    let ticket = answer(&at("near-city.out"), "ticket")?;
    let _family = join(&family, &ticket, &at("near"))?;
    let took = wait_for(&at("near"), |link| {
        let remote = link["remote"].as_str().unwrap_or_default();
        link["relayed"] == false && remote.starts_with("10.0.9.1:")
    })?;
    println!("nat: a family finds a city of its network by its key, {:.1} s", took.as_secs_f64());
    Ok(())
}

fn program() -> PathBuf {
    tree::target().join("debug").join("suanli")
}

fn start(
    command: &mut Command,
    words: &[&str],
    paths: &[(&str, &Path)],
    output: &Path,
) -> Result<Running> {
    command.args(words);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    let output = std::fs::File::create(output)?;
    let child = command.stdin(Stdio::null()).stdout(output).spawn();
    Ok(Running(child.with_context(|| format!("start {command:?}"))?))
}

fn join(home: &Space, ticket: &str, folder: &Path) -> Result<Running> {
    let output = folder.with_extension("out");
    start(&mut home.command(program()), &["join", ticket, "--json"], &[("--dir", folder)], &output)
}

/// The value that a program printed as JSON, once it has.
fn answer(output: &Path, key: &str) -> Result<String> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let text = std::fs::read_to_string(output).unwrap_or_default();
        if let Ok(value) = serde_json::from_str::<Value>(&text)
            && let Some(found) = value[key].as_str()
        {
            return Ok(found.to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{} has no {key} after {} s", output.display(), PATIENCE.as_secs())
}

/// Waits until a family's link is as it should be.
fn wait_for(folder: &Path, holds: impl Fn(&Value) -> bool) -> Result<Duration> {
    let begun = Instant::now();
    let mut last = Value::Null;
    while begun.elapsed() < PATIENCE {
        let mut status = Command::new(program());
        let said = status.args(["status", "--json", "--dir"]).arg(folder).output()?;
        if let Ok(value) = serde_json::from_slice::<Value>(&said.stdout) {
            last = value["family"]["link"].clone();
            if holds(&last) {
                return Ok(begun.elapsed());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("after {} s the link is {last}", PATIENCE.as_secs())
}
