//! The privileges of processes. A walk has all privileges of its user, so a process that has dropped some stays.
#![expect(unsafe_code, reason = "capget has no safe wrapper")]

use std::io;
use std::mem::MaybeUninit;

use super::place::Place;
use super::program::KEPT_CAPABILITIES;

/// The privileges that processes of this machine normally have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rights {
    /// The agent's user namespace.
    users: Place,
    /// Root's capabilities, limited to those that a walk keeps.
    of_root: u64,
}

impl Rights {
    /// Reads them from this process, which runs as root.
    pub(crate) fn own() -> io::Result<Self> {
        let kept = KEPT_CAPABILITIES.iter().fold(0, |set, capability| set | 1 << capability);
        Ok(Self { users: users_of("self")?, of_root: kept & capabilities(0)? })
    }

    /// Tells whether a user's process has all privileges that it would have in a walk.
    pub(crate) fn are_those_of(&self, pid: u32, uid: u32) -> bool {
        let is_of_here = || users_of(&pid.to_string()).is_ok_and(|users| users == self.users);
        let has_all =
            || capabilities(pid).is_ok_and(|capabilities| self.of_root & !capabilities == 0);
        is_of_here() && (uid != 0 || has_all())
    }
}

fn users_of(process: &str) -> io::Result<Place> {
    Place::at(&format!("/proc/{process}/ns/user"))
}

/// Returns a process's effective capabilities; pid 0 is the calling process.
fn capabilities(pid: u32) -> io::Result<u64> {
    /// `_LINUX_CAPABILITY_VERSION_3`: each of three sets has two words of 32 bits.
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Head {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    struct Word {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let pid = libc::c_int::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut head = Head { version: VERSION, pid };
    let mut words = MaybeUninit::<[Word; 2]>::zeroed();
    // SAFETY: both have the size and layout of this version.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut head, words.as_mut_ptr()) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: integers, all of which are initialized.
    let [low, high] = unsafe { words.assume_init() };
    Ok(u64::from(low.effective) | u64::from(high.effective) << 32)
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
