//! Former contents that are being read: their packets are kept.

use std::collections::HashMap;

use worknode::history::Content;

/// The open readers.
#[derive(Debug, Default)]
pub(super) struct Readers {
    open: HashMap<u64, Content>,
    last: u64,
}

impl Readers {
    pub(super) fn add(&mut self, content: Content) -> u64 {
        self.last += 1;
        self.open.insert(self.last, content);
        self.last
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }

    pub(super) fn contents(&self) -> impl Iterator<Item = Content> {
        self.open.values().copied()
    }
}
