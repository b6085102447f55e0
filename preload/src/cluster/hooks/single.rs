//! [unsafe] Hooks on functions with one path that take more than one system call.
#![expect(unsafe_code, reason = "the C interface of the hooks")]

use core::ffi::{CStr, c_int};

use super::{Given, Pointer, Text, Word, make, with_path};
use crate::next;
use crate::sys;

const AT_REMOVEDIR: c_int = 0x200;
const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
const EISDIR: c_int = 21;
const UNLINKAT: usize = 263;
const UTIMENSAT: usize = 280;

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn remove(path: Text) -> c_int {
    let call = |dir: c_int, path: &CStr| {
        // SAFETY: the path is a live C string.
        let removed = unsafe { sys::call(UNLINKAT, arguments!(dir, path.as_ptr(), 0)) };
        c_int::given(match removed {
            // SAFETY: likewise.
            Err(EISDIR) => unsafe {
                sys::call(UNLINKAT, arguments!(dir, path.as_ptr(), AT_REMOVEDIR))
            },
            removed => removed,
        })
    };
    // SAFETY: the caller's path.
    unsafe { with_path(path, call) }
        .or_else(|| next!(remove(path => Text) -> c_int))
        .unwrap_or_else(|| next::fail(sys::ENOSYS))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn chdir(path: Text) -> c_int {
    let call = |dir: c_int, path: &CStr| {
        let entered = sys::open_at(dir, path, sys::O_PATH | sys::O_DIRECTORY).and_then(|fd| {
            let entered = sys::enter(fd);
            sys::close(fd);
            entered
        });
        c_int::given(entered.map(|()| 0))
    };
    // SAFETY: the caller's path.
    unsafe { with_path(path, call) }
        .or_else(|| next!(chdir(path => Text) -> c_int))
        .unwrap_or_else(|| next::fail(sys::ENOSYS))
}

/// Two moments, as nanoseconds, of which the second part may be in another unit.
type Times = [[i64; 2]; 2];

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn utime(path: Text, times: *const [i64; 2]) -> c_int {
    // SAFETY: the caller's times.
    let both = (!times.is_null()).then(|| unsafe { times.read() }).map(|[a, m]| [[a, 0], [m, 0]]);
    // SAFETY: the caller's path.
    unsafe { set_times(path, both, 0) }
        .or_else(|| next!(utime(path => Text, times => *const [i64; 2]) -> c_int))
        .unwrap_or_else(|| next::fail(sys::ENOSYS))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn lutimes(path: Text, times: *const Times) -> c_int {
    // SAFETY: the caller's times.
    let nanoseconds = (!times.is_null())
        .then(|| unsafe { times.read() })
        .map(|times| times.map(|[seconds, micros]| [seconds, micros.saturating_mul(1000)]));
    // SAFETY: the caller's path.
    unsafe { set_times(path, nanoseconds, AT_SYMLINK_NOFOLLOW) }
        .or_else(|| next!(lutimes(path => Text, times => *const Times) -> c_int))
        .unwrap_or_else(|| next::fail(sys::ENOSYS))
}

unsafe fn set_times(path: Text, times: Option<Times>, flags: c_int) -> Option<c_int> {
    let times = as_pointer(times.as_ref());
    let call = |dir: c_int, path: &CStr| -> c_int {
        // SAFETY: times that are live.
        unsafe { make(UTIMENSAT, arguments!(dir, path.as_ptr(), times, flags)) }
    };
    // SAFETY: the caller's path.
    unsafe { with_path(path, call) }
}

fn as_pointer(times: Option<&Times>) -> Pointer {
    times.map_or(core::ptr::null(), |times| core::ptr::from_ref(times).cast())
}
