//! The descriptor of the mount's root. Programs close descriptors that they do not know, and use their numbers again:
//! before each use it is checked, and the agent is asked again if it is gone.

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::ask::{self, Lack};
use super::memory::Room;
use crate::session;
use crate::sys;

/// Numbers that programs seldom use, from the best one on. The limit of descriptors may be lower than all: then the
/// root keeps the number that it came with.
const NUMBERS: [usize; 3] = [1000, 500, 200];
/// The agent is asked again so many seconds after it did not lend the root.
const PAUSE_S: u64 = 5;
pub(super) const ENOTCONN: c_int = 107;
/// In place of a directory, for a call that has to fail.
pub(super) const GONE: c_int = -2;
const NONE: c_int = -1;

static DESCRIPTOR: AtomicI32 = AtomicI32::new(NONE);
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
static WAS_REFUSED: AtomicBool = AtomicBool::new(false);
/// The second from which on the agent may be asked.
static ASK_AFTER: AtomicU64 = AtomicU64::new(0);

/// Returns a descriptor of the mount's root, which stays this library's.
pub(super) fn get() -> Result<c_int, Lack> {
    let known = DESCRIPTOR.load(Ordering::Relaxed);
    if known != NONE && is_root(known) {
        return Ok(known);
    }
    ask()
}

/// Tells whether there is a root, without asking the agent for one.
pub(super) fn is_known() -> bool {
    let known = DESCRIPTOR.load(Ordering::Relaxed);
    known != NONE && is_root(known)
}

/// Tells whether a directory's file lies in the volume, by its device; of an empty path, the directory itself.
pub(super) fn has(directory: c_int, path: &CStr) -> bool {
    let found = sys::identity(directory, path);
    found.is_ok_and(|found| found.device == DEVICE.load(Ordering::Relaxed))
}

fn is_root(fd: c_int) -> bool {
    let root = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
    sys::identity(fd, c"").is_ok_and(|found| (found.device, found.inode) == root)
}

fn ask() -> Result<c_int, Lack> {
    let now = sys::seconds();
    if now < ASK_AFTER.load(Ordering::Relaxed) {
        let was_refused = WAS_REFUSED.load(Ordering::Relaxed);
        return Err(if was_refused { Lack::Refused } else { Lack::Unreachable });
    }
    let root = lent();
    if let Err(lack) = root {
        WAS_REFUSED.store(lack == Lack::Refused, Ordering::Relaxed);
        // It may have taken as long as is waited.
        ASK_AFTER.store(sys::seconds() + PAUSE_S, Ordering::Relaxed);
    }
    root
}

fn lent() -> Result<c_int, Lack> {
    let page = session::current().ok_or(Lack::Refused)?.page;
    let door = CStr::from_bytes_until_nul(page.door_path()).map_err(|_| Lack::Refused)?;
    let fd = ask::for_root(door, page.volume_point().ok_or(Lack::Refused)?)?;
    let higher = NUMBERS.into_iter().find_map(|least| sys::duplicate(fd, least));
    if higher.is_some() {
        sys::close(fd);
    }
    let root = higher.unwrap_or(fd);
    let Ok(found) = sys::identity(root, c"") else {
        sys::close(root);
        return Err(Lack::Unreachable);
    };
    DEVICE.store(found.device, Ordering::Relaxed);
    INODE.store(found.inode, Ordering::Relaxed);
    // Of two threads that ask at once, one keeps a descriptor that nobody uses again: closing it could close one in use.
    DESCRIPTOR.store(root, Ordering::Relaxed);
    Ok(root)
}

/// Returns another root if the agent of the known one is gone: the next agent may have mounted the volume.
pub(super) fn another() -> Option<c_int> {
    DESCRIPTOR.store(NONE, Ordering::Relaxed);
    get().ok()
}

/// Writes a path by which `rest` is found below a directory, for which `/proc` is needed. Where there is none, it is empty.
pub(crate) fn name<'b>(root: c_int, rest: &CStr, buffer: &'b mut Room<'_>) -> &'b CStr {
    written(root, rest, buffer).unwrap_or(c"")
}

fn written<'b>(root: c_int, rest: &CStr, buffer: &'b mut Room<'_>) -> Option<&'b CStr> {
    if root == sys::AT_FDCWD {
        return buffer.join(&[rest.to_bytes()]);
    }
    let name = crate::path::name_of_descriptor(root)?;
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    buffer.join(&[name.to_bytes(), b"/", rest.to_bytes()])
}
