//! The first process of a walk's namespaces: builds the walk's root, starts the program under the
//! identity it has at the origin, passes signals on, and leaves no process behind.
//!
//! The root is an overlay of the origin's tree (lower, read-only) and a memory file system (upper,
//! what the walk changes). System directories are bound from the lower mount where the walk may not
//! change them: a fresh overlay over all of them would cost every walk its cold look-ups.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Seek};
use std::iter;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, Whence, lseek};
use worknode::spec::{FdKind, TerminalSpec, WalkSpec};

use super::fds;
use super::launcher::{Event, Launch, Order, tell};
use super::process::{self, Side};
use super::{readers, terminal};

/// What root keeps inside a walk: power over the files of its own tree, not over the machine.
const KEPT_CAPABILITIES: [u32; 9] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    2,  // DAC_READ_SEARCH
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    31, // SETFCAP
];
const CAPABILITIES: u32 = 41;
/// Directories that a compile step reads and never changes.
const SYSTEM_DIRS: [&str; 9] =
    ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt"];

/// The first look whether a terminal is being read comes after so long; each pause is twice the one
/// before, as long as that is a number of 8 bits.
const WATCH_FIRST_MS: u8 = 1;

/// A step that failed.
struct Failure {
    stage: String,
    error: io::Error,
}

fn at(stage: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Failure {
    let stage = stage.into();
    move |errno| Failure { stage, error: errno.into() }
}

/// Runs a walk from the first mount to the last child. Never returns.
pub(super) fn run(launch: &Launch, control: &UnixStream, descriptors: &[OwnedFd]) -> ! {
    process::die_with_parent();
    process::set_name(c"oswalk-walk");
    match supervise(launch, control, descriptors) {
        Ok(event) => tell(control, &event, &[]),
        Err(failure) => {
            let errno = failure.error.raw_os_error().unwrap_or(libc::EIO);
            tell(control, &Event::Failed { stage: failure.stage, errno }, &[]);
        }
    }
    // SAFETY: nothing of this copy of the launcher is to run its destructors.
    unsafe { libc::_exit(0) }
}

fn supervise(
    launch: &Launch,
    control: &UnixStream,
    descriptors: &[OwnedFd],
) -> Result<Event, Failure> {
    // The modes of the walk's mounts are those of its origin; the agent's own mask is stricter.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    // SAFETY: the disposition is valid; the launcher ignored its children, this process waits.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(at("block SIGCHLD"))?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(at("make a signalfd"))?;

    let upper = build_root(launch)?;
    let files = open_files(&launch.spec)?;
    nix::unistd::setsid().map_err(at("begin a session"))?;
    let terminal = launch.spec.terminal.as_ref().map(open_terminal).transpose()?;
    let program = match start(launch, descriptors, &files, terminal.as_ref())? {
        Started::Running(pid) => pid,
        Started::NotExecuted(errno) => return Ok(Event::NotExecuted(errno)),
    };
    let master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
    let passed: Vec<_> = iter::once(upper.as_fd()).chain(master).collect();
    let pids = std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
    tell(control, &Event::Running { pids }, &passed);
    drop(upper);
    let mut walk = Walk { control, program, terminal, watching: None, cpu_us: 0 };
    loop {
        let mut polled = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = walk.watching.map_or(PollTimeout::NONE, PollTimeout::from);
        let found = poll(&mut polled, timeout);
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let (ordered, changed) = (ready(&polled[0]), ready(&polled[1]));
        if found == Ok(0) {
            walk.look();
        }
        if changed {
            while signals.read_signal().is_ok_and(|signal| signal.is_some()) {}
            if let Some(status) = walk.reap() {
                walk.cpu_us += end_all();
                let offset = |file: &File| lseek(file, 0, Whence::SeekCur).ok();
                let offsets = files
                    .iter()
                    .filter_map(|(fd, file)| Some((*fd, u64::try_from(offset(file)?).ok()?)));
                let offsets = offsets.collect();
                return Ok(Event::Ended { status, cpu_us: walk.cpu_us, offsets });
            }
        }
        if ordered {
            walk.obey();
        }
    }
}

/// A program that runs.
struct Walk<'a> {
    control: &'a UnixStream,
    program: Pid,
    terminal: Option<terminal::Pair>,
    /// Somebody wants to know whether the terminal is being read: milliseconds to the next look.
    watching: Option<u8>,
    cpu_us: u64,
}

impl Walk<'_> {
    /// Takes in what became of children; returns the program's wait status when it ended.
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
                    // SAFETY: the call takes plain numbers.
                    unsafe { libc::kill(target, number) };
                }
                Ok(Order::Watch) => self.watching = Some(WATCH_FIRST_MS),
                Err(_) => {}
            },
            // The agent is gone or has given the walk up: this process's end ends all.
            // SAFETY: as in `run`.
            Ok(None) | Err(_) => unsafe { libc::_exit(0) },
        }
    }

    /// Looks whether the terminal is being read; less and less often, and then no more.
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

fn open_terminal(spec: &TerminalSpec) -> Result<terminal::Pair, Failure> {
    let failed = |error| Failure { stage: "make a terminal".into(), error };
    let pair = terminal::Pair::open(spec).map_err(failed)?;
    pair.take_control().map_err(failed)?;
    Ok(pair)
}

/// Ends every other process of the namespace; returns their CPU time.
fn end_all() -> u64 {
    // SAFETY: -1 names all processes of this namespace but this one.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    let mut cpu_us = 0;
    while let Some((_, _, cpu)) = process::wait_any(true) {
        cpu_us += cpu;
    }
    cpu_us
}

/// Builds the walk's root and moves into it. Returns the upper layer.
fn build_root(launch: &Launch) -> Result<OwnedFd, Failure> {
    const NONE: Option<&str> = None;
    let scratch = path(&launch.scratch);
    let lower = path(&launch.lower);
    let (upper, work, root) = (scratch.join("upper"), scratch.join("work"), scratch.join("root"));
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(at("make the mounts private"))?;
    let size = format!("size={},mode=0755", launch.upper_bytes_max);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("oswalk-upper"), scratch, Some("tmpfs"), flags, Some(size.as_str()))
        .map_err(at(format!("mount a tmpfs on {}", scratch.display())))?;
    for dir in [&upper, &work, &root] {
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(dir)
            .map_err(|error| Failure { stage: format!("make {}", dir.display()), error })?;
    }
    let upper_fd = OwnedFd::from(
        std::fs::File::open(&upper)
            .map_err(|error| Failure { stage: "open the upper layer".into(), error })?,
    );
    for dir in [path(&launch.spec.cwd), Path::new("/tmp")] {
        prepare_dir(lower, &upper, dir)
            .map_err(|error| Failure { stage: format!("prepare {}", dir.display()), error })?;
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=off,index=off,xino=off,volatile",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(Some("oswalk"), &root, Some("overlay"), flags, Some(layers.as_str()))
        .map_err(at("mount the overlay"))?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    if !launch.spec.whole_tree {
        for dir in SYSTEM_DIRS {
            let (from, to) = (lower.join(dir), root.join(dir));
            // A symbolic link, as /bin mostly is, leads to a directory that is bound.
            if !std::fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            mount(Some(&from), &to, NONE, bind, NONE)
                .map_err(at(format!("bind {}", from.display())))?;
        }
    }
    mount(Some("proc"), &root.join("proc"), Some("proc"), flags | MsFlags::MS_NOEXEC, NONE)
        .map_err(at("mount /proc"))?;
    if launch.spec.credentials.uid == 0 {
        protect_proc(&root.join("proc"))?;
    }
    // The devices are common to all walks: one may use them, not replace them.
    let dev = root.join("dev");
    mount(Some(path(&launch.dev)), &dev, NONE, bind, NONE).map_err(at("bind /dev"))?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, &dev, NONE, read_only | MsFlags::MS_NOSUID, NONE)
        .map_err(at("make /dev read-only"))?;
    mount(Some("shm"), &dev.join("shm"), Some("tmpfs"), flags, Some("mode=1777"))
        .map_err(at("mount /dev/shm"))?;
    let terminals = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &dev.join("pts"), Some("devpts"), no_exec, terminals)
        .map_err(at("mount /dev/pts"))?;
    std::env::set_current_dir(&root)
        .map_err(|error| Failure { stage: "enter the root".into(), error })?;
    nix::unistd::pivot_root(".", ".").map_err(at("pivot the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(at("detach the old root"))?;
    nix::unistd::sethostname(OsStr::from_bytes(&launch.spec.hostname))
        .map_err(at("set the host name"))?;
    Ok(upper_fd)
}

/// Makes a directory in the upper layer, with those above it, as the overlay would when something is
/// made in it; the overlay asks the lower layer's agent several questions for each.
fn prepare_dir(lower: &Path, upper: &Path, dir: &Path) -> io::Result<()> {
    let (mut below, mut above) = (lower.to_owned(), upper.to_owned());
    for name in dir.components().skip(1) {
        below.push(name);
        above.push(name);
        // A symbolic link on the way: it leads to a directory that is asked for as it is needed.
        let Ok(metadata) = std::fs::symlink_metadata(&below) else { return Ok(()) };
        if !metadata.is_dir() {
            return Ok(());
        }
        match std::fs::DirBuilder::new().mode(metadata.mode() & 0o7777).create(&above) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        lchown(&above, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    // Last, because what is made in a directory moves its time.
    for (above, below) in above.ancestors().zip(below.ancestors()) {
        if above == upper {
            break;
        }
        let metadata = std::fs::symlink_metadata(below)?;
        let time = |seconds, nanos| nix::sys::time::TimeSpec::new(seconds, nanos);
        let (atime, mtime) = (
            time(metadata.atime(), metadata.atime_nsec()),
            time(metadata.mtime(), metadata.mtime_nsec()),
        );
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, above, &atime, &mtime, flags)?;
    }
    Ok(())
}

/// Makes what root could change of the whole machine through `/proc` read-only: the kernel checks
/// there who owns a file, not what its capabilities are.
fn protect_proc(proc: &Path) -> Result<(), Failure> {
    const NONE: Option<&str> = None;
    for name in ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"] {
        let path = proc.join(name);
        if !path.exists() {
            continue;
        }
        let failed = || at(format!("protect {}", path.display()));
        mount(Some(&path), &path, NONE, MsFlags::MS_BIND, NONE).map_err(failed())?;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(NONE, &path, NONE, read_only, NONE).map_err(failed())?;
    }
    Ok(())
}

enum Started {
    Running(nix::unistd::Pid),
    NotExecuted(i32),
}

/// Starts the program and waits until it is executed, or is not.
fn start(
    launch: &Launch,
    descriptors: &[OwnedFd],
    files: &[(u32, File)],
    terminal: Option<&terminal::Pair>,
) -> Result<Started, Failure> {
    let failure = |stage: &str| {
        let stage = stage.to_owned();
        move |error| Failure { stage, error }
    };
    let program = Program::of(&launch.spec).map_err(failure("read the arguments"))?;
    // Closed by a successful exec; otherwise it says why there was none.
    let (verdict, report) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(at("make a pipe"))?;
    let above = above(&launch.spec);
    let report = {
        let low = report;
        move_up(low.as_raw_fd(), above).map_err(failure("move a descriptor"))?
    };
    let spawn = |pid| {
        // SAFETY: this process has one thread, like the launcher it was copied from.
        unsafe { process::clone3(0, pid) }
    };
    // The program keeps the pid it has at the origin, unless that is impossible here.
    let side = match spawn((launch.spec.pid > 1).then_some(launch.spec.pid)) {
        Ok(side) => side,
        Err(_) => spawn(None).map_err(failure("make the process"))?,
    };
    match side {
        Side::Child => {
            let open = Open { descriptors, files, terminal, above };
            let error = enter(launch, &open, &program);
            let errno = error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes();
            let _ = nix::unistd::write(&report, &errno);
            // SAFETY: as in `run`.
            unsafe { libc::_exit(127) }
        }
        Side::Parent(pid) => {
            drop(report);
            let mut errno = [0; 4];
            match nix::unistd::read(&verdict, &mut errno) {
                Ok(4) => Ok(Started::NotExecuted(i32::from_le_bytes(errno))),
                _ => Ok(Started::Running(pid)),
            }
        }
    }
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

/// What the program finds open.
struct Open<'a> {
    descriptors: &'a [OwnedFd],
    files: &'a [(u32, File)],
    terminal: Option<&'a terminal::Pair>,
    /// The first descriptor above all places of the program's.
    above: RawFd,
}

/// Becomes the program. Returns only if that fails.
fn enter(launch: &Launch, open: &Open<'_>, program: &Program) -> io::Error {
    match prepare(launch, open) {
        Ok(()) => match nix::unistd::execve(&program.path, &program.argv, &program.env) {
            Ok(never) => match never {},
            Err(errno) => errno.into(),
        },
        Err(error) => error,
    }
}

fn prepare(launch: &Launch, open: &Open<'_>) -> io::Result<()> {
    let spec = &launch.spec;
    // A group of its own, which a terminal can stop: it has a parent in another one.
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    if let Some(terminal) = open.terminal {
        let mut background = SigSet::empty();
        background.add(Signal::SIGTTOU);
        background.thread_block()?;
        terminal.come_to_foreground()?;
        let owner = nix::unistd::Uid::from_raw(spec.credentials.uid);
        nix::unistd::fchown(&terminal.slave, Some(owner), None)?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(spec.umask));
    // SAFETY: the call takes plain numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, spec.nice) };
    assume_identity(spec)?;
    std::env::set_current_dir(path(&spec.cwd))?;
    place_descriptors(launch, open)?;
    // After that: the limit of descriptors may be lower than the ones in use until here.
    set_limits(spec);
    set_signals(spec);
    Ok(())
}

/// The first descriptor above all places of the program's.
fn above(spec: &WalkSpec) -> RawFd {
    let highest = spec.fds.iter().map(|fd| fd.fd).max().unwrap_or(2).max(63);
    RawFd::try_from(highest + 1).unwrap_or(RawFd::MAX)
}

/// Duplicates a descriptor to one that is at least `above`.
fn move_up(fd: RawFd, above: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes plain numbers.
    let high = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, above) };
    if high < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(high) })
}

/// Puts every descriptor in its place. They are first moved out of the way of the places.
fn place_descriptors(launch: &Launch, open: &Open<'_>) -> io::Result<()> {
    let &Open { descriptors, files, terminal, above } = open;
    let number = |fd: u32| RawFd::try_from(fd).map_err(io::Error::other);
    let mut places = Vec::new();
    for &(place, index) in &launch.fds {
        let fd = descriptors
            .get(index as usize)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        places.push((number(place)?, move_up(fd.as_raw_fd(), above)?));
    }
    for (place, file) in files {
        places.push((number(*place)?, move_up(file.as_raw_fd(), above)?));
    }
    if let Some(terminal) = terminal {
        let all = launch.spec.fds.iter().filter(|fd| fd.kind == FdKind::Terminal);
        for fd in all {
            places.push((number(fd.fd)?, move_up(terminal.slave.as_raw_fd(), above)?));
        }
    }
    // SAFETY: every descriptor below `above` is either placed anew next or meant to be closed;
    // nothing in this process uses them any more.
    unsafe { libc::syscall(libc::SYS_close_range, 0, above - 1, 0) };
    for (place, fd) in places {
        // SAFETY: the call takes plain numbers.
        if unsafe { libc::dup2(fd.as_raw_fd(), place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Opens the files that the process had open for reading, and goes on where it stood. They stay
/// open here as well, to tell how far the program has read.
fn open_files(spec: &WalkSpec) -> Result<Vec<(u32, File)>, Failure> {
    let mut files = Vec::new();
    for fd in &spec.fds {
        if let FdKind::File { path: name, offset } = &fd.kind {
            let stage = || format!("open {}", path(name).display());
            let open = || -> io::Result<File> {
                let mut file = File::open(path(name))?;
                file.seek(io::SeekFrom::Start(*offset))?;
                Ok(file)
            };
            files.push((fd.fd, open().map_err(|error| Failure { stage: stage(), error })?));
        }
    }
    Ok(files)
}

fn set_limits(spec: &WalkSpec) {
    for (resource, &(soft, hard)) in (0..).zip(&spec.rlimits) {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: the limit lives during the call. One that cannot be set (above our own) stays.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    }
}

fn assume_identity(spec: &WalkSpec) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let who = &spec.credentials;
    let groups: Vec<Gid> = who.groups.iter().map(|&group| Gid::from_raw(group)).collect();
    for capability in (0..CAPABILITIES).filter(|number| !KEPT_CAPABILITIES.contains(number)) {
        // SAFETY: the call takes plain numbers. A kernel that does not know one refuses it.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // SAFETY: the call takes plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the program the dispositions and the mask it would have at the origin.
fn set_signals(spec: &WalkSpec) {
    for number in 1..=64 {
        let ignored = spec.ignored & (1 << (number - 1)) != 0;
        let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: both dispositions are valid for any signal; KILL and STOP are refused.
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

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
