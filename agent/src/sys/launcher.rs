//! The launcher: a small single-threaded process, forked before the agent has threads, that creates the
//! first processes of walks. Forking it is cheap and sound; forking the agent would be neither.
#![expect(unsafe_code, reason = "forks before there is a thread")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use packetfs::fuse::Mounter;

use super::filter::Filter;
use super::groups::Groups;
use super::orders::{Done, Event, Failure, Launch, MountTask, Order, Plan, Task, at, path, tell};
use super::process::{self, Side};
use super::realm::Realms;
use super::{fds, rootless, sandbox};
use crate::{devices, machine};

/// The agent's handle to its launcher. Dropping it ends the launcher, sandboxes and walks.
#[derive(Debug)]
pub(crate) struct Launcher {
    socket: UnixStream,
    /// Whether it mounts for the agent, which may not.
    mounts: bool,
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
        let mounts = !nix::unistd::geteuid().is_root();
        // SAFETY: the caller vouches for the single thread.
        match unsafe { process::fork_into(0, None) }? {
            Side::Parent(_) => Ok(Self { socket: near, mounts }),
            Side::Child => {
                // Without it nothing can be mounted, and each task fails.
                if mounts && let Err(error) = rootless::enter() {
                    tracing::error!(%error, "the launcher has no user namespace");
                }
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
        Ok(Sandbox { control: ask(&self.socket, &Task::Sandbox(plan.clone()))? })
    }

    /// Returns what mounts mirrors for an agent that may not.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn mounter(&self) -> io::Result<Option<Mounter>> {
        if !self.mounts {
            return Ok(None);
        }
        let socket = self.socket.try_clone()?;
        Ok(Some(Box::new(move |point, name| {
            let task = MountTask::Fuse { point: bytes(point), name: name.to_owned() };
            let device = wait(&ask(&socket, &Task::Mount(task))?)?.into_iter().next();
            device.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })))
    }

    /// Prepares the `/dev` of walks in a directory; it belongs to `owner`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub(crate) fn prepare_devices(&self, dir: &Path, owner: u32) -> anyhow::Result<()> {
        if !self.mounts {
            return devices::prepare(dir, owner);
        }
        wait(&ask(&self.socket, &Task::Mount(MountTask::Devices(bytes(dir))))?)?;
        Ok(())
    }

    /// Unmounts what is mounted in a directory, if anything is.
    pub(crate) fn unmount(&self, dir: &Path) {
        if self.mounts {
            let task = Task::Mount(MountTask::Unmount(bytes(dir)));
            let _ = ask(&self.socket, &task).and_then(|asked| wait(&asked));
        } else {
            let _ = umount2(dir, MntFlags::MNT_DETACH);
        }
    }
}

/// Sends a task; returns the socket over which the answer comes.
fn ask(socket: &UnixStream, task: &Task) -> io::Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    let message = postcard::to_allocvec(task).map_err(io::Error::other)?;
    fds::send(socket, &message, &[far.as_fd()])?;
    Ok(near)
}

/// Waits until a task is done, and returns the descriptors that it yields.
fn wait(asked: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let (message, fds) = fds::receive(asked)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    match postcard::from_bytes::<Done>(&message).map_err(io::Error::other)? {
        Ok(()) => Ok(fds),
        Err((0, said)) => Err(io::Error::other(said)),
        Err((errno, _)) => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
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
    let agent = nix::unistd::getppid().as_raw().cast_unsigned();
    let mut groups = Groups::find(agent, machine::memory_bytes());
    let mut realms = Realms::default();
    while let Ok(Some((message, mut fds))) = fds::receive(socket) {
        let Some(control) = fds.pop().map(UnixStream::from) else { continue };
        let plan = match postcard::from_bytes(&message) {
            Ok(Task::Sandbox(plan)) => plan,
            Ok(Task::Mount(task)) => {
                answer(&control, perform(&task));
                continue;
            }
            Err(_) => continue,
        };
        if let Err(Failure { stage, error }) =
            make(&mut groups, &mut realms, &plan, &filter, &control)
        {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            tell(&control, &Event::Failed { stage, errno }, &[]);
        }
    }
}

/// Does what the agent may not do itself. Returns the descriptor that it yields, if any.
fn perform(task: &MountTask) -> Result<Option<OwnedFd>, (i32, String)> {
    let of_io = |error: io::Error| (error.raw_os_error().unwrap_or(0), error.to_string());
    match task {
        MountTask::Fuse { point, name } => {
            rootless::mount_fuse(path(point), name).map(Some).map_err(of_io)
        }
        MountTask::Devices(dir) => match devices::prepare_bound(path(dir)) {
            Ok(()) => Ok(None),
            Err(error) => Err((0, format!("{error:#}"))),
        },
        MountTask::Unmount(dir) => {
            let unmounted = umount2(path(dir), MntFlags::MNT_DETACH);
            unmounted.map(|()| None).map_err(|errno| of_io(errno.into()))
        }
    }
}

/// Answers the agent. If that is gone, this process ends soon.
fn answer(control: &UnixStream, done: Result<Option<OwnedFd>, (i32, String)>) {
    let (done, fd) = match done {
        Ok(fd) => (Ok(()), fd),
        Err(error) => (Err(error), None),
    };
    let message = postcard::to_allocvec::<Done>(&done).expect("it fits a growing buffer");
    let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
    let _ = fds::send(control, &message, &fds);
}

/// Makes a sandbox. Returns only in the launcher.
fn make(
    groups: &mut Groups,
    realms: &mut Realms,
    plan: &Plan,
    filter: &Filter,
    control: &UnixStream,
) -> Result<(), Failure> {
    // SAFETY: the launcher never makes a thread.
    let realm = unsafe { realms.of(plan.owners) }.map_err(at("make a user namespace"))?;
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
            sandbox::run(plan, group, realm, filter, control)
        }
    }
}

fn ignore_children() {
    // SAFETY: the disposition is valid for SIGCHLD, and makes the kernel reap the children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
