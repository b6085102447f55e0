//! What a session's token lets its walks read of this origin's files.

use std::collections::BTreeSet;
use std::sync::Arc;

use packetfs::export::is_kernels;
use packetfs::path::is_within;
use worknode::capability::Bounds;

use crate::installed::is_system;
use crate::wire::message::Ask;

/// The directories that may be read. All files, if there is no list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reach(Option<Arc<BTreeSet<String>>>);

impl Reach {
    /// Returns what the bounds of a token let be read.
    pub(crate) fn of(bounds: &Bounds) -> Self {
        Self(bounds.paths.clone().map(Arc::new))
    }

    /// Tells whether a question may be answered: about a file in one of the directories, about installed software, about
    /// the names in a directory on the way to one, and about the directories on which each sandbox mounts its own.
    pub(super) fn has(&self, ask: &Ask) -> bool {
        let Some(dirs) = &self.0 else { return true };
        let path = ask.path();
        let is_listing = matches!(ask, Ask::Listing(_));
        let is_on_way = |dir: &[u8]| is_listing && is_within(dir, path);
        let mut dirs = dirs.iter().map(String::as_bytes);
        // No names are told of the kernel's directories.
        is_system(path)
            || is_listing && is_kernels(path)
            || dirs.any(|dir| is_within(path, dir) || is_on_way(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_and_what_leads_there() {
        let paths = Some(["/home/u/a".to_owned()].into());
        let reach = Reach::of(&Bounds { paths, ..Bounds::default() });
        let listing = |path: &str| Ask::Listing(path.parse().expect("a path"));
        let content = |path: &str| Ask::Content(path.parse().expect("a path"));
        for (ask, may) in [
            (listing("/"), true),
            (listing("/home/u"), true),
            (listing("/proc"), true),
            (listing("/proc/1"), false),
            (listing("/home/v"), false),
            (content("/home/u"), false),
            (content("/home/u/a/b"), true),
            (content("/home/u/ab"), false),
            (content("/usr/include/stdio.h"), true),
        ] {
            assert_eq!(reach.has(&ask), may, "{ask:?}");
            assert!(Reach::default().has(&ask));
        }
    }
}
