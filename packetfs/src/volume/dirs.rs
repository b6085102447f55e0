//! The volume's directories.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Only the agent may look into the volume's directory.
const DIR_MODE: u32 = 0o700;

/// Makes a directory that only the agent may look into.
pub(super) fn make(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
}
