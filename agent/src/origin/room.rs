//! The memory at the origin for what walks have changed, between its arrival and its commit: one amount
//! for all of them together.

use std::cell::Cell;
use std::rc::Rc;

/// What is left of it.
#[derive(Debug, Clone)]
pub(crate) struct Room(Rc<Cell<u64>>);

/// What a walk has taken of it; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    bytes: u64,
}

impl Room {
    /// So much for all walks.
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// Nothing so far.
    pub(super) fn begin(&self) -> Taken {
        Taken { room: self.clone(), bytes: 0 }
    }
}

impl Taken {
    /// Nothing so far, of the same.
    pub(super) fn another(&self) -> Self {
        self.room.begin()
    }

    /// Takes more; tells whether there was so much left.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let Some(left) = self.room.0.get().checked_sub(bytes) else { return false };
        self.room.0.set(left);
        self.bytes += bytes;
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.set(self.room.0.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_share_it_and_give_it_back() {
        let room = Room::new(10);
        let (mut one, mut other) = (room.begin(), room.begin());
        assert!(one.take(4) && one.take(3) && !other.take(4) && other.take(3));
        drop(one);
        assert!(other.take(7) && !other.take(1));
    }
}
