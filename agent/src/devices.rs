//! The `/dev` of walks, which contains only the devices that programs rely on.

use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const NONE: Option<&str> = None;
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

/// Mounts a tmpfs with the devices on `dir`. They belong to `owner`, the root of the walks.
pub(crate) fn prepare(dir: &Path, owner: u32) -> anyhow::Result<()> {
    let failed = || format!("failed to prepare devices in {}", dir.display());
    let mode = Mode::from_bits_truncate(0o666);
    mount_on(dir, owner).with_context(failed)?;
    for (name, major, minor) in DEVICES {
        let path = dir.join(name);
        mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor)).with_context(failed)?;
        // Independently of the agent's umask.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).with_context(failed)?;
    }
    add_others(dir).with_context(failed)?;
    for entry in std::fs::read_dir(dir).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        lchown(path, Some(owner), Some(owner)).with_context(failed)?;
    }
    Ok(())
}

/// The same without root, who alone can make devices: those of this machine are mounted there.
pub(crate) fn prepare_bound(dir: &Path) -> anyhow::Result<()> {
    let failed = || format!("failed to prepare devices in {}", dir.display());
    mount_on(dir, 0).with_context(failed)?;
    for (name, _, _) in DEVICES {
        let (device, point) = (Path::new("/dev").join(name), dir.join(name));
        std::fs::write(&point, "").with_context(failed)?;
        mount(Some(&device), &point, NONE, MsFlags::MS_BIND, NONE).with_context(failed)?;
    }
    add_others(dir).with_context(failed)
}

fn mount_on(dir: &Path, owner: u32) -> nix::Result<()> {
    let options = format!("mode=0755,size=1m,uid={owner},gid={owner}");
    mount(Some("oswalk-dev"), dir, Some("tmpfs"), MsFlags::MS_NOSUID, Some(&*options))
}

/// Adds links, and the points of other mounts.
fn add_others(dir: &Path) -> io::Result<()> {
    for (name, target) in LINKS {
        symlink(target, dir.join(name))?;
    }
    for name in ["pts", "shm", MEMORY] {
        std::fs::create_dir(dir.join(name))?;
    }
    std::fs::set_permissions(dir.join("shm"), PermissionsExt::from_mode(0o1777))
}
