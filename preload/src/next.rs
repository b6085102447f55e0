//! [unsafe] The next functions behind the hooks: libc's, or those of another preloaded library.
//!
//! All are found when the library is loaded: `dlsym` takes the loader's lock, which another thread may hold that waits for this
//! one, and clears the program's `dlerror`. A call made earlier resolves its own function, or, where it may follow a `vfork`,
//! makes the system call directly.
#![expect(unsafe_code, reason = "functions found by dlsym")]

pub(crate) mod symbols;

use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use symbols::Function;

use crate::session;
use crate::sys;

type Text = *const c_char;
type Array = *const *const c_char;
type Exec = unsafe extern "C" fn(Text, Array, Array) -> c_int;
type ExecV = unsafe extern "C" fn(Text, Array) -> c_int;
type ExecAt = unsafe extern "C" fn(c_int, Text, Array, Array, c_int) -> c_int;
type ExecFd = unsafe extern "C" fn(c_int, Array, Array) -> c_int;
type SpawnFn =
    unsafe extern "C" fn(*mut c_int, Text, *const c_void, *const c_void, Array, Array) -> c_int;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}
/// The version of libc's first functions for this processor.
const OLD_VERSION: &CStr = c"GLIBC_2.2.5";
/// `RTLD_NEXT`: the next object after this one.
const NEXT: *mut c_void = core::ptr::without_provenance_mut(usize::MAX);

/// Defines a function of the given name, which is found when the library is loaded.
macro_rules! function {
    ($variable:ident, $name:expr) => {
        // Only by its section it is written.
        #[used]
        #[unsafe(link_section = "oswalk_next")]
        static $variable: crate::next::symbols::Function =
            crate::next::symbols::Function::new($name);
    };
}
pub(crate) use function;

unsafe extern "C" {
    #[link_name = "__start_oswalk_next"]
    static FIRST: u8;
    #[link_name = "__stop_oswalk_next"]
    static END: u8;
}

static RESOLVING: AtomicBool = AtomicBool::new(false);
/// All functions have been looked for.
static IS_COMPLETE: AtomicBool = AtomicBool::new(false);

impl Function {
    /// Returns the function's address, unless one is being looked for: libraries that provide `malloc` call functions with
    /// system calls while `dlsym` needs memory.
    pub(crate) fn resolve_outside(&self) -> Option<*mut c_void> {
        self.known().or_else(|| {
            if IS_COMPLETE.load(Ordering::Relaxed) || RESOLVING.swap(true, Ordering::Relaxed) {
                return None;
            }
            let address = self.resolve();
            RESOLVING.store(false, Ordering::Relaxed);
            address
        })
    }

    /// Returns the function's address. Before all have been looked for, `dlsym` finds it.
    pub(crate) fn resolve(&self) -> Option<*mut c_void> {
        self.known().or_else(|| {
            if IS_COMPLETE.load(Ordering::Relaxed) {
                return None;
            }
            // SAFETY: the name is a C string.
            let mut address = unsafe { dlsym(NEXT, self.name.as_ptr()) };
            if address.is_null() {
                // SAFETY: both are C strings. Newer libraries keep old functions under their old version alone.
                address = unsafe { dlvsym(NEXT, self.name.as_ptr(), OLD_VERSION.as_ptr()) };
            }
            self.address.store(address, Ordering::Relaxed);
            self.known()
        })
    }
}

function!(EXECVE, c"execve");
function!(EXECV, c"execv");
function!(EXECVP, c"execvp");
function!(EXECVPE, c"execvpe");
function!(EXECVEAT, c"execveat");
function!(FEXECVE, c"fexecve");
function!(POSIX_SPAWN, c"posix_spawn");
function!(POSIX_SPAWNP, c"posix_spawnp");
function!(SYSTEM, c"system");
function!(POPEN, c"popen");
function!(SYSCALL_BY_LIBC, c"syscall");

/// The address that the hook on `syscall` jumps to.
pub(crate) static SYSCALL: AtomicPtr<c_void> =
    AtomicPtr::new(syscall_by_kernel as *const () as *mut c_void);

/// Finds every function, while no other thread waits for this one.
pub(crate) fn resolve_all() {
    let functions = all();
    if !symbols::find(functions) {
        functions.iter().for_each(|function| {
            function.resolve();
        });
    }
    for function in functions {
        if function.known().is_none() {
            function.address.store(function.old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
    if let Some(syscall) = SYSCALL_BY_LIBC.known() {
        SYSCALL.store(syscall, Ordering::Relaxed);
    }
    IS_COMPLETE.store(true, Ordering::Relaxed);
}

/// Returns the functions that [`function`] has defined.
fn all() -> &'static [Function] {
    let (first, end) = (&raw const FIRST, &raw const END);
    let count = (end.addr() - first.addr()) / size_of::<Function>();
    // SAFETY: the linker sets both, and the section holds nothing else.
    unsafe { core::slice::from_raw_parts(first.cast(), count) }
}

/// Returns the program's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: libc returns the address of this thread's variable.
    let address = unsafe { __errno_location() };
    // SAFETY: as above.
    unsafe { address.read() }
}

/// Sets `errno` and returns -1, as libc does.
pub(crate) fn fail(errno: c_int) -> c_int {
    // SAFETY: libc returns the address of this thread's variable.
    let address = unsafe { __errno_location() };
    // SAFETY: as above.
    unsafe { address.write(errno) };
    -1
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn execve(path: Text, argv: Array, envp: Array) -> c_int {
    let Some(address) = EXECVE.known() else {
        // SAFETY: the caller vouches for the arguments.
        return fail(unsafe { sys::execve(path, argv, envp) });
    };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: Exec = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(path, argv, envp) }
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn execv(path: Text, argv: Array) -> c_int {
    let Some(address) = EXECV.known() else {
        // SAFETY: the caller vouches for the arguments.
        return unsafe { execve(path, argv, session::environment().as_ptr()) };
    };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: ExecV = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(path, argv) }
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn execvp(file: Text, argv: Array) -> c_int {
    let Some(address) = EXECVP.resolve() else { return fail(sys::ENOSYS) };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: ExecV = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(file, argv) }
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn execvpe(file: Text, argv: Array, envp: Array) -> c_int {
    let Some(address) = EXECVPE.resolve() else { return fail(sys::ENOSYS) };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: Exec = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(file, argv, envp) }
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn execveat(
    directory: c_int,
    path: Text,
    argv: Array,
    envp: Array,
    flags: c_int,
) -> c_int {
    let Some(address) = EXECVEAT.known() else {
        // SAFETY: the caller vouches for the arguments.
        return fail(unsafe { sys::execveat(directory, path, argv, envp, flags) });
    };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: ExecAt = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(directory, path, argv, envp, flags) }
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn fexecve(fd: c_int, argv: Array, envp: Array) -> c_int {
    let Some(address) = FEXECVE.known() else {
        // SAFETY: the caller vouches for the arguments.
        return fail(unsafe { sys::execveat(fd, c"".as_ptr(), argv, envp, sys::AT_EMPTY_PATH) });
    };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: ExecFd = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(fd, argv, envp) }
}

/// The arguments of `posix_spawn` other than file, arguments and environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawn {
    pub(crate) pid: *mut c_int,
    pub(crate) actions: *const c_void,
    pub(crate) attributes: *const c_void,
    /// Search for the file along `PATH`, as `posix_spawnp` does.
    pub(crate) search: bool,
}

/// # Safety
/// The arguments are the caller's, as for `posix_spawn`.
pub(crate) unsafe fn spawn(spawn: Spawn, path: Text, argv: Array, envp: Array) -> c_int {
    let function = if spawn.search { &POSIX_SPAWNP } else { &POSIX_SPAWN };
    let Some(address) = function.resolve() else { return sys::ENOSYS };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: SpawnFn = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(spawn.pid, path, spawn.actions, spawn.attributes, argv, envp) }
}

/// # Safety
/// The argument is the caller's, as for the function of this name.
pub(crate) unsafe fn system(command: Text) -> c_int {
    let Some(address) = SYSTEM.resolve() else { return fail(sys::ENOSYS) };
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: unsafe extern "C" fn(Text) -> c_int = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the argument.
    unsafe { next(command) }
}

/// # Safety
/// The arguments are the caller's, as for the function of this name.
pub(crate) unsafe fn popen(command: Text, mode: Text) -> *mut c_void {
    let Some(address) = POPEN.resolve() else {
        fail(sys::ENOSYS);
        return core::ptr::null_mut();
    };
    type Popen = unsafe extern "C" fn(Text, Text) -> *mut c_void;
    // SAFETY: `dlsym` found the address under the name of a function of this type.
    let next: Popen = unsafe { core::mem::transmute(address) };
    // SAFETY: the caller vouches for the arguments.
    unsafe { next(command, mode) }
}

/// Does what libc's `syscall` does, for calls made before that is resolved.
///
/// # Safety
/// See `syscall(2)`.
#[unsafe(naked)]
unsafe extern "C" fn syscall_by_kernel(number: c_long) -> c_long {
    naked_asm!(
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, qword ptr [rsp + 8]",
        "syscall",
        "cmp rax, -4095",
        "jae 2f",
        "ret",
        "2:",
        "mov rdi, rax",
        "jmp {fail}",
        fail = sym fail_by_kernel,
    )
}

extern "C" fn fail_by_kernel(result: c_long) -> c_long {
    c_long::from(fail(c_int::try_from(-result).unwrap_or(sys::ENOSYS)))
}
