//! The page of a session is a file in memory that its user may write, and so could extend until nobody has memory. Its size is
//! looked after for as long as any process has it open.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, fchown};

use nix::unistd::geteuid;

use crate::sys::fds::is_open_elsewhere;

/// The file of a page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) file: File,
    bytes: u64,
}

impl Page {
    pub(crate) fn new(file: File, bytes: u64) -> Self {
        Self { file, bytes }
    }

    /// Cuts off what its user has appended. Returns whether there was anything.
    pub(crate) fn shorten(&self) -> bool {
        let is_longer = self.file.metadata().is_ok_and(|metadata| metadata.len() > self.bytes);
        if is_longer && let Err(error) = self.file.set_len(self.bytes) {
            tracing::error!(%error, "failed to shorten the page of a session");
        }
        is_longer
    }

    /// Closes the page to its user, who may have kept a link to it or its path. Whoever has it open keeps it.
    fn seal(&self) {
        let root = geteuid().is_root().then_some(0);
        let sealed = fchown(&self.file, root, root);
        let sealed = sealed.and_then(|()| self.file.set_permissions(Permissions::from_mode(0o000)));
        if let Err(error) = sealed {
            tracing::error!(%error, "failed to close the page of a session to its user");
        }
    }

    /// Takes the content from a page that no process has open, whose links may remain.
    fn empty(&self) {
        if let Err(error) = self.file.set_len(0) {
            tracing::error!(%error, "failed to empty the page of a session");
        }
    }

    /// Returns the page as it remains when its session has ended, and nobody opens it any more.
    fn left(&self) -> io::Result<Self> {
        self.seal();
        Ok(Self { file: self.file.try_clone()?, bytes: self.bytes })
    }
}

/// The pages of ended sessions that processes still have open, each with its user.
#[derive(Debug, Default)]
pub(crate) struct Left(Vec<(u32, Page)>);

impl Left {
    /// Keeps the page of a session that ends.
    pub(crate) fn add(&mut self, uid: u32, page: &Page) {
        match page.left() {
            Ok(page) => self.0.push((uid, page)),
            Err(error) => tracing::error!(%error, "failed to keep the page of a session"),
        }
    }

    /// Returns the number of a user's pages.
    pub(crate) fn count_of(&self, uid: u32) -> usize {
        self.0.iter().filter(|(user, _)| *user == uid).count()
    }

    /// Shortens all, and empties those that no process has open, and lets them go.
    pub(crate) fn keep_short(&mut self) {
        self.0.retain(|(_, page)| {
            page.shorten();
            let is_open = is_open_elsewhere(&page.file);
            if !is_open {
                page.empty();
            }
            is_open
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_page_is_kept_short_until_nobody_has_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("page");
        let open = || {
            let mut how = File::options();
            how.read(true).write(true).create(true).truncate(false).open(&path).expect("ours")
        };
        let (page, users) = (Page::new(open(), 100), open());
        assert!(!page.shorten());
        let mut left = Left::default();
        left.add(1000, &page);
        drop(page);
        std::fs::remove_file(&path).expect("it is there");
        users.set_len(1 << 30).expect("ours");
        left.keep_short();
        assert_eq!((left.count_of(1000), left.count_of(0)), (1, 0));
        assert_eq!(users.metadata().expect("open").len(), 100);
        drop(users);
        left.keep_short();
        assert_eq!(left.count_of(1000), 0);
    }

    #[test]
    fn a_kept_link_leads_to_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let [path, link] = ["page", "link"].map(|name| dir.path().join(name));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let page = Page::new(file.expect("ours"), 100);
        page.file.set_len(100).expect("ours");
        fchown(&page.file, Some(1000), None).expect("this test runs as root");
        std::fs::hard_link(&path, &link).expect("ours");
        std::fs::remove_file(&path).expect("it is there");
        let mut left = Left::default();
        left.add(1000, &page);
        drop(page);
        let kept = || link.metadata().expect("it is there");
        assert_eq!((kept().uid(), kept().mode() & 0o7777, kept().len()), (0, 0, 100));
        left.keep_short();
        assert_eq!((kept().len(), left.count_of(1000)), (0, 0));
    }
}
