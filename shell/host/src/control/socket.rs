//! The socket's file: where it lies, who may touch it, and paths too long for the system.

use super::error::ControlError;
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The socket's name in a data folder.
pub const SOCKET_NAME: &str = "control.sock";

/// What fits into a socket address on Linux (108) and elsewhere (104), with its closing zero.
const PATH_BYTES_MAX: usize = 103;

/// A path that names the socket in `folder` and fits into an address. Holds the folder open when
/// the detour over its descriptor is taken.
pub(super) struct Address {
    pub(super) path: PathBuf,
    _folder: Option<fs::File>,
}

impl Address {
    pub(super) fn of(folder: &Path) -> Result<Self, ControlError> {
        let path = folder.join(SOCKET_NAME);
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let file = fs::File::open(folder).map_err(ControlError::io("open", folder))?;
        let short = PathBuf::from(format!(
            "/proc/self/fd/{}/{SOCKET_NAME}",
            std::os::fd::AsRawFd::as_raw_fd(&file)
        ));
        if short.parent().is_some_and(Path::exists) {
            return Ok(Self { path: short, _folder: Some(file) });
        }
        let source = std::io::Error::new(
            std::io::ErrorKind::InvalidFilename,
            format!("more than {PATH_BYTES_MAX} bytes; use a shorter --dir"),
        );
        Err(ControlError::Io { attempt: "name the socket", path, source })
    }
}

/// Makes `folder` if need be and its owner's alone.
pub(super) fn own_folder(folder: &Path) -> Result<(), ControlError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(ControlError::io("make the folder", folder))?;
    let mode = fs::metadata(folder).map_err(ControlError::io("look at", folder))?.permissions();
    if mode.mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(ControlError::io("make private", folder))?;
    }
    Ok(())
}

/// Binds the socket, 0600. A socket left over by a process that is gone is replaced.
pub(super) fn bind(folder: &Path) -> Result<std::os::unix::net::UnixListener, ControlError> {
    use std::io::ErrorKind;
    own_folder(folder)?;
    let address = Address::of(folder)?;
    match std::os::unix::net::UnixStream::connect(&address.path) {
        Ok(_) => return Err(ControlError::AlreadyRunning { folder: folder.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(folder.join(SOCKET_NAME))
                .map_err(ControlError::io("remove the left-over socket of", folder))?;
        }
        Err(error) => return Err(ControlError::io("look at the socket of", folder)(error)),
    }
    let listener = std::os::unix::net::UnixListener::bind(&address.path)
        .map_err(ControlError::io("open the control socket in", folder))?;
    // Nobody else can have come in between: the folder is 0700 already.
    fs::set_permissions(folder.join(SOCKET_NAME), Permissions::from_mode(0o600))
        .map_err(ControlError::io("make private the socket in", folder))?;
    listener.set_nonblocking(true).map_err(ControlError::io("set up the socket in", folder))?;
    Ok(listener)
}
