//! Why there is no emulated link.

use std::io;
use suanli_base::Fault;
use suanli_link_model::ProfileError;

/// An emulated link could not be made or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The settings are outside their bounds.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// This process may not make network namespaces.
    #[error(
        "this process may not make network namespaces ({source}); run it as root, or where users may make user namespaces (sysctl user.max_user_namespaces above 0)"
    )]
    NotAllowed {
        /// What the system says.
        source: io::Error,
    },
    /// A user namespace can be entered by a process of one thread only.
    #[error(
        "a user namespace can only be entered before the process starts threads; enter it first, or run the program under `unshare --user --map-root-user`"
    )]
    SeveralThreads,
    /// No TUN device can be made.
    #[error(
        "no network device can be made through /dev/net/tun ({source}); it must exist and be readable and writable by this user"
    )]
    NoTun {
        /// What the system says.
        source: io::Error,
    },
    /// Another call to the system failed.
    #[error("cannot {attempt}: {source}")]
    System {
        /// What was tried.
        attempt: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A setting of a namespace is not what was asked for.
    #[error(
        "cannot set {name} to {value} in the namespace ({source}); is it known to this kernel?"
    )]
    Sysctl {
        /// Its name, with dots.
        name: String,
        /// The value asked for.
        value: String,
        /// What the system says.
        source: io::Error,
    },
    /// The name of a setting is no name.
    #[error("expected a setting's name such as net.ipv4.tcp_congestion_control, found {name:?}")]
    SysctlName {
        /// The name as given.
        name: String,
    },
}

impl EmulatorError {
    /// Whose fault it is: no other node takes part, so it is this machine's or its user's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Ours
    }

    pub(super) fn system<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { attempt, source: source.into() }
    }
}
