//! The tree of an origin as one of its runners knows it: directories that were fetched whole, the
//! manifests of files that were read, and a number for each path that stays the same.
//!
//! The mirror is pure: it says what it knows or what must be fetched, takes in what was fetched and
//! what changed, and says what the kernel has to forget.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::packet::Manifest;
use crate::tree::{Attr, Bytes, Change, Content, Entry, Kind, Listing, Time, Version, join};

/// The number of a path. The root is 1, as FUSE wants it.
pub type Node = u64;
/// The number of `/`.
pub const ROOT: Node = 1;

/// What must be fetched before a question can be answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// The listing of the directory at this path.
    Listing(Bytes),
    /// The content of the file at this path.
    Content(Bytes),
}

/// The answer to a question about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It is known.
    Known(T),
    /// There is no such file.
    Absent,
    /// It is not known.
    Unknown(Need),
}

/// What the kernel has to forget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalidation {
    /// A name of a directory, also if it was known to be absent.
    Entry(Node, Bytes),
    /// Attributes and content.
    Node(Node),
}

#[derive(Debug)]
struct Item {
    parent: Node,
    name: Bytes,
    /// Nothing while the name is absent.
    attr: Option<Attr>,
    target: Option<Bytes>,
    manifest: Option<Arc<Manifest>>,
    /// When the origin last said that it changed, in batches of changes.
    changed: u64,
    children: HashMap<Bytes, Node>,
    /// The same in the order of their numbers, which only grow.
    order: Vec<Node>,
    /// All names of the directory are known.
    listed: bool,
    /// Absent names the kernel has asked for, kept for the root only: it alone cannot be forgotten
    /// as a whole.
    absent: BTreeSet<Bytes>,
}

/// An origin's tree.
#[derive(Debug)]
pub struct Mirror {
    items: HashMap<Node, Item>,
    next: Node,
    /// Batches of changes so far.
    batches: u64,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

impl Mirror {
    /// Makes a mirror that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        let time = Time { seconds: 0, nanos: 0 };
        // Until the root is fetched it is some directory; nobody sees these attributes, because
        // the first question about the root fetches it.
        let attr = Attr {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            bytes: 0,
            links: 2,
            rdev: 0,
            mtime: time,
            ctime: time,
            ino: 0,
            dev: 0,
        };
        let root = Item { attr: Some(attr), ..Item::new(ROOT, Bytes::new()) };
        Self { items: HashMap::from([(ROOT, root)]), next: ROOT + 1, batches: 0 }
    }

    /// Looks a name up.
    pub fn lookup(&mut self, dir: Node, name: &[u8]) -> Answer<(Node, Attr)> {
        let Some(item) = self.items.get_mut(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        let Some(&node) = item.children.get(name) else {
            if dir == ROOT {
                item.absent.insert(name.to_vec());
            }
            return Answer::Absent;
        };
        match self.attr(node) {
            Answer::Known(attr) => Answer::Known((node, attr)),
            Answer::Absent => Answer::Absent,
            Answer::Unknown(need) => Answer::Unknown(need),
        }
    }

    /// Returns the attributes of a path. Those of a directory are known only while its listing is:
    /// what happens in a directory changes its times, and only its own readers hear of it.
    #[must_use]
    pub fn attr(&self, node: Node) -> Answer<Attr> {
        match self.items.get(&node) {
            Some(Item { attr: Some(attr), listed, .. }) => {
                if attr.kind == Kind::Dir && !listed {
                    Answer::Unknown(Need::Listing(self.path(node)))
                } else {
                    Answer::Known(*attr)
                }
            }
            _ => Answer::Absent,
        }
    }

    /// Returns where a symbolic link points.
    #[must_use]
    pub fn target(&self, node: Node) -> Option<Bytes> {
        self.items.get(&node)?.target.clone()
    }

    /// Lists names of a directory, up to `limit` of those with numbers above `after`.
    #[must_use]
    pub fn list(&self, dir: Node, after: Node, limit: usize) -> Answer<Vec<(Bytes, Node, Attr)>> {
        let Some(item) = self.items.get(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        let start = item.order.partition_point(|&node| node <= after);
        let names = item.order[start..].iter().filter_map(|node| {
            let item = self.items.get(node)?;
            Some((item.name.clone(), *node, item.attr?))
        });
        Answer::Known(names.take(limit).collect())
    }

    /// Returns the packets of a file.
    #[must_use]
    pub fn manifest(&self, node: Node) -> Answer<Arc<Manifest>> {
        match self.items.get(&node) {
            Some(Item { attr: None, .. }) | None => Answer::Absent,
            Some(Item { manifest: Some(manifest), .. }) => Answer::Known(Arc::clone(manifest)),
            Some(_) => Answer::Unknown(Need::Content(self.path(node))),
        }
    }

    /// Returns the path behind a number.
    #[must_use]
    pub fn path(&self, node: Node) -> Bytes {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT {
            let Some(item) = self.items.get(&at) else { break };
            names.push(item.name.as_slice());
            at = item.parent;
        }
        names.iter().rev().fold(b"/".to_vec(), |path, name| join(&path, name))
    }

    /// Returns the path behind a number, if there is one.
    #[must_use]
    pub fn known_path(&self, node: Node) -> Option<Bytes> {
        self.items.contains_key(&node).then(|| self.path(node))
    }

    /// Returns the number of the path, if it has been seen.
    #[must_use]
    pub fn node(&self, path: &[u8]) -> Option<Node> {
        path.split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |dir, name| self.items.get(&dir)?.children.get(name).copied())
    }

    /// Returns the number of batches of changes so far.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Returns the version of the file at a path, unless it changed after the first `batches`.
    #[must_use]
    pub fn unchanged_since(&self, batches: u64, path: &[u8]) -> Option<Version> {
        let item = self.items.get(&self.node(path)?)?;
        item.attr.filter(|_| item.changed <= batches).map(|attr| attr.version())
    }

    /// Takes in a directory's listing.
    pub fn take_listing(&mut self, path: &[u8], listing: Listing) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        let Some(dir) = self.node(path) else { return forget };
        let gone: Vec<Bytes> = {
            let named: BTreeSet<&[u8]> =
                listing.entries.iter().map(|entry| entry.name.as_slice()).collect();
            let Some(item) = self.items.get(&dir) else { return forget };
            item.children.keys().filter(|name| !named.contains(name.as_slice())).cloned().collect()
        };
        for name in gone {
            self.set_name(dir, &name, None, &mut forget);
        }
        for entry in listing.entries {
            let name = entry.name.clone();
            self.set_name(dir, &name, Some(entry), &mut forget);
        }
        // What was never listed, or was forgotten, has no names in the kernel.
        if self.items.get(&dir).is_some_and(|item| !item.listed) {
            forget.retain(|invalidation| matches!(invalidation, Invalidation::Node(_)));
        }
        if let Some(item) = self.items.get_mut(&dir) {
            item.set_attr(dir, listing.attr, &mut forget);
            item.listed = true;
        }
        forget
    }

    /// Takes in a file's content.
    pub fn take_content(&mut self, path: &[u8], content: Content) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        let Some(node) = self.node(path) else { return forget };
        let Some(item) = self.items.get_mut(&node) else { return forget };
        item.set_attr(node, content.attr, &mut forget);
        item.manifest = Some(Arc::new(content.manifest));
        forget
    }

    /// Takes in what changed at the origin.
    pub fn apply(&mut self, changes: Vec<Change>) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        self.batches += 1;
        for change in changes {
            match change {
                Change::Names { dir, attr, names } => {
                    let Some(node) = self.node(&dir) else { continue };
                    if !self.items.get(&node).is_some_and(|item| item.listed) {
                        continue;
                    }
                    for (name, entry) in names {
                        self.set_name(node, &name, entry, &mut forget);
                        self.unread(node, &name, &mut forget);
                        self.recount(node, &name, &mut forget);
                    }
                    match attr {
                        Some(attr) => {
                            let item = self.items.get_mut(&node).expect("the node was just found");
                            item.set_attr(node, attr, &mut forget);
                            forget.insert(Invalidation::Node(node));
                        }
                        None => self.forget(node, &mut forget),
                    }
                }
                Change::Forget { dir } => {
                    if let Some(node) = self.node(&dir) {
                        self.forget(node, &mut forget);
                    }
                }
            }
        }
        forget
    }

    /// Sets what a name names, keeping its number.
    fn set_name(
        &mut self,
        dir: Node,
        name: &[u8],
        entry: Option<Entry>,
        forget: &mut BTreeSet<Invalidation>,
    ) {
        let known = self.items.get(&dir).and_then(|item| item.children.get(name).copied());
        let Some(entry) = entry else {
            if let Some(node) = known {
                self.forget(node, forget);
                if let Some(item) = self.items.get_mut(&node) {
                    item.attr = None;
                    item.target = None;
                    item.changed = self.batches;
                }
            }
            forget.insert(Invalidation::Entry(dir, name.to_vec()));
            return;
        };
        let node = known.unwrap_or_else(|| self.add(dir, name));
        let old = self.items.get(&node).and_then(|item| item.attr);
        match old {
            None => {
                forget.insert(Invalidation::Entry(dir, name.to_vec()));
            }
            Some(old) if old.kind != entry.attr.kind => {
                self.forget(node, forget);
                forget.insert(Invalidation::Entry(dir, name.to_vec()));
            }
            Some(old)
                if old.kind == Kind::Dir
                    && (old.ino, old.dev) != (entry.attr.ino, entry.attr.dev) =>
            {
                self.forget(node, forget);
            }
            Some(_) => {}
        }
        let batches = self.batches;
        let item = self.items.get_mut(&node).expect("the node is known or was just added");
        if old.is_none_or(|old| old.version() != entry.attr.version()) {
            item.manifest = None;
        }
        if old.is_some_and(|old| old.version() != entry.attr.version()) {
            item.changed = batches;
        }
        item.set_attr(node, entry.attr, forget);
        item.target = entry.target;
    }

    /// Unlearns a file's content. That a change was noticed proves that there was one, even where
    /// size and times are what they were: a clock tick is longer than a write.
    fn unread(&mut self, dir: Node, name: &[u8], forget: &mut BTreeSet<Invalidation>) {
        let node = self.items.get(&dir).and_then(|item| item.children.get(name).copied());
        if let Some((node, item)) = node.and_then(|node| Some((node, self.items.get_mut(&node)?)))
            && item.attr.is_some_and(|attr| attr.kind == Kind::File)
        {
            item.manifest = None;
            item.changed = self.batches;
            forget.insert(Invalidation::Node(node));
        }
    }

    /// Gives the other names of a file the number of links that this one has. Of a name that comes
    /// or goes only its own directory hears.
    fn recount(&mut self, dir: Node, name: &[u8], forget: &mut BTreeSet<Invalidation>) {
        let node = self.items.get(&dir).and_then(|item| item.children.get(name).copied());
        let Some(attr) = node.and_then(|node| self.items.get(&node)?.attr) else { return };
        if attr.kind == Kind::Dir || attr.links < 2 {
            return;
        }
        for (&other, item) in &mut self.items {
            if let Some(known) = item
                .attr
                .as_mut()
                .filter(|known| (known.dev, known.ino) == (attr.dev, attr.ino) && **known != attr)
            {
                let _ = known;
                item.set_attr(other, attr, forget);
                item.manifest = None;
                item.changed = self.batches;
            }
        }
    }

    /// Unlearns everything below a node, and its content.
    fn forget(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) {
        let Some(item) = self.items.get_mut(&node) else { return };
        item.manifest = None;
        let was_listed = std::mem::take(&mut item.listed);
        let absent = std::mem::take(&mut item.absent);
        forget.insert(Invalidation::Node(node));
        if node == ROOT {
            forget.extend(absent.into_iter().map(|name| Invalidation::Entry(ROOT, name)));
        } else {
            // With its entry the kernel drops all names below it.
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
        }
        if was_listed {
            let children: Vec<_> = item.children.values().copied().collect();
            for child in children {
                self.forget(child, forget);
            }
        }
    }

    fn add(&mut self, dir: Node, name: &[u8]) -> Node {
        let node = self.next;
        self.next += 1;
        self.items.insert(node, Item::new(dir, name.to_vec()));
        if let Some(item) = self.items.get_mut(&dir) {
            item.absent.remove(name);
            item.children.insert(name.to_vec(), node);
            item.order.push(node);
        }
        node
    }
}

impl Item {
    /// Sets the attributes, and says what of the old ones the kernel has to forget.
    fn set_attr(&mut self, node: Node, attr: Attr, forget: &mut BTreeSet<Invalidation>) {
        let old = self.attr.replace(attr);
        if old.is_some_and(|old| old != attr) {
            forget.insert(Invalidation::Node(node));
        }
        // An overlay checks permissions by what its lower inode said when the name was looked up.
        let rights = |attr: Attr| (attr.mode, attr.uid, attr.gid);
        if node != ROOT && old.is_some_and(|old| rights(old) != rights(attr)) {
            forget.insert(Invalidation::Entry(self.parent, self.name.clone()));
        }
    }

    fn new(parent: Node, name: Bytes) -> Self {
        Self {
            parent,
            name,
            attr: None,
            target: None,
            manifest: None,
            changed: 0,
            children: HashMap::new(),
            order: Vec::new(),
            listed: false,
            absent: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: Kind, ino: u64, bytes: u64) -> Attr {
        let time = Time { seconds: i64::try_from(ino).unwrap_or(0), nanos: 0 };
        Attr {
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            bytes,
            links: 1,
            rdev: 0,
            mtime: time,
            ctime: time,
            ino,
            dev: 1,
        }
    }

    fn entry(name: &str, attr: Attr) -> Entry {
        Entry { name: name.into(), attr, target: None }
    }

    fn listing(ino: u64, entries: Vec<Entry>) -> Listing {
        Listing { attr: attr(Kind::Dir, ino, 0), entries }
    }

    fn mirror() -> Mirror {
        let mut mirror = Mirror::new();
        mirror.take_listing(b"/", listing(2, vec![entry("src", attr(Kind::Dir, 3, 0))]));
        let files =
            vec![entry("a.c", attr(Kind::File, 4, 10)), entry("b.c", attr(Kind::File, 5, 1))];
        mirror.take_listing(b"/src", listing(3, files));
        mirror
    }

    fn names(dir: &str, name: &str, entry: Option<Entry>) -> Vec<Change> {
        let names = vec![(name.into(), entry)];
        vec![Change::Names { dir: dir.into(), attr: Some(attr(Kind::Dir, 3, 0)), names }]
    }

    #[test]
    fn asks_for_what_it_does_not_know() {
        let mut mirror = Mirror::new();
        assert_eq!(mirror.lookup(ROOT, b"src"), Answer::Unknown(Need::Listing(b"/".to_vec())));
        mirror = self::mirror();
        mirror.take_listing(b"/", listing(2, vec![entry("src", attr(Kind::Dir, 3, 0))]));
        let src = mirror.node(b"/src").expect("listed");
        let Answer::Known((node, found)) = mirror.lookup(src, b"a.c") else { panic!("listed") };
        assert_eq!(found.bytes, 10);
        assert_eq!(mirror.path(node), b"/src/a.c");
        assert_eq!(mirror.manifest(node), Answer::Unknown(Need::Content(b"/src/a.c".to_vec())));
        assert_eq!(mirror.lookup(src, b"none"), Answer::Absent);
    }

    #[test]
    fn directories_are_listed_in_parts() {
        let mut mirror = mirror();
        let src = mirror.node(b"/src").expect("listed");
        mirror.apply(names("/src", "new", Some(entry("new", attr(Kind::File, 7, 1)))));
        mirror.apply(names("/src", "b.c", None));
        let mut found = Vec::new();
        let mut after = 0;
        while let Answer::Known(part) = mirror.list(src, after, 1)
            && let Some((name, node, _)) = part.into_iter().next()
        {
            found.push(name);
            after = node;
        }
        assert_eq!(found, [b"a.c".to_vec(), b"new".to_vec()]);
    }

    #[test]
    fn numbers_survive_replacement_and_content_does_not() {
        let mut mirror = mirror();
        let node = mirror.node(b"/src/a.c").expect("listed");
        let content = Content { attr: attr(Kind::File, 4, 10), manifest: Manifest::default() };
        assert!(mirror.take_content(b"/src/a.c", content).is_empty());
        assert!(matches!(mirror.manifest(node), Answer::Known(_)));
        let forget =
            mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::File, 9, 10)))));
        assert!(forget.contains(&Invalidation::Node(node)));
        assert_eq!(mirror.node(b"/src/a.c"), Some(node));
        assert!(matches!(mirror.manifest(node), Answer::Unknown(_)));
    }

    #[test]
    fn what_changed_since_has_no_version() {
        let mut mirror = mirror();
        let before = mirror.batches();
        let version = attr(Kind::File, 4, 10).version();
        assert_eq!(mirror.unchanged_since(before, b"/src/a.c"), Some(version));
        mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::File, 4, 11)))));
        assert_eq!(mirror.unchanged_since(before, b"/src/a.c"), None);
        let version = attr(Kind::File, 4, 11).version();
        assert_eq!(mirror.unchanged_since(mirror.batches(), b"/src/a.c"), Some(version));
        assert!(mirror.unchanged_since(before, b"/src/b.c").is_some());
    }

    #[test]
    fn created_and_deleted_names() {
        let mut mirror = mirror();
        let src = mirror.node(b"/src").expect("listed");
        let forget = mirror.apply(names("/src", "new", Some(entry("new", attr(Kind::File, 7, 1)))));
        assert!(forget.contains(&Invalidation::Entry(src, b"new".to_vec())));
        assert!(matches!(mirror.lookup(src, b"new"), Answer::Known(_)));
        let forget = mirror.apply(names("/src", "new", None));
        assert!(forget.contains(&Invalidation::Entry(src, b"new".to_vec())));
        assert_eq!(mirror.lookup(src, b"new"), Answer::Absent);
    }

    #[test]
    fn a_replaced_directory_is_listed_again() {
        let mut mirror = mirror();
        let src = mirror.node(b"/src").expect("listed");
        let change = names("/", "src", Some(entry("src", attr(Kind::Dir, 33, 0))));
        let forget = mirror.apply(change);
        assert!(forget.contains(&Invalidation::Entry(ROOT, b"src".to_vec())));
        assert!(matches!(mirror.lookup(src, b"a.c"), Answer::Unknown(_)));
    }

    #[test]
    fn an_overflow_unlearns_all() {
        let mut mirror = mirror();
        assert_eq!(mirror.lookup(ROOT, b"absent"), Answer::Absent);
        let forget = mirror.apply(vec![Change::Forget { dir: b"/".to_vec() }]);
        assert!(forget.contains(&Invalidation::Entry(ROOT, b"absent".to_vec())));
        assert!(forget.contains(&Invalidation::Entry(ROOT, b"src".to_vec())));
        assert!(matches!(mirror.lookup(ROOT, b"src"), Answer::Unknown(_)));
    }
}
