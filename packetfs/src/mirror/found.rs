//! What a walk has found since it began, as far as the mirror still knows it.

use std::collections::{BTreeSet, HashSet};

use super::Mirror;
use super::item::EARLIER_MAX;
use super::model::{Invalidation, Node, ROOT};
use crate::change::Base;
use crate::contents;
use crate::packet::Digest;
use crate::path::Bytes;
use crate::tree::{Kind, Names, Time};

impl Mirror {
    /// Records the begin of a walk, and returns the number of batches so far. What the walk may have seen is kept
    /// until [`Self::end`].
    pub fn begin(&mut self) -> u64 {
        self.gone.begin(self.batches);
        self.batches
    }

    /// Records the end of a walk that began after so many batches.
    pub fn end(&mut self, batches: u64) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        self.gone.end(batches);
        self.sweep(&mut forget);
        self.ask_kernel(&mut forget);
        self.evict(&mut forget);
        forget
    }

    /// Returns the known modification times since a moment.
    #[must_use]
    pub fn times_since(&self, moment: Time) -> HashSet<Time> {
        let times = self.items.values().filter_map(|item| Some(item.attr?.mtime));
        times.filter(|&time| time >= moment).collect()
    }

    /// Returns what a walk that began after `batches` found at a path. Data that has been evicted still counts as
    /// found.
    #[must_use]
    pub fn base_since(&self, batches: u64, path: &[u8]) -> Base {
        let mut at = ROOT;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = self.items.get(&at) else { return Base::Unknown };
            match dir.children.get(name) {
                Some(&place) => at = place,
                None if dir.seen && dir.dropped.max(dir.lost) <= batches => return Base::Nothing,
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

    /// Returns the digest of the names that a walk that began after `batches` found in a directory, or `None` if that
    /// is unknown.
    #[must_use]
    pub fn contents_since(&self, batches: u64, path: &[u8]) -> Option<Digest> {
        contents::digest(path, &mut |dir| {
            let dir = self.items.get(&self.place(dir)?)?;
            if !dir.seen || dir.names != Names::Told || dir.dropped.max(dir.lost) > batches {
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

    /// Tells whether a walk that began after `batches` may have found a directory with this modification time, even if
    /// it has changed since.
    #[must_use]
    pub fn had_time_since(&self, batches: u64, path: &[u8], time: Time) -> bool {
        let Some(item) = self.place(path).and_then(|place| self.items.get(&place)) else {
            return true;
        };
        if item.lost > batches {
            return true;
        }
        let mut since = item.earlier.iter().rev().take_while(|(batch, _)| *batch > batches);
        let count = since.clone().count();
        count == EARLIER_MAX || since.any(|&(_, earlier)| earlier == time)
    }
}
