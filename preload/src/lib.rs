//! The preload library: it stands in every process of a session in front of the functions that
//! execute programs, and decides which of these walk.
//!
//! ```text
//! hooks ──▶ call: find the file ──▶ target: what is it ──▶ Page::decide ─┬─▶ stay: count, next
//!                                                                        └─▶ walk: execute the stub
//! ```
//! It runs between `vfork` and `execve`, in threads and in signal handlers of programs that know
//! nothing of it. Therefore it neither allocates nor locks nor prints, needs the stack alone, and
//! whatever it cannot do leads to the call as it was made. Unsafe code lives in `hooks`, `next`,
//! `scratch`, `session`, `strings` and `sys`.
//!
//! Built with `--profile shim` it has no std in it (panics abort). A build that unwinds exists
//! only because cargo makes one for the integration tests.
#![cfg_attr(all(not(test), panic = "abort"), no_std)]
#![cfg_attr(test, allow(dead_code, reason = "the hooks are not exported in unit tests"))]

mod call;
mod environment;
mod find;
mod hooks;
mod next;
mod response;
mod scratch;
mod session;
mod shell;
mod strings;
mod sys;
mod target;

/// Nothing here panics on purpose; if it happens all the same, the program must not go on with
/// half a decision.
#[cfg(all(not(test), panic = "abort"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::abort()
}
