//! Changes of a volume by whoever knows only a former state of it: what others have done since is not replaced.

use std::sync::Arc;

use nix::errno::Errno;
use worknode::history::{Content, Dot, Kind, Nanos, Op, Permissions};

use super::model::{Shared, State, Volume};
use super::news::Item;
use super::past::told;
use super::put::{Like, Ordinary};
use super::seen::Seen;
use super::tree::parent;
use super::versions::{Conflicts, Refill};

/// What an ordinary file was when it was the same as the volume's.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// What the volume had.
    pub seen: &'a Seen,
    /// The permissions of the ordinary file; none if they are not known.
    pub permissions: Option<Permissions>,
}

/// What an ordinary file does to the file of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The contents are equal, or only the volume's is another one than before.
    None,
    /// It replaces the content that it was made of.
    Replaces,
    /// It is concurrent to what the volume has, and present.
    Wins(Dot),
    /// It is concurrent to what the volume has, which is present.
    Loses(Dot),
}

/// Decides that. `now` is what the volume has, and `made` the event that made that file.
fn decide(
    now: &Seen,
    made: Dot,
    before: Option<&Seen>,
    (content, modified): (Content, Nanos),
) -> Change {
    let same_file = before.filter(|before| before.ino == now.ino);
    let is_unchanged = same_file.is_some_and(|before| before.written == now.written);
    if before.is_some_and(|it| it.kind == Kind::File && it.content == content) && !is_unchanged {
        return Change::None;
    }
    if now.content == content {
        let is_touched = is_unchanged && now.modified != modified;
        return if is_touched { Change::Replaces } else { Change::None };
    }
    let base = same_file.map_or(made, |before| before.written);
    match before {
        _ if is_unchanged => Change::Replaces,
        None if modified <= now.modified => Change::Loses(base),
        _ => Change::Wins(base),
    }
}

impl Volume {
    /// Gives a name the content and the attributes of an ordinary file, as far as those have changed since `before`. Returns
    /// what both have in common from now on: the volume may have something else, if that is later than an unknown file, or if
    /// only the volume's has changed.
    ///
    /// # Errors
    /// See [`Volume::put_file`].
    pub fn put_file_beside(
        &self,
        dir: u64,
        name: &[u8],
        source: &Ordinary<'_>,
        before: Option<Beside<'_>>,
    ) -> Result<Seen, Errno> {
        let shared = &self.shared;
        let _kept = shared.keep_packets();
        let content = shared.take_content(source)?;
        if let Some(found) = self.peek(dir, name)? {
            told(shared.make_merged_for(found.attr.ino))?;
        }
        let mut state = shared.lock();
        let Some(entry) = state.child(dir, name)? else {
            let ino = shared.put_new(&mut state, dir, name, Kind::File, source.like)?;
            let node = state.node(ino)?;
            let op = Op::Write { file: node.id, content, modified: source.like.modified };
            shared.emit(&mut state, op, parent(node.written))?;
            return Ok(Seen::of(ino, &state.node(ino)?));
        };
        let ino = entry.ino;
        if !state.node(ino)?.is_file() {
            return Err(Errno::EEXIST);
        }
        if let Some(dirty) = state.uses.dirty(ino) {
            told(shared.translate_locked(&mut state, ino, &dirty))?;
        }
        let new = (content, source.like.modified);
        let (common, refills) =
            shared.write_beside(&mut state, ino, new, before.map(|it| it.seen))?;
        let like = source.like.permissions;
        let permissions = shared.put_changed(&mut state, ino, like, before)?;
        drop(state);
        refills.iter().try_for_each(|refill| shared.refill(refill))?;
        Ok(Seen { permissions, ..common })
    }

    /// Gives a name a directory or a symbolic link, unless it has the same one. Returns what both have in common from now on.
    ///
    /// # Errors
    /// See [`Volume::put_other`].
    pub fn put_other_beside(
        &self,
        dir: u64,
        name: &[u8],
        (kind, like): (Kind, Like),
        before: Option<Beside<'_>>,
    ) -> Result<Seen, Errno> {
        let mut state = self.shared.lock();
        let Some(entry) = state.child(dir, name)? else {
            let ino = self.shared.put_new(&mut state, dir, name, kind, like)?;
            return Ok(Seen::of(ino, &state.node(ino)?));
        };
        let node = state.node(entry.ino)?;
        if node.kind != kind {
            return Err(Errno::EEXIST);
        }
        let permissions =
            self.shared.put_changed(&mut state, entry.ino, like.permissions, before)?;
        Ok(Seen { permissions, ..Seen::of(entry.ino, &node) })
    }

    /// Tells whether a file of a directory has the content of an ordinary file.
    ///
    /// # Errors
    /// The file cannot be read, the disk is full, or the volume does not work.
    pub fn has_content(&self, dir: u64, source: &Ordinary<'_>) -> Result<bool, Errno> {
        let _kept = self.shared.keep_packets();
        let content = self.shared.take_content(source)?;
        let has = |seen: &Seen| seen.kind == Kind::File && seen.content == content;
        Ok(self.all_seen(dir)?.iter().any(|(_, seen)| has(seen)))
    }

    /// Removes what has a name if it is still what it was, and a directory only if it is empty. Returns whether nothing has the
    /// name now. The kernel forgets it.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn take_seen(&self, dir: u64, name: &[u8], before: &Seen) -> Result<bool, Errno> {
        let _under_way = self.shared.mounts.begin(Item::Name(dir, name.to_vec()));
        let mut state = self.shared.lock();
        let Some(entry) = state.child(dir, name)? else { return Ok(true) };
        let node = state.node(entry.ino)?;
        let now = Seen::of(entry.ino, &node);
        let is_same = if node.is_dir() {
            before.kind == Kind::Dir && node.entries == 0
        } else {
            (now.ino, now.written) == (before.ino, before.written)
        };
        let has_news = state.uses.backing(entry.ino).is_some_and(|backing| backing.has_news());
        if !is_same || has_news {
            return Ok(false);
        }
        self.shared.remove(&mut state, dir, name, node.is_dir())?;
        drop(state);
        self.shared.mounts.name(dir, name);
        self.shared.mounts.file(dir);
        self.shared.mounts.file(entry.ino);
        Ok(true)
    }

    /// Removes what has a name and is no directory. Its content stays a version, with what programs have written to it.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn take_any(&self, dir: u64, name: &[u8]) -> Result<(), Errno> {
        let Some(found) = self.peek(dir, name)? else { return Ok(()) };
        self.shared.catch_up(found.attr.ino)?;
        self.take(dir, name)
    }
}

impl Shared {
    fn write_beside(
        self: &Arc<Self>,
        state: &mut State,
        ino: u64,
        new: (Content, Nanos),
        before: Option<&Seen>,
    ) -> Result<(Seen, Vec<Refill>), Errno> {
        let node = state.node(ino)?;
        let now = Seen::of(ino, &node);
        let mut refills = Vec::new();
        let change = decide(&now, node.id, before, new);
        match change {
            Change::None => {}
            Change::Replaces => refills.extend(self.replace(state, ino, new, Conflicts::Stay)?),
            Change::Wins(base) | Change::Loses(base) => {
                refills.extend(self.replace(state, ino, new, Conflicts::Beside(base))?);
            }
        }
        let common = Seen::of(ino, &state.node(ino)?);
        if let Change::Loses(_) = change {
            // The later of two events is present: the volume's content is written once more.
            let former = (now.content, now.modified);
            let beside = Conflicts::Beside(now.written);
            refills.extend(self.replace(state, ino, former, beside)?);
        }
        let is_kept =
            before.is_some_and(|before| before.kind == Kind::File && before.content == new.0);
        let common = match before {
            // Only the volume's content is another one.
            Some(before) if change == Change::None && is_kept => before.clone(),
            _ => common,
        };
        Ok((common, refills))
    }

    /// Sets the permissions that have changed. Returns those that both have in common.
    fn put_changed(
        &self,
        state: &mut State,
        ino: u64,
        like: Permissions,
        before: Option<Beside<'_>>,
    ) -> Result<Permissions, Errno> {
        let now = state.node(ino)?.permissions;
        let Some((before, was)) = before.and_then(|it| Some((it.seen, it.permissions?))) else {
            return Ok(now);
        };
        let pick = |then: u32, is: u32, other: u32| if then == is { other } else { is };
        let merge = |other: Permissions| Permissions {
            mode: pick(was.mode, like.mode, other.mode),
            uid: pick(was.uid, like.uid, other.uid),
            gid: pick(was.gid, like.gid, other.gid),
        };
        self.put_permissions(state, ino, merge(now))?;
        Ok(merge(before.permissions))
    }
}
