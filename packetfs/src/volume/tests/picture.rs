//! A whole tree as programs see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use worknode::history::Hlc;

use crate::tree::{Kind, Time};
use crate::volume::node::ROOT;
use crate::volume::{DirEntry, Shown, Volume};

/// All paths with what they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture(BTreeMap<Vec<u8>, Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    kind: Kind,
    /// Mode, owner, group, number of links: of the present only.
    owned: Option<(u32, u32, u32, u32)>,
    modified: Time,
    /// The content of a file, the target of a link.
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first path of the same file.
    first: Vec<u8>,
}

impl Picture {
    pub(super) fn of_live(volume: &Arc<Volume>) -> Self {
        Self::of(&Shown::live(Arc::clone(volume)), true)
    }

    /// Returns the picture of a moment. Who may read it depends on the present, so it says nothing of owners.
    pub(super) fn at(volume: &Arc<Volume>, moment: Hlc) -> Self {
        let shown = Shown::at(Arc::clone(volume), moment);
        Self::of(&shown.expect("the moment is over"), false)
    }

    fn of(shown: &Shown, is_live: bool) -> Self {
        let (mut all, mut firsts) = (BTreeMap::new(), BTreeMap::new());
        let mut dirs = vec![(Vec::new(), ROOT)];
        let item = |ino: u64, first: Vec<u8>| {
            let attr = shown.attr(ino).expect("it was just found").attr;
            let content = match attr.kind {
                Kind::File => shown.read(ino, 0, usize::try_from(attr.bytes).expect("small")),
                Kind::Symlink => shown.target(ino),
                _ => Ok(Vec::new()),
            };
            let content = content.expect("the packets are there");
            assert!(attr.kind != Kind::File || content.len() as u64 == attr.bytes);
            let names = shown.xattrs(ino).expect("it was just found");
            let value = |name: &[u8]| shown.xattr(ino, name).expect("it was just listed");
            let xattrs = names.iter().map(|name| (name.clone(), value(name))).collect();
            let owned = is_live.then_some((attr.mode, attr.uid, attr.gid, attr.links));
            Item { kind: attr.kind, owned, modified: attr.mtime, content, xattrs, first }
        };
        let mut found = vec![(Vec::new(), ROOT)];
        while let Some((path, dir)) = dirs.pop() {
            let handle = shown.open_dir(dir, 0).expect("a directory");
            for entry in list(shown, handle).iter().skip(2) {
                let below = shown.lookup(dir, &entry.name, 0).expect("it is listed").attr;
                let path = [&path[..], b"/", &entry.name].concat();
                if below.kind == Kind::Dir {
                    dirs.push((path.clone(), below.ino));
                }
                found.push((path, below.ino));
            }
            shown.close_dir(handle);
        }
        found.sort();
        for (path, ino) in found {
            let first: &mut Vec<u8> = firsts.entry(ino).or_insert_with(|| path.clone());
            all.insert(path, item(ino, first.clone()));
            if ino != ROOT {
                shown.forget(ino, 1);
            }
        }
        Self(all)
    }

    /// Returns the same without what it says of owners.
    pub(super) fn without_owners(mut self) -> Self {
        self.0.values_mut().for_each(|item| item.owned = None);
        self
    }

    /// Removes a path, and returns its content.
    pub(super) fn remove(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.remove(&[b"/", path].concat())?.content)
    }

    /// Returns the same without a directory; what is in it stays.
    pub(super) fn without_dir(&self, path: &[u8]) -> Self {
        let mut picture = self.clone();
        picture.0.remove(path);
        picture
    }

    /// Says where it differs from another.
    pub(super) fn differs(&self, other: &Self) -> Option<String> {
        let paths = self.0.keys().chain(other.0.keys());
        let brief = |item: Option<&Item>| {
            item.map(|item| Item {
                content: item.content.iter().take(9).copied().collect(),
                ..item.clone()
            })
        };
        let mut paths = paths.filter(|path| self.0.get(*path) != other.0.get(*path));
        let path = paths.next()?;
        let (one, two) = (brief(self.0.get(path)), brief(other.0.get(path)));
        Some(format!("{}: {one:?}, not {two:?}", String::from_utf8_lossy(path)))
    }
}

/// Returns all entries of an open directory.
pub(super) fn list(shown: &Shown, handle: u64) -> Vec<DirEntry> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let position = all.len() as u64;
        let page = shown.read_dir(handle, position).expect("it is open");
        let entries: Vec<_> = page.from(position).map(|(entry, _)| entry.clone()).collect();
        if entries.is_empty() {
            return all;
        }
        all.extend(entries);
    }
}
