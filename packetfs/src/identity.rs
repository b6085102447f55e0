//! Acts on a user's behalf: for the current thread, the kernel checks every file operation as if
//! the user had called it. So are files of users read for runners, and changes of walks made.

use std::io;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

/// A user on whose behalf files are read or changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The impersonation of a user, which ends on drop. Meanwhile the thread has the user's ids and groups, and no
/// capabilities.
#[derive(Debug)]
pub struct Identity {
    /// The thread's own capabilities; `None` if the process already runs as that user.
    own: Option<CapabilitySets>,
}

impl Identity {
    /// Assumes the owner's identity, unless this process is that user already.
    ///
    /// # Errors
    /// Not every id, group and capability could be set.
    pub fn assume(owner: &Owner) -> io::Result<Self> {
        let process = nix::unistd::geteuid().as_raw();
        if process == owner.uid {
            return Ok(Self { own: None });
        }
        if process != 0 {
            return Err(denied("only root can act for other users"));
        }
        let own = capabilities(None)?;
        // From here on, dropping it restores everything changed so far.
        let identity = Self { own: Some(own) };
        set_groups(&owner.groups)?;
        set_fs_ids(owner.uid, owner.gid)?;
        let none = CapabilitySets { effective: CapabilitySet::empty(), ..own };
        set_capabilities(None, none)?;
        if !capabilities(None)?.effective.is_empty() {
            return Err(denied("the thread still has capabilities"));
        }
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let Some(own) = self.own else { return };
        // Root has no supplementary groups here.
        let regain = || Ok(set_capabilities(None, own)?);
        let restored = regain().and_then(|()| set_fs_ids(0, 0)).and_then(|()| set_groups(&[]));
        // A thread that cannot restore its identity must not continue.
        restored.and_then(|()| regain()).expect("permitted capabilities were kept");
    }
}

fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    let groups: Vec<_> = groups.iter().map(|&group| rustix::thread::Gid::from_raw(group)).collect();
    Ok(rustix::thread::set_thread_groups(&groups)?)
}

/// Sets the ids that count for files, which are a thread's. The calls do not say whether they did it:
/// they return the id that was set before.
fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    /// Is no id, and changes nothing.
    const NONE: u32 = u32::MAX;
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let now = (setfsuid(Uid::from_raw(NONE)).as_raw(), setfsgid(Gid::from_raw(NONE)).as_raw());
    if now == (uid, gid) { Ok(()) } else { Err(denied("an id could not be set")) }
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
    fn an_impersonated_user_has_no_privileges_of_root() {
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
        // Another thread reads the status, because this one, without root, may not.
        let (read, reopened) = (std::fs::read(&secret), std::fs::read("/proc/thread-self/environ"));
        let caps = capabilities(None).expect("readable");
        let (ids, groups) = (status("Uid:"), status("Groups:"));
        drop(identity);
        assert!(read.is_err() && reopened.is_err());
        assert!(caps.effective.is_empty());
        assert_eq!((ids[3].as_str(), groups), ("65534", vec!["5".to_owned(), "7".to_owned()]));
        assert_eq!(status("CapEff:"), before);
        assert_eq!((status("Uid:")[3].as_str(), status("Gid:")[3].as_str()), ("0", "0"));
        std::fs::read(&secret).expect("root may read it again");
    }
}
