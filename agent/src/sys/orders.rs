//! What the agent, its launcher and the first processes of walks tell each other over their sockets.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use packetfs::tree::Attr;
use serde::{Deserialize, Serialize};
use worknode::spec::{Bytes, WalkSpec};

use super::fds;

/// What the launcher needs to make a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Where the origin's tree is mounted.
    #[serde(with = "serde_bytes")]
    pub(crate) lower: Bytes,
    /// An empty directory; the walk's own mounts go there, in its own namespace.
    #[serde(with = "serde_bytes")]
    pub(crate) scratch: Bytes,
    /// The prepared `/dev`.
    #[serde(with = "serde_bytes")]
    pub(crate) dev: Bytes,
    /// Memory for changed files.
    pub(crate) upper_bytes_max: u64,
    /// Memory for all that the walk's processes use.
    pub(crate) memory_bytes_max: u64,
}

/// What is made in a walk's upper layer before it begins, so that the overlay need not ask for it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ahead {
    /// Directories in which something will be made.
    pub(crate) dirs: Vec<Bytes>,
    /// What is known of them, and of those above them.
    pub(crate) known: Vec<(Bytes, Attr)>,
    /// Names in them that are absent, and will be looked for.
    pub(crate) absent: Vec<Bytes>,
}

/// A walk for a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The walk.
    pub(crate) spec: WalkSpec,
    /// What it will need.
    pub(crate) ahead: Ahead,
    /// The origin's tree shows extended attributes.
    pub(crate) xattrs: bool,
    /// Which of the descriptors that come along takes each place in the process: pairs of the
    /// process's descriptor and the index.
    pub(crate) fds: Vec<(u32, u32)>,
}

/// What the walk's first process tells over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The sandbox stands and the program runs; the master of its terminal comes along if it has one.
    Running {
        /// Inode number of its pid namespace.
        pids: u64,
    },
    /// The program was stopped by this signal.
    Stopped(i32),
    /// Whether a process waits for input of the terminal.
    Reading(bool),
    /// The program could not be executed: `errno`.
    NotExecuted(i32),
    /// The sandbox could not be built.
    Failed {
        /// What failed.
        stage: String,
        /// `errno`.
        errno: i32,
    },
    /// The program ended, and all that it left behind was ended. If it may have changed anything, a
    /// descriptor of the upper layer comes along, and one of the overlay's index if there is one.
    Ended {
        /// Wait status.
        status: i32,
        /// CPU time of all processes.
        cpu_us: u64,
        /// Where reading stands in the files that were open at the start, by descriptor.
        offsets: Vec<(u32, u64)>,
        /// It has met a bound of its sandbox, which the program would not have met at its origin.
        bounded: bool,
        /// It has left files where a walk has a directory of its own.
        left: bool,
        /// The sandbox can serve another walk, when it is told [`Order::ServeAgain`]; else it has ended.
        again: bool,
    },
}

/// What the agent tells the walk's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Send this signal to the program, or to all that a key of its terminal would reach.
    Signal {
        /// The signal.
        number: i32,
        /// It came from the terminal.
        from_terminal: bool,
    },
    /// Look for a moment whether a process waits for input of the terminal.
    Watch,
    /// The terminal at the origin is gone: close this one's master, as the agent does.
    HangUp,
    /// What the ended walk changed is read: be ready for another.
    ServeAgain,
}

/// A step that failed.
pub(super) struct Failure {
    pub(super) stage: String,
    pub(super) error: io::Error,
}

/// Says what failed with an error number.
pub(super) fn at<E: Into<io::Error>>(stage: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let stage = stage.into();
    move |error| Failure { stage, error: error.into() }
}

/// Tells the agent an event; if the agent is gone, so are we soon.
pub(super) fn tell(control: &UnixStream, event: &Event, fds: &[BorrowedFd<'_>]) {
    let message = postcard::to_allocvec(event).expect("an event fits a growing buffer");
    let _ = fds::send(control, &message, fds);
}

/// A path that travelled as bytes.
pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
