//! What is known of one file, apart from its names.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::super::event::{Attrs, Content, Dot, Event, Kind, Name, Nanos, Op, Permissions};
use super::super::hlc::Hlc;
use super::super::register::{Register, Stamp, Version};
use super::names::{Claim, Place};

/// Most versions of a content that lost and stay conflicts when the next is written. Older ones become history.
pub const CONFLICTS_MAX: usize = 10;

/// A file: content, mode, owner, times and each extended attribute merge apart.
#[derive(Debug, Clone)]
pub struct File {
    kind: Kind,
    first: Permissions,
    made_at: Nanos,
    content: Register<Content>,
    mode: Register<u32>,
    uid: Register<u32>,
    gid: Register<u32>,
    accessed: Register<Nanos>,
    modified: Register<Nanos>,
    xattrs: BTreeMap<Name, Register<Option<Vec<u8>>>>,
    made: Hlc,
    /// The last event that concerned it, other than a Write, and its time. Of two events of one moment the later time counts.
    changed: (Hlc, Nanos),
    /// The last Write, and the time of the modification. When that became an event is no change that anybody sees.
    written: (Hlc, Nanos),
    /// Of a directory, the last event that changed its names, and its time.
    renamed: (Hlc, Nanos),
    pub(super) links: Vec<Dot>,
    /// How many of the links are there.
    pub(super) named: usize,
    /// The versions of the content that those knew who removed a name.
    pub(super) removed: BTreeSet<Dot>,
    /// The name that it has although it was removed.
    pub(super) back: Option<(Place, Claim)>,
}

impl File {
    pub(super) fn new(made: Stamp, time: Nanos, kind: Kind, permissions: Permissions) -> Self {
        Self {
            kind,
            first: permissions,
            made_at: time,
            content: Register::default(),
            mode: Register::default(),
            uid: Register::default(),
            gid: Register::default(),
            accessed: Register::default(),
            modified: Register::default(),
            xattrs: BTreeMap::new(),
            made: made.hlc,
            changed: (made.hlc, time),
            written: (made.hlc, time),
            renamed: (made.hlc, time),
            links: Vec::new(),
            named: 0,
            removed: BTreeSet::new(),
            back: None,
        }
    }

    /// Returns its type.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Returns whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Returns who may do what with it.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let or = |register: &Register<u32>, made| register.value().copied().unwrap_or(made);
        Permissions {
            mode: or(&self.mode, self.first.mode),
            uid: or(&self.uid, self.first.uid),
            gid: or(&self.gid, self.first.gid),
        }
    }

    /// Returns the time of its last access.
    #[must_use]
    pub fn accessed(&self) -> Nanos {
        self.accessed.value().copied().unwrap_or(self.made_at)
    }

    /// Returns the time of its last modification: of a directory, unless it was set later, that of its names.
    #[must_use]
    pub fn modified(&self) -> Nanos {
        match self.modified.winner() {
            Some(set) => self.renamed.max((set.stamp.hlc, set.value)).1,
            None => self.renamed.1,
        }
    }

    /// Returns the time of the last change of anything of it.
    #[must_use]
    pub fn changed(&self) -> Nanos {
        self.changed.1.max(self.written.1)
    }

    /// Returns all versions of its content. A file that was never written has none, and is empty.
    #[must_use]
    pub const fn content(&self) -> &Register<Content> {
        &self.content
    }

    /// Returns the version of its content that counts. Of a file that came back after its removal it is one that nobody
    /// knew who removed it.
    #[must_use]
    pub fn present(&self) -> Option<&Version<Content>> {
        self.content.heads().iter().rev().find(|head| self.counts(head.stamp))
    }

    /// Returns the versions of its content that lost against a concurrent one, latest first.
    pub fn siblings(&self) -> impl Iterator<Item = &Version<Content>> {
        self.content.siblings_among(|head| self.counts(head))
    }

    fn counts(&self, head: Stamp) -> bool {
        self.back.is_none() || !self.removed.contains(&head.dot)
    }

    /// Returns the names of the versions that a program replaces which has read the content that counts. Versions that lost
    /// stay, for it has not seen them, up to [`CONFLICTS_MAX`].
    pub(super) fn content_parents(&self) -> Vec<Dot> {
        let kept: Vec<&Content> =
            self.siblings().take(CONFLICTS_MAX).map(|version| &version.value).collect();
        let replaced = self.content.heads().iter().filter(|head| !kept.contains(&&head.value));
        replaced.map(|head| head.stamp.dot).collect()
    }

    /// Returns its extended attributes.
    pub fn xattrs(&self) -> impl Iterator<Item = (&Name, &[u8])> {
        let set =
            |register: &'_ Register<Option<Vec<u8>>>| register.value().is_some_and(Option::is_some);
        self.xattrs.iter().filter(move |(_, register)| set(register)).map(|(name, register)| {
            (name, register.value().and_then(Option::as_deref).unwrap_or_default())
        })
    }

    /// Returns what concurrent events set to different values. Times do not count.
    #[must_use]
    pub fn disputes(&self) -> Vec<Dispute> {
        let mut disputes = Vec::new();
        let mut add = |is_disputed: bool, what| is_disputed.then(|| disputes.push(what));
        add(self.siblings().next().is_some(), Dispute::Content);
        add(self.mode.siblings().next().is_some(), Dispute::Mode);
        add(self.uid.siblings().next().is_some(), Dispute::Uid);
        add(self.gid.siblings().next().is_some(), Dispute::Gid);
        for (name, register) in &self.xattrs {
            add(register.siblings().next().is_some(), Dispute::Xattr(name.clone()));
        }
        disputes
    }

    /// Returns the parents of an event that sets something of this file now.
    pub(super) fn parents(&self, op: &Op) -> Vec<Dot> {
        let mut parents: Vec<Dot> = match op {
            Op::Set { attrs, .. } => self.parents_of_attrs(attrs),
            Op::Write { .. } => {
                let mut parents = self.content_parents();
                let is_write = |dot: &Dot| self.content.version(*dot).is_some();
                parents.extend(self.modified.parents().filter(|dot| !is_write(dot)));
                parents
            }
            Op::Choose { .. } => self.content.parents().chain(self.modified.parents()).collect(),
            Op::Xattr { name, .. } => {
                self.xattrs.get(name).into_iter().flat_map(Register::parents).collect()
            }
            _ => Vec::new(),
        };
        parents.sort_unstable();
        parents.dedup();
        parents
    }

    fn parents_of_attrs(&self, attrs: &Attrs) -> Vec<Dot> {
        fn of<V: Clone + PartialEq>(register: &Register<V>, set: Option<V>) -> Vec<Dot> {
            set.map(|_| register.parents().collect()).unwrap_or_default()
        }
        [
            of(&self.mode, attrs.mode),
            of(&self.uid, attrs.uid),
            of(&self.gid, attrs.gid),
            of(&self.accessed, attrs.accessed),
            of(&self.modified, attrs.modified),
        ]
        .concat()
    }

    /// Applies an event that sets something of this file, and whose author saw some of its versions.
    pub(super) fn set(&mut self, event: &Event, saw: impl Fn(Stamp) -> bool + Copy) {
        let stamp = Stamp::from(event);
        // Who set a time after a version was written has not seen that version.
        let replaces = |version: Stamp| event.parents.contains(&version.dot);
        match &event.op {
            Op::Set { attrs, .. } => self.set_attrs(stamp, attrs, saw),
            Op::Write { content, modified, .. } => {
                self.content.set(stamp, *content, replaces);
                self.modified.set(stamp, *modified, saw);
            }
            Op::Choose { version, .. } => {
                self.content.choose(stamp, *version, replaces);
                self.modified.set(stamp, event.time, saw);
            }
            Op::Xattr { name, value, .. } => {
                self.xattrs.entry(name.clone()).or_default().set(stamp, value.clone(), saw);
            }
            _ => {}
        }
        self.touch(event);
    }

    fn set_attrs(&mut self, at: Stamp, attrs: &Attrs, saw: impl Fn(Stamp) -> bool + Copy) {
        if let Some(mode) = attrs.mode {
            self.mode.set(at, mode, saw);
        }
        if let Some(uid) = attrs.uid {
            self.uid.set(at, uid, saw);
        }
        if let Some(gid) = attrs.gid {
            self.gid.set(at, gid, saw);
        }
        if let Some(accessed) = attrs.accessed {
            self.accessed.set(at, accessed, saw);
        }
        if let Some(modified) = attrs.modified {
            self.modified.set(at, modified, saw);
        }
    }

    /// Notes that an event concerns this file.
    pub(super) fn touch(&mut self, event: &Event) {
        match event.op {
            Op::Write { modified, .. } => {
                self.written = self.written.max((event.hlc, modified));
            }
            _ => self.changed = self.changed.max((event.hlc, event.time)),
        }
    }

    /// Returns the moments that events of live file systems are compared with.
    pub(super) fn moments(&self) -> Moments {
        let modified = self.modified.winner().map_or(Hlc(0), |set| set.stamp.hlc);
        Moments {
            made: self.made,
            changed: self.changed.0.max(self.written.0),
            modified: self.renamed.0.max(modified),
        }
    }

    /// Returns the versions of the attributes that count, or lost against concurrent ones.
    pub(super) fn attr_heads(&self) -> BTreeSet<Stamp> {
        fn of<V: Clone + PartialEq>(register: &Register<V>) -> impl Iterator<Item = Stamp> {
            register.heads().iter().map(|head| head.stamp)
        }
        let owner = of(&self.mode).chain(of(&self.uid)).chain(of(&self.gid));
        owner.chain(of(&self.accessed)).chain(of(&self.modified)).collect()
    }

    /// Returns all versions of each extended attribute.
    pub(super) const fn xattr_registers(&self) -> &BTreeMap<Name, Register<Option<Vec<u8>>>> {
        &self.xattrs
    }

    /// Notes that an event changes the names of this directory.
    pub(super) fn touch_names(&mut self, event: &Event) {
        self.renamed = self.renamed.max((event.hlc, event.time));
        self.touch(event);
    }

    /// Returns the latest version of the content that nobody knew who removed a name of this file. A removal does
    /// not end it: whoever wrote it wanted the file.
    pub(super) fn spared(&self) -> Option<Stamp> {
        let mut heads = self.content.heads().iter().rev().map(|head| head.stamp);
        heads.find(|head| !self.removed.contains(&head.dot))
    }

    /// Returns what is to be seen of it, for a digest.
    pub(super) fn visible(&self) -> impl Serialize {
        let owner = (heads(&self.mode), heads(&self.uid), heads(&self.gid));
        let times = (self.accessed(), self.modified(), self.changed());
        let xattrs: Vec<_> = self.xattrs.iter().map(|(name, of)| (name, heads(of))).collect();
        (&self.kind, self.permissions(), heads(&self.content), owner, times, xattrs)
    }

    /// Returns whether any name leads to it.
    #[must_use]
    pub const fn is_named(&self) -> bool {
        self.named > 0 || self.back.is_some()
    }
}

/// Moments of the last events that concern a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// It was made.
    pub made: Hlc,
    /// Anything of it was changed.
    pub changed: Hlc,
    /// The time of its modification was set; of a directory, by a change of its names, too.
    pub modified: Hlc,
}

/// What concurrent events set to different values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dispute {
    /// The content.
    Content,
    /// The permission bits.
    Mode,
    /// The owner.
    Uid,
    /// The group.
    Gid,
    /// An extended attribute.
    Xattr(Name),
}

fn heads<V>(register: &Register<V>) -> &[Version<V>]
where
    V: Clone + PartialEq,
{
    register.heads()
}
