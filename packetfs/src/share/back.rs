//! Writes to the directory of a share what has changed in the volume.

use std::collections::BTreeSet;
use std::time::Instant;

use nix::errno::Errno;
use worknode::history::Kind;

use super::both::{above, parts};
use super::decide::{self, Back};
use super::follower::{Share, ShareError};
use super::known::child;
use super::left::Left;
use super::round::Round;
use super::target::{self, Failed, New};
use crate::path::{Bytes, join};
use crate::volume::{Heard, Seen};

/// Longest path below the directory: the kernel takes no longer ones.
const PATH_BYTES_MAX: usize = 3072;
/// Most files that are named because they are left as they are.
const REFUSED_MAX: usize = 100;

impl Share {
    /// Has a name compared with the volume.
    pub(super) fn look_again(&mut self, dir: &[u8], name: &[u8]) {
        if let Some(returns) = self.returns.as_mut().filter(|returns| !returns.is_all) {
            returns.looks.insert((dir.to_vec(), name.to_vec()));
        }
    }

    /// Has everything compared with the volume.
    pub(super) fn look_at_all(&mut self) {
        if let Some(returns) = &mut self.returns {
            returns.is_all = true;
            returns.refused.clear();
            self.tries.wake_all();
        }
    }

    /// Writes what has changed in the volume to the disk.
    pub(super) fn write_back(&mut self, round: &mut Round) -> Result<(), ShareError> {
        let Some(returns) = &mut self.returns else { return Ok(()) };
        let heard = returns.listener.take();
        let mut looks = std::mem::take(&mut returns.looks);
        returns.is_away = false;
        let is_quiet = looks.is_empty() && heard == Heard::default() && !returns.is_all;
        if !is_quiet {
            self.check_writable()?;
            let top = self.top_in_volume()?;
            let returns = self.returns.as_mut().expect("it was just there");
            returns.is_all |= heard.is_all || returns.top != Some(top);
            let mut unknown = BTreeSet::new();
            for (ino, name) in heard.names {
                let dirs = self.dirs_of(ino, top);
                if dirs.is_empty() {
                    unknown.insert(ino);
                }
                for dir in dirs {
                    self.tries.wake(&dir, &name);
                    looks.insert((dir, name.clone()));
                }
            }
            for ino in heard.files {
                for (dir, name) in self.known.places_in_volume(ino) {
                    self.tries.wake(dir, name);
                    looks.insert((dir.clone(), name.clone()));
                }
            }
            if !self.is_all_due() {
                for (dir, name) in looks {
                    self.look(&dir, &name, round)?;
                }
                for ino in unknown {
                    let is_ours = self.dirs_of(ino, top).is_empty()
                        && self.volume.is_below(ino, top).map_err(ShareError::Volume)?;
                    if is_ours {
                        self.look_at_all();
                        break;
                    }
                }
            }
            if self.is_all_due() {
                self.look_deep(Vec::new(), top, round)?;
                let returns = self.returns.as_mut().expect("it was just there");
                (returns.is_all, returns.top) = (false, Some(top));
            }
        }
        let returns = self.returns.as_ref().expect("it was just there");
        round.left.extend(returns.refused.iter().map(|(path, left)| (path.clone(), *left)));
        Ok(())
    }

    fn is_all_due(&self) -> bool {
        self.returns.as_ref().is_some_and(|returns| returns.is_all)
    }

    /// Makes sure that the directory is the right one, and has files if it had some.
    fn check_writable(&mut self) -> Result<(), ShareError> {
        self.check_top()?;
        let (_, items) =
            self.source.list(b"", &self.cancel).map_err(|source| self.unreadable(b"", source))?;
        if items.is_empty() && self.is_suddenly_empty()? {
            return Err(ShareError::Empty { path: self.source.path(b"") });
        }
        Ok(())
    }

    /// Returns the paths of a directory of the volume.
    fn dirs_of(&self, ino: u64, top: u64) -> Vec<Bytes> {
        if ino == top {
            return vec![Bytes::new()];
        }
        self.known.places_in_volume(ino).map(|(dir, name)| child(dir, name)).collect()
    }

    /// Compares a name. If its directory is not known, it is that which is compared.
    fn look(&mut self, dir: &[u8], name: &[u8], round: &mut Round) -> Result<(), ShareError> {
        let (mut dir, mut name) = (dir, name);
        while let Some((above, of)) = parts(dir) {
            if self.known.seen(above, of).is_some_and(|seen| seen.kind == Kind::Dir) {
                break;
            }
            (dir, name) = (above, of);
        }
        // The name of a directory that is gone is heard, too.
        let Some(at) = self.find_dir(dir)? else { return Ok(()) };
        let now = self.volume.seen(at, name).map_err(ShareError::Volume)?;
        if let Some((path, ino)) = self.meet(dir, name, now, false, round)? {
            self.look_deep(path, ino, round)?;
        }
        Ok(())
    }

    /// Compares all that is below a directory of the volume.
    fn look_deep(&mut self, dir: Bytes, ino: u64, round: &mut Round) -> Result<(), ShareError> {
        let mut dirs = vec![(dir, ino)];
        while let Some((dir, ino)) = dirs.pop() {
            let all = self.volume.all_seen(ino).map_err(ShareError::Volume)?;
            let here: BTreeSet<&Bytes> = all.iter().map(|(name, _)| name).collect();
            let gone: Vec<Bytes> =
                self.known.names(&dir).filter(|name| !here.contains(name)).cloned().collect();
            for name in gone {
                self.meet(&dir, &name, None, true, round)?;
            }
            for (name, seen) in all {
                dirs.extend(self.meet(&dir, &name, Some(seen), true, round)?);
            }
        }
        Ok(())
    }

    /// Has the disk agree with the volume on a name. Returns the directory that is to be compared next.
    fn meet(
        &mut self,
        dir: &[u8],
        name: &[u8],
        now: Option<Seen>,
        is_deep: bool,
        round: &mut Round,
    ) -> Result<Option<(Bytes, u64)>, ShareError> {
        self.go_on()?;
        if self.tries.why(dir, name).is_some() || self.rules.is_unclear(dir) {
            return Ok(None);
        }
        let path = child(dir, name);
        if let Some(returns) = &mut self.returns {
            returns.refused.remove(&path);
        }
        let is_dir = now.as_ref().is_some_and(|now| now.kind == Kind::Dir);
        if let Some(left) = self.left_out(dir, name, is_dir) {
            if now.is_some() {
                self.refuse(path, left);
            }
            self.known.forget(dir, name);
            return Ok(None);
        }
        let before = self.known.seen(dir, name).cloned();
        let was_dir = before.as_ref().is_some_and(|before| before.kind == Kind::Dir);
        let back = decide::back(before.as_ref(), now.as_ref());
        let done = match (back, &now) {
            (Back::Nothing, _) | (_, None) if back != Back::Remove => Ok(()),
            (Back::Remove, _) | (_, None) => self.remove_on_disk(dir, name, round),
            (Back::Note, Some(now)) => {
                self.known.set_seen(dir, name, now.clone());
                Ok(())
            }
            (Back::Make | Back::Write, Some(now)) => self.write_on_disk(dir, name, now, round),
            (Back::Mode, Some(now)) => self.set_dir_on_disk(dir, name, now),
            (Back::Replace, Some(now)) => self.remove_on_disk(dir, name, round).and_then(|()| {
                if self.known.stamp(dir, name).is_none() {
                    self.write_on_disk(dir, name, now, round)?;
                }
                Ok(())
            }),
            (Back::Nothing, Some(_)) => Ok(()),
        };
        match done {
            // What is not known for sure is looked at again.
            Ok(()) if self.known.stamp(dir, name).is_none_or(|stamp| stamp.ino != 0) => {
                self.tries.done(dir, name);
            }
            Ok(()) => {}
            Err(failed) => self.refuse_failed(dir, name, failed)?,
        }
        let is_there = self.known.seen(dir, name).is_some_and(|seen| seen.kind == Kind::Dir);
        let is_other =
            before.is_none_or(|before| now.as_ref().is_some_and(|it| it.ino != before.ino));
        let is_due = is_dir && is_there && (is_deep || !was_dir || is_other);
        Ok(now.filter(|_| is_due).map(|now| (path, now.ino)))
    }

    /// Returns why a name is not written to the disk, if it is not.
    fn left_out(&self, dir: &[u8], name: &[u8], is_dir: bool) -> Option<Left> {
        let path = join(&self.source.path(dir), name);
        if target::is_hidden(name) {
            return Some(Left::Errno(Errno::EPERM));
        }
        if self.hidden.hides_secret(&path) {
            return Some(Left::Secret);
        }
        if dir.len() + name.len() > PATH_BYTES_MAX {
            return Some(Left::Errno(Errno::ENAMETOOLONG));
        }
        if self.is_own_rules(name) {
            return Some(Left::Rules);
        }
        self.rules.leave_out(dir, name, is_dir).then_some(Left::Ignored)
    }

    fn write_on_disk(
        &mut self,
        dir: &[u8],
        name: &[u8],
        now: &Seen,
        round: &mut Round,
    ) -> Result<(), Failed> {
        let place = (dir, name);
        let former = self.known.stamp(dir, name).copied();
        let Some(returns) = &mut self.returns else { return Ok(()) };
        let stamp = match &now.kind {
            Kind::Dir => self.source.make_dir(place, now.permissions)?,
            Kind::Symlink(target) => {
                let new = New::Link(target);
                self.source.write(place, new, now.permissions, former.as_ref(), &self.cancel)?
            }
            Kind::File => {
                if returns.is_away && !self.volume.has_seen(now) {
                    return Err(Failed::Content(std::io::Error::from_raw_os_error(libc::EIO)));
                }
                let mut content = self.volume.read_seen(now);
                let new = New::File(&mut content, now.bytes(), now.modified);
                self.source.write(place, new, now.permissions, former.as_ref(), &self.cancel)?
            }
            _ => {
                self.refuse(child(dir, name), Left::Special);
                return Ok(());
            }
        };
        returns.unsynced.insert(dir.to_vec());
        if now.kind == Kind::Dir {
            // It is to be watched.
            self.is_unsure_of(&child(dir, name));
        }
        self.known.set(dir, name, stamp);
        self.known.set_seen(dir, name, now.clone());
        round.written += 1;
        round.bytes += if now.kind == Kind::File { now.bytes() } else { 0 };
        Ok(())
    }

    fn set_dir_on_disk(&mut self, dir: &[u8], name: &[u8], now: &Seen) -> Result<(), Failed> {
        let former = self.known.stamp(dir, name).ok_or(Failed::Changed)?;
        let path = child(dir, name);
        let stamp = self.source.set_dir(&path, now.permissions, former)?;
        if let Some(returns) = &mut self.returns {
            returns.unsynced.insert(path);
        }
        self.known.set(dir, name, stamp);
        self.known.set_seen(dir, name, now.clone());
        Ok(())
    }

    /// Removes a file from the disk, with all below it, as far as no program has changed it.
    fn remove_on_disk(&mut self, dir: &[u8], name: &[u8], round: &mut Round) -> Result<(), Failed> {
        for (above, below) in self.known.below(&child(dir, name)) {
            if self.rules.is_unclear(&above) {
                continue;
            }
            match self.remove_one(&above, &below, round) {
                Ok(()) => {}
                Err(failed @ (Failed::Disk(_) | Failed::Cancelled)) => return Err(failed),
                Err(Failed::Open) => {
                    let now = Instant::now();
                    self.tries.rest((above, below), Left::Open, now);
                    self.tries.rest((dir.to_vec(), name.to_vec()), Left::Full, now);
                }
                // It is compared again.
                Err(_) => self.is_unsure_of(&above),
            }
        }
        self.remove_one(dir, name, round)
    }

    fn remove_one(&mut self, dir: &[u8], name: &[u8], round: &mut Round) -> Result<(), Failed> {
        let Some((stamp, seen)) = self.known.common(dir, name) else { return Ok(()) };
        if seen.kind == Kind::Dir {
            self.source.remove_dir((dir, name), stamp)?;
        } else {
            self.source.remove((dir, name), stamp)?;
        }
        self.known.remove(dir, name);
        self.known.remove_dir(&child(dir, name));
        if let Some(returns) = &mut self.returns {
            returns.unsynced.insert(dir.to_vec());
        }
        round.written += 1;
        Ok(())
    }

    /// Says why the disk stays what it is, and has it tried again where that may help.
    pub(super) fn refuse_failed(
        &mut self,
        dir: &[u8],
        name: &[u8],
        failed: Failed,
    ) -> Result<(), ShareError> {
        let (path, now) = (child(dir, name), Instant::now());
        match failed {
            Failed::Cancelled => return Err(ShareError::Cancelled),
            Failed::Changed if self.source.is_special((dir, name)) => {
                self.refuse(path, Left::Special);
            }
            Failed::Changed if self.is_unread(&path) => {
                self.refuse(path, Left::Errno(Errno::EACCES));
            }
            Failed::Changed => self.try_again(dir, name, &[dir.to_vec()]),
            Failed::Open => self.tries.rest((dir.to_vec(), name.to_vec()), Left::Open, now),
            Failed::Full => self.refuse(path, Left::Full),
            Failed::Content(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(errno @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS)) => {
                    return Err(ShareError::Volume(errno));
                }
                _ => {
                    if let Some(returns) = &mut self.returns {
                        returns.is_away = true;
                    }
                    self.tries.rest((dir.to_vec(), name.to_vec()), Left::Away, now);
                }
            },
            Failed::Disk(source) => return self.refuse_error(dir, name, source),
        }
        Ok(())
    }

    fn refuse_error(
        &mut self,
        dir: &[u8],
        name: &[u8],
        source: std::io::Error,
    ) -> Result<(), ShareError> {
        let errno = source.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        match errno {
            // It may be another directory now.
            Errno::ESTALE => {
                self.check_top()?;
                self.try_again(dir, name, &[Bytes::new()]);
            }
            Errno::ENOSPC
            | Errno::EDQUOT
            | Errno::EROFS
            | Errno::EIO
            | Errno::EMFILE
            | Errno::ENFILE => {
                return Err(ShareError::Target { path: self.source.path(dir), source });
            }
            // Something else has the name of a directory above it.
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => {
                self.try_again(dir, name, &above(dir));
            }
            errno => self.refuse(child(dir, name), Left::Errno(errno)),
        }
        Ok(())
    }

    fn is_unread(&self, path: &[u8]) -> bool {
        self.returns.as_ref().is_some_and(|returns| returns.unread.contains(path))
    }

    fn refuse(&mut self, path: Bytes, left: Left) {
        let Some(returns) = &mut self.returns else { return };
        if returns.refused.len() < REFUSED_MAX {
            returns.refused.insert(path, left);
        }
    }

    /// Has a name compared again after directories that may have changed, but not for ever.
    fn try_again(&mut self, dir: &[u8], name: &[u8], changed: &[Bytes]) {
        let is_unknown = self.known.stamp(dir, name).is_none();
        let why = if is_unknown && self.source.has((dir, name)) { Left::Taken } else { Left::Busy };
        if self.tries.again((dir.to_vec(), name.to_vec()), why, Instant::now()) {
            changed.iter().for_each(|dir| self.is_unsure_of(dir));
            self.look_again(dir, name);
        }
    }
}
