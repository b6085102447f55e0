//! The locks on one file: ranges of bytes and their owners, as `fcntl` has them, and those of `flock`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use worknode::history::{Author, FileId};

/// The last byte of a range that has no end.
pub const END: u64 = i64::MAX as u64;

/// Who has a lock: a process, or an open file description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Its node.
    pub node: Author,
    /// The number that the node's kernel gives it.
    pub id: u64,
}

impl Owner {
    /// Sorts before all others.
    pub(super) const FIRST: Self = Self { node: Author([0; 16]), id: 0 };
    /// Sorts after all others.
    pub(super) const LAST: Self = Self { node: Author([u8::MAX; 16]), id: u64::MAX };
}

/// By which call a lock was taken. Locks of `flock` and of `fcntl` do not see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Space {
    /// `flock`.
    Flock,
    /// `fcntl`.
    Range,
    /// A lock on the whole file of which that is not known. It sees both.
    Whole,
}

const SPACES: [Space; 3] = [Space::Flock, Space::Range, Space::Whole];

impl Space {
    fn meets(self, other: Self) -> bool {
        self == other || self == Self::Whole || other == Self::Whole
    }
}

/// What a lock lets others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Others may have such locks, too.
    Shared,
    /// Nobody else has a lock.
    Exclusive,
}

/// A lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Held {
    pub owner: Owner,
    pub space: Space,
    pub mode: Mode,
    /// The first byte.
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// The process that took it, for `F_GETLK`.
    pub pid: u32,
}

impl Held {
    /// Tells whether its range is one.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.start <= self.end && self.end <= END
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.space.meets(other.space) && self.start <= other.end && other.start <= self.end
    }

    /// Tells whether both cannot be there.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        let is_exclusive = self.mode == Mode::Exclusive || other.mode == Mode::Exclusive;
        self.owner != other.owner && is_exclusive && self.overlaps(other)
    }

    /// Returns the lock of everything that this owner may have.
    #[must_use]
    pub fn all_of(owner: Owner) -> Self {
        Self { owner, space: Space::Whole, mode: Mode::Exclusive, start: 0, end: END, pid: 0 }
    }
}

/// The locks on a file, by owner, kind and first byte: those of one owner and kind do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<(Owner, Space, u64), Held>);

impl Table {
    /// Returns a lock that excludes this one.
    #[must_use]
    pub fn conflict(&self, lock: &Held) -> Option<&Held> {
        self.0.values().find(|held| held.excludes(lock))
    }

    /// Returns all locks that exclude this one.
    pub fn conflicts<'a>(&'a self, lock: &'a Held) -> impl Iterator<Item = &'a Held> {
        self.0.values().filter(|held| held.excludes(lock))
    }

    /// Tells whether a lock is in the table as it is.
    #[must_use]
    pub fn contains(&self, lock: &Held) -> bool {
        self.0.get(&key(lock)) == Some(lock)
    }

    /// Returns what the owner of a lock has in its range.
    pub fn own<'a>(&'a self, lock: &'a Held) -> impl Iterator<Item = &'a Held> {
        let spaces = SPACES.into_iter().filter(|space| space.meets(lock.space));
        spaces.flat_map(|space| {
            let before = self.0.range((lock.owner, space, 0)..=(lock.owner, space, lock.end));
            before.rev().map(|(_, held)| held).take_while(|held| held.end >= lock.start)
        })
    }

    /// Sets a lock, in place of what its owner has in its range, and joins it with what it touches.
    pub fn set(&mut self, mut lock: Held) {
        self.clear(&lock);
        let Held { owner, space, .. } = lock;
        if let Some(start) = lock.start.checked_sub(1) {
            let before = self.0.range((owner, space, 0)..=(owner, space, start)).next_back();
            if let Some((_, held)) =
                before.filter(|(_, it)| it.end == start && it.mode == lock.mode)
            {
                lock.start = held.start;
            }
        }
        let after = (owner, space, lock.end.saturating_add(1));
        if let Some(held) = self.0.get(&after).filter(|it| it.mode == lock.mode).copied() {
            self.0.remove(&after);
            lock.end = held.end;
        }
        self.0.insert(key(&lock), lock);
    }

    /// Takes away what the owner of a lock has in its range.
    pub fn clear(&mut self, lock: &Held) {
        let cut: Vec<Held> = self.own(lock).copied().collect();
        for held in cut {
            self.0.remove(&key(&held));
            if held.start < lock.start {
                self.put(Held { end: lock.start - 1, ..held });
            }
            if held.end > lock.end {
                self.put(Held { start: lock.end + 1, ..held });
            }
        }
    }

    fn put(&mut self, lock: Held) {
        self.0.insert(key(&lock), lock);
    }

    /// Tells whether there are more locks after one was given back, since it is in the middle of others.
    #[must_use]
    pub fn is_split(&self, lock: &Held) -> bool {
        self.own(lock).any(|held| held.start < lock.start && held.end > lock.end)
    }

    /// Makes shared what the owner of a lock has in its range.
    pub fn share(&mut self, lock: &Held) {
        let own: Vec<Held> = self.own(lock).copied().collect();
        for held in own {
            let (start, end) = (held.start.max(lock.start), held.end.min(lock.end));
            self.set(Held { mode: Mode::Shared, start, end, ..held });
        }
    }

    /// Takes away all locks of a node.
    pub fn take_back(&mut self, node: Author) {
        self.0.retain(|(owner, ..), _| owner.node != node);
    }

    /// Tells whether an owner has something in the range of a lock.
    #[must_use]
    pub fn has(&self, lock: &Held) -> bool {
        self.own(lock).next().is_some()
    }

    /// Returns all locks.
    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.0.values()
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(lock: &Held) -> (Owner, Space, u64) {
    (lock.owner, lock.space, lock.start)
}

/// Tells whether only this node knows a file, and so decides about its locks whoever the master is.
pub(super) fn is_private(file: FileId) -> bool {
    file.author == Author::default()
}
