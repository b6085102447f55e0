//! How many walks a runner takes in, and how much memory each may fill: the broker's grants are the
//! origins' word, and this is the runner's own.

use std::cell::Cell;
use std::rc::Rc;

/// A slot's next walk may come while its last one is still ending, and those of an origin or a broker
/// that is lost while nobody has told the runner so.
const WALKS_PER_SLOT: usize = 2;
/// All that walks change, and all that lies in their `/dev/shm`, may each fill this part of the machine's
/// memory, when every slot is taken.
const MEMORY_PART: u64 = 4;
/// A walk may change so much all the same, if the part for all is not less: links of large programs do.
const UPPER_BYTES_MIN: u64 = 512 << 20;

/// The processes of a walk may use so much all the same, if the machine has it: compilers do.
const MEMORY_BYTES_MIN: u64 = 2 << 30;

/// Counts the walks that are under way.
#[derive(Debug)]
pub(crate) struct Admission {
    under_way: Rc<Cell<usize>>,
    max: usize,
}

/// A walk that was taken in; dropped when it is over.
#[derive(Debug)]
pub(crate) struct Admitted(Rc<Cell<usize>>);

impl Admission {
    /// Takes in walks for so many slots.
    pub(crate) fn new(slots: u32) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Self { under_way: Rc::default(), max: slots.saturating_mul(WALKS_PER_SLOT) }
    }

    /// Takes in a walk, unless there are too many.
    pub(crate) fn admit(&self) -> Option<Admitted> {
        let under_way = self.under_way.get();
        (under_way < self.max).then(|| {
            self.under_way.set(under_way + 1);
            Admitted(Rc::clone(&self.under_way))
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Returns how much one walk may change, and put into its `/dev/shm`, on a machine with so much memory.
pub(crate) fn upper_bytes(memory_bytes: u64, slots: u32) -> u64 {
    let all = memory_bytes / MEMORY_PART;
    all.min((all / u64::from(slots.max(1))).max(UPPER_BYTES_MIN))
}

/// Returns how much memory the processes of one walk may use, with what they change, on a machine with so
/// much of it.
pub(crate) fn memory_bytes(memory_bytes: u64, slots: u32) -> u64 {
    memory_bytes.min((memory_bytes / u64::from(slots.max(1))).max(MEMORY_BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_taken_in_as_long_as_there_is_room() {
        let admission = Admission::new(2);
        let taken: Vec<_> = (0..4).map_while(|_| admission.admit()).collect();
        assert_eq!(taken.len(), 4);
        assert!(admission.admit().is_none());
        drop(taken);
        assert!(admission.admit().is_some());
        assert!(Admission::new(0).admit().is_none(), "a node without slots executes nothing");
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
