//! [unsafe] The entry point.
#![expect(unsafe_code, reason = "the entry point")]

use core::ffi::c_char;

use crate::process::Process;
use crate::walk;

/// The entry point: aligns the stack for Rust, and calls `enter`.
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
/// `stack` is the initial stack pointer.
unsafe extern "C" fn enter(stack: *mut *const c_char) -> ! {
    // SAFETY: the caller vouches for the stack.
    walk::run(unsafe { Process::at(stack) })
}
