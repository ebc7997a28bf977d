//! A disk that keeps what was synced and does as it likes with the rest.
//!
//! What was appended but not synced may be lost, cut, or hold zeros in its middle after a crash;
//! [`Disk::put`] is a write to the side, a sync and a rename, so that a crash leaves the old or the
//! new bytes whole. After a failed sync nothing that was pending ever becomes durable, whatever a
//! later sync says (Rebello et al. 2020, "Can Applications Recover from fsync Failures?").

use std::collections::BTreeMap;
use suanli_base::Random;

/// The world of one node's files.
#[derive(Debug)]
pub struct Disk {
    files: BTreeMap<String, File>,
    /// Files removed since the last crash: their names may come back.
    ghosts: BTreeMap<String, File>,
    random: Random,
    /// The machine dies when so many more operations are done.
    fuse: Option<u32>,
    /// Nothing can be written.
    full: bool,
    /// How many of the next syncs fail.
    bad_syncs: u32,
}

#[derive(Clone, Debug)]
struct File {
    content: Vec<u8>,
    kept: Kept,
}

/// How much of a file a crash leaves alone.
#[derive(Clone, Debug)]
enum Kept {
    All,
    /// So many bytes; the others were appended since.
    Prefix(usize),
    /// As [`Kept::Prefix`], and no sync will help any more.
    Doomed(usize),
    /// The whole file was written over without a sync; this was there before.
    Before(Option<Vec<u8>>),
}

/// A disk operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No room: nothing durable has changed, an append may have left a part of its bytes.
    Full,
    /// The bytes may or may not be durable: the node has to stop and recover.
    SyncFailed,
    /// The machine died in the middle.
    Died,
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub const fn new(random: Random) -> Self {
        Self {
            files: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            random,
            fuse: None,
            full: false,
            bad_syncs: 0,
        }
    }

    /// The machine will die in the middle of the operation after `operations` more.
    pub const fn die_after(&mut self, operations: u32) {
        self.fuse = Some(operations);
    }

    /// Whether anything can be written.
    pub const fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// The next syncs fail.
    pub const fn fail_syncs(&mut self, count: u32) {
        self.bad_syncs = count;
    }

    /// A sound disk again.
    pub const fn heal(&mut self) {
        (self.fuse, self.full, self.bad_syncs) = (None, false, 0);
    }

    fn operation(&mut self) -> Result<(), DiskError> {
        match &mut self.fuse {
            Some(0) => Err(DiskError::Died),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The bytes of a file.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(|file| file.content.as_slice())
    }

    /// The names that begin with `folder`, in order, without it.
    #[must_use]
    pub fn list(&self, folder: &str) -> Vec<String> {
        let from = self.files.range(folder.to_string()..);
        let inside = from.take_while(|(path, _)| path.starts_with(folder));
        inside.map(|(path, _)| path[folder.len()..].to_string()).collect()
    }

    /// Appends without making it durable.
    ///
    /// # Errors
    /// [`DiskError`]; a part of the bytes may have been appended.
    pub fn append(&mut self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let died = self.operation();
        let whole = died.is_ok() && !self.full;
        let len = if whole {
            bytes.len()
        } else {
            usize::try_from(self.random.below(bytes.len() as u64 + 1)).unwrap_or(0)
        };
        let file = self.files.entry(path.to_string());
        let file = file.or_insert_with(|| File { content: Vec::new(), kept: Kept::Prefix(0) });
        if matches!(file.kept, Kept::All) {
            file.kept = Kept::Prefix(file.content.len());
        }
        file.content.extend_from_slice(&bytes[..len]);
        died?;
        if self.full { Err(DiskError::Full) } else { Ok(()) }
    }

    /// Makes a file durable.
    ///
    /// # Errors
    /// [`DiskError::SyncFailed`]: stop and recover. [`DiskError::Died`].
    pub fn sync(&mut self, path: &str) -> Result<(), DiskError> {
        self.operation()?;
        let Some(file) = self.files.get_mut(path) else { return Ok(()) };
        if self.bad_syncs > 0 {
            self.bad_syncs -= 1;
            if let Kept::Prefix(len) = file.kept {
                file.kept = Kept::Doomed(len);
            }
            return Err(DiskError::SyncFailed);
        }
        if !matches!(file.kept, Kept::Doomed(_)) {
            file.kept = Kept::All;
        }
        Ok(())
    }

    /// Cuts a file to `len` bytes, durably.
    ///
    /// # Errors
    /// [`DiskError::Died`].
    pub fn cut(&mut self, path: &str, len: usize) -> Result<(), DiskError> {
        self.operation()?;
        if let Some(file) = self.files.get_mut(path) {
            file.content.truncate(len);
            file.kept = match file.kept {
                Kept::Prefix(kept) if kept < len => Kept::Prefix(kept),
                Kept::Doomed(kept) if kept < len => Kept::Doomed(kept),
                _ => Kept::All,
            };
        }
        Ok(())
    }

    /// Replaces a file by these bytes, durably: the old or the new ones survive, whole.
    ///
    /// # Errors
    /// [`DiskError`]; the old bytes are then there, or after [`DiskError::Died`] perhaps the new.
    pub fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        if self.operation().is_err() {
            if self.random.chance(500) {
                self.place(path, bytes, Kept::All);
            }
            return Err(DiskError::Died);
        }
        if self.full {
            return Err(DiskError::Full);
        }
        if self.bad_syncs > 0 {
            self.bad_syncs -= 1;
            return Err(DiskError::SyncFailed);
        }
        self.place(path, bytes, Kept::All);
        Ok(())
    }

    /// Writes a file over and syncs nothing: what a defective host does.
    pub fn scribble(&mut self, path: &str, bytes: &[u8]) {
        let before = match self.files.get(path) {
            Some(File { kept: Kept::Before(before), .. }) => before.clone(),
            Some(file) => Some(file.content.clone()),
            None => None,
        };
        self.place(path, bytes, Kept::Before(before));
    }

    fn place(&mut self, path: &str, bytes: &[u8], kept: Kept) {
        self.ghosts.remove(path);
        self.files.insert(path.to_string(), File { content: bytes.to_vec(), kept });
    }

    /// Removes a file; a crash may bring it back.
    ///
    /// # Errors
    /// [`DiskError::Died`].
    pub fn remove(&mut self, path: &str) -> Result<(), DiskError> {
        self.operation()?;
        if let Some(file) = self.files.remove(path) {
            self.ghosts.insert(path.to_string(), file);
        }
        Ok(())
    }

    /// The machine stops: what is not durable meets its fate.
    pub fn crash(&mut self) {
        self.fuse = None;
        for (path, ghost) in core::mem::take(&mut self.ghosts) {
            if self.random.chance(300) && !self.files.contains_key(&path) {
                self.files.insert(path, ghost);
            }
        }
        let files = core::mem::take(&mut self.files);
        for (path, file) in files {
            if let Some(content) = fate(&mut self.random, file) {
                self.files.insert(path, File { content, kept: Kept::All });
            }
        }
    }

    /// All files as they are, to be brought back as an old copy.
    #[must_use]
    pub fn copy(&self) -> BTreeMap<String, Vec<u8>> {
        self.files.iter().map(|(path, file)| (path.clone(), file.content.clone())).collect()
    }

    /// Puts an old copy in place of everything.
    pub fn restore(&mut self, copy: BTreeMap<String, Vec<u8>>) {
        self.ghosts.clear();
        let files = copy.into_iter();
        self.files =
            files.map(|(path, content)| (path, File { content, kept: Kept::All })).collect();
    }
}

/// What a crash leaves of a file.
fn fate(random: &mut Random, file: File) -> Option<Vec<u8>> {
    let File { mut content, kept } = file;
    let (from, lost) = match kept {
        Kept::All => return Some(content),
        Kept::Doomed(len) => (len, true),
        Kept::Prefix(len) => (len.min(content.len()), random.chance(350)),
        Kept::Before(before) => match random.below(3) {
            0 => return before,
            1 => return Some(content),
            _ => (0, false),
        },
    };
    if lost {
        content.truncate(from);
        return Some(content);
    }
    let pending = (content.len() - from) as u64;
    let at = |offset: u64| from + usize::try_from(offset).unwrap_or(0);
    match random.below(3) {
        0 => content.truncate(at(random.below(pending + 1))),
        1 => {
            let (a, b) = (at(random.below(pending + 1)), at(random.below(pending + 1)));
            content[a.min(b)..a.max(b)].fill(0);
        }
        _ => {}
    }
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_what_was_not_is_a_prefix_or_holed() {
        let (mut lost, mut torn, mut whole) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = Disk::new(Random::new(seed));
            disk.append("a", b"durable").unwrap();
            disk.sync("a").unwrap();
            disk.append("a", b"pending").unwrap();
            disk.crash();
            let found = disk.read("a").unwrap();
            assert!(found.starts_with(b"durable"));
            match &found[7..] {
                b"" => lost += 1,
                b"pending" => whole += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 20 && torn > 20 && whole > 20, "{lost} {torn} {whole}");
    }

    #[test]
    fn after_a_failed_sync_no_later_one_saves_the_bytes() {
        let mut disk = Disk::new(Random::new(1));
        disk.append("a", b"one").unwrap();
        disk.fail_syncs(1);
        assert_eq!(disk.sync("a"), Err(DiskError::SyncFailed));
        assert_eq!(disk.sync("a"), Ok(()));
        disk.crash();
        assert_eq!(disk.read("a"), Some(&b""[..]));
    }

    #[test]
    fn a_put_leaves_the_old_or_the_new_bytes() {
        let mut seen = [0, 0];
        for seed in 0..50 {
            let mut disk = Disk::new(Random::new(seed));
            disk.put("a", b"old").unwrap();
            disk.die_after(0);
            assert_eq!(disk.put("a", b"new"), Err(DiskError::Died));
            disk.crash();
            match disk.read("a") {
                Some(b"old") => seen[0] += 1,
                Some(b"new") => seen[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(seen[0] > 5 && seen[1] > 5);
    }
}
