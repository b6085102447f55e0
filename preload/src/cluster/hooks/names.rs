//! [unsafe] Hooks on functions that return paths.
#![expect(unsafe_code, reason = "the C interface of the hooks")]

use core::ffi::{CStr, c_char};

use super::streams::nothing;
use super::{Text, with_path};
use crate::cluster::memory::Memory;
use crate::cluster::{directory, is_hidden};
use crate::next;
use crate::strings::text;
use crate::sys;

const ERANGE: core::ffi::c_int = 34;
const EBADF: core::ffi::c_int = 9;

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn realpath(path: Text, room: *mut c_char) -> *mut c_char {
    // SAFETY: the caller's arguments.
    unsafe { real(path, room) }
        .or_else(|| next!(realpath(path => Text, room => *mut c_char) -> *mut c_char))
        .unwrap_or_else(|| nothing().cast())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn __realpath_chk(path: Text, room: *mut c_char, bytes: usize) -> *mut c_char {
    // SAFETY: the caller's arguments.
    unsafe { real(path, room) }
        .or_else(|| next!(__realpath_chk(path => Text, room => *mut c_char, bytes => usize) -> *mut c_char))
        .unwrap_or_else(|| nothing().cast())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn canonicalize_file_name(path: Text) -> *mut c_char {
    // SAFETY: the caller's path.
    unsafe { realpath(path, core::ptr::null_mut()) }
}

unsafe fn real(path: Text, room: *mut c_char) -> Option<*mut c_char> {
    if !is_hidden() {
        return None;
    }
    // SAFETY: the caller's path.
    let known = unsafe { text(path) }?;
    Memory::Mapped.with(|[mut buffer, mut other]| {
        // SAFETY: likewise.
        let found = unsafe {
            with_path(path, |dir, path| {
                directory::real(dir, path, &mut buffer, &mut other).map(|it| it.is_some())
            })
        };
        match found {
            Some(Ok(true)) => {}
            Some(Ok(false)) => return None,
            Some(Err(error)) => {
                // A call that had to fail has its reason in `errno` already.
                if error != EBADF {
                    next::fail(error);
                }
                return Some(core::ptr::null_mut());
            }
            // A relative path, from a directory of the volume.
            None => {
                directory::inside(sys::AT_FDCWD, &mut other)?;
                directory::real(sys::AT_FDCWD, known, &mut buffer, &mut other).ok()??;
            }
        }
        // SAFETY: the caller's room is long enough for every path.
        unsafe { give(buffer.path()?, room, usize::MAX) }
    })
}

/// Copies a path to the caller's room, or to new memory if it has none.
unsafe fn give(path: &CStr, room: *mut c_char, bytes: usize) -> Option<*mut c_char> {
    let path = path.to_bytes_with_nul();
    if !room.is_null() && path.len() > bytes {
        next::fail(ERANGE);
        return Some(core::ptr::null_mut());
    }
    let room = if room.is_null() {
        next!(malloc(path.len().max(if bytes == usize::MAX { 0 } else { bytes }) => usize) -> *mut c_char)?
    } else {
        room
    };
    if room.is_null() {
        return Some(room);
    }
    // SAFETY: the room is long enough.
    unsafe { room.cast::<u8>().copy_from_nonoverlapping(path.as_ptr(), path.len()) };
    Some(room)
}

/// Functions that name the working directory.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn getcwd(room: *mut c_char, bytes: usize) -> *mut c_char {
    // SAFETY: the caller's arguments.
    unsafe { own_directory(room, bytes) }
        .or_else(|| next!(getcwd(room => *mut c_char, bytes => usize) -> *mut c_char))
        .unwrap_or_else(|| nothing().cast())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn __getcwd_chk(room: *mut c_char, bytes: usize, all: usize) -> *mut c_char {
    // SAFETY: the caller's arguments.
    unsafe { own_directory(room, bytes.min(all)) }
        .or_else(|| next!(__getcwd_chk(room => *mut c_char, bytes => usize, all => usize) -> *mut c_char))
        .unwrap_or_else(|| nothing().cast())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn get_current_dir_name() -> *mut c_char {
    // SAFETY: the function takes no arguments.
    unsafe { own_directory(core::ptr::null_mut(), 0) }
        .or_else(|| next!(get_current_dir_name() -> *mut c_char))
        .unwrap_or_else(|| nothing().cast())
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn getwd(room: *mut c_char) -> *mut c_char {
    // SAFETY: the caller's room is long enough for every path.
    unsafe { own_directory(room, usize::MAX) }
        .or_else(|| next!(getwd(room => *mut c_char) -> *mut c_char))
        .unwrap_or_else(|| nothing().cast())
}

unsafe fn own_directory(room: *mut c_char, bytes: usize) -> Option<*mut c_char> {
    if !is_hidden() || (!room.is_null() && bytes == 0) {
        return None;
    }
    Memory::Mapped.with(|[mut buffer, mut other]| {
        // SAFETY: the caller's room.
        unsafe { give(directory::name(&mut buffer, &mut other)?, room, bytes) }
    })
}
