//! Events that wait for others. Pure, but for what the tables have.
//!
//! A node may send events for ever whose causes never come. Of each author so many are in memory; the rest is read again from
//! the author's log when it is its turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use worknode::history::{Author, Dot, Event, Kind, Op};

use super::tree::Tree;

/// Bytes of an author's events in memory.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Events in the logs that are not applied yet, of each author in their order.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<Author, Waiting>);

/// The events of an author.
#[derive(Debug)]
struct Waiting {
    events: VecDeque<Event>,
    bytes: usize,
    /// The last one in memory.
    last: u64,
    /// The last one that is to be applied.
    offered: u64,
}

/// Events that are to be read from their log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) author: Author,
    pub(super) seqs: RangeInclusive<u64>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an event, unless it is there, or one before it is missing. If there is no room it is wanted again.
    pub(super) fn add(&mut self, event: Event, applied: u64) {
        let waiting = self.0.entry(event.dot.author).or_insert_with(|| Waiting::after(applied));
        let seq = event.dot.seq;
        if seq == waiting.offered + 1 {
            waiting.offered = seq;
        }
        if seq == waiting.last + 1 && seq <= waiting.offered && waiting.bytes < BYTES_MAX {
            waiting.last = seq;
            waiting.bytes += bytes(&event);
            waiting.events.push_back(event);
        }
    }

    /// Takes back an event that was taken.
    pub(super) fn put_back(&mut self, event: Event) {
        let seq = event.dot.seq;
        let waiting = self.0.entry(event.dot.author).or_insert_with(|| Waiting::after(seq));
        waiting.bytes += bytes(&event);
        waiting.events.push_front(event);
    }

    /// Returns what there is room for now.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let has_room = |it: &Waiting| it.last < it.offered && it.bytes < BYTES_MAX / 2;
        let (&author, it) = self.0.iter().find(|(_, it)| has_room(it))?;
        Some(Wanted { author, seqs: it.last + 1..=it.offered })
    }

    /// Takes the earliest event whose causes are applied.
    pub(super) fn next(&mut self, tree: &Tree) -> Option<Event> {
        let is_ready = |event: &Event| {
            event.causes().iter().all(|cause| cause.seq <= tree.applied(cause.author))
        };
        let heads = self.0.iter().filter_map(|(author, it)| Some((*author, it.events.front()?)));
        let ready = heads.filter(|(_, event)| is_ready(event));
        let (author, _) = ready.min_by_key(|(_, event)| (event.hlc, event.dot))?;
        let waiting = self.0.get_mut(&author)?;
        let event = waiting.events.pop_front()?;
        waiting.bytes -= bytes(&event);
        if waiting.events.is_empty() && waiting.last == waiting.offered {
            self.0.remove(&author);
        }
        Some(event)
    }
}

impl Waiting {
    fn after(seq: u64) -> Self {
        Self { events: VecDeque::new(), bytes: 0, last: seq, offered: seq }
    }
}

/// Returns about how many bytes of memory an event takes.
fn bytes(event: &Event) -> usize {
    let more = match &event.op {
        Op::Make { name, kind, .. } => {
            name.len() + if let Kind::Symlink(target) = kind { target.len() } else { 0 }
        }
        Op::Link { name, .. } | Op::Unlink { name, .. } => name.len(),
        Op::Move { name, new, .. } => name.len() + new.len(),
        Op::Xattr { name, value, .. } => name.len() + value.as_ref().map_or(0, Vec::len),
        Op::Set { .. } | Op::Write { .. } | Op::Choose { .. } => 0,
    };
    size_of::<Event>() + event.parents.len() * size_of::<Dot>() + more
}

#[cfg(test)]
mod tests {
    use worknode::history::{FileId, Hlc};

    use super::*;

    const AUTHOR: Author = Author([2; 16]);

    fn event(seq: u64) -> Event {
        let value = Some(vec![0; 64 * 1024]);
        let op = Op::Xattr { file: FileId::default(), name: b"user.a".to_vec(), value };
        let unknown = Dot { author: Author([3; 16]), seq: 9 };
        let dot = Dot { author: AUTHOR, seq };
        Event { dot, hlc: Hlc::at_ms(seq), time: 0, parents: vec![unknown], op }
    }

    #[test]
    fn events_without_causes_take_so_much_memory_and_are_read_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tree = Tree::open(&dir.path().join("t"), Author([1; 16])).expect("a tree");
        tree.state.others.meet(AUTHOR);
        tree.state.others.meet(Author([3; 16]));
        let mut pending = Pending::default();
        (1..=1000).for_each(|seq| pending.add(event(seq), 0));
        let in_memory = pending.0[&AUTHOR].events.len() as u64;
        assert!((60..=64).contains(&in_memory), "{in_memory}");
        assert!(pending.next(&tree).is_none() && pending.wanted().is_none());
        for seq in 1..=9 {
            tree.state.others.note_applied(Dot { author: Author([3; 16]), seq });
        }
        for seq in 1..=1000 {
            while let Some(Wanted { seqs, .. }) = pending.wanted() {
                seqs.take(16).for_each(|seq| pending.add(event(seq), 0));
            }
            assert_eq!(pending.next(&tree).map(|event| event.dot.seq), Some(seq));
        }
        assert!(pending.is_empty());
    }
}
