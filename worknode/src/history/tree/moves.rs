//! Which moves of directories are skipped, because they would make a cycle.
//!
//! After Kleppmann et al., "A highly-available move operation for replicated trees" (2021): moves are applied in the
//! order of their stamps. A late one undoes those after it; they are redone when all that came with it are added. Removed directories keep their parents, so
//! that one that comes back makes no cycle either.

use std::collections::BTreeMap;
use std::iter;

use super::super::event::FileId;
use super::super::register::Stamp;

/// The parents of all directories, and the moves that made them so.
#[derive(Debug, Clone, Default)]
pub(super) struct Moves {
    parents: BTreeMap<FileId, FileId>,
    log: BTreeMap<Stamp, Move>,
    /// The first move that is not done: it or those after it were added since the last call of `settle`.
    undone: Option<Stamp>,
}

#[derive(Debug, Clone)]
struct Move {
    /// Directories and their new parents.
    edges: Vec<(FileId, FileId)>,
    /// Their former parents, if the move is done.
    former: Vec<FileId>,
    is_skipped: bool,
}

impl Moves {
    /// Adds a directory. A new one has nothing below it, so no move depends on when it comes.
    pub(super) fn add_dir(&mut self, dir: FileId, parent: FileId) {
        self.parents.insert(dir, parent);
    }

    /// Returns whether an event is skipped.
    pub(super) fn skips(&self, stamp: Stamp) -> bool {
        self.log.get(&stamp).is_some_and(|moved| moved.is_skipped)
    }

    /// Adds a move. It counts as not skipped until `settle` is called.
    pub(super) fn add(&mut self, stamp: Stamp, edges: Vec<(FileId, FileId)>) {
        if self.undone.is_none_or(|undone| stamp < undone) {
            self.undo_after(stamp);
            self.undone = Some(stamp);
        }
        self.log.insert(stamp, Move { edges, former: Vec::new(), is_skipped: false });
    }

    /// Does what is undone. Returns the moves that are skipped now and were not before, or the reverse.
    pub(super) fn settle(&mut self) -> Vec<Stamp> {
        let Some(first) = self.undone.take() else { return Vec::new() };
        let mut flipped = Vec::new();
        for (stamp, moved) in self.log.range_mut(first..) {
            if moved.redo(&mut self.parents) {
                flipped.push(*stamp);
            }
        }
        flipped
    }

    fn undo_after(&mut self, stamp: Stamp) {
        for (_, moved) in self.log.range_mut(stamp..).rev() {
            moved.undo(&mut self.parents);
        }
    }
}

impl Move {
    fn undo(&mut self, parents: &mut BTreeMap<FileId, FileId>) {
        for ((dir, _), former) in self.edges.iter().zip(self.former.drain(..)).rev() {
            parents.insert(*dir, former);
        }
    }

    /// Returns whether it is skipped now and was not before, or the reverse.
    fn redo(&mut self, parents: &mut BTreeMap<FileId, FileId>) -> bool {
        for (dir, parent) in &self.edges {
            let former = parents.insert(*dir, *parent);
            self.former.push(former.expect("a directory is added before it moves"));
        }
        let was_skipped = self.is_skipped;
        self.is_skipped = self.edges.iter().any(|(dir, _)| is_in_cycle(*dir, parents));
        if self.is_skipped {
            self.undo(parents);
        }
        self.is_skipped != was_skipped
    }
}

/// Follows the parents. They may also lead into a cycle that the directory is not part of.
fn is_in_cycle(dir: FileId, parents: &BTreeMap<FileId, FileId>) -> bool {
    let ancestors = iter::successors(parents.get(&dir), |parent| parents.get(parent));
    ancestors.take(parents.len()).any(|ancestor| *ancestor == dir)
}

#[cfg(test)]
mod tests {
    use super::super::super::event::{Author, Dot};
    use super::super::super::hlc::Hlc;
    use super::*;

    const ROOT: FileId = Dot { author: Author([0; 16]), seq: 0 };

    fn dot(seq: u64) -> FileId {
        Dot { author: Author([1; 16]), seq }
    }

    fn at(ms: u64) -> Stamp {
        Stamp { hlc: Hlc::at_ms(ms), dot: dot(ms) }
    }

    fn three() -> Moves {
        let mut moves = Moves::default();
        (1..=3).for_each(|seq| moves.add_dir(dot(seq), ROOT));
        moves
    }

    #[test]
    fn of_two_moves_that_make_a_cycle_the_later_is_skipped() {
        for order in [[0, 1], [1, 0]] {
            let mut moves = three();
            let both = [(at(11), (dot(1), dot(2))), (at(12), (dot(2), dot(1)))];
            for (stamp, edge) in order.map(|i| both[i]) {
                moves.add(stamp, vec![edge]);
                moves.settle();
            }
            assert_eq!([moves.skips(at(11)), moves.skips(at(12))], [false, true]);
            assert_eq!([moves.parents[&dot(1)], moves.parents[&dot(2)]], [dot(2), ROOT]);
        }
    }

    #[test]
    fn a_late_move_may_bring_a_skipped_one_back() {
        let mut moves = three();
        moves.add(at(14), vec![(dot(2), dot(1))]);
        moves.add(at(11), vec![(dot(1), dot(2))]);
        assert_eq!(moves.settle(), [at(14)]);
        assert!(moves.skips(at(14)));
        moves.add(at(12), vec![(dot(1), dot(3))]);
        assert_eq!(moves.settle(), [at(14)]);
        assert!(!moves.skips(at(14)));
    }

    #[test]
    fn an_exchange_is_skipped_as_a_whole() {
        let mut moves = three();
        moves.add(at(11), vec![(dot(3), dot(1))]);
        moves.add(at(12), vec![(dot(2), dot(2)), (dot(3), dot(2))]);
        moves.settle();
        assert!(moves.skips(at(12)));
        assert_eq!([moves.parents[&dot(2)], moves.parents[&dot(3)]], [ROOT, dot(1)]);
    }
}
