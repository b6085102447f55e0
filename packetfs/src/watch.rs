//! Notices changes in the directories that runners have read.
//!
//! The kernel queues an event before the call that changed something returns. Whoever drains the
//! queue before starting a walk therefore knows every change that finished before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::tree::{Bytes, is_within, join, split};

/// Names a reader of the tree, so that it hears only of directories it has read.
pub type ReaderId = u32;

/// What there is no watch for is taken for changed at every drain; when there is more of it than this,
/// everything is.
const UNWATCHED_MAX: usize = 10_000;

/// Watches directories for readers.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    /// Watches that may be used; the kernel may give fewer.
    watches_max: usize,
    dirs: HashMap<Bytes, Watched>,
    /// Watched files by their directories, which have readers, and their names.
    files: HashMap<Bytes, BTreeMap<Bytes, WatchDescriptor>>,
    /// What a watch stands for. Bind mounts can show one directory at several paths.
    subjects: HashMap<WatchDescriptor, Vec<Subject>>,
    unwatched: Unwatched,
}

/// What the kernel had no watch left for.
#[derive(Debug, Default)]
struct Unwatched {
    /// Forgotten by their readers at the next drain.
    dirs: BTreeMap<Bytes, BTreeSet<ReaderId>>,
    /// Files of watched directories, told of at each drain until there is a watch.
    files: BTreeSet<Bytes>,
    /// There is more.
    too_much: bool,
}

#[derive(Debug)]
struct Watched {
    descriptor: WatchDescriptor,
    readers: BTreeSet<ReaderId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Dir(Bytes),
    /// A file with several names: a change through another name shows only on the inode.
    File(Bytes),
}

/// What happened since the last time, each with the readers concerned.
#[derive(Debug, Default)]
pub struct Drained {
    /// Directories with the names that may have changed.
    pub names: BTreeMap<Bytes, (BTreeSet<ReaderId>, BTreeSet<Bytes>)>,
    /// Directories that are not what they were.
    pub forgotten: BTreeMap<Bytes, BTreeSet<ReaderId>>,
    /// Events were lost: nothing that any reader knows is certain.
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
    /// Makes a watcher that watches nothing yet.
    ///
    /// # Errors
    /// The kernel has no inotify instance left for this user.
    pub fn new() -> Result<Self, Errno> {
        Self::with_watches(usize::MAX)
    }

    /// Makes a watcher that uses a few watches only, as if the kernel had no more.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_watches(watches_max: usize) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (dirs, files, subjects) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Self { inotify, watches_max, dirs, files, subjects, unwatched: Unwatched::default() })
    }

    /// Watches a directory for a reader. To be called before the directory is read for it. Beyond
    /// the kernel's limit of watches, a directory is forgotten by its readers at every drain.
    ///
    /// # Errors
    /// The directory is gone.
    pub fn watch_dir(&mut self, path: &[u8], reader: ReaderId) -> Result<(), Errno> {
        if let Some(watched) = self.dirs.get_mut(path) {
            watched.readers.insert(reader);
            return Ok(());
        }
        let flags = DIR_EVENTS | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        let Some(descriptor) = self.watch(path, flags)? else {
            self.unwatched.add_dir(path, reader);
            return Ok(());
        };
        self.subject(descriptor, Subject::Dir(path.to_vec()));
        self.dirs.insert(path.to_vec(), Watched { descriptor, readers: BTreeSet::from([reader]) });
        Ok(())
    }

    /// Takes a reader back that could not read the directory after all.
    pub fn unwatch_dir(&mut self, path: &[u8], reader: ReaderId) {
        let Some(watched) = self.dirs.get_mut(path) else { return };
        watched.readers.remove(&reader);
        if watched.readers.is_empty() {
            self.unwatch(path);
        }
    }

    /// Watches a file that may change unseen by its directory, for the readers of that. Returns whether it
    /// was not watched before: then it may have changed since it was looked at.
    ///
    /// # Errors
    /// The file is gone.
    pub fn watch_file(&mut self, path: &[u8]) -> Result<bool, Errno> {
        let Some((dir, name)) = split(path).filter(|(dir, _)| self.dirs.contains_key(*dir)) else {
            // Nobody has read the directory, or all forget it at the next drain.
            return Ok(false);
        };
        if self.files.get(dir).is_some_and(|files| files.contains_key(name)) {
            return Ok(false);
        }
        // MASK_ADD: the inode may be watched already, under another of its names.
        let add = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let flags = FILE_EVENTS | AddWatchFlags::IN_DONT_FOLLOW | add;
        let Some(descriptor) = self.watch(path, flags)? else {
            self.unwatched.add_file(path);
            return Ok(false);
        };
        self.unwatched.files.remove(path);
        self.files.entry(dir.to_vec()).or_default().insert(name.to_vec(), descriptor);
        self.subject(descriptor, Subject::File(path.to_vec()));
        Ok(true)
    }

    /// Asks the kernel for a watch; nothing if it has none left.
    fn watch(&self, path: &[u8], flags: AddWatchFlags) -> Result<Option<WatchDescriptor>, Errno> {
        if self.subjects.len() >= self.watches_max {
            return Ok(None);
        }
        match self.inotify.add_watch(OsStr::from_bytes(path), flags) {
            Err(Errno::ENOSPC | Errno::ENOMEM) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Tells whether a drain may find something though the kernel has told nothing.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        let Unwatched { dirs, files, too_much } = &self.unwatched;
        *too_much || !dirs.is_empty() || !files.is_empty()
    }

    /// Returns the queue of what the kernel tells, to see whether there is anything in it.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn queue(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// Forgets a reader.
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

    /// Returns what happened since the last call, and at which of these points something else is mounted
    /// now.
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

    /// Watches nothing any more: a directory may have been moved unheard, and its watch with it.
    fn forget_all(&mut self) {
        for (descriptor, _) in self.subjects.drain() {
            let _ = self.inotify.rm_watch(descriptor);
        }
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
                    // A directory that is open somewhere outlives its name, and so does its watch:
                    // what has this name next is another directory.
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

    /// The directory was moved or deleted: its watches, and those below it, mean nothing any more.
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

    /// The name is another file's now, or nobody's.
    fn drop_file(&mut self, dir: &[u8], name: &[u8]) {
        let descriptor = self.files.get_mut(dir).and_then(|files| files.remove(name));
        if let Some(descriptor) = descriptor {
            self.release(descriptor, &Subject::File(join(dir, name)));
        }
        if !self.unwatched.files.is_empty() {
            self.unwatched.files.remove(&join(dir, name));
        }
    }

    /// Ends a watch if it stood for this alone.
    fn release(&mut self, descriptor: WatchDescriptor, subject: &Subject) {
        let Some(subjects) = self.subjects.get_mut(&descriptor) else { return };
        subjects.retain(|other| other != subject);
        if subjects.is_empty() {
            self.subjects.remove(&descriptor);
            // The kernel has dropped the watch itself if what it watched is gone.
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
