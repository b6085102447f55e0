//! Says what whoever watches a mount must look at again, by directories and names; and has listeners hear of all changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use worknode::history::Op;

use super::error::VolumeError;
use super::key;
use super::listener::Listener;
use super::model::{State, Volume};
use super::news::{Feed, News};
use super::node::{Entry, ROOT};
use super::row::Row;

/// Largest directory in which the name of a changed file is searched; all names of a larger one count as changed.
const ENTRIES_MAX: u64 = 16_384;

impl Volume {
    /// Returns where changes are noted.
    #[must_use]
    pub fn feed(&self) -> Arc<Feed> {
        Arc::clone(self.shared.mounts.feed())
    }

    /// Takes the changes since the last call, with those under way, which the next call returns again.
    #[must_use]
    pub fn news(&self) -> News {
        let mut news = self.shared.mounts.feed().take();
        if news.files.is_empty() {
            return news;
        }
        let named = self.shared.lock().name_files(&mut news);
        if let Err(error) = named {
            tracing::error!(%error, "failed to find the names of changed files: everything counts as changed");
            news.is_all = true;
        }
        news
    }

    /// Returns a listener of all changes from now on.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn listen(&self) -> io::Result<Arc<Listener>> {
        self.shared.lock().listeners.add()
    }
}

impl State {
    /// Has listeners hear of an event of this node.
    pub(super) fn tell_listeners(&mut self, op: &Op) {
        if self.listeners.is_empty() {
            return;
        }
        let (mut names, mut files) = (BTreeSet::new(), BTreeSet::new());
        match op {
            Op::Make { dir, name, .. } | Op::Link { dir, name, .. } | Op::Unlink { dir, name } => {
                names.insert((self.tree.ino(*dir), name.clone()));
            }
            Op::Move { dir, name, to, new, .. } => {
                names.insert((self.tree.ino(*dir), name.clone()));
                names.insert((self.tree.ino(*to), new.clone()));
            }
            Op::Write { file, .. }
            | Op::Set { file, .. }
            | Op::Xattr { file, .. }
            | Op::Choose { file, .. } => {
                files.insert(self.tree.ino(*file));
            }
        }
        self.listeners.tell(&names, &files);
    }

    /// Adds the names of the changed files. A file with several has watches of its own.
    fn name_files(&self, news: &mut News) -> Result<(), VolumeError> {
        let mut dirs: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for &ino in &news.files {
            let Some(node) = self.tree.find(ino)?.filter(|_| ino != ROOT) else { continue };
            dirs.entry(node.parent).or_default().insert(ino);
        }
        for (dir, mut files) in dirs {
            if self.tree.find(dir)?.is_some_and(|node| node.entries > ENTRIES_MAX) {
                news.dirs.insert(dir);
                continue;
            }
            for (row, value) in self.tree.tables.all(&key::entries(dir))? {
                if files.remove(&Entry::decode(&value)?.ino) {
                    news.names_of_files.insert((dir, key::name(&row).to_vec()));
                }
            }
            // A file that had several names has its last one in another directory.
            for ino in files {
                news.is_all |= self.tree.find(ino)?.is_some_and(|node| node.links == 1);
            }
        }
        Ok(())
    }
}
