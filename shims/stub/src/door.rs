//! Frames over the agent's socket.

use worknode::door::{DATA_BYTES_MAX, HEADER_BYTES, Header, Kind};

use crate::sys::{self, Part};

/// The stub's own descriptors start at this number, so that no frame names one of them by mistake.
pub(crate) const LEAST_DESCRIPTOR: usize = 100;

/// The agent is gone, or violates the protocol.
#[derive(Debug)]
pub(crate) struct Lost;

/// Writes all parts.
pub(crate) fn send_parts(fd: i32, mut parts: &mut [Part<'_>]) -> Result<(), Lost> {
    while let Some(first) = parts.first() {
        if first.bytes() == 0 {
            parts = &mut parts[1..];
            continue;
        }
        let mut written = match sys::write_parts(fd, parts) {
            Ok(written) => written,
            Err(sys::EINTR) => continue,
            Err(_) => return Err(Lost),
        };
        for part in parts.iter_mut() {
            let whole = part.bytes().min(written);
            part.skip(whole);
            written -= whole;
        }
    }
    Ok(())
}

/// Sends one frame.
pub(crate) fn send(fd: i32, kind: Kind, about: u16, payload: &[u8]) -> Result<(), Lost> {
    let payload_bytes = u32::try_from(payload.len()).map_err(|_| Lost)?;
    let header = Header { kind, fd: about, payload_bytes }.encode();
    send_parts(fd, &mut [Part::of(&header), Part::of(payload)])
}

/// Bytes from the agent that were not processed yet.
#[derive(Debug)]
pub(crate) struct Inbox<'r> {
    bytes: &'r mut [u8],
    start: usize,
    end: usize,
}

impl<'r> Inbox<'r> {
    /// Makes an inbox of a buffer that has room for the longest frame.
    pub(crate) fn new(bytes: &'r mut [u8]) -> Self {
        Self { bytes, start: 0, end: 0 }
    }

    /// Receives what is available, or waits if there is nothing.
    pub(crate) fn fill(&mut self, fd: i32) -> Result<(), Lost> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match sys::read(fd, &mut self.bytes[self.end..]) {
            Ok(0) => Err(Lost),
            Ok(length) => {
                self.end += length;
                Ok(())
            }
            Err(sys::EINTR | sys::EAGAIN) => Ok(()),
            Err(_) => Err(Lost),
        }
    }

    /// Returns the next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<(Header, &[u8])>, Lost> {
        let Some((header, rest)) = self.bytes[self.start..self.end].split_first_chunk() else {
            return Ok(None);
        };
        let header = Header::decode(*header).ok_or(Lost)?;
        let payload_bytes = usize::try_from(header.payload_bytes).map_err(|_| Lost)?;
        if payload_bytes > DATA_BYTES_MAX {
            return Err(Lost);
        }
        let Some(payload) = rest.get(..payload_bytes) else { return Ok(None) };
        self.start += HEADER_BYTES + payload_bytes;
        Ok(Some((header, payload)))
    }
}
