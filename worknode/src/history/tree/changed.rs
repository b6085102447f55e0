//! What has changed in a tree since somebody last asked, for tables that follow it.

use std::collections::BTreeSet;

use super::super::event::{FileId, Name};

/// What may look different.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// Files.
    pub files: BTreeSet<FileId>,
    /// Names in directories.
    pub names: BTreeSet<(FileId, Name)>,
    /// Anything: directories were united, or are no longer.
    pub is_all: bool,
}
