//! What changes otherwise than by a call of this machine's kernel, for whoever watches a mount: inotify does not tell it.
//!
//! A change is news from before programs can see it until all kernels have been told of it, and once more after that. So whoever
//! looks at the mount when it is news finds at least what any program has found, and finds the rest the next time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worknode::history::Name;

/// Most changes that are noted one by one. Beyond this number, everything counts as changed.
const NEWS_MAX: usize = 10_000;

/// What may have changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct News {
    /// Names in directories: another file may have them.
    pub names: BTreeSet<(u64, Name)>,
    /// Files and directories with other attributes or contents.
    pub files: BTreeSet<u64>,
    /// Names of such files.
    pub names_of_files: BTreeSet<(u64, Name)>,
    /// Directories with names of such files that are not listed.
    pub dirs: BTreeSet<u64>,
    /// Too much has changed to say what.
    pub is_all: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    File(u64),
    Name(u64, Name),
}

/// The changes that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Feed(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Kernels have been told.
    told: BTreeSet<Item>,
    is_all: bool,
    /// Kernels are being told, each so many times.
    under_way: BTreeMap<Item, usize>,
    /// The same, of those beyond the bound.
    uncounted: usize,
}

/// Holds a change under way until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    feed: Arc<Feed>,
    item: Option<Item>,
}

impl Feed {
    /// Tells whether there is nothing to take.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let inner = self.lock();
        inner.told.is_empty() && inner.under_way.is_empty() && !inner.is_all && inner.uncounted == 0
    }

    /// Counts everything as changed, once.
    pub fn note_all(&self) {
        let mut inner = self.lock();
        inner.told.clear();
        inner.is_all = true;
    }

    /// Notes a change that programs cannot see yet.
    pub(super) fn begin(self: &Arc<Self>, item: Item) -> UnderWay {
        let mut inner = self.lock();
        let has_room = inner.under_way.len() < NEWS_MAX || inner.under_way.contains_key(&item);
        let item = has_room.then_some(item);
        match &item {
            Some(item) => *inner.under_way.entry(item.clone()).or_default() += 1,
            None => inner.uncounted += 1,
        }
        drop(inner);
        UnderWay { feed: Arc::clone(self), item }
    }

    /// Takes what kernels have been told, with a copy of what they are being told.
    pub(super) fn take(&self) -> News {
        let mut inner = self.lock();
        let told = std::mem::take(&mut inner.told);
        let is_all = std::mem::take(&mut inner.is_all) || inner.uncounted > 0;
        let mut news = News { is_all, ..News::default() };
        for item in told.into_iter().chain(inner.under_way.keys().cloned()) {
            match item {
                Item::File(ino) => drop(news.files.insert(ino)),
                Item::Name(dir, name) => drop(news.names.insert((dir, name))),
            }
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut inner = self.feed.lock();
        let Some(item) = self.item.take() else {
            inner.uncounted -= 1;
            inner.is_all = true;
            return;
        };
        if let Some(count) = inner.under_way.get_mut(&item) {
            *count -= 1;
            if *count == 0 {
                inner.under_way.remove(&item);
            }
        }
        if inner.told.len() < NEWS_MAX {
            inner.told.insert(item);
        } else {
            inner.told.clear();
            inner.is_all = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_news_while_kernels_are_told_and_once_after_that() {
        let feed = Arc::new(Feed::default());
        assert!(feed.is_quiet());
        let name = Item::Name(1, b"f".to_vec());
        let (first, second) = (feed.begin(name.clone()), feed.begin(name));
        let news = News { names: [(1, b"f".to_vec())].into(), ..News::default() };
        assert_eq!((feed.take(), feed.take()), (news.clone(), news.clone()));
        drop(first);
        assert_eq!((feed.take(), feed.take()), (news.clone(), news.clone()));
        drop(second);
        assert!(!feed.is_quiet());
        assert_eq!((feed.take(), feed.take()), (news, News::default()));
        assert!(feed.is_quiet());
    }

    #[test]
    fn beyond_the_bound_everything_has_changed() {
        let feed = Arc::new(Feed::default());
        let under_way: Vec<_> =
            (0..=NEWS_MAX as u64).map(|ino| feed.begin(Item::File(ino))).collect();
        assert!(feed.take().is_all && feed.take().is_all);
        drop(under_way);
        assert!(feed.take().is_all);
        assert!(feed.is_quiet() && feed.take() == News::default());
    }
}
