//! Messages with descriptors over unix sockets; what else is done with descriptors.
#![expect(
    unsafe_code,
    reason = "closes descriptors that nothing owns, and leases have no safe wrapper"
)]

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::fcntl_setpipe_size;

/// The kernel's limit of descriptors in one message (`SCM_MAX_FD`).
pub(crate) const FDS_MAX: usize = 253;
/// Size of the ancillary data for the most descriptors.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));
/// Longest message: the kernel allows 6 MiB of arguments and environment.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Sends a message and descriptors.
///
/// # Errors
/// The other side is gone.
pub(crate) fn send(
    mut socket: &UnixStream,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let head = u32::try_from(message.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL.into());
    }
    // In one call, so that a reader that sees the head of a short message can read it all.
    let parts = [IoSlice::new(&head), IoSlice::new(message)];
    let sent = sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    match sent.checked_sub(head.len()) {
        Some(sent) => socket.write_all(&message[sent..]),
        None => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives a message and its descriptors; `None` at the end of the stream.
///
/// # Errors
/// The stream broke off, or a message is too long.
pub(crate) fn receive(mut socket: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut head = [0; 4];
    let mut fds = Vec::new();
    let received = {
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut head)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let message = retry_on_intr(|| recvmsg(socket, &mut parts, &mut control, flags))?;
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::NOBUFS.into());
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        message.bytes
    };
    match received {
        0 => return Ok(None),
        4 => {}
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    socket.read_exact(&mut message)?;
    Ok(Some((message, fds)))
}

/// Closes all descriptors above the standard ones except `kept`, so that descriptors which the process
/// inherited unknowingly, for example from a shell, do not leak into its children.
///
/// # Errors
/// The kernel does not support it (before Linux 5.9).
///
/// # Safety
/// Nothing in this process uses any of the others again, or closes it.
pub(crate) unsafe fn keep_only(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut from = libc::STDERR_FILENO + 1;
    for fd in kept {
        if fd > from {
            // SAFETY: the caller vouches for all that are not kept.
            unsafe { close_range(from, fd - 1) }?;
        }
        from = from.max(fd + 1);
    }
    // SAFETY: as above.
    unsafe { close_range(from, RawFd::MAX) }
}

/// Closes all descriptors from `first` to `last`.
///
/// # Errors
/// The kernel does not support it (before Linux 5.9).
///
/// # Safety
/// Nothing in this process uses any of them again, or closes it.
pub(super) unsafe fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: the call takes plain numbers; the caller vouches for the descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets a pipe's capacity, if permitted.
pub(crate) fn widen(pipe: &impl AsFd, bytes: usize) {
    let _ = fcntl_setpipe_size(pipe, bytes);
}

/// Tells whether anybody has a file of this process open besides it. Then the kernel grants no lease for writing.
pub(crate) fn is_open_elsewhere(file: &impl AsFd) -> bool {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call takes plain numbers.
    let result = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) };
    result != 0
}

/// Returns the number of unread bytes in a pipe.
///
/// # Errors
/// The descriptor is not a pipe.
pub(crate) fn unread(pipe: &impl AsFd) -> io::Result<usize> {
    Ok(usize::try_from(ioctl_fionread(pipe)?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        send(&near, b"take this", &[writer.as_fd()]).expect("the other side is there");
        drop(writer);
        let (message, fds) = receive(&far).expect("sound").expect("not at its end");
        assert_eq!(message, b"take this");
        let mut writer = std::fs::File::from(fds.into_iter().next().expect("one descriptor"));
        writer.write_all(b"x").expect("the pipe is open");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "x");
        drop(near);
        assert!(receive(&far).expect("sound").is_none());
    }
}
