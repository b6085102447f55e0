//! Who is at the other end of a unix socket. \[unsafe\]: nix has no `SO_PEERGROUPS`.
#![expect(unsafe_code, reason = "SO_PEERGROUPS has no safe wrapper")]

use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::socket::{getsockopt, sockopt};

/// The process at the other end of a unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// 0 if it is in a pid namespace that is not visible here.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Peer {
    /// Returns the process that connected.
    ///
    /// # Errors
    /// The system call fails.
    pub(crate) fn of(socket: &impl AsFd) -> nix::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        Ok(Self { pid, uid: credentials.uid(), gid: credentials.gid() })
    }
}

/// Linux allows a process this many groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Returns the supplementary groups of the process at the other end.
#[must_use]
pub(crate) fn groups(socket: &impl AsFd) -> Vec<u32> {
    groups_of(socket.as_fd().as_raw_fd())
}

fn groups_of(socket: RawFd) -> Vec<u32> {
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
