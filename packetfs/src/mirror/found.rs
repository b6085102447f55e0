//! What a walk has found that began at some time, as far as that is known still.

use std::collections::{BTreeSet, HashSet};

use super::Mirror;
use super::item::EARLIER_MAX;
use super::model::{Invalidation, Node, ROOT};
use crate::change::Base;
use crate::contents;
use crate::packet::Digest;
use crate::path::Bytes;
use crate::tree::{Kind, Time};

impl Mirror {
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
        self.ask_kernel(&mut forget);
        self.evict(&mut forget);
        forget
    }

    /// Returns the modification times since a moment, of all that is known.
    #[must_use]
    pub fn times_since(&self, moment: Time) -> HashSet<Time> {
        let times = self.items.values().filter_map(|item| Some(item.attr?.mtime));
        times.filter(|&time| time >= moment).collect()
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

    /// Returns the digest of what somebody has found in a directory who has looked after the first
    /// `batches`; nothing if that is not known.
    #[must_use]
    pub fn contents_since(&self, batches: u64, path: &[u8]) -> Option<Digest> {
        contents::digest(path, &mut |dir| {
            let dir = self.items.get(&self.place(dir)?)?;
            if !dir.seen || dir.hidden || dir.dropped.max(dir.lost) > batches {
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
        if item.lost > batches {
            return true;
        }
        let mut since = item.earlier.iter().rev().take_while(|(batch, _)| *batch > batches);
        let count = since.clone().count();
        count == EARLIER_MAX || since.any(|&(_, earlier)| earlier == time)
    }
}
