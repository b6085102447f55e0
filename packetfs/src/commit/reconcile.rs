//! What a walk changed in place, and somebody else too while it ran: appends of both are kept,
//! anything else is a conflict.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{Commit, CommitError, Contents};
use crate::change::{Op, Placing, renamed};
use crate::packet::{Manifest, Packed, reference, split};
use crate::path::TreePath;
use crate::tree::{Attr, Bytes, Version};

/// A commit, held against what others have changed.
pub(super) struct Reconciled {
    /// The commit as it is to be made now; nothing if that is as it was asked for.
    pub(super) commit: Option<Commit>,
    /// What others have changed, and what will be overwritten.
    pub(super) overwritten: Vec<TreePath>,
}

/// Holds a commit against what others have changed.
pub(super) fn reconcile(
    commit: &Commit,
    contents: &mut Contents<'_>,
) -> Result<Reconciled, CommitError> {
    let mut reconciled: Option<Commit> = None;
    let mut overwritten = Vec::new();
    for (at, op) in commit.changes.ops.iter().enumerate() {
        let Op::File { path, manifest, placing: Placing::Over { base }, .. } = op else { continue };
        let now = former_name(&commit.changes.ops[..at], path);
        let current = version(&now);
        if current.is_some() && current == *base {
            continue;
        }
        // One with holes may be too large for memory.
        let ours = manifest.holes.is_empty().then(|| content(manifest, contents));
        let Some((offset, tail)) = ours.and_then(|ours| appended(*base, current, &now, &ours))
        else {
            if commit.last_wins {
                overwritten.push(path.clone());
                continue;
            }
            return Err(CommitError::Conflict(path.clone()));
        };
        let reconciled = reconciled.get_or_insert_with(|| commit.clone());
        for piece in split(&tail) {
            let packet = reference(piece);
            reconciled.packets.push((packet, Packed::pack(piece)));
            contents.insert(packet.digest, Cow::Owned(piece.to_vec()));
        }
        if let Op::File { manifest, placing, .. } = &mut reconciled.changes.ops[at] {
            *manifest = Manifest::of(&tail);
            *placing = Placing::Behind(offset);
        }
    }
    Ok(Reconciled { commit: reconciled, overwritten })
}

/// Returns where the walk's addition goes, and the addition, if both sides have only appended to
/// what the walk had found.
fn appended(
    base: Option<Version>,
    current: Option<Version>,
    path: &[u8],
    ours: &[u8],
) -> Option<(u64, Bytes)> {
    let (base, current) = (base?, current?);
    if (base.dev, base.ino) != (current.dev, current.ino) {
        return None;
    }
    let theirs = std::fs::read(OsStr::from_bytes(path)).ok()?;
    let common = usize::try_from(base.bytes).ok()?;
    let (before, tail) = ours.split_at_checked(common)?;
    (theirs.get(..common)? == before).then(|| (theirs.len() as u64, tail.to_vec()))
}

fn version(path: &[u8]) -> Option<Version> {
    nix::sys::stat::lstat(OsStr::from_bytes(path)).ok().map(|stat| Attr::of(&stat).version())
}

fn content(manifest: &Manifest, contents: &Contents<'_>) -> Bytes {
    let pieces = manifest.packets.iter().filter_map(|packet| contents.get(&packet.digest));
    pieces.flat_map(|piece| piece.iter()).copied().collect()
}

/// Returns the name that a path had before the renames.
fn former_name(ops: &[Op], path: &[u8]) -> Bytes {
    renamed(path, ops.iter().filter_map(Op::as_rename).map(|(from, to)| (to, from)))
}
