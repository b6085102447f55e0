//! Detects changes in the directories that runners have read, by inotify.
//!
//! The kernel queues an event before the system call that caused it returns. Draining the queue before a
//! walk starts therefore yields every change that finished before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::stat::fstat;

use crate::export::open;
use crate::path::{Bytes, is_within, join, split};
use crate::volume::News;

/// Identifies a reader of the tree. Readers hear only of directories that they have read.
pub type ReaderId = u32;

/// Most directories and files without a watch. They count as changed at every drain; beyond this number,
/// everything does.
const UNWATCHED_MAX: usize = 10_000;

/// Watches directories for readers.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    /// Most watches to use; the kernel may grant fewer.
    watches_max: usize,
    dirs: HashMap<Bytes, Watched>,
    /// Watched files by directory (one that has readers) and name.
    files: HashMap<Bytes, BTreeMap<Bytes, WatchDescriptor>>,
    /// The subjects of each watch. Bind mounts can show one directory at several paths.
    subjects: HashMap<WatchDescriptor, Vec<Subject>>,
    inodes: Inodes,
    unwatched: Unwatched,
}

/// Directories and files for which the kernel granted no watch.
#[derive(Debug, Default)]
struct Unwatched {
    /// Directories that their readers must forget at the next drain.
    dirs: BTreeMap<Bytes, BTreeSet<ReaderId>>,
    /// Files of watched directories, reported at each drain until they have a watch.
    files: BTreeSet<Bytes>,
    /// Whether there are more than are listed.
    too_much: bool,
}

/// What the watches watch, by file system and inode.
#[derive(Debug, Default)]
struct Inodes {
    watched: HashMap<(u64, u64), WatchDescriptor>,
    of: HashMap<WatchDescriptor, (u64, u64)>,
}

#[derive(Debug)]
struct Watched {
    descriptor: WatchDescriptor,
    readers: BTreeSet<ReaderId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Dir(Bytes),
    /// A file with several hard links: only its inode shows changes through another name.
    File(Bytes),
}

/// Changes since the last drain, each with the readers concerned.
#[derive(Debug, Default)]
pub struct Drained {
    /// Directories with the names that may have changed.
    pub names: BTreeMap<Bytes, (BTreeSet<ReaderId>, BTreeSet<Bytes>)>,
    /// Directories that are no longer the ones that were read.
    pub forgotten: BTreeMap<Bytes, BTreeSet<ReaderId>>,
    /// Whether events were lost, so that all readers must forget everything.
    pub overflow: bool,
}

impl Drained {
    /// Tells whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.forgotten.is_empty() && !self.overflow
    }
}

const DIR_EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);
const NAME_EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO);
const FILE_EVENTS: AddWatchFlags =
    AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_CLOSE_WRITE).union(AddWatchFlags::IN_ATTRIB);

impl Watcher {
    /// Makes a watcher without watches.
    ///
    /// # Errors
    /// The kernel has no inotify instance left for this user.
    pub fn new() -> Result<Self, Errno> {
        Self::with_watches(usize::MAX)
    }

    /// Makes a watcher that uses at most `watches_max` watches, as if the kernel had no more.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_watches(watches_max: usize) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (dirs, files, subjects) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (inodes, unwatched) = (Inodes::default(), Unwatched::default());
        Ok(Self { inotify, watches_max, dirs, files, subjects, inodes, unwatched })
    }

    /// Tells whether there are directories for which no watch was left.
    #[must_use]
    pub fn lacks_watches(&self) -> bool {
        !self.unwatched.dirs.is_empty() || self.unwatched.too_much
    }

    /// Watches a directory for a reader. To be called before the directory is read. Without a watch left,
    /// the directory's readers forget it at every drain.
    ///
    /// # Errors
    /// The directory is gone.
    pub fn watch_dir(&mut self, path: &[u8], reader: ReaderId) -> Result<(), Errno> {
        if let Some(watched) = self.dirs.get_mut(path) {
            watched.readers.insert(reader);
            return Ok(());
        }
        let flags = DIR_EVENTS | AddWatchFlags::IN_ONLYDIR;
        let Some(descriptor) = self.watch(path, flags)? else {
            self.unwatched.add_dir(path, reader);
            return Ok(());
        };
        self.subject(descriptor, Subject::Dir(path.to_vec()));
        self.dirs.insert(path.to_vec(), Watched { descriptor, readers: BTreeSet::from([reader]) });
        Ok(())
    }

    /// Undoes [`Self::watch_dir`] for a reader that could not read the directory.
    pub fn unwatch_dir(&mut self, path: &[u8], reader: ReaderId) {
        let Some(watched) = self.dirs.get_mut(path) else { return };
        watched.readers.remove(&reader);
        if watched.readers.is_empty() {
            self.unwatch(path);
        }
    }

    /// Watches a file that may change without an event for its directory, on behalf of the directory's
    /// readers. Returns true if the watch is new, so that the file may have changed since it was read.
    ///
    /// # Errors
    /// The file is gone.
    pub fn watch_file(&mut self, path: &[u8]) -> Result<bool, Errno> {
        let Some((dir, name)) = split(path).filter(|(dir, _)| self.dirs.contains_key(*dir)) else {
            // The directory has no readers, or all will forget it at the next drain.
            return Ok(false);
        };
        if self.files.get(dir).is_some_and(|files| files.contains_key(name)) {
            return Ok(false);
        }
        // MASK_ADD: the inode may already be watched under another name.
        let add = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let flags = FILE_EVENTS | add;
        let Some(descriptor) = self.watch(path, flags)? else {
            self.unwatched.add_file(path);
            return Ok(false);
        };
        self.unwatched.files.remove(path);
        self.files.entry(dir.to_vec()).or_default().insert(name.to_vec(), descriptor);
        self.subject(descriptor, Subject::File(path.to_vec()));
        Ok(true)
    }

    /// Adds a watch, or returns `None` if the kernel has none left.
    fn watch(
        &mut self,
        path: &[u8],
        flags: AddWatchFlags,
    ) -> Result<Option<WatchDescriptor>, Errno> {
        if self.subjects.len() >= self.watches_max {
            return Ok(None);
        }
        // Not by its path: a link on the way could lead to a file system that does not answer.
        let place = open(path, OFlag::O_PATH)?;
        let link = format!("/proc/self/fd/{}", place.as_raw_fd());
        match self.inotify.add_watch(link.as_str(), flags) {
            Err(Errno::ENOSPC | Errno::ENOMEM) => Ok(None),
            result => {
                let descriptor = result?;
                let stat = fstat(&place)?;
                self.inodes.insert((stat.st_dev, stat.st_ino), descriptor);
                Ok(Some(descriptor))
            }
        }
    }

    /// Adds changes that inotify does not tell, of a file system that tells them otherwise, to what was drained.
    pub fn add(&mut self, dev: u64, news: &News, drained: &mut Drained) {
        if news.is_all {
            let watched = self.inodes.of_device(dev);
            watched.iter().for_each(|watched| self.note_all(*watched, drained));
            return;
        }
        let find = |it: &Self, ino| it.inodes.watched.get(&(dev, ino)).copied();
        for dir in &news.dirs {
            find(self, *dir).into_iter().for_each(|watched| self.note_all(watched, drained));
        }
        for (dir, name) in &news.names {
            let Some(watched) = find(self, *dir) else { continue };
            for dir in self.dirs_of(watched) {
                self.forget(&join(&dir, name), drained);
                self.drop_file(&dir, name);
                self.note_name(dir, name.clone(), drained);
            }
        }
        for (dir, name) in &news.names_of_files {
            let Some(watched) = find(self, *dir) else { continue };
            let dirs = self.dirs_of(watched);
            dirs.into_iter().for_each(|dir| self.note_name(dir, name.clone(), drained));
        }
        for ino in &news.files {
            let Some(watched) = find(self, *ino) else { continue };
            let subjects = self.subjects.get(&watched).cloned().unwrap_or_default();
            for path in subjects.iter().map(Subject::path) {
                if let Some((dir, name)) = split(path) {
                    self.note_name(dir.to_vec(), name.to_vec(), drained);
                }
                // Its own attributes may be listed with no name above it.
                if let Some(watched) = self.dirs.get(path) {
                    let (readers, _) = drained.names.entry(path.to_vec()).or_default();
                    readers.extend(&watched.readers);
                }
            }
        }
    }

    /// Forgets what a watch is for, with everything below.
    fn note_all(&mut self, watched: WatchDescriptor, drained: &mut Drained) {
        self.dirs_of(watched).iter().for_each(|dir| self.forget(dir, drained));
    }

    /// Returns the directories that a watch is for.
    fn dirs_of(&self, watched: WatchDescriptor) -> Vec<Bytes> {
        let subjects = self.subjects.get(&watched).into_iter().flatten();
        let dir = |subject: &Subject| match subject {
            Subject::Dir(dir) => Some(dir.clone()),
            Subject::File(_) => None,
        };
        subjects.filter_map(dir).collect()
    }

    /// Tells whether a drain may yield changes without events, because something has no watch.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        let Unwatched { dirs, files, too_much } = &self.unwatched;
        *too_much || !dirs.is_empty() || !files.is_empty()
    }

    /// Returns the inotify descriptor, for polling.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn queue(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// Removes a reader.
    pub fn remove_reader(&mut self, reader: ReaderId) {
        let of_reader = |(path, watched): (&Bytes, &Watched)| {
            watched.readers.contains(&reader).then(|| path.clone())
        };
        let paths: Vec<_> = self.dirs.iter().filter_map(of_reader).collect();
        paths.iter().for_each(|path| self.unwatch_dir(path, reader));
        for readers in self.unwatched.dirs.values_mut() {
            readers.remove(&reader);
        }
        self.unwatched.dirs.retain(|_, readers| !readers.is_empty());
    }

    /// Returns the changes since the last call. Those at the points in `mounted`, where a mount changed, are
    /// included.
    pub fn drain(&mut self, mounted: &BTreeSet<Bytes>) -> Drained {
        let forgotten = std::mem::take(&mut self.unwatched.dirs);
        let overflow = std::mem::take(&mut self.unwatched.too_much);
        let mut drained = Drained { forgotten, overflow, ..Drained::default() };
        self.read(&mut drained);
        for point in mounted {
            self.forget(point, &mut drained);
            if let Some((dir, name)) = split(point) {
                self.drop_file(dir, name);
                self.note_name(dir.to_vec(), name.to_vec(), &mut drained);
            }
        }
        for path in &self.unwatched.files {
            if let Some((dir, name)) = split(path) {
                self.note_name(dir.to_vec(), name.to_vec(), &mut drained);
            }
        }
        if drained.overflow {
            self.forget_all();
        }
        drained
    }

    fn read(&mut self, drained: &mut Drained) {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        self.note(event, drained);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    drained.overflow = true;
                    return;
                }
            }
        }
    }

    /// Drops all watches after lost events: a directory may have been moved, and its watch with it.
    fn forget_all(&mut self) {
        for (descriptor, _) in self.subjects.drain() {
            let _ = self.inotify.rm_watch(descriptor);
        }
        self.inodes = Inodes::default();
        self.dirs.clear();
        self.files.clear();
        self.unwatched = Unwatched::default();
    }

    fn note(&mut self, event: InotifyEvent, drained: &mut Drained) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            drained.overflow = true;
            return;
        }
        let Some(subjects) = self.subjects.get(&event.wd).cloned() else { return };
        for subject in subjects {
            match (subject, &event.name) {
                (Subject::Dir(dir), Some(name)) => {
                    // A removed directory that some process holds open lives on with its watch. The
                    // next one of this name needs its own watch.
                    if event.mask.intersects(NAME_EVENTS) {
                        if event.mask.contains(AddWatchFlags::IN_ISDIR) {
                            self.forget(&join(&dir, name.as_bytes()), drained);
                        }
                        self.drop_file(&dir, name.as_bytes());
                    }
                    self.note_name(dir, name.as_bytes().to_vec(), drained);
                }
                (Subject::Dir(dir), None) => {
                    let gone = AddWatchFlags::IN_DELETE_SELF
                        | AddWatchFlags::IN_MOVE_SELF
                        | AddWatchFlags::IN_IGNORED
                        | AddWatchFlags::IN_UNMOUNT;
                    if event.mask.intersects(gone) {
                        self.forget(&dir, drained);
                    } else if let Some((parent, name)) = split(&dir) {
                        self.note_name(parent.to_vec(), name.to_vec(), drained);
                    }
                }
                (Subject::File(path), _) => {
                    if let Some((dir, name)) = split(&path) {
                        self.note_name(dir.to_vec(), name.to_vec(), drained);
                    }
                }
            }
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.inodes.remove(event.wd);
            for subject in self.subjects.remove(&event.wd).unwrap_or_default() {
                if let Subject::File(path) = subject
                    && let Some((dir, name)) = split(&path)
                {
                    self.drop_file(dir, name);
                }
            }
        }
    }

    fn note_name(&self, dir: Bytes, name: Bytes, drained: &mut Drained) {
        if let Some(watched) = self.dirs.get(&dir) {
            let (readers, names) = drained.names.entry(dir).or_default();
            readers.extend(&watched.readers);
            names.insert(name);
        }
    }

    /// Forgets a directory that was moved or deleted, with everything below it.
    fn forget(&mut self, dir: &[u8], drained: &mut Drained) {
        let below: Vec<_> = self.dirs.keys().filter(|path| is_within(path, dir)).cloned().collect();
        for path in below {
            if let Some(readers) = self.unwatch(&path) {
                drained.names.remove(&path);
                drained.forgotten.entry(dir.to_vec()).or_default().extend(readers);
            }
        }
    }

    fn unwatch(&mut self, path: &[u8]) -> Option<BTreeSet<ReaderId>> {
        let watched = self.dirs.remove(path)?;
        self.release(watched.descriptor, &Subject::Dir(path.to_vec()));
        for (name, descriptor) in self.files.remove(path).unwrap_or_default() {
            self.release(descriptor, &Subject::File(join(path, &name)));
        }
        self.unwatched.files.retain(|file| split(file).is_none_or(|(dir, _)| dir != path));
        Some(watched.readers)
    }

    /// Forgets a watched file whose name was removed or given to another file.
    fn drop_file(&mut self, dir: &[u8], name: &[u8]) {
        let descriptor = self.files.get_mut(dir).and_then(|files| files.remove(name));
        if let Some(descriptor) = descriptor {
            self.release(descriptor, &Subject::File(join(dir, name)));
        }
        if !self.unwatched.files.is_empty() {
            self.unwatched.files.remove(&join(dir, name));
        }
    }

    /// Removes a watch if this is its only subject.
    fn release(&mut self, descriptor: WatchDescriptor, subject: &Subject) {
        let Some(subjects) = self.subjects.get_mut(&descriptor) else { return };
        subjects.retain(|other| other != subject);
        if subjects.is_empty() {
            self.subjects.remove(&descriptor);
            self.inodes.remove(descriptor);
            // Fails if the file is gone: then the kernel has removed the watch.
            let _ = self.inotify.rm_watch(descriptor);
        }
    }

    fn subject(&mut self, descriptor: WatchDescriptor, subject: Subject) {
        let subjects = self.subjects.entry(descriptor).or_default();
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
}

impl Inodes {
    fn insert(&mut self, inode: (u64, u64), descriptor: WatchDescriptor) {
        self.watched.insert(inode, descriptor);
        self.of.insert(descriptor, inode);
    }

    fn remove(&mut self, descriptor: WatchDescriptor) {
        let inode = self.of.remove(&descriptor);
        // Another file may have the number by now.
        if let Some(inode) = inode.filter(|it| self.watched.get(it) == Some(&descriptor)) {
            self.watched.remove(&inode);
        }
    }

    fn of_device(&self, dev: u64) -> Vec<WatchDescriptor> {
        let of_dev = self.of.iter().filter(|(_, inode)| inode.0 == dev);
        of_dev.map(|(descriptor, _)| *descriptor).collect()
    }
}

impl Subject {
    fn path(&self) -> &[u8] {
        match self {
            Self::Dir(path) | Self::File(path) => path,
        }
    }
}

impl Unwatched {
    fn add_dir(&mut self, path: &[u8], reader: ReaderId) {
        if self.dirs.len() < UNWATCHED_MAX || self.dirs.contains_key(path) {
            self.dirs.entry(path.to_vec()).or_default().insert(reader);
        } else {
            self.too_much = true;
        }
    }

    fn add_file(&mut self, path: &[u8]) {
        if self.files.len() < UNWATCHED_MAX || self.files.contains(path) {
            self.files.insert(path.to_vec());
        } else {
            self.too_much = true;
        }
    }
}

#[cfg(test)]
mod tests;
