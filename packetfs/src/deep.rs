//! Test helper: trees too deep for a recursive traversal.

use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

/// Deeper than any path that a system call accepts.
pub(crate) const LEVELS: usize = 3000;
/// A stack that a recursion over [`LEVELS`] overflows.
const STACK_BYTES: usize = 128 * 1024;

/// Creates a directory with `levels` nested ones in it.
pub(crate) fn make(top: &Path, levels: usize) {
    std::fs::create_dir(top).expect("writable");
    let mut dir = open(top, OFlag::O_DIRECTORY, Mode::empty()).expect("it was just made");
    for _ in 0..levels {
        mkdirat(&dir, "d", Mode::S_IRWXU).expect("writable");
        dir = openat(&dir, "d", OFlag::O_DIRECTORY, Mode::empty()).expect("it was just made");
    }
}

/// Removes such a tree, which is too deep for a `TempDir` to remove.
pub(crate) fn clear(top: &Path) {
    let status = std::process::Command::new("rm").arg("-r").arg(top).status();
    assert!(status.expect("every machine has it").success());
}

/// Runs `act` with a small stack.
pub(crate) fn on_a_small_stack<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(STACK_BYTES);
        small.spawn_scoped(scope, act).expect("a thread").join().expect("no panic")
    })
}
