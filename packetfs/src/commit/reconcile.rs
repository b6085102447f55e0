//! Compares a walk's changes with concurrent changes of others. If both only appended to a file, both appends
//! are kept; anything else is a conflict. Absence counts as well: if two create the same name, the second conflicts.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{fstat, fstatat};

use super::appends::Appends;
use super::apply::ApplyError;
use super::error::CommitError;
use super::lock::{Locked, Taken};
use super::model::{Commit, Contents};
use super::pieces::Pieces;
use super::place::Place;
use crate::change::{Base, ChangeSet, Op, Placing, former_name};
use crate::contents;
use crate::identity::Identity;
use crate::packet::{Digest, Manifest, Packed, PacketRef, reference, split};
use crate::path::{Bytes, TreePath};
use crate::tree::{Attr, Kind, Version, names_in};

/// A commit after reconciliation.
pub(super) struct Reconciled {
    /// The adapted commit; `None` if it is unchanged.
    pub(super) commit: Option<Commit>,
    /// Files that others have changed and that will be overwritten.
    pub(super) overwritten: Vec<TreePath>,
    /// Files that the commit appends to.
    appended: Vec<Appended>,
    /// Locks on files that are written in place, held until that is done.
    _locked: Vec<Locked>,
}

/// A file to which a walk appends.
struct Appended {
    path: TreePath,
    before: Version,
    /// Its length afterwards.
    bytes: u64,
}

impl Reconciled {
    /// Records the appends, unless others have just changed the files.
    pub(super) fn note_appends(&self, appends: &mut Appends) {
        for Appended { path, before, bytes } in &self.appended {
            let after = attr(path).map(|attr| attr.version());
            let is_that = |after: &Version| {
                (after.dev, after.ino, after.bytes) == (before.dev, before.ino, *bytes)
            };
            if let Some(after) = after.filter(is_that) {
                appends.note(*before, after);
            }
        }
    }
}

/// Reconciles a commit with concurrent changes.
pub(super) fn reconcile(
    commit: &Commit,
    noted: &Appends,
    contents: &mut Contents<'_>,
) -> Result<Reconciled, CommitError> {
    let _identity = Identity::assume(&commit.owner).map_err(ApplyError::of_identity)?;
    let mut overwritten = Vec::new();
    let mut conflict = |path: &TreePath| {
        if !commit.last_wins {
            return Err(CommitError::Conflict(path.clone()));
        }
        overwritten.push(path.clone());
        Ok(())
    };
    for (path, base) in &commit.changes.found {
        if !is_as_found(path, base) {
            conflict(path)?;
        }
    }
    for path in fuller_than_found(&commit.changes) {
        conflict(path)?;
    }
    let (mut appends, mut locked) = (Vec::new(), Vec::new());
    // Content that is assembled for appends must also fit into the memory for the packets, because a file may
    // contain the same packet any number of times.
    let mut room = commit.packets.iter().map(|(packet, _)| u64::from(packet.bytes)).sum();
    for (at, op) in commit.changes.ops.iter().enumerate() {
        let Op::File { path, manifest, placing: Placing::Over { base }, .. } = op else { continue };
        let now = former_name(&commit.changes.ops[..at], path);
        match lock(&now) {
            Ok(file) => locked.extend(file),
            Err(Taken) => conflict(path)?,
        }
        let current = attr(&now).map(|attr| attr.version());
        let is_as_found = current.is_some() && current == *base;
        let pieces = Pieces { manifest, contents };
        // Equal content does not suffice: the file may have been rewritten, or truncated if it was empty.
        let leads = || {
            base.zip(current)
                .is_some_and(|(base, current)| base.bytes > 0 && noted.lead(base, current))
        };
        let tells = is_as_found || commit.last_wins || leads();
        match tells.then(|| appended(*base, current, &now, &pieces, room)).flatten() {
            Some(append) => {
                room -= append.tail.len() as u64;
                appends.push((at, append));
            }
            None if is_as_found => {}
            None => conflict(path)?,
        }
    }
    let appended = appends.iter().filter_map(|(at, append)| {
        let Op::File { path, .. } = &commit.changes.ops[*at] else { return None };
        let bytes = append.offset + append.tail.len() as u64;
        Some(Appended { path: path.clone(), before: append.before, bytes })
    });
    let appended = appended.collect();
    let commit = (!appends.is_empty()).then(|| with_appends(commit, appends, contents));
    Ok(Reconciled { commit, overwritten, appended, _locked: locked })
}

/// Returns the removed directories that contain something else than the walk found.
fn fuller_than_found(changes: &ChangeSet) -> impl Iterator<Item = &TreePath> {
    // Otherwise the walk found no directory there, and the caller has checked that there still is none.
    let is_none = |(path, base): &(TreePath, Base)| match base {
        Base::Nothing | Base::Other(_) => Some(path.to_vec()),
        Base::Dir { .. } | Base::Unknown => None,
    };
    let none: HashSet<Bytes> = changes.found.iter().filter_map(is_none).collect();
    let away: HashSet<&[u8]> =
        changes.ops.iter().filter_map(Op::as_rename).map(|(from, _)| from).collect();
    let emptied: HashMap<&[u8], Digest> =
        changes.emptied.iter().map(|(path, digest)| (&**path, *digest)).collect();
    changes.ops.iter().enumerate().filter_map(move |(at, op)| {
        let path = op.covers()?;
        let was = former_name(&changes.ops[..at], path);
        if none.contains(&was) || away.contains(&*was) || attr(&was)?.kind != Kind::Dir {
            return None;
        }
        let found = emptied.get(&*was).copied().unwrap_or_else(contents::nothing);
        (contents::digest(&was, &mut list) != Some(found)).then_some(path)
    })
}

/// Returns the current names in a directory.
fn list(dir: &[u8]) -> Option<contents::Names> {
    let dir = Place::of(dir).ok()?.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).ok()?;
    let kind = |name: Bytes| {
        let stat = fstatat(&dir, OsStr::from_bytes(&name), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let is_dir = Attr::of(&stat).kind == Kind::Dir;
        Some((name, is_dir))
    };
    names_in(&dir).ok()?.into_iter().map(kind).collect()
}

/// Returns the commit in which the walk's appends go to the current ends of the files.
fn with_appends(
    commit: &Commit,
    appends: Vec<(usize, Append)>,
    contents: &mut Contents<'_>,
) -> Commit {
    let mut changes = commit.changes.clone();
    let mut added: Vec<(PacketRef, Packed)> = Vec::new();
    for (at, Append { offset, tail, .. }) in appends {
        for piece in split(&tail) {
            let packet = reference(piece);
            added.push((packet, Packed::pack(piece)));
            contents.insert(packet.digest, piece.to_vec().into());
        }
        if let Op::File { manifest, placing, .. } = &mut changes.ops[at] {
            *manifest = Manifest::of(&tail);
            *placing = Placing::Behind(offset);
        }
    }
    let is_needed = |digest: &Digest| {
        changes.ops.iter().any(|op| match op {
            Op::File { manifest, .. } => manifest.packets.iter().any(|it| it.digest == *digest),
            _ => false,
        })
    };
    let kept = commit.packets.iter().filter(|(packet, _)| is_needed(&packet.digest)).cloned();
    let packets = kept.chain(added).collect();
    let (owner, scope) = (commit.owner.clone(), commit.scope.clone());
    Commit { owner, scope, changes, packets, last_wins: commit.last_wins, began: commit.began }
}

/// A walk's append to a file, and its offset unless others append meanwhile.
struct Append {
    /// The current file.
    before: Version,
    offset: u64,
    tail: Bytes,
}

/// Returns the walk's append, if both sides have only appended to what the walk found, and it does not exceed the memory
/// limit.
fn appended(
    base: Option<Version>,
    current: Option<Version>,
    path: &[u8],
    ours: &Pieces<'_>,
    bytes_max: u64,
) -> Option<Append> {
    let (base, current) = (base?, current?);
    let is_same_file = (base.dev, base.ino) == (current.dev, current.ino);
    // A sparse file may be too large for memory.
    if !is_same_file || !ours.manifest.holes.is_empty() || ours.manifest.bytes() < base.bytes {
        return None;
    }
    if ours.manifest.bytes() - base.bytes > bytes_max {
        return None;
    }
    let place = Place::of(path).ok()?;
    let file = place.open_file(OFlag::O_RDONLY).ok()?;
    let found = Attr::of(&fstat(&file).ok()?);
    let is_that = (found.dev, found.ino) == (base.dev, base.ino);
    if !is_that || found.bytes < base.bytes || !ours.are_as_in(&file, base.bytes) {
        return None;
    }
    Some(Append { before: found.version(), offset: found.bytes, tail: ours.tail(base.bytes).ok()? })
}

/// Tells whether a name still names what the walk found.
fn is_as_found(path: &[u8], base: &Base) -> bool {
    let now = Place::of(path).and_then(|place| place.attr());
    now.is_ok_and(|now| base.is(now.as_ref()))
}

/// Locks a file that is written in place. One that cannot be opened fails later, when it is written.
fn lock(path: &[u8]) -> Result<Option<Locked>, Taken> {
    let file = Place::of(path).and_then(|place| place.open_file(OFlag::O_RDWR));
    file.map_or(Ok(None), Locked::new)
}

fn attr(path: &[u8]) -> Option<Attr> {
    Place::of(path).ok()?.attr().ok()?
}
