//! Registers descriptors with the async runtime.
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

/// An owner of exactly one descriptor, which it keeps open until it is dropped.
pub(crate) trait Owner: AsRawFd {}
impl Owner for OwnedFd {}
impl Owner for UnixStream {}
impl Owner for UnixListener {}
impl Owner for Clock {}

/// Registers for readability.
///
/// # Errors
/// The runtime refuses the descriptor.
pub(crate) fn readable<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an owner's descriptor stays open and the same as long as the owner lives.
    let watched = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    Ok(watched?)
}

/// Registers for writability.
///
/// # Errors
/// The runtime refuses the descriptor.
pub(crate) fn writable<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: as above.
    let watched = unsafe { AsyncFd::register_with_interest(owner, Interest::WRITABLE) };
    Ok(watched?)
}

/// Registers for both.
///
/// # Errors
/// The runtime refuses the descriptor.
pub(crate) fn both<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: as above.
    let watched =
        unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE | Interest::WRITABLE) };
    Ok(watched?)
}

/// Registers for a process's end: its pidfd then becomes readable.
///
/// # Errors
/// There is no such process, or it is not visible here.
pub(crate) fn process(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    readable(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A timerfd. It wakes the agent once, while a distant deadline of the runtime's own timer wheel causes two or three
/// wake-ups. It is meant for tasks that repeat forever.
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
    /// The kernel or the runtime refuses.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self { timer: readable(Clock(timer))? })
    }

    /// Completes after `pause`.
    pub(crate) async fn wait(&self, pause: Duration) {
        let moment = Expiration::OneShot(pause.into());
        let set = self.timer.get_ref().0.set(moment, TimerSetTimeFlags::empty());
        let ready = match set {
            Ok(()) => self.timer.readable().await,
            Err(errno) => Err(errno.into()),
        };
        match ready {
            Ok(mut ready) => {
                // The value read is the number of expirations.
                let _ = self.timer.get_ref().0.wait();
                ready.clear_ready();
            }
            // Should not happen; pause by the runtime's timer instead.
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}
