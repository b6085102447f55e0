//! The launcher: a small single-threaded process, forked before the agent has threads, that creates the
//! first processes of walks. Forking it is cheap and sound; forking the agent would be neither.
#![expect(unsafe_code, reason = "forks before there is a thread")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::filter::Filter;
use super::groups::Groups;
use super::orders::{Event, Failure, Launch, Order, Plan, at, tell};
use super::process::{self, Side};
use super::{fds, sandbox};

/// The agent's handle to its launcher. Dropping it ends the launcher, sandboxes and walks.
#[derive(Debug)]
pub(crate) struct Launcher {
    socket: UnixStream,
}

impl Launcher {
    /// Starts the launcher. To be called before the process has threads.
    ///
    /// # Errors
    /// The process cannot be created.
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
                // SAFETY: this copy of the agent uses only its own socket, and never returns.
                if unsafe { fds::keep_only(&[far.as_fd()]) }.is_err() {
                    std::process::exit(1);
                }
                std::mem::forget(near);
                serve(&far);
                std::process::exit(0);
            }
        }
    }

    /// Makes a sandbox, which then waits for a walk.
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

/// An idle sandbox. Dropping it ends its process.
#[derive(Debug)]
pub(crate) struct Sandbox {
    control: UnixStream,
}

impl Sandbox {
    /// Makes the sandbox of a finished walk serve another; `control` is that walk's socket.
    ///
    /// # Errors
    /// The sandbox is gone.
    pub(crate) fn again(control: UnixStream) -> io::Result<Self> {
        let message = postcard::to_allocvec(&Order::ServeAgain).map_err(io::Error::other)?;
        fds::send(&control, &message, &[])?;
        control.set_nonblocking(false)?;
        Ok(Self { control })
    }

    /// Starts a walk, and returns the socket over which its first process sends [`Event`]s.
    ///
    /// # Errors
    /// The walk does not fit into a message.
    pub(crate) fn launch(self, launch: &Launch, descriptors: &[OwnedFd]) -> io::Result<UnixStream> {
        let message = postcard::to_allocvec(launch).map_err(io::Error::other)?;
        let all: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        match fds::send(&self.control, &message, &all) {
            // The sandbox failed, and has sent the reason over the socket.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result?,
        }
        self.control.set_nonblocking(true)?;
        Ok(self.control)
    }

    /// Tells whether it is alive and has not failed.
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

/// Makes a sandbox. Returns only in the launcher.
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

fn ignore_children() {
    // SAFETY: the disposition is valid for SIGCHLD, and makes the kernel reap the children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
