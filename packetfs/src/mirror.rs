//! The tree of an origin as one of its runners knows it: directories that were fetched whole, the
//! manifests of files that were read, and a number for each path that stays the same. The names of
//! a file that has several share a number.
//!
//! The mirror is pure: it says what it knows or what must be fetched, takes in what was fetched and
//! what changed, and says what the kernel has to forget.

mod gone;
mod links;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::change::Base;
use crate::contents;
use crate::packet::{Digest, Manifest};
use crate::path::TreePath;
use crate::tree::{Attr, Bytes, Change, Content, Entry, Kind, Listing, Time, Version, Xattr, join};
use crate::xattr;
use gone::{Gone, Went};
use links::Links;

/// The number of a path, or of a file with several. The root is 1, as FUSE wants it.
pub type Node = u64;
/// The number of `/`.
pub const ROOT: Node = 1;
/// A directory of the root.
const SERVICES: &[u8] = b"run";
/// The number of no path.
const NOWHERE: Node = 0;
/// Absent names of `/` that the kernel may remember: far more than programs look for.
const ABSENT_MAX: usize = 4096;
/// Earlier times of a directory that are kept: one that got more of them during a walk may have had any.
const EARLIER_MAX: usize = 8;

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
    /// It is in a directory that is not shown.
    Hidden,
}

impl<T> Answer<T> {
    fn map<U>(self, make: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Known(value) => Answer::Known(make(value)),
            Self::Absent => Answer::Absent,
            Self::Unknown(need) => Answer::Unknown(need),
            Self::Hidden => Answer::Hidden,
        }
    }
}

/// What the kernel has to forget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalidation {
    /// A name of a directory, also if it was known to be absent.
    Entry(Node, Bytes),
    /// Attributes and content.
    Node(Node),
}

/// A name of a directory, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: Bytes,
    /// The inode number that is shown of what it names.
    pub ino: u64,
    /// Its place in the listing: those of later names are larger.
    pub place: Node,
    /// The attributes of what it names.
    pub attr: Attr,
}

#[derive(Debug)]
struct Item {
    parent: Node,
    name: Bytes,
    /// Nothing while the name is absent.
    attr: Option<Attr>,
    target: Option<Bytes>,
    xattrs: Vec<Xattr>,
    manifest: Option<Arc<Manifest>>,
    /// When the origin last said that it changed, in batches of changes.
    changed: u64,
    /// The modification times that a directory had, each with the batch in which it got another, the
    /// last ones.
    earlier: VecDeque<(u64, Time)>,
    /// When its listing was forgotten last.
    forgotten: u64,
    children: HashMap<Bytes, Node>,
    /// The same in the order of their numbers, which only grow.
    order: Vec<Node>,
    /// All names of the directory are known.
    listed: bool,
    /// They were known once.
    seen: bool,
    /// When the last name went of which nothing is known any more, in batches of changes, if a walk
    /// may have seen it.
    dropped: u64,
    /// It is a directory whose names are not shown.
    hidden: bool,
    /// Absent names the kernel has asked for, kept for the root only: it alone cannot be forgotten
    /// as a whole.
    absent: BTreeSet<Bytes>,
}

/// An origin's tree.
#[derive(Debug)]
pub struct Mirror {
    /// By path.
    items: HashMap<Node, Item>,
    links: Links,
    next: Node,
    /// Batches of changes so far.
    batches: u64,
    marks: Marks,
    gone: Gone,
    /// What is too much for the kernel to remember.
    excess: BTreeSet<Invalidation>,
}

/// Whether anything in a tree has, or had, what only a mount with extended attributes shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Extended attributes.
    pub xattrs: bool,
    /// Access control lists.
    pub acls: bool,
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
            blocks: 0,
            links: 2,
            rdev: 0,
            mtime: time,
            ctime: time,
            ino: 0,
            dev: 0,
        };
        let root = Item { attr: Some(attr), ..Item::new(ROOT, Bytes::new()) };
        let (items, links) = (HashMap::from([(ROOT, root)]), Links::default());
        let (marks, gone, excess) = (Marks::default(), Gone::default(), BTreeSet::new());
        Self { items, links, next: ROOT + 1, batches: 0, marks, gone, excess }
    }

    /// Looks a name up; by the name `.` what a number stands for, which may be no directory.
    pub fn lookup(&mut self, dir: Node, name: &[u8]) -> Answer<(Node, Attr)> {
        if name == b"." {
            return self.attr(dir).map(|attr| (dir, attr));
        }
        let Some(item) = self.items.get_mut(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        if item.hidden {
            return Answer::Hidden;
        }
        let Some(&place) = item.children.get(name) else {
            if dir == ROOT && item.absent.insert(name.to_vec()) && item.absent.len() > ABSENT_MAX {
                // Any but this one, which the kernel is told of only now.
                let other = item.absent.iter().find(|known| *known != name).cloned();
                if let Some(other) = other.filter(|other| item.absent.remove(other)) {
                    self.excess.insert(Invalidation::Entry(ROOT, other));
                }
            }
            return Answer::Absent;
        };
        // The number of a name that is gone may be that of a file which it named once.
        if self.items.get(&place).is_none_or(|item| item.attr.is_none()) {
            return Answer::Absent;
        }
        let node = self.links.shown(place);
        self.attr(node).map(|attr| (node, attr))
    }

    /// Tells whether a directory is that in which an origin's services have their files, which is empty here.
    #[must_use]
    pub fn is_of_services(&self, dir: Node) -> bool {
        self.items.get(&dir).is_some_and(|item| item.parent == ROOT && item.name == SERVICES)
    }

    /// Takes what the kernel has to forget because it would be too much to remember.
    pub fn take_excess(&mut self) -> BTreeSet<Invalidation> {
        std::mem::take(&mut self.excess)
    }

    /// Notes that a walk begins; returns the batches of changes so far. What it may have seen is kept
    /// until its [`Self::end`].
    pub fn begin(&mut self) -> u64 {
        self.gone.begin(self.batches);
        self.batches
    }

    /// Notes that a walk which began after so many batches is over.
    pub fn end(&mut self, batches: u64) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        self.gone.end(batches);
        self.sweep(&mut forget);
        forget
    }

    /// Returns the attributes of a path. Those of a directory are known only while its listing is:
    /// what happens in a directory changes its times, and only its own readers hear of it.
    #[must_use]
    pub fn attr(&self, node: Node) -> Answer<Attr> {
        match self.items.get(&self.one_path(node)) {
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

    /// Returns the modification times since a moment, of all that is known.
    #[must_use]
    pub fn times_since(&self, moment: Time) -> HashSet<Time> {
        let times = self.items.values().filter_map(|item| Some(item.attr?.mtime));
        times.filter(|&time| time >= moment).collect()
    }

    /// Returns the attributes of what a path names; no symbolic link is followed.
    #[must_use]
    pub fn attr_at(&self, path: &[u8]) -> Answer<Attr> {
        let mut node = ROOT;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = self.items.get(&node) else { return Answer::Absent };
            if dir.attr.is_none_or(|attr| attr.kind != Kind::Dir) {
                return Answer::Absent;
            }
            if !dir.listed {
                return Answer::Unknown(Need::Listing(self.path_at(node)));
            }
            if dir.hidden {
                return Answer::Hidden;
            }
            let Some(&place) = dir.children.get(name) else { return Answer::Absent };
            node = place;
        }
        match self.items.get(&node).and_then(|item| item.attr) {
            Some(_) => self.attr(self.links.shown(node)),
            None => Answer::Absent,
        }
    }

    /// Returns the inode number that is shown of what has a number and these attributes. Of directories
    /// an overlay shows its own.
    #[must_use]
    pub fn ino(&self, node: Node, attr: &Attr) -> u64 {
        if attr.kind == Kind::Dir { node } else { self.links.ino(attr) }
    }

    /// Returns where a symbolic link points.
    #[must_use]
    pub fn target(&self, node: Node) -> Option<Bytes> {
        self.items.get(&self.one_path(node))?.target.clone()
    }

    /// Returns the extended attributes of a path. Nobody asks before it was looked up.
    #[must_use]
    pub fn xattrs(&self, node: Node) -> &[Xattr] {
        self.items.get(&self.one_path(node)).map_or(&[], |item| &item.xattrs)
    }

    /// Tells whether anything that was listed so far has extended attributes.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Lists names of a directory, up to `limit` of those whose places are behind `after`.
    #[must_use]
    pub fn list(&self, dir: Node, after: Node, limit: usize) -> Answer<Vec<Name>> {
        let Some(item) = self.items.get(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        if item.hidden {
            return Answer::Hidden;
        }
        let start = item.order.partition_point(|&node| node <= after);
        let names = item.order[start..].iter().filter_map(|&place| {
            let item = self.items.get(&place)?;
            let attr = item.attr?;
            let ino = self.ino(self.links.shown(place), &attr);
            Some(Name { name: item.name.clone(), ino, place, attr })
        });
        Answer::Known(names.take(limit).collect())
    }

    /// Returns the packets of a file.
    #[must_use]
    pub fn manifest(&self, node: Node) -> Answer<Arc<Manifest>> {
        match self.items.get(&self.one_path(node)) {
            Some(Item { attr: None, .. }) | None => Answer::Absent,
            Some(Item { manifest: Some(manifest), .. }) => Answer::Known(Arc::clone(manifest)),
            Some(_) => Answer::Unknown(Need::Content(self.path(node))),
        }
    }

    /// Returns the path behind a number; one of them, if there are several.
    #[must_use]
    pub fn path(&self, node: Node) -> Bytes {
        self.path_at(self.one_path(node))
    }

    fn path_at(&self, place: Node) -> Bytes {
        let mut names = Vec::new();
        let mut at = place;
        while at != ROOT {
            let Some(item) = self.items.get(&at) else { break };
            names.push(item.name.as_slice());
            at = item.parent;
        }
        names.iter().rev().fold(b"/".to_vec(), |path, name| join(&path, name))
    }

    /// Returns the paths behind a number: none where there is no such file. Of the names of a file
    /// with several those that are listed: what is known of the others may be old.
    #[must_use]
    pub fn known_paths(&self, node: Node) -> Vec<Bytes> {
        match self.links.sharing(node) {
            Some(paths) => {
                let listed = paths.iter().filter(|&&path| self.is_listed(path));
                listed.map(|&path| self.path_at(path)).collect()
            }
            None => {
                let place = self.one_path(node);
                self.items.get(&place).map(|_| self.path_at(place)).into_iter().collect()
            }
        }
    }

    /// Returns the number of a path behind a number: of several one that is listed, if any is. The path
    /// whose own number it is may show another one by now.
    fn one_path(&self, node: Node) -> Node {
        let Some(paths) = self.links.sharing(node) else {
            return if self.links.shown(node) == node { node } else { NOWHERE };
        };
        let listed = paths.iter().find(|&&path| self.is_listed(path));
        listed.or(paths.first()).copied().unwrap_or(node)
    }

    /// Tells whether a path is one that its directory is known to have.
    fn is_listed(&self, path: Node) -> bool {
        let dir = self.items.get(&path).and_then(|item| self.items.get(&item.parent));
        dir.is_some_and(|dir| dir.listed)
    }

    /// Returns the number that a path shows, if it has been seen and is not gone.
    #[must_use]
    pub fn node(&self, path: &[u8]) -> Option<Node> {
        let place = self.place(path)?;
        self.items.get(&place)?.attr?;
        Some(self.links.shown(place))
    }

    /// Returns the path's own number, if it has been seen.
    fn place(&self, path: &[u8]) -> Option<Node> {
        path.split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |dir, name| self.items.get(&dir)?.children.get(name).copied())
    }

    /// Returns the first listing on the way to a directory that is not known, its own among them.
    #[must_use]
    pub fn lacks(&self, dir: &[u8]) -> Option<Need> {
        let mut node = ROOT;
        let mut names = dir.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        loop {
            let item = self.items.get(&node)?;
            item.attr.filter(|attr| attr.kind == Kind::Dir)?;
            if !item.listed {
                return Some(Need::Listing(self.path(node)));
            }
            node = *item.children.get(names.next()?)?;
        }
    }

    /// Returns the number of batches of changes so far.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Returns the version of a file, as far as it is known.
    #[must_use]
    pub fn version(&self, node: Node) -> Option<Version> {
        self.items.get(&self.one_path(node))?.attr.map(|attr| attr.version())
    }

    /// Returns what somebody has found at a path who has looked after the first `batches`. A listing
    /// that is not known any more is what was found, all the same.
    #[must_use]
    pub fn base_since(&self, batches: u64, path: &[u8]) -> Base {
        let mut at = ROOT;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = self.items.get(&at) else { return Base::Unknown };
            match dir.children.get(name) {
                Some(&place) => at = place,
                None if dir.seen && dir.dropped <= batches => return Base::Nothing,
                None => return Base::Unknown,
            }
        }
        match self.items.get(&at) {
            Some(item) if item.changed <= batches => {
                item.attr.as_ref().map_or(Base::Nothing, Base::of)
            }
            _ => Base::Unknown,
        }
    }

    /// Returns the digest of what somebody has found in a directory who has looked after the first
    /// `batches`; nothing if that is not known.
    #[must_use]
    pub fn contents_since(&self, batches: u64, path: &[u8]) -> Option<Digest> {
        contents::digest(path, &mut |dir| {
            let dir = self.items.get(&self.place(dir)?)?;
            if !dir.seen || dir.hidden || dir.dropped > batches {
                return None;
            }
            let found = |(name, place): (&Bytes, &Node)| {
                let item = self.items.get(place)?;
                if item.changed > batches {
                    return Some(None);
                }
                item.attr.map(|attr| Some((name.clone(), attr.kind == Kind::Dir)))
            };
            dir.children.iter().filter_map(found).collect()
        })
    }

    /// Tells whether somebody may have found a directory with this modification time who has looked
    /// after the first `batches`, though it has another by now.
    #[must_use]
    pub fn had_time_since(&self, batches: u64, path: &[u8], time: Time) -> bool {
        let Some(item) = self.place(path).and_then(|place| self.items.get(&place)) else {
            return true;
        };
        let mut since = item.earlier.iter().rev().take_while(|(batch, _)| *batch > batches);
        let count = since.clone().count();
        count == EARLIER_MAX || since.any(|&(_, earlier)| earlier == time)
    }

    /// Takes in a directory's listing.
    pub fn take_listing(&mut self, path: &TreePath, listing: Listing) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        let Some(dir) = self.place(path) else { return forget };
        // What is another one than before is not what a running walk was shown. One that began after the
        // listing was forgotten has asked for this one.
        let now = self.batches + 1;
        let forgotten = self.items.get(&dir).filter(|item| item.seen && !item.listed);
        self.batches = forgotten.map_or(now, |item| item.forgotten);
        let gone: Vec<Bytes> = {
            let named: BTreeSet<&[u8]> = listing.entries.iter().map(|entry| &*entry.name).collect();
            let children = self.items.get(&dir).into_iter().flat_map(|item| item.children.keys());
            children.filter(|name| !named.contains(name.as_slice())).cloned().collect()
        };
        for name in gone {
            self.set_name(dir, &name, None, &mut forget);
        }
        for entry in listing.entries {
            let name = entry.name.clone();
            self.set_name(dir, &name, Some(entry), &mut forget);
        }
        let changed = std::mem::replace(&mut self.batches, now);
        // What was never listed, or was forgotten, has no names in the kernel.
        if self.items.get(&dir).is_some_and(|item| !item.listed) {
            forget.retain(|it| !matches!(it, Invalidation::Entry(parent, _) if *parent == dir));
        }
        if let Some(item) = self.items.get_mut(&dir) {
            item.note_change(&listing.attr, changed);
            item.set_attr(dir, listing.attr, &mut forget);
            item.listed = true;
            item.seen = true;
            item.hidden = listing.hidden;
        }
        self.sweep(&mut forget);
        forget
    }

    /// Takes in a file's content.
    pub fn take_content(&mut self, path: &TreePath, content: Content) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        let Some(node) = self.place(path) else { return forget };
        // The name may be another file's by now, of which nobody has heard yet.
        self.relink(node, Some(&content.attr), &mut forget);
        let (shown, manifest) = (self.links.shown(node), Arc::new(content.manifest));
        // It is another one than a running walk was told of, if nobody has heard of the change yet.
        let known = self.items.get(&node).and_then(|item| item.attr);
        let changed = known.is_none_or(|known| known.version() != content.attr.version());
        self.batches += u64::from(changed);
        for name in self.links.others(node).into_iter().chain([node]) {
            let Some(item) = self.items.get_mut(&name) else { continue };
            item.set_attr(shown, content.attr, &mut forget);
            item.manifest = Some(Arc::clone(&manifest));
            if changed {
                item.changed = self.batches;
            }
        }
        forget
    }

    /// Takes in what changed at the origin.
    pub fn apply(&mut self, changes: Vec<Change>) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        self.batches += 1;
        for change in changes {
            match change {
                Change::Names { dir, attr, names } => {
                    let Some(node) = self.place(&dir) else { continue };
                    if !self.items.get(&node).is_some_and(|item| item.listed) {
                        continue;
                    }
                    for (name, entry) in names {
                        self.set_name(node, &name, entry, &mut forget);
                        self.unread(node, &name, &mut forget);
                    }
                    match attr {
                        Some(attr) => {
                            let item = self.items.get_mut(&node).expect("the node was just found");
                            item.note_change(&attr, self.batches);
                            item.set_attr(node, attr, &mut forget);
                            forget.insert(Invalidation::Node(node));
                        }
                        None => self.forget(node, &mut forget),
                    }
                }
                Change::Forget { dir } => {
                    if let Some(node) = self.place(&dir) {
                        self.forget(node, &mut forget);
                    }
                }
            }
        }
        self.sweep(&mut forget);
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
                self.relink(node, None, forget);
                if let Some(item) = self.items.get_mut(&node)
                    && item.attr.take().is_some()
                {
                    item.target = None;
                    item.xattrs = Vec::new();
                    item.changed = self.batches;
                    self.gone.note(self.batches, node);
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
        self.relink(node, Some(&entry.attr), forget);
        for name in self.links.others(node).into_iter().chain([node]) {
            self.learn(name, &entry.attr, &entry.xattrs, forget);
        }
        self.marks.xattrs |= !entry.xattrs.is_empty();
        self.marks.acls |= entry.xattrs.iter().any(|(name, _)| xattr::is_acl(name));
        // That there was nothing is known of a directory that was listed before.
        let appears = old.is_none() && self.items.get(&dir).is_some_and(|dir| dir.seen);
        let item = self.items.get_mut(&node).expect("the node is known or was just added");
        item.target = entry.target;
        if appears {
            item.changed = self.batches;
        }
    }

    /// Drops the names that are gone, as far as no walk may ask for them. Their numbers stand for
    /// nothing from now on, as before; a name that comes back gets another one.
    fn sweep(&mut self, forget: &mut BTreeSet<Invalidation>) {
        while let Some(Went { batch, path: node, was_seen }) = self.gone.next() {
            // It may have come back, and gone again.
            let is_gone = |item: &&Item| item.attr.is_none() && item.changed == batch;
            let Some(item) = self.items.get(&node).filter(is_gone) else { continue };
            let (parent, name) = (item.parent, item.name.clone());
            if let Some(dir) = self.items.get_mut(&parent) {
                dir.children.remove(&name);
                if let Ok(at) = dir.order.binary_search(&node) {
                    dir.order.remove(at);
                }
                if was_seen {
                    dir.dropped = dir.dropped.max(batch);
                }
            }
            self.drop_all(node, forget);
        }
    }

    /// Drops a path that leads to nothing any more, with all below it.
    fn drop_all(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) {
        let mut rest = vec![node];
        while let Some(node) = rest.pop() {
            self.relink(node, None, forget);
            rest.extend(self.items.remove(&node).into_iter().flat_map(|item| item.order));
        }
    }

    /// Notes which file a path names now. Paths that get another number by that, and the file that
    /// it named before, are forgotten by the kernel.
    fn relink(&mut self, node: Node, new: Option<&Attr>, forget: &mut BTreeSet<Invalidation>) {
        let before = self.links.shown(node);
        let old = self.items.get(&node).and_then(|item| item.attr);
        for path in self.links.set(node, old.as_ref(), new, &mut self.next) {
            let Some(item) = self.items.get(&path) else { continue };
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
            forget.extend([before, path, self.links.shown(path)].map(Invalidation::Node));
        }
    }

    /// Sets the attributes of a path, and unlearns its content if that is another one now.
    fn learn(
        &mut self,
        node: Node,
        attr: &Attr,
        xattrs: &[Xattr],
        forget: &mut BTreeSet<Invalidation>,
    ) {
        let (shown, batches) = (self.links.shown(node), self.batches);
        let Some(item) = self.items.get_mut(&node) else { return };
        if item.attr.is_none_or(|old| old.version() != attr.version()) {
            item.manifest = None;
        }
        item.note_change(attr, batches);
        if item.xattrs != xattrs {
            // The kernel keeps access control lists with the attributes.
            item.xattrs = xattrs.to_vec();
            forget.insert(Invalidation::Node(shown));
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
        }
        item.set_attr(shown, *attr, forget);
    }

    /// Unlearns a file's content. That a change was noticed proves that there was one, even where
    /// size and times are what they were: a clock tick is longer than a write.
    fn unread(&mut self, dir: Node, name: &[u8], forget: &mut BTreeSet<Invalidation>) {
        let node = self.items.get(&dir).and_then(|item| item.children.get(name).copied());
        let Some(node) = node else { return };
        for name in self.links.others(node).into_iter().chain([node]) {
            let Some(item) = self.items.get_mut(&name) else { continue };
            if item.attr.is_some_and(|attr| attr.kind == Kind::File) {
                item.manifest = None;
                item.changed = self.batches;
                forget.insert(Invalidation::Node(self.links.shown(node)));
            }
        }
    }

    /// Unlearns everything below a node, and its content.
    fn forget(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) {
        // No recursion: the origin says how deep its tree is.
        let mut rest = vec![node];
        while let Some(node) = rest.pop() {
            if self.forget_one(node, forget) {
                let children =
                    self.items.get(&node).into_iter().flat_map(|it| it.children.values());
                rest.extend(children.copied());
            }
        }
    }

    /// Unlearns what is in a node. Tells whether anything below it may be known.
    fn forget_one(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) -> bool {
        let Some(item) = self.items.get_mut(&node) else { return false };
        item.manifest = None;
        let was_listed = std::mem::take(&mut item.listed);
        let absent = std::mem::take(&mut item.absent);
        forget.insert(Invalidation::Node(self.links.shown(node)));
        if node == ROOT {
            forget.extend(absent.into_iter().map(|name| Invalidation::Entry(ROOT, name)));
        } else {
            // With its entry the kernel drops all names below it.
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
        }
        if was_listed {
            item.forgotten = self.batches;
        }
        was_listed
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
    /// Notes that it is to be something else than before, if it is.
    fn note_change(&mut self, new: &Attr, batches: u64) {
        if let Some(old) = self.attr.filter(|old| old.kind == Kind::Dir && old.mtime != new.mtime) {
            if self.earlier.len() == EARLIER_MAX {
                self.earlier.pop_front();
            }
            self.earlier.push_back((batches, old.mtime));
        }
        if self.attr.is_some_and(|old| Base::of(&old) != Base::of(new)) {
            self.changed = batches;
        }
    }

    /// Sets the attributes, and says what of the old ones the kernel has to forget.
    fn set_attr(&mut self, shown: Node, attr: Attr, forget: &mut BTreeSet<Invalidation>) {
        let old = self.attr.replace(attr);
        if old.is_some_and(|old| old != attr) {
            forget.insert(Invalidation::Node(shown));
        }
        // An overlay checks permissions by what its lower inode said when the name was looked up.
        let rights = |attr: Attr| (attr.mode, attr.uid, attr.gid);
        if shown != ROOT && old.is_some_and(|old| rights(old) != rights(attr)) {
            forget.insert(Invalidation::Entry(self.parent, self.name.clone()));
        }
    }

    fn new(parent: Node, name: Bytes) -> Self {
        Self {
            parent,
            name,
            attr: None,
            target: None,
            xattrs: Vec::new(),
            manifest: None,
            changed: 0,
            earlier: VecDeque::new(),
            forgotten: 0,
            children: HashMap::new(),
            order: Vec::new(),
            listed: false,
            seen: false,
            dropped: 0,
            hidden: false,
            absent: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests;
