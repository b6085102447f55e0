//! The state directory, which belongs to one agent alone. Its mode is 0700. The agent acts as root and trusts the
//! files in it, so at the start it refuses any that others could have created or changed, by name and with a
//! remedy.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use nix::unistd::geteuid;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Write permission for group and others.
const WRITABLE: u32 = 0o022;
const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;
/// Depth to which its contents are checked: `redis/appendonlydir/FILE` is the deepest.
const DEPTH_MAX: usize = 4;
/// The directory of policy pages, which belong to users. It is removed without being read.
const PAGES: &[u8] = b"sessions";
/// The link to the door, which a killed agent leaves behind. It is replaced without being followed.
const DOOR: &[u8] = worknode::door::NAME.as_bytes();

/// The directories below the state directory.
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    /// Mounted trees of origins.
    pub(crate) lower: PathBuf,
    /// Mount points of walks, each used in the walk's own namespace.
    pub(crate) scratch: PathBuf,
    /// The prepared `/dev` of each origin's walks.
    pub(crate) dev: PathBuf,
}

impl Dirs {
    /// Creates them.
    pub(crate) fn make(state: &State) -> anyhow::Result<Self> {
        let make = |name| state.make_dir(name);
        Ok(Self { lower: make("lower")?, scratch: make("scratch")?, dev: make("dev")? })
    }
}

/// The state directory, with a lock that ends with the process.
#[derive(Debug)]
pub(crate) struct State {
    dir: PathBuf,
    /// The pid file, which is locked as long as it is open.
    _pid: Flock<File>,
}

impl State {
    /// Locks the state directory for this process, creating it if necessary.
    ///
    /// # Errors
    /// Another agent uses it, or others could have changed its contents.
    pub(crate) fn take(dir: &Path) -> anyhow::Result<Self> {
        let failed = || format!("failed to prepare the state directory {}", dir.display());
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).with_context(failed)?;
        let dir = std::fs::canonicalize(dir).with_context(failed)?;
        dir.ancestors().skip(1).try_for_each(check_above)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&dir, flags, Mode::empty()).with_context(failed)?;
        check(&dir, &fstat(&fd).with_context(failed)?)?;
        fchmod(&fd, Mode::from_bits_truncate(DIR_MODE)).with_context(failed)?;
        let pid = take_pid(&fd, &dir)?;
        check_below(&fd, &dir, DEPTH_MAX)?;
        Ok(Self { dir, _pid: pid })
    }

    /// Returns its canonical path.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Creates a directory in it, unless it exists.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub(crate) fn make_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(&dir);
        made.with_context(|| format!("failed to make {}", dir.display()))?;
        Ok(dir)
    }
}

/// Locks the file that holds the agent's pid.
fn take_pid(state: &OwnedFd, dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = dir.join("pid");
    let failed = || format!("failed to open {}", path.display());
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(FILE_MODE);
    let file = openat(state, "pid", flags | OFlag::O_CLOEXEC, mode).with_context(failed)?;
    check(&path, &fstat(&file).with_context(failed)?)?;
    fchmod(&file, mode).with_context(failed)?;
    match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).with_context(failed)?;
            writeln!(file, "{}", std::process::id()).with_context(failed)?;
            Ok(file)
        }
        Err(_) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            anyhow::bail!(
                "an agent (pid {}) already uses {}: end it with `oswalk down`, or give this \
                 one another --state directory",
                pid.trim(),
                dir.display()
            )
        }
    }
}

/// Refuses an ancestor directory in which others could replace the state directory.
fn check_above(dir: &Path) -> anyhow::Result<()> {
    let stat = nix::sys::stat::stat(dir)
        .with_context(|| format!("failed to look at {}", dir.display()))?;
    let remedy = "choose a --state directory below directories of root's, such as /var/lib/oswalk";
    anyhow::ensure!(
        stat.st_uid == 0 || stat.st_uid == geteuid().as_raw(),
        "{} is above the state directory and belongs to user {}: {remedy}",
        dir.display(),
        stat.st_uid
    );
    anyhow::ensure!(
        stat.st_mode & WRITABLE_BY_ALL == 0 || stat.st_mode & STICKY != 0,
        "{} is above the state directory and everybody may write in it: {remedy}",
        dir.display()
    );
    Ok(())
}

/// Refuses files that others could have created or changed in a directory of the agent.
fn check_below(dir: &OwnedFd, path: &Path, depth: usize) -> anyhow::Result<()> {
    let failed = || format!("failed to look into {}", path.display());
    let mut entries = Dir::from_fd(dir.try_clone().with_context(failed)?).with_context(failed)?;
    for entry in entries.iter() {
        let entry = entry.with_context(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if matches!(name.as_bytes(), b"." | b".." | PAGES | DOOR) {
            continue;
        }
        let path = path.join(name);
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(nix::errno::Errno::ENOENT) => continue,
            stat => stat.with_context(|| format!("failed to look at {}", path.display()))?,
        };
        check(&path, &stat)?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            anyhow::ensure!(
                depth > 0,
                "{} is not a directory of the agent: remove it",
                path.display()
            );
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let below = openat(dir.as_fd(), name, flags, Mode::empty())
                .with_context(|| format!("failed to open {}", path.display()))?;
            check_below(&below, &path, depth - 1)?;
        }
    }
    Ok(())
}

/// Refuses a file that is not the agent's own.
fn check(path: &Path, stat: &FileStat) -> anyhow::Result<()> {
    let (own, shown) = (geteuid().as_raw(), path.display());
    anyhow::ensure!(
        stat.st_uid == own,
        "{shown} belongs to user {}, and the agent is user {own}: what is in it is not trusted; \
         remove it, or give this agent another --state directory",
        stat.st_uid
    );
    let kind = stat.st_mode & libc::S_IFMT;
    anyhow::ensure!(
        kind != libc::S_IFLNK,
        "{shown} is a symbolic link, which is not followed: remove it"
    );
    // The mode of a socket controls only who may connect.
    anyhow::ensure!(
        stat.st_mode & WRITABLE == 0,
        "others may write {shown} (mode {:04o}): what is in it is not trusted; remove it, or \
         `chmod go-w` it if nobody else has changed it",
        stat.st_mode & 0o7777
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it is there").mode() & 0o7777
    }

    fn refusal(dir: &Path) -> String {
        format!("{:#}", State::take(dir).expect_err("it is refused"))
    }

    #[test]
    fn the_directory_is_private_to_one_agent() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("a/state");
        let state = State::take(&dir).expect("usable");
        assert_eq!((mode(&dir), mode(&dir.join("pid"))), (0o700, 0o600));
        let pid = std::fs::read_to_string(dir.join("pid")).expect("readable");
        assert_eq!(pid.trim(), std::process::id().to_string());
        assert!(refusal(&dir).contains("already uses"));
        drop(state);
        // Modes of an earlier version, by which others could read but not write.
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o711)).expect("ours");
        std::fs::set_permissions(dir.join("pid"), PermissionsExt::from_mode(0o644)).expect("ours");
        State::take(&dir).expect("usable");
        assert_eq!((mode(&dir), mode(&dir.join("pid"))), (0o700, 0o600));
    }

    #[test]
    fn files_that_others_may_write_are_refused() {
        for name in ["pid", "journal", "secret", "packets/1.pack", "redis/appendonlydir/x"] {
            for bad in [0o666, 0o620, 0o602, 0o777] {
                let state = tempfile::tempdir().expect("a directory");
                let file = state.path().join(name);
                std::fs::create_dir_all(file.parent().expect("one")).expect("writable");
                std::fs::write(&file, "").expect("writable");
                std::fs::set_permissions(&file, PermissionsExt::from_mode(bad)).expect("ours");
                let said = refusal(state.path());
                assert!(said.contains(&*file.to_string_lossy()), "{said}");
                assert!(said.contains("others may write") && said.contains("chmod go-w"), "{said}");
            }
        }
        let state = tempfile::tempdir().expect("a directory");
        symlink("/etc/passwd", state.path().join("journal")).expect("writable");
        assert!(refusal(state.path()).contains("symbolic link"));
    }

    /// A killed agent leaves the link to its door behind.
    #[test]
    fn the_door_of_a_killed_agent_is_no_obstacle() {
        let state = tempfile::tempdir().expect("a directory");
        symlink("/nowhere/door", state.path().join("door")).expect("writable");
        State::take(state.path()).expect("taken");
    }

    #[test]
    fn files_of_other_users_are_refused() {
        if !geteuid().is_root() {
            return;
        }
        for name in ["journal", "packets", "pid", ""] {
            let state = tempfile::tempdir().expect("a directory");
            let file = state.path().join(name);
            if !name.is_empty() {
                std::fs::write(&file, "").expect("writable");
            }
            chown(&file, Some(65534), None).expect("root may");
            assert!(refusal(state.path()).contains("belongs to user 65534"), "{name}");
        }
        let above = tempfile::tempdir().expect("a directory");
        chown(above.path(), Some(65534), None).expect("root may");
        assert!(refusal(&above.path().join("state")).contains("is above the state directory"));
        chown(above.path(), Some(0), None).expect("root may");
        std::fs::set_permissions(above.path(), PermissionsExt::from_mode(0o777)).expect("ours");
        assert!(refusal(&above.path().join("state")).contains("everybody may write"));
        std::fs::set_permissions(above.path(), PermissionsExt::from_mode(0o1777)).expect("ours");
        State::take(&above.path().join("state")).expect("nobody else may rename it");
    }
}
