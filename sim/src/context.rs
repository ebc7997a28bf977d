//! What a simulated host is given with every input, and what it hands back to the world.

use crate::checkers::Watch;
use crate::disk::{Disk, DiskError};
use crate::plant::Bug;
use suanli_base::{Random, Time};
use suanli_node::city::ConnId;
use suanli_rdpa::Frame;

/// A host's view of the world while it handles one thing.
pub(crate) struct Context<'a> {
    /// The node's own clock.
    pub(crate) now: Time,
    pub(crate) random: &'a mut Random,
    pub(crate) disk: &'a mut Disk,
    pub(crate) watch: &'a mut Watch,
    pub(crate) bug: Option<Bug>,
    pub(crate) out: Vec<Post>,
}

impl Context<'_> {
    /// Whether this defect is planted.
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Calls the host back with `task` in `ms` milliseconds.
    pub(crate) fn later(&mut self, ms: u64, task: u64) {
        self.out.push(Post::Later { ms, task });
    }
}

/// What a host wants of the world.
#[derive(Debug)]
pub(crate) enum Post {
    Later {
        ms: u64,
        task: u64,
    },
    /// From the city on a connection, from a family on its link (no number).
    Send {
        conn: Option<ConnId>,
        frame: Frame,
    },
    Close(ConnId),
    Hangup,
    Refused(String),
    Exit,
}

/// Why a host stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The machine died, or a sync failed: restart and recover.
    Crash,
    /// It cannot go on: that is a defect.
    Broken(String),
}

impl From<DiskError> for Stop {
    fn from(_: DiskError) -> Self {
        Self::Crash
    }
}
