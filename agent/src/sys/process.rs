//! Making processes with the flags that `fork` has not got.

use std::io;

use nix::unistd::Pid;

/// Which side of a [`clone3`] this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The caller, with the new process's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a process in new namespaces, with the given pid in the innermost one, if any.
///
/// # Errors
/// The kernel refuses; `EEXIST` if the pid is taken.
///
/// # Safety
/// The calling process has only one thread.
pub(crate) unsafe fn clone3(namespaces: libc::c_int, pid: Option<u32>) -> io::Result<Side> {
    let pids = [pid.and_then(|pid| libc::pid_t::try_from(pid).ok()).unwrap_or(0)];
    let arguments = libc::clone_args {
        flags: u64::try_from(namespaces).map_err(io::Error::other)?,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::try_from(libc::SIGCHLD).map_err(io::Error::other)?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: if pid.is_some() { pids.as_ptr() as u64 } else { 0 },
        set_tid_size: u64::from(pid.is_some()),
        cgroup: 0,
    };
    // SAFETY: the arguments live during the call, and without a stack of its own and CLONE_VM the
    // child is a copy, as after fork.
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

/// Gives the calling process the signal when its parent dies.
pub(crate) fn die_with_parent() {
    // SAFETY: the call takes plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// Names the calling process, for `ps`.
pub(crate) fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the kernel reads up to 16 bytes of a NUL-terminated name.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// User and system time of a resource usage, in microseconds.
#[must_use]
pub(crate) fn cpu_us(usage: &libc::rusage) -> u64 {
    let us =
        |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0);
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// CPU time of the calling process and of its children that ended, in microseconds.
#[must_use]
pub(crate) fn own_cpu_us() -> u64 {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(usage_us).sum()
}

fn usage_us(who: libc::c_int) -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, which is zeroed anyway.
    unsafe { libc::getrusage(who, usage.as_mut_ptr()) };
    // SAFETY: all-zero bytes are a valid rusage.
    cpu_us(unsafe { usage.assume_init_ref() })
}

/// Waits for any child that ended, or without `block` also for one that stopped; nothing if there is
/// none (left, or so far).
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

/// Opens a process, to wait for its end.
///
/// # Errors
/// There is no such process.
pub(crate) fn open(pid: u32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the call takes plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match libc::c_int::try_from(fd) {
        // SAFETY: the descriptor was just made, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU time that a process has used so far, in nanoseconds; 0 if it is gone.
#[must_use]
pub(crate) fn cpu_ns_of(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}
