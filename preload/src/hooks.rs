//! [unsafe] The hook table: the functions that this library interposes, and its constructor.
//!
//! `fork` and `vfork` are not hooked: nothing has to happen there, and a wrapper of `vfork` would
//! return twice into one frame.
#![expect(unsafe_code, reason = "the C interface of the hooks")]

use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_long, c_void};

use crate::call::{Call, How};
use crate::cluster;
use crate::hide;
use crate::next::{self, SYSCALL, Spawn};
use crate::session;
use crate::shell;
use crate::strings::{Strings, text};

type Text = *const c_char;
type Array = *const *const c_char;

/// Runs when the library is loaded. Constructors of other libraries may have called hooks before it.
#[cfg_attr(not(test), used, unsafe(link_section = ".init_array"))]
static CONSTRUCTOR: extern "C" fn() = construct;

extern "C" fn construct() {
    next::resolve_all();
    hide::hide_what_was_added();
    cluster::begin();
}

/// # Safety
/// As for `execve(2)`. Each function of this file follows the manual page of its name.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn execve(path: Text, argv: Array, envp: Array) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { make(path, argv, envp, |path| How::Execve { path }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::execve(path, argv, envp) })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn execv(path: Text, argv: Array) -> c_int {
    let envp = session::environment().as_ptr();
    // SAFETY: the caller's arguments.
    unsafe { make(path, argv, envp, |path| How::Execv { path }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::execv(path, argv) })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn execvp(file: Text, argv: Array) -> c_int {
    let envp = session::environment().as_ptr();
    // SAFETY: the caller's arguments.
    unsafe { make(file, argv, envp, |file| How::Execvp { file }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::execvp(file, argv) })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn execvpe(file: Text, argv: Array, envp: Array) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { make(file, argv, envp, |file| How::Execvpe { file }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::execvpe(file, argv, envp) })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn execveat(
    directory: c_int,
    path: Text,
    argv: Array,
    envp: Array,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { make(path, argv, envp, |path| How::Execveat { directory, path, flags }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::execveat(directory, path, argv, envp, flags) })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn fexecve(fd: c_int, argv: Array, envp: Array) -> c_int {
    if fd < 0 || argv.is_null() || envp.is_null() {
        // SAFETY: the caller's arguments; libc refuses these with EINVAL.
        return unsafe { next::fexecve(fd, argv, envp) };
    }
    // SAFETY: the caller's array.
    let argv = unsafe { Strings::new(argv) };
    // SAFETY: the caller's array.
    let envp = unsafe { Strings::new(envp) };
    // SAFETY: the caller's arguments.
    unsafe { Call { how: How::Fexecve { fd }, argv, envp }.make() }
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn posix_spawn(
    pid: *mut c_int,
    path: Text,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Array,
    envp: Array,
) -> c_int {
    let spawn = Spawn { pid, actions, attributes, search: false };
    // SAFETY: the caller's arguments.
    unsafe { make(path, argv, envp, |path| How::Spawn { spawn, path }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::spawn(spawn, path, argv, envp) })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn posix_spawnp(
    pid: *mut c_int,
    file: Text,
    actions: *const c_void,
    attributes: *const c_void,
    argv: Array,
    envp: Array,
) -> c_int {
    let spawn = Spawn { pid, actions, attributes, search: true };
    // SAFETY: the caller's arguments.
    unsafe { make(file, argv, envp, |path| How::Spawn { spawn, path }) }
        // SAFETY: as above.
        .unwrap_or_else(|| unsafe { next::spawn(spawn, file, argv, envp) })
}

/// Makes a call; returns `None` if its path is null.
///
/// # Safety
/// The arguments are the caller's, valid for the function that `how` names.
unsafe fn make<'a>(
    path: Text,
    argv: Array,
    envp: Array,
    how: impl FnOnce(&'a core::ffi::CStr) -> How<'a>,
) -> Option<c_int> {
    // SAFETY: the caller's path lives as long as the call.
    let path = unsafe { text(path) }?;
    // SAFETY: the caller's array.
    let argv = unsafe { Strings::new(argv) };
    // SAFETY: the caller's array.
    let envp = unsafe { Strings::new(envp) };
    // SAFETY: the caller's arguments.
    Some(unsafe { Call { how: how(path), argv, envp }.make() })
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn system(command: Text) -> c_int {
    let mut result = -1;
    // SAFETY: the caller's command.
    let command = unsafe { text(command) };
    // SAFETY: a command of the same meaning.
    shell::with_command(command, &mut |line| result = unsafe { next::system(line) });
    result
}

/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn popen(command: Text, mode: Text) -> *mut c_void {
    let mut stream = core::ptr::null_mut();
    // SAFETY: the caller's command.
    let command = unsafe { text(command) };
    // SAFETY: a command of the same meaning, and the caller's mode.
    shell::with_command(command, &mut |line| stream = unsafe { next::popen(line, mode) });
    stream
}

/// Defines a variadic function, which stable Rust cannot define. Pushed below the arguments on the
/// stack, the arguments in registers complete the array.
macro_rules! list_form {
    ($name:ident, $array_form:ident) => {
        /// # Safety
        /// See `execve`.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[unsafe(naked)]
        unsafe extern "C" fn $name(path: Text, first: Text) -> c_int {
            naked_asm!(
                "pop r11",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push r11",
                "call {array_form}",
                "pop r11",
                "add rsp, 40",
                "push r11",
                "ret",
                array_form = sym $array_form,
            )
        }
    };
}

list_form!(execl, execv);
list_form!(execlp, execvp);
list_form!(execle, execle_array);

/// # Safety
/// `list` is an array of arguments, and the environment follows its terminating null.
unsafe extern "C" fn execle_array(path: Text, list: Array) -> c_int {
    // SAFETY: a null ends the arguments.
    let count = unsafe { Strings::new(list) }.count();
    // SAFETY: the environment follows the null.
    let envp = unsafe { list.add(count + 1) };
    // SAFETY: as above; it is passed as one more pointer.
    let envp = unsafe { envp.cast::<Array>().read() };
    // SAFETY: the caller's arguments.
    unsafe { execve(path, list, envp) }
}

/// Passes every system call on, except those that execute a program.
///
/// # Safety
/// See `execve`.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
unsafe extern "C" fn syscall(number: c_long) -> c_long {
    naked_asm!(
        "cmp rdi, 59",
        "je 2f",
        "cmp rdi, 322",
        "je 3f",
        "mov rax, qword ptr [rip + {next}]",
        "jmp rax",
        "2:",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "jmp {execve}",
        "3:",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov rcx, r8",
        "mov r8, r9",
        "jmp {execveat}",
        next = sym SYSCALL,
        execve = sym execve_long,
        execveat = sym execveat_long,
    )
}

/// # Safety
/// See `execve`.
unsafe extern "C" fn execve_long(path: Text, argv: Array, envp: Array) -> c_long {
    // SAFETY: the caller's arguments.
    c_long::from(unsafe { execve(path, argv, envp) })
}

/// # Safety
/// See `execve`.
unsafe extern "C" fn execveat_long(
    directory: c_int,
    path: Text,
    argv: Array,
    envp: Array,
    flags: c_int,
) -> c_long {
    // SAFETY: the caller's arguments.
    c_long::from(unsafe { execveat(directory, path, argv, envp, flags) })
}
