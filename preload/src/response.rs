//! Files of arguments (`gcc @file`), read with memory that is mapped for the moment: stacks may be small, and
//! between `vfork` and `execve` there is no heap.

use core::ffi::CStr;

use worknode::command::{ROOM_BYTES, ResponseFiles, Unread};

use crate::strings::Strings;
use crate::sys;
use crate::target::is_regular;

/// Bytes of a path, with its NUL.
const PATH_BYTES: usize = 4096;

/// Calls `work` with room for the text of the files that the arguments name, if they name any.
pub(crate) fn with_room<R>(argv: Strings<'_>, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let names_files = argv.entries().skip(1).any(|entry| entry.starts_with(b"@"));
    // Without room nothing is read, and the program stays.
    if names_files { sys::with_memory(ROOM_BYTES, work) } else { work(&mut []) }
}

/// Reads files with the kernel's calls alone.
#[derive(Debug)]
pub(crate) struct Files;

impl ResponseFiles for Files {
    // Apart, because most command lines have none, and the stack is not to grow for them.
    #[inline(never)]
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread> {
        let mut name = [0; PATH_BYTES];
        let place = name[..PATH_BYTES - 1].get_mut(..path.len()).ok_or(Unread::Absent)?;
        place.copy_from_slice(path);
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| Unread::Absent)?;
        // A fifo is not even opened: that lets its writer go on.
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

/// Reads all of a regular file, if there is room.
fn read_all(fd: core::ffi::c_int, room: &mut [u8]) -> Option<usize> {
    sys::fstat(fd).ok().filter(is_regular)?;
    let mut size = 0;
    loop {
        // A file that fills the room may go on.
        let rest = room.get_mut(size..).filter(|rest| !rest.is_empty())?;
        match sys::read_at(fd, rest, size).ok()? {
            0 => return Some(size),
            bytes => size += bytes,
        }
    }
}
