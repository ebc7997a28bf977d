//! Key files: 32 secret bytes in hexadecimal, for their owner's eyes only.
//!
//! Not for: what a key may do. A key is never written over: losing a city's key is losing the city.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suanli_identity::SecretKey;
use zeroize::Zeroizing;

/// What a key file begins with.
const HEADER: &str = "suanli key 1 ";
/// Bytes of a key file: the header, 64 digits, a line's end.
const FILE_BYTES: usize = HEADER.len() + 64 + 1;

/// A key file could not be made or read. No message holds anything of a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is a file of this name already.
    #[error("{} exists already and is not written over; use this key, or move it away first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("there is no key at {}; make one first, or restore it from a copy", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read or write the file.
    #[error("others on this machine can read the key {} (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Others may write to the folder, and so put another key in its place.
    #[error("others on this machine can change the folder {} that holds a key (mode {mode:03o}); run: chmod 700 {}", path.display(), path.display())]
    FolderOpen {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is not a key file.
    #[error("{} is not a key file: expected {expected} bytes beginning with \"suanli key 1\", found {found}; restore it from a copy", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Bytes of a key file.
        expected: usize,
        /// Bytes found, or one more than expected if there are more.
        found: usize,
    },
    /// Anything else.
    #[error("the key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Draws a new key and keeps it at `path`, durably. Its folder is made, for its owner only, if it
/// does not exist.
///
/// # Errors
/// [`KeyError::Exists`] when there is one, or what the system says.
pub fn create_key(path: &Path) -> Result<SecretKey, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    check_folder(folder)?;
    let key = SecretKey::from_seed(&*draw().map_err(io)?);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => io(source),
    })?;
    let digits = Zeroizing::new(data_encoding::HEXLOWER.encode(&*key.seed()));
    let text = Zeroizing::new(format!("{HEADER}{}\n", digits.as_str()));
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all());
    if let Err(source) = written {
        // Nobody has seen this key yet, so nothing is lost with it.
        let _ = std::fs::remove_file(path);
        return Err(io(source));
    }
    Ok(key)
}

/// Reads the key at `path`.
///
/// # Errors
/// [`KeyError`] when others may read it or change it, or it is none.
pub fn load_key(path: &Path) -> Result<SecretKey, KeyError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
        _ => KeyError::Io { path: path.to_owned(), source },
    };
    let mut file = File::open(path).map_err(io)?;
    // Of the open file, so that nobody changes it in between.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        check_folder(folder)?;
    }
    let mut text = Zeroizing::new(vec![0_u8; FILE_BYTES + 1]);
    let found = read_up_to(&mut file, &mut text).map_err(io)?;
    let malformed = || KeyError::Malformed { path: path.to_owned(), expected: FILE_BYTES, found };
    let digits = text[..found].strip_prefix(HEADER.as_bytes()).and_then(|t| t.strip_suffix(b"\n"));
    let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(malformed)?;
    let mut seed = Zeroizing::new([0_u8; 32]);
    data_encoding::HEXLOWER.decode_mut(digits, &mut *seed).map_err(|_| malformed())?;
    Ok(SecretKey::from_seed(&seed))
}

/// 32 bytes of the system's entropy.
///
/// # Errors
/// What the system says.
pub fn draw() -> std::io::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    File::open("/dev/urandom")?.read_exact(&mut *bytes)?;
    Ok(bytes)
}

fn check_folder(folder: &Path) -> Result<(), KeyError> {
    let io = |source| KeyError::Io { path: folder.to_owned(), source };
    let mode = std::fs::metadata(folder).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(KeyError::FolderOpen { path: folder.to_owned(), mode });
    }
    Ok(())
}

fn read_up_to(file: &mut File, into: &mut [u8]) -> std::io::Result<usize> {
    let mut found = 0;
    while found < into.len() {
        match file.read(&mut into[found..]) {
            Ok(0) => break,
            Ok(more) => found += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, metadata, set_permissions, write};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_read_back_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/node");
        let key = create_key(&path).unwrap();
        assert_eq!(load_key(&path).unwrap().node(), key.node());
        let mode = |path: &Path| metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_key_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node");
        let key = create_key(&path).unwrap();
        assert!(matches!(create_key(&path), Err(KeyError::Exists { .. })));
        assert_eq!(load_key(&path).unwrap().node(), key.node());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/node");
        create_key(&path).unwrap();
        for open in [0o640, 0o604, 0o620] {
            mode(&path, open);
            let error = load_key(&path).unwrap_err();
            assert!(matches!(error, KeyError::Open { mode, .. } if mode == open));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        mode(&path, 0o400);
        load_key(&path).unwrap();
        mode(path.parent().unwrap(), 0o720);
        let error = load_key(&path).unwrap_err();
        assert!(matches!(error, KeyError::FolderOpen { .. }));
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn what_is_no_key_file_is_refused_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node");
        assert!(matches!(load_key(&path), Err(KeyError::Missing { .. })));
        let digits = "ab".repeat(32);
        for text in [
            String::new(),
            digits.clone(),
            format!("suanli key 1 {}", &digits[2..]),
            format!("suanli key 1 {digits}"),
            format!("suanli key 1 {digits}\n\n"),
            format!("suanli key 1 {}xy\n", &digits[2..]),
            format!("suanli key 2 {digits}\n"),
        ] {
            write(&path, &text).unwrap();
            mode(&path, 0o600);
            let error = load_key(&path).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { .. }), "{text}: {error}");
            assert!(!error.to_string().contains("abab"), "{error}");
        }
    }
}
