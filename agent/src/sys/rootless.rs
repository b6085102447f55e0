//! What an agent without root does in its launcher: a user namespace in which the launcher may mount, with one user
//! who is the agent's own outside. The agent itself stays outside, where it sees files as its user does.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use packetfs::owners::Owners;

const NONE: Option<&str> = None;
/// How the mirror of an origin is mounted.
const MIRROR: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOATIME);

/// Moves the calling process, which has one thread, to user and mount namespaces of its own, as their root.
///
/// # Errors
/// The kernel forbids it.
pub(super) fn enter() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    write_maps(&format!("0 {uid} 1\n"), &format!("0 {gid} 1\n"))?;
    // Later mounts of the machine are seen here, too.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    Ok(mount(NONE, "/", NONE, flags, NONE)?)
}

/// Moves the calling process, which has one thread, to a user namespace in which the only user is that of a walk.
///
/// # Errors
/// The kernel forbids it.
pub(super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let owners = Owners::ONE.of_walk(uid, gid);
    unshare(CloneFlags::CLONE_NEWUSER)?;
    write_maps(&owners.map(), &owners.map_of_groups())
}

/// Writes the maps of the calling process's user namespace. The kernel wants groups to be given up first, since they may
/// forbid what others may do.
fn write_maps(users: &str, groups: &str) -> io::Result<()> {
    for (name, map) in [("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)] {
        let written = std::fs::write(format!("/proc/self/{name}"), map);
        // A namespace above has given them up already.
        if name != "setgroups"
            || !matches!(&written, Err(error) if error.raw_os_error() == Some(libc::EPERM))
        {
            written?;
        }
    }
    Ok(())
}

/// Mounts FUSE, and returns the device for its requests, whoever answers them.
///
/// # Errors
/// `/dev/fuse` is missing or forbidden, or the mount fails.
pub(super) fn mount_fuse(point: &Path, name: &str) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    mount(Some(name), point, Some("fuse.oswalk"), MIRROR, Some(&*options))?;
    Ok(device.into())
}
