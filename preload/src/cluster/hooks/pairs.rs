//! [unsafe] Hooks on functions with two paths, and on those that make symbolic links.
#![expect(unsafe_code, reason = "the C interface of the hooks")]

use core::ffi::{CStr, c_int, c_uint};

use super::{Text, Word, concerns, make};
use crate::cluster::find;
use crate::next;
use crate::strings::text;
use crate::sys;

const LINKAT: usize = 265;
const SYMLINKAT: usize = 266;
const RENAMEAT2: usize = 316;

/// Functions with two paths.
macro_rules! pairs {
    ($($name:ident($($argument:ident: $type:ty),*) = $number:ident, $one:expr, $other:expr $(, $value:expr)*;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: the caller's paths.
            unsafe { both($one, $other, |one, other| {
                let arguments = [one.0.word(), one.1.word(), other.0.word(), other.1.word() $(, Word::word($value))*, 0, 0];
                let mut all = [0; 6];
                all.copy_from_slice(&arguments[..6]);
                all
            }, $number) }
                .or_else(|| next!($name($($argument => $type),*) -> c_int))
                .unwrap_or_else(|| next::fail(sys::ENOSYS))
        }
    )*};
}

/// Makes a system call with two paths if one of them leads to the volume.
unsafe fn both(
    one: (c_int, Text),
    other: (c_int, Text),
    arguments: impl Fn((c_int, Text), (c_int, Text)) -> [usize; 6],
    number: usize,
) -> Option<c_int> {
    // SAFETY: the caller's paths.
    let concerned = unsafe { concerns(one.1) } || unsafe { concerns(other.1) };
    if !concerned {
        return None;
    }
    // SAFETY: likewise.
    let first = unsafe { text(one.1) }?;
    // SAFETY: likewise.
    let second = unsafe { text(other.1) }?;
    // SAFETY: the caller's arguments, with paths that live as long as the call.
    let call = |one, other| -> c_int { unsafe { make(number, arguments(one, other)) } };
    let with_first =
        |one: (c_int, Text)| find(other.0, second, |dir, path| call(one, (dir, path.as_ptr())));
    let inside = find(one.0, first, |dir, path| {
        let one = (dir, path.as_ptr());
        with_first(one).unwrap_or_else(|| call(one, other))
    });
    inside.or_else(|| with_first(one))
}

pairs! {
    rename(from: Text, to: Text) = RENAMEAT2, (sys::AT_FDCWD, from), (sys::AT_FDCWD, to), 0;
    renameat(dir: c_int, from: Text, other: c_int, to: Text) = RENAMEAT2, (dir, from), (other, to), 0;
    renameat2(dir: c_int, from: Text, other: c_int, to: Text, flags: c_uint)
        = RENAMEAT2, (dir, from), (other, to), flags;
    link(from: Text, to: Text) = LINKAT, (sys::AT_FDCWD, from), (sys::AT_FDCWD, to), 0;
    linkat(dir: c_int, from: Text, other: c_int, to: Text, flags: c_int)
        = LINKAT, (dir, from), (other, to), flags;
}

/// The target of a link is text, which is not changed.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn symlink(target: Text, path: Text) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { link_to(target, sys::AT_FDCWD, path) }
        .or_else(|| next!(symlink(target => Text, path => Text) -> c_int))
        .unwrap_or_else(|| next::fail(sys::ENOSYS))
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn symlinkat(target: Text, dir: c_int, path: Text) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { link_to(target, dir, path) }
        .or_else(|| next!(symlinkat(target => Text, dir => c_int, path => Text) -> c_int))
        .unwrap_or_else(|| next::fail(sys::ENOSYS))
}

unsafe fn link_to(target: Text, dir: c_int, path: Text) -> Option<c_int> {
    // SAFETY: the caller's path.
    if !unsafe { concerns(path) } {
        return None;
    }
    // SAFETY: the caller's path.
    find(dir, unsafe { text(path) }?, |dir, path| -> c_int {
        let arguments = [target.word(), dir.word(), path.as_ptr().word(), 0, 0, 0];
        // SAFETY: the caller's arguments.
        unsafe { make(SYMLINKAT, arguments) }
    })
}
