//! Executes the program of a walk with the identity, descriptors, limits and signal dispositions that it has
//! at the origin.
#![expect(unsafe_code, reason = "vfork and execve")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use packetfs::owners::Owners;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use worknode::spec::{FdKind, WalkSpec};

use super::filter::Filter;
use super::orders::{Failure, Launch, at, path};
use super::process::{self, Stack};
use super::realm::Realm;
use super::standing::RESOURCES;
use super::{fds, terminal};

/// The capabilities that root keeps in a walk: power over the files of its tree, not over the machine. A
/// process that escapes from a `chroot` is still in the walk's root.
pub(super) const KEPT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETFCAP);

/// The result of starting a program.
pub(super) enum Started {
    Running(nix::unistd::Pid),
    NotExecuted(i32),
}

/// Starts the program, and returns once it is executed or has failed.
pub(super) fn start(
    launch: &Launch,
    open: &Open<'_>,
    last_pid: Option<&File>,
    stack: &mut Stack,
) -> Result<Started, Failure> {
    let program = Program::of(&launch.spec).map_err(at("read the arguments"))?;
    // The program keeps its pid of the origin, unless that is in use here.
    if let (Some(mut last_pid), Some(before)) = (last_pid, launch.spec.pid.checked_sub(1)) {
        let _ = write!(last_pid, "{before}");
    }
    let mut failed = None;
    // SAFETY: this process has one thread, like the launcher that it was forked from, and the new process
    // leaves only an error in its memory.
    let spawned = unsafe { process::spawn(stack, || failed = Some(enter(launch, open, &program))) };
    let pid = spawned.map_err(at("make the process"))?;
    Ok(match failed {
        Some(error) => Started::NotExecuted(error.raw_os_error().unwrap_or(libc::EIO)),
        None => Started::Running(pid),
    })
}

struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    fn of(spec: &WalkSpec) -> io::Result<Self> {
        let argv = spec.arguments().map(CString::new).collect::<Result<_, _>>()?;
        let env = spec.environment().map(CString::new).collect::<Result<_, _>>()?;
        Ok(Self { path: CString::new(spec.path.as_slice())?, argv, env })
    }
}

/// The descriptors of the program, and what it is executed in.
pub(super) struct Open<'a> {
    /// Its root.
    pub(super) root: BorrowedFd<'a>,
    pub(super) descriptors: &'a [OwnedFd],
    pub(super) files: &'a [(u32, File)],
    pub(super) nulls: &'a [(u32, File)],
    pub(super) terminal: Option<&'a terminal::Pair>,
    pub(super) owners: Owners,
    pub(super) realm: &'a Realm,
    /// The resource limits of the calling process.
    pub(super) limits: &'a [Rlimit],
    pub(super) filter: &'a Filter,
}

/// Executes the program. Returns only if that fails.
fn enter(launch: &Launch, open: &Open<'_>, program: &Program) -> io::Error {
    match prepare(launch, open) {
        Ok(()) => match nix::unistd::execve(&program.path, &program.argv, &program.env) {
            Ok(never) => match never {},
            Err(errno) => errno.into(),
        },
        Err(error) => error,
    }
}

/// Reduces the bounding set, which limits what programs can gain. The calling process's own capabilities stay.
fn bound_capabilities() {
    for (_, capability) in KEPT_CAPABILITIES.complement().iter_names() {
        // A kernel refuses capabilities that it does not know.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

/// Makes an open directory the root of the calling process.
pub(super) fn change_root(root: BorrowedFd<'_>) -> nix::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(".")
}

fn prepare(launch: &Launch, open: &Open<'_>) -> io::Result<()> {
    let spec = &launch.spec;
    change_root(open.root)?;
    // A new process group with a parent in another one, so that it is not orphaned and the terminal can stop it.
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    if let Some(terminal) = open.terminal {
        let mut background = SigSet::empty();
        background.add(Signal::SIGTTOU);
        background.thread_block()?;
        terminal.come_to_foreground()?;
        let owner = nix::unistd::Uid::from_raw(open.owners.here(spec.principal.uid));
        nix::unistd::fchown(&terminal.slave, Some(owner), None)?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(spec.umask));
    // A failure leaves the value as it is.
    let _ = setpriority_process(None, spec.nice);
    raise_limits(spec, open.limits);
    if spec.is_offline() {
        open.realm.leave_network()?;
    }
    open.realm.enter(&spec.principal)?;
    bound_capabilities();
    open.filter.install()?;
    assume_identity(spec, open.owners)?;
    std::env::set_current_dir(path(&spec.cwd))?;
    place_descriptors(launch, open)?;
    // Last, because the descriptor limit may be below descriptors that are in use until here.
    set_limits(spec);
    set_signals(spec);
    Ok(())
}

/// Returns the first descriptor number above all of the program's.
fn above(spec: &WalkSpec) -> RawFd {
    let highest = spec.fds.iter().map(|fd| fd.fd).max().unwrap_or(2).max(63);
    RawFd::try_from(highest + 1).unwrap_or(RawFd::MAX)
}

/// Moves every descriptor to its number, after moving all above the numbers in question.
fn place_descriptors(launch: &Launch, open: &Open<'_>) -> io::Result<()> {
    let &Open { descriptors, files, nulls, terminal, .. } = open;
    let above = above(&launch.spec);
    let number = |fd: u32| RawFd::try_from(fd).map_err(io::Error::other);
    let mut places = Vec::new();
    for &(place, index) in &launch.fds {
        let fd = descriptors
            .get(index as usize)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        places.push((number(place)?, fcntl_dupfd_cloexec(fd, above)?));
    }
    for (place, file) in files.iter().chain(nulls) {
        places.push((number(*place)?, fcntl_dupfd_cloexec(file, above)?));
    }
    if let Some(terminal) = terminal {
        let all = launch.spec.fds.iter().filter(|fd| fd.kind == FdKind::Terminal);
        for fd in all {
            places.push((number(fd.fd)?, fcntl_dupfd_cloexec(&terminal.slave, above)?));
        }
    }
    // SAFETY: every descriptor below `above` is replaced next or meant to be closed; nothing in this
    // process uses them any more.
    unsafe { fds::close_range(0, above - 1) }?;
    for (place, fd) in places {
        // It is closed with the others below.
        let fd = fd.into_raw_fd();
        // SAFETY: the call takes plain numbers.
        if unsafe { libc::dup2(fd, place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // Closes everything else, so that no descriptor leaks into the program.
    // SAFETY: nothing in this process uses any of them any more.
    unsafe { fds::close_range(above, RawFd::MAX) }
}

/// Raises hard limits to those of the origin. In the user namespace that is not permitted any more.
fn raise_limits(spec: &WalkSpec, own: &[Rlimit]) {
    for ((resource, &(_, hard)), own) in RESOURCES.into_iter().zip(&spec.rlimits).zip(own) {
        // A walk must not take processors away from this machine's programs.
        let is_of_priority = matches!(resource, Resource::Nice | Resource::Rtprio);
        if !is_of_priority && own.maximum.is_some_and(|maximum| maximum < hard) {
            // A failure leaves the limit as it is.
            let _ = setrlimit(resource, Rlimit { maximum: Some(hard), ..*own });
        }
    }
}

fn set_limits(spec: &WalkSpec) {
    for (resource, &(soft, hard)) in RESOURCES.into_iter().zip(&spec.rlimits) {
        // A limit above our own cannot be set and is skipped.
        let _ = setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) });
    }
}

fn assume_identity(spec: &WalkSpec, owners: Owners) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    if owners.are_one() {
        // It is that user already, and has no other groups.
        return Ok(nix::sys::prctl::set_no_new_privs()?);
    }
    let who = &spec.principal;
    let groups: Vec<Gid> = who.groups.iter().map(|&group| Gid::from_raw(group)).collect();
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    // The capabilities that this process has in its user namespace go when its root becomes another user.
    let root = Uid::from_raw(0);
    setresuid(root, root, root)?;
    setresuid(uid, uid, uid)?;
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Sets the signal dispositions and the mask that the program has at the origin.
fn set_signals(spec: &WalkSpec) {
    for number in 1..=64 {
        let ignored = spec.ignored & (1 << (number - 1)) != 0;
        let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: both dispositions are valid for any signal; the kernel refuses KILL and STOP.
        unsafe { libc::signal(number, action) };
    }
    // SAFETY: the kernel's mask is these 8 bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const spec.blocked,
            std::ptr::null_mut::<u64>(),
            8,
        )
    };
}
