//! [unsafe] What the kernel gave this process: arguments and environment, on its stack. And the
//! entry, which finds them there.

use core::ffi::{CStr, c_char};

use crate::sys;

/// The process's arguments and environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// The word with the number of arguments; behind it lie the arguments, a null, the
    /// environment, and a null.
    stack: *mut *const c_char,
    arguments: usize,
}

/// Where the kernel starts the program: nothing called this, and nothing is aligned for Rust yet.
#[cfg(panic = "abort")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    core::arch::naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {enter}",
        "ud2",
        enter = sym enter,
    )
}

/// # Safety
/// `stack` is where the kernel put the arguments.
#[cfg(panic = "abort")]
unsafe extern "C" fn enter(stack: *mut *const c_char) -> ! {
    // SAFETY: the first word is the number of arguments.
    let arguments = unsafe { stack.cast::<usize>().read() };
    crate::walk::run(Process { stack, arguments })
}

impl Process {
    /// Returns the arguments.
    pub(crate) fn arguments(self) -> impl Iterator<Item = &'static CStr> {
        strings(self.stack.wrapping_add(1))
    }

    /// Returns the environment.
    pub(crate) fn environment(self) -> impl Iterator<Item = &'static CStr> {
        strings(self.environment_start())
    }

    /// Returns the value of a variable.
    pub(crate) fn variable(self, name_equals: &[u8]) -> Option<&'static CStr> {
        let entry = self.environment().find(|entry| entry.to_bytes().starts_with(name_equals))?;
        CStr::from_bytes_with_nul(entry.to_bytes_with_nul().get(name_equals.len()..)?).ok()
    }

    /// Takes a variable out of the environment.
    pub(crate) fn remove_variable(self, name_equals: &[u8]) {
        let (mut from, mut to) = (self.environment_start(), self.environment_start());
        loop {
            // SAFETY: `from` has not passed the null of the environment.
            let entry = unsafe { from.read() };
            let dropped =
                strings(from).next().is_some_and(|entry| entry.to_bytes().starts_with(name_equals));
            if !dropped {
                // SAFETY: `to` is never behind `from`, and the stack is ours.
                unsafe { to.write(entry) };
                to = to.wrapping_add(1);
            }
            if entry.is_null() {
                return;
            }
            from = from.wrapping_add(1);
        }
    }

    /// Executes a program with these arguments and this environment; returns the error.
    pub(crate) fn execute(self, path: &CStr) -> i32 {
        let (argv, envp) = (self.stack.wrapping_add(1), self.environment_start());
        // SAFETY: both arrays are as the kernel made them.
        unsafe { sys::execve(path, argv, envp) }
    }

    /// Has the shell execute a file that is no program, as `execvp` does; returns the error.
    pub(crate) fn execute_by_shell(self, path: &CStr) -> i32 {
        let shell = c"/bin/sh";
        // The count of arguments is not needed any more: its word takes the one argument more.
        // SAFETY: the stack is ours.
        unsafe { self.stack.write(shell.as_ptr()) };
        if self.arguments > 0 {
            // SAFETY: there is a first argument, behind the count.
            unsafe { self.stack.wrapping_add(1).write(path.as_ptr()) };
        }
        // SAFETY: both arrays end in their nulls.
        unsafe { sys::execve(shell, self.stack, self.environment_start()) }
    }

    fn environment_start(self) -> *mut *const c_char {
        self.stack.wrapping_add(self.arguments + 2)
    }
}

/// Walks an array on the stack.
fn strings(mut at: *mut *const c_char) -> impl Iterator<Item = &'static CStr> {
    core::iter::from_fn(move || {
        // SAFETY: `at` has not passed the null that ends the array.
        let string = unsafe { at.read() };
        if string.is_null() {
            return None;
        }
        at = at.wrapping_add(1);
        // SAFETY: the kernel's C strings lie on the stack for good.
        Some(unsafe { CStr::from_ptr(string) })
    })
}
