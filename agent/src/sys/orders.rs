//! The messages between the agent, its launcher and the first processes of walks.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use packetfs::owners::Owners;
use packetfs::tree::Attr;
use serde::{Deserialize, Serialize};
use worknode::spec::{Bytes, WalkSpec};

use super::fds;

/// What the agent asks of its launcher. A socket for the answer goes along.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// Make a sandbox, which answers itself.
    Sandbox(Plan),
    /// Mount or unmount something, and answer.
    Mount(MountTask),
}

/// What the launcher mounts for an agent that may not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum MountTask {
    /// Mount FUSE, and answer with [`Done`] and the device.
    Fuse {
        #[serde(with = "serde_bytes")]
        point: Bytes,
        name: String,
    },
    /// Prepare the `/dev` of walks in a directory, and answer with [`Done`].
    Devices(#[serde(with = "serde_bytes")] Bytes),
    /// Unmount what is mounted in a directory, and answer with [`Done`].
    Unmount(#[serde(with = "serde_bytes")] Bytes),
}

/// The outcome of a task: nothing, or what went wrong.
pub(super) type Done = Result<(), (i32, String)>;

/// What the launcher needs to make a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Where the origin's tree is mounted.
    #[serde(with = "serde_bytes")]
    pub(crate) lower: Bytes,
    /// An empty directory for the walk's mounts, which are made in its own namespace.
    #[serde(with = "serde_bytes")]
    pub(crate) scratch: Bytes,
    /// The numbers of the origin's owners.
    pub(crate) owners: Owners,
    /// The prepared `/dev`.
    #[serde(with = "serde_bytes")]
    pub(crate) dev: Bytes,
    /// Most memory for changed files.
    pub(crate) upper_bytes_max: u64,
    /// Most memory that the walk's processes may use.
    pub(crate) memory_bytes_max: u64,
}

/// What is prepared in a walk's upper layer before it begins, to spare the overlay requests to the origin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ahead {
    /// Directories in which the walk will create something.
    pub(crate) dirs: Vec<Bytes>,
    /// Known attributes of them and their ancestors.
    pub(crate) known: Vec<(Bytes, Attr)>,
    /// Absent names in them that the walk will look up.
    pub(crate) absent: Vec<Bytes>,
}

/// A walk for a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The walk.
    pub(crate) spec: WalkSpec,
    /// What to prepare for it.
    pub(crate) ahead: Ahead,
    /// Whether the origin's tree shows extended attributes.
    pub(crate) xattrs: bool,
    /// The process's descriptors: pairs of its descriptor number and an index into the descriptors that
    /// are passed along.
    pub(crate) fds: Vec<(u32, u32)>,
}

/// What the walk's first process reports over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The sandbox is ready and the program runs. The master of its terminal is passed along, if any.
    Running {
        /// Inode number of its pid namespace.
        pids: u64,
    },
    /// The program was stopped by this signal.
    Stopped(i32),
    /// Whether a process waits for terminal input.
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
    /// The program ended, and its remaining processes were killed. If it may have changed anything, a
    /// descriptor of the upper layer is passed along, and one of the overlay's index if there is one.
    Ended {
        /// Wait status.
        status: i32,
        /// CPU time of all processes.
        cpu_us: u64,
        /// File offsets of the files that were open for reading at the start, by descriptor.
        offsets: Vec<(u32, u64)>,
        /// Whether it hit a limit of its sandbox, which does not exist at its origin.
        bounded: bool,
        /// Whether it left files in a directory that is private to the walk.
        left: bool,
        /// Whether the sandbox can serve another walk after [`Order::ServeAgain`]; otherwise it has ended.
        again: bool,
    },
}

/// What the agent orders the walk's first process to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Send this signal to the program, or to the terminal's foreground group.
    Signal {
        /// The signal.
        number: i32,
        /// It came from the terminal.
        from_terminal: bool,
    },
    /// Check for a while whether a process waits for terminal input.
    Watch,
    /// The terminal at the origin is gone: close the master, as the agent does.
    HangUp,
    /// The changes of the finished walk have been read: prepare for another.
    ServeAgain,
}

/// The step in which the files are opened that the process had open. If it fails, the cause is at the origin.
pub(crate) const OPEN_FILES: &str = "open a file that the process had open";

/// A step that failed.
pub(super) struct Failure {
    pub(super) stage: String,
    pub(super) error: io::Error,
}

/// Adds the failed step to an error.
pub(super) fn at<E: Into<io::Error>>(stage: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let stage = stage.into();
    move |error| Failure { stage, error: error.into() }
}

/// Sends the agent an event. A failure is ignored: if the agent is gone, this process ends soon.
pub(super) fn tell(control: &UnixStream, event: &Event, fds: &[BorrowedFd<'_>]) {
    let message = postcard::to_allocvec(event).expect("an event fits a growing buffer");
    let _ = fds::send(control, &message, fds);
}

/// Returns bytes of a message as a path.
pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
