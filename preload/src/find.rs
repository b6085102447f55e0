//! Finds the file that a call will execute, as libc and the kernel would: along `PATH`, relative to
//! a directory, or behind a descriptor.

use core::ffi::{CStr, c_int};

use crate::cluster;
use crate::sys;

/// Longest path, with its NUL, that the kernel accepts (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;
/// Where libc searches when there is no `PATH` (`confstr(_CS_PATH)`).
const DEFAULT_SEARCH: &[u8] = b"/bin:/usr/bin";
const DESCRIPTORS: &[u8] = b"/proc/self/fd/";
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// Room for a path, on the stack.
#[derive(Debug)]
pub(crate) struct PathBuffer {
    bytes: [u8; PATH_BYTES_MAX],
    length: usize,
}

impl PathBuffer {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; PATH_BYTES_MAX], length: 0 }
    }

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
            self.bytes.get_mut(self.length..end)?.copy_from_slice(part);
            self.length = end;
        }
        *self.bytes.get_mut(self.length)? = 0;
        Some(())
    }

    /// Removes the last name of a path, and the slash before it.
    pub(crate) fn cut_name(&mut self) {
        let path = self.bytes.get(..self.length).unwrap_or_default();
        self.length = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        if let Some(end) = self.bytes.get_mut(self.length) {
            *end = 0;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns what is written, without its NUL.
    pub(crate) fn written(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Ends what the kernel has written after so many bytes; returns it.
    pub(crate) fn cut(&mut self, length: usize) -> Option<&CStr> {
        *self.bytes.get_mut(length)? = 0;
        self.length = length;
        self.path()
    }

    /// Returns all of the room, to be written by the kernel.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Returns the path written last.
    pub(crate) fn path(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(self.bytes.get(..=self.length)?).ok()
    }
}

/// Searches for `file` as `execvp` does, and leaves the path in the buffer. Returns `None` if the
/// search fails; the real call then reports the error.
pub(crate) fn along_path<'b>(
    file: &CStr,
    search: Option<&[u8]>,
    buffer: &'b mut PathBuffer,
) -> Option<&'b CStr> {
    let file = file.to_bytes();
    if file.is_empty() {
        return None;
    }
    if file.contains(&b'/') {
        return buffer.join(&[file]);
    }
    let directories = search.unwrap_or(DEFAULT_SEARCH).split(|&byte| byte == b':');
    for directory in directories {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let executable = buffer.join(&[directory, slash, file]).is_some_and(is_executable_file);
        if executable {
            return buffer.path();
        }
    }
    None
}

/// Tells whether `execve` would pass its permission checks.
pub(crate) fn is_executable_file(path: &CStr) -> bool {
    let is_regular = |stat: sys::Stat| stat.mode & S_IFMT == S_IFREG;
    cluster::look(path, sys::stat_at).is_ok_and(is_regular)
        && cluster::look(path, sys::may_execute_at)
}

/// What a descriptor is open on.
#[derive(Debug)]
pub(crate) enum Behind<'b> {
    /// The file at this path.
    Path(&'b CStr),
    /// A file without a path, or whose path now names another file.
    Nowhere,
    /// Nothing: the call will fail.
    Error,
}

/// Finds the path of the file that `fd` is open on. Not inlined, so that its buffers burden no other
/// call: the stack may be that of a small thread.
#[inline(never)]
pub(crate) fn behind_descriptor(fd: c_int, buffer: &mut PathBuffer) -> Behind<'_> {
    let Ok(opened) = sys::fstat(fd) else { return Behind::Error };
    let mut link = PathBuffer::new();
    let Some(target) = read_descriptor(fd, &mut link) else { return Behind::Nowhere };
    let path = buffer.join(&[target]);
    // A deleted file's link reads "… (deleted)"; a replaced one leads to another file.
    match path.map(|path| (path, sys::stat(path))) {
        Some((path, Ok(found))) if (found.dev, found.ino) == (opened.dev, opened.ino) => {
            Behind::Path(path)
        }
        _ => Behind::Nowhere,
    }
}

/// Finds `path` relative to the directory that `directory` is open on. Not inlined for the same reason.
#[inline(never)]
pub(crate) fn relative<'b>(
    directory: c_int,
    path: &CStr,
    buffer: &'b mut PathBuffer,
) -> Option<&'b CStr> {
    if directory == sys::AT_FDCWD || path.to_bytes().starts_with(b"/") {
        return buffer.join(&[path.to_bytes()]);
    }
    let mut link = PathBuffer::new();
    let base = read_descriptor(directory, &mut link)?;
    buffer.join(&[base, b"/", path.to_bytes()])
}

/// Returns the path with all links resolved. Not inlined for the same reason.
#[inline(never)]
pub(crate) fn real<'b>(path: &CStr, buffer: &'b mut PathBuffer) -> Option<&'b [u8]> {
    let fd = sys::open(path, sys::O_PATH).ok()?;
    let real = read_descriptor(fd, buffer);
    sys::close(fd);
    real
}

/// Reads the path of what a descriptor is open on.
pub(crate) fn read_descriptor(fd: c_int, buffer: &mut PathBuffer) -> Option<&[u8]> {
    let name = name_of_descriptor(fd)?;
    sys::read_link(CStr::from_bytes_until_nul(&name).ok()?, &mut buffer.bytes)
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
    fn searches_as_libc_does() {
        let find = |file: &CStr, search: Option<&str>| {
            let mut buffer = PathBuffer::new();
            along_path(file, search.map(str::as_bytes), &mut buffer).map(CStr::to_owned)
        };
        assert_eq!(find(c"sh", Some("/nowhere:/etc:/bin:/usr/bin")).as_deref(), Some(c"/bin/sh"));
        assert_eq!(find(c"sh", None).as_deref(), Some(c"/bin/sh"));
        assert_eq!(find(c"a/b", Some("/bin")).as_deref(), Some(c"a/b"));
        assert_eq!(find(c"", Some("/bin")), None);
        assert_eq!(find(c"sh", Some("")), None);
        assert_eq!(find(c"apt", Some("/etc:/nowhere")), None);
    }

    #[test]
    fn numbers() {
        for (value, expected) in [(0, "0"), (7, "7"), (120, "120"), (u32::MAX, "4294967295")] {
            assert_eq!(decimal(value, &mut [0; 10]), expected.as_bytes());
        }
    }
}
