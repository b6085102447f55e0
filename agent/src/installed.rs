//! The directories of installed software.

use packetfs::path::is_within;

/// Directories that only installations change. A compile step reads them, and writes there only if its command line says
/// so.
pub(crate) const SYSTEM_DIRS: [&[u8]; 9] =
    [b"/usr", b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/etc", b"/opt"];

/// Tells whether a path without symbolic links is in one of them.
pub(crate) fn is_system(path: &[u8]) -> bool {
    SYSTEM_DIRS.iter().any(|dir| is_within(path, dir))
}
