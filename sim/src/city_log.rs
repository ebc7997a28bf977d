//! A city's record on the simulated disk: segments, snapshots, the file of heads.

use crate::context::{Context, Stop};
use crate::disk::{Disk, DiskError};
use crate::plant::Bug;
use suanli_base::{CityId, Hash, Round};
use suanli_bus::CityState;
use suanli_identity::Signed;
use suanli_log::{
    Chain, Entry, parse_segment_name, parse_snapshot_name, read_snapshot, recover_segment,
    segment_name, snapshot, snapshot_name,
};

const LOG: &str = "log/";

/// The end that is written to.
#[derive(Debug)]
pub(crate) struct CityLog {
    chain: Chain,
    segment: String,
}

/// What a start found.
pub(crate) struct Recovered {
    pub(crate) log: CityLog,
    pub(crate) state: CityState,
    /// The bodies after the snapshot, with the number of the first.
    pub(crate) tail: Vec<Vec<u8>>,
    pub(crate) first: u64,
}

impl CityLog {
    /// Folds what the disk holds, cuts a torn end off, and makes the rest durable.
    pub(crate) fn recover(cx: &mut Context<'_>, city: CityId) -> Result<Recovered, Stop> {
        let broken = |text: String| Stop::Broken(text);
        let names = cx.disk.list(LOG);
        let mut state = CityState::new();
        let mut chain = Chain::genesis(Hash(city.0));
        let snapshots = names.iter().rev().filter(|name| parse_snapshot_name(name).is_some());
        for name in snapshots {
            let bytes = cx.disk.read(&path(name)).unwrap_or_default();
            let Ok(found) = read_snapshot(bytes) else { continue };
            state = postcard::from_bytes(found.state).map_err(|e| broken(e.to_string()))?;
            chain = found.chain;
            break;
        }
        let first = chain.next_seq();
        let (mut tail, mut segment) = (Vec::new(), segment_name(first));
        let mut segments: Vec<(u64, &String)> =
            names.iter().filter_map(|name| Some((parse_segment_name(name)?, name))).collect();
        segments.retain(|(seq, _)| *seq >= first);
        for (seq, name) in segments {
            let bytes = cx.disk.read(&path(name)).unwrap_or_default();
            let found = recover_segment(seq, bytes, chain).map_err(|e| broken(e.to_string()))?;
            tail.extend(found.records.iter().map(|record| record.body.to_vec()));
            (chain, segment) = (found.chain, name.clone());
            let (valid, whole) = (found.valid_len, bytes.len());
            if valid < whole && !cx.has(Bug::TornEndKept) {
                cx.disk.cut(&path(name), valid)?;
            }
        }
        if cx.has(Bug::LastEntryIgnored) {
            tail.pop();
        }
        cx.disk.sync(&path(&segment))?;
        chain.synced();
        for body in &tail {
            let entry = Entry::from_bytes(body).map_err(|e| broken(e.to_string()))?;
            state.apply(&entry).map_err(|e| broken(e.to_string()))?;
        }
        Ok(Recovered { log: Self { chain, segment }, state, tail, first })
    }

    /// How many bodies were appended.
    pub(crate) const fn next_seq(&self) -> u64 {
        self.chain.next_seq()
    }

    /// The framed bytes of these bodies.
    pub(crate) fn frame(&mut self, bodies: &[Vec<u8>]) -> Vec<u8> {
        bodies.iter().flat_map(|body| self.chain.append(body)).collect()
    }

    /// Appends framed bytes; what a full disk took of them is cut off again.
    pub(crate) fn append(&self, disk: &mut Disk, bytes: &[u8]) -> Result<(), DiskError> {
        let before = disk.read(&path(&self.segment)).map_or(0, <[u8]>::len);
        let outcome = disk.append(&path(&self.segment), bytes);
        if outcome == Err(DiskError::Full) {
            disk.cut(&path(&self.segment), before)?;
        }
        outcome
    }

    /// Makes all that was appended durable.
    pub(crate) fn sync(&mut self, disk: &mut Disk) -> Result<(), DiskError> {
        disk.sync(&path(&self.segment))?;
        self.chain.synced();
        Ok(())
    }

    /// Cuts the log by a snapshot. Without room it goes on growing.
    pub(crate) fn snapshot(&mut self, cx: &mut Context<'_>, state: &[u8]) -> Result<(), Stop> {
        let bytes = snapshot(&self.chain, state);
        let next = self.chain.next_seq();
        if cx.has(Bug::SnapshotUnsynced) {
            cx.disk.scribble(&path(&snapshot_name(next)), &bytes);
        } else {
            match cx.disk.put(&path(&snapshot_name(next)), &bytes) {
                Ok(()) => {}
                Err(DiskError::Full) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.segment = segment_name(next);
        for name in cx.disk.list(LOG) {
            let older = parse_segment_name(&name).or(parse_snapshot_name(&name));
            if older.is_some_and(|seq| seq < next) {
                cx.disk.remove(&path(&name))?;
            }
        }
        Ok(())
    }
}

fn path(name: &str) -> String {
    format!("{LOG}{name}")
}

/// Appends a head to a file of heads, once.
pub(crate) fn keep_head(
    disk: &mut Disk,
    path: &str,
    version: Round,
    head: &Signed,
) -> Result<(), DiskError> {
    let bytes = disk.read(path).unwrap_or_default();
    let (known, valid) = parse_heads(bytes);
    let whole = bytes.len();
    if known.iter().any(|(v, _)| *v == version) {
        return disk.sync(path);
    }
    if valid < whole {
        disk.cut(path, valid)?;
    }
    let body = postcard::to_stdvec(&(version, head)).expect("our own types always encode");
    let length = u32::try_from(body.len()).expect("a head is short");
    let mut record = length.to_le_bytes().to_vec();
    record.extend_from_slice(Hash::of(&body).as_bytes());
    record.extend_from_slice(&body);
    match disk.append(path, &record) {
        Err(DiskError::Full) => {
            disk.cut(path, valid)?;
            Err(DiskError::Full)
        }
        Ok(()) => disk.sync(path),
        error => error,
    }
}

/// The whole heads of a file, and how many bytes they take.
pub(crate) fn parse_heads(bytes: &[u8]) -> (Vec<(Round, Signed)>, usize) {
    let (mut heads, mut at) = (Vec::new(), 0);
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(record) = bytes.get(at + 4..at + 36 + length) else { break };
        let (hash, body) = record.split_at(32);
        if Hash::of(body).as_bytes() != hash {
            break;
        }
        let Ok(head) = postcard::from_bytes(body) else { break };
        heads.push(head);
        at += 36 + length;
    }
    (heads, at)
}
