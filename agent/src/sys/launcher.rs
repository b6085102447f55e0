//! The launcher: a small single-threaded process, made before the agent has threads, that makes the
//! first processes of walks. Forking it is cheap and safe; forking the agent would be neither.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use packetfs::tree::Attr;
use serde::{Deserialize, Serialize};
use worknode::spec::{Bytes, WalkSpec};

use super::filter::Filter;
use super::groups::Groups;
use super::process::{self, Side};
use super::sandbox::{Failure, at};
use super::{fds, sandbox};

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

/// The agent's handle to its launcher. Dropping it ends the launcher, sandboxes and walks.
#[derive(Debug)]
pub(crate) struct Launcher {
    socket: UnixStream,
}

impl Launcher {
    /// Starts the launcher. To be called before the process has threads.
    ///
    /// # Errors
    /// The process cannot be made.
    ///
    /// # Safety
    /// The calling process has only one thread.
    pub(crate) unsafe fn start() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        // SAFETY: the caller vouches for the single thread.
        match unsafe { process::fork_into(0, None) }? {
            Side::Parent(_) => Ok(Self { socket: near }),
            Side::Child => {
                process::die_with_parent();
                process::set_name(c"oswalk-launcher");
                // SAFETY: this copy of the agent uses its own socket alone, and never returns.
                if unsafe { fds::keep_only(&[far.as_fd()]) }.is_err() {
                    std::process::exit(1);
                }
                std::mem::forget(near);
                serve(&far);
                std::process::exit(0);
            }
        }
    }

    /// Makes a sandbox, which waits for its walk.
    ///
    /// # Errors
    /// The launcher is gone.
    pub(crate) fn make(&self, plan: &Plan) -> io::Result<Sandbox> {
        let (near, far) = UnixStream::pair()?;
        let message = postcard::to_allocvec(plan).map_err(io::Error::other)?;
        fds::send(&self.socket, &message, &[far.as_fd()])?;
        Ok(Sandbox { control: near })
    }
}

/// A sandbox without a walk. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    control: UnixStream,
}

impl Sandbox {
    /// Has the sandbox of a walk that has ended serve another; `control` is that walk's socket.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn again(control: UnixStream) -> io::Result<Self> {
        let message = postcard::to_allocvec(&Order::ServeAgain).map_err(io::Error::other)?;
        fds::send(&control, &message, &[])?;
        control.set_nonblocking(false)?;
        Ok(Self { control })
    }

    /// Starts a walk, and returns the socket on which its first process tells its [`Event`]s.
    ///
    /// # Errors
    /// The walk does not fit into a message.
    pub(crate) fn launch(self, launch: &Launch, descriptors: &[OwnedFd]) -> io::Result<UnixStream> {
        let message = postcard::to_allocvec(launch).map_err(io::Error::other)?;
        let all: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        match fds::send(&self.control, &message, &all) {
            // It could not be made: why, it has told on the socket.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
        self.control.set_nonblocking(true)?;
        Ok(self.control)
    }

    /// Tells whether it is still there, and nothing has failed so far.
    pub(crate) fn is_sound(&self) -> bool {
        let mut polled = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO) == Ok(0)
    }
}

fn serve(socket: &UnixStream) {
    ignore_children();
    let filter = Filter::new();
    let mut groups = Groups::find(nix::unistd::getppid().as_raw().cast_unsigned());
    while let Ok(Some((message, mut fds))) = fds::receive(socket) {
        let Some(control) = fds.pop().map(UnixStream::from) else { continue };
        let Ok(plan) = postcard::from_bytes::<Plan>(&message) else { continue };
        if let Err(Failure { stage, error }) = make(&mut groups, &plan, &filter, &control) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            tell(&control, &Event::Failed { stage, errno }, &[]);
        }
    }
}

/// Makes a sandbox. Returns in the launcher alone.
fn make(
    groups: &mut Groups,
    plan: &Plan,
    filter: &Filter,
    control: &UnixStream,
) -> Result<(), Failure> {
    let mut group = groups.make(plan.memory_bytes_max).map_err(at("make a control group"))?;
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let unified = group.unified.as_ref().map(AsFd::as_fd);
    // SAFETY: the launcher never makes a thread.
    match unsafe { process::fork_into(namespaces, unified) }.map_err(at("make namespaces"))? {
        Side::Parent(first) => {
            groups.note(group, first);
            Ok(())
        }
        Side::Child => {
            group.unified = None;
            sandbox::run(plan, group, filter, control)
        }
    }
}

/// Tells the agent an event; if the agent is gone, so are we soon.
pub(super) fn tell(control: &UnixStream, event: &Event, fds: &[BorrowedFd<'_>]) {
    let message = postcard::to_allocvec(event).expect("an event fits a growing buffer");
    let _ = fds::send(control, &message, fds);
}

fn ignore_children() {
    // SAFETY: the disposition is valid for SIGCHLD: the kernel then reaps the children itself.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
