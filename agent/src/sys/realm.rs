//! The namespaces that the walks of an origin share: a user namespace, outside of which their users are nobody, and
//! a network with nothing but a loopback device.
#![expect(unsafe_code, reason = "forks, and brings the loopback device up")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Pid, geteuid};
use packetfs::owners::Owners;
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, set_capabilities_secure_bits, set_thread_res_gid, set_thread_res_uid,
};

use worknode::principal::Principal;

use super::process::{self, Side};
use super::rootless;

/// The namespaces of one origin.
#[derive(Debug)]
pub(super) struct Realm {
    /// `None` for an agent without root: each walk has its own.
    users: Option<File>,
    loopback: File,
}

impl Realm {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// The kernel refuses, as where user namespaces are forbidden.
    ///
    /// # Safety
    /// The calling process has only one thread.
    unsafe fn make(owners: Owners) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        // SAFETY: the caller vouches for the single thread.
        match unsafe { process::fork_into(0, None) }? {
            // The namespaces exist as long as this process, or a descriptor of theirs.
            Side::Child => {
                process::die_with_parent();
                drop(near);
                found(owners, &far);
                // SAFETY: this copy of the caller must not run its destructors.
                unsafe { libc::_exit(0) }
            }
            Side::Parent(founder) => {
                drop(far);
                let realm = Self::of(founder, owners, &near);
                drop(near);
                // Fails if the caller ignores SIGCHLD.
                let _ = nix::sys::wait::waitpid(founder, None);
                realm
            }
        }
    }

    /// Opens the namespaces that a process has made, and maps the owners.
    fn of(founder: Pid, owners: Owners, told: &UnixStream) -> io::Result<Self> {
        let mut errno = [0; 4];
        (&*told).read_exact(&mut errno)?;
        match i32::from_le_bytes(errno) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let file = |name: &str| format!("/proc/{founder}/{name}");
        let loopback = File::open(file("ns/net"))?;
        if owners.are_one() {
            return Ok(Self { users: None, loopback });
        }
        for map in ["uid_map", "gid_map"] {
            // The kernel takes a map in one call only.
            File::options().write(true).open(file(map))?.write_all(owners.map().as_bytes())?;
        }
        Ok(Self { users: Some(File::open(file("ns/user"))?), loopback })
    }

    /// Returns its descriptors, which a sandbox keeps open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.loopback), self.users.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Moves the calling process to the network.
    pub(super) fn leave_network(&self) -> nix::Result<()> {
        setns(&self.loopback, CloneFlags::CLONE_NEWNET)
    }

    /// Moves the calling process to the user namespace of a walk, where it has all capabilities, and no identity yet if
    /// there are several.
    pub(super) fn enter(&self, who: &Principal) -> io::Result<()> {
        match &self.users {
            Some(users) => Ok(setns(users, CloneFlags::CLONE_NEWUSER)?),
            None => rootless::become_user(who.uid, who.gid),
        }
    }
}

/// The namespaces of all origins whose walks this machine has executed. There are at most as many as an agent has
/// mirrors at once, since origins get numbers that are free.
#[derive(Debug, Default)]
pub(super) struct Realms(Vec<(Owners, Realm)>);

impl Realms {
    /// Returns an origin's namespaces, making them if necessary.
    ///
    /// # Errors
    /// The kernel refuses.
    ///
    /// # Safety
    /// The calling process has only one thread.
    pub(super) unsafe fn of(&mut self, owners: Owners) -> io::Result<&Realm> {
        let at = match self.0.iter().position(|(known, _)| *known == owners) {
            Some(at) => at,
            None => {
                // SAFETY: the caller vouches for the single thread.
                self.0.push((owners, unsafe { Realm::make(owners) }?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }
}

/// Checks that namespaces for walks can be made on this machine, by root or by another user.
///
/// # Errors
/// The kernel refuses.
///
/// # Safety
/// The calling process has only one thread.
pub(crate) unsafe fn check(is_root: bool) -> io::Result<()> {
    let owners = Owners::new(&[], &[]).filter(|_| is_root).unwrap_or(Owners::ONE);
    // SAFETY: the caller vouches for the single thread.
    unsafe { Realm::make(owners) }.map(drop)
}

/// Makes the namespaces, tells the other side so, and waits until that has opened them.
fn found(owners: Owners, mut told: &UnixStream) {
    let errno = match make_namespaces(owners) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    let _ = told.write_all(&errno.to_le_bytes());
    let _ = told.read(&mut [0]);
}

fn make_namespaces(owners: Owners) -> io::Result<()> {
    if !geteuid().is_root() {
        // A check, outside of the launcher's namespaces.
        rootless::enter()?;
    }
    // First, so that it belongs to this machine: capabilities in the user namespace give no power over it.
    unshare(CloneFlags::CLONE_NEWNET)?;
    bring_loopback_up()?;
    if owners.are_one() {
        return Ok(());
    }
    // The kernel holds all processes of a user namespace together to the limits that its maker had. A failure leaves
    // these as they are.
    for resource in [Resource::Memlock, Resource::Msgqueue, Resource::Sigpending] {
        let _ = setrlimit(resource, Rlimit { current: None, maximum: None });
    }
    // The user namespace belongs to the walks' root, who is nobody here, and not to this machine's root. What the
    // kernel counts for each user is then not counted for this machine's root.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let root = owners.here(0);
    set_thread_res_gid(None, Gid::from_raw(root), None)?;
    set_thread_res_uid(None, Uid::from_raw(root), None)?;
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

fn bring_loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeros are a valid request.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::try_from(from).map_err(io::Error::other)?;
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the request, which lives during the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_walks_root_is_nobody() {
        let owners = Owners::new(&[], &[]).expect("the first range is free");
        // SAFETY: the new process only makes system calls.
        let realm = unsafe { Realm::make(owners) }.expect("this test runs as root");
        let open = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let users = realm.users.as_ref().expect("the owners have numbers of their own");
        let (inside, network) = (open(users), open(&realm.loopback));
        let script = "id -u; stat -c %u /proc/1; cat /proc/net/dev | grep -c :; \
                      test -r /etc/shadow || echo secret; cat /proc/self/uid_map";
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={network}")).arg(format!("--user={inside}"));
        let said = command.args(["--setuid=0", "--setgid=0", "sh", "-c", script]).output();
        let said = String::from_utf8(said.expect("util-linux is installed").stdout).expect("text");
        let words: Vec<_> = said.split_whitespace().collect();
        assert_eq!(words[..4], ["0", "65534", "1", "secret"], "{said}");
        assert_eq!(words[4..7], ["0", &*owners.here(0).to_string(), "65536"], "{said}");
    }
}
