//! A queue in which users take turns, so that nobody waits for all that another has put in.

use std::collections::VecDeque;

/// The queue. Each user has a part, in the order of their turns.
#[derive(Debug)]
pub(crate) struct Turns<T>(VecDeque<(u32, VecDeque<T>)>);

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Turns<T> {
    /// Puts something in at the end of a user's part.
    pub(crate) fn put(&mut self, user: u32, item: T) {
        match self.0.iter_mut().find(|(other, _)| *other == user) {
            Some((_, items)) => items.push_back(item),
            None => self.0.push_back((user, VecDeque::from([item]))),
        }
    }

    /// Takes out the first of the user whose turn it is, of those who may have one.
    pub(crate) fn take(&mut self, may_have: impl Fn(u32) -> bool) -> Option<T> {
        let at = self.0.iter().position(|(user, _)| may_have(*user))?;
        let (user, mut items) = self.0.remove(at)?;
        let item = items.pop_front();
        if !items.is_empty() {
            self.0.push_back((user, items));
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns() {
        let mut turns = Turns::default();
        (0..3).for_each(|item| turns.put(1000, item));
        turns.put(1001, 10);
        turns.put(1002, 20);
        assert_eq!(turns.take(|_| false), None);
        assert_eq!(turns.take(|user| user == 1002), Some(20));
        let taken: Vec<_> = std::iter::from_fn(|| turns.take(|_| true)).collect();
        assert_eq!(taken, [0, 10, 1, 2]);
        assert!(turns.0.is_empty());
    }
}
