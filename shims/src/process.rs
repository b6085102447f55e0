//! [unsafe] Runs the command: in the place of this process, or as a child whose end this process
//! imitates. Either way it has the signal dispositions that it would have natively.
#![expect(unsafe_code, reason = "signal dispositions, vfork and pre_exec")]

use std::cell::Cell;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;
use nix::sched::{CloneFlags, clone, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, raise, sigaction,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, execvpe, setsid};

use crate::program::Program;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(u8),
    Killed(Signal),
}

/// Signals that the terminal also sends to the child, which alone reacts to them.
const FROM_TERMINAL: [Signal; 2] = [Signal::SIGINT, Signal::SIGQUIT];
/// Signals that are sent to this process but meant for the child.
const FORWARDED: [Signal; 2] = [Signal::SIGTERM, Signal::SIGHUP];

/// The disposition of SIGPIPE that this process inherited. Rust's runtime changes it before `main`.
static NATURAL_SIGPIPE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Runs before `main` and Rust's runtime.
extern "C" fn note_sigpipe() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: only queries; the kernel fills `action`.
    if unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr()) } == 0 {
        // SAFETY: the call succeeded, so the kernel has filled it.
        let action = unsafe { action.assume_init() };
        NATURAL_SIGPIPE.store(action.sa_sigaction, Ordering::Relaxed);
    }
}

/// Duplicates a descriptor that is known only by its number. Both share an offset.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: touches no memory; the kernel refuses a number that is not open.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just created it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Stack that a child needs until it executes a program, besides a copy of its arguments.
const STACK_BYTES: usize = 64 * 1024;

/// Executes a program in the place of this process. Returns only if that fails.
pub(crate) fn replace(program: &Program) -> io::Error {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    if NATURAL_SIGPIPE.load(Ordering::Relaxed) != libc::SIG_IGN
        && let Err(error) = act(Signal::SIGPIPE, &default)
    {
        return error;
    }
    execute(program)
}

/// Runs a program to its end.
pub(crate) fn run(program: &Program) -> io::Result<Ending> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // If SIGCHLD were ignored, the kernel would reap the child before its status is read.
    let sigpipe = NATURAL_SIGPIPE.load(Ordering::Relaxed);
    let mut natural = vec![
        (Signal::SIGCHLD, act(Signal::SIGCHLD, &default)?),
        (Signal::SIGPIPE, if sigpipe == libc::SIG_IGN { ignore } else { default }),
    ];
    let mut awaited = SigSet::from_iter(FORWARDED);
    awaited.add(Signal::SIGCHLD);
    let natural_mask = awaited.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    for signal in FROM_TERMINAL {
        natural.push((signal, act(signal, &ignore)?));
    }
    let restore = move || {
        for (signal, action) in &natural {
            act(*signal, action)?;
        }
        Ok(natural_mask.thread_set_mask()?)
    };
    wait(spawn(program, &restore)?, &awaited)
}

/// Starts a program. As with `vfork`, parent and child share their memory, and the parent is suspended
/// until the child has executed the program or exited.
fn spawn(program: &Program, prepare: &dyn Fn() -> io::Result<()>) -> io::Result<Pid> {
    let failure = Cell::new(None);
    let work = || {
        failure.set(Some(prepare().err().unwrap_or_else(|| execute(program))));
        127
    };
    // For a script without an interpreter line, execvpe copies the arguments to the stack.
    let mut stack = vec![0; STACK_BYTES + size_of::<usize>() * program.words().len()];
    let (flags, signal) = (CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK, Some(libc::SIGCHLD));
    // SAFETY: the stack is large enough for `work`, which leaves nothing in the shared memory but
    // `failure` and what it allocates; the only thread of this process is suspended meanwhile.
    let child = unsafe { clone(Box::new(work), &mut stack, flags, signal) }?;
    match failure.take() {
        None => Ok(child),
        Some(error) => {
            waitpid(child, None)?;
            Err(error)
        }
    }
}

/// Executes the program in the place of this process. Returns only if that fails.
fn execute(program: &Program) -> io::Error {
    match execvpe(program.file(), program.words(), program.environment()) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

fn wait(child: Pid, awaited: &SigSet) -> io::Result<Ending> {
    loop {
        match awaited.wait()? {
            Signal::SIGCHLD => match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::Exited(_, code) => {
                    return Ok(Ending::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
                }
                WaitStatus::Signaled(_, signal, _) => return Ok(Ending::Killed(signal)),
                _ => {}
            },
            // Fails only if the child has just ended.
            signal => drop(kill(child, signal)),
        }
    }
}

/// Ends this process by the signal, without a core dump.
pub(crate) fn die_by(signal: Signal) {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = act(signal, &default);
    let _ = SigSet::from_iter([signal]).thread_unblock();
    let _ = raise(signal);
}

/// Makes the command the leader of a new session, without this terminal.
pub(crate) fn detach(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
}

/// Tries in a child whether new namespaces can be created.
pub(crate) fn may_unshare(flags: CloneFlags) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdout(std::process::Stdio::null());
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(move || Ok(unshare(flags)?)) };
    command.status().map(drop)
}

fn act(signal: Signal, action: &SigAction) -> io::Result<SigAction> {
    // SAFETY: the action is SIG_IGN, SIG_DFL or the inherited one, so no handler of this process.
    Ok(unsafe { sigaction(signal, action) }?)
}
