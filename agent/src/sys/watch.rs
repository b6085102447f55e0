//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owner of exactly one descriptor, which it keeps until it is dropped.
pub(crate) trait Owner: AsRawFd {}
impl Owner for OwnedFd {}
impl Owner for UnixStream {}

/// Watches for something to read.
///
/// # Errors
/// The runtime cannot watch it.
pub(crate) fn readable<T: Owner>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an owner's descriptor stays open, and the same, for as long as the owner lives.
    let watched = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
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
