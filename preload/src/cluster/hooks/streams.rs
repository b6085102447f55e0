//! [unsafe] Hooks on functions that open streams and list directories: libc's own calls of `open` are not seen.
#![expect(unsafe_code, reason = "the C interface of the hooks")]

use core::ffi::{CStr, c_int, c_void};

use super::{Pointer, Text, Word, make, with_path};
use crate::cluster::mode;
use crate::next;
use crate::strings::text;
use crate::sys;

const EINVAL: c_int = 22;
const OPENAT: usize = 257;
/// Opens a directory to list it.
const O_LIST: c_int = 0o2_204_000;

/// Functions that open a stream.
macro_rules! streams {
    ($($name:ident;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name(path: Text, mode: Text) -> *mut c_void {
            // SAFETY: the caller's mode.
            let call = |dir: c_int, path: &CStr| unsafe { stream(dir, path, mode) };
            // SAFETY: the caller's path.
            unsafe { with_path(path, call) }
                .or_else(|| next!($name(path => Text, mode => Text) -> *mut c_void))
                .unwrap_or_else(nothing)
        }
    )*};
}

streams! {
    fopen;
    fopen64;
}

pub(super) fn nothing() -> *mut c_void {
    next::fail(sys::ENOSYS);
    core::ptr::null_mut()
}

unsafe fn stream(dir: c_int, path: &CStr, mode: Text) -> *mut c_void {
    // SAFETY: the caller's mode.
    let Some(flags) = unsafe { text(mode) }.and_then(mode::flags) else {
        next::fail(EINVAL);
        return core::ptr::null_mut();
    };
    // SAFETY: the path is a live C string.
    let fd: c_int = unsafe { make(OPENAT, arguments!(dir, path.as_ptr(), flags, 0o666)) };
    behind(fd, || next!(fdopen(fd => c_int, mode => Text) -> *mut c_void))
}

/// Returns what is made of a descriptor, which is closed if that fails.
fn behind(fd: c_int, make_of: impl FnOnce() -> Option<*mut c_void>) -> *mut c_void {
    if fd < 0 {
        return core::ptr::null_mut();
    }
    let made = make_of().unwrap_or_else(nothing);
    if made.is_null() {
        sys::close(fd);
    }
    made
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn opendir(path: Text) -> *mut c_void {
    let call = |dir: c_int, path: &CStr| {
        // SAFETY: the path is a live C string.
        let fd: c_int = unsafe { make(OPENAT, arguments!(dir, path.as_ptr(), O_LIST)) };
        behind(fd, || next!(fdopendir(fd => c_int) -> *mut c_void))
    };
    // SAFETY: the caller's path.
    unsafe { with_path(path, call) }
        .or_else(|| next!(opendir(path => Text) -> *mut c_void))
        .unwrap_or_else(nothing)
}

/// Functions that read a whole directory, which libc also does beside a directory.
macro_rules! listings {
    ($($name:ident, $beside:ident;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name(path: Text, list: Pointer, filter: Pointer, order: Pointer) -> c_int {
            let call = |dir: c_int, known: &CStr| {
                let path = known.as_ptr();
                next!($beside(dir => c_int, path => Text, list => Pointer, filter => Pointer, order => Pointer) -> c_int)
                    .unwrap_or_else(|| next::fail(sys::ENOSYS))
            };
            // SAFETY: the caller's path.
            unsafe { with_path(path, call) }
                .or_else(|| next!($name(path => Text, list => Pointer, filter => Pointer, order => Pointer) -> c_int))
                .unwrap_or_else(|| next::fail(sys::ENOSYS))
        }
    )*};
}

listings! {
    scandir, scandirat;
    scandir64, scandirat64;
}
