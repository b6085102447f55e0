//! The worked examples of docs/packetfs.md, and what hostile or early events do.

use worknode::history::{
    Attrs, Author, CONFLICTS_MAX, Change, Conflict, Content, Dispute, Dot, Event, FileId, Hlc,
    Kind, Name, Op, Tree,
};

use crate::world::{Node, ROOT, RW, write};

/// Two nodes, `a` and `b`. Paths are relative to the root.
struct Two {
    a: Node,
    b: Node,
}

/// Returns two nodes that know what `a` did first.
fn two(first: impl FnOnce(&mut Node)) -> Two {
    let mut two = Two { a: Node::new(0xa, 0), b: Node::new(0xb, 0) };
    first(&mut two.a);
    two.meet();
    two
}

impl Two {
    fn meet(&mut self) {
        self.a.learn_all(1_000_000, &self.b);
        self.b.learn_all(1_000_000, &self.a);
        assert_eq!(self.a.tree.root(), self.b.tree.root());
    }

    /// What both see after they met.
    fn both(&mut self) -> &Tree {
        self.meet();
        &self.a.tree
    }
}

fn find(tree: &Tree, path: &str) -> Option<FileId> {
    path.split('/').try_fold(ROOT, |dir, name| Some(tree.entry(dir, name.as_bytes())?.file))
}

fn place(tree: &Tree, path: &str) -> (FileId, Name) {
    let (dir, name) = path.rsplit_once('/').map_or((ROOT, path), |(dir, name)| {
        (find(tree, dir).expect("the directory is there"), name)
    });
    (dir, name.as_bytes().to_vec())
}

/// Calls, at a millisecond.
impl Node {
    fn at(&mut self, path: &str) -> FileId {
        find(&self.tree, path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    fn make(&mut self, ms: u64, path: &str, kind: Kind) -> FileId {
        let (dir, name) = place(&self.tree, path);
        self.act(ms, Op::Make { dir, name, kind, permissions: RW })
    }

    fn mkdir(&mut self, ms: u64, path: &str) -> FileId {
        self.make(ms, path, Kind::Dir)
    }

    /// Makes a file if there is none, and writes so many bytes.
    fn write(&mut self, ms: u64, path: &str, bytes: u64) -> FileId {
        let file = find(&self.tree, path);
        let file = file.unwrap_or_else(|| self.make(ms, path, Kind::File));
        self.act(ms, write(file, bytes));
        file
    }

    fn chmod(&mut self, ms: u64, path: &str, mode: u32) {
        let file = self.at(path);
        self.act(ms, Op::Set { file, attrs: Attrs { mode: Some(mode), ..Attrs::default() } });
    }

    fn link(&mut self, ms: u64, from: &str, path: &str) {
        let (file, (dir, name)) = (self.at(from), place(&self.tree, path));
        self.act(ms, Op::Link { dir, name, file });
    }

    fn rm(&mut self, ms: u64, path: &str) {
        let (dir, name) = place(&self.tree, path);
        self.act(ms, Op::Unlink { dir, name });
    }

    fn mv(&mut self, ms: u64, from: &str, into: &str) {
        self.rename(ms, from, into, false);
    }

    fn rename(&mut self, ms: u64, from: &str, into: &str, exchange: bool) {
        let ((dir, name), (to, new)) = (place(&self.tree, from), place(&self.tree, into));
        self.act(ms, Op::Move { dir, name, to, new, exchange });
    }
}

/// Lists all paths, with sizes of files: `d/ d/f=3`. A conflict version is behind its name: `f=3|2`.
fn list(tree: &Tree) -> String {
    let mut lines = Vec::new();
    list_below(tree, ROOT, "", &mut lines);
    lines.join(" ")
}

fn list_below(tree: &Tree, dir: FileId, prefix: &str, lines: &mut Vec<String>) {
    for (name, entry) in tree.entries(dir) {
        let path = format!("{prefix}{}", String::from_utf8_lossy(name));
        if tree.file(entry.file).expect("it is there").is_dir() {
            lines.push(format!("{path}/"));
            list_below(tree, entry.file, &format!("{path}/"), lines);
        } else {
            let files = [entry.file].into_iter().chain(entry.others);
            let sizes: Vec<String> = files.map(|id| bytes(tree, id).to_string()).collect();
            lines.push(format!("{path}={}", sizes.join("|")));
        }
    }
}

fn bytes(tree: &Tree, id: FileId) -> u64 {
    tree.file(id).expect("it is made").present().map_or(0, |version| version.value.bytes)
}

fn siblings(tree: &Tree, id: FileId) -> Vec<u64> {
    let file = tree.file(id).expect("it is made");
    file.siblings().map(|version| version.value.bytes).collect()
}

#[test]
fn two_writes_the_later_wins_and_the_other_can_be_chosen() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    let file = two.a.write(20, "f", 2);
    two.b.write(21, "f", 3);
    let tree = two.both();
    assert_eq!((list(tree).as_str(), siblings(tree, file)), ("f=3", vec![2]));
    assert_eq!(tree.conflicts(), [Conflict::File { file, dispute: Dispute::Content }]);

    let version = tree.file(file).expect("made").content().siblings().next().expect("one");
    let version = version.stamp.dot;
    two.b.act(30, Op::Choose { file, version });
    let tree = two.both();
    assert_eq!((list(tree).as_str(), siblings(tree, file)), ("f=2", vec![]));
    assert_eq!(tree.file(file).expect("made").content().history().len(), 3);
    assert_eq!(tree.conflicts(), []);
    assert_eq!(list(&tree.at(Hlc::end_of_ms(20))), "f=2");
    assert_eq!(list(&tree.at(Hlc::end_of_ms(29))), "f=3");
}

#[test]
fn a_conflict_outlives_what_programs_write_that_have_not_seen_it() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    let file = two.a.write(20, "f", 2);
    two.b.write(21, "f", 3);
    two.meet();
    two.a.write(30, "f", 4);
    two.a.act(31, Op::Set { file, attrs: Attrs { modified: Some(7), ..Attrs::default() } });
    two.a.write(32, "f", 5);
    let tree = two.both();
    assert_eq!((list(tree).as_str(), siblings(tree, file)), ("f=5", vec![2]));

    // Another conflict is a second one. Each is dismissed alone.
    two.a.write(40, "f", 6);
    two.b.write(41, "f", 7);
    let tree = two.both();
    assert_eq!((list(tree).as_str(), siblings(tree, file)), ("f=7", vec![6, 2]));
    let lost = tree.file(file).expect("made").siblings().last().expect("two").stamp.dot;
    let changes = tree.plan_resolve(write(file, 7), Some(lost));
    two.b.perform(50, changes);
    let tree = two.both();
    assert_eq!((list(tree).as_str(), siblings(tree, file)), ("f=7", vec![6]));
    let changes = tree.plan_resolve(write(file, 8), None);
    two.a.perform(60, changes);
    let tree = two.both();
    assert_eq!((list(tree).as_str(), siblings(tree, file)), ("f=8", vec![]));
    assert_eq!(tree.conflicts(), []);
}

#[test]
fn a_conflict_outlives_an_editors_save() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    let former = two.a.write(20, "f", 2);
    two.b.write(21, "f", 3);
    two.meet();
    two.a.write(30, "f~", 4);
    two.a.mv(31, "f~", "f");
    let tree = two.both();
    assert_eq!(list(tree), "f=4|2", "the file that has lost its name keeps what nobody saw");
    assert_eq!(siblings(tree, former), Vec::<u64>::new(), "the editor has seen the other one");
    two.b.write(40, "f~", 5);
    two.b.mv(41, "f~", "f");
    assert_eq!(list(two.both()), "f=5|2");
    two.b.rm(50, "f");
    assert_eq!(list(two.both()), "", "a removal ends it");
}

#[test]
fn the_oldest_of_very_many_conflicts_become_history() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    let file = find(&two.a.tree, "f").expect("it was made");
    for round in 0..3 * CONFLICTS_MAX as u64 {
        two.a.write(100 + 10 * round, "f", 1000 + round);
        two.b.write(101 + 10 * round, "f", 2000 + round);
        two.meet();
    }
    let lost = siblings(two.both(), file);
    assert!((CONFLICTS_MAX..CONFLICTS_MAX + 2).contains(&lost.len()), "{lost:?}");
    assert_eq!(lost.first(), Some(&(1000 + 3 * CONFLICTS_MAX as u64 - 1)), "the latest stay");
}

#[test]
fn two_writes_of_one_content_are_no_conflict() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    let file = two.a.write(20, "f", 2);
    two.b.write(21, "f", 2);
    assert_eq!((siblings(two.both(), file), two.a.tree.conflicts()), (vec![], vec![]));
}

#[test]
fn content_mode_and_name_merge_apart() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    two.a.write(20, "f", 2);
    two.b.chmod(21, "f", 0o600);
    two.b.mv(22, "f", "g");
    let tree = two.both();
    let file = find(tree, "g").expect("it is there");
    assert_eq!((list(tree).as_str(), tree.conflicts()), ("g=2", vec![]));
    assert_eq!(tree.file(file).expect("made").permissions().mode, 0o600);
}

/// A live file system remembers the last Set of a file, not the last of each attribute.
#[test]
fn a_chain_of_sets_has_no_conflicts() {
    let mut node = Node::new(1, 0);
    let file = node.write(10, "f", 1);
    let set = |attrs| Op::Set { file, attrs };
    let attrs = Attrs::default();
    let mut parents = vec![file];
    for (ms, mode, uid) in [(20, Some(1), None), (21, None, Some(2)), (22, Some(3), None)] {
        let op = set(Attrs { mode, uid, ..attrs });
        node.perform(ms, vec![Change { op, parents: parents.clone() }]);
        parents = node.tree.events().iter().last().map(|event| event.dot).into_iter().collect();
    }
    assert_eq!(node.tree.conflicts(), []);
    assert_eq!(node.tree.file(file).expect("made").permissions().mode, 3);
}

#[test]
fn a_write_beats_a_concurrent_removal_whichever_is_later() {
    for (write, remove) in [(20, 21), (21, 20)] {
        let mut two = two(|a| _ = a.write(10, "f", 1));
        two.a.write(write, "f", 2);
        two.b.rm(remove, "f");
        assert_eq!(list(&two.b.tree), "");
        assert_eq!(list(two.both()), "f=2");
        two.b.rm(30, "f");
        assert_eq!(list(two.both()), "", "whoever removes it now has seen the content");
    }
}

#[test]
fn a_removal_takes_what_its_author_knew() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    two.a.chmod(20, "f", 0o600);
    two.b.rm(21, "f");
    assert_eq!(list(two.both()), "", "a mode is no content");
}

#[test]
fn a_removed_name_of_a_file_with_another_stays_removed() {
    let mut two = two(|a| {
        a.write(10, "f", 1);
        a.link(11, "f", "g");
    });
    two.a.rm(20, "f");
    two.b.write(21, "f", 2);
    let tree = two.both();
    assert_eq!(list(tree), "g=2");
    assert_eq!(tree.names(find(tree, "g").expect("it is there")).len(), 1);
}

#[test]
fn a_write_in_place_meets_an_editors_save() {
    for (save, write, seen) in [(20, 25, "f=3|2"), (20, 15, "f=2|3")] {
        let mut two = two(|a| _ = a.write(10, "f", 1));
        two.a.write(save, "f~", 2);
        two.a.mv(save, "f~", "f");
        two.b.write(write, "f", 3);
        assert_eq!(list(two.both()), seen);
    }
}

#[test]
fn two_files_of_one_name_the_later_has_it() {
    let mut two = two(|_| {});
    let lost = two.a.write(10, "f", 1);
    let won = two.b.write(11, "f", 2);
    let tree = two.both();
    assert_eq!(list(tree), "f=2|1");
    assert_eq!(tree.path(lost).expect("it is reachable"), [b"f"]);
    assert!(matches!(&tree.conflicts()[..], [Conflict::Name { entry, .. }] if entry.file == won));

    let changes = tree.plan_dismiss(ROOT, &b"f".to_vec(), won);
    two.a.perform(20, changes);
    assert_eq!(list(two.both()), "f=1", "the other was chosen");
}

#[test]
fn whoever_removes_or_moves_a_name_means_its_conflict_versions_too() {
    let mut two = two(|_| {});
    two.a.write(10, "f", 1);
    two.b.write(11, "f", 2);
    two.meet();
    two.a.mv(20, "f", "g");
    assert_eq!(list(two.both()), "g=2|1");
    two.b.rm(30, "g");
    assert_eq!(list(two.both()), "");
}

#[test]
fn mkdir_meets_mkdir() {
    let mut two = two(|_| {});
    let a = two.a.mkdir(10, "d");
    two.a.write(11, "d/x", 1);
    two.a.write(11, "d/same", 1);
    let b = two.b.mkdir(12, "d");
    two.b.write(13, "d/y", 2);
    two.b.write(13, "d/same", 2);
    let tree = two.both();
    assert_eq!(list(tree), "d/ d/same=2|1 d/x=1 d/y=2");
    assert_eq!(tree.entries(a), tree.entries(b), "both ids lead to one directory");
    assert_eq!(find(tree, "d"), Some(b));

    two.a.mv(20, "d", "e");
    assert_eq!(list(two.both()), "e/ e/same=2|1 e/x=1 e/y=2");
    for name in ["e/x", "e/y", "e/same", "e"] {
        two.b.rm(30, name);
    }
    assert_eq!(list(two.both()), "");
}

#[test]
fn united_directories_part_if_one_was_moved_away() {
    let mut two = two(|_| {});
    two.a.mkdir(10, "d");
    two.a.write(11, "d/x", 1);
    two.b.mkdir(12, "d");
    two.b.write(13, "d/y", 2);
    two.a.mv(14, "d", "e");
    assert_eq!(list(two.both()), "d/ d/y=2 e/ e/x=1");
}

#[test]
fn a_directory_keeps_its_name_against_a_file() {
    for (dir, file) in [(10, 12), (12, 10)] {
        let mut two = two(|_| {});
        two.a.mkdir(dir, "d");
        two.a.write(dir, "d/x", 1);
        let file = two.b.write(file, "d", 2);
        let tree = two.both();
        assert_eq!(list(tree), "d/ d/x=1");
        assert_eq!(tree.entry(ROOT, b"d").expect("it is there").others, [file]);
    }
}

#[test]
fn a_new_file_brings_a_removed_directory_back() {
    let mut two = two(|a| _ = a.mkdir(10, "d"));
    two.a.rm(20, "d");
    two.b.write(15, "d/x", 1);
    assert_eq!(list(two.both()), "d/ d/x=1");
    two.a.rm(30, "d/x");
    assert_eq!(list(two.both()), "d/", "`rm -r` finds it when it comes to it");
    two.a.rm(31, "d");
    assert_eq!(list(two.both()), "");
}

#[test]
fn moves_that_would_make_a_cycle_are_skipped() {
    let mut two = two(|a| {
        a.mkdir(10, "a");
        a.mkdir(11, "b");
    });
    two.a.mv(20, "a", "b/a");
    two.b.mv(21, "b", "a/b");
    assert_eq!(list(&two.b.tree), "a/ a/b/");
    assert_eq!(list(two.both()), "b/ b/a/");
}

#[test]
fn of_two_renames_of_one_file_the_later_counts() {
    let mut two = two(|a| _ = a.write(10, "f", 1));
    two.a.mv(20, "f", "g");
    two.b.mv(21, "f", "h");
    assert_eq!(list(two.both()), "h=1");
}

#[test]
fn a_removal_does_not_follow_a_concurrent_rename() {
    for (rename, remove) in [(20, 21), (21, 20)] {
        let mut two = two(|a| _ = a.write(10, "f", 1));
        two.a.mv(rename, "f", "g");
        two.b.rm(remove, "f");
        assert_eq!(list(two.both()), "g=1");
    }
}

#[test]
fn an_exchange_meets_a_rename() {
    let mut two = two(|a| {
        a.write(10, "f", 1);
        a.write(11, "g", 2);
    });
    two.a.rename(20, "f", "g", true);
    two.b.mv(21, "f", "h");
    assert_eq!(list(two.both()), "f=2 h=1");
}

#[test]
fn events_wait_for_their_causes() {
    let mut node = Node::new(1, 0);
    node.mkdir(10, "d");
    node.write(11, "d/f", 1);
    node.mv(12, "d/f", "g");
    let mut tree = Tree::default();
    for event in node.tree.events().iter().skip(1) {
        tree.apply(event);
        assert_eq!((list(&tree).as_str(), tree.idle()), ("", tree.events().len()));
    }
    tree.apply(node.tree.events().iter().next().expect("the first"));
    assert_eq!((list(&tree).as_str(), tree.idle()), ("d/ g=1", 0));
}

#[test]
fn events_that_no_correct_node_makes_have_no_effect() {
    let mut node = Node::new(1, 0);
    let (dir, file) = (node.mkdir(10, "d"), node.write(11, "f", 1));
    let make =
        |dir, name: &[u8], kind| Op::Make { dir, name: name.to_vec(), kind, permissions: RW };
    let content = Content::default();
    let hostile = [
        (12, make(file, b"x", Kind::File)),
        (10, make(dir, b"cause at the same time", Kind::File)),
        (12, make(dir, b"", Kind::File)),
        (12, make(dir, b"..", Kind::File)),
        (12, make(dir, b"a/b", Kind::File)),
        (12, make(dir, &[b'x'; 256], Kind::File)),
        (12, make(dir, b"x", Kind::Symlink(Vec::new()))),
        (12, Op::Link { dir, name: b"x".to_vec(), file: ROOT }),
        (12, Op::Write { file: dir, content, modified: 0 }),
        (12, Op::Choose { file, version: dir }),
    ];
    let before = node.tree.root();
    for (seq, (ms, op)) in (1..).zip(hostile) {
        let dot = Dot { author: Author([9; 16]), seq };
        let event = Event { dot, hlc: Hlc::at_ms(ms), time: 0, parents: Vec::new(), op };
        node.tree.apply(&event);
        assert_eq!((node.tree.root(), node.tree.idle() as u64), (before, seq), "{event:?}");
    }
}
