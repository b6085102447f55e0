//! Tells whether the machine has been booted since: then the page cache was lost.

use std::io;

use serde::{Deserialize, Serialize};

/// Where the kernel shows it.
const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// What the kernel calls the time since the machine was booted: a random UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Reads the id of this boot.
    ///
    /// # Errors
    /// The kernel does not show it.
    pub fn current() -> io::Result<Self> {
        let text = std::fs::read_to_string(PATH)?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        Ok(Self(number.to_be_bytes()))
    }
}
