//! Leaf commands: those that started no compiler, shell or driver when they ran under `oswalk exec`. The next time they
//! walk themselves.

use std::cell::RefCell;
use std::collections::VecDeque;

use worknode::request::CommandFile;

/// Most remembered commands. Few people alternate between more programs of their own.
const LEAVES_MAX: usize = 256;

/// The leaf commands of each user, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Leaves(RefCell<VecDeque<(u32, CommandFile)>>);

impl Leaves {
    /// Tells whether a user's command is a leaf.
    pub(crate) fn contains(&self, uid: u32, command: CommandFile) -> bool {
        self.0.borrow().contains(&(uid, command))
    }

    /// Remembers a user's command.
    pub(crate) fn add(&self, uid: u32, command: CommandFile) {
        let mut known = self.0.borrow_mut();
        known.retain(|leaf| *leaf != (uid, command));
        known.truncate(LEAVES_MAX - 1);
        known.push_front((uid, command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_leaves_are_remembered() {
        let leaves = Leaves::default();
        let file = |ino| CommandFile { dev: 1, ino, changed_ns: 0, arguments: 0 };
        (0..=256).for_each(|ino| leaves.add(0, file(ino)));
        assert!(!leaves.contains(0, file(0)) && leaves.contains(0, file(1)));
        assert!(!leaves.contains(1000, file(256)), "another user's");
        assert!(!leaves.contains(0, CommandFile { changed_ns: 1, ..file(256) }), "a changed one");
    }
}
