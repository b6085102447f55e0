//! Limits the number of walks on a runner and the memory of each. The runner enforces them itself, because
//! it cannot check that origins hold grants from the broker.

use std::cell::Cell;
use std::rc::Rc;

use crate::admission::{self, Refusal};

/// More than one, because a slot's next walk may arrive while the previous one is ending, or while walks of a
/// lost origin or broker have not been noticed yet.
const WALKS_PER_SLOT: usize = 2;
/// With every slot in use, the changes of all walks may together fill this fraction of the machine's memory,
/// and so may their `/dev/shm`.
const MEMORY_PART: u64 = 4;
/// Minimum for the changes of one walk, unless the total for all walks is less: linking large programs needs it.
const UPPER_BYTES_DEFAULT_MIN: u64 = 512 << 20;

/// Minimum for the processes of one walk, if the machine has so much: compilers need it.
const MEMORY_BYTES_MIN: u64 = 2 << 30;

/// Counts the admitted walks.
#[derive(Debug)]
pub(crate) struct Room {
    under_way: Rc<Cell<usize>>,
    max: usize,
}

/// The place of an admitted walk. Dropping it releases the place.
#[derive(Debug)]
pub(crate) struct Taken(Rc<Cell<usize>>);

impl Room {
    /// Makes room for a number of slots.
    pub(crate) fn new(slots: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Self { under_way: Rc::default(), max: slots.saturating_mul(WALKS_PER_SLOT) }
    }

    /// Takes a place for a walk.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn take(&self) -> Result<Taken, Refusal> {
        let under_way = self.under_way.get();
        admission::make_room(under_way, self.max)?;
        self.under_way.set(under_way + 1);
        Ok(Taken(Rc::clone(&self.under_way)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Returns the memory for the changes of one walk, and for its `/dev/shm`, on a machine with `memory_bytes`.
pub(crate) fn upper_bytes(memory_bytes: u64, slots: u32) -> u64 {
    let all = memory_bytes / MEMORY_PART;
    all.min((all / u64::from(slots.max(1))).max(UPPER_BYTES_DEFAULT_MIN))
}

/// Returns the memory for the processes and changes of one walk on a machine with `memory_bytes`.
pub(crate) fn memory_bytes(memory_bytes: u64, slots: u32) -> u64 {
    memory_bytes.min((memory_bytes / u64::from(slots.max(1))).max(MEMORY_BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_admitted_while_there_is_room() {
        let room = Room::new(2);
        let taken: Vec<_> = (0..4).map_while(|_| room.take().ok()).collect();
        assert_eq!(taken.len(), 4);
        assert!(room.take().is_err());
        drop(taken);
        assert!(room.take().is_ok());
        assert!(Room::new(0).take().is_err(), "a node without slots executes nothing");
    }

    #[test]
    fn memory_is_divided_among_slots() {
        const GIB: u64 = 1 << 30;
        assert_eq!(upper_bytes(16 * GIB, 1), 4 * GIB);
        assert_eq!(upper_bytes(16 * GIB, 4), GIB);
        assert_eq!(upper_bytes(16 * GIB, 64), GIB / 2);
        assert_eq!(upper_bytes(GIB, 64), GIB / 4);
        assert_eq!(memory_bytes(16 * GIB, 4), 4 * GIB);
        assert_eq!(memory_bytes(16 * GIB, 64), 2 * GIB);
        assert_eq!(memory_bytes(GIB, 64), GIB);
    }
}
