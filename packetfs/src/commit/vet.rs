//! Checks what a commit may do, and where. A change set may contain only what the walk itself could have done.
//! Anything not listed here is refused before the first change, both when a commit arrives and when an interrupted
//! one is finished.

use std::cell::LazyCell;

use super::model::{Commit, Scope};
use super::place::Place;
use crate::change::{ChangeSet, Meta, Op, Placing};
use crate::identity::Owner;
use crate::path::{Bytes, CALL_PATH_BYTES_MAX, TreePath, is_within, split};
use crate::tree::{Attr, Kind};
use crate::xattr::is_shown;

/// Directories that the kernel and the machine's daemons fill, and that are separate for each walk.
const KERNELS: [&[u8]; 4] = [b"/proc", b"/sys", b"/dev", b"/run"];
/// All mode bits, and those that give a program its owner's privileges.
const MODE_BITS: u32 = 0o7777;
const SET_ID_BITS: u32 = 0o6000;
/// Longest target of a symbolic link that the kernel accepts (`PATH_MAX` includes the NUL).
const TARGET_BYTES_MAX: usize = 4095;

/// A change that the walk could not have made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the walk could not have changed {}: {why}", String::from_utf8_lossy(path))]
pub struct Refusal {
    /// The path of the change.
    pub path: TreePath,
    /// Why it is refused.
    pub why: &'static str,
}

/// The class of a path with regard to a walk's scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    /// The walk may change it.
    Open,
    /// The walk may only alter its times: the root, an ancestor of something closed, or the directory of a single open
    /// file.
    Pillar,
    /// The walk may not change it.
    Closed,
}

/// The effect of a change on a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// A file is created, written or replaced.
    Make,
    /// It is removed, with everything below it.
    Take,
    /// A directory's mode, owner, attributes or time are set; it is created if absent.
    Settle,
    /// Only a directory's time is altered.
    Stir,
    /// It gets another hard link.
    Share,
}

/// All that is allowed. What is not in this list is refused.
const ALLOWED: [(Zone, Deed); 6] = [
    (Zone::Open, Deed::Make),
    (Zone::Open, Deed::Take),
    (Zone::Open, Deed::Settle),
    (Zone::Open, Deed::Share),
    (Zone::Open, Deed::Stir),
    // An ancestor of a created file.
    (Zone::Pillar, Deed::Stir),
];

/// Refuses what the walk could not have done. Parts of a reconciled set come from this machine.
pub(super) fn vet(commit: &Commit, is_reconciled: bool) -> Result<(), Refusal> {
    commit.scope.vet(&commit.owner, &commit.changes, is_reconciled)
}

impl Scope {
    /// Refuses changes that a walk of this user could not have made.
    ///
    /// # Errors
    /// A change is refused.
    pub fn check(&self, owner: &Owner, changes: &ChangeSet) -> Result<(), Refusal> {
        self.vet(owner, changes, false)
    }

    fn vet(&self, owner: &Owner, changes: &ChangeSet, is_reconciled: bool) -> Result<(), Refusal> {
        // Conflict checks must not reveal the existence of other files either.
        let other = changes.found.iter().find(|(path, _)| self.zone(path) == Zone::Closed);
        if let Some((path, _)) = other {
            return Err(Refusal { path: path.clone(), why: "it is closed to the walk" });
        }
        let mounts = LazyCell::new(mount_points);
        // If the mount table is unreadable, any directory may contain a mount point.
        let holds_mount = |path: &TreePath| match &*mounts {
            Ok(mounts) => mounts.iter().any(|point| is_within(point, path)),
            Err(_) => true,
        };
        for op in &changes.ops {
            for (path, deed) in deeds(op) {
                let refuse = |why| Err(Refusal { path: path.clone(), why });
                if path.len() > CALL_PATH_BYTES_MAX {
                    return refuse("its path is longer than the kernel accepts");
                }
                if !ALLOWED.contains(&(self.zone(path), deed)) {
                    return refuse("it is closed to the walk");
                }
                // The kernel would refuse this to the walk's program at the origin, too.
                let goes = deed == Deed::Take || deed == Deed::Make && is_replaced(op);
                if goes && is_dir(path) && holds_mount(path) {
                    return refuse("a file system is mounted there");
                }
                if let Some(why) = unsound(op, self, owner, is_reconciled) {
                    return refuse(why);
                }
            }
        }
        Ok(())
    }

    fn zone(&self, path: &TreePath) -> Zone {
        let closed = KERNELS.into_iter().chain(self.closed.iter().map(|dir| &**dir));
        let (mut is_closed, mut is_above) = (false, **path == *b"/");
        for dir in closed {
            is_closed |= is_within(path, dir);
            is_above |= is_within(dir, path);
        }
        let is_outside =
            !self.only_below.is_empty() && !self.only_below.iter().any(|dir| is_within(path, dir));
        let holds_open = || {
            self.only_below.iter().any(|open| split(open).is_some_and(|(dir, _)| *dir == **path))
        };
        match (is_closed || is_outside, is_above) {
            (true, _) if !is_closed && holds_open() => Zone::Pillar,
            (true, _) => Zone::Closed,
            (false, true) => Zone::Pillar,
            (false, false) => Zone::Open,
        }
    }
}

/// Returns the mount points of this thread, whose mount namespace may differ from the process's.
fn mount_points() -> std::io::Result<Vec<Bytes>> {
    Ok(points_in(&std::fs::read("/proc/thread-self/mountinfo")?))
}

/// Parses the mount points of a mountinfo: the fifth word of each line, with octal escapes for white space and
/// backslashes.
fn points_in(table: &[u8]) -> Vec<Bytes> {
    let word = |line: &[u8]| line.split(|&byte| byte == b' ').nth(4).map(<[u8]>::to_vec);
    table.split(|&byte| byte == b'\n').filter_map(word).map(|word| unescaped(&word)).collect()
}

fn unescaped(word: &[u8]) -> Bytes {
    let mut parts = word.split(|&byte| byte == b'\\');
    let mut plain = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let digits = part.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => plain.extend([&[byte], &part[3..]].concat()),
            None => plain.extend([b"\\", part].concat()),
        }
    }
    plain
}

fn is_dir(path: &TreePath) -> bool {
    attr(path).is_some_and(|attr| attr.kind == Kind::Dir)
}

/// Returns the attributes of what is at a path. No link on the way is followed: it could lead to a file system that does not
/// answer.
fn attr(path: &TreePath) -> Option<Attr> {
    match split(path) {
        Some(_) => Place::of(path).ok()?.attr().ok()?,
        None => nix::sys::stat::lstat("/").ok().map(|stat| Attr::of(&stat)),
    }
}

/// Tells whether a change would replace a directory of that name. Writing a file in place would not.
fn is_replaced(op: &Op) -> bool {
    !matches!(op, Op::File { placing: Placing::Over { .. } | Placing::Behind(_), .. })
}

fn deeds(op: &Op) -> Vec<(&TreePath, Deed)> {
    match op {
        Op::Rename { from, to } => vec![(from, Deed::Take), (to, Deed::Make)],
        Op::Remove { path } => vec![(path, Deed::Take)],
        Op::Dir { path, meta, replaces: false } => vec![(path, settles(path, meta))],
        Op::Link { path, to } => vec![(path, Deed::Make), (to, Deed::Share)],
        Op::Dir { path, replaces: true, .. }
        | Op::File { path, .. }
        | Op::Symlink { path, .. }
        | Op::Special { path, .. } => vec![(path, Deed::Make)],
    }
}

/// Returns the effect on a directory that is not replaced.
fn settles(path: &TreePath, meta: &Meta) -> Deed {
    let is_so = attr(path).is_some_and(|now| {
        now.kind == Kind::Dir
            && (now.mode, now.uid, now.gid) == (meta.mode, meta.uid, meta.gid)
            && meta.xattrs.is_empty()
            && meta.without.is_empty()
    });
    if is_so { Deed::Stir } else { Deed::Settle }
}

/// Returns why no walk could make a change, at any path.
fn unsound(op: &Op, scope: &Scope, owner: &Owner, is_reconciled: bool) -> Option<&'static str> {
    match op {
        Op::Special { kind, rdev, .. }
            if !matches!(kind, Kind::Fifo | Kind::Socket) || *rdev != 0 =>
        {
            return Some("walks cannot create devices");
        }
        Op::File { placing: Placing::Behind(_), .. } if !is_reconciled => {
            return Some("only this machine decides where content is appended");
        }
        Op::Symlink { target, .. }
            if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) =>
        {
            return Some("its target is not a path");
        }
        _ => {}
    }
    let meta = meta(op)?;
    let foreign = |name: &[u8]| !is_shown(name);
    if meta.xattrs.iter().map(|(name, _)| name).chain(&meta.without).any(|name| foreign(name)) {
        return Some("walks can set only user attributes and access control lists");
    }
    if meta.mode & !MODE_BITS != 0 {
        return Some("its mode is invalid");
    }
    let is_dir = matches!(op, Op::Dir { .. });
    let is_foreign = owner.uid != 0 && meta.uid != owner.uid;
    if !is_dir && meta.mode & SET_ID_BITS != 0 && (!scope.set_id || is_foreign) {
        return Some("it would run with privileges that the walk does not have");
    }
    // A file of another user that is written in place keeps its owner; the kernel checks the permission.
    (is_foreign && !is_dir).then_some("it would belong to another user")
}

fn meta(op: &Op) -> Option<&Meta> {
    match op {
        Op::Dir { meta, .. }
        | Op::File { meta, .. }
        | Op::Symlink { meta, .. }
        | Op::Special { meta, .. } => Some(meta),
        Op::Rename { .. } | Op::Remove { .. } | Op::Link { .. } => None,
    }
}

#[cfg(test)]
mod tests;
