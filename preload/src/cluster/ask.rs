//! Asks the agent for the root of the mount: one frame at its door, which is answered with a descriptor.

use core::ffi::{CStr, c_int};

use worknode::door::{HEADER_BYTES, Header, Kind};

use crate::sys::socket;

/// Longest wait for the agent. A program that waits for a file does not wait for ever.
const ANSWER_S_MAX: i64 = 2;

/// Why there is no root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The agent has no such mount, or does not lend it.
    Refused,
    /// The agent does not answer.
    Unreachable,
}

/// Returns a new descriptor of the root of the volume that the agent has mounted at `point`.
pub(super) fn for_root(door: &CStr, point: &[u8]) -> Result<c_int, Lack> {
    let fd = socket::connect(door, ANSWER_S_MAX).ok_or(Lack::Unreachable)?;
    let root = talk(fd, point);
    crate::sys::close(fd);
    root
}

fn talk(fd: c_int, point: &[u8]) -> Result<c_int, Lack> {
    let payload_bytes = u32::try_from(point.len()).map_err(|_| Lack::Refused)?;
    let header = Header { kind: Kind::Root, fd: 0, payload_bytes }.encode();
    if !socket::send(fd, &header) || !socket::send(fd, point) {
        return Err(Lack::Unreachable);
    }
    let mut answer = [0; HEADER_BYTES];
    let descriptor = socket::receive(fd, &mut answer).ok_or(Lack::Unreachable)?;
    match (Header::decode(answer).map(|header| header.kind), descriptor) {
        (Some(Kind::Root), Some(root)) => Ok(root),
        (_, descriptor) => {
            descriptor.into_iter().for_each(crate::sys::close);
            Err(Lack::Refused)
        }
    }
}
