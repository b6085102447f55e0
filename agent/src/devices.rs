//! The `/dev` of walks, which contains only the devices that programs rely on.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The other name of `/dev/shm`, which compile steps use for temporary files. Look-ups in `/dev/shm` itself are recorded,
/// because the origin's files are absent there.
pub(crate) const MEMORY: &str = "oswalk";

/// Mounts a tmpfs with the devices on `dir`.
pub(crate) fn prepare(dir: &Path) -> anyhow::Result<()> {
    let failed = || format!("failed to prepare devices in {}", dir.display());
    mount(Some("oswalk-dev"), dir, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755,size=1m"))
        .with_context(failed)?;
    let mode = Mode::from_bits_truncate(0o666);
    for (name, major, minor) in DEVICES {
        let path = dir.join(name);
        mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor)).with_context(failed)?;
        // Independently of the agent's umask.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .with_context(failed)?;
    }
    for (name, target) in LINKS {
        symlink(target, dir.join(name)).with_context(failed)?;
    }
    for name in ["pts", "shm", MEMORY] {
        std::fs::create_dir(dir.join(name)).with_context(failed)?;
    }
    std::fs::set_permissions(dir.join("shm"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .with_context(failed)
}
