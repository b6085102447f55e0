//! Makes the changes of a commit. All steps are idempotent: an interrupted commit is applied again from its
//! start.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{AccessFlags, faccessat};

use super::model::{Commit, Contents};
use super::moves::Moves;
use super::pieces::Pieces;
use super::place::Place;
use super::steps::{
    Known, Settling, link, make_dir, make_special, make_symlink, remove, rename, set_dir_time,
    write_file,
};
use super::temporary::Temporary;
use crate::change::{Meta, Op, Placing};
use crate::identity::Identity;
use crate::path::{Bytes, TreePath, split};
use crate::tree::{Attr, Kind, Time};

/// A change that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", String::from_utf8_lossy(path))]
pub struct ApplyError {
    action: &'static str,
    path: Bytes,
    source: io::Error,
    /// Nothing was changed before.
    is_first: bool,
}

impl ApplyError {
    /// The owner's identity cannot be assumed.
    pub(super) fn of_identity(source: io::Error) -> Self {
        failed("assume the owner's identity for", b"/")(source)
    }

    /// Returns the path if another process has just changed it, and the commit has changed nothing yet.
    pub(super) fn conflict(&self) -> Option<TreePath> {
        let raced = [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound];
        let is_race = self.is_first && raced.contains(&self.source.kind());
        is_race.then(|| TreePath::new(self.path.clone()).ok())?
    }
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> ApplyError + use<> {
    let path = path.to_vec();
    move |source| ApplyError { action, path, source, is_first: false }
}

/// Checks before the first change whether the owner may write in every directory, and whether there is space
/// for the content.
pub(super) fn check(commit: &Commit) -> Result<(), ApplyError> {
    let _identity = Identity::assume(&commit.owner).map_err(ApplyError::of_identity)?;
    let mut bytes = 0;
    let mut seen = HashSet::new();
    for op in &commit.changes.ops {
        let path = path_of(op);
        if let Op::File { manifest, .. } = op {
            bytes += manifest.data_bytes();
        }
        let Some((dir, _)) = split(path) else { continue };
        // Directories are skipped: if something below one changed, its own directory is checked. One
        // that does not exist yet is created by the change set.
        if matches!(op, Op::Dir { .. }) || !seen.insert(dir) {
            continue;
        }
        let Ok(place) = Place::of(path) else { continue };
        let (mode, flags) = (AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS);
        faccessat(&place.dir, ".", mode, flags)
            .map_err(|errno| failed("write in", dir)(errno.into()))?;
        let room = fstatvfs(&place.dir).map_err(|errno| failed("look at", dir)(errno.into()))?;
        if room.blocks_available() * room.fragment_size() < bytes {
            return Err(failed("find room in", dir)(Errno::ENOSPC.into()));
        }
    }
    Ok(())
}

fn path_of(op: &Op) -> &[u8] {
    match op {
        Op::Rename { to: path, .. }
        | Op::Remove { path }
        | Op::Dir { path, .. }
        | Op::File { path, .. }
        | Op::Symlink { path, .. }
        | Op::Link { path, .. }
        | Op::Special { path, .. } => path,
    }
}

/// A commit that was interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// When it was begun.
    pub(super) at: Time,
    /// Whether everything in the way had been moved aside.
    pub(super) is_cleared: bool,
}

/// Makes all changes. If they were begun before, files that others have changed since are skipped. Calls
/// `cleared` when everything in the way has been moved aside.
pub(super) fn apply(
    commit: &Commit,
    contents: &Contents<'_>,
    temporary: Temporary,
    begun: Option<Begun>,
    cleared: &dyn Fn() -> io::Result<()>,
) -> Result<(), ApplyError> {
    let _identity = Identity::assume(&commit.owner).map_err(ApplyError::of_identity)?;
    let moves = Moves::of(&commit.changes.ops, temporary);
    if !moves.is_empty() && !begun.is_some_and(|begun| begun.is_cleared) {
        let take = || moves.take_aside().and_then(|()| cleared().inspect_err(|_| moves.put_back()));
        let first = |error| ApplyError { is_first: begun.is_none(), ..error };
        take().map_err(failed("rename what is in", b"/")).map_err(first)?;
    }
    let changed = change(commit, contents, (&moves, temporary), begun.map(|begun| begun.at));
    changed.inspect_err(|_| moves.put_back())?;
    moves.remove_rest().map_err(failed("remove what was replaced in", b"/"))
}

fn change(
    commit: &Commit,
    contents: &Contents<'_>,
    (moves, temporary): (&Moves, Temporary),
    begun: Option<Time>,
) -> Result<(), ApplyError> {
    let is_certain = begun.is_none() && !commit.last_wins;
    let known = if is_certain { Known::of(&commit.changes) } else { Known::default() };
    let (now, again) = (Time::of(SystemTime::now()), begun.is_some());
    let all = &Settling { owner: &commit.owner, began: commit.began, now, known, again };
    let mut made: HashSet<&[u8]> = HashSet::new();
    let mut is_first = !again;
    for (at, op) in commit.changes.ops.iter().enumerate() {
        if begun.is_some_and(|begun| belongs_to_others(op, contents, begun)) {
            tracing::warn!(
                path = %String::from_utf8_lossy(path_of(op)),
                "skipped a change of an interrupted commit: the file has changed since"
            );
            continue;
        }
        match op {
            Op::Rename { from, to } => {
                rename(moves.now(from), to, all).map_err(failed("rename", from))
            }
            Op::Remove { path } => remove(path, all).map_err(failed("remove", path)),
            Op::Dir { path, meta, replaces: _ } => make_dir(path, meta, all)
                .map(|is_new| {
                    if is_new {
                        made.insert(&**path);
                    }
                })
                .map_err(failed("make the directory", path)),
            Op::File { path, meta, manifest, placing } => {
                let pieces = Pieces { manifest, contents };
                let fresh_name = || temporary.fresh(at);
                write_file((path, &fresh_name), meta, &pieces, *placing, all)
                    .map_err(failed("write", path))
            }
            Op::Symlink { path, target, meta, keeps } => {
                make_symlink((path, target), meta, *keeps, all)
                    .map_err(failed("make the link", path))
            }
            Op::Link { path, to } => link(path, to, all).map_err(failed("link", path)),
            Op::Special { path, kind, rdev: _, meta } => {
                make_special(path, *kind, meta, all).map_err(failed("make", path))
            }
        }
        .map_err(|error| ApplyError { is_first, ..error })?;
        // Changes of an existing directory are idempotent.
        is_first &= matches!(op, Op::Dir { path, .. } if !made.contains(&path[..]));
    }
    // Directory times last, because every change in a directory alters them.
    for op in commit.changes.ops.iter().rev() {
        if let Op::Dir { path, meta: Meta { mtime: Some(mtime), .. }, .. } = op {
            match set_dir_time(path, *mtime, made.contains(&**path), all) {
                // A user who creates files in another user's directory cannot set its time.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result.map_err(failed("set the time of", path))?,
            }
        }
    }
    Ok(())
}

/// Tells whether another process has changed a name since an interrupted commit was begun: the file is newer,
/// and is not what the commit itself may have left there.
fn belongs_to_others(op: &Op, contents: &Contents<'_>, begun: Time) -> bool {
    let path = path_of(op);
    let Ok(Some(now)) = Place::of(path).and_then(|place| place.attr()) else { return false };
    if now.ctime <= begun {
        return false;
    }
    match op {
        // A partly removed directory is newer, too.
        Op::Remove { path } if now.kind == Kind::Dir => has_newer_files(path, begun),
        Op::File { placing: Placing::Behind(_), .. } => false,
        Op::File { manifest, .. } => {
            let pieces = Pieces { manifest, contents };
            let file = Place::of(path).and_then(|place| place.open_file(OFlag::O_RDONLY));
            !file.is_ok_and(|file| pieces.begin_with(&file))
        }
        Op::Remove { .. } => true,
        _ => false,
    }
}

/// Tells whether a file below a directory is newer than a moment, or deeper than anything that a walk can
/// see.
pub(super) fn has_newer_files(dir: &[u8], moment: Time) -> bool {
    let mut dirs = vec![PathBuf::from(OsStr::from_bytes(dir))];
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return true,
            Err(_) => continue,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            match nix::sys::stat::lstat(&path).map(|stat| Attr::of(&stat)) {
                Ok(Attr { kind: Kind::Dir, .. }) | Err(Errno::ENAMETOOLONG) => dirs.push(path),
                Ok(attr) if attr.ctime > moment => return true,
                _ => {}
            }
        }
    }
    false
}
