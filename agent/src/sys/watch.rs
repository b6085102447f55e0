//! Descriptors that the runtime watches.
#![expect(unsafe_code, reason = "tokio cannot see that an owner keeps its descriptor")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owner of exactly one descriptor, which it keeps until it is dropped.
pub(crate) trait Owner: AsRawFd {}
impl Owner for OwnedFd {}
impl Owner for UnixStream {}
impl Owner for UnixListener {}
impl Owner for Clock {}

/// Watches for something to read.
///
/// # Errors
/// The runtime cannot watch it.
pub(crate) fn readable<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an owner's descriptor stays open, and the same, for as long as the owner lives.
    let watched = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    Ok(watched?)
}

/// Watches for room to write.
///
/// # Errors
/// The runtime cannot watch it.
pub(crate) fn writable<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: as above.
    let watched = unsafe { AsyncFd::register_with_interest(owner, Interest::WRITABLE) };
    Ok(watched?)
}

/// Watches for something to read, and for room to write.
///
/// # Errors
/// The runtime cannot watch it.
pub(crate) fn both<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: as above.
    let watched =
        unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE | Interest::WRITABLE) };
    Ok(watched?)
}

/// Watches for the end of a process: when it is gone there is something to read.
///
/// # Errors
/// There is no such process, or none that can be seen from here.
pub(crate) fn process(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    readable(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A timer of the kernel's. It wakes the agent once, where the runtime's own wakes it two or three
/// times on the way to a moment that is far off: it is meant for what happens for ever.
#[derive(Debug)]
pub(crate) struct Timer {
    timer: AsyncFd<Clock>,
}

#[derive(Debug)]
struct Clock(TimerFd);

impl AsRawFd for Clock {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// Makes a timer.
    ///
    /// # Errors
    /// The kernel or the runtime has none to give.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self { timer: readable(Clock(timer))? })
    }

    /// Ends after a time.
    pub(crate) async fn wait(&self, pause: Duration) {
        let moment = Expiration::OneShot(pause.into());
        let set = self.timer.get_ref().0.set(moment, TimerSetTimeFlags::empty());
        let ready = match set {
            Ok(()) => self.timer.readable().await,
            Err(errno) => Err(errno.into()),
        };
        match ready {
            Ok(mut ready) => {
                // What is read is how often it has expired.
                let _ = self.timer.get_ref().0.wait();
                ready.clear_ready();
            }
            // Never seen; a pause it must be all the same.
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}
