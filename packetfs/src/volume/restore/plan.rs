//! Which file of the present becomes which former one. Pure.
//!
//! A former file that is still there stays the same file, also with another name, unless it has a name outside: that one is not
//! to change. Otherwise the file that has its name becomes it, if it is of the same kind. Otherwise it is made again.

use std::collections::{HashMap, HashSet};

use super::super::node::Node;
use super::picture::{Picture, Place};

/// How the present becomes the past.
#[derive(Debug)]
pub(super) struct Plan {
    /// Former files and the present ones that become them. Those that are made are added.
    pub(super) becomes: HashMap<u64, u64>,
    /// Present names that stay.
    pub(super) stays: HashSet<Place>,
    /// How many of its names a present file keeps.
    names: HashMap<u64, u32>,
}

impl Plan {
    /// Makes the plan for two pictures of a directory, which was another one or the same.
    pub(super) fn make(then: &Picture, now: &Picture, (then_dir, now_dir): (u64, u64)) -> Self {
        let becomes = becomes(then, now, (then_dir, now_dir));
        let present: HashMap<&Place, u64> =
            now.names.iter().map(|(place, ino)| (place, *ino)).collect();
        let mut plan = Self { becomes, stays: HashSet::new(), names: HashMap::new() };
        for ((dir, name), ino) in &then.names {
            let (Some(&dir), Some(&ino)) = (plan.becomes.get(dir), plan.becomes.get(ino)) else {
                continue;
            };
            let place = (dir, name.clone());
            if present.get(&place) == Some(&ino) {
                plan.stays.insert(place);
                *plan.names.entry(ino).or_default() += 1;
            }
        }
        plan
    }

    /// Takes a name away from a present file. Tells whether the file is needed, but has no other name.
    pub(super) fn must_stage(&mut self, ino: u64, used: &HashSet<u64>) -> bool {
        let names = self.names.entry(ino).or_default();
        let must = used.contains(&ino) && *names == 0;
        *names += u32::from(must);
        must
    }
}

fn becomes(then: &Picture, now: &Picture, dirs: (u64, u64)) -> HashMap<u64, u64> {
    let present: HashMap<&Place, u64> =
        now.names.iter().map(|(place, ino)| (place, *ino)).collect();
    let mut inside: HashMap<u64, u32> = HashMap::new();
    for (_, ino) in &now.names {
        *inside.entry(*ino).or_default() += 1;
    }
    let is_free = |ino: u64| {
        let of = |node: &Node| node.is_dir() || inside.get(&ino) == Some(&node.links);
        now.nodes.get(&ino).is_some_and(of)
    };
    let mut becomes = HashMap::from([dirs]);
    let mut taken = HashSet::from([dirs.1]);
    for ((dir, name), ino) in &then.names {
        if becomes.contains_key(ino) {
            continue;
        }
        let same = Some(*ino).filter(|&ino| is_free(ino));
        let in_place = || {
            let place = (*becomes.get(dir)?, name.clone());
            let other = *present.get(&place)?;
            let is_same_kind = now.nodes.get(&other)?.kind == then.nodes.get(ino)?.kind;
            (is_same_kind && is_free(other) && !then.nodes.contains_key(&other)).then_some(other)
        };
        if let Some(present) = same.or_else(in_place).filter(|&ino| taken.insert(ino)) {
            becomes.insert(*ino, present);
        }
    }
    becomes
}
