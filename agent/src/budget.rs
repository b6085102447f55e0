//! The memory budget that all walks share for received changes that are not applied yet.

use std::cell::Cell;
use std::rc::Rc;

/// The remaining budget.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Cell<u64>,
}

/// A walk's part of the budget, returned on drop.
#[derive(Debug)]
pub(crate) struct Part {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(bytes) })
    }

    /// Makes an empty part.
    pub(crate) fn part(self: &Rc<Self>) -> Part {
        Part { budget: Rc::clone(self), bytes: 0 }
    }
}

impl Part {
    /// Returns how much may still be taken.
    pub(crate) fn left(&self) -> u64 {
        self.budget.left.get()
    }

    /// Takes more from the budget. Returns false if there is not enough.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        let Some(left) = self.budget.left.get().checked_sub(bytes) else { return false };
        self.budget.left.set(left);
        self.bytes += bytes;
        true
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_walks_share_the_budget() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.part(), budget.part());
        assert!(one.take(60) && !other.take(60) && other.take(40) && !one.take(1));
        drop(one);
        assert!(other.take(60) && !other.take(u64::MAX));
        drop(other);
        assert_eq!(budget.left.get(), 100);
    }
}
