//! The directory of the door and of policy pages, which users can reach. It is on a memory file system if possible: every
//! process of a session writes to the tally in its page, which on a disk would cause journal writes.

mod page;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use worknode::door::{SYSTEM_DIR, SYSTEM_STATE};

pub(crate) use page::{Left, Page};

/// Users' processes may open the door and their own pages; only the agent's user may list them.
const MODE: u32 = 0o711;

/// The file in the state directory that contains its path, so that the pages of a killed agent can be removed.
const NOTE: &str = "pages";

/// A directory that is removed with the agent.
#[derive(Debug)]
pub(crate) struct PagesDir {
    path: PathBuf,
    note: PathBuf,
}

impl PagesDir {
    /// Creates the directory of the agent with this state directory, and removes an old one.
    ///
    /// # Errors
    /// It cannot even be created in the state directory, or its path cannot be recorded there.
    pub(crate) fn make(state: &Path) -> io::Result<Self> {
        let path = if state == Path::new(SYSTEM_STATE) {
            make(SYSTEM_DIR.into())
        } else {
            Self::make_for(state)
        }?;
        let note = state.join(NOTE);
        std::fs::write(&note, path.as_os_str().as_bytes())?;
        Ok(Self { path, note })
    }

    /// Creates the directory of an agent with another state directory, whose name follows from that.
    fn make_for(state: &Path) -> io::Result<PathBuf> {
        let meta = std::fs::metadata(state)?;
        let name = format!("oswalk-{:x}-{:x}", meta.dev(), meta.ino());
        // The fallback is the state directory, which may be on a disk, but where nobody else can interfere.
        let (in_memory, others): (Vec<_>, Vec<_>) =
            shared_dirs().into_iter().partition(|dir| is_memory(dir));
        // Others may also write there: a directory of theirs is not used.
        let made = in_memory.iter().chain(&others).find_map(|dir| make(dir.join(&name)).ok());
        made.map_or_else(|| make(state.join("sessions")), Ok)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PagesDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = std::fs::remove_file(&self.note);
    }
}

/// Returns directories that all served users can access: for root's agent all users, otherwise its own user.
fn shared_dirs() -> Vec<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        vec!["/run".into(), "/dev/shm".into()]
    } else {
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).into_iter().collect()
    }
}

fn is_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Creates a directory. Fails if it exists.
fn make(path: PathBuf) -> io::Result<PathBuf> {
    let _ = std::fs::remove_dir_all(&path);
    std::fs::DirBuilder::new().mode(MODE).create(&path)?;
    // Independently of the umask.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_removed_with_the_agent() {
        let state = tempfile::tempdir().expect("a directory");
        let pages = PagesDir::make(state.path()).expect("a directory");
        let path = pages.path().to_owned();
        std::fs::write(path.join("page"), "").expect("writable");
        let again = PagesDir::make(state.path()).expect("a directory");
        assert_eq!(again.path(), path);
        assert_eq!(std::fs::read_dir(&path).expect("it is there").count(), 0, "an old one goes");
        assert_eq!(path.metadata().expect("it is there").mode() & 0o7777, MODE);
        let note = state.path().join(NOTE);
        let noted = std::fs::read(&note).expect("readable");
        assert_eq!(noted, path.as_os_str().as_bytes());
        drop(again);
        assert!(!path.exists() && !note.exists());
    }
}
