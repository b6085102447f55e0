//! The file with the cluster's secret.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

/// Shortest secret. Shorter ones can be guessed; 32 hex digits are 16 random bytes.
const BYTES_MIN: usize = 16;
/// Largest file that is accepted as a secret.
const BYTES_MAX: u64 = 64 * 1024;

/// Reads the secret at a path. Creates it if it is absent and `is_own` says that the file is the agent's own.
///
/// # Errors
/// It cannot be read, others can read or change it, or it is too short.
pub(crate) fn read(path: &Path, is_own: bool) -> anyhow::Result<Vec<u8>> {
    if is_own && !path.exists() {
        make(path)?;
    }
    let failed = || format!("failed to read the secret {}", path.display());
    let mut options = File::options();
    // Non-blocking, because opening a fifo would block the agent.
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).with_context(failed)?;
    check(path, &file.metadata().with_context(failed)?)?;
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text).with_context(failed)?;
    let length = text.trim_ascii().len();
    anyhow::ensure!(
        length >= BYTES_MIN,
        "the secret {} has {length} bytes, which can be guessed: write at least {BYTES_MIN} \
         random ones (`openssl rand -hex 32`), the same on all nodes",
        path.display()
    );
    Ok(text)
}

fn make(path: &Path) -> anyhow::Result<()> {
    let mut fresh = [0; 32];
    crate::random::fill(&mut fresh);
    let text: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    Ok(file?.write_all(text.as_bytes())?)
}

fn check(path: &Path, metadata: &std::fs::Metadata) -> anyhow::Result<()> {
    anyhow::ensure!(
        metadata.is_file() && metadata.len() <= BYTES_MAX,
        "the secret {} is not a regular file of at most {BYTES_MAX} bytes",
        path.display()
    );
    anyhow::ensure!(
        metadata.mode() & 0o077 == 0,
        "the secret {} can be read by others: `chmod 600` it",
        path.display()
    );
    anyhow::ensure!(
        metadata.uid() == 0 || metadata.uid() == nix::unistd::geteuid().as_raw(),
        "the secret {} belongs to user {}, who may change it: `chown root` it",
        path.display(),
        metadata.uid()
    );
    Ok(())
}
