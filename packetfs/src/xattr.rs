//! Extended attributes of open files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use crate::path::Bytes;
use crate::tree::Xattr;

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

/// Tells whether there is an access control list among attributes.
#[must_use]
pub fn has_acl(attributes: &[Xattr]) -> bool {
    attributes.iter().any(|(name, _)| is_acl(name))
}

/// Returns the attributes of a directory entry that walks may see.
pub(crate) fn shown_at(dir: &OwnedFd, file: &[u8]) -> io::Result<Vec<Xattr>> {
    let path = path_in(dir, file)?;
    // Few files have attributes, so ask for the size first.
    if fs::llistxattr_query(&path).unwrap_or(0) == 0 {
        return Ok(Vec::new());
    }
    let mut shown = Vec::new();
    for name in names(|names| fs::llistxattr(&path, names))? {
        if is_shown(&name)
            && let Some(value) = value(|value| fs::lgetxattr(&path, &name, value))?
        {
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
            match fs::fsetxattr(to, &name, &value, XattrFlags::empty()) {
                Err(Errno::NOTSUP) => {}
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
    names(|names| fs::flistxattr(file, names))
}

/// Reads a list of names with `read`, which returns its length.
fn names(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<Bytes>> {
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    let length = none_as(0, read(&mut names))?;
    let names = names[..length].split(|&byte| byte == 0);
    Ok(names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Returns the value of an attribute, if there is one.
pub(crate) fn get(file: &OwnedFd, name: &[u8]) -> io::Result<Option<Bytes>> {
    value(|value| fs::fgetxattr(file, name, value))
}

/// Returns the value of an attribute of a directory entry, if there is one. Symbolic links are not
/// followed.
pub(crate) fn get_at(dir: &OwnedFd, file: &[u8], name: &[u8]) -> io::Result<Option<Bytes>> {
    let path = path_in(dir, file)?;
    value(|value| fs::lgetxattr(&path, name, value))
}

/// Returns a path, valid in this process, of a file in an open directory.
fn path_in(dir: &OwnedFd, file: &[u8]) -> io::Result<CString> {
    let dir = format!("/proc/self/fd/{}/", dir.as_raw_fd());
    Ok(CString::new([dir.as_bytes(), file].concat())?)
}

/// Reads a value with `read`, which returns its length.
fn value(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Option<Bytes>> {
    // Most values are short: a small buffer first.
    for bytes in [256, XATTR_BYTES_MAX] {
        let mut value = vec![0_u8; bytes];
        match read(&mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {}
            Err(error) => return none_as(None, Err(error)),
        }
    }
    Ok(None)
}

/// Sets an attribute.
pub(crate) fn set(file: &OwnedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

/// Removes an attribute; succeeds if it is absent.
pub(crate) fn remove(file: &OwnedFd, name: &[u8]) -> io::Result<()> {
    none_as((), fs::fremovexattr(file, name))
}

/// Returns `nothing` if the attribute is absent or the file system does not support attributes.
fn none_as<T>(nothing: T, result: Result<T, Errno>) -> io::Result<T> {
    match result {
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(nothing),
        result => Ok(result?),
    }
}
