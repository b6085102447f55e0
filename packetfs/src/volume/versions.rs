//! The versions of a file: all contents that it had, and the choice of one.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use nix::errno::Errno;
use worknode::history::{Author, Content, Dot, Hlc, Nanos, Op};

use super::backing::Backing;
use super::changes::{errno, now};
use super::error::VolumeError;
use super::model::{Shared, State, Volume};
use super::moment;
use super::names::{Caller, SUPERUSER};
use super::news::{Item, UnderWay};
use super::node::Node;
use super::past::{Spot, told};
use super::tree::{Tree, parent};
use crate::packet::Digest;

/// A content that a file has, or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its name among the file's versions.
    pub name: String,
    /// When it was written.
    pub moment: Hlc,
    /// Who wrote it.
    pub author: Author,
    /// Its size.
    pub bytes: u64,
    /// The time of its last modification.
    pub modified: Nanos,
    /// The digest of the packet that has or lists the content. Equal contents have equal ones. None if all bytes are zero.
    pub digest: Option<Digest>,
    /// Whether it is the present content.
    pub is_present: bool,
    /// Whether the file had the same content before: it was chosen or restored.
    pub is_chosen: bool,
    /// Whether it lost against a concurrent one, and is neither chosen nor dismissed yet.
    pub is_conflict: bool,
    pub(super) ino: u64,
    /// Since when the file had it here.
    pub(super) since: Hlc,
    pub(super) content: Content,
    pub(super) written: Dot,
    /// Whether the file never had it here.
    pub(super) is_lost: bool,
}

/// Reads a version. Its packets are kept as long as this exists.
#[derive(Debug)]
pub struct VersionReader {
    shared: Arc<Shared>,
    id: u64,
    content: Content,
    at: u64,
}

impl Volume {
    /// Returns the versions of a file, the oldest first, also of a removed one.
    ///
    /// # Errors
    /// `ENOENT` if nothing ever had that path, or the volume does not work.
    pub fn versions(&self, path: &[u8]) -> Result<Vec<Version>, Errno> {
        let present = self.shared.lock().walk(path);
        present.map_or(Ok(()), |ino| self.shared.catch_up(ino))?;
        let tree = self.shared.as_now()?;
        self.shared.versions(&tree, &tree.known_spot(path)?)
    }

    /// Opens a version of a file for reading.
    ///
    /// # Errors
    /// `ENOENT` if there is none of that name, or the volume does not work.
    pub fn open_version(&self, path: &[u8], version: &str) -> Result<VersionReader, Errno> {
        let _kept = self.shared.keep_packets();
        let tree = self.shared.as_now()?;
        let content = self.shared.version(&tree, &tree.known_spot(path)?, version)?.content;
        Ok(VersionReader::of(&self.shared, content))
    }

    /// Tells whether a user may read a version: who could reach it then, and can reach the file now if it is still there.
    ///
    /// # Errors
    /// `ENOENT` if there is none of that name, or the volume does not work.
    pub fn may_read_version(
        &self,
        path: &[u8],
        version: &str,
        caller: Caller,
    ) -> Result<bool, Errno> {
        let spot = self.shared.as_now()?.known_spot(path)?;
        self.may_read(&spot, version, caller)
    }

    /// Makes a former content of a file the present one. What it replaces becomes a version, so nothing is lost.
    ///
    /// # Errors
    /// `ENOENT` if there is none of that name, or the file was removed; the disk is full, or the volume does not work.
    pub fn choose(&self, path: &[u8], version: &str) -> Result<(), Errno> {
        let spot = self.shared.as_now()?.known_spot(path)?;
        self.choose_at(&spot, version, SUPERUSER)
    }

    pub(super) fn may_read(
        &self,
        spot: &Spot,
        version: &str,
        caller: Caller,
    ) -> Result<bool, Errno> {
        let tree = self.shared.as_now()?;
        let version = self.shared.version(&tree, spot, version)?;
        let access = told(tree.access_to(&version))?;
        Ok(access.is_some_and(|access| access.lets_read(caller.uid, caller.gid)))
    }

    pub(super) fn choose_at(
        &self,
        spot: &Spot,
        version: &str,
        caller: Caller,
    ) -> Result<(), Errno> {
        let ino = self.shared.lock().child(spot.dir, &spot.name)?.ok_or(Errno::ENOENT)?.ino;
        self.shared.catch_up(ino)?;
        let has_backing = self.shared.lock().uses.backing(ino).is_some();
        if has_backing {
            // It is filled with what perhaps only other nodes have: that is fetched before anything is changed.
            let content = self.shared.version(&self.shared.as_now()?, spot, version)?.content;
            self.shared.library.complete(&content).map_err(|error| errno(&error))?;
        }
        told(self.shared.make_merged_for(ino))?;
        let _kept = self.shared.keep_packets();
        let content = self.shared.version(&self.shared.as_now()?, spot, version)?.content;
        let mut state = self.shared.lock();
        let node = state.node(ino)?;
        if !node.is_file() {
            return Err(if node.is_dir() { Errno::EISDIR } else { Errno::EINVAL });
        }
        let is_present = node.content == content && !state.is_in_conflict(ino)?;
        let is_disputed = state.child(spot.dir, &spot.name)?.is_some_and(|it| it.is_disputed);
        let mut refill = None;
        if !is_present || !is_disputed {
            // As with every other write: the program that had the privileges is not the one that gets them.
            self.shared.strip(&mut state, ino)?;
            refill = self.shared.replace(&mut state, ino, (content, now()), Conflicts::End)?;
        }
        if is_disputed {
            self.shared.dismiss_others(&mut state, spot, caller)?;
        }
        drop(state);
        refill.map_or(Ok(()), |refill| self.shared.refill(&refill))
    }
}

/// What another content does to the conflicts of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflicts {
    /// Versions that lost stay until they are chosen or dismissed.
    Stay,
    /// A user has chosen, so they are history.
    End,
    /// The content replaces only the version that this event wrote: what others have written since is concurrent.
    Beside(Dot),
}

/// The backing file of a file that programs have open, which is to get another content.
#[derive(Debug)]
pub(super) struct Refill {
    backing: Arc<Backing>,
    content: Content,
    modified: Nanos,
    /// Programs may see a part of it.
    _under_way: UnderWay,
}

impl Shared {
    /// Returns the versions of what has, or had, a name. Those whose packets were removed are not among them.
    pub(super) fn versions(&self, tree: &Tree, spot: &Spot) -> Result<Vec<Version>, Errno> {
        let mut versions = told(versions(tree, spot))?;
        // Others may have what is not here.
        versions.retain(|it| it.is_present || it.is_conflict || self.library.has(&it.content));
        Ok(versions)
    }

    pub(super) fn version(
        &self,
        tree: &Tree,
        spot: &Spot,
        version: &str,
    ) -> Result<Version, Errno> {
        let found = self.versions(tree, spot)?.into_iter().find(|it| it.name == version);
        found.ok_or(Errno::ENOENT)
    }

    /// Makes a version of what was written to a file.
    pub(super) fn catch_up(&self, ino: u64) -> Result<(), Errno> {
        let backing = self.lock().uses.backing(ino).cloned();
        let written = backing.filter(|backing| backing.has_news());
        written.map_or(Ok(()), |backing| told(self.translate_now(ino, &backing)))
    }

    /// Makes versions of all that was written.
    pub(super) fn catch_up_all(&self) -> Result<(), Errno> {
        let backed: Vec<u64> = self.lock().uses.backed().map(|(ino, _, _)| ino).collect();
        backed.into_iter().try_for_each(|ino| self.catch_up(ino))
    }

    /// Gives a file another content by an event; what it replaces is a version. If programs have the file open, its backing
    /// file is to get the content, too.
    pub(super) fn replace(
        &self,
        state: &mut State,
        ino: u64,
        (content, modified): (Content, Nanos),
        conflicts: Conflicts,
    ) -> Result<Option<Refill>, Errno> {
        if let Some(dirty) = state.uses.dirty(ino) {
            told(self.translate_locked(state, ino, &dirty))?;
        }
        let node = state.node(ino)?;
        let op = Op::Write { file: node.id, content, modified };
        match conflicts {
            Conflicts::End if state.is_in_conflict(ino)? => self.resolve(state, op, None)?,
            Conflicts::Beside(base) if base != node.written => {
                self.emit_all(state, std::iter::once((op, parent(base))))?;
            }
            _ => drop(self.emit(state, op, parent(node.written))?),
        }
        let it = state.uses.of(ino);
        it.has_stale_pages = true;
        let is_open = it.opens > 0;
        let opened = it.backing.clone().filter(|it| is_open || !it.is_alone());
        if opened.is_none() {
            self.drop_backing(state, ino);
        }
        self.end_use(state, ino);
        self.mounts.file(ino);
        let under_way = || self.mounts.begin(Item::File(ino));
        Ok(opened.map(|backing| Refill { backing, content, modified, _under_way: under_way() }))
    }

    /// Writes the content into a file that programs have open, as a program would do it. It is compared with the tables when
    /// they close it.
    pub(super) fn refill(&self, refill: &Refill) -> Result<(), Errno> {
        let write = || -> io::Result<()> {
            let manifest = self.library.complete(&refill.content)?;
            refill.backing.file.set_len(0)?;
            refill.backing.fill(&manifest, refill.modified, |packet| self.library.packet(packet))
        };
        write().map_err(|error| errno(&error))
    }
}

impl Shared {
    /// Returns the content that a file has by events of others, if its backing file has another one; and the event.
    pub(super) fn stale_backing(
        &self,
        state: &State,
        ino: u64,
    ) -> Result<Option<(Refill, Dot)>, Errno> {
        let backing = state.uses.backing(ino).filter(|_| state.bases.contains_key(&ino));
        let Some(backing) = backing.cloned() else { return Ok(None) };
        let node = state.node(ino)?;
        let Node { content, modified, written, .. } = node;
        let _under_way = self.mounts.begin(Item::File(ino));
        Ok(Some((Refill { backing, content, modified, _under_way }, written)))
    }

    /// Writes the content over the former one of a backing file, which programs may read meanwhile.
    pub(super) fn refill_in_place(&self, refill: &Refill) -> Result<(), Errno> {
        let write = || -> io::Result<()> {
            let manifest = self.library.manifest(&refill.content)?;
            let data: u64 = manifest.covering(0, u64::MAX).map(|(_, it)| u64::from(it.bytes)).sum();
            if data < manifest.bytes() {
                // Its holes are to be zeros.
                refill.backing.file.set_len(0)?;
            }
            refill.backing.fill(&manifest, refill.modified, |packet| self.library.packet(packet))
        };
        write().map_err(|error| errno(&error))
    }

    /// Notes that a backing file has the content of an event, if that is still the file's.
    pub(super) fn end_refill(&self, ino: u64, refill: &Refill, written: Dot) -> bool {
        let mut state = self.lock();
        let is_current = state.uses.is_backing(ino, &refill.backing)
            && state.node(ino).is_ok_and(|node| node.written == written);
        if is_current && let Ok(mark) = refill.backing.mark() {
            state.end_base(ino);
            refill.backing.set_taken(mark);
        }
        is_current
    }
}

impl VersionReader {
    /// Opens a content, whose packets are here or are fetched when they are read.
    pub(super) fn of(shared: &Arc<Shared>, content: Content) -> Self {
        let id = shared.lock().readers.add(content);
        Self { shared: Arc::clone(shared), id, content, at: 0 }
    }
}

impl Read for VersionReader {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        let read = self.shared.library.read(&self.content, self.at, part.len())?;
        part[..read.len()].copy_from_slice(&read);
        self.at += read.len() as u64;
        Ok(read.len())
    }
}

impl Drop for VersionReader {
    fn drop(&mut self) {
        self.shared.lock().readers.remove(self.id);
    }
}

/// Returns the contents of all files that had a name, until each lost it.
fn versions(tree: &Tree, spot: &Spot) -> Result<Vec<Version>, VolumeError> {
    let mut versions: Vec<Version> = Vec::new();
    // A file may have had the name many times.
    let mut nodes = HashMap::new();
    let mut known = HashMap::new();
    for binding in tree.bindings(spot)? {
        let ino = binding.value.ino;
        let until = binding.until.unwrap_or(Hlc(u64::MAX));
        if let Entry::Vacant(unknown) = nodes.entry(ino) {
            unknown.insert(tree.nodes_of(ino)?);
        }
        for held in &nodes[&ino] {
            let node = &held.value;
            // A file that was just made has no content that anybody wrote.
            let is_new = node.written == node.id && node.content.bytes == 0 && held.until.is_some();
            if !node.is_file() || is_new || held.since >= until {
                continue;
            }
            let is_present = held.until.is_none() && binding.until.is_none();
            let at = *known.entry((ino, node.written)).or_insert(versions.len());
            match versions.get_mut(at) {
                Some(known) => known.is_present |= is_present,
                None => versions.push(version(ino, held.since, node, is_present)),
            }
        }
    }
    tree.add_conflicts(spot, &mut versions)?;
    versions.sort_by_key(|version| (version.moment, version.author));
    name(&mut versions);
    Ok(versions)
}

pub(super) fn version(ino: u64, since: Hlc, node: &Node, is_present: bool) -> Version {
    Version {
        name: String::new(),
        moment: node.written_at,
        author: node.written.author,
        bytes: node.content.bytes,
        modified: node.modified,
        digest: node.content.packet.map(|packet| Digest(packet.digest)),
        is_present,
        is_chosen: false,
        is_conflict: false,
        is_lost: false,
        ino,
        since,
        content: node.content,
        written: node.written,
    }
}

/// Gives each version a name, which is the same on all nodes, and finds those that came back.
fn name(versions: &mut [Version]) {
    let mut contents = HashSet::new();
    for version in versions {
        version.name = moment::version(version.moment, version.author);
        let packet = version.content.packet.map(|packet| packet.digest);
        version.is_chosen = !contents.insert((version.content.bytes, packet));
    }
}
