//! The stub: a tiny program without libc that takes the place of a walked process at its origin. It
//! keeps the process's pid, parent, group, terminal and descriptors, describes them to the agent,
//! forwards signals, carries the standard streams, and exits as the walk did.
//!
//! ```text
//! process: read the stack ─▶ hello: tell the agent ─▶ relay: until Exit ─▶ leave: exit alike
//!                              └────────────────────────┴─▶ home: run the program here
//! ```
//! It starts for every walk, so it must cost next to nothing: it is static, has no relocations, and
//! touches few pages. It is built with `--profile shim` only. Unsafe code lives in `sys`, `memory`,
//! `entry`, `process` and `room`.
#![cfg_attr(panic = "abort", no_std, no_main)]
#![cfg_attr(not(panic = "abort"), allow(dead_code, reason = "only the shim profile has an entry"))]

mod descriptors;
mod door;
#[cfg(panic = "abort")]
mod entry;
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
    output::complain(&[b"oswalk-stub must be built with --profile shim: use scripts/build"]);
}

/// Ends the process; nothing here panics on purpose.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    output::complain(&[b"internal error in oswalk-stub"]);
    sys::exit(leave::FAILED)
}
