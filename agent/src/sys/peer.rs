//! Who is at the other end of a unix socket. \[unsafe\]: nix has neither `SO_PEERGROUPS` nor `SO_PEERPIDFD`.
#![expect(unsafe_code, reason = "SO_PEERGROUPS and SO_PEERPIDFD have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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

/// Tells whether the process that has connected has not ended, so that its pid is no other's. Kernels before 6.5 cannot tell,
/// and it is taken to live.
pub(crate) fn lives(socket: &impl AsFd) -> bool {
    match process(socket) {
        Ok(process) => {
            let mut ends = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            poll(&mut ends, PollTimeout::ZERO) == Ok(0)
        }
        Err(error) => error.raw_os_error() == Some(libc::ENOPROTOOPT),
    }
}

/// Returns the pidfd of the process that has connected.
fn process(socket: &impl AsFd) -> io::Result<OwnedFd> {
    let mut process: RawFd = -1;
    let mut bytes = libc::socklen_t::try_from(size_of::<RawFd>()).map_err(io::Error::other)?;
    // SAFETY: the buffer is as long as `bytes` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut process).cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made the descriptor for this call, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(process) })
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_has_ended_is_not_taken_for_another() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        assert!(lives(&ours), "this process has made the pair");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("door");
        let door = UnixListener::bind(&path).expect("a door");
        let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .expect("Python is installed");
        let (mut connection, _) = door.accept().expect("it connects");
        assert!(lives(&connection));
        child.kill().expect("it lives");
        child.wait().expect("it ends");
        assert_eq!(connection.read(&mut [0]).expect("it has ended"), 0);
        assert!(!lives(&connection));
    }
}
