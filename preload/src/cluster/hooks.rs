//! [unsafe] The table of functions that take a path. Calls elsewhere are the next function's, untouched.
//!
//! A function that libc calls itself, such as `open` for `fopen`, is not seen there: each has its own hook. Hooks keep
//! `errno` as the real function does, and take neither locks nor memory, apart from those that return memory.
#![expect(unsafe_code, reason = "the C interface of the hooks")]
#![allow(
    clippy::missing_safety_doc,
    reason = "each function of this file follows the manual page of its name"
)]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::memory::Memory;
use super::{Outcome, find, is_hidden, root};
use crate::next;
use crate::strings::text;
use crate::sys;

type Text = *const c_char;
type Pointer = *const c_void;

const AT_REMOVEDIR: c_int = 0x200;
const AT_EACCESS: c_int = 0x200;
const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
const O_CREAT_TRUNCATE: c_int = 0o1101;
const S_IFIFO: c_uint = 0o010_000;

const FUTIMESAT: usize = 261;
const OPENAT: usize = 257;
const MKDIRAT: usize = 258;
const MKNODAT: usize = 259;
const FCHOWNAT: usize = 260;
const NEWFSTATAT: usize = 262;
const UNLINKAT: usize = 263;
const READLINKAT: usize = 267;
const FCHMODAT: usize = 268;
const FACCESSAT: usize = 269;
const FACCESSAT2: usize = 439;

/// Tells whether a path may lead to the volume, by its first bytes. This is all that calls elsewhere pay.
#[inline(always)]
unsafe fn concerns(path: Text) -> bool {
    if !is_hidden() || path.is_null() {
        return false;
    }
    let path = path.cast::<u8>();
    // SAFETY: a C string has at least its NUL.
    let first = unsafe { path.read() };
    if first != b'/' {
        return super::may_begin(first);
    }
    // SAFETY: the first byte is not the NUL.
    let second = unsafe { path.add(1) };
    // SAFETY: likewise.
    super::may_begin(unsafe { second.read() })
}

/// An argument or a result of a system call.
trait Word {
    fn word(self) -> usize;
}

impl Word for c_int {
    fn word(self) -> usize {
        sys::word(self)
    }
}

impl Word for c_uint {
    fn word(self) -> usize {
        usize::try_from(self).unwrap_or(0)
    }
}

impl Word for usize {
    fn word(self) -> usize {
        self
    }
}

impl Word for u64 {
    fn word(self) -> usize {
        usize::try_from(self).unwrap_or(0)
    }
}

impl<T> Word for *const T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Word for *mut T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// What a function returns for a system call.
trait Given {
    fn given(result: Result<usize, c_int>) -> Self;
}

impl Given for c_int {
    fn given(result: Result<usize, c_int>) -> Self {
        result.map_or_else(next::fail, |value| Self::try_from(value).unwrap_or(-1))
    }
}

impl Given for isize {
    fn given(result: Result<usize, c_int>) -> Self {
        result.map_or_else(
            |error| Self::try_from(next::fail(error)).unwrap_or(-1),
            usize::cast_signed,
        )
    }
}

/// Makes a system call with the caller's arguments.
unsafe fn make<G: Given>(number: usize, arguments: [usize; 6]) -> G {
    // SAFETY: the kernel checks the caller's pointers itself.
    G::given(unsafe { sys::call(number, arguments) })
}

/// Fills the arguments of a system call.
macro_rules! arguments {
    ($dir:expr, $path:expr $(, $more:expr)*) => {{
        let mut all = [0; 6];
        let given = [Word::word($dir), Word::word($path) $(, Word::word($more))*];
        all[..given.len()].copy_from_slice(&given);
        all
    }};
}

macro_rules! name {
    ($name:ident) => {{
        const NAME: &CStr =
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            };
        NAME
    }};
}

/// Calls the next function of a name.
macro_rules! next {
    ($name:ident($($argument:expr => $type:ty),*) -> $ret:ty) => {
        next!(resolve, $name($($argument => $type),*) -> $ret)
    };
    ($resolve:ident, $name:ident($($argument:expr => $type:ty),*) -> $ret:ty) => {{
        crate::next::function!(NEXT, name!($name));
        match NEXT.$resolve() {
            Some(address) => {
                // SAFETY: `dlsym` found the address under the name of a function of this type.
                let next: unsafe extern "C" fn($($type),*) -> $ret = unsafe { core::mem::transmute(address) };
                // SAFETY: the caller's arguments.
                Some(unsafe { next($($argument),*) })
            }
            None => None,
        }
    }};
}

mod names;
mod pairs;
mod single;
mod streams;
mod temporaries;

/// Functions with a path, which a system call does relative to a directory: `name(leading; arguments) = CALL, arguments`.
macro_rules! by_system_call {
    ($($name:ident($($lead:ident: $lead_type:ty),*; $($argument:ident: $type:ty),*) -> $ret:ty
        = $number:ident $(, $value:expr)*;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name($($lead: $lead_type,)* path: Text $(, $argument: $type)*) -> $ret {
            // SAFETY: the caller's path.
            if unsafe { concerns(path) } && let Some(known) = unsafe { text(path) } {
                let result = find(sys::AT_FDCWD, known, |dir, path| -> $ret {
                    // SAFETY: the caller's arguments.
                    unsafe { make($number, arguments!(dir, path.as_ptr() $(, $value)*)) }
                });
                if let Some(result) = result {
                    return result;
                }
            }
            next!(resolve_outside, $name($($lead => $lead_type,)* path => Text $(, $argument => $type)*) -> $ret)
                // SAFETY: the caller's arguments. A libc without the function has the system call.
                .unwrap_or_else(|| unsafe { make($number, arguments!(sys::AT_FDCWD, path $(, $value)*)) })
        }
    )*};
}

by_system_call! {
    open(; flags: c_int, mode: c_uint) -> c_int = OPENAT, flags, mode;
    open64(; flags: c_int, mode: c_uint) -> c_int = OPENAT, flags, mode;
    __open(; flags: c_int, mode: c_uint) -> c_int = OPENAT, flags, mode;
    __open64(; flags: c_int, mode: c_uint) -> c_int = OPENAT, flags, mode;
    __open_2(; flags: c_int) -> c_int = OPENAT, flags;
    __open64_2(; flags: c_int) -> c_int = OPENAT, flags;
    creat(; mode: c_uint) -> c_int = OPENAT, O_CREAT_TRUNCATE, mode;
    creat64(; mode: c_uint) -> c_int = OPENAT, O_CREAT_TRUNCATE, mode;
    stat(; found: Pointer) -> c_int = NEWFSTATAT, found, 0;
    stat64(; found: Pointer) -> c_int = NEWFSTATAT, found, 0;
    lstat(; found: Pointer) -> c_int = NEWFSTATAT, found, AT_SYMLINK_NOFOLLOW;
    lstat64(; found: Pointer) -> c_int = NEWFSTATAT, found, AT_SYMLINK_NOFOLLOW;
    __xstat(version: c_int; found: Pointer) -> c_int = NEWFSTATAT, found, 0;
    __xstat64(version: c_int; found: Pointer) -> c_int = NEWFSTATAT, found, 0;
    __lxstat(version: c_int; found: Pointer) -> c_int = NEWFSTATAT, found, AT_SYMLINK_NOFOLLOW;
    __lxstat64(version: c_int; found: Pointer) -> c_int = NEWFSTATAT, found, AT_SYMLINK_NOFOLLOW;
    access(; mode: c_int) -> c_int = FACCESSAT, mode;
    euidaccess(; mode: c_int) -> c_int = FACCESSAT2, mode, AT_EACCESS;
    eaccess(; mode: c_int) -> c_int = FACCESSAT2, mode, AT_EACCESS;
    readlink(; link: *mut c_char, bytes: usize) -> isize = READLINKAT, link, bytes;
    __readlink_chk(; link: *mut c_char, bytes: usize, room: usize) -> isize = READLINKAT, link, bytes.min(room);
    unlink(;) -> c_int = UNLINKAT, 0;
    rmdir(;) -> c_int = UNLINKAT, AT_REMOVEDIR;
    mkdir(; mode: c_uint) -> c_int = MKDIRAT, mode;
    mkfifo(; mode: c_uint) -> c_int = MKNODAT, mode | S_IFIFO, 0;
    mknod(; mode: c_uint, device: u64) -> c_int = MKNODAT, mode, device;
    chmod(; mode: c_uint) -> c_int = FCHMODAT, mode;
    chown(; owner: c_uint, group: c_uint) -> c_int = FCHOWNAT, owner, group, 0;
    lchown(; owner: c_uint, group: c_uint) -> c_int = FCHOWNAT, owner, group, AT_SYMLINK_NOFOLLOW;
    utimes(; times: Pointer) -> c_int = FUTIMESAT, times;
}

/// Functions with a directory and a path, which the next function does relative to another directory.
macro_rules! beside {
    ($($name:ident($($lead:ident: $lead_type:ty),*; $($argument:ident: $type:ty),*) -> $ret:ty;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name(
            $($lead: $lead_type,)* dir: c_int, path: Text $(, $argument: $type)*
        ) -> $ret {
            let call = |dir: c_int, path: Text| {
                next!($name($($lead => $lead_type,)* dir => c_int, path => Text $(, $argument => $type)*) -> $ret)
                    .unwrap_or_else(|| <$ret as Given>::given(Err(sys::ENOSYS)))
            };
            // SAFETY: the caller's path.
            if unsafe { concerns(path) } && let Some(known) = unsafe { text(path) } {
                let result = find(dir, known, |dir, path| call(dir, path.as_ptr()));
                if let Some(result) = result {
                    return result;
                }
            }
            call(dir, path)
        }
    )*};
}

beside! {
    openat(; flags: c_int, mode: c_uint) -> c_int;
    openat64(; flags: c_int, mode: c_uint) -> c_int;
    __openat_2(; flags: c_int) -> c_int;
    __openat64_2(; flags: c_int) -> c_int;
    fstatat(; found: Pointer, flags: c_int) -> c_int;
    fstatat64(; found: Pointer, flags: c_int) -> c_int;
    __fxstatat(version: c_int; found: Pointer, flags: c_int) -> c_int;
    __fxstatat64(version: c_int; found: Pointer, flags: c_int) -> c_int;
    statx(; flags: c_int, mask: c_uint, found: Pointer) -> c_int;
    faccessat(; mode: c_int, flags: c_int) -> c_int;
    readlinkat(; link: *mut c_char, bytes: usize) -> isize;
    __readlinkat_chk(; link: *mut c_char, bytes: usize, room: usize) -> isize;
    unlinkat(; flags: c_int) -> c_int;
    mkdirat(; mode: c_uint) -> c_int;
    mkfifoat(; mode: c_uint) -> c_int;
    mknodat(; mode: c_uint, device: u64) -> c_int;
    fchmodat(; mode: c_uint, flags: c_int) -> c_int;
    fchownat(; owner: c_uint, group: c_uint, flags: c_int) -> c_int;
    futimesat(; times: Pointer) -> c_int;
    utimensat(; times: Pointer, flags: c_int) -> c_int;
}

/// Functions with a path that have no relative to a directory: they get a name of the descriptor, which needs `/proc`.
macro_rules! by_name {
    ($($name:ident($($lead:ident: $lead_type:ty),*; $($argument:ident: $type:ty),*) -> $ret:ty, $failed:expr;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name($($lead: $lead_type,)* path: Text $(, $argument: $type)*) -> $ret {
            let call = |path: Text| {
                next!($name($($lead => $lead_type,)* path => Text $(, $argument => $type)*) -> $ret)
                    .unwrap_or_else(|| { next::fail(sys::ENOSYS); $failed })
            };
            // SAFETY: the caller's path.
            if unsafe { concerns(path) } && let Some(known) = unsafe { text(path) } {
                let result = find(sys::AT_FDCWD, known, |dir, path| {
                    Memory::Mapped.with(|[mut room]| call(root::name(dir, path, &mut room).as_ptr()))
                });
                if let Some(result) = result {
                    return result;
                }
            }
            call(path)
        }
    )*};
}

by_name! {
    truncate(; length: i64) -> c_int, -1;
    truncate64(; length: i64) -> c_int, -1;
    statfs(; found: Pointer) -> c_int, -1;
    statfs64(; found: Pointer) -> c_int, -1;
    statvfs(; found: Pointer) -> c_int, -1;
    statvfs64(; found: Pointer) -> c_int, -1;
    pathconf(; what: c_int) -> isize, -1;
    getxattr(; name: Text, value: Pointer, bytes: usize) -> isize, -1;
    lgetxattr(; name: Text, value: Pointer, bytes: usize) -> isize, -1;
    setxattr(; name: Text, value: Pointer, bytes: usize, flags: c_int) -> c_int, -1;
    lsetxattr(; name: Text, value: Pointer, bytes: usize, flags: c_int) -> c_int, -1;
    listxattr(; list: Pointer, bytes: usize) -> isize, -1;
    llistxattr(; list: Pointer, bytes: usize) -> isize, -1;
    removexattr(; name: Text) -> c_int, -1;
    lremovexattr(; name: Text) -> c_int, -1;
    inotify_add_watch(fd: c_int; mask: c_uint) -> c_int, -1;
    freopen(; mode: Text, stream: Pointer) -> *mut c_void, core::ptr::null_mut();
    freopen64(; mode: Text, stream: Pointer) -> *mut c_void, core::ptr::null_mut();
}

/// Calls `call` with a directory and the path relative to it, if the path leads to the volume.
unsafe fn with_path<R: Outcome>(path: Text, call: impl FnMut(c_int, &CStr) -> R) -> Option<R> {
    // SAFETY: the caller's path.
    if !unsafe { concerns(path) } {
        return None;
    }
    // SAFETY: likewise.
    find(sys::AT_FDCWD, unsafe { text(path) }?, call)
}
