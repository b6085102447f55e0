//! One agent per state directory.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;

/// The lock on a state directory, with the agent's pid in it. Ends with the process.
#[derive(Debug)]
pub(crate) struct State {
    /// Locked as long as it is open.
    _file: nix::fcntl::Flock<File>,
}

impl State {
    /// Takes the state directory for this process.
    pub(crate) fn take(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("pid");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        // Whoever can open it can lock it, and keep the agent from starting.
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Self { _file: file })
            }
            Err(_) => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                anyhow::bail!(
                    "an agent (pid {}) already uses {}: end it with `oswalk down`, or give this \
                     one another --state directory",
                    pid.trim(),
                    dir.display()
                )
            }
        }
    }
}
