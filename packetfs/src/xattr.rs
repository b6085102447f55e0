//! Extended attributes of open files. \[unsafe\]: nix has no such calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::tree::Bytes;

/// The kernel's limit of a value and of a list of names (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 65_536;

/// Returns the names of all attributes; none where the file system has no such thing.
pub(crate) fn list(file: &OwnedFd) -> io::Result<Vec<Bytes>> {
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    // SAFETY: the buffer is as long as it is said to be.
    let length =
        unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    match usize::try_from(length) {
        Ok(length) => {
            let names = names[..length].split(|&byte| byte == 0);
            Ok(names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
        }
        Err(_) => absent_as(Vec::new()),
    }
}

/// Returns the value of an attribute, if there is one.
pub(crate) fn get(file: &OwnedFd, name: &[u8]) -> io::Result<Option<Bytes>> {
    let name = CString::new(name)?;
    value(|value| {
        // SAFETY: the name ends with a NUL, and the buffer is as long as it is said to be.
        unsafe {
            libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        }
    })
}

/// Returns the value of an attribute of what a name in a directory names, which may be a symbolic
/// link, if there is one.
pub(crate) fn get_at(dir: &OwnedFd, file: &[u8], name: &[u8]) -> io::Result<Option<Bytes>> {
    let (path, name) = (path_in(dir, file)?, CString::new(name)?);
    value(|value| {
        // SAFETY: path and name end with a NUL, and the buffer is as long as it is said to be.
        unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        }
    })
}

/// Names a file in an open directory as a path of this process.
fn path_in(dir: &OwnedFd, file: &[u8]) -> io::Result<CString> {
    let dir = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    Ok(CString::new([dir.as_bytes(), file].concat())?)
}

/// Reads a value with `read`, which returns its length.
fn value(read: impl Fn(&mut [u8]) -> isize) -> io::Result<Option<Bytes>> {
    // Most values are short: a small buffer first.
    for bytes in [256, XATTR_BYTES_MAX] {
        let mut value = vec![0_u8; bytes];
        let length = read(&mut value);
        if let Ok(length) = usize::try_from(length) {
            value.truncate(length);
            return Ok(Some(value));
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::ERANGE) {
            return absent_as(None);
        }
    }
    Ok(None)
}

/// Sets an attribute.
pub(crate) fn set(file: &OwnedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a NUL, and the value is as long as it is said to be.
    let result = unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn absent_as<T>(nothing: T) -> io::Result<T> {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::ENOTSUP | libc::ENOSYS) => Ok(nothing),
        _ => Err(error),
    }
}
