//! Compares the ordinary directory with what was taken over, and takes over what differs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use worknode::history::{Kind, Permissions};

use super::follower::{Share, ShareError};
use super::known::{Stamp, child};
use super::left::Left;
use super::source::{Item, SECRET, failure};
use super::target;
use crate::path::{Bytes, is_within};
use crate::tree;
use crate::volume::{Like, Moving, ROOT};
use crate::watch::ReaderId;

/// The only reader of the watch.
const READER: ReaderId = 0;
/// A file that changed so shortly before it was read may change once more without another time.
const TICK: Duration = Duration::from_millis(20);
/// Directories above a share in the volume.
pub(super) const DIR_MODE: u32 = 0o755;
/// Most files that are named in a report.
const NAMED_MAX: usize = 100;

/// A file that was taken over: its directory and name.
pub(super) type Gone = (Bytes, Bytes);

/// What a comparison has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// Files that were looked at.
    pub files: u64,
    /// Files that were taken over.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names that were removed.
    pub removed: u64,
    /// Files that were written to the directory, and names that were removed there.
    pub written: u64,
    /// Files that are left as they are, with the cause.
    pub left: Vec<(Bytes, Left)>,
    /// Why some directories are not shared, if so.
    pub trouble: Option<String>,
}

impl Share {
    /// Compares everything.
    ///
    /// # Errors
    /// The directory is gone or the volume does not work.
    pub fn all(&mut self) -> Result<Round, ShareError> {
        // What is due is compared with everything else, now or when the share works again.
        self.tries.take_due(Instant::now());
        self.check_top()?;
        if self.returns.is_some() {
            self.top_in_volume()?;
        }
        self.look_at_all();
        let mut round = Round::default();
        let gone = self.tree(Vec::new(), true, &mut round)?;
        self.finish(gone, round)
    }

    /// Compares what has changed since the last time.
    ///
    /// # Errors
    /// See [`Share::all`].
    pub fn changed(&mut self) -> Result<Round, ShareError> {
        let drained = self.watcher.drain(&BTreeSet::new());
        let (due, is_all_due) = self.tries.take_due(Instant::now());
        if drained.overflow || is_all_due {
            return self.all();
        }
        self.check_top()?;
        let mut round = Round::default();
        let top = self.source.path(b"");
        let changed = drained.names.keys().chain(drained.forgotten.keys());
        let mut dirs: BTreeSet<Bytes> = changed.filter_map(|dir| below(&top, dir)).collect();
        for (dir, name) in dirs.iter().flat_map(|dir| self.tries.wake_dir(dir)).collect::<Vec<_>>()
        {
            self.look_again(&dir, &name);
        }
        for (dir, name) in due {
            self.look_again(&dir, &name);
            dirs.insert(dir);
        }
        dirs.extend(std::mem::take(&mut self.unsure));
        if self.returns.is_some() && !dirs.is_empty() {
            self.top_in_volume()?;
        }
        let mut gone = Vec::new();
        for dir in dirs {
            if self.is_dir_left_out(&dir) {
                continue;
            }
            gone.extend(self.tree(dir, false, &mut round)?);
        }
        self.finish(gone, round)
    }

    fn finish(&mut self, gone: Vec<Gone>, mut round: Round) -> Result<Round, ShareError> {
        self.remove_gone(gone, &mut round)?;
        self.write_back(&mut round)?;
        let resting = self.tries.resting().map(|((dir, name), why)| (child(dir, name), why));
        round.left.extend(resting.take(NAMED_MAX));
        round.left.sort_by(|one, other| one.0.cmp(&other.0));
        round.left.dedup_by(|one, other| one.0 == other.0);
        round.trouble = self.unclear();
        Ok(round)
    }

    /// Makes sure that the directory is the one of the first comparison.
    pub(super) fn check_top(&mut self) -> Result<(), ShareError> {
        let path = self.source.path(b"");
        let top = match self.source.top() {
            Ok(top) => top,
            Err(source) => return Err(ShareError::Source { path, source }),
        };
        if *self.known.top.get_or_insert(top) == top {
            self.source.expect(Some(top));
            Ok(())
        } else {
            Err(ShareError::Other { path })
        }
    }

    /// Compares a directory, with all that is below it or only with what is new below it. Returns what is gone.
    fn tree(
        &mut self,
        dir: Bytes,
        is_deep: bool,
        round: &mut Round,
    ) -> Result<Vec<Gone>, ShareError> {
        let (mut dirs, mut gone) = (vec![(dir, is_deep)], Vec::new());
        while let Some((dir, is_deep)) = dirs.pop() {
            self.go_on()?;
            // A directory that is gone is told by the one above it.
            match self.dir(&dir, is_deep, &mut gone, round) {
                Ok(more) => dirs.extend(more),
                Err(ShareError::Source { .. }) if !dir.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    /// Compares the files of a directory. Returns the directories in it that are to be compared next.
    fn dir(
        &mut self,
        dir: &[u8],
        is_deep: bool,
        gone: &mut Vec<Gone>,
        round: &mut Round,
    ) -> Result<Vec<(Bytes, bool)>, ShareError> {
        let path = self.source.path(dir);
        let watched = self.source.as_user(|| Ok(self.watcher.watch_dir(&path, READER)));
        let failed = |source| ShareError::Source { path: path.clone(), source };
        watched.map_err(failed)?.map_err(|error| failed(error.into()))?;
        let (own, mut items) =
            self.source.list(dir, &self.cancel).map_err(|source| self.unreadable(dir, source))?;
        if dir.is_empty() && items.is_empty() && self.known.names(dir).next().is_some() {
            // What the volume has not either was removed by the share itself.
            if self.returns.is_none() || self.is_suddenly_empty()? {
                return Err(ShareError::Empty { path });
            }
        }
        // Other rules hold for everything below.
        let has_other_rules = self.read_rules(dir, &own, &items);
        let is_deep = has_other_rules || is_deep;
        if has_other_rules {
            self.look_at_all();
        }
        if self.rules.is_unclear(dir) {
            return Ok(Vec::new());
        }
        self.sort_out(dir, &mut items)?;
        self.rules.keep(dir, &items.iter().map(|item| item.name.as_slice()).collect());
        // Of a share that is written, a directory that others have removed comes back only for what is new in it.
        let ino = if self.returns.is_some() { None } else { Some(self.ino(dir, &own)?) };
        self.known.add_dir(dir);
        gone.extend(self.gone(dir, &items));
        let mut more = Vec::new();
        for item in items {
            self.go_on()?;
            round.files += 1;
            // Its directories are watched under their former paths.
            let is_deep = self.follow(dir, ino, &item)? || is_deep;
            let is_known = self.known.stamp(dir, &item.name) == Some(&item.stamp);
            self.note_links(dir, &item, is_known);
            match ino {
                _ if self.tries.why(dir, &item.name) == Some(Left::Busy) => {}
                Some(ino) if !is_known => self.take_over(dir, ino, &item, round)?,
                None if !is_known || self.known.seen(dir, &item.name).is_none() => {
                    self.take_beside(dir, &item, round)?;
                }
                _ => {}
            }
            let path = child(dir, &item.name);
            // Whether others may write it says how far its rules go.
            let is_deep =
                is_deep || (item.kind == Kind::Dir && self.rules.is_other(&path, &item.stamp));
            if item.kind == Kind::Dir && (is_deep || !self.known.has_dir(&path)) {
                more.push((path, is_deep));
            }
        }
        Ok(more)
    }

    /// Has all names of a file compared if one of them has changed.
    fn note_links(&mut self, dir: &[u8], item: &Item, is_known: bool) {
        if item.kind == Kind::Dir {
            return;
        }
        let (source, stamp) = (&self.source, &item.stamp);
        let is_there = |place: &_| source.is_at(place, stamp);
        self.links.note((dir, &item.name), (stamp, item.links), is_there);
        if !is_known {
            self.unsure.extend(self.links.dirs(stamp).filter(|other| *other != dir).cloned());
        }
    }

    /// Notes whether a file that was taken over is known for sure. If not, it is looked at again, but not for ever.
    pub(super) fn settle(&mut self, dir: &[u8], name: &[u8], is_sure: bool) {
        if is_sure {
            self.tries.done(dir, name);
        } else if self.tries.again((dir.to_vec(), name.to_vec()), Left::Busy, Instant::now()) {
            self.is_unsure_of(dir);
        }
    }

    /// Leaves out what is not shared.
    fn sort_out(&mut self, dir: &[u8], items: &mut Vec<Item>) -> Result<(), ShareError> {
        let mut kept = Vec::with_capacity(items.len());
        for item in std::mem::take(items) {
            if target::is_hidden(&item.name) {
                if self.returns.is_some() {
                    self.clear(dir, &item)?;
                }
            } else if !self.is_left_out(dir, &item) {
                kept.push(item);
            } else if self.returns.is_some() {
                // What others have stays.
                self.known.forget(dir, &item.name);
            }
        }
        *items = kept;
        Ok(())
    }

    /// Returns the number of a directory in the volume, which is made if necessary.
    fn ino(&self, dir: &[u8], own: &Stamp) -> Result<u64, ShareError> {
        let mut ino = ROOT;
        let tops = self.name.split(|byte| *byte == b'/');
        let names: Vec<_> = tops.chain(dir.split(|byte| *byte == b'/')).collect();
        let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let last = names.len() - 1;
        for (at, name) in names.into_iter().enumerate() {
            let found = self.volume.peek(ino, name).map_err(ShareError::Volume)?;
            ino = match found {
                Some(found) if at < last => found.attr.ino,
                _ if at < last => {
                    let permissions = Permissions { mode: DIR_MODE, uid: 0, gid: 0 };
                    let like = Like { permissions, modified: 0 };
                    self.volume.put_other(ino, name, Kind::Dir, like).map_err(ShareError::Volume)?
                }
                _ => self
                    .volume
                    .put_other(ino, name, Kind::Dir, own.like())
                    .map_err(ShareError::Volume)?,
            };
        }
        Ok(ino)
    }

    /// Takes a file over.
    fn take_over(
        &mut self,
        dir: &[u8],
        ino: u64,
        item: &Item,
        round: &mut Round,
    ) -> Result<(), ShareError> {
        let path = child(dir, &item.name);
        let taken = match &item.kind {
            Kind::File => self.take_file(&path, ino, item),
            kind => {
                let put = self.volume.put_other(ino, &item.name, kind.clone(), item.stamp.like());
                put.map(|_| Some(item.stamp))
            }
        };
        let taken = match taken {
            // It was another kind of file before.
            Err(Errno::EEXIST) if self.known.stamp(dir, &item.name).is_some() => {
                self.remove(dir, ino, &item.name, round)?;
                return self.take_over(dir, ino, item, round);
            }
            taken => taken,
        };
        match taken {
            Ok(stamp) => {
                self.settle(dir, &item.name, stamp.is_some());
                self.known.set(dir, &item.name, stamp.unwrap_or_default());
                round.taken += 1;
                round.bytes += if item.kind == Kind::File { item.stamp.bytes } else { 0 };
                Ok(())
            }
            Err(error) => self.leave(path, error, round),
        }
    }

    /// Notes that a file could not be taken over.
    pub(super) fn leave(
        &mut self,
        path: Bytes,
        error: Errno,
        round: &mut Round,
    ) -> Result<(), ShareError> {
        match error {
            Errno::ECANCELED => return self.go_on(),
            Errno::EIO | Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS => {
                return Err(ShareError::Volume(error));
            }
            Errno::ENOENT => {}
            error => {
                if let Some(returns) = &mut self.returns {
                    returns.unread.insert(path.clone());
                }
                if round.left.len() < NAMED_MAX {
                    let is_secret = error == SECRET;
                    let left = if is_secret { Left::Secret } else { Left::Errno(error) };
                    round.left.push((path, left));
                }
            }
        }
        Ok(())
    }

    /// Takes a regular file over. Returns what tells that it has not changed since, if anything does.
    fn take_file(&self, path: &[u8], dir: u64, item: &Item) -> Result<Option<Stamp>, Errno> {
        let opened = self.source.open(path).map_err(failure)?;
        self.volume.put_file(dir, &item.name, &opened.ordinary(&self.cancel))?;
        Ok((opened.is_same() && !is_fresh(&opened.stamp)).then_some(opened.stamp))
    }

    /// Returns what was taken over and is not there any more.
    fn gone(&self, dir: &[u8], items: &[Item]) -> Vec<Gone> {
        let here: BTreeSet<&[u8]> = items.iter().map(|item| &*item.name).collect();
        let gone = self.known.names(dir).filter(|name| !here.contains(name.as_slice()));
        gone.map(|name| (dir.to_vec(), name.clone())).collect()
    }

    /// Removes what is gone, unless it has another name now.
    fn remove_gone(&mut self, gone: Vec<Gone>, round: &mut Round) -> Result<(), ShareError> {
        // It may have become another directory while it was compared.
        self.check_top()?;
        for (dir, name) in gone {
            self.go_on()?;
            self.tries.done(&dir, &name);
            if self.known.stamp(&dir, &name).is_none() {
                continue;
            }
            let is_dir = self.known.seen(&dir, &name).is_some_and(|it| it.kind == Kind::Dir);
            if self.returns.is_some() && self.is_ruled_out(&dir, &name, is_dir) {
                self.known.forget(&dir, &name);
                continue;
            }
            match self.find_dir(&dir)? {
                _ if self.returns.is_some() => self.remove_beside(&dir, &name, round)?,
                Some(ino) => self.remove(&dir, ino, &name, round)?,
                None => self.known.remove(&dir, &name),
            }
        }
        Ok(())
    }

    /// Gives a file its new name in the volume, if it is one that was taken over under another name, which is gone.
    fn follow(&mut self, dir: &[u8], ino: Option<u64>, item: &Item) -> Result<bool, ShareError> {
        // Most names are known, so this comes first.
        if self.known.stamp(dir, &item.name).is_some() {
            return Ok(false);
        }
        let Some(from) = self.known.place(&item.stamp) else { return Ok(false) };
        if self.source.is_at(&from, &item.stamp) {
            return Ok(false);
        }
        let Some(ino) = ino else { return self.follow_beside(dir, item, &from) };
        let Some(former) = self.find_dir(&from.0)? else { return Ok(false) };
        let (from_name, to_name) = ((former, &*from.1), (ino, &*item.name));
        match self.volume.carry(from_name, to_name, Moving::Replace) {
            Ok(()) => self.known.rename(&from, (dir, &item.name)),
            Err(error @ (Errno::EIO | Errno::ENOSPC)) => return Err(ShareError::Volume(error)),
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Returns the number of a directory in the volume.
    pub(super) fn find_dir(&self, dir: &[u8]) -> Result<Option<u64>, ShareError> {
        self.find(ROOT, &[&self.name, b"/".as_slice(), dir].concat())
    }

    /// Removes a file from the volume, with all that was taken over below it. What others have put there stays, and the
    /// directories that lead to it.
    fn remove(
        &mut self,
        dir: &[u8],
        ino: u64,
        name: &[u8],
        round: &mut Round,
    ) -> Result<(), ShareError> {
        for (above, below) in self.known.below(&child(dir, name)) {
            let at = self.find(ino, &above[dir.len()..])?;
            if let Some(at) = at {
                self.take(at, &below, round)?;
            }
            self.known.remove(&above, &below);
            self.known.remove_dir(&child(&above, &below));
        }
        self.take(ino, name, round)?;
        self.known.remove(dir, name);
        self.known.remove_dir(&child(dir, name));
        Ok(())
    }

    fn take(&self, dir: u64, name: &[u8], round: &mut Round) -> Result<(), ShareError> {
        match self.volume.take(dir, name) {
            Ok(()) => round.removed += 1,
            Err(Errno::ENOTEMPTY | Errno::ENOENT) => {}
            Err(error) => return Err(ShareError::Volume(error)),
        }
        Ok(())
    }

    fn find(&self, mut ino: u64, path: &[u8]) -> Result<Option<u64>, ShareError> {
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match self.volume.peek(ino, name) {
                Ok(Some(found)) if found.attr.kind == tree::Kind::Dir => ino = found.attr.ino,
                Ok(_) | Err(Errno::ENOTDIR) => return Ok(None),
                Err(error) => return Err(ShareError::Volume(error)),
            }
        }
        Ok(Some(ino))
    }
}

/// Returns a directory's path below the top.
fn below(top: &[u8], dir: &[u8]) -> Option<Bytes> {
    let below = is_within(dir, top).then(|| &dir[top.len()..])?;
    Some(below.strip_prefix(b"/").unwrap_or(below).to_vec())
}

/// Tells whether a file may change once more without another time.
pub(super) fn is_fresh(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_nanos(u64::try_from(stamp.changed).unwrap_or(0));
    is_near(changed, now)
}

/// Tells whether a time is that of a change just now. One that is to come has been set by another clock, or before the clock was set
/// back: the next change has another one.
fn is_near(changed: Duration, now: Duration) -> bool {
    changed.abs_diff(now) < TICK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_come_is_not_just_now() {
        let now = Duration::from_secs(1_000_000);
        assert!(is_near(now, now) && is_near(now - TICK / 2, now) && is_near(now + TICK / 2, now));
        assert!(!is_near(now - TICK, now) && !is_near(now + Duration::from_secs(9), now));
    }
}
