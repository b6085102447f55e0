//! Response files (`gcc @file`), read into memory mapped for the purpose: the stack may be small, and
//! there is no heap between `vfork` and `execve`.

use core::ffi::CStr;

use worknode::command::{ROOM_BYTES, ResponseFiles, Unread};

use crate::strings::Strings;
use crate::sys;
use crate::target::is_regular;

/// Longest path, with its NUL, that the kernel accepts (`PATH_MAX`).
const PATH_BYTES: usize = 4096;

/// Calls `work` with room for the response files that the arguments name, or with none if they name
/// none.
pub(crate) fn with_room<R>(argv: Strings<'_>, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let names_files = argv.entries().skip(1).any(|entry| entry.starts_with(b"@"));
    // Without room a response file counts as unreadable, and the program stays.
    if names_files { sys::with_memory(ROOM_BYTES, work) } else { work(&mut []) }
}

/// Reads response files by system calls only.
#[derive(Debug)]
pub(crate) struct Files;

impl ResponseFiles for Files {
    // Not inlined: most command lines name no such file, and need not pay for the buffer.
    #[inline(never)]
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread> {
        let mut name = [0; PATH_BYTES];
        let place = name[..PATH_BYTES - 1].get_mut(..path.len()).ok_or(Unread::Absent)?;
        place.copy_from_slice(path);
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Unread::Absent)?;
        // Opening a fifo would already let its writer continue.
        match sys::stat(name) {
            Ok(stat) if is_regular(&stat) => {}
            Ok(_) => return Err(Unread::Refused),
            Err(_) => return Err(Unread::Absent),
        }
        let fd = sys::open(name, sys::O_RDONLY | sys::O_NONBLOCK | sys::O_NOCTTY)
            .map_err(|_| Unread::Absent)?;
        let size = read_all(fd, room);
        sys::close(fd);
        size.ok_or(Unread::Refused)
    }
}

/// Reads all of a regular file; returns `None` if there is no room for it.
fn read_all(fd: core::ffi::c_int, room: &mut [u8]) -> Option<usize> {
    sys::fstat(fd).ok().filter(is_regular)?;
    let mut size = 0;
    loop {
        // A file that fills the room exactly may be longer.
        let rest = room.get_mut(size..).filter(|rest| !rest.is_empty())?;
        match sys::read_at(fd, rest, size).ok()? {
            0 => return Some(size),
            bytes => size += bytes,
        }
    }
}
