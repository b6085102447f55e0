//! The privileges of processes. A walk has all privileges of its user, so a process that has dropped some stays.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CapabilitySet, capabilities};

use super::place::Place;
use super::program::KEPT_CAPABILITIES;

/// The privileges that processes of this machine normally have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rights {
    /// The agent's user namespace.
    users: Place,
    /// Root's capabilities, limited to those that a walk keeps.
    of_root: CapabilitySet,
}

impl Rights {
    /// Reads them from this process, which runs as root.
    pub(crate) fn own() -> io::Result<Self> {
        let of_root = KEPT_CAPABILITIES & capabilities(None)?.effective;
        Ok(Self { users: users_of("self")?, of_root })
    }

    /// Tells whether a user's process has all privileges that it would have in a walk.
    pub(crate) fn are_those_of(&self, pid: u32, uid: u32) -> bool {
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
        let is_of_here = || users_of(&pid.to_string()).is_ok_and(|users| users == self.users);
        let has_all =
            || capabilities(Some(process)).is_ok_and(|sets| sets.effective.contains(self.of_root));
        is_of_here() && (uid != 0 || has_all())
    }
}

fn users_of(process: &str) -> io::Result<Place> {
    Place::at(&format!("/proc/{process}/ns/user"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn those_of(words: &[&str], uid: u32) -> bool {
        let own = Rights::own().expect("this process is visible");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["sh", "-c", "echo; exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("util-linux is installed");
        let mut line = [0];
        let said = child.stdout.as_mut().expect("piped");
        io::Read::read_exact(said, &mut line).expect("it has become what it is to be");
        let are = own.are_those_of(child.id(), uid);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        are
    }

    #[test]
    fn a_process_that_dropped_privileges_is_recognized() {
        assert!(those_of(&["env"], 0), "this test runs as root");
        assert!(those_of(&["setpriv", "--reuid=65534"], 65534));
        assert!(!those_of(&["unshare", "--user"], 65534));
        assert!(!those_of(&["unshare", "--user", "--map-root-user"], 0));
        let bound = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"];
        assert!(!those_of(&bound, 0));
        assert!(those_of(&["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"], 0));
        assert!(!Rights::own().expect("visible").are_those_of(0x7fff_ffff, 0), "it is gone");
    }
}
