//! Who is at the other end of a unix socket. \[unsafe\]: nix has no `SO_PEERGROUPS`.

use std::os::fd::RawFd;

/// Linux allows a process this many groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Returns the supplementary groups of the process at the other end.
#[must_use]
pub(crate) fn groups(socket: RawFd) -> Vec<u32> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(groups.len() * 4).unwrap_or(0);
        // SAFETY: the buffer is as long as `bytes` says.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        if result == 0 {
            groups.truncate(bytes as usize / 4);
            return groups;
        }
        if groups.len() >= GROUPS_MAX {
            return Vec::new();
        }
        groups.resize(GROUPS_MAX, 0);
    }
}
