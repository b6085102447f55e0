//! The first process of a walk's namespaces. It prepares a root, waits for a walk, starts its program, passes
//! signals on, and kills remaining processes. Then it may serve another walk.
#![expect(unsafe_code, reason = "forks, and leaves without destructors")]

use std::fs::File;
use std::io::{self, Seek};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Pid, Whence, lseek};
use packetfs::identity::{Identity, Owner};
use packetfs::owners::Owners;
use rustix::process::Rlimit;
use worknode::spec::{FdKind, TerminalSpec, WalkSpec};

use super::filter::Filter;
use super::groups::{Exceeded, Group};
use super::orders::{Event, Failure, Launch, OPEN_FILES, Order, Plan, at, path, tell};
use super::process::Stack;
use super::program::{self, Open, Started};
use super::realm::Realm;
use super::root::{Layers, Root};
use super::standing::{RESOURCES, Standing};
use super::{fds, process, readers, terminal};

/// Delay of the first check whether a terminal is being read. Each further delay is twice the previous one,
/// until it exceeds 8 bits.
const WATCH_FIRST_MS: u8 = 1;

/// Runs consecutive walks, each from the first mount to the last child. Never returns.
pub(super) fn run(
    plan: &Plan,
    group: Group,
    realm: &Realm,
    filter: &Filter,
    control: &UnixStream,
) -> ! {
    process::die_with_parent();
    process::set_name(c"oswalk-walk");
    if let Err(failure) = serve(plan, group, realm, filter, control) {
        let errno = failure.error.raw_os_error().unwrap_or(libc::EIO);
        tell(control, &Event::Failed { stage: failure.stage, errno }, &[]);
    }
    // SAFETY: this copy of the launcher must not run its destructors.
    unsafe { libc::_exit(0) }
}

/// Serves walks until no more arrive.
fn serve(
    plan: &Plan,
    group: Group,
    realm: &Realm,
    filter: &Filter,
    control: &UnixStream,
) -> Result<(), Failure> {
    let kept: Vec<_> = std::iter::once(control.as_fd()).chain(realm.descriptors()).collect();
    // SAFETY: this copy of the launcher uses no others, and never returns.
    unsafe { fds::keep_only(&kept) }.map_err(at("close descriptors"))?;
    let exceeded = group.join().map_err(at("join the control group"))?;
    // The walk sees the sandbox's group as the root.
    match nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP) {
        // The kernel has no control groups.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(at("make a cgroup namespace")(error)),
    }
    // The agent's umask would change the modes of the walk's files, which come from the origin.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    // SAFETY: the disposition is valid. The launcher ignores SIGCHLD, but this process waits for children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(at("block SIGCHLD"))?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(at("make a signalfd"))?;
    nix::unistd::setsid().map_err(at("begin a session"))?;
    process::join_new_keyring().map_err(at("make a keyring"))?;
    let root = Root::prepare(plan)?;
    let pids = std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    let standing = Standing::now().map_err(at("read the process's attributes"))?;
    let stack = Stack::new().map_err(at("make a stack"))?;
    process::populate();
    let limits = standing.limits;
    let mut sandbox =
        Sandbox { control, signals, root, pids, stack, realm, limits, filter, exceeded };
    loop {
        let layers = sandbox.root.lay()?;
        let received = fds::receive(control).map_err(at("receive the walk"))?;
        let Some((message, descriptors)) = received else { return Ok(()) };
        let launch = postcard::from_bytes::<Launch>(&message).map_err(io::Error::other);
        let launch = launch.map_err(at("read the walk"))?;
        let (last, changes) = sandbox.supervise(&launch, descriptors, &layers)?;
        tell(control, &last, &changes);
        if !matches!(last, Event::Ended { again: true, .. }) || !is_wanted_again(control) {
            return Ok(());
        }
        sandbox.root.take_away(layers)?;
        let stands = Standing::now().is_ok_and(|now| now == standing);
        if !stands || !sandbox.root.is_as_new() {
            // The agent makes another sandbox.
            return Ok(());
        }
    }
}

/// Waits until the agent has read the walk's changes.
fn is_wanted_again(control: &UnixStream) -> bool {
    // Other orders are for the finished walk.
    while let Ok(Some((message, _))) = fds::receive(control) {
        if matches!(postcard::from_bytes(&message), Ok(Order::ServeAgain)) {
            return true;
        }
    }
    false
}

/// The state that consecutive walks share.
struct Sandbox<'a> {
    control: &'a UnixStream,
    signals: SignalFd,
    root: Root,
    /// The inode number of its pid namespace.
    pids: u64,
    stack: Stack,
    realm: &'a Realm,
    limits: [Rlimit; RESOURCES.len()],
    filter: &'a Filter,
    exceeded: Exceeded,
}

impl Sandbox<'_> {
    /// Runs a walk, and returns its last event with the descriptors to pass along.
    fn supervise<'a>(
        &mut self,
        launch: &Launch,
        descriptors: Vec<OwnedFd>,
        layers: &'a Layers,
    ) -> Result<(Event, Vec<BorrowedFd<'a>>), Failure> {
        let before = self.root.suit(launch, layers)?;
        let top = layers.top.as_fd();
        let (files, nulls) =
            (open_files(&launch.spec, top, self.root.owners)?, open_nulls(&launch.spec, top)?);
        let terminal = launch.spec.terminal.as_ref().map(|spec| open_terminal(spec, top));
        let terminal = terminal.transpose()?;
        let open = Open {
            root: top,
            descriptors: &descriptors,
            files: &files,
            nulls: &nulls,
            terminal: terminal.as_ref(),
            owners: self.root.owners,
            realm: self.realm,
            limits: &self.limits,
            filter: self.filter,
        };
        let started = program::start(launch, &open, self.root.last_pid.as_ref(), &mut self.stack)?;
        let program = match started {
            Started::Running(pid) => pid,
            Started::NotExecuted(errno) => return Ok((Event::NotExecuted(errno), Vec::new())),
        };
        let master =
            terminal.as_ref().and_then(|terminal| terminal.master.as_ref()).map(AsFd::as_fd);
        tell(self.control, &Event::Running { pids: self.pids }, master.as_slice());
        let mut walk = Walk { control: self.control, program, terminal, watching: None, cpu_us: 0 };
        let status = walk.watch(&self.signals);
        walk.cpu_us += end_all();
        let offset = |file: &File| lseek(file, 0, Whence::SeekCur).ok();
        let offsets =
            files.iter().filter_map(|(fd, file)| Some((*fd, u64::try_from(offset(file)?).ok()?)));
        let (cpu_us, offsets) = (walk.cpu_us, offsets.collect());
        let bounded = self.exceeded.times() > 0;
        // A process that has changed its root for a terminal cannot return.
        let again = launch.spec.terminal.is_none() && !bounded;
        // A killed program leaves files behind, as it would at the origin.
        let left = libc::WIFEXITED(status)
            && (layers.have_files_left() || !launch.spec.compiles && layers.have_ipc_left());
        let ended = Event::Ended { status, cpu_us, offsets, bounded, left, again };
        let (upper, index) = (layers.upper.as_fd(), layers.index.as_ref().map(AsFd::as_fd));
        let changes = before.has_changed().then(|| iter::once(upper).chain(index).collect());
        Ok((ended, changes.unwrap_or_default()))
    }
}

/// A running program.
struct Walk<'a> {
    control: &'a UnixStream,
    program: Pid,
    terminal: Option<terminal::Pair>,
    /// If the agent wants to know whether the terminal is being read, milliseconds to the next check.
    watching: Option<u8>,
    cpu_us: u64,
}

impl Walk<'_> {
    /// Handles events while the program runs; returns its wait status.
    fn watch(&mut self, signals: &SignalFd) -> i32 {
        let control = self.control;
        loop {
            let mut polled = [
                PollFd::new(control.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = self.watching.map_or(PollTimeout::NONE, PollTimeout::from);
            let found = poll(&mut polled, timeout);
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let (ordered, changed) = (ready(&polled[0]), ready(&polled[1]));
            if found == Ok(0) {
                self.look();
            }
            if changed {
                while signals.read_signal().is_ok_and(|signal| signal.is_some()) {}
                if let Some(status) = self.reap() {
                    return status;
                }
            }
            if ordered {
                self.obey();
            }
        }
    }

    /// Reaps children; returns the program's wait status if it ended.
    fn reap(&mut self) -> Option<i32> {
        while let Some((pid, status, cpu)) = process::wait_any(false) {
            if libc::WIFSTOPPED(status) {
                if pid == self.program {
                    tell(self.control, &Event::Stopped(libc::WSTOPSIG(status)), &[]);
                }
                continue;
            }
            self.cpu_us += cpu;
            if pid == self.program {
                return Some(status);
            }
        }
        None
    }

    fn obey(&mut self) {
        match fds::receive(self.control) {
            Ok(Some((message, _))) => match postcard::from_bytes(&message) {
                Ok(Order::Signal { number, from_terminal }) => {
                    let group = from_terminal || number == libc::SIGCONT;
                    let foreground = self.terminal.as_ref().and_then(terminal::Pair::foreground);
                    let target = match (group, foreground) {
                        (true, Some(foreground)) if number != libc::SIGCONT => -foreground,
                        (true, _) => -self.program.as_raw(),
                        (false, _) => self.program.as_raw(),
                    };
                    // SAFETY: the call takes plain numbers. The wrappers know no real-time signals.
                    unsafe { libc::kill(target, number) };
                }
                Ok(Order::Watch) => self.watching = Some(WATCH_FIRST_MS),
                Ok(Order::HangUp) => {
                    if let Some(terminal) = &mut self.terminal {
                        terminal.hang_up();
                    }
                }
                Ok(Order::ServeAgain) | Err(_) => {}
            },
            // The agent is gone or has given the walk up. Exiting ends the whole namespace.
            // SAFETY: as in `run`.
            Ok(None) | Err(_) => unsafe { libc::_exit(0) },
        }
    }

    /// Checks whether the terminal is being read, at growing intervals, and finally no more.
    fn look(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        let device = nix::sys::stat::fstat(&terminal.slave).map_or(0, |stat| stat.st_rdev);
        let read = terminal.is_drained() && readers::someone_reads(device);
        let next = self.watching.and_then(|pause| pause.checked_mul(2));
        self.watching = next.filter(|_| !read);
        if self.watching.is_none() {
            tell(self.control, &Event::Reading(read), &[]);
        }
    }
}

/// Makes the walk's terminal within its root. This process stays in that root and serves no other walk.
fn open_terminal(spec: &TerminalSpec, root: BorrowedFd<'_>) -> Result<terminal::Pair, Failure> {
    program::change_root(root).map_err(at("change the root"))?;
    let pair = terminal::Pair::open(spec).map_err(at("make a terminal"))?;
    pair.take_control().map_err(at("make a terminal"))?;
    Ok(pair)
}

/// Kills every other process of the namespace; returns their CPU time.
fn end_all() -> u64 {
    const ALL_BUT_THIS: Pid = Pid::from_raw(-1);
    let _ = kill(ALL_BUT_THIS, Signal::SIGKILL);
    let mut cpu_us = 0;
    while let Some((_, _, cpu)) = process::wait_any(true) {
        cpu_us += cpu;
    }
    cpu_us
}

/// Opens the files that the process had open for reading, at its file offsets. They stay open here as well,
/// to report how far the program has read.
///
/// The kernel checks each as if the walk's user had opened it, and only files of the origin are opened: a path may lead to
/// what this process alone may read, such as its own memory.
fn open_files(
    spec: &WalkSpec,
    root: BorrowedFd<'_>,
    owners: Owners,
) -> Result<Vec<(u32, File)>, Failure> {
    let files = spec.fds.iter().filter_map(|fd| match &fd.kind {
        FdKind::File { path, offset } => Some((fd.fd, path, *offset)),
        _ => None,
    });
    let mut files = files.peekable();
    if files.peek().is_none() {
        return Ok(Vec::new());
    }
    let who = &spec.principal;
    let groups = who.groups.iter().map(|&group| owners.here(group)).collect();
    let user = Owner { uid: owners.here(who.uid), gid: owners.here(who.gid), groups };
    let _identity = Identity::assume(&user).map_err(at("assume the identity of the user"))?;
    let opened = files.map(|(fd, path, offset)| Ok((fd, open_file(root, path, offset)?)));
    opened.collect::<io::Result<_>>().map_err(at(OPEN_FILES))
}

fn open_file(root: BorrowedFd<'_>, name: &[u8], offset: u64) -> io::Result<File> {
    let how = OpenHow::new()
        // A fifo may have taken the file's place.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let mut file = File::from(openat2(root, path(name), how)?);
    let kind = fstatfs(&file)?.filesystem_type();
    if ![OVERLAYFS_SUPER_MAGIC, FUSE_SUPER_MAGIC].contains(&kind) || !file.metadata()?.is_file() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    file.seek(io::SeekFrom::Start(offset))?;
    Ok(file)
}

/// Opens the sandbox's `/dev/null`. It is on a read-only mount, so that a descriptor cannot be used to change its
/// mode, owner or times, as it could for the machine's own.
fn open_nulls(spec: &WalkSpec, root: BorrowedFd<'_>) -> Result<Vec<(u32, File)>, Failure> {
    let mut nulls = Vec::new();
    for fd in &spec.fds {
        if let FdKind::Null { flags } = fd.kind {
            let access = i32::try_from(flags).unwrap_or(0) & libc::O_ACCMODE;
            let how = OpenHow::new()
                .flags(OFlag::from_bits_retain(access) | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let null = openat2(root, "dev/null", how).map_err(at("open /dev/null"))?;
            nulls.push((fd.fd, File::from(null)));
        }
    }
    Ok(nulls)
}
