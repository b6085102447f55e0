//! Acts on a user's behalf: for the current thread, the kernel checks every file operation as if
//! the user had called it. \[unsafe\]: the calls are per thread only when made raw.

use std::io;

use super::model::Owner;

/// While it lives, this thread's file operations are the user's: it has the user's ids and groups, and
/// no capability at all. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Identity {
    /// The thread's own capabilities; nothing if it is that user itself.
    own: Option<Capabilities>,
}

impl Identity {
    /// Assumes the owner's identity, unless this process is that user already.
    ///
    /// # Errors
    /// The thread is not, in every respect, what the owner is.
    pub(super) fn assume(owner: &Owner) -> io::Result<Self> {
        let process = nix::unistd::geteuid().as_raw();
        if process == owner.uid {
            return Ok(Self { own: None });
        }
        if process != 0 {
            return Err(denied("only root acts for other users"));
        }
        let own = Capabilities::of_thread()?;
        // From here on dropping it restores what was changed so far.
        let identity = Self { own: Some(own) };
        set_groups(&owner.groups)?;
        set_fs_ids(owner.uid, owner.gid)?;
        let none = Capabilities { effective: [0; 2], ..own };
        none.set()?;
        if Capabilities::of_thread()?.effective != [0; 2] {
            return Err(denied("the thread keeps capabilities"));
        }
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let Some(own) = self.own else { return };
        // Root keeps no supplementary groups here.
        let restored = own.set().and_then(|()| set_fs_ids(0, 0)).and_then(|()| set_groups(&[]));
        // A thread that would go on as somebody else must not go on.
        restored.and_then(|()| own.set()).expect("permitted capabilities were kept");
    }
}

fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads as many groups as it is told there are.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the ids that count for files. The calls do not say whether they did it: they return the id
/// that was set before.
fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    let set = |call: libc::c_long, id: u32| {
        // SAFETY: the call takes a plain number.
        unsafe { libc::syscall(call, id) };
        // SAFETY: the call takes a plain number; this one is no id and changes nothing.
        let now = unsafe { libc::syscall(call, u32::MAX) };
        if now == libc::c_long::from(id) { Ok(()) } else { Err(denied("an id could not be set")) }
    };
    set(libc::SYS_setfsgid, gid)?;
    set(libc::SYS_setfsuid, uid)
}

/// A thread's capabilities, the lower 32 of each set first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Capabilities {
    effective: [u32; 2],
    permitted: [u32; 2],
    inheritable: [u32; 2],
}

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The kernel's `struct __user_cap_header_struct`, for the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

const OWN_THREAD: Header = Header { version: CAPABILITY_VERSION, pid: 0 };

/// The kernel's `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Capabilities {
    fn of_thread() -> io::Result<Self> {
        let (mut header, mut data) = (OWN_THREAD, [Data::default(); 2]);
        // SAFETY: of this version the kernel writes a header and two parts of data.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            effective: data.map(|data| data.effective),
            permitted: data.map(|data| data.permitted),
            inheritable: data.map(|data| data.inheritable),
        })
    }

    fn set(self) -> io::Result<()> {
        let part = |at: usize| Data {
            effective: self.effective[at],
            permitted: self.permitted[at],
            inheritable: self.inheritable[at],
        };
        let (mut header, data) = (OWN_THREAD, [part(0), part(1)]);
        // SAFETY: of this version the kernel reads a header and two parts of data.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const data) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Returns words of a line of the thread's status.
    fn status(name: &str) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/thread-self/status").expect("readable");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("there");
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn a_user_has_no_capability_and_nothing_of_roots() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "").expect("writable");
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("ours");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        let before = status("CapEff:");
        let owner = Owner { uid: 65534, gid: 65533, groups: vec![7, 5] };
        let identity = Identity::assume(&owner).expect("root may");
        // All threads of this test's process are root's but this one, which cannot look at itself.
        let (read, reopened) = (std::fs::read(&secret), std::fs::read("/proc/thread-self/environ"));
        let caps = Capabilities::of_thread().expect("readable");
        let (ids, groups) = (status("Uid:"), status("Groups:"));
        drop(identity);
        assert!(read.is_err() && reopened.is_err());
        assert_eq!(caps.effective, [0; 2]);
        assert_eq!((ids[3].as_str(), groups), ("65534", vec!["5".to_owned(), "7".to_owned()]));
        assert_eq!(status("CapEff:"), before);
        assert_eq!((status("Uid:")[3].as_str(), status("Gid:")[3].as_str()), ("0", "0"));
        std::fs::read(&secret).expect("root may read it again");
    }
}
