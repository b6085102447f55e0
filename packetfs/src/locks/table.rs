//! The locks on one file: ranges of bytes and their owners, as `fcntl` has them, and those of `flock`.

use serde::{Deserialize, Serialize};
use worknode::history::{Author, FileId};

/// The last byte of a range that has no end.
pub const END: u64 = i64::MAX as u64;
/// Most locks on one file.
pub const LOCKS_MAX: usize = 4096;

/// Who has a lock: a process, or an open file description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Its node.
    pub node: Author,
    /// The number that the node's kernel gives it.
    pub id: u64,
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

/// The locks on a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(Vec<Held>);

impl Table {
    /// Returns a lock that excludes this one.
    #[must_use]
    pub fn conflict(&self, lock: &Held) -> Option<&Held> {
        self.0.iter().find(|held| held.excludes(lock))
    }

    /// Returns all locks that exclude this one.
    pub fn conflicts<'a>(&'a self, lock: &'a Held) -> impl Iterator<Item = &'a Held> {
        self.0.iter().filter(|held| held.excludes(lock))
    }

    /// Sets a lock, in place of what its owner has in its range.
    pub fn set(&mut self, lock: Held) {
        self.clear(&lock);
        self.0.push(lock);
        self.join(lock);
    }

    /// Joins a new lock with those of its owner that it touches.
    fn join(&mut self, mut lock: Held) {
        self.0.pop();
        let touches = |held: &Held, lock: &Held| {
            let is_like =
                (held.owner, held.space, held.mode) == (lock.owner, lock.space, lock.mode);
            is_like
                && (held.end.saturating_add(1) == lock.start
                    || lock.end.saturating_add(1) == held.start)
        };
        while let Some(at) = self.0.iter().position(|held| touches(held, &lock)) {
            let held = self.0.swap_remove(at);
            (lock.start, lock.end) = (lock.start.min(held.start), lock.end.max(held.end));
        }
        self.0.push(lock);
    }

    /// Takes away what the owner of a lock has in its range.
    pub fn clear(&mut self, lock: &Held) {
        let is_cut = |held: &Held| held.owner == lock.owner && held.overlaps(lock);
        let cut: Vec<Held> = self.0.extract_if(.., |held| is_cut(held)).collect();
        for held in cut {
            if held.start < lock.start {
                self.0.push(Held { end: lock.start - 1, ..held });
            }
            if held.end > lock.end {
                self.0.push(Held { start: lock.end + 1, ..held });
            }
        }
    }

    /// Makes shared what the owner of a lock has in its range.
    pub fn share(&mut self, lock: &Held) {
        let is_own = |held: &Held| held.owner == lock.owner && held.overlaps(lock);
        let own: Vec<Held> = self.0.iter().filter(|held| is_own(held)).copied().collect();
        for held in own {
            let (start, end) = (held.start.max(lock.start), held.end.min(lock.end));
            self.set(Held { mode: Mode::Shared, start, end, ..held });
        }
    }

    /// Keeps only some locks.
    pub fn retain(&mut self, keeps: impl Fn(&Held) -> bool) {
        self.0.retain(keeps);
    }

    /// Tells whether an owner has something in the range of a lock.
    #[must_use]
    pub fn has(&self, lock: &Held) -> bool {
        self.0.iter().any(|held| held.owner == lock.owner && held.overlaps(lock))
    }

    /// Returns all locks.
    #[must_use]
    pub fn all(&self) -> &[Held] {
        &self.0
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether there are as many as there may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= LOCKS_MAX
    }
}

/// Tells whether only this node knows a file, and so decides about its locks whoever the master is.
pub(super) fn is_private(file: FileId) -> bool {
    file.author == Author::default()
}
