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

/// Watches directories for readers.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    dirs: HashMap<Bytes, Watched>,
    /// What a watch stands for. Bind mounts can show one directory at several paths.
    subjects: HashMap<WatchDescriptor, Vec<Subject>>,
    /// Directories that the kernel had no watch left for: taken for changed at every drain.
    unwatched: BTreeMap<Bytes, BTreeSet<ReaderId>>,
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
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (dirs, subjects) = (HashMap::new(), HashMap::new());
        Ok(Self { inotify, dirs, subjects, unwatched: BTreeMap::new() })
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
        let descriptor = match self.inotify.add_watch(OsStr::from_bytes(path), flags) {
            Err(Errno::ENOSPC) => {
                self.unwatched.entry(path.to_vec()).or_default().insert(reader);
                return Ok(());
            }
            result => result?,
        };
        self.subject(descriptor, Subject::Dir(path.to_vec()));
        self.dirs.insert(path.to_vec(), Watched { descriptor, readers: BTreeSet::from([reader]) });
        Ok(())
    }

    /// Watches a file that has several names.
    ///
    /// # Errors
    /// As [`Self::watch_dir`].
    pub fn watch_file(&mut self, path: &[u8]) -> Result<(), Errno> {
        // MASK_ADD: the inode may be watched already, under another of its names.
        let add = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);
        let flags = FILE_EVENTS | AddWatchFlags::IN_DONT_FOLLOW | add;
        let descriptor = self.inotify.add_watch(OsStr::from_bytes(path), flags)?;
        self.subject(descriptor, Subject::File(path.to_vec()));
        Ok(())
    }

    /// Tells whether a drain may find something though the kernel has told nothing.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        !self.unwatched.is_empty()
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
        let mut idle = Vec::new();
        for (path, watched) in &mut self.dirs {
            watched.readers.remove(&reader);
            if watched.readers.is_empty() {
                idle.push(path.clone());
            }
        }
        for path in idle {
            self.unwatch(&path);
        }
    }

    /// Returns what happened since the last call.
    pub fn drain(&mut self) -> Drained {
        let forgotten = std::mem::take(&mut self.unwatched);
        let mut drained = Drained { forgotten, ..Drained::default() };
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        self.note(event, &mut drained);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return drained,
            }
        }
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
                    if event.mask.contains(AddWatchFlags::IN_ISDIR)
                        && event.mask.intersects(NAME_EVENTS)
                    {
                        self.forget(&join(&dir, name.as_bytes()), drained);
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
            self.subjects.remove(&event.wd);
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
        if let Some(subjects) = self.subjects.get_mut(&watched.descriptor) {
            subjects.retain(|subject| !matches!(subject, Subject::Dir(dir) if dir == path));
            if subjects.is_empty() {
                self.subjects.remove(&watched.descriptor);
                // The kernel has dropped the watch itself if the directory is gone.
                let _ = self.inotify.rm_watch(watched.descriptor);
            }
        }
        Some(watched.readers)
    }

    fn subject(&mut self, descriptor: WatchDescriptor, subject: Subject) {
        let subjects = self.subjects.entry(descriptor).or_default();
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(dir: &tempfile::TempDir, name: &str) -> Bytes {
        join(dir.path().as_os_str().as_bytes(), name.as_bytes())
    }

    #[test]
    fn sees_every_kind_of_change_at_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().as_os_str().as_bytes().to_vec();
        std::fs::write(dir.path().join("old"), b"1").expect("writable");
        let mut watcher = Watcher::new().expect("an inotify instance");
        watcher.watch_dir(&root, 1).expect("watchable");
        watcher.watch_dir(&root, 2).expect("watchable");
        assert!(watcher.drain().is_empty());
        std::fs::write(dir.path().join("new"), b"1").expect("writable");
        std::fs::rename(dir.path().join("old"), dir.path().join("moved")).expect("movable");
        let drained = watcher.drain();
        let (readers, names) = &drained.names[&root];
        assert_eq!(readers, &BTreeSet::from([1, 2]));
        assert_eq!(names, &[&b"new"[..], b"old", b"moved"].map(<[u8]>::to_vec).into());
        assert!(watcher.drain().is_empty());
    }

    #[test]
    fn moved_directories_are_forgotten_with_all_below() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("writable");
        let mut watcher = Watcher::new().expect("an inotify instance");
        for name in ["a", "a/b"] {
            watcher.watch_dir(&bytes(&dir, name), 1).expect("watchable");
        }
        std::fs::rename(dir.path().join("a"), dir.path().join("c")).expect("movable");
        std::fs::create_dir(dir.path().join("a")).expect("writable");
        let drained = watcher.drain();
        assert!(drained.forgotten.contains_key(&bytes(&dir, "a")), "{drained:?}");
        std::fs::write(dir.path().join("c/b/x"), b"1").expect("writable");
        assert!(watcher.drain().names.is_empty());
    }

    #[test]
    fn a_directory_that_is_open_does_not_stand_for_its_successor() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().as_os_str().as_bytes().to_vec();
        std::fs::create_dir(dir.path().join("d")).expect("writable");
        let mut watcher = Watcher::new().expect("an inotify instance");
        watcher.watch_dir(&root, 1).expect("watchable");
        watcher.watch_dir(&bytes(&dir, "d"), 1).expect("watchable");
        let open = std::fs::File::open(dir.path().join("d")).expect("openable");
        std::fs::remove_dir(dir.path().join("d")).expect("removable");
        std::fs::create_dir(dir.path().join("d")).expect("writable");
        assert!(watcher.drain().forgotten.contains_key(&bytes(&dir, "d")));
        watcher.watch_dir(&bytes(&dir, "d"), 1).expect("watchable");
        std::fs::write(dir.path().join("d/new"), b"1").expect("writable");
        assert!(watcher.drain().names.contains_key(&bytes(&dir, "d")));
        drop(open);
    }

    #[test]
    fn other_names_of_a_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("seen")).expect("writable");
        std::fs::write(dir.path().join("one"), b"1").expect("writable");
        std::fs::hard_link(dir.path().join("one"), dir.path().join("seen/two")).expect("linkable");
        let mut watcher = Watcher::new().expect("an inotify instance");
        watcher.watch_dir(&bytes(&dir, "seen"), 1).expect("watchable");
        watcher.watch_file(&bytes(&dir, "seen/two")).expect("watchable");
        std::fs::write(dir.path().join("one"), b"22").expect("writable");
        let drained = watcher.drain();
        assert!(drained.names[&bytes(&dir, "seen")].1.contains(b"two".as_slice()));
    }
}
