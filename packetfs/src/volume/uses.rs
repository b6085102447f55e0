//! What the kernel and programs use of the files: look-ups, open handles, backing files.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backing::Backing;

/// A file in use.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// Look-ups that the kernel has not forgotten.
    pub(super) lookups: u64,
    /// Open handles.
    pub(super) opens: u32,
    /// Open handles that may write.
    pub(super) writers: u32,
    /// The content, unless it is that of the tables.
    pub(super) backing: Option<Arc<Backing>>,
    /// It has got another name, so it is made durable with the next barrier.
    pub(super) replaced: bool,
    /// It has no name any more.
    pub(super) is_orphan: bool,
    /// The kernel reads and writes the backing file directly, for all handles alike.
    pub(super) is_through: bool,
    /// Programs that have closed it, or those of a former mount, can still write it.
    pub(super) is_mapped: bool,
    /// The kernel's cached pages may be older than the content.
    pub(super) has_stale_pages: bool,
    /// When another node last gave it another content.
    pub(super) rewritten: Option<Instant>,
}

impl Use {
    fn is_over(&self) -> bool {
        self.lookups == 0 && self.opens == 0 && self.backing.is_none()
    }
}

/// All files in use.
#[derive(Debug, Default)]
pub(super) struct Uses(HashMap<u64, Use>);

impl Uses {
    pub(super) fn get(&self, ino: u64) -> Option<&Use> {
        self.0.get(&ino)
    }

    pub(super) fn of(&mut self, ino: u64) -> &mut Use {
        self.0.entry(ino).or_default()
    }

    pub(super) fn get_mut(&mut self, ino: u64) -> Option<&mut Use> {
        self.0.get_mut(&ino)
    }

    /// Keeps the backing file of a file while it is changed without the lock.
    pub(super) fn hold(&mut self, ino: u64) {
        let it = self.of(ino);
        it.opens += 1;
        it.writers += 1;
    }

    /// Ends that. Tells whether nobody else writes the file.
    pub(super) fn release(&mut self, ino: u64) -> bool {
        let it = self.of(ino);
        it.opens = it.opens.saturating_sub(1);
        it.writers = it.writers.saturating_sub(1);
        it.writers == 0
    }

    /// Notes that a file has a name again.
    pub(super) fn revive(&mut self, ino: u64) {
        if let Some(it) = self.0.get_mut(&ino) {
            it.is_orphan = false;
        }
    }

    /// Returns the backing file.
    pub(super) fn backing(&self, ino: u64) -> Option<&Arc<Backing>> {
        self.0.get(&ino)?.backing.as_ref()
    }

    /// Tells whether a file has this backing file now.
    pub(super) fn is_backing(&self, ino: u64, backing: &Arc<Backing>) -> bool {
        self.backing(ino).is_some_and(|it| Arc::ptr_eq(it, backing))
    }

    /// Returns the backing file if it may have been written since the tables had its content.
    pub(super) fn dirty(&self, ino: u64) -> Option<Arc<Backing>> {
        self.backing(ino).filter(|backing| backing.is_dirty()).cloned()
    }

    /// Forgets look-ups.
    pub(super) fn forget(&mut self, ino: u64, lookups: u64) {
        if let Some(it) = self.0.get_mut(&ino) {
            it.lookups = it.lookups.saturating_sub(lookups);
        }
    }

    /// Drops what is said of a file that is not in use any more. Tells whether it has no name either.
    pub(super) fn end(&mut self, ino: u64) -> bool {
        let Some(it) = self.0.get(&ino) else { return false };
        let is_unused = it.lookups == 0 && it.opens == 0;
        let is_gone = is_unused && it.is_orphan;
        if it.is_over() || is_gone {
            self.0.remove(&ino);
        }
        is_gone
    }

    /// Returns the backing files that were not made durable for so long.
    pub(super) fn overdue(&self, after: Duration) -> impl Iterator<Item = &Arc<Backing>> {
        let kept = self.backed().filter(|(_, _, it)| !it.is_orphan);
        kept.map(|(_, it, _)| it).filter(move |it| it.is_overdue(after))
    }

    /// Returns the files with backing files.
    pub(super) fn backed(&self) -> impl Iterator<Item = (u64, &Arc<Backing>, &Use)> {
        self.0.iter().filter_map(|(&ino, it)| Some((ino, it.backing.as_ref()?, it)))
    }
}
