//! The inodes of hidden files, so that other hard links to them are hidden, too. Only what may be asked is looked at: a
//! directory on a file system that does not answer keeps what was recorded of it.

use std::collections::HashMap;

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use super::open::{MayBeAsked, open, open_dir};
use crate::path::{Bytes, join};
use crate::tree::{Attr, Kind, Time, names_in};

/// Most recorded files and directories: a browser profile has some ten thousand. Further ones are hidden by
/// path only.
const FILES_MAX: usize = 100_000;
const DIRS_MAX: usize = 2_000;

/// Recorded hidden files and directories.
pub(super) struct Inodes {
    may_be_asked: MayBeAsked,
    /// By device and inode, with a path that is hidden.
    files: HashMap<(u64, u64), Bytes>,
    /// Hidden directories, which are read again when they change.
    dirs: HashMap<Bytes, Option<State>>,
}

/// A fingerprint that changes when names are added or removed.
type State = (u64, u64, Time, Time);

impl Inodes {
    pub(super) fn new(may_be_asked: MayBeAsked) -> Self {
        Self { may_be_asked, files: HashMap::new(), dirs: HashMap::new() }
    }

    /// Records a hidden path, if it exists and may be asked for.
    pub(super) fn note_path(&mut self, path: &[u8]) {
        if (self.may_be_asked)(path)
            && let Some(attr) = attr_at(path)
        {
            self.note(path, &attr);
        }
    }

    /// Records the file at a hidden path.
    pub(super) fn note(&mut self, path: &[u8], attr: &Attr) {
        match attr.kind {
            Kind::File if self.files.len() < FILES_MAX => {
                self.files.insert((attr.dev, attr.ino), path.to_vec());
            }
            Kind::Dir if self.dirs.len() < DIRS_MAX => {
                self.dirs.entry(path.to_vec()).or_insert(None);
            }
            _ => {}
        }
    }

    /// Tells whether a file has a hidden name.
    pub(super) fn holds(&mut self, attr: &Attr) -> bool {
        if attr.links > 1 {
            self.look_again();
        }
        let key = (attr.dev, attr.ino);
        let Some(path) = self.files.get(&key) else { return false };
        // The inode number may have been reused since.
        let is_same = !(self.may_be_asked)(path)
            || attr_at(path).is_some_and(|there| (there.dev, there.ino) == key);
        if !is_same {
            self.files.remove(&key);
        }
        is_same
    }

    /// Reads again the hidden directories whose names changed.
    fn look_again(&mut self) {
        let mut queue: Vec<Bytes> = self.dirs.keys().cloned().collect();
        while let Some(dir) = queue.pop() {
            if !(self.may_be_asked)(&dir) {
                continue;
            }
            let Some(attr) = attr_at(&dir) else {
                self.dirs.remove(&dir);
                continue;
            };
            let state = (attr.dev, attr.ino, attr.mtime, attr.ctime);
            if self.dirs.insert(dir.clone(), Some(state)) == Some(Some(state)) {
                continue;
            }
            let Ok(names) = open_dir(&dir).and_then(|open| names_in(&open)) else { continue };
            for path in names.iter().map(|name| join(&dir, name)) {
                let is_new = !self.dirs.contains_key(&path);
                self.note_path(&path);
                if is_new && self.dirs.contains_key(&path) {
                    queue.push(path);
                }
            }
        }
    }
}

/// Returns the attributes of what is at a path. No link on the way is followed: it could lead to a file system that does not
/// answer.
fn attr_at(path: &[u8]) -> Option<Attr> {
    let place = open(path, OFlag::O_PATH).ok()?;
    fstat(&place).ok().map(|stat| Attr::of(&stat))
}
