//! [unsafe] System calls. Errors are positive error numbers.
#![expect(unsafe_code, reason = "system calls")]

use core::arch::asm;
use core::ffi::{CStr, c_char};
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use worknode::door::{TERMIOS_BYTES, Termios, Window};

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EINTR: i32 = 4;
pub(crate) const ENOEXEC: i32 = 8;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const EACCES: i32 = 13;
pub(crate) const ENOSYS: i32 = 38;
pub(crate) const EOPNOTSUPP: i32 = 95;

pub(crate) const POLLIN: i16 = 1;
pub(crate) const POLLOUT: i16 = 4;
/// The descriptor is not open.
pub(crate) const POLLNVAL: i16 = 0x20;

pub(crate) const O_RDONLY: usize = 0;
pub(crate) const O_RDWR: usize = 2;
pub(crate) const O_DIRECTORY: usize = 0o200_000;
const O_CLOEXEC: usize = 0o2_000_000;

/// The kernel's `struct stat`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    nlink: u64,
    pub(crate) mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    pub(crate) rdev: u64,
    pub(crate) size: i64,
    rest: [u64; 11],
}

/// The kernel's `struct pollfd`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct PollFd {
    pub(crate) fd: i32,
    pub(crate) events: i16,
    pub(crate) ready: i16,
}

/// The kernel's `struct iovec`, for writing.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Part<'a> {
    start: *const u8,
    bytes: usize,
    marker: PhantomData<&'a [u8]>,
}

impl<'a> Part<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { start: bytes.as_ptr(), bytes: bytes.len(), marker: PhantomData }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops bytes from the front.
    pub(crate) fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.start = self.start.wrapping_add(bytes);
        self.bytes -= bytes;
    }

    /// Extends the part by `next` if that follows it directly in memory; returns whether it does.
    pub(crate) fn absorb(&mut self, next: &'a [u8]) -> bool {
        let adjacent = self.start.wrapping_add(self.bytes) == next.as_ptr();
        self.bytes += if adjacent { next.len() } else { 0 };
        adjacent
    }
}

/// Makes a system call.
///
/// # Safety
/// With these arguments the kernel touches only memory that the caller may lend to it.
unsafe fn call(number: usize, arguments: [usize; 6]) -> Result<usize, i32> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the kernel clobbers only rcx and r11; the caller vouches for the memory.
    unsafe {
        asm!("syscall", inlateout("rax") number.cast_signed() => result, in("rdi") a, in("rsi") b,
             in("rdx") c, in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _,
             options(nostack));
    }
    if result < 0 {
        Err(i32::try_from(-result).unwrap_or(EAGAIN))
    } else {
        Ok(result.cast_unsigned())
    }
}

/// Makes a system call whose arguments are plain numbers.
fn simple(number: usize, arguments: [usize; 3]) -> Result<usize, i32> {
    let [a, b, c] = arguments;
    // SAFETY: private to this file, and used only for calls that touch no memory of this process.
    unsafe { call(number, [a, b, c, 0, 0, 0]) }
}

/// Makes a system call whose third argument is a structure that the kernel reads or fills.
fn with<T>(number: usize, before: [usize; 2], value: &mut T, after: usize) -> Result<usize, i32> {
    let [a, b] = before;
    // SAFETY: private to this file; every use passes the structure that the call expects.
    unsafe { call(number, [a, b, (&raw mut *value).addr(), after, 0, 0]) }
}

fn word(fd: i32) -> usize {
    isize::try_from(fd).unwrap_or(-1).cast_unsigned()
}

fn descriptor(result: usize) -> i32 {
    i32::try_from(result).unwrap_or(-1)
}

fn low_word(result: usize) -> u32 {
    u32::try_from(result & 0xffff_ffff).unwrap_or(0)
}

pub(crate) fn read(fd: i32, bytes: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(0, [word(fd), bytes.as_mut_ptr().addr(), bytes.len(), 0, 0, 0]) }
}

pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize, i32> {
    // SAFETY: the kernel reads the slice.
    unsafe { call(1, [word(fd), bytes.as_ptr().addr(), bytes.len(), 0, 0, 0]) }
}

/// Writes as much as a pipe has room for, without waiting. Kernels before 6.4 return an error.
pub(crate) fn push(pipe: i32, bytes: &[u8]) -> Result<usize, i32> {
    const RWF_NOWAIT: usize = 8;
    const NO_OFFSET: usize = usize::MAX;
    let mut part = Part::of(bytes);
    // SAFETY: the kernel reads one structure, and the bytes that it names.
    unsafe { call(328, [word(pipe), (&raw mut part).addr(), 1, NO_OFFSET, 0, RWF_NOWAIT]) }
}

/// Raises a pipe's capacity to so many bytes, if that is permitted.
pub(crate) fn widen(pipe: i32, bytes: usize) {
    const F_SETPIPE_SZ: usize = 1031;
    let _ = simple(72, [word(pipe), F_SETPIPE_SZ, bytes]);
}

/// Tells whether there is something to read.
pub(crate) fn has_input(fd: i32) -> bool {
    const FIONREAD: usize = 0x541b;
    let mut bytes = 0_i32;
    with(16, [word(fd), FIONREAD], &mut bytes, 0).is_ok() && bytes > 0
}

/// Reads what is available, without waiting. Also returns `EAGAIN` while another process has the pipe
/// locked.
pub(crate) fn read_now(fd: i32, bytes: &mut [u8]) -> Result<usize, i32> {
    const RWF_NOWAIT: usize = 8;
    const HERE: usize = usize::MAX;
    let part = [bytes.as_mut_ptr().addr(), bytes.len()];
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(327, [word(fd), part.as_ptr().addr(), 1, HERE, HERE, RWF_NOWAIT]) }
}

/// Writes parts one after the other.
pub(crate) fn write_parts(fd: i32, parts: &[Part<'_>]) -> Result<usize, i32> {
    // SAFETY: the kernel reads the parts, which live as long as their slices.
    unsafe { call(20, [word(fd), parts.as_ptr().addr(), parts.len(), 0, 0, 0]) }
}

pub(crate) fn open(path: &CStr, flags: usize) -> Result<i32, i32> {
    let arguments = [path.as_ptr().addr(), flags | O_CLOEXEC, 0, 0, 0, 0];
    // SAFETY: the path is a live C string.
    unsafe { call(2, arguments) }.map(descriptor)
}

pub(crate) fn close(fd: i32) {
    let _ = simple(3, [word(fd), 0, 0]);
}

pub(crate) fn fstat(fd: i32) -> Result<Stat, i32> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    // SAFETY: the buffer is live and has the kernel's layout.
    unsafe { call(5, [word(fd), stat.as_mut_ptr().addr(), 0, 0, 0, 0]) }?;
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// Returns the size of the file at a path.
pub(crate) fn size(path: &CStr) -> Result<u64, i32> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    // SAFETY: the path is a live C string; the buffer is live and has the kernel's layout.
    unsafe { call(4, [path.as_ptr().addr(), stat.as_mut_ptr().addr(), 0, 0, 0, 0]) }?;
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    Ok(u64::try_from(unsafe { stat.assume_init() }.size).unwrap_or(0))
}

/// How bytes behind a descriptor can be read without consuming them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A regular file: by seeking back.
    Regular,
    /// A pipe: by `tee`.
    Pipe,
    /// A socket: by peeking.
    Socket,
    /// Anything else: not at all.
    Other,
}

/// Returns the sort of a descriptor.
pub(crate) fn sort(fd: i32) -> Sort {
    match fstat(fd).map_or(0, |stat| stat.mode & 0o170_000) {
        0o100_000 => Sort::Regular,
        0o010_000 => Sort::Pipe,
        0o140_000 => Sort::Socket,
        _ => Sort::Other,
    }
}

/// Makes a pipe; returns its read end and its write end.
pub(crate) fn pipe() -> Result<[i32; 2], i32> {
    let mut ends = [-1_i32; 2];
    // SAFETY: the kernel fills the two numbers.
    unsafe { call(293, [(&raw mut ends).addr(), O_CLOEXEC, 0, 0, 0, 0]) }?;
    Ok(ends)
}

/// Copies the contents of a pipe to another one without consuming them.
pub(crate) fn tee(from: i32, to: i32, bytes: usize) -> Result<usize, i32> {
    const SPLICE_F_NONBLOCK: usize = 2;
    // SAFETY: the call touches no memory of this process.
    unsafe { call(276, [word(from), word(to), bytes, SPLICE_F_NONBLOCK, 0, 0]) }
}

/// Reads from a socket without consuming.
pub(crate) fn peek(fd: i32, bytes: &mut [u8]) -> Result<usize, i32> {
    const MSG_PEEK_DONTWAIT: usize = 0x42;
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(45, [word(fd), bytes.as_mut_ptr().addr(), bytes.len(), MSG_PEEK_DONTWAIT, 0, 0]) }
}

/// Waits until a descriptor is ready.
pub(crate) fn poll(fds: &mut [PollFd]) -> Result<usize, i32> {
    // SAFETY: the kernel reads and writes the slice; no timeout and no mask.
    unsafe { call(271, [fds.as_mut_ptr().addr(), fds.len(), 0, 0, 0, 0]) }
}

/// Polls descriptors without waiting.
pub(crate) fn look(fds: &mut [PollFd]) -> Result<usize, i32> {
    const NO_TIMEOUT: usize = 0;
    // SAFETY: the kernel reads and writes the slice.
    unsafe { call(7, [fds.as_mut_ptr().addr(), fds.len(), NO_TIMEOUT, 0, 0, 0]) }
}

/// Returns the file offset, or -1 where there is none.
pub(crate) fn offset(fd: i32) -> i64 {
    const SEEK_CUR: usize = 1;
    simple(8, [word(fd), 0, SEEK_CUR]).ok().and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)
}

/// Moves the file offset, where there is one.
pub(crate) fn seek(fd: i32, offset: u64) {
    let offset = usize::try_from(offset).unwrap_or(0);
    // Fails only for a descriptor without an offset.
    let _ = simple(8, [word(fd), offset, 0]);
}

/// Moves the file offset by a signed distance.
pub(crate) fn move_offset(fd: i32, by: isize) {
    const SEEK_CUR: usize = 1;
    let _ = simple(8, [word(fd), by.cast_unsigned(), SEEK_CUR]);
}

/// Maps a part of a file, shared, until the process ends; returns `None` if that fails.
fn map(fd: i32, offset: usize, bytes: usize, protection: usize) -> Option<*mut u8> {
    const MAP_SHARED: usize = 1;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let address = unsafe { call(9, [0, bytes, protection, MAP_SHARED, word(fd), offset]) }.ok()?;
    Some(core::ptr::with_exposed_provenance_mut(address))
}

/// Maps a whole file for reading.
pub(crate) fn map_file(fd: i32) -> Option<&'static [u8]> {
    const PROT_READ: usize = 1;
    let bytes = usize::try_from(fstat(fd).ok()?.size).ok().filter(|&bytes| bytes > 0)?;
    let start = map(fd, 0, bytes, PROT_READ)?;
    // SAFETY: these bytes were just mapped, and are never unmapped.
    Some(unsafe { core::slice::from_raw_parts(start, bytes) })
}

/// Maps words that other processes change concurrently.
pub(crate) fn map_words(
    fd: i32,
    offset: usize,
    bytes: usize,
) -> Option<&'static [core::sync::atomic::AtomicU64]> {
    const PROT_READ_WRITE: usize = 3;
    let start = map(fd, offset, bytes, PROT_READ_WRITE)?;
    // SAFETY: just mapped, page-aligned, writable, and never unmapped.
    Some(unsafe { core::slice::from_raw_parts(start.cast(), bytes / 8) })
}

/// Returns `F_GETFL`.
pub(crate) fn flags(fd: i32) -> Result<u32, i32> {
    const F_GETFL: usize = 3;
    simple(72, [word(fd), F_GETFL, 0]).map(low_word)
}

/// Moves a descriptor to a number of at least `least`, if the limit allows that.
pub(crate) fn move_up(fd: i32, least: usize) -> i32 {
    const F_DUPFD_CLOEXEC: usize = 1030;
    match simple(72, [word(fd), F_DUPFD_CLOEXEC, least]) {
        Ok(moved) => {
            close(fd);
            descriptor(moved)
        }
        Err(_) => fd,
    }
}

/// Returns the settings of a terminal; `None` for anything else.
pub(crate) fn settings(fd: i32) -> Option<Termios> {
    const TCGETS: usize = 0x5401;
    let mut termios = [0; TERMIOS_BYTES];
    with(16, [word(fd), TCGETS], &mut termios, 0).ok().map(|_| termios)
}

/// Changes the settings of a terminal. The kernel stops a background process that does this.
pub(crate) fn set_settings(fd: i32, mut termios: Termios) {
    const TCSETS: usize = 0x5402;
    // Fails only for a terminal that is gone.
    let _ = with(16, [word(fd), TCSETS], &mut termios, 0);
}

/// Discards input that was typed at a terminal and not read.
pub(crate) fn discard_input(fd: i32) {
    const TCFLSH: usize = 0x540b;
    const TCIFLUSH: usize = 0;
    let _ = simple(16, [word(fd), TCFLSH, TCIFLUSH]);
}

/// Returns a terminal's rows, columns and size in pixels.
pub(crate) fn window(fd: i32) -> Option<Window> {
    const TIOCGWINSZ: usize = 0x5413;
    let mut size = [0_u16; 4];
    with(16, [word(fd), TIOCGWINSZ], &mut size, 0).ok().map(|_| size)
}

/// Reads directory entries in the kernel's format.
pub(crate) fn directory_entries(fd: i32, bytes: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(217, [word(fd), bytes.as_mut_ptr().addr(), bytes.len(), 0, 0, 0]) }
}

/// Connects to a unix socket. The connection and each later write wait for at most `seconds`.
pub(crate) fn connect(path: &[u8], seconds: u64) -> Result<i32, i32> {
    const AF_UNIX: u16 = 1;
    const SOCK_STREAM_CLOEXEC: usize = 0o2_000_001;
    let mut address = [0_u8; 110];
    let (family, name) = address.split_at_mut(2);
    family.copy_from_slice(&AF_UNIX.to_ne_bytes());
    name.get_mut(..path.len()).ok_or(ENOENT)?.copy_from_slice(path);
    let fd = descriptor(simple(41, [usize::from(AF_UNIX), SOCK_STREAM_CLOEXEC, 0])?);
    write_timeout(fd, seconds);
    let length = (2 + path.len() + 1).min(address.len());
    // SAFETY: the kernel reads the address.
    match unsafe { call(42, [word(fd), address.as_ptr().addr(), length, 0, 0, 0]) } {
        Ok(_) => Ok(fd),
        Err(error) => {
            close(fd);
            Err(error)
        }
    }
}

/// Sets how long a write to a socket may take; 0 means forever.
pub(crate) fn write_timeout(fd: i32, seconds: u64) {
    const SOL_SOCKET: usize = 1;
    const SO_SNDTIMEO: usize = 21;
    let time = [seconds, 0];
    let arguments =
        [word(fd), SOL_SOCKET, SO_SNDTIMEO, time.as_ptr().addr(), size_of_val(&time), 0];
    // SAFETY: the kernel reads the time.
    let _ = unsafe { call(54, arguments) };
}

/// Writes the working directory, with its NUL, into `bytes`; returns the length.
pub(crate) fn working_directory(bytes: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes into the slice.
    unsafe { call(79, [bytes.as_mut_ptr().addr(), bytes.len(), 0, 0, 0, 0]) }
}

/// Returns the umask. It can only be read by setting it.
pub(crate) fn umask() -> u32 {
    let mask = simple(95, [0o077, 0, 0]).unwrap_or(0o022);
    let _ = simple(95, [mask, 0, 0]);
    low_word(mask)
}

/// Returns the nice value.
pub(crate) fn nice() -> i32 {
    // The kernel returns 40 to 1 for -20 to 19, since negative values are errors.
    simple(140, [0, 0, 0]).map_or(0, |value| 20 - descriptor(value))
}

/// Returns the soft and hard limit of a resource.
pub(crate) fn limit(resource: usize) -> (u64, u64) {
    let mut limits = [u64::MAX; 2];
    // SAFETY: the kernel fills the two words, and reads no new limits.
    let _ = unsafe { call(302, [0, resource, 0, (&raw mut limits).addr(), 0, 0]) };
    (limits[0], limits[1])
}

/// Prevents a core dump of this process, also one to a pipe.
pub(crate) fn forbid_core() {
    const PR_SET_DUMPABLE: usize = 4;
    const RLIMIT_CORE: usize = 4;
    let limits = [0, limit(RLIMIT_CORE).1];
    // SAFETY: the kernel reads the two words.
    let _ = unsafe { call(302, [0, RLIMIT_CORE, limits.as_ptr().addr(), 0, 0, 0]) };
    let _ = simple(157, [PR_SET_DUMPABLE, 0, 0]);
}

/// Sets the process name that `ps` shows.
pub(crate) fn set_name(name: &CStr) {
    const PR_SET_NAME: usize = 15;
    // SAFETY: the name is a live C string.
    let _ = unsafe { call(157, [PR_SET_NAME, name.as_ptr().addr(), 0, 0, 0, 0]) };
}

/// How to change the mask of blocked signals.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mask {
    Block = 0,
    Unblock = 1,
    Set = 2,
}

/// Changes the mask of blocked signals; returns the previous one.
pub(crate) fn signal_mask(how: Mask, set: u64) -> u64 {
    let mut old = 0_u64;
    let arguments =
        [how as usize, (&raw const set).addr(), (&raw mut old).addr(), size_of::<u64>(), 0, 0];
    // SAFETY: the kernel reads one word and writes the other.
    let _ = unsafe { call(14, arguments) };
    old
}

const SIG_IGN: u64 = 1;

/// Tells whether a signal is ignored.
pub(crate) fn is_ignored(signal: u32) -> bool {
    let mut action = [0_u64; 4];
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: the kernel fills the four words of its `struct sigaction`.
    let result = unsafe { call(13, [signal, 0, (&raw mut action).addr(), size_of::<u64>(), 0, 0]) };
    result.is_ok() && action[0] == SIG_IGN
}

/// Gives a signal its default action.
pub(crate) fn reset_signal(signal: u32) {
    let action = [0_u64; 4];
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: the kernel reads the four words of its `struct sigaction`.
    let _ = unsafe { call(13, [signal, (&raw const action).addr(), 0, size_of::<u64>(), 0, 0]) };
}

/// Sends a signal to this process.
pub(crate) fn raise(signal: u32) {
    let process = simple(39, [0; 3]).unwrap_or(0);
    let _ = simple(62, [process, usize::try_from(signal).unwrap_or(0), 0]);
}

/// Discards pending signals that are blocked.
pub(crate) fn discard(set: u64) {
    let now = [0_u64; 2];
    let arguments = [(&raw const set).addr(), 0, now.as_ptr().addr(), size_of::<u64>(), 0, 0];
    // SAFETY: the kernel reads the set and the time.
    while unsafe { call(128, arguments) }.is_ok() {}
}

/// Opens a descriptor from which blocked signals are read.
pub(crate) fn signal_fd(set: u64) -> Result<i32, i32> {
    const NEW: i32 = -1;
    const CLOEXEC_NONBLOCK: usize = 0o2_004_000;
    let arguments = [word(NEW), (&raw const set).addr(), size_of::<u64>(), CLOEXEC_NONBLOCK, 0, 0];
    // SAFETY: the kernel reads the set.
    unsafe { call(289, arguments) }.map(descriptor)
}

/// Returns the seconds of the monotonic clock.
pub(crate) fn seconds() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0_u64; 2];
    // SAFETY: the kernel fills the two words.
    let _ = unsafe { call(228, [CLOCK_MONOTONIC, (&raw mut time).addr(), 0, 0, 0, 0]) };
    time[0]
}

/// Executes a program; returns only the error.
///
/// # Safety
/// `argv` and `envp` are null-terminated arrays of C strings.
pub(crate) unsafe fn execve(
    path: &CStr,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> i32 {
    let arguments = [path.as_ptr().addr(), argv.addr(), envp.addr(), 0, 0, 0];
    // SAFETY: the caller vouches for the arrays.
    unsafe { call(59, arguments) }.err().unwrap_or(0)
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        let _ = simple(231, [word(code), 0, 0]);
    }
}
