//! Whether a city grows with its rounds: memory and disk after many against after few.

use super::live::Live;
use crate::{Goal, Length, Row, RowSpec, Session};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;
use suanli_store::job_file::Length as JobLength;

const TIMES_MAX: f64 = 1.2;
const FAMILIES: u32 = 5;

pub(super) fn spec() -> RowSpec {
    RowSpec {
        name: "bounded",
        what: "the city's memory and disk after 200 rounds against after 20",
        run: measure,
    }
}

/// The most seen over the last rounds before a mark: both go up and down within a round.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    memory: u64,
    disk: u64,
}

fn measure(session: &mut Session) -> Result<Vec<Row>> {
    let short = session.length() == Length::Short;
    let marks = if short { [4, 8] } else { [20, 200] };
    let mut live = Live::found(session)?;
    live.serve(None)?;
    live.submit(session, |job| {
        job.training.length = JobLength::Rounds(10_000);
        job.training.inner_steps = 2;
        job.training.batch_sequences = 1;
        job.replicas.min = FAMILIES;
        job.replicas.expected = FAMILIES;
    })?;
    for family in 1..=FAMILIES {
        live.join(&format!("family-{family}"), 100)?;
    }
    let mut peaks = [Peak::default(); 2];
    let (folder, pid) = (live.city_folder(), live.city_pid().context("the city runs")?);
    for (peak, mark) in peaks.iter_mut().zip(marks) {
        // Over as many rounds as lie before the first mark, so that both see the same stretch.
        let from = mark + 1 - marks[0].min(10);
        live.until("the rounds", Duration::from_secs(900), |job| {
            if job.round >= from {
                peak.memory = peak.memory.max(resident_bytes(pid).unwrap_or(0));
                peak.disk = peak.disk.max(disk_bytes(&folder));
            }
            job.round >= mark
        })?;
    }
    let [few, many] = peaks;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let row = |name, few: u64, many: u64| {
        let row = if short { Row::short } else { Row::new };
        let (from, to) = (megabytes(few), megabytes(many));
        row(name, many as f64 / few as f64, "x", Goal::AtMost(TIMES_MAX))
            .note(format!("{from:.1} MB after {} rounds, {to:.1} MB after {}", marks[0], marks[1]))
    };
    Ok(vec![
        row("bounded.memory", few.memory, many.memory),
        row("bounded.disk", few.disk, many.disk),
    ])
}

/// Resident memory of a process, where the system tells.
fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Bytes of all files below a folder; what vanishes meanwhile counts as nothing.
fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_disk_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), [0; 100]).unwrap();
        std::fs::write(folder.path().join("c"), [0; 7]).unwrap();
        assert_eq!(disk_bytes(folder.path()), 107);
        if cfg!(target_os = "linux") {
            assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
        }
    }
}
