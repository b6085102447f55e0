//! Random numbers from the kernel.

use std::io::Read;

/// Fills the buffer.
///
/// # Panics
/// If the kernel has no random numbers, because nothing could be secret then.
pub(crate) fn fill(buffer: &mut [u8]) {
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(buffer))
        .expect("/dev/urandom is readable on every Linux system");
}

/// Returns a random number.
pub(crate) fn number() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
