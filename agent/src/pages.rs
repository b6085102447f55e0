//! Where policy pages lie: in memory, if there is a file system for it. Every process of a session counts
//! in its page's tally, and on a disk the file system notes that in its journal.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// The users' processes open their own pages there; only the agent's user may list them.
const MODE: u32 = 0o711;

/// The file in the state directory that names it, so that what a killed agent leaves in memory is found.
const NOTE: &str = "pages";

/// A directory that goes with the agent.
#[derive(Debug)]
pub(crate) struct PagesDir {
    path: PathBuf,
    note: PathBuf,
}

impl PagesDir {
    /// Makes the directory of an agent with this state directory; an old one goes.
    ///
    /// # Errors
    /// There is none in the state directory either, or it cannot be noted.
    pub(crate) fn make(state: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(state)?;
        let name = format!("oswalk-{:x}-{:x}", meta.dev(), meta.ino());
        // Nobody else gets into the state directory: better no memory than not there.
        let (in_memory, others): (Vec<_>, Vec<_>) =
            shared_dirs().into_iter().partition(|dir| is_memory(dir));
        // Others may write there, too: what is theirs is not taken.
        let made = in_memory.iter().chain(&others).find_map(|dir| make(dir.join(&name)).ok());
        let path = made.map_or_else(|| make(state.join("sessions")), Ok)?;
        let note = state.join(NOTE);
        std::fs::write(&note, path.as_os_str().as_bytes())?;
        Ok(Self { path, note })
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

/// Directories in which those find their pages whom this agent serves: root's all users, others' themselves.
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

/// Makes a directory, which fails if somebody else has one there.
fn make(path: PathBuf) -> io::Result<PathBuf> {
    let _ = std::fs::remove_dir_all(&path);
    std::fs::DirBuilder::new().mode(MODE).create(&path)?;
    // Whatever the umask is.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_the_agent() {
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
