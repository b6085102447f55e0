//! What a share that writes its directory has to compare with the volume.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::left::Left;
use crate::path::{Bytes, is_within};
use crate::volume::Listener;

/// What a share that writes its directory knows of the volume.
#[derive(Debug)]
pub(super) struct Returns {
    pub(super) listener: Arc<Listener>,
    /// Names that are to be compared with the volume.
    pub(super) looks: BTreeSet<(Bytes, Bytes)>,
    /// All is to be compared.
    pub(super) is_all: bool,
    /// Files that are left as they are.
    pub(super) refused: BTreeMap<Bytes, Left>,
    /// The number of the top when it was compared last.
    pub(super) top: Option<u64>,
    /// Directories that were written and are not durable yet.
    pub(super) unsynced: BTreeSet<Bytes>,
    /// Whether a content could not be fetched in this round: others are not waited for.
    pub(super) is_away: bool,
    /// Files of the disk that could not be read.
    pub(super) unread: BTreeSet<Bytes>,
}

impl Returns {
    pub(super) fn new(listener: Arc<Listener>) -> Self {
        let (looks, refused, unread, unsynced) = Default::default();
        Self { listener, looks, is_all: true, refused, top: None, unsynced, is_away: false, unread }
    }

    /// Notes that what is below a directory is below another one now.
    pub(super) fn rename_dir(&mut self, before: &[u8], after: &[u8]) {
        let moved: Vec<_> =
            self.unsynced.iter().filter(|dir| is_within(dir, before)).cloned().collect();
        for dir in moved {
            self.unsynced.remove(&dir);
            self.unsynced.insert([after, &dir[before.len()..]].concat());
        }
    }
}
