//! What it costs to apply events: `cargo bench -p worknode --bench history`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use worknode::history::{
    Author, Change, Content, Dot, Event, FileId, Hlc, Kind, Op, Permissions, Tree,
};

const FILES: u64 = 200_000;
const FILES_OF_A_DIR: u64 = 100;
const LATE: u64 = 1_000;
const ROOT: FileId = Dot { author: Author([0; 16]), seq: 0 };

/// Makes the events of one author, one each millisecond.
struct Maker {
    author: Author,
    events: Vec<Event>,
    ms: u64,
}

impl Maker {
    fn add(&mut self, op: Op, parents: Vec<Dot>) -> Dot {
        let dot = Dot { author: self.author, seq: self.events.len() as u64 + 1 };
        self.events.push(Event { dot, hlc: Hlc::at_ms(self.ms), time: 0, parents, op });
        self.ms += 1;
        dot
    }

    fn make(&mut self, dir: FileId, name: &str, kind: Kind) -> FileId {
        let permissions = Permissions { mode: 0o644, uid: 0, gid: 0 };
        self.add(Op::Make { dir, name: name.into(), kind, permissions }, Vec::new())
    }
}

fn main() {
    let mut maker = Maker { author: Author([1; 16]), events: Vec::new(), ms: 1 };
    let mut dir = ROOT;
    let mut dirs = Vec::new();
    for number in 0..FILES {
        if number % FILES_OF_A_DIR == 0 {
            dir = maker.make(ROOT, &format!("directory {number}"), Kind::Dir);
            dirs.push(dir);
        }
        let file = maker.make(dir, &format!("file {number}"), Kind::File);
        let content = Content { bytes: number, packet: None };
        maker.add(Op::Write { file, content, modified: 0 }, Vec::new());
    }
    let mut report = String::new();
    let mut tree = Tree::default();
    time(&mut report, "in order, per event", maker.events.len() as u64, || {
        maker.events.iter().for_each(|event| tree.apply(event));
    });
    let mut other = Tree::default();
    time(&mut report, "the last first, per event", maker.events.len() as u64, || {
        maker.events.iter().rev().for_each(|event| other.apply(event));
    });
    assert_eq!(tree.root(), other.root());

    let renames = |tree: &Tree, author, ms| {
        let mut maker = Maker { author: Author([author; 16]), events: Vec::new(), ms };
        for number in 0..LATE {
            let name = format!("directory {}", number * FILES_OF_A_DIR).into_bytes();
            let new = format!("renamed by {author}: {number}").into_bytes();
            let op = Op::Move { dir: ROOT, name, to: ROOT, new, exchange: false };
            let Change { op, parents } = tree.plan(op).remove(0);
            maker.add(op, parents);
        }
        maker.events
    };
    let (late, soon) = (renames(&tree, 2, maker.ms), renames(&tree, 3, maker.ms + LATE));
    time(&mut report, "a move of a directory", LATE, || {
        soon.iter().for_each(|event| tree.apply(event))
    });
    time(&mut report, "one before 1,000 others", LATE, || {
        late.iter().for_each(|event| tree.apply(event))
    });
    let (late, soon) = (renames(&other, 2, maker.ms), renames(&other, 3, maker.ms + LATE));
    time(&mut report, "moves of directories, each", LATE, || other.apply_all(&soon));
    time(&mut report, "1,000 together before 1,000 others, each", LATE, || other.apply_all(&late));
    assert_eq!(tree.root(), other.root());
    time(&mut report, "root, per event", tree.events().len() as u64, || _ = tree.root());
    time(&mut report, "at, per event", tree.events().len() as u64, || {
        _ = tree.at(Hlc::at_ms(maker.ms))
    });
    std::io::stdout().write_all(report.as_bytes()).expect("stdout is open");
}

fn time(report: &mut String, what: &str, count: u64, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let us = start.elapsed().as_secs_f64() * 1e6 / count as f64;
    writeln!(report, "{what}: {us:.2} us").expect("a string takes any length");
}
