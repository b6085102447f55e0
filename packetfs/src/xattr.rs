//! Extended attributes of open files. \[unsafe\]: nix has no such calls.
#![expect(unsafe_code, reason = "extended attributes have no safe wrapper in nix")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::tree::{Bytes, Xattr};

/// The kernel's limit of a value and of a list of names (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 65_536;

/// Tells whether walks see an attribute: users' attributes and access control lists. Those of security
/// modules and of administrators are meaningful only on their own machine.
pub(crate) fn is_shown(name: &[u8]) -> bool {
    name.starts_with(b"user.") || is_acl(name)
}

/// Tells whether an attribute is an access control list.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Returns the attributes of a directory entry that walks may see.
pub(crate) fn shown_at(dir: &OwnedFd, file: &[u8]) -> io::Result<Vec<Xattr>> {
    let path = path_in(dir, file)?;
    // Few files have attributes, so ask for the size first.
    // SAFETY: the path ends with a NUL, and a buffer of no bytes is not written.
    if unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) } <= 0 {
        return Ok(Vec::new());
    }
    let names = names(|names| {
        // SAFETY: the path ends with a NUL, and the buffer is as long as it is said to be.
        unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) }
    })?;
    let mut shown = Vec::new();
    for name in names.into_iter().filter(|name| is_shown(name)) {
        if let Some(value) = get_at(dir, file, &name)? {
            shown.push((name, value));
        }
    }
    Ok(shown)
}

/// Copies the attributes of a file or directory to another, if its file system supports them.
///
/// # Errors
/// One of them cannot be read or set.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for name in list(from)? {
        if let Some(value) = get(from, &name)? {
            match set(to, &name, &value) {
                Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Returns the names of all attributes; none if the file system does not support them.
///
/// # Errors
/// The kernel refuses.
pub fn list(file: &OwnedFd) -> io::Result<Vec<Bytes>> {
    names(|names| {
        // SAFETY: the buffer is as long as it is said to be.
        unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) }
    })
}

/// Reads a list of names with `read`, which returns its length.
fn names(read: impl Fn(&mut [u8]) -> isize) -> io::Result<Vec<Bytes>> {
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    match usize::try_from(read(&mut names)) {
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

/// Returns the value of an attribute of a directory entry, if there is one. Symbolic links are not
/// followed.
pub(crate) fn get_at(dir: &OwnedFd, file: &[u8], name: &[u8]) -> io::Result<Option<Bytes>> {
    let (path, name) = (path_in(dir, file)?, CString::new(name)?);
    value(|value| {
        // SAFETY: path and name end with a NUL, and the buffer is as long as it is said to be.
        unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        }
    })
}

/// Returns a path, valid in this process, of a file in an open directory.
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

/// Removes an attribute; succeeds if it is absent.
pub(crate) fn remove(file: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a NUL.
    let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    if result == 0 { Ok(()) } else { absent_as(()) }
}

fn absent_as<T>(nothing: T) -> io::Result<T> {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::ENOTSUP | libc::ENOSYS) => Ok(nothing),
        _ => Err(error),
    }
}
