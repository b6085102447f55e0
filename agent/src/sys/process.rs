//! Creates processes in ways that `fork` cannot, and reads their CPU time and state.
#![expect(unsafe_code, reason = "clone, wait4 and stacks of children")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::time::ClockId;
use nix::unistd::Pid;

/// `CLONE_INTO_CGROUP`.
const INTO_GROUP: u64 = 0x2_0000_0000;

/// Which side of a [`clone3`] this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The caller, with the new process's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks a process into new namespaces, and into a version 2 control group if one is given.
///
/// # Errors
/// The kernel refuses.
///
/// # Safety
/// The calling process has only one thread.
pub(crate) unsafe fn fork_into(
    namespaces: libc::c_int,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<Side> {
    let namespaces = u64::try_from(namespaces).map_err(io::Error::other)?;
    let (into, cgroup) = match group {
        Some(group) => (INTO_GROUP, u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?),
        None => (0, 0),
    };
    let arguments = libc::clone_args {
        flags: namespaces | into,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::try_from(libc::SIGCHLD).map_err(io::Error::other)?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: the arguments live during the call. Without CLONE_VM and a stack of its own, the child is a
    // copy, as after fork.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => {
            Ok(Side::Parent(Pid::from_raw(libc::pid_t::try_from(pid).map_err(io::Error::other)?)))
        }
    }
}

/// A stack for a [`spawn`]ed process, with a guard page below it.
#[derive(Debug)]
pub(crate) struct Stack {
    lowest: *mut libc::c_void,
}

impl Stack {
    const BYTES: usize = 128 * 1024;
    const GUARD_BYTES: usize = 4096;

    /// Allocates a stack.
    ///
    /// # Errors
    /// Memory is exhausted.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping overlaps no other.
        let lowest = unsafe { libc::mmap(std::ptr::null_mut(), Self::BYTES, access, flags, -1, 0) };
        if lowest == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { lowest };
        // SAFETY: the page belongs to the mapping and is unused.
        match unsafe { libc::mprotect(lowest, Self::GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn top(&self) -> *mut libc::c_void {
        self.lowest.wrapping_byte_add(Self::BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and the process that used it has ended or executed a program.
        unsafe { libc::munmap(self.lowest, Self::BYTES) };
    }
}

/// Runs `work` in a new process, as after `vfork`: both share their memory, and the caller is suspended until
/// the new process executes a program or ends. Nothing is copied.
///
/// # Errors
/// The kernel refuses.
///
/// # Safety
/// The calling process has only one thread. The caller can cope with all changes that `work` makes in memory.
pub(crate) unsafe fn spawn<W: FnMut()>(stack: &mut Stack, mut work: W) -> io::Result<Pid> {
    extern "C" fn enter<W: FnMut()>(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the pointer is to the caller's `work`, and the caller is suspended.
        let work = unsafe { &mut *work.cast::<W>() };
        work();
        // SAFETY: `_exit` skips exit handlers, which belong to the caller.
        unsafe { libc::_exit(127) }
    }
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is large enough and unused; `work` lives until the call returns, which is after
    // the new process has left this memory.
    let pid = unsafe { libc::clone(enter::<W>, stack.top(), flags, (&raw mut work).cast()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// Prefaults the calling process's writable pages. Otherwise a forked process copies them one by one while a
/// walk waits. Failures are ignored.
pub(crate) fn populate() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let number = |text| usize::from_str_radix(text, 16);
        let (Ok(start), Ok(end)) = (number(start), number(end)) else { continue };
        if !rest.starts_with("rw-p") {
            continue;
        }
        let (start, advice) = (std::ptr::without_provenance_mut(start), libc::MADV_POPULATE_WRITE);
        // SAFETY: populating pages does not change their content.
        unsafe { libc::madvise(start, end - start.addr(), advice) };
    }
}

/// Has the calling process killed when its parent dies.
pub(crate) fn die_with_parent() {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
}

/// Gives the calling process a new session keyring, without its parent's keys.
///
/// # Errors
/// The user's key quota is exhausted.
pub(super) fn join_new_keyring() -> io::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: the call takes a number and no name.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match result {
        // The kernel has no keyrings.
        -1 if io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) => {
            Err(io::Error::last_os_error())
        }
        _ => Ok(()),
    }
}

/// Sets the calling process's name, for `ps`.
pub(crate) fn set_name(name: &std::ffi::CStr) {
    let _ = prctl::set_name(name);
}

/// User and system time of a resource usage, in microseconds.
fn cpu_us(usage: &libc::rusage) -> u64 {
    let us =
        |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0);
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// CPU time of the calling process and of its children that ended, in microseconds.
#[must_use]
pub(crate) fn own_cpu_us() -> u64 {
    let both = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN];
    both.into_iter().flat_map(getrusage).map(|usage| cpu_us(usage.as_ref())).sum()
}

/// Waits for any child to end. Without `block`, returns at once, and also reports stopped children. Returns
/// `None` if there is no such child.
pub(crate) fn wait_any(block: bool) -> Option<(Pid, i32, u64)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let flags = if block { 0 } else { libc::WNOHANG | libc::WUNTRACED };
    loop {
        // SAFETY: the kernel fills status and usage.
        let pid = unsafe { libc::wait4(-1, &raw mut status, flags, usage.as_mut_ptr()) };
        if pid > 0 {
            // SAFETY: the kernel has filled it.
            let cpu = cpu_us(unsafe { usage.assume_init_ref() });
            return Some((Pid::from_raw(pid), status, cpu));
        }
        if pid == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

/// CPU time that a process has used so far; zero if it is gone.
#[must_use]
pub(crate) fn cpu_of(pid: u32) -> Duration {
    // A process of another pid namespace has pid 0, which would mean the calling process.
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0).map(Pid::from_raw);
    let time = pid.and_then(|pid| ClockId::pid_cpu_clock_id(pid).ok()?.now().ok());
    time.map(Duration::from).unwrap_or_default()
}

/// A process's state in `/proc`, read anew by each method.
#[derive(Debug)]
pub(crate) struct Status {
    file: File,
}

/// Most processes between a shell and one that it has started to open a session: a fork for `$(…)`, and few others.
const BETWEEN_MAX: usize = 8;

/// Returns the user of a process, if there is one.
pub(crate) fn user(pid: u32) -> Option<u32> {
    Some(std::fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// A namespace: the device and the number of its file in `/proc`.
pub(crate) type Namespace = (u64, u64);

/// Returns the mount namespace of a process, if it can be told.
pub(crate) fn mount_namespace(pid: u32) -> Option<Namespace> {
    let namespace = std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some((namespace.dev(), namespace.ino()))
}

/// Tells whether a process is above another one, a few steps at most.
pub(crate) fn is_above(above: u32, pid: u32) -> bool {
    let parent = |pid: &u32| Status::open(*pid).ok()?.parent();
    std::iter::successors(parent(&pid), parent).take(BETWEEN_MAX).any(|pid| pid == above)
}

impl Status {
    /// Opens a process's state.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{pid}/stat"))? })
    }

    /// Tells whether the process is stopped, as by SIGSTOP.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state_and_on().starts_with('T')
    }

    /// Returns the parent of the process.
    pub(crate) fn parent(&self) -> Option<u32> {
        self.state_and_on().split(' ').nth(1)?.parse().ok()
    }

    /// Returns the fields after the name, which may contain anything; empty if the process is gone.
    fn state_and_on(&self) -> String {
        let line = read_line(&self.file);
        line.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    }
}

/// Reads a one-line file of `/proc` in one call; empty if its process is gone. The standard library would first query
/// the size, which is 0, and then probe for the end.
fn read_line(file: &File) -> String {
    const LINE_BYTES_MAX: usize = 1024;
    let mut line = [0; LINE_BYTES_MAX];
    let read = file.read_at(&mut line, 0).unwrap_or(0);
    String::from_utf8_lossy(&line[..read]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_a_process() {
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        assert!(is_above(parent, own) && !is_above(own, own) && !is_above(own, parent));
        assert!(!is_above(own, u32::MAX), "there is no such process");
    }
}
