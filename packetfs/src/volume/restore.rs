//! Makes a file or a tree what it was at a moment, by events: nothing is lost, and programs see all of it at once.

mod picture;
mod plan;

use std::collections::{BTreeSet, HashMap, HashSet};

use nix::errno::Errno;
use worknode::history::{Attrs, Hlc, Kind, Name, Op, Permissions};

use super::changes::errno;
use super::model::{Shared, State, Volume};
use super::names::replaced;
use super::node::{Node, ROOT};
use super::past::{components, told};
use super::tree::parent;
use super::versions::{Conflicts, Refill};
pub(super) use picture::Picture;
use picture::Place;
use plan::Plan;

/// The directory of what is between two names meanwhile. Nobody sees it, except after a crash.
const STAGING: &[u8] = b".oswalk-restore";
const STAGING_MODE: u32 = 0o700;

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Names that were made or moved.
    pub placed: u64,
    /// Names that were removed.
    pub removed: u64,
    /// Files whose content or attributes were set.
    pub changed: u64,
}

impl Volume {
    /// Makes a file, or a directory with all below it, what it was at a moment. What was made since is removed, and stays in the
    /// past.
    ///
    /// # Errors
    /// `ENOENT` if there was nothing of that path then, or the moment is not over yet or too long ago; `ENOTDIR` if a directory
    /// above it is another file now; the disk is full, or the volume does not work.
    pub fn restore(&self, path: &[u8], moment: Hlc) -> Result<Restored, Errno> {
        self.shared.catch_up_all()?;
        let _kept = self.shared.keep_packets();
        let mut state = self.shared.lock();
        let moment = state.tree.kept_moment(moment)?;
        let (dirs, chain) = scope(&state, path, moment)?;
        let then = told(Picture::take(&state.tree, Some(moment), dirs.0, &chain))?;
        let now = told(Picture::take(&state.tree, None, dirs.1, &chain))?;
        let plan = Plan::make(&then, &now, dirs);
        let mut work = Work::new(&self.shared, &mut state, moment, dirs.1, plan);
        work.detach(&now)?;
        work.place(&then)?;
        work.unstage()?;
        if chain.is_empty() {
            work.set(dirs.0, dirs.1)?;
        }
        for &ino in then.nodes.keys() {
            if let Some(&present) = work.plan.becomes.get(&ino) {
                work.set(ino, present)?;
            }
        }
        let (restored, refills) = work.end();
        drop(state);
        refills.iter().try_for_each(|refill| self.shared.refill(refill))?;
        Ok(restored)
    }
}

/// Returns the deepest directory above a path that exists, as it was and as it is, and the names from there on.
fn scope(state: &State, path: &[u8], moment: Hlc) -> Result<((u64, u64), Vec<Name>), Errno> {
    told(state.tree.walk_at(path, moment))?.ok_or(Errno::ENOENT)?;
    let mut names: Vec<Name> = components(path).map(<[u8]>::to_vec).collect();
    let (mut then, mut now) = (ROOT, ROOT);
    while names.len() > 1 {
        let Some(entry) = state.child(now, &names[0])? else { break };
        let before = told(state.tree.entry_at(then, &names[0], moment))?.ok_or(Errno::ENOENT)?;
        (then, now) = (before.ino, state.dir(entry.ino).map(|_| entry.ino)?);
        names.remove(0);
    }
    Ok(((then, now), names))
}

/// A restoration at work.
struct Work<'a> {
    shared: &'a Shared,
    state: &'a mut State,
    moment: Hlc,
    /// The directory above all.
    top: u64,
    plan: Plan,
    /// The staging directory, and the names of files there.
    staging: Option<(u64, Name)>,
    staged: HashMap<u64, Name>,
    refills: Vec<Refill>,
    /// Names and files that the kernel must forget.
    stale: BTreeSet<(u64, Name)>,
    done: Restored,
}

impl<'a> Work<'a> {
    fn new(shared: &'a Shared, state: &'a mut State, moment: Hlc, top: u64, plan: Plan) -> Self {
        let (staging, staged, refills, stale) = Default::default();
        Self {
            shared,
            state,
            moment,
            top,
            plan,
            staging,
            staged,
            refills,
            stale,
            done: Restored::default(),
        }
    }

    /// Removes all names that are wrong. What has no other name and is needed gets one in the staging directory.
    fn detach(&mut self, now: &Picture) -> Result<(), Errno> {
        let used: HashSet<u64> = self.plan.becomes.values().copied().collect();
        for (place, ino) in now.names.iter().rev() {
            if self.plan.stays.contains(place) {
                continue;
            }
            if self.plan.must_stage(*ino, &used) {
                let to = (self.staging()?, ino.to_string().into_bytes());
                self.staged.insert(*ino, to.1.clone());
                self.rename(place, &to)?;
            } else {
                self.unlink(place)?;
                self.done.removed += 1;
            }
        }
        Ok(())
    }

    /// Makes all names that are missing.
    fn place(&mut self, then: &Picture) -> Result<(), Errno> {
        for ((dir, name), ino) in &then.names {
            let Some(&dir) = self.plan.becomes.get(dir) else { continue };
            let place = (dir, name.clone());
            if self.plan.stays.contains(&place) {
                continue;
            }
            match self.plan.becomes.get(ino) {
                Some(&present) => self.name(present, &place)?,
                None => {
                    let made = self.make(&place, &then.nodes[ino])?;
                    self.plan.becomes.insert(*ino, made);
                }
            }
            self.done.placed += 1;
        }
        Ok(())
    }

    fn name(&mut self, ino: u64, place: &Place) -> Result<(), Errno> {
        if let (Some(name), Some((staging, _))) = (self.staged.remove(&ino), &self.staging) {
            return self.rename(&(*staging, name), place);
        }
        let (dir, file) = (self.state.dir(place.0)?.id, self.state.node(ino)?.id);
        self.stale(place);
        self.shared.emit(self.state, Op::Link { dir, name: place.1.clone(), file }, Vec::new())?;
        Ok(())
    }

    fn make(&mut self, place: &Place, node: &Node) -> Result<u64, Errno> {
        let (kind, permissions) = (node.kind.clone(), node.permissions);
        let op =
            Op::Make { dir: self.state.dir(place.0)?.id, name: place.1.clone(), kind, permissions };
        self.stale(place);
        self.shared.emit(self.state, op, Vec::new())?;
        Ok(self.state.tree.state.applied + ROOT)
    }

    fn unlink(&mut self, place: &Place) -> Result<(), Errno> {
        let entry = self.state.child(place.0, &place.1)?.ok_or(Errno::EIO)?;
        let op = Op::Unlink { dir: self.state.dir(place.0)?.id, name: place.1.clone() };
        let parents = replaced(&entry, &self.state.node(entry.ino)?);
        self.stale(place);
        let gone = self.shared.emit(self.state, op, parents)?;
        self.shared.orphaned(self.state, gone);
        Ok(())
    }

    fn rename(&mut self, from: &Place, to: &Place) -> Result<(), Errno> {
        let entry = self.state.child(from.0, &from.1)?.ok_or(Errno::EIO)?;
        let op = Op::Move {
            dir: self.state.dir(from.0)?.id,
            name: from.1.clone(),
            to: self.state.dir(to.0)?.id,
            new: to.1.clone(),
            exchange: false,
        };
        self.stale(from);
        self.stale(to);
        self.shared.emit(self.state, op, parent(entry.bound))?;
        Ok(())
    }

    /// Returns the staging directory.
    fn staging(&mut self) -> Result<u64, Errno> {
        if let Some((staging, _)) = &self.staging {
            return Ok(*staging);
        }
        let mut name = STAGING.to_vec();
        while self.state.child(self.top, &name)?.is_some() {
            name.push(b'~');
        }
        let permissions = Permissions { mode: STAGING_MODE, uid: 0, gid: 0 };
        let op = Op::Make {
            dir: self.state.dir(self.top)?.id,
            name: name.clone(),
            kind: Kind::Dir,
            permissions,
        };
        self.shared.emit(self.state, op, Vec::new())?;
        let staging = self.state.tree.state.applied + ROOT;
        self.staging = Some((staging, name));
        Ok(staging)
    }

    fn unstage(&mut self) -> Result<(), Errno> {
        let Some((_, name)) = self.staging.take() else { return Ok(()) };
        self.unlink(&(self.top, name))
    }

    /// Gives a file the content and the attributes of a former one.
    fn set(&mut self, former: u64, ino: u64) -> Result<(), Errno> {
        let then = self.state.tree.node_at(former, self.moment)?;
        let before = self.state.tree.state.applied;
        if let Some(dirty) = self.state.uses.dirty(ino) {
            told(self.shared.translate_locked(self.state, ino, &dirty))?;
        }
        let is_other = then.is_file() && self.state.node(ino)?.content != then.content;
        if is_other {
            let content = (then.content, then.modified);
            let replaced = self.shared.replace(self.state, ino, content, Conflicts::Stay)?;
            self.refills.extend(replaced);
        }
        self.set_xattrs(&then, former, ino)?;
        self.set_attrs(&then, ino)?;
        self.done.changed += u64::from(self.state.tree.state.applied > before);
        Ok(())
    }

    fn set_attrs(&mut self, then: &Node, ino: u64) -> Result<(), Errno> {
        let now = self.state.node(ino)?;
        let differs = |one: u32, other: u32| (one != other).then_some(one);
        let (is, was) = (now.permissions, then.permissions);
        let modified = (then.modified != now.modified).then_some(then.modified);
        let attrs = Attrs {
            mode: differs(was.mode, is.mode),
            uid: differs(was.uid, is.uid),
            gid: differs(was.gid, is.gid),
            accessed: None,
            modified,
        };
        if attrs == Attrs::default() {
            return Ok(());
        }
        if let (Some(modified), Some(backing)) = (modified, self.state.uses.backing(ino)) {
            backing.set_modified(modified).map_err(|error| errno(&error))?;
        }
        self.shared.mounts.file(ino);
        self.shared.emit(self.state, Op::Set { file: now.id, attrs }, parent(now.set))?;
        Ok(())
    }

    fn set_xattrs(&mut self, then: &Node, former: u64, ino: u64) -> Result<(), Errno> {
        let now = self.state.node(ino)?;
        if !then.has_xattrs && !now.has_xattrs {
            return Ok(());
        }
        let was = told(self.state.tree.xattrs_at(former, self.moment))?;
        let is = told(self.state.tree.xattrs(ino))?;
        let gone = is.iter().filter(|(name, _)| !was.iter().any(|(it, _)| it == name));
        let gone = gone.map(|(name, _)| (name.clone(), None));
        let other = was.iter().filter(|xattr| !is.contains(xattr));
        let other = other.map(|(name, value)| (name.clone(), Some(value.clone())));
        for (name, value) in gone.chain(other) {
            let last = told(self.state.tree.xattr_set(&now, ino, &name))?;
            let parents = last.map_or_else(Vec::new, parent);
            self.shared.emit(self.state, Op::Xattr { file: now.id, name, value }, parents)?;
        }
        Ok(())
    }

    fn stale(&mut self, place: &Place) {
        // Names in a new directory are not known to the kernel.
        if place.0 == ROOT || self.state.uses.get(place.0).is_some_and(|it| it.lookups > 0) {
            self.stale.insert(place.clone());
        }
    }

    /// Has the kernel forget what has changed.
    fn end(self) -> (Restored, Vec<Refill>) {
        let dirs: BTreeSet<u64> = self.stale.iter().map(|(dir, _)| *dir).collect();
        dirs.iter().for_each(|&dir| self.shared.mounts.file(dir));
        self.stale.iter().for_each(|(dir, name)| self.shared.mounts.name(*dir, name));
        (self.done, self.refills)
    }
}
