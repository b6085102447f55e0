//! Payloads of frames about one descriptor of a walk: its number, followed by the payload of the door's frame.

/// Encodes a payload about a descriptor.
#[must_use]
pub fn about(fd: u8, what: &[u8]) -> Vec<u8> {
    [&[fd], what].concat()
}

/// Splits a payload into the descriptor and the rest.
#[must_use]
pub fn split(payload: &[u8]) -> Option<(u8, &[u8])> {
    payload.split_first().map(|(&fd, what)| (fd, what))
}
