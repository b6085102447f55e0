//! The preload library: in every process of a session it interposes the functions that execute
//! programs, and decides which programs walk.
//!
//! ```text
//! hooks ──▶ call: find the file ──▶ target: what is it ──▶ Page::decide ─┬─▶ stay: count, next
//!                                                                        └─▶ walk: execute the stub
//! ```
//! It runs between `vfork` and `execve`, in threads and in signal handlers of programs that do not
//! expect it. Therefore it never allocates, locks or prints, and makes the original call whenever
//! something fails. Unsafe code lives in `call`, `hooks`, `next`, `scratch`,
//! `session`, `strings` and `sys`.
//!
//! Built with `--profile shim` it is `no_std`, and panics abort. The build that unwinds exists only
//! because cargo makes one for the integration tests.
#![cfg_attr(all(not(test), panic = "abort"), no_std)]
#![cfg_attr(test, allow(dead_code, reason = "the hooks are not exported in unit tests"))]

mod call;
mod cluster;
mod environment;
mod find;
mod hide;
mod hooks;
mod next;
mod path;
mod response;
mod scratch;
mod session;
mod shell;
mod strings;
mod sys;
mod target;

/// Ends the process. Nothing here panics on purpose; after a panic the program must not continue with
/// half a decision.
#[cfg(all(not(test), panic = "abort"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::abort()
}
