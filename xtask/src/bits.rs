//! The same bits everywhere: builds two programs, runs them on every kernel, with several numbers
//! of threads, built both ways, on emulated CPUs, and holds each line against one committed list.
//!
//! The programs are `engine/examples/bits.rs` and `core/bus/examples/merge_bits.rs`; why the bits
//! can be the same is in `docs/decisions/0007-same-bits.md`.

use crate::tree;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// How this command ends when an emulator, a target or a compiler is not installed.
const NOT_INSTALLED: u8 = 3;

const LIST: &str = "engine/tests/fixtures/bits.txt";
const PROGRAMS: [(&str, &str); 2] = [("suanli-engine", "bits"), ("suanli-bus", "merge_bits")];
const AARCH64: &str = "aarch64-unknown-linux-musl";

/// What is run.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
    /// Both profiles, every kernel of this CPU, 1, 2, 3 and 8 threads.
    Whole,
    /// Release on the best kernel with two threads, a few cases on the portable one, and debug
    /// where it is built already.
    Short,
    /// Release on an emulated CPU with AVX2 and no AVX-512, and on one with neither.
    Qemu,
    /// Built for AArch64, on an emulated CPU.
    Aarch64,
    /// Writes the list anew: for who changes bits knowingly, with a new name of the numeric class.
    Write,
}

/// One run of the engine's program.
#[derive(Clone, Copy)]
struct Way<'a> {
    /// What stands before the program: an emulator and its options.
    under: &'a [&'a str],
    /// Where the programs lie.
    folder: &'a Path,
    /// The kernel that must be at work.
    kernel: &'a str,
    /// Whether it is asked for, or must be the best there is.
    asked: bool,
    threads: u8,
    few: bool,
}

/// Runs it; every line that is not in the list is an error.
pub(crate) fn run(extent: Extent) -> Result<ExitCode> {
    let begun = Instant::now();
    let outcome = match extent {
        Extent::Whole => whole(),
        Extent::Short => short(),
        Extent::Qemu => qemu(),
        Extent::Aarch64 => aarch64(),
        Extent::Write => write(),
    };
    match outcome {
        Err(error) if error.is::<NotInstalled>() => {
            eprintln!("bits: {error}");
            Ok(ExitCode::from(NOT_INSTALLED))
        }
        Err(error) => Err(error),
        Ok(runs) => {
            println!("bits: {runs} runs agree in {:.0} s", begun.elapsed().as_secs_f64());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A tool is missing, and how to get it.
#[derive(Debug)]
struct NotInstalled(String);

impl std::fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotInstalled {}

fn whole() -> Result<usize> {
    let (list, mut runs) = (list()?, 0);
    for profile in ["release", "dev"] {
        let folder = build(profile, None)?;
        let base = Way {
            under: &[],
            folder: &folder,
            kernel: best(),
            asked: false,
            threads: 1,
            few: false,
        };
        check_merges(&base, &list)?;
        check(&base, &list)?;
        for kernel in kernels() {
            for threads in [1, 2, 3, 8] {
                check(&Way { kernel, asked: true, threads, ..base }, &list)?;
                runs += 1;
            }
        }
    }
    Ok(runs)
}

fn short() -> Result<usize> {
    let list = list()?;
    let folder = build("release", None)?;
    let release =
        Way { under: &[], folder: &folder, kernel: best(), asked: false, threads: 2, few: false };
    check_merges(&release, &list)?;
    check(&release, &list)?;
    let portable = Way { kernel: portable(), asked: true, threads: 1, few: true, ..release };
    check(&portable, &list)?;
    let built = tree::target().join("debug/examples");
    if !PROGRAMS.iter().all(|(_, program)| built.join(program).is_file()) {
        return Ok(2);
    }
    let folder = build("dev", None)?;
    let debug = Way { folder: &folder, ..release };
    check_merges(&debug, &list)?;
    check(&debug, &list)?;
    Ok(3)
}

fn qemu() -> Result<usize> {
    if !cfg!(target_arch = "x86_64") {
        bail!("--qemu emulates x86-64 on x86-64; on this machine use --aarch64");
    }
    needs("qemu-x86_64", "qemu-user")?;
    let list = list()?;
    let folder = build("release", None)?;
    let haswell = Way {
        under: &["qemu-x86_64", "-cpu", "Haswell"],
        folder: &folder,
        kernel: "avx2",
        asked: false,
        threads: 2,
        few: false,
    };
    check_merges(&haswell, &list)?;
    check(&haswell, &list)?;
    let under = &["qemu-x86_64", "-cpu", "Nehalem"];
    let nehalem = Way { under, kernel: "portable", few: true, ..haswell };
    check_merges(&nehalem, &list)?;
    check(&nehalem, &list)?;
    Ok(2)
}

fn aarch64() -> Result<usize> {
    let here = cfg!(target_arch = "aarch64");
    if !here {
        needs("qemu-aarch64", "qemu-user")?;
        needs("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")?;
    }
    let list = list()?;
    let folder = build("release", (!here).then_some(AARCH64))?;
    let under: &[&str] = if here { &[] } else { &["qemu-aarch64"] };
    let way = Way { under, folder: &folder, kernel: "neon", asked: false, threads: 2, few: false };
    check_merges(&way, &list)?;
    check(&way, &list)?;
    check(&Way { threads: 1, few: true, ..way }, &list)?;
    Ok(2)
}

fn write() -> Result<usize> {
    let folder = build("release", None)?;
    let way =
        Way { under: &[], folder: &folder, kernel: best(), asked: false, threads: 1, few: false };
    let (_, mut lines) = outcome(&way)?;
    lines.extend(start(&way, "merge_bits")?);
    std::fs::write(tree::root().join(LIST), lines.join("\n") + "\n")?;
    println!("bits: {} lines in {LIST}", lines.len());
    whole()
}

/// The committed lines.
fn list() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(tree::root().join(LIST)).context(LIST)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The kernels of this CPU.
fn kernels() -> Vec<&'static str> {
    let mut kernels = vec![portable()];
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        kernels.extend(avx2.then_some("avx2"));
        kernels.extend((avx2 && avx512).then_some("avx512"));
    }
    kernels
}

/// What the program calls the portable kernel here.
const fn portable() -> &'static str {
    if cfg!(target_arch = "aarch64") { "neon" } else { "portable" }
}

fn best() -> &'static str {
    kernels().last().copied().unwrap_or(portable())
}

/// Builds both programs; gives the folder in which they then lie.
fn build(profile: &str, target: Option<&str>) -> Result<PathBuf> {
    let begun = Instant::now();
    if let Some(target) = target {
        let mut rustc = Command::new("rustc");
        rustc.args(["--print", "target-libdir", "--target", target]);
        let folder = rustc.output().context("start rustc")?.stdout;
        if !Path::new(String::from_utf8_lossy(&folder).trim()).is_dir() {
            let how = format!("no Rust library for {target}: rustup target add {target}");
            return Err(NotInstalled(how).into());
        }
    }
    let mut cargo = Command::new(tree::cargo());
    cargo.current_dir(tree::root()).args(["build", "--locked", "--quiet", "--profile", profile]);
    match target {
        // Of the workspace, as `cargo test` builds them.
        None => cargo.arg("--workspace"),
        Some(target) => {
            // Statically linked, so nothing of that system is needed; one dependency compiles C.
            cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
            cargo.env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc");
            cargo.args(["--target", target])
        }
    };
    for (package, program) in PROGRAMS {
        if target.is_some() {
            cargo.args(["--package", package]);
        }
        cargo.args(["--example", program]);
    }
    let status = cargo.status().context("start cargo")?;
    if !status.success() {
        bail!("building the examples of {profile} ended with {status}");
    }
    println!("built {profile} in {:.1} s", begun.elapsed().as_secs_f64());
    let folder = target.map_or(tree::target(), |target| tree::target().join(target));
    Ok(folder.join(if profile == "dev" { "debug" } else { profile }).join("examples"))
}

fn needs(program: &str, package: &str) -> Result<()> {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match found {
        Ok(_) => Ok(()),
        Err(_) => {
            let how = format!("{program} is not installed: apt-get install {package}");
            Err(NotInstalled(how).into())
        }
    }
}

/// Runs the engine's program one way and compares.
fn check(way: &Way<'_>, list: &[String]) -> Result<()> {
    let begun = Instant::now();
    let (kernel, found) = outcome(way)?;
    let label = format!(
        "{} {} on {kernel}, {} threads{}",
        way.under.join(" "),
        way.folder.parent().unwrap_or(way.folder).file_name().unwrap_or_default().display(),
        way.threads,
        if way.few { ", few" } else { "" },
    );
    let label = label.trim();
    if kernel != way.kernel {
        bail!("{label}: kernel {} was to be at work, {kernel} was", way.kernel);
    }
    let expected: Vec<&String> = list.iter().filter(|line| !of_merges(line)).collect();
    if !way.few && expected.len() != found.len() {
        bail!("{label}: {} lines were expected, {} came", expected.len(), found.len());
    }
    compare(label, &found, list)?;
    println!("{label}: {} lines agree in {:.1} s", found.len(), begun.elapsed().as_secs_f64());
    Ok(())
}

fn of_merges(line: &str) -> bool {
    line.starts_with("merge-") || line.starts_with("schedule/")
}

fn check_merges(way: &Way<'_>, list: &[String]) -> Result<()> {
    let found = start(way, "merge_bits")?;
    let expected = list.iter().filter(|line| of_merges(line)).count();
    if found.len() != expected {
        bail!("merge_bits: {expected} lines were expected, {} came", found.len());
    }
    compare("merge_bits", &found, list)
}

fn compare(label: &str, found: &[String], list: &[String]) -> Result<()> {
    let strange: Vec<&str> =
        found.iter().filter(|line| !list.contains(line)).map(String::as_str).collect();
    if strange.is_empty() && !found.is_empty() {
        return Ok(());
    }
    bail!(
        "{label}: {} lines of {} are not in {LIST}:\n{}",
        strange.len(),
        found.len(),
        strange.join("\n")
    )
}

/// The kernel at work, and the lines.
fn outcome(way: &Way<'_>) -> Result<(String, Vec<String>)> {
    let mut lines = start(way, "bits")?;
    if lines.is_empty() {
        bail!("the program said nothing");
    }
    let about = lines.remove(0);
    let mut words = about.split(' ').skip_while(|word| *word != "kernel").skip(1);
    Ok((words.next().unwrap_or_default().to_owned(), lines))
}

/// Runs a program and gives its lines.
fn start(way: &Way<'_>, program: &str) -> Result<Vec<String>> {
    let path = way.folder.join(program);
    let mut command = match way.under.split_first() {
        Some((emulator, options)) => {
            let mut command = Command::new(emulator);
            command.args(options).arg(&path);
            command
        }
        None => Command::new(&path),
    };
    command.arg(way.threads.to_string()).args(way.few.then_some("few")).env_remove("SUANLI_KERNEL");
    if way.asked {
        command.env("SUANLI_KERNEL", if way.kernel == "neon" { "portable" } else { way.kernel });
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", path.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}:\n{said}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_that_is_not_in_the_list_is_named() {
        let list = lines("a/x 1\na/y 2");
        compare("here", &lines("a/y 2"), &list).unwrap();
        let error = compare("here", &lines("a/x 1\na/y 3"), &list).unwrap_err().to_string();
        assert!(error.contains("a/y 3") && !error.contains("a/x 1"), "{error}");
        assert!(compare("here", &[], &list).is_err());
    }

    #[test]
    fn the_list_holds_each_case_once_and_lines_of_both_programs() {
        let list = list().unwrap();
        let mut cases: Vec<&str> = list.iter().filter_map(|line| line.split(' ').next()).collect();
        assert!(list.iter().any(|line| of_merges(line)));
        assert!(list.iter().any(|line| !of_merges(line)));
        cases.sort_unstable();
        assert!(cases.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
