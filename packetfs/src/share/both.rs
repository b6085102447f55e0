//! Takes over what has changed in the directory of a share that is also written: beside what others have changed in the volume.

use nix::errno::Errno;
use worknode::history::{Kind, Permissions};

use super::decide::{self, Put};
use super::follower::{Share, ShareError};
use super::known::{Stamp, child};
use super::round::{DIR_MODE, Gone, Round, is_fresh};
use super::source::{Item, failure};
use super::target::Failed;
use crate::path::{Bytes, split};
use crate::volume::{Beside, Like, Moving, ROOT};

impl Share {
    /// Returns the number of the top in the volume, which is made at first.
    pub(super) fn top_in_volume(&mut self) -> Result<u64, ShareError> {
        if let Some(ino) = self.find_dir(b"")? {
            return Ok(ino);
        }
        if self.known.names(b"").next().is_some() {
            return Err(ShareError::Removed { name: self.name.clone() });
        }
        self.dir_in_volume(b"")
    }

    /// Returns the number of a directory in the volume, which is made again if it was removed there.
    fn dir_in_volume(&mut self, dir: &[u8]) -> Result<u64, ShareError> {
        if let Some(ino) = self.find_dir(dir)? {
            return Ok(ino);
        }
        let permissions = Permissions { mode: DIR_MODE, uid: 0, gid: 0 };
        let mut like = Like { permissions, modified: 0 };
        let Some((above, name)) = parts(dir) else {
            let own = self.source.list(b"", &self.cancel);
            let own = own.map_err(|source| self.unreadable(b"", source))?.0;
            return self.make_top(&own);
        };
        let at = self.dir_in_volume(above)?;
        if let Some(stamp) = self.known.stamp(above, name).filter(|stamp| stamp.ino != 0) {
            like = stamp.like();
        }
        let put = |share: &Self| share.volume.put_other_beside(at, name, (Kind::Dir, like), None);
        let seen = match put(self) {
            // A directory keeps the name.
            Err(Errno::EEXIST) => {
                self.volume.take_any(at, name).map_err(ShareError::Volume)?;
                put(self)
            }
            made => made,
        };
        let seen = seen.map_err(ShareError::Volume)?;
        let ino = seen.ino;
        if self.known.stamp(above, name).is_some() {
            self.known.set_seen(above, name, seen);
        }
        Ok(ino)
    }

    fn make_top(&self, own: &Stamp) -> Result<u64, ShareError> {
        let names: Vec<_> = self.name.split(|byte| *byte == b'/').collect();
        let mut ino = ROOT;
        for (at, name) in names.iter().enumerate() {
            let permissions = Permissions { mode: DIR_MODE, uid: 0, gid: 0 };
            let is_last = at + 1 == names.len();
            let like = if is_last { own.like() } else { Like { permissions, modified: 0 } };
            let put = self.volume.put_other_beside(ino, name, (Kind::Dir, like), None);
            ino = put.map_err(ShareError::Volume)?.ino;
        }
        Ok(ino)
    }

    /// Takes a file over that has changed, or that is not known.
    pub(super) fn take_beside(
        &mut self,
        dir: &[u8],
        item: &Item,
        round: &mut Round,
    ) -> Result<(), ShareError> {
        let name = item.name.as_slice();
        let common = self.known.common(dir, name);
        if !decide::has_changed(&item.kind, common, &item.stamp) {
            self.known.set(dir, name, item.stamp);
            return Ok(());
        }
        let is_dir = item.kind == Kind::Dir;
        let before = common.map(|(_, seen)| seen.clone());
        let found = self.find_dir(dir)?;
        // A directory that others have removed does not come back for its mode.
        if is_dir && before.as_ref().is_some_and(|seen| seen.kind == Kind::Dir) {
            let now = found.map_or(Ok(None), |at| self.volume.seen(at, name));
            if now.map_err(ShareError::Volume)?.is_none() {
                self.known.set(dir, name, item.stamp);
                return Ok(());
            }
        }
        let at = match found {
            Some(at) => at,
            None => self.dir_in_volume(dir)?,
        };
        let now = self.volume.seen(at, name).map_err(ShareError::Volume)?;
        match decide::put(&item.kind, before.as_ref(), now.as_ref()) {
            Put::Plain => {}
            Put::Over => self.volume.take_any(at, name).map_err(ShareError::Volume)?,
            Put::OverDir => {
                self.remove_beside(dir, name, round)?;
                let now = self.volume.seen(at, name).map_err(ShareError::Volume)?;
                if now.is_some_and(|now| now.kind == Kind::Dir) {
                    return self.set_aside(dir, name);
                }
            }
            Put::Aside => return self.set_aside(dir, name),
        }
        self.put_beside(dir, at, item, round)
    }

    fn put_beside(
        &mut self,
        dir: &[u8],
        at: u64,
        item: &Item,
        round: &mut Round,
    ) -> Result<(), ShareError> {
        let path = child(dir, &item.name);
        let common = self.known.common(dir, &item.name);
        let was = |stamp: &Stamp| (stamp.ino != 0).then(|| stamp.like().permissions);
        let before = common.map(|(stamp, seen)| Beside { seen, permissions: was(stamp) });
        let put = match &item.kind {
            Kind::File => self.source.open(&path).map_err(failure).and_then(|opened| {
                let source = opened.ordinary(&self.cancel);
                let seen = self.volume.put_file_beside(at, &item.name, &source, before)?;
                let is_sure = opened.is_same() && !is_fresh(&opened.stamp);
                Ok((seen, is_sure.then_some(opened.stamp)))
            }),
            kind => {
                let what = (kind.clone(), item.stamp.like());
                let put = self.volume.put_other_beside(at, &item.name, what, before);
                put.map(|seen| (seen, Some(item.stamp)))
            }
        };
        match put {
            Ok((seen, stamp)) => {
                self.settle(dir, &item.name, stamp.is_some());
                self.known.set(dir, &item.name, stamp.unwrap_or_default());
                self.known.set_seen(dir, &item.name, seen);
                if let Some(returns) = &mut self.returns {
                    returns.unread.remove(&path);
                }
                // The volume may have something else.
                self.look_again(dir, &item.name);
                round.taken += 1;
                round.bytes += if item.kind == Kind::File { item.stamp.bytes } else { 0 };
                Ok(())
            }
            Err(Errno::EEXIST) => {
                // Somebody was faster.
                self.settle(dir, &item.name, false);
                Ok(())
            }
            Err(error) => self.leave(path, error, round),
        }
    }

    /// Removes a file from the volume that is gone, with all below it, as far as nobody has changed it there. The rest comes back.
    pub(super) fn remove_beside(
        &mut self,
        dir: &[u8],
        name: &[u8],
        round: &mut Round,
    ) -> Result<(), ShareError> {
        let mut all = self.known.below(&child(dir, name));
        all.push((dir.to_vec(), name.to_vec()));
        for (above, name) in all {
            let (at, seen) = (self.find_dir(&above)?, self.known.seen(&above, &name));
            if let (Some(at), Some(seen)) = (at, seen) {
                let is_gone = self.volume.take_seen(at, &name, seen).map_err(ShareError::Volume)?;
                round.removed += u64::from(is_gone);
                if !is_gone {
                    self.look_again(&above, &name);
                }
            }
            self.known.remove(&above, &name);
            self.known.remove_dir(&child(&above, &name));
        }
        Ok(())
    }

    /// Gives a file its new name in the volume, if it is there what was taken over under the former one.
    pub(super) fn follow_beside(
        &mut self,
        dir: &[u8],
        item: &Item,
        from: &Gone,
    ) -> Result<bool, ShareError> {
        let Some(former) = self.find_dir(&from.0)? else { return Ok(false) };
        let now = self.volume.seen(former, &from.1).map_err(ShareError::Volume)?;
        let is_there = now.is_some_and(|now| {
            self.known.seen(&from.0, &from.1).is_some_and(|seen| seen.ino == now.ino)
        });
        if !is_there {
            return Ok(false);
        }
        let at = self.dir_in_volume(dir)?;
        match self.volume.carry((former, &from.1), (at, &item.name), Moving::New) {
            Ok(()) => {
                self.known.rename(from, (dir, &item.name));
                if let Some(returns) = &mut self.returns {
                    returns.rename_dir(&child(&from.0, &from.1), &child(dir, &item.name));
                }
            }
            Err(error @ (Errno::EIO | Errno::ENOSPC)) => return Err(ShareError::Volume(error)),
            Err(_) => return Ok(false),
        }
        self.look_again(dir, &item.name);
        Ok(true)
    }

    /// Gives a file another name on the disk, since the volume has a directory of its name. It is a new file then.
    fn set_aside(&mut self, dir: &[u8], name: &[u8]) -> Result<(), ShareError> {
        self.known.forget(dir, name);
        match self.source.set_aside((dir, name)) {
            Ok(_) => self.refuse_failed(dir, name, Failed::Changed),
            Err(failed) => self.refuse_failed(dir, name, failed),
        }
    }

    /// Ends what a crash has left under a hidden name.
    pub(super) fn clear(&mut self, dir: &[u8], item: &Item) -> Result<(), ShareError> {
        if item.kind == Kind::Dir {
            let cleared = self.source.clear_dir((dir, &item.name));
            return self.cleared(dir, &item.name, cleared);
        }
        let path = child(dir, &item.name);
        let is_known = |found: &Stamp| {
            let place = self.known.place(found);
            let stamp = place.and_then(|(dir, name)| self.known.stamp(&dir, &name).copied());
            stamp.is_some_and(|stamp| Stamp { changed: stamp.changed, ..*found } == stamp)
        };
        let is_in_volume = |found: &Stamp| {
            let Ok(Some(at)) = self.find_dir(dir) else { return Ok(is_known(found)) };
            let Ok(all) = self.volume.all_seen(at) else { return Ok(is_known(found)) };
            let has_like = match &item.kind {
                Kind::File => self.source.open(&path).is_ok_and(|opened| {
                    self.volume.has_content(at, &opened.ordinary(&self.cancel)).unwrap_or(false)
                }),
                kind => all.iter().any(|(_, seen)| seen.kind == *kind),
            };
            // It has not looked to the end.
            self.go_on().map_err(|_| Failed::Cancelled)?;
            Ok(has_like || is_known(found))
        };
        let cleared = self.source.clear((dir, &item.name), is_in_volume);
        self.cleared(dir, &item.name, cleared)
    }

    fn cleared(
        &mut self,
        dir: &[u8],
        name: &[u8],
        cleared: Result<(), Failed>,
    ) -> Result<(), ShareError> {
        match cleared {
            Ok(()) => {
                self.is_unsure_of(dir);
                Ok(())
            }
            Err(failed) => self.refuse_failed(dir, name, failed),
        }
    }

    /// Tells whether the directory is empty though the volume has what was in it.
    pub(super) fn is_suddenly_empty(&self) -> Result<bool, ShareError> {
        let mut names = self.known.names(b"").peekable();
        let (Some(_), Some(top)) = (names.peek(), self.find_dir(b"")?) else { return Ok(false) };
        for name in names {
            if self.volume.seen(top, name).map_err(ShareError::Volume)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes that a directory must be compared again soon.
    pub(super) fn is_unsure_of(&mut self, dir: &[u8]) {
        self.unsure.insert(dir.to_vec());
    }

    pub(super) fn unreadable(&self, dir: &[u8], source: std::io::Error) -> ShareError {
        match source.raw_os_error() {
            Some(libc::ECANCELED) => ShareError::Cancelled,
            _ => ShareError::Source { path: self.source.path(dir), source },
        }
    }
}

/// Returns the directory above and the name; nothing for the top.
pub(super) fn parts(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() { None } else { Some(split(path).unwrap_or((b"", path))) }
}

/// Returns a path's directory and all above it.
pub(super) fn above(dir: &[u8]) -> Vec<Bytes> {
    let mut all = vec![dir.to_vec()];
    let mut at = dir;
    while let Some((above, _)) = parts(at) {
        all.push(above.to_vec());
        at = above;
    }
    all
}
