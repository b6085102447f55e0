//! The tree itself, and how an event gets into it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::event::{Dot, Event, FileId, Kind, Op, Permissions};
use super::super::hlc::Hlc;
use super::super::merge::Events;
use super::super::register::Stamp;
use super::changed::Changed;
use super::file::File;
use super::link::Link;
use super::moves::Moves;
use super::names::{Names, Place};

/// The root's permissions until somebody sets them.
const ROOT_PERMISSIONS: Permissions = Permissions { mode: 0o755, uid: 0, gid: 0 };

/// The tree that a set of events makes.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(super) events: Events,
    pub(super) applied: BTreeSet<Dot>,
    /// Events that wait for another.
    pub(super) waiting: BTreeMap<Dot, Vec<Dot>>,
    pub(super) files: BTreeMap<FileId, File>,
    pub(super) links: BTreeMap<Dot, Link>,
    /// Which links an event put where.
    pub(super) put: BTreeMap<Dot, Vec<(Dot, Place)>>,
    pub(super) moves: Moves,
    pub(super) names: Names,
    /// What has changed since names were last derived from it.
    pub(super) stale_links: BTreeSet<Dot>,
    pub(super) stale_files: BTreeSet<FileId>,
    pub(super) changed: Changed,
}

impl Default for Tree {
    fn default() -> Self {
        let root = File::new(Stamp::default(), 0, Kind::Dir, ROOT_PERMISSIONS);
        Self {
            events: Events::default(),
            applied: BTreeSet::new(),
            waiting: BTreeMap::new(),
            files: BTreeMap::from([(FileId::default(), root)]),
            links: BTreeMap::new(),
            put: BTreeMap::new(),
            moves: Moves::default(),
            names: Names::default(),
            stale_links: BTreeSet::new(),
            stale_files: BTreeSet::new(),
            changed: Changed::default(),
        }
    }
}

impl Tree {
    /// Returns what has changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        let mut changed = std::mem::take(&mut self.changed);
        if self.names.unite() && !changed.is_all {
            // A name of one directory is shown in all that it is united with.
            for (dir, name) in changed.names.clone() {
                for united in self.united(dir) {
                    changed.files.insert(united);
                    changed.names.insert((united, name.clone()));
                }
            }
        }
        changed
    }

    /// Returns the tree that events make.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut tree = Self::default();
        tree.apply_all(events);
        tree
    }

    /// Returns the tree as it was at a moment: of all events up to it.
    #[must_use]
    pub fn at(&self, moment: Hlc) -> Self {
        let mut tree = Self::default();
        self.events.shared().filter(|event| event.hlc <= moment).for_each(|event| tree.add(event));
        tree.settle();
        tree
    }

    /// Adds an event, in any order. One that is known already changes nothing.
    pub fn apply(&mut self, event: &Event) {
        self.apply_all([event]);
    }

    /// Adds events. All at once is cheaper than one by one if they are late.
    pub fn apply_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) {
        events.into_iter().for_each(|event| self.add(&Arc::new(event.clone())));
        self.settle();
    }

    fn add(&mut self, event: &Arc<Event>) {
        if !self.events.insert_shared(event) {
            return;
        }
        let mut ready = vec![event.dot];
        while let Some(dot) = ready.pop() {
            if self.deliver(dot) {
                ready.extend(self.waiting.remove(&dot).unwrap_or_default());
            }
        }
    }

    /// Returns all events, also those that wait.
    #[must_use]
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// Returns how many events have no effect yet, because others are missing, or never will have one.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.events.len() - self.applied.len()
    }

    /// Applies an event if everything is there that it refers to.
    fn deliver(&mut self, dot: Dot) -> bool {
        let Some(event) = self.events.get(dot).cloned() else { return false };
        let missing = causes(&event).into_iter().find(|cause| !self.applied.contains(cause));
        if let Some(missing) = missing {
            self.waiting.entry(missing).or_default().push(dot);
            return false;
        }
        let is_sound = self.is_sound(&event);
        if is_sound {
            self.applied.insert(dot);
            self.perform(&event);
        }
        is_sound
    }

    fn perform(&mut self, event: &Event) {
        match &event.op {
            Op::Make { .. } | Op::Link { .. } | Op::Unlink { .. } | Op::Move { .. } => {
                self.rename(event);
            }
            Op::Set { file, .. }
            | Op::Write { file, .. }
            | Op::Xattr { file, .. }
            | Op::Choose { file, .. } => {
                let saw = |version| saw(&self.events, event, version);
                self.files.get_mut(file).expect("is_sound has found it").set(event, saw);
                self.stale_files.insert(*file);
            }
        }
    }
}

/// Returns whether the author of an event saw a version: it is a parent, or a parent of a Set that is one. A live file
/// system names only the last Set, whatever that set.
pub(super) fn saw(events: &Events, event: &Event, version: Stamp) -> bool {
    let mut chain = event.parents.clone();
    let mut done = BTreeSet::new();
    while let Some(dot) = chain.pop() {
        if dot == version.dot {
            return true;
        }
        let sets = events.get(dot).filter(|parent| matches!(parent.op, Op::Set { .. }));
        if let Some(later) = sets.filter(|parent| parent.hlc > version.hlc && done.insert(dot)) {
            chain.extend(&later.parents);
        }
    }
    false
}

/// Returns the events that an event refers to: without them it means nothing.
pub(super) fn causes(event: &Event) -> Vec<Dot> {
    let mut causes = event.parents.clone();
    match &event.op {
        Op::Make { dir, .. } | Op::Unlink { dir, .. } => causes.push(*dir),
        Op::Link { dir, file, .. } => causes.extend([*dir, *file]),
        Op::Move { dir, to, .. } => causes.extend([*dir, *to]),
        Op::Set { file, .. } | Op::Write { file, .. } | Op::Xattr { file, .. } => {
            causes.push(*file)
        }
        Op::Choose { file, version } => causes.extend([*file, *version]),
    }
    causes.retain(|cause| *cause != Dot::default());
    causes
}
