//! The inodes of hidden files, so that other hard links to them are hidden, too.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::lstat;

use super::open::open_dir;
use crate::path::{Bytes, join};
use crate::tree::{Attr, Kind, Time, names_in};

/// Most recorded files and directories: a browser profile has some ten thousand. Further ones are hidden by
/// path only.
const FILES_MAX: usize = 100_000;
const DIRS_MAX: usize = 2_000;

/// Recorded hidden files and directories.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    /// By device and inode, with a path that is hidden.
    files: HashMap<(u64, u64), Bytes>,
    /// Hidden directories, which are read again when they change.
    dirs: HashMap<Bytes, Option<State>>,
}

/// A fingerprint that changes when names are added or removed.
type State = (u64, u64, Time, Time);

impl Inodes {
    /// Records a hidden path, if it exists.
    pub(super) fn note_path(&mut self, path: &[u8]) {
        if let Ok(stat) = lstat(OsStr::from_bytes(path)) {
            self.note(path, &Attr::of(&stat));
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
        let there = lstat(OsStr::from_bytes(path));
        let is_same = there.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == key);
        if !is_same {
            self.files.remove(&key);
        }
        is_same
    }

    /// Reads again the hidden directories whose names changed.
    fn look_again(&mut self) {
        let mut queue: Vec<Bytes> = self.dirs.keys().cloned().collect();
        while let Some(dir) = queue.pop() {
            let Ok(stat) = lstat(OsStr::from_bytes(&dir)) else {
                self.dirs.remove(&dir);
                continue;
            };
            let attr = Attr::of(&stat);
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
