//! Room for paths, and paths behind descriptors.

use core::ffi::{CStr, c_int};

use crate::sys;

/// Longest path, with its NUL, that the kernel accepts (`PATH_MAX`).
pub(crate) const PATH_BYTES_MAX: usize = 4096;
const DESCRIPTORS: &[u8] = b"/proc/self/fd/";

/// Room for a path, on the stack or in other memory.
#[derive(Debug)]
pub(crate) struct PathBuffer<B = [u8; PATH_BYTES_MAX]> {
    bytes: B,
    length: usize,
}

impl PathBuffer {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; PATH_BYTES_MAX], length: 0 }
    }
}

impl<'m> PathBuffer<&'m mut [u8]> {
    pub(crate) fn in_room(bytes: &'m mut [u8]) -> Self {
        Self { bytes, length: 0 }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> PathBuffer<B> {
    /// Writes the parts one after the other; returns the path, or `None` if it is too long.
    pub(crate) fn join(&mut self, parts: &[&[u8]]) -> Option<&CStr> {
        self.length = 0;
        self.push(parts)?;
        self.path()
    }

    /// Writes the parts behind what is there.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> Option<()> {
        for part in parts {
            let end = self.length + part.len();
            self.bytes.as_mut().get_mut(self.length..end)?.copy_from_slice(part);
            self.length = end;
        }
        *self.bytes.as_mut().get_mut(self.length)? = 0;
        Some(())
    }

    /// Removes the last name of a path, and the slash before it.
    pub(crate) fn cut_name(&mut self) {
        let path = self.bytes.as_ref().get(..self.length).unwrap_or_default();
        self.length = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        if let Some(end) = self.bytes.as_mut().get_mut(self.length) {
            *end = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns what is written, without its NUL.
    pub(crate) fn written(&self) -> &[u8] {
        self.bytes.as_ref().get(..self.length).unwrap_or_default()
    }

    /// Ends what the kernel has written after so many bytes; returns it.
    pub(crate) fn cut(&mut self, length: usize) -> Option<&CStr> {
        *self.bytes.as_mut().get_mut(length)? = 0;
        self.length = length;
        self.path()
    }

    /// Returns all of the room, to be written by the kernel.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.bytes.as_mut()
    }

    /// Returns the path written last.
    pub(crate) fn path(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(self.bytes.as_ref().get(..=self.length)?).ok()
    }
}

/// Reads the path of what a descriptor is open on.
pub(crate) fn read_descriptor(fd: c_int, room: &mut [u8]) -> Option<&[u8]> {
    let name = name_of_descriptor(fd)?;
    sys::read_link(CStr::from_bytes_until_nul(&name).ok()?, room)
}

/// Returns the path of a descriptor, followed by NULs.
pub(crate) fn name_of_descriptor(fd: c_int) -> Option<[u8; 32]> {
    let mut digits = [0; 10];
    let number = decimal(u32::try_from(fd).ok()?, &mut digits);
    let mut name = [0; 32];
    let parts = DESCRIPTORS.iter().chain(number);
    name.iter_mut().zip(parts).for_each(|(slot, &byte)| *slot = byte);
    Some(name)
}

fn decimal(mut value: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (value, expected) in [(0, "0"), (7, "7"), (120, "120"), (u32::MAX, "4294967295")] {
            assert_eq!(decimal(value, &mut [0; 10]), expected.as_bytes());
        }
    }
}
