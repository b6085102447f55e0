//! The places that a process names: its working directory, and its arguments as far as they are paths.

use nix::errno::Errno;
use packetfs::tree::{Bytes, is_within, join};
use worknode::reason::Reason;
use worknode::spec::{FdSpec, strings};

use super::Hello;
use crate::look::Look;
use crate::sys::place::Place;

/// Directories that only installations change. A compile step sees them, and never writes there.
pub(in crate::origin) const SYSTEM_DIRS: [&[u8]; 9] =
    [b"/usr", b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/etc", b"/opt"];

/// What was found at the places.
#[derive(Debug)]
pub(super) struct Places {
    /// It may write into a system directory.
    pub(super) writes_system: bool,
}

impl Hello {
    /// Looks at the files that the process has and names, or says why it must stay.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn look_around(
        &self,
        pid: u32,
        compiles: bool,
        look: Look,
    ) -> Result<Result<(Places, Vec<FdSpec>), Reason>, Errno> {
        if !self.is_where_it_says(pid, look)? {
            return Ok(Err(Reason::OtherMounts));
        }
        if !compiles && self.names_a_channel(look)? {
            return Ok(Err(Reason::Descriptor));
        }
        let fds = match self.descriptors(pid, compiles, look)? {
            Ok(fds) => fds,
            Err(reason) => return Ok(Err(reason)),
        };
        Ok(Ok((Places { writes_system: !(compiles && self.writes_elsewhere()) }, fds)))
    }

    /// Tells whether the path of the working directory leads there: not if something was mounted over
    /// it since the process entered it, or is mounted for the process alone.
    fn is_where_it_says(&self, pid: u32, look: Look) -> Result<bool, Errno> {
        let Ok(place) = Place::at(&format!("/proc/{pid}/cwd")) else { return Ok(false) };
        // The agent has copies of the mounts, with other numbers.
        let is_same = |found: Place| (found.dev, found.ino) == (place.dev, place.ino);
        Ok(look.find(&self.cwd)?.is_some_and(is_same))
    }

    /// Tells whether an argument names a fifo or a socket: its other end is at the origin.
    fn names_a_channel(&self, look: Look) -> Result<bool, Errno> {
        for argument in strings(&self.argv).skip(1) {
            let path = path(&self.cwd, argument);
            let kind = look.find(&path)?.map(|place| place.kind);
            if matches!(kind, Some(libc::S_IFIFO | libc::S_IFSOCK)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells that the command writes into no system directory, as far as its words show.
    fn writes_elsewhere(&self) -> bool {
        let in_system = |path: &[u8]| SYSTEM_DIRS.iter().any(|dir| is_within(path, dir));
        let mut output_next = false;
        let outputs_in_system = strings(&self.argv).any(|argument| {
            let output =
                std::mem::replace(&mut output_next, argument == b"-o" || argument == b"-MF");
            let glued = argument.strip_prefix(b"-o").is_some_and(in_system);
            (output && in_system(argument)) || glued
        });
        !in_system(&self.cwd) && !outputs_in_system
    }
}

/// Returns the path of a name in a directory.
pub(super) fn path(dir: &[u8], name: &[u8]) -> Bytes {
    if name.starts_with(b"/") { name.to_vec() } else { join(dir, name) }
}
