//! Payloads of frames about one descriptor of a walk: its number, and then what the door says of it.

/// Returns the payload that says this of a descriptor.
#[must_use]
pub fn about(fd: u8, what: &[u8]) -> Vec<u8> {
    [&[fd], what].concat()
}

/// Returns the descriptor, and what is said of it.
#[must_use]
pub fn split(payload: &[u8]) -> Option<(u8, &[u8])> {
    payload.split_first().map(|(&fd, what)| (fd, what))
}
