//! [unsafe] The arguments and environment that the kernel put on the stack.
#![expect(unsafe_code, reason = "reads the initial stack")]

use core::ffi::{CStr, c_char};

use crate::sys;

/// The process's arguments and environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// The word with the number of arguments, followed by the arguments, a null, the environment, and
    /// a null.
    stack: *mut *const c_char,
    arguments: usize,
}

impl Process {
    /// Returns the process that this is.
    ///
    /// # Safety
    /// `stack` is the initial stack pointer.
    #[cfg(panic = "abort")]
    pub(crate) unsafe fn at(stack: *mut *const c_char) -> Self {
        // SAFETY: the first word is the number of arguments.
        let arguments = unsafe { stack.cast::<usize>().read() };
        Self { stack, arguments }
    }

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

    /// Removes a variable from the environment.
    pub(crate) fn remove_variable(self, name_equals: &[u8]) {
        let (mut from, mut to) = (self.environment_start(), self.environment_start());
        loop {
            // SAFETY: `from` is at most at the environment's terminating null.
            let entry = unsafe { from.read() };
            let dropped =
                strings(from).next().is_some_and(|entry| entry.to_bytes().starts_with(name_equals));
            if !dropped {
                // SAFETY: `to` is at most at `from`, and nobody else uses the stack.
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
        // SAFETY: both are null-terminated arrays that the kernel made.
        unsafe { sys::execve(path, argv, envp) }
    }

    /// Lets a shell execute a file of unknown format, as `execvp` does; returns the error.
    pub(crate) fn execute_by_shell(self, path: &CStr) -> i32 {
        let shell = c"/bin/sh";
        // The argument count is not needed any more: its word holds the additional argument.
        // SAFETY: nobody else uses the stack.
        unsafe { self.stack.write(shell.as_ptr()) };
        if self.arguments > 0 {
            // SAFETY: the first argument follows the count.
            unsafe { self.stack.wrapping_add(1).write(path.as_ptr()) };
        }
        // SAFETY: both arrays are null-terminated.
        unsafe { sys::execve(shell, self.stack, self.environment_start()) }
    }

    fn environment_start(self) -> *mut *const c_char {
        self.stack.wrapping_add(self.arguments + 2)
    }
}

/// Returns the strings of an array on the stack.
fn strings(mut at: *mut *const c_char) -> impl Iterator<Item = &'static CStr> {
    core::iter::from_fn(move || {
        // SAFETY: `at` is at most at the array's terminating null.
        let string = unsafe { at.read() };
        if string.is_null() {
            return None;
        }
        at = at.wrapping_add(1);
        // SAFETY: the kernel's C strings stay on the stack until the process ends.
        Some(unsafe { CStr::from_ptr(string) })
    })
}
