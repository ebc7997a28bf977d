//! Checks a city's folder offline, without changing a byte of it: the log's hash chain, the state
//! its entries give, every job's chain of signed rounds, and the parameters they end in.

use crate::exit::{Class, Failure, Whose};
use serde::Serialize;
use std::path::Path;
use suanli_base::{CityId, Hash, JobId, Tokens};
use suanli_bus::merge::hash_chunks;
use suanli_bus::state::Job;
use suanli_bus::{Chain, CityState};
use suanli_identity::Signed;
use suanli_log::Entry;
use suanli_store::{Disk as _, DiskError, LogFiles, LogFilesError, RealDisk, load_key};

/// What was found in order.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verified {
    pub(crate) city: String,
    /// Entries in the log since it began.
    pub(crate) entries: u64,
    /// Of these, read again now; those before lie in a snapshot.
    pub(crate) entries_read: u64,
    /// Bytes of a write that a crash interrupted; the next start cuts them.
    pub(crate) torn_bytes: u64,
    pub(crate) jobs: Vec<VerifiedJob>,
}

/// One job's chain.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct VerifiedJob {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) rounds: u64,
    pub(crate) tokens: u64,
    /// Root of the parameters after the last round.
    pub(crate) theta_root: String,
}

impl Verified {
    /// Committed rounds of all jobs.
    pub(crate) fn rounds(&self) -> u64 {
        self.jobs.iter().map(|job| job.rounds).sum()
    }
}

/// Checks the folder of a city. Its id comes from `city`, or from its key in the folder.
pub(crate) fn verify(folder: &Path, city: Option<CityId>) -> Result<Verified, Failure> {
    if !folder.is_dir() {
        let what = format!("{} is not a folder", folder.display());
        return Err(Failure::input(what, "name a city's data folder"));
    }
    let city = match city {
        Some(city) => city,
        None => id_of(folder)?,
    };
    let disk = RealDisk::new(folder);
    let log = LogFiles::inspect(&disk, "log", Hash(city.0)).map_err(|error| log_failure(&error))?;
    if let Some((at, error)) = log.damaged.first() {
        return Err(corrupt(format!("the snapshot at entry {at} is damaged: {error}")));
    }
    let state = fold(log.state.as_deref(), &log.bodies)?;
    if state.city != city && log.chain.next_seq() > 0 {
        let found = state.city.short();
        return Err(corrupt(format!("this is the log of city {found}, not of {}", city.short())));
    }
    let jobs = state.jobs.iter().map(|(id, job)| verify_job(&disk, city, *id, job));
    Ok(Verified {
        city: city.to_string(),
        entries: log.chain.next_seq(),
        entries_read: log.bodies.len() as u64,
        torn_bytes: log.torn_bytes,
        jobs: jobs.collect::<Result<_, _>>()?,
    })
}

fn id_of(folder: &Path) -> Result<CityId, Failure> {
    let path = folder.join("city.key");
    if !path.exists() {
        let what = format!("{} holds no key of a city", folder.display());
        return Err(Failure::input(
            what,
            "name a city's data folder, or say whose copy this is with --city ID",
        ));
    }
    match load_key(&path) {
        Ok(key) => Ok(key.node().into()),
        Err(error) => Err(Failure {
            class: Class::Permission,
            what: error.to_string(),
            whose: Whose::ThisMachine,
            next: "or say whose folder this is with --city ID".into(),
        }),
    }
}

fn fold(snapshot: Option<&[u8]>, bodies: &[Vec<u8>]) -> Result<CityState, Failure> {
    let mut state = match snapshot {
        None => CityState::new(),
        Some(bytes) => postcard::from_bytes(bytes)
            .map_err(|_| corrupt("the log's snapshot does not decode".into()))?,
    };
    for body in bodies {
        let entry = Entry::from_bytes(body).map_err(|error| corrupt(error.to_string()))?;
        state.apply(&entry).map_err(|error| corrupt(error.to_string()))?;
    }
    Ok(state)
}

/// Follows a job's heads from the first to the newest, as a member does, and compares the end with
/// the log and with the parameters that lie on the disk.
fn verify_job(disk: &RealDisk, city: CityId, id: JobId, job: &Job) -> Result<VerifiedJob, Failure> {
    let named = |what: String| corrupt(format!("job {} ({}): {what}", job.spec.name, id.short()));
    let heads = LogFiles::inspect(disk, &format!("heads/{id}"), Hash(id.0))
        .map_err(|error| log_failure(&error))?;
    let mut chain: Option<Chain> = None;
    let mut committed = (Tokens(0), None);
    for body in &heads.bodies {
        let signed: Signed = postcard::from_bytes(body)
            .map_err(|_| named("a head in its chain does not decode".into()))?;
        let head = match &mut chain {
            None => {
                let (begun, head) =
                    Chain::begin(&signed, city, id).map_err(|error| named(error.to_string()))?;
                chain = Some(begun);
                head
            }
            Some(chain) => chain.advance(&signed).map_err(|error| named(error.to_string()))?,
        };
        if head.tokens < committed.0 {
            return Err(named(format!("version {} takes tokens back", head.version)));
        }
        if head.version == job.version {
            committed.1 = Some(signed.hash());
        }
        committed.0 = head.tokens;
    }
    // A head is written before its entry, so the chain may be one ahead of the log.
    let chain = chain.ok_or_else(|| named("its chain of rounds is empty".into()))?;
    let first = heads.first_seq;
    if first != 0 || chain.version < job.version || chain.version > job.version.next() {
        let (from, to) = (first, chain.version);
        return Err(named(format!(
            "expected the chain of versions 0 to {}, found {from} to {to}",
            job.version
        )));
    }
    if committed.1 != Some(job.head.hash()) {
        return Err(named(format!("version {} is another in the log", job.version)));
    }
    verify_parameters(disk, job).map_err(named)?;
    Ok(VerifiedJob {
        id: id.to_string(),
        name: job.spec.name.clone(),
        rounds: job.version.0,
        tokens: job.tokens.0,
        theta_root: job.theta_root.to_string(),
    })
}

fn verify_parameters(disk: &RealDisk, job: &Job) -> Result<(), String> {
    let path = format!("blobs/{}", job.state.theta);
    let bytes = disk.read(&path).map_err(|error| error.to_string())?;
    if Hash::of(&bytes) != job.state.theta {
        return Err(format!("{} does not match its hash", disk.place(&path).display()));
    }
    let values = |word: &[u8; 4]| f32::from_le_bytes(*word);
    let (words, rest) = bytes.as_chunks::<4>();
    let theta: Vec<f32> = words.iter().map(values).collect();
    let root = suanli_params::root(&hash_chunks(&theta));
    if !rest.is_empty() || root != job.theta_root {
        return Err(format!(
            "its parameters have the root {}, version {} was signed with {}",
            root.short(),
            job.version,
            job.theta_root.short()
        ));
    }
    Ok(())
}

fn corrupt(what: String) -> Failure {
    Failure {
        class: Class::Corrupt,
        what,
        whose: Whose::ThisMachine,
        next: "nothing was changed; restore the folder from a copy (stop the city first, if it \
               runs)"
            .into(),
    }
}

fn log_failure(error: &LogFilesError) -> Failure {
    match error {
        LogFilesError::Disk(DiskError::Missing { path }) => Failure::input(
            format!("{} does not exist", path.display()),
            "name a city's data folder, whole",
        ),
        LogFilesError::Disk(DiskError::Io { path, source, .. }) => {
            Failure::io("read", path, source)
        }
        other => corrupt(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use suanli_base::{NodeId, TicketId, Time};
    use suanli_identity::Role;
    use suanli_store::create_key;

    /// A city that two members joined.
    fn city() -> (tempfile::TempDir, CityId) {
        let folder = tempfile::tempdir().unwrap();
        let key = create_key(&folder.path().join("city.key")).unwrap();
        let city = CityId::from(key.node());
        let disk = Arc::new(RealDisk::new(folder.path()));
        let mut log = LogFiles::create(disk, "log", Hash(city.0)).unwrap();
        let time = Time(1);
        let founded = Entry::Founded { city, name: "test".into(), time };
        log.append(&[founded.to_bytes()]).unwrap();
        for name in [1, 2] {
            let node = NodeId([name; 32]);
            let (role, ticket) = (Role::Join, TicketId::ZERO);
            let joined = Entry::Joined { node, name: name.to_string(), role, ticket, time };
            log.append(&[joined.to_bytes()]).unwrap();
        }
        (folder, city)
    }

    fn only_file(folder: &Path) -> std::path::PathBuf {
        let mut files = std::fs::read_dir(folder.join("log")).unwrap();
        files.next().unwrap().unwrap().path()
    }

    #[test]
    fn a_whole_log_is_good_with_its_key_or_its_id() {
        let (folder, city) = city();
        let verified = verify(folder.path(), None).unwrap();
        assert_eq!((verified.entries, verified.entries_read, verified.rounds()), (3, 3, 0));
        std::fs::remove_file(folder.path().join("city.key")).unwrap();
        assert_eq!(verify(folder.path(), None).unwrap_err().class, Class::Input);
        assert!(verify(folder.path(), Some(city)).is_ok());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_what_was_durable_is_corruption_and_is_left_alone() {
        let (folder, _) = city();
        let path = only_file(folder.path());
        let good = std::fs::read(&path).unwrap();
        // The last record is what an interrupted write may leave; the ones before were proven.
        for at in (0..good.len() / 2).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            let failure = verify(folder.path(), None).unwrap_err();
            assert_eq!(failure.class, Class::Corrupt, "byte {at}: {failure}");
            assert_eq!(std::fs::read(&path).unwrap(), bad, "verifying changed the log");
        }
    }

    #[test]
    fn another_citys_log_is_refused() {
        let (folder, _) = city();
        let failure = verify(folder.path(), Some(CityId([9; 32]))).unwrap_err();
        assert_eq!(failure.class, Class::Corrupt, "{failure}");
    }

    #[test]
    fn a_folder_without_a_log_is_no_city() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(verify(folder.path(), None).unwrap_err().class, Class::Input);
        let city = Some(CityId([9; 32]));
        assert_eq!(verify(folder.path(), city).unwrap_err().class, Class::Input);
    }
}
