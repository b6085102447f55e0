//! Finds the file that a call will execute, as libc and the kernel would: along `PATH`, relative to
//! a directory, or behind a descriptor.

use core::ffi::{CStr, c_int};

use crate::cluster;
use crate::path::{PathBuffer, read_descriptor};
use crate::sys;

/// Where libc searches when there is no `PATH` (`confstr(_CS_PATH)`).
const DEFAULT_SEARCH: &[u8] = b"/bin:/usr/bin";
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

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
    let Some(target) = read_descriptor(fd, link.room()) else { return Behind::Nowhere };
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
    let base = read_descriptor(directory, link.room())?;
    buffer.join(&[base, b"/", path.to_bytes()])
}

/// Returns the path with all links resolved. Not inlined for the same reason.
#[inline(never)]
pub(crate) fn real<'b>(path: &CStr, buffer: &'b mut PathBuffer) -> Option<&'b [u8]> {
    let fd = sys::open(path, sys::O_PATH).ok()?;
    let real = read_descriptor(fd, buffer.room());
    sys::close(fd);
    real
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
}
