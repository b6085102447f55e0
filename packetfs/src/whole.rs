//! Small files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// They are the agent's alone.
const MODE: u32 = 0o600;

/// Replaces a file, durably. A crash leaves the former one or the new one.
///
/// # Errors
/// The directory is not there or not writable, or the disk is full.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(MODE);
    let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&part)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
