//! Contents whose packets are kept though no row may refer to them: those that are being read, and those that came while
//! garbage is looked for.

use std::collections::HashMap;

use worknode::history::Content;

/// The open readers.
#[derive(Debug, Default)]
pub(super) struct Readers {
    open: HashMap<u64, Content>,
    last: u64,
    /// What was written, or chosen, since somebody began to look for garbage.
    since: Option<Vec<Content>>,
}

impl Readers {
    pub(super) fn add(&mut self, content: Content) -> u64 {
        self.last += 1;
        self.note(content);
        self.open.insert(self.last, content);
        self.last
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }

    pub(super) fn contents(&self) -> impl Iterator<Item = Content> {
        self.open.values().chain(self.since.iter().flatten()).copied()
    }

    /// Has new contents noted from now on.
    pub(super) fn begin(&mut self) {
        self.since = Some(Vec::new());
    }

    /// Notes a content that a row is about to refer to.
    pub(super) fn note(&mut self, content: Content) {
        if let Some(since) = &mut self.since {
            since.push(content);
        }
    }

    /// Returns the contents that came since the last call.
    pub(super) fn news(&mut self) -> Vec<Content> {
        self.since.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Ends that.
    pub(super) fn end(&mut self) {
        self.since = None;
    }
}
