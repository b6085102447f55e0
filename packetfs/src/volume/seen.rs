//! What a name of the volume leads to, as whoever keeps a directory the same as the volume compares it.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use worknode::history::{Content, Dot, Kind, Name, Nanos, Permissions};

use super::key;
use super::model::{Shared, Volume};
use super::node::{Entry, Node};
use super::past::told;
use super::row::Row;
use super::versions::VersionReader;

/// Rows that are read under the lock at once.
const PAGE_ROWS: usize = 256;

/// A file as the tables have it. What programs have written and not closed yet is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Who may do what with it.
    pub permissions: Permissions,
    /// The time of the last modification of its content.
    pub modified: Nanos,
    pub(super) content: Content,
    /// The event that wrote the content.
    pub(super) written: Dot,
}

impl Seen {
    pub(super) fn of(ino: u64, node: &Node) -> Self {
        Self {
            ino,
            kind: node.kind.clone(),
            permissions: node.permissions,
            // That of a directory changes with its names.
            modified: if node.is_file() { node.modified } else { 0 },
            content: node.content,
            written: node.written,
        }
    }

    /// Tells whether two are of one kind and have the same content.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.kind, self.content) == (&other.kind, other.content)
    }

    /// Returns the size of the content.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.content.bytes
    }
}

impl Volume {
    /// Returns what a name leads to; nothing also if the directory is gone.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn seen(&self, dir: u64, name: &[u8]) -> Result<Option<Seen>, Errno> {
        let state = self.shared.lock();
        let Some(entry) = state.child(dir, name)? else { return Ok(None) };
        let node = told(state.tree.find(entry.ino))?;
        Ok(node.map(|node| Seen::of(entry.ino, &node)))
    }

    /// Returns what is in a directory.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn all_seen(&self, dir: u64) -> Result<Vec<(Name, Seen)>, Errno> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            // Others have their turn between pages.
            let state = self.shared.lock();
            let page = state.tree.tables.some(&key::entries(dir), after.as_ref(), PAGE_ROWS);
            let (rows, next) = told(page)?;
            for row in rows {
                let ino = told(Entry::decode(&row.value))?.ino;
                let Some(node) = told(state.tree.find(ino))? else { continue };
                all.push((key::name(&row.key).to_vec(), Seen::of(ino, &node)));
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Tells whether a directory is another one or below it.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn is_below(&self, dir: u64, top: u64) -> Result<bool, Errno> {
        let state = self.shared.lock();
        // It may have been removed since.
        let is_there = told(state.tree.find(dir))?.is_some_and(|node| node.is_dir());
        Ok(is_there && state.is_within(dir, top).unwrap_or(false))
    }

    /// Opens the content of a file for reading.
    #[must_use]
    pub fn read_seen(&self, seen: &Seen) -> VersionReader {
        let _kept = self.shared.keep_packets();
        VersionReader::of(&self.shared, seen.content)
    }

    /// Tells whether all of a file's content is here.
    #[must_use]
    pub fn has_seen(&self, seen: &Seen) -> bool {
        self.shared.has_all(&seen.content)
    }
}

impl Shared {
    fn has_all(&self, content: &Content) -> bool {
        match content.packet {
            None => true,
            Some(packet) if !packet.is_list => self.library.has(content),
            Some(_) => self.library.manifest_here(content).is_some_and(|manifest| {
                manifest.packets.iter().all(|packet| self.library.has_packet(packet))
            }),
        }
    }
}
