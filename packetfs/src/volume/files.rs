//! What programs do with open files: read, write, truncate, allocate, copy, make durable.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::fs::{FallocateFlags, StatVfs};
use worknode::history::{Content, Kind};

use super::backing::Backing;
use super::changes::errno;
use super::handles::Handle;
use super::model::{Shared, State, Volume};
use super::names::{Caller, Found, Make};
use super::node::Node;

/// Bytes that are copied at once between files.
const COPY_BYTES: usize = 1024 * 1024;
/// From this size on a content takes longer to copy than a thread takes to start.
const SLOW_BYTES: u64 = 1024 * 1024;
/// Largest file, as ext4 has it with blocks of 4 KiB.
const BYTES_MAX: u64 = 16 << 40;
/// For so long after another node has given a file a content, it may soon give it another one.
const RESTLESS: Duration = Duration::from_secs(2);

/// How the kernel reads and writes an open file.
#[derive(Debug, Clone)]
pub enum Io {
    /// It asks the volume.
    Asks {
        /// What it has cached is still right.
        keep: bool,
        /// It caches what it reads.
        caches: bool,
    },
    /// It uses this file directly.
    Through(BackingFile),
}

/// A file that has the content of another one.
#[derive(Debug, Clone)]
pub struct BackingFile(Arc<Backing>);

impl AsFd for BackingFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

/// An open file.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its handle.
    pub handle: u64,
    /// How it is read and written.
    pub io: Io,
}

impl Volume {
    /// Opens a file with the flags of `open`.
    ///
    /// # Errors
    /// It is no regular file, the disk is full, or the volume does not work.
    pub fn open_file(&self, ino: u64, flags: i32, caller: Caller) -> Result<Opened, Errno> {
        let (writes, truncates) =
            (flags & libc::O_ACCMODE != libc::O_RDONLY, flags & libc::O_TRUNC != 0);
        {
            let state = self.shared.lock();
            self.shared.may_open(&state, caller.uid)?;
            if writes {
                self.shared.may_write(&state, caller)?;
            }
        }
        let is_held = (writes || truncates)
            .then(|| self.shared.back_for(ino, truncates, writes))
            .transpose()?
            .is_some_and(|(_, is_held)| is_held);
        let mut state = self.shared.lock();
        if is_held {
            // From here on the handle does that. Nothing has the lock in between.
            state.uses.release(ino);
        }
        state.file(ino)?;
        if truncates && caller.uid != 0 {
            self.shared.strip(&mut state, ino)?;
        }
        Ok(self.opened(&mut state, ino, writes, caller))
    }

    /// Makes a regular file and opens it.
    ///
    /// # Errors
    /// See [`Volume::make`].
    pub fn create(
        &self,
        (dir, name): (u64, &[u8]),
        (mode, umask): (u32, u32),
        flags: i32,
        caller: Caller,
    ) -> Result<(Found, Opened), Errno> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let mut state = self.shared.lock();
        self.shared.may_open(&state, caller.uid)?;
        self.shared.may_write(&state, caller)?;
        let make = Make { kind: Kind::File, mode, umask };
        // The backing file comes first: a full disk leaves no name.
        let ino = state.next_ino();
        let backing = self.shared.new_backing(&mut state, ino).map_err(|error| errno(&error))?;
        let made = self.shared.make(&mut state, dir, name, make, caller);
        made.inspect_err(|_| backing.discard())?;
        let it = state.uses.of(ino);
        it.backing = Some(backing);
        it.lookups += 1;
        let opened = self.opened(&mut state, ino, writes, caller);
        Ok((state.found(ino)?, opened))
    }

    /// Tells whether it takes long until a file can be written: much of the content has to be copied first, or fetched. With a
    /// size, until it has that size: much may have to be removed.
    #[must_use]
    pub fn is_slow_to_change(&self, ino: u64, size: Option<u64>) -> bool {
        let state = self.shared.lock();
        if let Some(backing) = state.uses.backing(ino) {
            let is_large = |blocks: i64| u64::try_from(blocks).unwrap_or(0) * 512 >= SLOW_BYTES;
            return size.is_some() && backing.stat().is_ok_and(|stat| is_large(stat.st_blocks));
        }
        let content = state.file(ino).map(|node| node.content).unwrap_or_default();
        drop(state);
        size != Some(0) && (content.bytes >= SLOW_BYTES || !self.shared.library.is_here(&content))
    }

    /// Tells whether what is known of a file's content has to be fetched, or to be put together, before it is known where its
    /// holes are.
    #[must_use]
    pub fn is_slow_to_seek(&self, ino: u64) -> bool {
        match self.shared.content(ino) {
            Ok(Place::Packets(content)) => !self.shared.library.is_unfolded(&content),
            _ => false,
        }
    }

    /// Tells whether a file has to become packets before it is moved.
    #[must_use]
    pub fn is_slow_to_move(&self, dir: u64, name: &[u8]) -> bool {
        self.shared.waits_before_move(dir, name)
    }

    fn opened(&self, state: &mut State, ino: u64, writes: bool, caller: Caller) -> Opened {
        let has_privileges = state.has_privileges(ino);
        let it = state.uses.of(ino);
        if it.opens == 0 {
            // A write through it would not take them away.
            it.is_through = self.shared.may_pass && it.backing.is_some() && !has_privileges;
        }
        it.opens += 1;
        it.writers += u32::from(writes);
        let io = match &it.backing {
            Some(backing) if it.is_through => {
                it.has_stale_pages = true;
                Io::Through(BackingFile(Arc::clone(backing)))
            }
            _ => Io::Asks {
                keep: !std::mem::take(&mut it.has_stale_pages),
                // The kernel fills up what it caches with zeros, to a size that another answer may have set meanwhile.
                caches: writes || it.rewritten.is_none_or(|at| at.elapsed() >= RESTLESS),
            },
        };
        Opened { handle: state.handles.add(Handle::File { ino, writes, uid: caller.uid }), io }
    }

    /// A program closes a file, which others may still have open. What programs do from now on other nodes see after what was
    /// written to it.
    pub fn note_closing(&self, ino: u64) {
        if !self.shared.prompt.is_wanted() {
            return;
        }
        let is_written = {
            let state = self.shared.lock();
            let it = state.uses.get(ino).filter(|it| it.writers > 0);
            it.and_then(|it| it.backing.as_ref()).is_some_and(|backing| backing.is_dirty())
        };
        if is_written {
            self.shared.holds.note_flush(ino, self.shared.log.last().0, Instant::now());
        }
    }

    /// Closes a file when the kernel says so. It may have to wait for others, who may not take this for a file that stays open.
    pub fn release(&self, ino: u64, handle: u64) {
        self.shared.holds.note_release(ino);
        self.close_file(handle);
        self.shared.holds.end_release(ino);
    }

    /// Closes a file. What was written becomes packets soon.
    pub fn close_file(&self, handle: u64) {
        let mut state = self.shared.lock();
        let Some(Handle::File { ino, writes, uid }) = state.handles.remove(handle) else { return };
        let it = state.uses.of(ino);
        it.opens = it.opens.saturating_sub(1);
        it.writers = it.writers.saturating_sub(u32::from(writes));
        self.shared.unused(&mut state, ino);
        if writes {
            self.shared.note_closed(ino, uid);
        }
    }

    /// Tells whether so much is closed and not packets yet that whoever makes files has to help first.
    #[must_use]
    pub fn has_too_much_closed(&self) -> bool {
        self.shared.has_excess()
    }

    /// Makes packets of a file that was closed, if too many wait.
    pub fn relieve(&self) {
        self.shared.relieve();
    }

    /// Returns a part of a file's content if that takes no time in proportion to the file, and no other node is asked.
    ///
    /// # Errors
    /// See [`Volume::read`].
    pub fn read_here(&self, ino: u64, offset: u64, size: usize) -> Result<Option<Vec<u8>>, Errno> {
        match self.shared.content(ino)? {
            Place::Backing(backing) => read_backing(&backing, offset, size).map(Some),
            Place::Packets(content) => Ok(self.shared.library.read_here(&content, offset, size)),
        }
    }

    /// Returns a part of a file's content, shorter at its end.
    ///
    /// # Errors
    /// `EIO` for damaged packets.
    pub fn read(&self, ino: u64, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        match self.shared.content(ino)? {
            Place::Backing(backing) => read_backing(&backing, offset, size),
            Place::Packets(content) => {
                self.shared.library.read(&content, offset, size).map_err(|error| errno(&error))
            }
        }
    }

    /// Writes into a file that is open for writing; returns the number of bytes written. `strips` says that the writer has no
    /// right to leave the file its privileges.
    ///
    /// # Errors
    /// `ENOSPC` and others of the disk.
    pub fn write(&self, ino: u64, offset: u64, data: &[u8], strips: bool) -> Result<usize, Errno> {
        if offset.saturating_add(data.len() as u64) > BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        let backing = self.shared.back(ino, false)?;
        if strips {
            self.shared.strip(&mut self.shared.lock(), ino)?;
        }
        backing.file.write_at(data, offset).map_err(|error| errno(&error))
    }

    pub(super) fn set_size(&self, ino: u64, size: u64) -> Result<(), Errno> {
        if size > BYTES_MAX {
            return Err(Errno::EFBIG);
        }
        loop {
            let backing = self.shared.back(ino, size == 0)?;
            let mut state = self.shared.lock();
            if !state.uses.is_backing(ino, &backing) {
                continue;
            }
            state.uses.hold(ino);
            drop(state);
            let set = backing.file.set_len(size);
            let mut state = self.shared.lock();
            state.uses.release(ino);
            self.shared.unused(&mut state, ino);
            return set.map_err(|error| errno(&error));
        }
    }

    /// Allocates, punches or zeroes a range, as `fallocate` says.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for what the disk's file system does not offer, `ENOSPC`.
    pub fn allocate(&self, ino: u64, mode: u32, offset: u64, bytes: u64) -> Result<(), Errno> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let backing = self.shared.back(ino, false)?;
        rustix::fs::fallocate(&backing.file, mode, offset, bytes)
            .map_err(|error| Errno::from_raw(error.raw_os_error()))
    }

    /// Returns where the next data or hole begins.
    ///
    /// # Errors
    /// `ENXIO` beyond the end, `EINVAL` for another `whence`.
    pub fn seek(&self, ino: u64, offset: u64, whence: i32) -> Result<u64, Errno> {
        let finds_data = finds_data(whence)?;
        match self.shared.content(ino)? {
            Place::Backing(backing) => {
                let from = if finds_data {
                    rustix::fs::SeekFrom::Data(offset)
                } else {
                    rustix::fs::SeekFrom::Hole(offset)
                };
                rustix::fs::seek(&backing.file, from)
                    .map_err(|error| Errno::from_raw(error.raw_os_error()))
            }
            Place::Packets(content) => self.shared.seek(&content, offset, whence),
        }
    }

    /// Copies a range from one file to another; returns the number of bytes.
    ///
    /// # Errors
    /// `ENOSPC` and others of the disk; damaged packets.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), bytes: u64) -> Result<u64, Errno> {
        let target = self.shared.back(to.0, false)?;
        let bytes = bytes.min(COPY_BYTES as u64 * 1024);
        if let Place::Backing(source) = self.shared.content(from.0)? {
            let (mut at, mut into) = (from.1, to.1);
            let mut left = bytes;
            while left > 0 {
                let part = usize::try_from(left).unwrap_or(COPY_BYTES);
                let count = rustix::fs::copy_file_range(
                    &source.file,
                    Some(&mut at),
                    &target.file,
                    Some(&mut into),
                    part,
                )
                .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
                if count == 0 {
                    break;
                }
                left -= count as u64;
            }
            return Ok(bytes - left);
        }
        let mut copied = 0;
        while copied < bytes {
            let size = usize::try_from(bytes - copied).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let part = self.read(from.0, from.1 + copied, size)?;
            if part.is_empty() {
                break;
            }
            target.file.write_all_at(&part, to.1 + copied).map_err(|error| errno(&error))?;
            copied += part.len() as u64;
        }
        Ok(copied)
    }

    /// Makes the content and all earlier changes durable.
    ///
    /// # Errors
    /// The disk fails: the content may be lost.
    pub fn sync_file(&self, ino: u64) -> Result<(), Errno> {
        let backing = self.shared.lock().uses.backing(ino).cloned();
        if let Some(backing) = backing {
            backing.sync().map_err(|error| errno(&error))?;
        }
        self.shared.settle_log().map_err(|error| super::changes::failed(&error))
    }

    /// Returns the space of the disk, and the number of files.
    ///
    /// # Errors
    /// The disk cannot be asked.
    pub fn space(&self) -> Result<(StatVfs, u64), Errno> {
        let space = rustix::fs::statvfs(&self.shared.dir);
        let files = self.shared.lock().tree.state.files;
        Ok((space.map_err(|error| Errno::from_raw(error.raw_os_error()))?, files))
    }
}

/// Where the content of a file is.
pub(super) enum Place {
    Backing(Arc<Backing>),
    Packets(Content),
}

impl Shared {
    /// Checks that a user may open another file for writing.
    pub(super) fn may_write(&self, state: &State, caller: Caller) -> Result<(), Errno> {
        let is_allowed = self.bounds.allow(&state.handles, caller.uid);
        if is_allowed { Ok(()) } else { Err(Errno::ENFILE) }
    }

    /// Returns where the next data or hole begins in a content.
    pub(super) fn seek(&self, content: &Content, offset: u64, whence: i32) -> Result<u64, Errno> {
        let manifest = self.library.manifest(content).map_err(|error| errno(&error))?;
        let holes = manifest.holes.iter().map(|hole| (hole.at, hole.end()));
        next(holes, content.bytes, offset, finds_data(whence)?).ok_or(Errno::ENXIO)
    }

    pub(super) fn content(&self, ino: u64) -> Result<Place, Errno> {
        let state = self.lock();
        if let Some(backing) = state.uses.backing(ino) {
            return Ok(Place::Backing(Arc::clone(backing)));
        }
        let node = state.file(ino)?;
        Ok(Place::Packets(node.content))
    }

    /// Returns the backing file of a file, with its content, or empty if it is to be truncated.
    pub(super) fn back(&self, ino: u64, truncates: bool) -> Result<Arc<Backing>, Errno> {
        self.back_for(ino, truncates, false).map(|(backing, _)| backing)
    }

    /// Does so for a program that opens the file. Tells whether the file is held: while it is about to be written, what is left
    /// of it by the truncation becomes no content.
    fn back_for(
        &self,
        ino: u64,
        truncates: bool,
        is_opening: bool,
    ) -> Result<(Arc<Backing>, bool), Errno> {
        loop {
            let (content, written, generation, modified) = {
                let mut state = self.lock();
                let node = state.file(ino)?;
                if let Some(backing) = state.uses.backing(ino).cloned() {
                    return if truncates {
                        self.truncate(state, ino, &node, backing, is_opening)
                    } else {
                        Ok((backing, false))
                    };
                }
                if truncates || node.content.packet.is_none() {
                    let backing =
                        self.new_backing(&mut state, ino).map_err(|error| errno(&error))?;
                    if !truncates {
                        backing.hole(&node).map_err(|error| errno(&error))?;
                    }
                    state.uses.of(ino).backing = Some(Arc::clone(&backing));
                    return Ok((backing, false));
                }
                state.generation += 1;
                (node.content, node.written, state.generation, node.modified)
            };
            // Without the lock: it may be large.
            let backing =
                self.filled(ino, generation, &content, modified).map_err(|error| errno(&error))?;
            let mut state = self.lock();
            if state.uses.backing(ino).is_none()
                && state.file(ino).is_ok_and(|node| node.written == written)
            {
                backing.place().map_err(|error| errno(&error))?;
                let backing = Arc::new(backing);
                state.uses.of(ino).backing = Some(Arc::clone(&backing));
                return Ok((backing, false));
            }
            backing.discard();
        }
    }

    fn truncate(
        &self,
        mut state: MutexGuard<'_, State>,
        ino: u64,
        node: &Node,
        backing: Arc<Backing>,
        is_opening: bool,
    ) -> Result<(Arc<Backing>, bool), Errno> {
        let is_open = state.uses.get(ino).is_some_and(|it| it.opens > 0);
        let is_used = is_open || !backing.is_alone();
        if is_used || !backing.is_dirty() {
            // Without the lock: it may be large. Nobody takes it away meanwhile.
            state.uses.hold(ino);
            drop(state);
            let emptied = backing.file.set_len(0);
            if is_opening && emptied.is_ok() {
                return Ok((backing, true));
            }
            let mut state = self.lock();
            if state.uses.release(ino) && backing.is_dirty() {
                self.queue.push(ino, Arc::clone(&backing), self.prompt.is_wanted());
            }
            return emptied.map(|()| (backing, false)).map_err(|error| errno(&error));
        }
        // The former content was closed: it becomes a version.
        let new = self.new_backing(&mut state, ino).map_err(|error| errno(&error))?;
        state.uses.of(ino).backing = Some(Arc::clone(&new));
        self.queue.push_former(ino, backing, node.written);
        Ok((new, false))
    }

    pub(super) fn new_backing(&self, state: &mut State, ino: u64) -> io::Result<Arc<Backing>> {
        state.generation += 1;
        Ok(Arc::new(Backing::new(&self.open_dir(), ino, state.generation, &self.spares)?))
    }

    fn filled(
        &self,
        ino: u64,
        generation: u64,
        content: &Content,
        modified: i64,
    ) -> io::Result<Backing> {
        let manifest = self.library.manifest(content)?;
        let backing = Backing::new_part(&self.open_dir(), ino, generation)?;
        self.library.fetch_missing(&manifest.packets)?;
        let filled = backing.fill(&manifest, modified, |packet| self.library.packet(packet));
        match filled {
            Ok(()) => Ok(backing),
            Err(error) => {
                backing.discard();
                Err(error)
            }
        }
    }

    /// Has what was written become packets, or forgets the backing file, once no program may write it.
    pub(super) fn unused(&self, state: &mut State, ino: u64) {
        let Some(it) = state.uses.get(ino) else { return };
        if it.writers == 0
            && !it.is_orphan
            && let Some(backing) = &it.backing
        {
            if backing.is_dirty() && self.prompt.is_wanted() {
                self.holds.begin(ino, self.log.last().0, Instant::now());
                self.queue.push_holding(ino, Arc::clone(backing));
            } else if backing.is_dirty() {
                self.queue.push(ino, Arc::clone(backing), false);
            } else if it.opens == 0 && backing.is_alone() {
                self.drop_backing(state, ino);
            } else if it.opens == 0 {
                // It goes when nobody has it mapped any more.
                self.queue.push(ino, Arc::clone(backing), false);
            }
        }
        self.end_use(state, ino);
    }

    /// Forgets what was written to a file that another one has replaced. If it is still there, as a version in conflict, that is
    /// not what it is there for.
    pub(super) fn end_replaced(&self, state: &mut State, ino: u64) {
        let is_open = state.uses.get(ino).is_some_and(|it| it.opens > 0);
        let is_there = state
            .tree
            .find(ino)
            .is_ok_and(|node| node.is_some_and(|it| it.links > 0 && it.is_disputed));
        if is_there && !is_open && state.uses.backing(ino).is_some() {
            self.drop_backing(state, ino);
            self.end_use(state, ino);
        }
    }

    /// Forgets the backing file of a file whose content is in packets.
    pub(super) fn drop_backing(&self, state: &mut State, ino: u64) {
        let Some(backing) = state.uses.of(ino).backing.take() else { return };
        if Self::finish(state, &backing) {
            state.uses.of(ino).is_mapped = false;
            if state.end_base(ino) {
                // Others have removed it, and nothing of it was news to them.
                let is_gone = |node: Option<Node>| node.is_some_and(|node| node.links == 0);
                state.uses.of(ino).is_orphan |= state.tree.find(ino).is_ok_and(is_gone);
                // The tables have another content.
                state.uses.of(ino).has_stale_pages = true;
                self.mounts.file(ino);
            }
        } else {
            state.uses.of(ino).backing = Some(backing);
        }
    }

    /// Has a backing file removed that is not needed any more. Tells whether the disk lets it.
    pub(super) fn finish(state: &mut State, backing: &Backing) -> bool {
        match backing.finish(state.tree.state.applied) {
            Ok(path) => {
                state.doomed.push(path);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a backing file is kept: it cannot be renamed");
                false
            }
        }
    }
}

impl State {
    fn file(&self, ino: u64) -> Result<Node, Errno> {
        let node = self.node(ino)?;
        match node.kind {
            Kind::File => Ok(node),
            Kind::Dir => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn finds_data(whence: i32) -> Result<bool, Errno> {
    match whence {
        libc::SEEK_DATA => Ok(true),
        libc::SEEK_HOLE => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}

fn read_backing(backing: &Backing, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
    let mut part = vec![0; size];
    let count = read_full(&backing.file, &mut part, offset).map_err(|error| errno(&error))?;
    part.truncate(count);
    Ok(part)
}

fn read_full(file: &File, part: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < part.len() {
        match file.read_at(&mut part[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Returns where the next data, or the next hole, begins in a file with these holes.
fn next(
    holes: impl Iterator<Item = (u64, u64)>,
    bytes: u64,
    offset: u64,
    finds_data: bool,
) -> Option<u64> {
    if offset >= bytes {
        return None;
    }
    let mut at = offset;
    for (start, end) in holes {
        if finds_data && start <= at && at < end {
            at = end;
        } else if !finds_data && at < end {
            return Some(start.max(at));
        }
    }
    match finds_data {
        true => (at < bytes).then_some(at),
        // There is a hole behind the end of each file.
        false => Some(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn data_and_holes_alternate() {
        let holes = || [(0, 10), (20, 30)].into_iter();
        let data = [0, 10, 19, 20, 29, 30, 39].map(|at| next(holes(), 40, at, true));
        assert_eq!(data, [10, 10, 19, 30, 30, 30, 39].map(Some));
        let hole = [0, 10, 19, 20, 29, 30, 39].map(|at| next(holes(), 40, at, false));
        assert_eq!(hole, [0, 20, 20, 20, 29, 40, 40].map(Some));
        assert_eq!((next(holes(), 40, 40, true), next(holes(), 30, 25, true)), (None, None));
    }
}
