//! The stub: a tiny program without libc that takes the place of a walking process at its origin.
//! It has the process's pid, parent, group, terminal and descriptors; it hands them over to the
//! agent, forwards signals, carries the standard streams, and leaves as the walk left.
//!
//! ```text
//! process: what the kernel gave us ─▶ hello: tell the agent ─▶ relay: until Exit ─▶ leave
//!                                        └────────────────────────┴─▶ home: run it here
//! ```
//! It starts for every walk, so it must cost next to nothing: static, no relocations, a few pages.
//! Built with `--profile shim` only. Unsafe code lives in `sys`, `memory`, `process` and
//! `room`.
#![cfg_attr(panic = "abort", no_std, no_main)]
#![cfg_attr(not(panic = "abort"), allow(dead_code, reason = "only the shim profile has an entry"))]

mod descriptors;
mod door;
mod hello;
mod home;
mod input;
mod leave;
#[cfg(panic = "abort")]
mod memory;
mod output;
mod process;
mod relay;
mod room;
mod signals;
mod sys;
mod walk;

#[cfg(not(panic = "abort"))]
fn main() {
    output::complain(&[b"this stub was not built with --profile shim"]);
}

/// Nothing here panics on purpose.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    output::complain(&[b"the stub failed"]);
    sys::exit(leave::FAILED)
}
