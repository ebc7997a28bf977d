//! What the owner lets go up: a rate by the hour and bytes a day, over starts of this program.
//!
//! What went on this day is kept in `uplink.toml` in the data folder, at most a second behind. Days
//! and hours are those of this machine's time zone. Bulk frames are counted by their length on the
//! wire; control frames, heart-beats among them, go always and are not counted.

use crate::clock::Clock;
use crate::control::{Refusal, RefusalClass, UploadStatus};
use chrono::{Datelike as _, Timelike as _};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use suanli_base::Time;
use suanli_rdpa::{LocalTime, Uplink as Books, UplinkDay, UplinkError, UplinkLimits, Wait};
use suanli_store::{RealDisk, WriteError, write_atomic};

const FILE: &str = "uplink.toml";
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The owner's clock may be set: what is held back is looked at again after this.
const LOOK_AGAIN: suanli_base::Duration = suanli_base::Duration(60_000);

/// The owner's limits at work.
#[derive(Debug)]
pub(crate) struct Uplink {
    books: Books,
    limits: UplinkLimits,
    clock: Clock,
    disk: RealDisk,
    saved: UplinkDay,
    saved_at: Instant,
    held: Option<Wait>,
}

/// The limits cannot be kept.
#[derive(Debug, thiserror::Error)]
enum UplinkFault {
    #[error(transparent)]
    Limits(#[from] UplinkError),
    #[error("{}: {source}", path.display())]
    Unread { path: PathBuf, source: std::io::Error },
    #[error("{} does not hold what this program writes there: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

/// `uplink.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// As the machine's zone has it, 2026-11-24.
    day: chrono::NaiveDate,
    used_bytes: u64,
}

impl From<UplinkFault> for Refusal {
    fn from(fault: UplinkFault) -> Self {
        let (class, next) = match fault {
            UplinkFault::Limits(_) => {
                let next = "correct --upload-at, or upload_at in the configuration file";
                (RefusalClass::Usage, next)
            }
            UplinkFault::Damaged { .. } => {
                let next = "remove it: then this day's upload is counted from nothing";
                (RefusalClass::Corrupt, next)
            }
            UplinkFault::Unread { .. } => (RefusalClass::Environment, ""),
        };
        Self::new(class, fault.to_string(), next)
    }
}

impl Uplink {
    /// The limits of the node whose data folder this is.
    ///
    /// # Errors
    /// [`Refusal`] for limits that contradict themselves and for books that cannot be read.
    pub(crate) fn of_node(
        folder: &Path,
        limits: UplinkLimits,
        clock: Clock,
    ) -> Result<Self, Refusal> {
        Ok(Self::open(folder, limits, clock)?)
    }

    fn open(folder: &Path, limits: UplinkLimits, clock: Clock) -> Result<Self, UplinkFault> {
        let saved = read(&folder.join(FILE))?;
        let books = Books::new(limits.clone(), saved, clock.now(), local())?;
        let (disk, saved_at) = (RealDisk::new(folder), Instant::now());
        Ok(Self { books, limits, clock, disk, saved, saved_at, held: None })
    }

    /// Whether there is any limit at all.
    pub(crate) fn is_limited(&self) -> bool {
        self.limits != UplinkLimits::default()
    }

    /// Whether so many bytes of bulk may go now.
    pub(crate) fn may_send(&mut self, bytes: u64) -> bool {
        self.held = self.books.may_send(self.clock.now(), local(), bytes).err();
        self.held.is_none()
    }

    /// Books what goes now.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.books.sent(self.clock.now(), local(), bytes);
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save();
        }
    }

    /// Nothing waits.
    pub(crate) const fn idle(&mut self) {
        self.held = None;
    }

    /// When to ask again for what is held back.
    pub(crate) fn wake(&self) -> Option<Time> {
        let soon = self.clock.now().after(LOOK_AGAIN);
        self.held.map(|wait| wait.until.map_or(soon, |until| until.min(soon)))
    }

    /// Why bulk is held back for more than a moment.
    pub(crate) fn why_held(&self) -> Option<String> {
        let wait = self.held?;
        let long = wait.until.is_none_or(|until| until.since(self.clock.now()) >= LOOK_AGAIN);
        long.then(|| wait.to_string())
    }

    /// Bytes of bulk that may still go on this day.
    pub(crate) fn left(&mut self) -> u64 {
        self.books.left(self.clock.now(), local())
    }

    /// The limits of this hour and how far they are used.
    pub(crate) fn status(&self) -> UploadStatus {
        let now = local();
        let bounded = |bytes: u64| (bytes != u64::MAX).then_some(bytes);
        let today = self.books.today();
        UploadStatus {
            bytes_per_day: bounded(self.limits.bytes_per_day),
            bytes_per_s: bounded(self.limits.rate_at(now.minute)),
            today_bytes: if today.day == now.day { today.used } else { 0 },
            held: self.why_held(),
        }
    }

    /// Writes down what went. What cannot be written is said, and goes on to be counted.
    pub(crate) fn save(&mut self) {
        self.saved_at = Instant::now();
        let today = self.books.today();
        if today == self.saved {
            return;
        }
        match write(&self.disk, today) {
            Ok(()) => self.saved = today,
            Err(error) => eprintln!("suanli: what went up today could not be kept: {error}"),
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.save();
    }
}

/// The owner's calendar now.
fn local() -> LocalTime {
    let now = chrono::Local::now().naive_local();
    let minute = u16::try_from(now.hour() * 60 + now.minute()).unwrap_or(0);
    LocalTime { day: day_number(now.date()), minute }
}

/// Days since the first of January of the year 1; nothing earlier is a day of ours.
fn day_number(date: chrono::NaiveDate) -> u32 {
    u32::try_from(date.num_days_from_ce()).unwrap_or(0)
}

fn read(path: &Path) -> Result<UplinkDay, UplinkFault> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(UplinkDay::default());
        }
        Err(source) => return Err(UplinkFault::Unread { path: path.into(), source }),
    };
    let file: File = toml::from_str(&text).map_err(|error| UplinkFault::Damaged {
        path: path.into(),
        why: error.message().to_owned(),
    })?;
    Ok(UplinkDay { day: day_number(file.day), used: file.used_bytes })
}

fn write(disk: &RealDisk, today: UplinkDay) -> Result<(), WriteError> {
    let days = i32::try_from(today.day).unwrap_or(i32::MAX);
    let day = chrono::NaiveDate::from_num_days_from_ce_opt(days).unwrap_or_default();
    let file = File { day, used_bytes: today.used };
    let text = toml::to_string(&file).expect("a day and a number always encode");
    write_atomic(disk, "", FILE, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes_per_s: u64, bytes_per_day: u64) -> UplinkLimits {
        UplinkLimits { bytes_per_s, bytes_per_day, ..UplinkLimits::default() }
    }

    #[test]
    fn what_went_today_counts_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            || Uplink::open(folder.path(), limits(u64::MAX, 10_000), Clock::start()).unwrap();
        let mut uplink = open();
        assert!(uplink.may_send(9_000) && uplink.wake().is_none());
        uplink.sent(9_000);
        drop(uplink);
        let mut uplink = open();
        let told = uplink.status();
        assert_eq!(
            (uplink.left(), told.bytes_per_day, told.bytes_per_s),
            (1_000, Some(10_000), None)
        );
        assert_eq!(told.today_bytes, 9_000);
        assert!(!uplink.may_send(1_001));
        let why = uplink.why_held().unwrap();
        assert!(why.contains("9000 of 10000 bytes"), "{why}");
        assert!(uplink.wake().is_some());
        assert!(uplink.may_send(1_000));
    }

    #[test]
    fn a_short_wait_is_not_told_as_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut uplink =
            Uplink::open(folder.path(), limits(1_000_000, u64::MAX), Clock::start()).unwrap();
        assert!(!uplink.may_send(500_000), "a start does not fill the bucket");
        assert!(uplink.why_held().is_none() && uplink.wake().is_some());
    }

    #[test]
    fn a_file_of_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for text in ["day = 7", "day = \"2026-11-24\"\nused_bytes = -1\n", "]"] {
            std::fs::write(&path, text).unwrap();
            let fault = Uplink::open(folder.path(), limits(1, 1), Clock::start()).unwrap_err();
            assert!(matches!(&fault, UplinkFault::Damaged { .. }), "{fault}");
            assert!(fault.to_string().contains("uplink.toml"), "{fault}");
        }
    }

    #[test]
    fn the_file_names_the_day_as_people_do() {
        let folder = tempfile::tempdir().unwrap();
        let date = chrono::NaiveDate::from_ymd_opt(2026, 11, 24).unwrap();
        let today = UplinkDay { day: day_number(date), used: 7 };
        write(&RealDisk::new(folder.path()), today).unwrap();
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert_eq!(text, "day = \"2026-11-24\"\nused_bytes = 7\n");
        assert_eq!(read(&folder.path().join(FILE)).unwrap(), today);
    }
}
