//! Conflicts: contents that lost against concurrent ones, and files that lost their name. They are versions that one may
//! choose or dismiss.

use nix::errno::Errno;
use worknode::history::{Dot, FileId, Hlc, Name, Op};

use super::agree::Lost;
use super::changes::failed;
use super::error::VolumeError;
use super::key;
use super::model::{Shared, State, Volume};
use super::names::{Caller, SUPERUSER, kind_of};
use super::node::{Node, ROOT};
use super::past::{Spot, told};
use super::row::Row;
use super::tree::Tree;
use super::versions::{Version, version};
use crate::tree::Kind;

/// Most directories above a file: more would be a cycle.
const DEPTH_MAX: usize = 4096;
const MS_NANOS: i64 = 1_000_000;
/// The bit of a directory in which nobody removes others' files.
const STICKY: u32 = 0o1000;

/// A path with conflicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicted {
    /// The path.
    pub path: Vec<u8>,
    /// What is there.
    pub kind: Kind,
    /// What lost, the oldest first.
    pub versions: Vec<Version>,
}

impl Volume {
    /// Returns the conflicts at a path and below it, in the order of paths.
    ///
    /// # Errors
    /// `ENOENT`, or the volume does not work.
    pub fn conflicts(&self, path: &[u8]) -> Result<Vec<Conflicted>, Errno> {
        let top = self.shared.lock().walk(path)?;
        let tree = self.shared.as_now()?;
        let mut found = Vec::new();
        for spot in told(tree.conflicted())? {
            let Some((path, is_below)) = told(tree.path_of(&spot, top))? else { continue };
            let entry = told(tree.entry(spot.dir, &spot.name))?.filter(|_| is_below);
            let node = entry.map_or(Ok(None), |entry| told(tree.find(entry.ino)))?;
            let Some(node) = node else { continue };
            let mut versions = self.shared.versions(&tree, &spot)?;
            versions.retain(|version| version.is_conflict);
            found.push(Conflicted { path, kind: kind_of(&node.kind), versions });
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        found.dedup_by(|one, other| one.path == other.path);
        Ok(found)
    }

    /// Says that a version that lost is not wanted. It stays in the past.
    ///
    /// # Errors
    /// `ENOENT` if there is none of that name, `EINVAL` if it has not lost, or the volume does not work.
    pub fn dismiss(&self, path: &[u8], version: &str) -> Result<(), Errno> {
        let spot = self.shared.as_now()?.known_spot(path)?;
        self.dismiss_at(&spot, version, SUPERUSER)
    }

    /// Removes a name for a user who may remove what is shown: what others own and lost the name in a directory with the sticky
    /// bit stays, and one of it has the name then.
    ///
    /// # Errors
    /// Those of [`Volume::remove`].
    pub fn remove_for(
        &self,
        dir: u64,
        name: &[u8],
        is_dir: bool,
        caller: Caller,
    ) -> Result<(), Errno> {
        let spot = Spot::new(dir, name.to_vec());
        if is_dir
            || caller.uid == SUPERUSER.uid
            || told(self.shared.lock().tree.others(&spot))?.is_empty()
        {
            return self.remove(dir, name, is_dir);
        }
        told(self.shared.make_merged())?;
        let mut state = self.shared.lock();
        match self.shared.mine(&state, &spot, caller)? {
            Some(mine) => self.shared.remove_files(&mut state, &spot, &mine),
            None => self.shared.remove(&mut state, dir, name, is_dir),
        }
    }

    pub(super) fn dismiss_at(
        &self,
        spot: &Spot,
        version: &str,
        caller: Caller,
    ) -> Result<(), Errno> {
        let entry = self.shared.lock().child(spot.dir, &spot.name)?.ok_or(Errno::ENOENT)?;
        self.shared.catch_up(entry.ino)?;
        let version = self.shared.version(&self.shared.as_now()?, spot, version)?;
        if !version.is_conflict {
            return Err(Errno::EINVAL);
        }
        told(self.shared.make_merged())?;
        let mut state = self.shared.lock();
        if version.ino != entry.ino {
            let other = state.node(version.ino)?;
            if !may_remove(&state.dir(spot.dir)?, &other, caller) {
                return Err(Errno::EPERM);
            }
            let file = other.id;
            return self.shared.dismiss_file(&mut state, spot, file);
        }
        // A new version of the present content replaces both.
        let node = state.node(entry.ino)?;
        let op = Op::Write { file: node.id, content: node.content, modified: node.modified };
        self.shared.resolve(&mut state, op, Some(version.written))
    }
}

impl Shared {
    /// Writes a content that ends the conflict with a version, or with all.
    pub(super) fn resolve(
        &self,
        state: &mut State,
        op: Op,
        version: Option<Dot>,
    ) -> Result<(), Errno> {
        let merged = self.merged(state).map_err(|error| failed(&error))?;
        let changes = merged.plan_resolve(op, version);
        self.emit_all(state, changes.into_iter().map(|change| (change.op, change.parents)))
    }

    /// Removes all files that lost a name, as far as a user may.
    pub(super) fn dismiss_others(
        &self,
        state: &mut State,
        spot: &Spot,
        caller: Caller,
    ) -> Result<(), Errno> {
        let dir = state.dir(spot.dir)?;
        for ino in told(state.tree.others(spot))? {
            let Some(node) = told(state.tree.find(ino))? else { continue };
            if !may_remove(&dir, &node, caller) {
                continue;
            }
            self.dismiss_file(state, spot, node.id)?;
        }
        Ok(())
    }

    /// Returns the files that a user may remove of those that have a name or lost it, the one that is shown last, if there are
    /// others. Who may write the directory and remove what is shown was asked before: this is about the sticky bit.
    pub(super) fn mine(
        &self,
        state: &State,
        spot: &Spot,
        caller: Caller,
    ) -> Result<Option<Vec<FileId>>, Errno> {
        let dir = state.dir(spot.dir)?;
        let owns_dir = caller.uid == dir.permissions.uid;
        if dir.permissions.mode & STICKY == 0 || owns_dir {
            return Ok(None);
        }
        let shown = state.child(spot.dir, &spot.name)?.ok_or(Errno::ENOENT)?;
        let others = told(state.tree.others(spot))?;
        let mut mine = Vec::new();
        for ino in &others {
            let Some(node) = told(state.tree.find(*ino))? else { continue };
            if node.permissions.uid == caller.uid {
                mine.push(node.id);
            }
        }
        let is_all = mine.len() == others.len();
        mine.push(state.node(shown.ino)?.id);
        Ok((!is_all).then_some(mine))
    }

    /// Removes some of the files that have a name or lost it.
    pub(super) fn remove_files(
        &self,
        state: &mut State,
        spot: &Spot,
        files: &[FileId],
    ) -> Result<(), Errno> {
        files.iter().try_for_each(|file| self.dismiss_file(state, spot, *file))
    }

    fn dismiss_file(&self, state: &mut State, spot: &Spot, file: FileId) -> Result<(), Errno> {
        let dir = state.dir(spot.dir)?.id;
        let merged = self.merged(state).map_err(|error| failed(&error))?;
        let changes = merged.plan_dismiss(dir, &spot.name, file);
        self.emit_all(state, changes.into_iter().map(|change| (change.op, change.parents)))
    }
}

impl State {
    /// Tells whether a content of a file lost against a concurrent one.
    pub(super) fn is_in_conflict(&self, ino: u64) -> Result<bool, Errno> {
        Ok(told(self.tree.lost(ino))?.iter().any(|lost| lost.is_sibling))
    }
}

impl Tree {
    /// Returns a file with a content that it never had here.
    pub(super) fn with_lost(&self, ino: u64, version: Dot) -> Result<Node, Errno> {
        let mut node = told(self.latest(ino))?.ok_or(Errno::ESTALE)?;
        let lost = told(self.lost(ino))?.into_iter().find(|lost| lost.version == version);
        let lost = lost.ok_or(Errno::ESTALE)?;
        (node.content, node.modified) = (lost.content, modified(lost.written_at));
        Ok(node)
    }

    /// Returns the contents of a file that lost, or that it never had here.
    pub(super) fn lost(&self, ino: u64) -> Result<Vec<Lost>, VolumeError> {
        self.tables.all(&key::losts(ino))?.iter().map(|(_, row)| Lost::decode(row)).collect()
    }

    /// Returns the files that lost a name.
    pub(super) fn others(&self, spot: &Spot) -> Result<Vec<u64>, VolumeError> {
        let row = self.tables.get(&key::others(spot.dir, &spot.name))?;
        row.map_or(Ok(Vec::new()), |row| Row::decode(&row))
    }

    /// Returns the files that ever lost a name, the latest last.
    pub(super) fn losers(&self, dir: u64, name: &[u8]) -> Result<Vec<u64>, VolumeError> {
        let row = self.tables.get(&key::losers(dir, name))?;
        row.map_or(Ok(Vec::new()), |row| Row::decode(&row))
    }

    /// Notes that nothing of a removed file is in conflict.
    pub(super) fn end_conflict(&mut self, ino: u64, at: Hlc) -> Result<(), VolumeError> {
        self.noted.forget(ino);
        for mut lost in self.lost(ino)?.into_iter().filter(|lost| lost.is_sibling) {
            // It is kept from now on as long as the rest of the past.
            (lost.is_sibling, lost.until) = (false, at);
            self.tables.set_plain(key::lost(ino, lost.version), &lost.encode()?);
        }
        Ok(())
    }

    /// Adds to the versions of a name what lost there.
    pub(super) fn add_conflicts(
        &self,
        spot: &Spot,
        versions: &mut Vec<Version>,
    ) -> Result<(), VolumeError> {
        let mut inos: Vec<u64> = versions.iter().map(|version| version.ino).collect();
        // What had the name before is in conflict where it is now.
        let mut here: Vec<u64> =
            self.entry(spot.dir, &spot.name)?.map(|at| at.ino).into_iter().collect();
        for ino in self.others(spot)? {
            let (Some(node), since) = (self.find(ino)?, self.tables.since(&key::node(ino))?) else {
                continue;
            };
            inos.push(ino);
            here.push(ino);
            versions.retain(|it| (it.ino, it.written) != (ino, node.written));
            let mut other = version(ino, since.unwrap_or_default(), &node, false);
            other.is_conflict = true;
            versions.push(other);
        }
        for dir in spot.dirs() {
            for ino in self.losers(dir, &spot.name)? {
                inos.push(ino);
                self.add_loser(ino, versions)?;
            }
        }
        inos.sort_unstable();
        inos.dedup();
        for ino in inos {
            self.add_lost(ino, here.contains(&ino), versions)?;
        }
        Ok(())
    }

    /// Adds what a file has had that lost the name once.
    fn add_loser(&self, ino: u64, versions: &mut Vec<Version>) -> Result<(), VolumeError> {
        for held in self.nodes_of(ino)? {
            let is_known = |it: &Version| (it.ino, it.written) == (ino, held.value.written);
            if held.value.is_file() && !versions.iter().any(is_known) {
                versions.push(version(ino, held.since, &held.value, false));
            }
        }
        Ok(())
    }

    fn add_lost(
        &self,
        ino: u64,
        is_here: bool,
        versions: &mut Vec<Version>,
    ) -> Result<(), VolumeError> {
        for lost in self.lost(ino)? {
            let is_conflict = lost.is_sibling && is_here;
            let known = versions.iter_mut().find(|it| (it.ino, it.written) == (ino, lost.version));
            if let Some(known) = known {
                known.is_conflict |= is_conflict;
                continue;
            }
            let Some(mut node) = self.latest(ino)? else { continue };
            (node.written, node.written_at) = (lost.version, lost.written_at);
            (node.content, node.modified) = (lost.content, modified(lost.written_at));
            let mut it = version(ino, lost.written_at, &node, false);
            (it.is_lost, it.is_conflict) = (true, is_conflict);
            versions.push(it);
        }
        Ok(())
    }

    /// Returns the names at which something lost.
    fn conflicted(&self) -> Result<Vec<Spot>, VolumeError> {
        let mut spots = Vec::new();
        for (key, _) in self.tables.all(&key::ALL_OTHERS)? {
            let dir = key::number(&key).unwrap_or(ROOT);
            spots.push(Spot::new(dir, key::name(&key).to_vec()));
        }
        for (key, row) in self.tables.all(&key::ALL_LOST)? {
            if Lost::decode(&row)?.is_sibling {
                spots.extend(self.spot_of(key::number(&key).unwrap_or(ROOT))?);
            }
        }
        Ok(spots)
    }

    /// Returns the path of a name, and whether it is below a file or that file's.
    fn path_of(&self, spot: &Spot, top: u64) -> Result<Option<(Vec<u8>, bool)>, VolumeError> {
        let ino = self.entry(spot.dir, &spot.name)?.map(|entry| entry.ino);
        let (mut names, mut dir): (Vec<Name>, u64) = (vec![spot.name.clone()], spot.dir);
        let mut is_below = top == ROOT || ino == Some(top) || dir == top;
        while dir != ROOT && names.len() < DEPTH_MAX {
            let Some(above) = self.spot_of(dir)? else { return Ok(None) };
            names.push(above.name);
            dir = above.dir;
            is_below |= dir == top;
        }
        let path = names.iter().rev().flat_map(|name| [b"/", name.as_slice()].concat()).collect();
        Ok(Some((path, is_below)))
    }
}

/// Tells whether a user may remove a file in a directory: who may write that, and in one with the sticky bit only owners. The
/// user's other groups are not known.
fn may_remove(dir: &Node, file: &Node, caller: Caller) -> bool {
    let (mode, uid, gid) = (dir.permissions.mode, dir.permissions.uid, dir.permissions.gid);
    let writers = match caller {
        Caller { uid: 0, .. } => return true,
        Caller { uid: user, .. } if user == uid => 0o200,
        Caller { gid: group, .. } if group == gid => 0o020,
        _ => 0o002,
    };
    let owns = [uid, file.permissions.uid].contains(&caller.uid);
    mode & writers != 0 && (mode & STICKY == 0 || owns)
}

/// Returns a time of modification for a moment.
fn modified(at: Hlc) -> i64 {
    i64::try_from(at.ms()).unwrap_or(i64::MAX / MS_NANOS).saturating_mul(MS_NANOS)
}
