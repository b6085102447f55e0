//! What is needed: former values, and the packets of all contents.

use std::collections::HashSet;

use worknode::history::{Content, Hlc};

use super::super::agree::Lost;
use super::super::error::VolumeError;
use super::super::key::{self, PIN};
use super::super::library::is_malformed;
use super::super::model::{Shared, State};
use super::super::node::Node;
use super::super::restore::Picture;
use super::super::row::Row;
use super::super::tables::Found;
use super::retention::Kept;
use crate::packet::Digest;

/// Which former values are needed.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) kept: Kept,
    /// Later values may be lost with the machine, and the earlier ones be present again.
    pub(super) settled: Hlc,
    /// Files whose whole past is kept.
    pub(super) pinned: HashSet<u64>,
}

/// The packets that are needed.
#[derive(Debug, Default)]
pub(super) struct Alive {
    pub(super) packets: HashSet<Digest>,
    /// Lists whose packets are among them. A content that has the same bytes as a list is none.
    lists: HashSet<Digest>,
}

impl Needs {
    pub(super) fn new(shared: &Shared, kept: Kept, settled: Hlc) -> Result<Self, VolumeError> {
        let mut pinned = HashSet::new();
        let name = key::xattr(0, PIN)[9..].to_vec();
        shared.each(&key::XATTRS, |_, row| {
            if row.key.get(9..) == Some(&name) {
                pinned.extend(key::number(&row.key));
            }
            Ok(())
        })?;
        let tree = shared.lock().tree.as_now()?;
        for top in pinned.clone() {
            pinned.extend(Picture::take(&tree, None, top, &[])?.nodes.into_keys());
        }
        Ok(Self { kept, settled, pinned })
    }

    /// Tells whether a former value is needed.
    pub(super) fn has(&self, past: &Found) -> bool {
        let Some(until) = key::until(&past.key) else { return true };
        let file = key::present(&past.key).and_then(|key| key::number(&key));
        until > self.settled
            || file.is_some_and(|ino| self.pinned.contains(&ino))
            || self.kept.needs(past.since, until)
    }
}

impl Shared {
    /// Returns all packets that present contents, former ones that are needed, and readers refer to.
    pub(super) fn alive(&self, needs: &Needs) -> Result<Alive, VolumeError> {
        // What a list has is read without the lock.
        let (mut seen, mut contents) = (HashSet::new(), Vec::new());
        let mut note = |content: Content| {
            if content.packet.is_some_and(|it| seen.insert((it.digest, it.is_list))) {
                contents.push(content);
            }
        };
        // In this order: a present content that becomes a former one meanwhile is found at least once.
        self.each(&key::NODES, |_, row| {
            note(Node::decode(&row.value)?.content);
            Ok(())
        })?;
        self.each(&key::past_prefix(&key::NODES), |_, row| {
            if needs.has(&row) {
                note(Node::decode(&row.value)?.content);
            }
            Ok(())
        })?;
        self.each(&key::ALL_LOST, |_, row| {
            note(Lost::decode(&row.value)?.content);
            Ok(())
        })?;
        self.lock().readers.contents().for_each(note);
        let mut alive = Alive::default();
        contents.iter().try_for_each(|content| alive.add(self, content))?;
        Ok(alive)
    }

    /// Passes all rows with a prefix to a function, without a lock between pages.
    pub(in crate::volume) fn each(
        &self,
        prefix: &[u8],
        mut work: impl FnMut(&mut State, Found) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let mut after = None;
        loop {
            let mut state = self.lock();
            let (rows, next) = state.tree.tables.page(prefix, after.as_ref())?;
            rows.into_iter().try_for_each(|row| work(&mut state, row))?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

impl Alive {
    /// Adds the packets of a content that are here. Packets of an earlier past may be gone, if the tables were made again from
    /// the log; and what was not fetched from another node is not needed here.
    pub(super) fn add(&mut self, shared: &Shared, content: &Content) -> Result<(), VolumeError> {
        let Some(packet) = content.packet.filter(|_| shared.library.has(content)) else {
            return Ok(());
        };
        let digest = Digest(packet.digest);
        self.packets.insert(digest);
        if packet.is_list && self.lists.insert(digest) {
            let all = match shared.library.packets_of(content) {
                // Its author made it so, and nobody can read it.
                Err(error) if is_malformed(&error) => Vec::new(),
                all => all.map_err(VolumeError::io(
                    "read a list of packets in",
                    &shared.dir.join("packs"),
                ))?,
            };
            self.packets.extend(all);
        }
        Ok(())
    }

    /// Takes the packets that were added since the last call.
    pub(super) fn take(&mut self) -> HashSet<Digest> {
        std::mem::take(&mut self.packets)
    }
}
