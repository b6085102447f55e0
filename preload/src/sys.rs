//! [unsafe] Direct system calls: libc's wrappers would write the program's `errno`. Errors are
//! positive error numbers.
#![expect(unsafe_code, reason = "system calls")]

pub(crate) mod socket;

use core::arch::asm;
use core::ffi::{CStr, c_char, c_int};
use core::mem::MaybeUninit;

pub(crate) const E2BIG: c_int = 7;
pub(crate) const ENOSYS: c_int = 38;
pub(crate) const AT_FDCWD: c_int = -100;
pub(crate) const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
pub(crate) const AT_EMPTY_PATH: c_int = 0x1000;
pub(crate) const O_RDONLY: usize = 0;
pub(crate) const O_RDWR: usize = 2;
pub(crate) const O_PATH: usize = 0o10_000_000;
pub(crate) const O_DIRECTORY: usize = 0o200_000;
pub(crate) const O_NOCTTY: usize = 0o400;
pub(crate) const O_NONBLOCK: usize = 0o4_000;
const O_CLOEXEC: usize = 0o2_000_000;
const X_OK: usize = 1;
const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const MAP_SHARED: usize = 1;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;

const READ_AT: usize = 17;
const CLOSE: usize = 3;
const FSTAT: usize = 5;
const MMAP: usize = 9;
const MUNMAP: usize = 11;
const EXECVE: usize = 59;
const READLINK: usize = 89;
const GETEUID: usize = 107;
const GETEGID: usize = 108;
const GETXATTR: usize = 191;
const EXIT_GROUP: usize = 231;
const OPENAT: usize = 257;
const NEWFSTATAT: usize = 262;
const FACCESSAT2: usize = 439;
const FACCESSAT: usize = 269;
const EXECVEAT: usize = 322;
const READLINKAT: usize = 267;
const STATX: usize = 332;
const STATX_INO: usize = 0x100;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
const AT_NO_AUTOMOUNT: c_int = 0x800;
const AT_STATX_DONT_SYNC: c_int = 0x4000;
const GETCWD: usize = 79;
const FCHDIR: usize = 81;
const FCNTL: usize = 72;
const F_DUPFD_CLOEXEC: usize = 1030;
const CLOCK_GETTIME: usize = 228;
const MONOTONIC_COARSE: usize = 6;
const GETRANDOM: usize = 318;
const AT_EACCESS: usize = 0x200;

/// The kernel's `struct stat`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    nlink: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pad: u32,
    rdev: u64,
    pub(crate) size: i64,
    rest: [u64; 11],
}

/// Makes a system call.
///
/// # Safety
/// With these arguments the kernel touches only memory that the caller may lend to it.
pub(crate) unsafe fn call(number: usize, arguments: [usize; 6]) -> Result<usize, c_int> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the kernel clobbers only rcx and r11; the caller vouches for the memory.
    unsafe {
        asm!("syscall", inlateout("rax") number.cast_signed() => result, in("rdi") a, in("rsi") b,
             in("rdx") c, in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _,
             options(nostack));
    }
    if result < 0 {
        Err(c_int::try_from(-result).unwrap_or(ENOSYS))
    } else {
        Ok(result.cast_unsigned())
    }
}

fn text(text: &CStr) -> usize {
    text.as_ptr().addr()
}

/// Returns a descriptor as an argument of a system call.
pub(crate) fn word(fd: c_int) -> usize {
    isize::try_from(fd).unwrap_or(-1).cast_unsigned()
}

fn descriptor(result: usize) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

/// Opens a file with `O_CLOEXEC`.
pub(crate) fn open(path: &CStr, flags: usize) -> Result<c_int, c_int> {
    open_at(AT_FDCWD, path, flags)
}

/// Opens a file relative to a directory, with `O_CLOEXEC`.
pub(crate) fn open_at(directory: c_int, path: &CStr, flags: usize) -> Result<c_int, c_int> {
    let arguments = [word(directory), text(path), flags | O_CLOEXEC, 0, 0, 0];
    // SAFETY: the path is a live C string.
    unsafe { call(OPENAT, arguments) }.map(descriptor)
}

/// Closes a descriptor that [`open`] returned.
pub(crate) fn close(fd: c_int) {
    // SAFETY: closing touches no memory.
    let _ = unsafe { call(CLOSE, [word(fd), 0, 0, 0, 0, 0]) };
}

/// Reads at an offset; returns the bytes read.
pub(crate) fn read_at(fd: c_int, bytes: &mut [u8], offset: usize) -> Result<usize, c_int> {
    let arguments = [word(fd), bytes.as_mut_ptr().addr(), bytes.len(), offset, 0, 0];
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(READ_AT, arguments) }
}

/// Returns the metadata of the file at a path, following links.
pub(crate) fn stat(path: &CStr) -> Result<Stat, c_int> {
    stat_at(AT_FDCWD, path)
}

/// Returns the metadata of the file at a path relative to a directory, following links.
pub(crate) fn stat_at(directory: c_int, path: &CStr) -> Result<Stat, c_int> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    let arguments = [word(directory), text(path), stat.as_mut_ptr().addr(), 0, 0, 0];
    // SAFETY: path and buffer are live, and the buffer has the kernel's layout.
    unsafe { call(NEWFSTATAT, arguments) }?;
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// Returns the metadata of the file behind a descriptor.
pub(crate) fn fstat(fd: c_int) -> Result<Stat, c_int> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    // SAFETY: the buffer is live and has the kernel's layout.
    unsafe { call(FSTAT, [word(fd), stat.as_mut_ptr().addr(), 0, 0, 0, 0]) }?;
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// Tells whether this process may execute the file, by its effective ids, as `execve` checks.
pub(crate) fn may_execute(path: &CStr) -> bool {
    may_execute_at(AT_FDCWD, path)
}

/// Tells whether this process may execute the file at a path relative to a directory.
pub(crate) fn may_execute_at(directory: c_int, path: &CStr) -> bool {
    let arguments = [word(directory), text(path), X_OK, AT_EACCESS, 0, 0];
    // SAFETY: the path is a live C string.
    match unsafe { call(FACCESSAT2, arguments) } {
        // SAFETY: as above; kernels before 5.8 have only this call.
        Err(ENOSYS) => unsafe { call(FACCESSAT, arguments) }.is_ok(),
        result => result.is_ok(),
    }
}

/// Tells whether the path ends in a symbolic link.
pub(crate) fn is_link(path: &CStr) -> bool {
    let mut byte = [0; 1];
    let arguments = [text(path), byte.as_mut_ptr().addr(), byte.len(), 0, 0, 0];
    // SAFETY: the kernel writes at most one byte.
    unsafe { call(READLINK, arguments) }.is_ok()
}

/// Reads a symbolic link; returns its target.
pub(crate) fn read_link<'a>(path: &CStr, bytes: &'a mut [u8]) -> Option<&'a [u8]> {
    let arguments = [text(path), bytes.as_mut_ptr().addr(), bytes.len(), 0, 0, 0];
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    let length = unsafe { call(READLINK, arguments) }.ok()?;
    // A link that fills the buffer may have been cut.
    bytes.get(..length).filter(|link| link.len() < bytes.len())
}

/// Reads a symbolic link relative to a directory; returns its target.
pub(crate) fn read_link_at<'a>(
    directory: c_int,
    path: &CStr,
    bytes: &'a mut [u8],
) -> Option<&'a [u8]> {
    let arguments = [word(directory), text(path), bytes.as_mut_ptr().addr(), bytes.len(), 0, 0];
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    let length = unsafe { call(READLINKAT, arguments) }.ok()?;
    bytes.get(..length).filter(|link| link.len() < bytes.len())
}

/// Tells whether the file has capabilities of its own.
pub(crate) fn has_capabilities(path: &CStr) -> bool {
    let arguments = [text(path), text(c"security.capability"), 0, 0, 0, 0];
    // SAFETY: both are live C strings; a size of 0 asks for the length alone.
    unsafe { call(GETXATTR, arguments) }.is_ok_and(|length| length > 0)
}

/// What a file is, as the kernel knows it without asking who serves its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Whether something is mounted there.
    pub(crate) is_mount: bool,
}

/// Identifies the file at a path relative to a directory, following links; of an empty path, the directory.
pub(crate) fn identity(directory: c_int, path: &CStr) -> Result<Identity, c_int> {
    // The kernel's `struct statx`: attributes at 8, inode at 32, the device's numbers at 136 and 140.
    let mut found = [0_u64; 32];
    let flags = word(AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC);
    let arguments = [word(directory), text(path), flags, STATX_INO, found.as_mut_ptr().addr(), 0];
    // SAFETY: path and buffer are live, and the buffer has the kernel's size.
    unsafe { call(STATX, arguments) }?;
    let is_mount = found[1] & STATX_ATTR_MOUNT_ROOT != 0;
    Ok(Identity { device: found[17], inode: found[4], is_mount })
}

/// Writes the working directory and a NUL; returns it.
pub(crate) fn working_directory(bytes: &mut [u8]) -> Result<&[u8], c_int> {
    let arguments = [bytes.as_mut_ptr().addr(), bytes.len(), 0, 0, 0, 0];
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    let length = unsafe { call(GETCWD, arguments) }?;
    Ok(bytes.get(..length.saturating_sub(1)).unwrap_or_default())
}

/// Changes the working directory.
pub(crate) fn enter(fd: c_int) -> Result<(), c_int> {
    // SAFETY: the call touches no memory.
    unsafe { call(FCHDIR, [word(fd), 0, 0, 0, 0, 0]) }.map(drop)
}

/// Duplicates a descriptor to a number that is not below another, with `O_CLOEXEC`.
pub(crate) fn duplicate(fd: c_int, least: usize) -> Option<c_int> {
    // SAFETY: the call touches no memory.
    unsafe { call(FCNTL, [word(fd), F_DUPFD_CLOEXEC, least, 0, 0, 0]) }.ok().map(descriptor)
}

/// Returns seconds of a clock that only goes forward.
pub(crate) fn seconds() -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: the kernel writes a `struct timespec`.
    let _ =
        unsafe { call(CLOCK_GETTIME, [MONOTONIC_COARSE, time.as_mut_ptr().addr(), 0, 0, 0, 0]) };
    time[0]
}

/// Fills bytes at random.
pub(crate) fn random(bytes: &mut [u8]) -> Result<usize, c_int> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(GETRANDOM, [bytes.as_mut_ptr().addr(), bytes.len(), 0, 0, 0, 0]) }
}

/// Returns the effective user.
pub(crate) fn effective_user() -> u32 {
    id(GETEUID)
}

/// Returns the effective group.
pub(crate) fn effective_group() -> u32 {
    id(GETEGID)
}

fn id(number: usize) -> u32 {
    // SAFETY: the call touches no memory.
    let id = unsafe { call(number, [0; 6]) };
    id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
}

/// Maps a part of a file, shared, until the process ends.
pub(crate) fn map(fd: c_int, offset: usize, bytes: usize, writable: bool) -> Option<*mut u8> {
    let protection = if writable { PROT_READ | PROT_WRITE } else { PROT_READ };
    let arguments = [0, bytes, protection, MAP_SHARED, word(fd), offset];
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let address = unsafe { call(MMAP, arguments) }.ok()?;
    Some(core::ptr::with_exposed_provenance_mut(address))
}

/// Calls `work` with temporary memory, or with an empty slice if there is none.
pub(crate) fn with_memory<R>(bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let arguments = [0, bytes, PROT_READ | PROT_WRITE, flags, word(-1), 0];
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let Ok(address) = (unsafe { call(MMAP, arguments) }) else { return work(&mut []) };
    let first = core::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: the mapping has this size, is zeroed, and nobody else uses it.
    let result = work(unsafe { core::slice::from_raw_parts_mut(first, bytes) });
    // SAFETY: the slice is gone, and nothing else points into the mapping.
    let _ = unsafe { call(MUNMAP, [address, bytes, 0, 0, 0, 0]) };
    result
}

/// Executes a program; returns only the error.
///
/// # Safety
/// `argv` and `envp` are null or null-terminated arrays of C strings.
pub(crate) unsafe fn execve(
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> c_int {
    let arguments = [path.addr(), argv.addr(), envp.addr(), 0, 0, 0];
    // SAFETY: the kernel checks the pointers itself; the caller vouches for the arrays.
    unsafe { call(EXECVE, arguments) }.err().unwrap_or(0)
}

/// Executes a program relative to a directory; returns only the error.
///
/// # Safety
/// As for [`execve`].
pub(crate) unsafe fn execveat(
    directory: c_int,
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    flags: c_int,
) -> c_int {
    let arguments = [word(directory), path.addr(), argv.addr(), envp.addr(), word(flags), 0];
    // SAFETY: the kernel checks the pointers itself; the caller vouches for the arrays.
    unsafe { call(EXECVEAT, arguments) }.err().unwrap_or(0)
}

/// Ends the process with the status that a shell shows for `abort`.
#[cfg_attr(not(panic = "abort"), expect(dead_code, reason = "only the panic handler calls it"))]
pub(crate) fn abort() -> ! {
    loop {
        // SAFETY: the process ends here.
        let _ = unsafe { call(EXIT_GROUP, [134, 0, 0, 0, 0, 0]) };
    }
}
