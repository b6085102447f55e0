//! What belongs to the system's installations.

use packetfs::path::is_within;

/// Directories that only installations change. A compile step sees them, and writes there only if it says so.
pub(super) const SYSTEM_DIRS: [&[u8]; 9] =
    [b"/usr", b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/etc", b"/opt"];

/// Tells whether a path without links is in one of them.
pub(super) fn is_system(path: &[u8]) -> bool {
    SYSTEM_DIRS.iter().any(|dir| is_within(path, dir))
}
