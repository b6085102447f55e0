//! The names of directories in the volume: the kernel knows them relative to the mount's root.

use core::ffi::{CStr, c_int};

use super::memory::Room;
use super::root;
use crate::path;
use crate::session::volume_point;
use crate::sys;

/// What the kernel writes before a path whose mount is in another namespace.
const ELSEWHERE: &[u8] = b"(unreachable)";

/// Returns where a directory lies below the mount's root, if it lies there.
pub(super) fn inside<'b>(directory: c_int, room: &'b mut Room<'_>) -> Option<&'b [u8]> {
    if directory == sys::AT_FDCWD {
        let inside = sys::working_directory(room.room()).ok()?.strip_prefix(ELSEWHERE)?;
        root::get().ok()?;
        return root::has(directory, c"").then_some(inside);
    }
    // A program that has not met the volume has opened nothing there, and asks nobody.
    if root::is_known() && root::has(directory, c"") {
        path::read_descriptor(directory, room.room())
    } else {
        None
    }
}

/// Writes the path of the working directory. Returns `None` where the next function knows it better.
pub(super) fn name<'b>(buffer: &'b mut Room<'_>, room: &mut Room<'_>) -> Option<&'b CStr> {
    joined(inside(sys::AT_FDCWD, room)?, buffer)
}

/// Writes the path of what a path leads to, with all links resolved, if that lies in the volume.
///
/// # Errors
/// There is nothing.
pub(super) fn real<'b>(
    directory: c_int,
    path: &CStr,
    buffer: &'b mut Room<'_>,
    room: &mut Room<'_>,
) -> Result<Option<&'b CStr>, c_int> {
    let fd = sys::open_at(directory, path, sys::O_PATH)?;
    let found = if root::has(fd, c"") { path::read_descriptor(fd, room.room()) } else { None };
    sys::close(fd);
    Ok(found.and_then(|inside| joined(inside, buffer)))
}

fn joined<'b>(inside: &[u8], buffer: &'b mut Room<'_>) -> Option<&'b CStr> {
    let inside = if inside == b"/" { b"" } else { inside };
    buffer.join(&[volume_point()?, inside])
}
