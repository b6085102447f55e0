//! Random numbers from the kernel.

use worknode::key::SecretKey;

/// Fills the buffer. It takes no descriptor, of which there may be none.
///
/// # Panics
/// If the kernel has no random numbers, because nothing could be secret then.
pub(crate) fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the kernel has random numbers");
}

/// Returns a random number.
pub(crate) fn number() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Makes a key.
pub(crate) fn secret_key() -> SecretKey {
    let mut seed = [0; 32];
    fill(&mut seed);
    SecretKey::from_seed(&seed)
}
