//! Acts on a user's behalf: for the current thread, the kernel checks every file operation as if
//! the user had called it. \[unsafe\]: the calls are per thread only when made raw.

use std::io;

use super::Owner;

/// While it lives, this thread's file operations are the user's. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Identity {
    restore: bool,
}

impl Identity {
    /// Assumes the owner's identity, if this process may and is not that user already.
    pub(super) fn assume(owner: &Owner) -> io::Result<Self> {
        let own = nix::unistd::geteuid().as_raw();
        if own != 0 || owner.uid == 0 {
            return Ok(Self { restore: false });
        }
        let identity = Self { restore: true };
        set_groups(&owner.groups)?;
        set_fs_ids(owner.uid, owner.gid);
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if self.restore {
            set_fs_ids(0, 0);
            // Root keeps no supplementary groups here; this cannot fail for root.
            let _ = set_groups(&[]);
        }
    }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads as many groups as it is told there are.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: the call takes a plain number.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    // SAFETY: the call takes a plain number. A uid other than 0 also drops the thread's powers
    // over files that are not the user's.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}
