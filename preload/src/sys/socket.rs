//! [unsafe] System calls of a unix socket on which a descriptor arrives.

use core::ffi::{CStr, c_int};

use super::{call, close, descriptor, word};

const SENDTO: usize = 44;
const RECVMSG: usize = 47;
const SOCKET: usize = 41;
const CONNECT: usize = 42;
const SETSOCKOPT: usize = 54;
const AF_UNIX: u16 = 1;
const SOCK_STREAM: usize = 1;
const SOCK_CLOEXEC: usize = 0o2_000_000;
const SOL_SOCKET: i32 = 1;
const SO_RCVTIMEO: usize = 20;
const SO_SNDTIMEO: usize = 21;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
const SCM_RIGHTS: i32 = 1;
const EINTR: c_int = 4;
/// Longest path of a unix socket, with its NUL.
const PATH_BYTES_MAX: usize = 108;
/// Most tries of a call that signals interrupt.
const TRIES_MAX: usize = 100;

/// The kernel's `struct sockaddr_un`.
#[repr(C)]
struct Address {
    family: u16,
    path: [u8; PATH_BYTES_MAX],
}

/// The kernel's `struct iovec`.
#[repr(C)]
struct Part {
    first: *mut u8,
    bytes: usize,
}

/// The kernel's `struct msghdr`.
#[repr(C)]
struct Message {
    name: *mut u8,
    name_bytes: u32,
    parts: *mut Part,
    part_count: usize,
    control: *mut Control,
    control_bytes: usize,
    flags: i32,
}

/// The kernel's `struct cmsghdr` with one descriptor.
#[repr(C, align(8))]
struct Control {
    bytes: usize,
    level: i32,
    kind: i32,
    descriptor: c_int,
    padding: c_int,
}

/// Bytes of a control message with one descriptor, without padding.
const CONTROL_BYTES: usize = 20;

/// Connects to a socket whose calls wait for so many seconds at most.
pub(crate) fn connect(path: &CStr, seconds_max: i64) -> Option<c_int> {
    let mut address = Address { family: AF_UNIX, path: [0; PATH_BYTES_MAX] };
    let path = path.to_bytes_with_nul();
    address.path.get_mut(..path.len())?.copy_from_slice(path);
    let arguments = [usize::from(AF_UNIX), SOCK_STREAM | SOCK_CLOEXEC, 0, 0, 0, 0];
    // SAFETY: the call touches no memory.
    let fd = unsafe { call(SOCKET, arguments) }.ok().map(descriptor)?;
    let wait: [i64; 2] = [seconds_max, 0];
    for option in [SO_SNDTIMEO, SO_RCVTIMEO] {
        let value = wait.as_ptr().addr();
        let arguments = [word(fd), word(SOL_SOCKET), option, value, size_of_val(&wait), 0];
        // SAFETY: the kernel reads a `struct timeval`, which is live.
        let _ = unsafe { call(SETSOCKOPT, arguments) };
    }
    let arguments = [word(fd), (&raw const address).addr(), size_of::<Address>(), 0, 0, 0];
    // SAFETY: the kernel reads the address, which is live.
    if again(|| unsafe { call(CONNECT, arguments) }).is_none() {
        close(fd);
        return None;
    }
    Some(fd)
}

/// Sends all bytes, which fit into the socket's buffer.
pub(crate) fn send(fd: c_int, bytes: &[u8]) -> bool {
    let arguments = [word(fd), bytes.as_ptr().addr(), bytes.len(), MSG_NOSIGNAL, 0, 0];
    // SAFETY: the kernel reads the slice.
    again(|| unsafe { call(SENDTO, arguments) }) == Some(bytes.len())
}

/// Fills `bytes` from one message; returns the descriptor that came with it, if one did.
pub(crate) fn receive(fd: c_int, bytes: &mut [u8]) -> Option<Option<c_int>> {
    let mut part = Part { first: bytes.as_mut_ptr(), bytes: bytes.len() };
    let mut control = Control { bytes: 0, level: 0, kind: 0, descriptor: -1, padding: 0 };
    let mut message = Message {
        name: core::ptr::null_mut(),
        name_bytes: 0,
        parts: &raw mut part,
        part_count: 1,
        control: &raw mut control,
        control_bytes: size_of::<Control>(),
        flags: 0,
    };
    let arguments = [word(fd), (&raw mut message).addr(), MSG_CMSG_CLOEXEC, 0, 0, 0];
    // SAFETY: the message names only live memory, with its sizes.
    let received = again(|| unsafe { call(RECVMSG, arguments) })?;
    let came = message.control_bytes >= CONTROL_BYTES
        && (control.bytes, control.level, control.kind) == (CONTROL_BYTES, SOL_SOCKET, SCM_RIGHTS)
        && control.descriptor >= 0;
    let came = came.then_some(control.descriptor);
    if received != bytes.len() {
        came.into_iter().for_each(close);
        return None;
    }
    Some(came)
}

/// Makes a call again when a signal has interrupted it.
fn again(mut call: impl FnMut() -> Result<usize, c_int>) -> Option<usize> {
    (0..TRIES_MAX)
        .find_map(|_| match call() {
            Err(EINTR) => None,
            result => Some(result),
        })?
        .ok()
}
