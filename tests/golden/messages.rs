//! Examples of the larger messages, with every variant that they may have.

use oswalk_agent::wire::message::{Answer, Ask, Doubt, Exit, Introduction, Packets, Told};
use packetfs::change::{Base, ChangeSet, Meta, Mtime, Op, Placing};
use packetfs::packet::{Digest, Hole, Manifest, Packed, PacketRef};
use packetfs::path::{FileName, TreePath};
use packetfs::tree::{Attr, Change, Content, Entry, Kind, Listing, Names, Time, Version};
use worknode::capability::{Bounds, Holder, Rights, Token};
use worknode::door::{TERMIOS_BYTES, Termios};
use worknode::id::{SessionId, WalkId};
use worknode::key::SecretKey;
use worknode::principal::Principal;
use worknode::spec::{Ending, Fault, FdKind, FdSpec, Outcome, TerminalSpec, WalkSpec};

use crate::each;

pub(crate) const TERMIOS: Termios = {
    let mut termios = [0; TERMIOS_BYTES];
    termios[0] = 0x05;
    termios[TERMIOS_BYTES - 1] = 0x7f;
    termios
};

/// Returns a spec; those of different numbers are alike.
pub(crate) fn spec(number: u32) -> WalkSpec {
    let kinds = each(|kind| match kind {
        None => Some(FdKind::Null { flags: 2 }),
        Some(FdKind::Null { .. }) => Some(FdKind::Input),
        Some(FdKind::Input) => Some(FdKind::Output),
        Some(FdKind::Output) => Some(FdKind::Same { fd: 2 }),
        Some(FdKind::Same { .. }) => Some(FdKind::File { path: b"/etc/hosts".to_vec(), offset: 7 }),
        Some(FdKind::File { .. }) => Some(FdKind::Terminal),
        Some(FdKind::Terminal) => None,
    });
    WalkSpec {
        walk: WalkId { session: SessionId(0xfeed), number },
        principal: Principal {
            node: "laptop".parse().expect("a node's name"),
            uid: 1000,
            gid: 100,
            groups: vec![4, 24],
        },
        path: b"/usr/bin/gcc".to_vec(),
        argv: format!("gcc\0-c\0file{number}.c\0").into_bytes(),
        env: b"HOME=/home/me\0LANG=C.UTF-8\0PATH=/usr/bin:/bin\0TERM=xterm-256color\0".to_vec(),
        cwd: b"/home/me/project".to_vec(),
        hostname: b"laptop.example".to_vec(),
        pid: 4321,
        umask: 0o22,
        nice: -5,
        blocked: 1 << 63,
        ignored: 1 << 12,
        rlimits: vec![(8 << 20, u64::MAX), (1024, 4096)],
        fds: (0..).zip(kinds).map(|(fd, kind)| FdSpec { fd, kind }).collect(),
        terminal: Some(TerminalSpec {
            termios: TERMIOS.to_vec(),
            window: [24, 80, 0, 513],
            reads: true,
        }),
        whole_tree: false,
        compiles: true,
        offline: true,
    }
}

/// Returns the introduction of a session, and the end of one.
pub(crate) fn introductions() -> [Introduction; 2] {
    let (session, secret) = (SessionId(0xfeed), SecretKey::from_seed(&[1; 32]));
    let holder = Holder {
        node: "laptop".parse().expect("a node's name"),
        uid: 1000,
        user: Some("me".to_owned()),
        minted_s: 1_800_000_000,
        rights: Rights::SESSION,
    };
    let bounds = Bounds {
        rights: Some(Rights::SESSION),
        nodes: Some(["n1".parse().expect("a node's name"), "n2".parse().expect("another")].into()),
        paths: Some(["/home/me".to_owned()].into()),
        slots: Some(8),
        memory: Some(1 << 30),
        no_network: true,
        only_compile_steps: true,
        until_s: Some(1_800_007_200),
        sessions: Some([session].into()),
    };
    let token = Token::mint(&holder, &secret, &[2; 32]).expect("sound");
    let token = token.narrow(&bounds, &[3; 32]).expect("sound");
    [Some(token), None].map(|token| Introduction { session, token })
}

/// Returns how walks end: one that has changed something in every way, and one for each fault.
pub(crate) fn exits() -> Vec<Exit> {
    let faults = each(|fault| match fault {
        None => Some(Fault::Sandbox("no memory".to_owned())),
        Some(Fault::Sandbox(_)) => Some(Fault::NotExecuted(2)),
        Some(Fault::NotExecuted(_)) => Some(Fault::Full),
        Some(Fault::Full) => Some(Fault::NotExported(b"/proc/1".to_vec())),
        Some(Fault::NotExported(_)) => Some(Fault::Leaving),
        Some(Fault::Leaving) => Some(Fault::Busy),
        Some(Fault::Busy) => Some(Fault::TooDeep),
        Some(Fault::TooDeep) => Some(Fault::NotAllowed("the token has expired".into())),
        Some(Fault::NotAllowed(_)) => None,
    });
    let doubts = each(|doubt| match doubt {
        None => Some(Doubt::ShownLess),
        Some(Doubt::ShownLess) => Some(Doubt::Torn),
        Some(Doubt::Torn) => Some(Doubt::Left),
        Some(Doubt::Left) => Some(Doubt::Elsewhere),
        Some(Doubt::Elsewhere) => None,
    });
    let ended = Outcome::Ended(Ending { status: 0x100, run_us: 1_500_000, cpu_us: 900_000 });
    let empty = |outcome, doubt| Exit {
        outcome,
        changes: ChangeSet::default(),
        offsets: Vec::new(),
        doubt,
    };
    let whole =
        Exit { changes: change_set(), offsets: vec![(4, 42)], ..empty(ended.clone(), None) };
    let doubtful = doubts.into_iter().map(|doubt| empty(ended.clone(), Some(doubt)));
    let failed = faults.into_iter().map(|fault| empty(Outcome::Fault(fault), None));
    [whole].into_iter().chain(doubtful).chain(failed).collect()
}

fn change_set() -> ChangeSet {
    let bases = each(|base| match base {
        None => Some(Base::Nothing),
        Some(Base::Nothing) => Some(Base::Dir { dev: 1, ino: 2, mode: 0o755, uid: 3, gid: 4 }),
        Some(Base::Dir { .. }) => Some(Base::Other(version())),
        Some(Base::Other(_)) => Some(Base::Unknown),
        Some(Base::Unknown) => None,
    });
    let name = |number: usize| path(&format!("/found/{number}"));
    ChangeSet {
        ops: ops(),
        found: bases.into_iter().enumerate().map(|(number, base)| (name(number), base)).collect(),
        emptied: vec![(path("/emptied"), Digest([0xee; 32]))],
        linked: vec![path("/linked")],
    }
}

fn ops() -> Vec<Op> {
    let since = || meta(Some(Mtime::Since(2_000_000_000)));
    let set = || meta(Some(Mtime::Set(time(1_700_000_000))));
    let file =
        |placing| Op::File { path: path("/f"), meta: since(), manifest: manifest(), placing };
    let mut ops = each(|op| match op {
        None => Some(Op::Rename { from: path("/old"), to: path("/new") }),
        Some(Op::Rename { .. }) => Some(Op::Remove { path: path("/gone") }),
        Some(Op::Remove { .. }) => {
            Some(Op::Dir { path: path("/d"), meta: meta(None), replaces: true })
        }
        Some(Op::Dir { .. }) => Some(file(Placing::Fresh)),
        Some(Op::File { .. }) => Some(Op::Symlink {
            path: path("/s"),
            target: b"../t".to_vec(),
            meta: set(),
            keeps: true,
        }),
        Some(Op::Symlink { .. }) => Some(Op::Link { path: path("/l"), to: path("/f") }),
        Some(Op::Link { .. }) => {
            Some(Op::Special { path: path("/p"), kind: Kind::Fifo, rdev: 0, meta: set() })
        }
        Some(Op::Special { .. }) => None,
    });
    let placings = each(|placing| match placing {
        None => Some(Placing::Fresh),
        Some(Placing::Fresh) => Some(Placing::Over { base: Some(version()) }),
        Some(Placing::Over { .. }) => Some(Placing::Behind(1 << 32)),
        Some(Placing::Behind(_)) => None,
    });
    ops.extend(placings.into_iter().map(file));
    ops
}

pub(crate) fn packets() -> Packets {
    let packed = |compressed| Packed { compressed, body: b"body".to_vec() };
    Packets { packets: vec![(packet(1), packed(false)), (packet(2), packed(true))] }
}

pub(crate) fn asks() -> Vec<Ask> {
    each(|ask| match ask {
        None => Some(Ask::Listing(path("/usr/include"))),
        Some(Ask::Listing(_)) => Some(Ask::Content(path("/usr/include/stdio.h"))),
        Some(Ask::Content(_)) => {
            Some(Ask::Packets(path("/f"), vec![(0, packet(1)), (70_000, packet(2))]))
        }
        Some(Ask::Packets(..)) => None,
    })
}

pub(crate) fn answers() -> Vec<Answer> {
    let packed = Packed { compressed: false, body: b"body".to_vec() };
    each(|answer| match answer {
        None => Some(Answer::Listing(listing())),
        Some(Answer::Listing(_)) => {
            let content = Content { attr: attr(Kind::File), manifest: manifest() };
            Some(Answer::Content(content, Some(packed.clone())))
        }
        Some(Answer::Content(..)) => Some(Answer::Packets(vec![(packet(1), packed.clone())])),
        Some(Answer::Packets(_)) => Some(Answer::Failed(13)),
        Some(Answer::Failed(_)) => None,
    })
}

pub(crate) fn told() -> Vec<Told> {
    let tell = |ask, answer| Told { ask, answer };
    vec![
        tell(Ask::Listing(path("/usr/include")), Answer::Listing(listing())),
        tell(Ask::Content(path("/gone")), Answer::Failed(2)),
    ]
}

pub(crate) fn changes() -> Vec<Change> {
    let entry = entry("a.c", Kind::File, None);
    each(|change| match change {
        None => Some(Change::Names {
            dir: path("/home/me"),
            attr: Some(attr(Kind::Dir)),
            names: vec![(name("a.c"), Some(entry.clone())), (name("gone"), None)],
        }),
        Some(Change::Names { .. }) => Some(Change::Forget { dir: path("/tmp") }),
        Some(Change::Forget { .. }) => None,
    })
}

/// Returns a directory with an entry of each kind.
fn listing() -> Listing {
    let kinds = each(|kind| match kind {
        None => Some(Kind::File),
        Some(Kind::File) => Some(Kind::Dir),
        Some(Kind::Dir) => Some(Kind::Symlink),
        Some(Kind::Symlink) => Some(Kind::Fifo),
        Some(Kind::Fifo) => Some(Kind::Socket),
        Some(Kind::Socket) => Some(Kind::Char),
        Some(Kind::Char) => Some(Kind::Block),
        Some(Kind::Block) => None,
    });
    let target = |kind| (kind == Kind::Symlink).then_some("../target");
    let entries = kinds.into_iter().map(|kind| entry(&format!("{kind:?}"), kind, target(kind)));
    Listing { attr: attr(Kind::Dir), entries: entries.collect(), names: Names::Told }
}

fn entry(text: &str, kind: Kind, target: Option<&str>) -> Entry {
    Entry {
        name: name(text),
        attr: attr(kind),
        target: target.map(|target| target.as_bytes().to_vec()),
        xattrs: vec![(b"user.note".to_vec(), b"value".to_vec())],
    }
}

fn attr(kind: Kind) -> Attr {
    Attr {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        bytes: 70_000,
        blocks: 144,
        links: 1,
        rdev: 0,
        mtime: time(1_700_000_000),
        ctime: time(-1),
        ino: 12_345,
        dev: 64_769,
    }
}

fn meta(mtime: Option<Mtime>) -> Meta {
    Meta {
        mode: 0o644,
        uid: 1000,
        gid: 100,
        mtime,
        xattrs: vec![(b"user.note".to_vec(), b"value".to_vec())],
        without: vec![b"user.old".to_vec()],
    }
}

fn manifest() -> Manifest {
    Manifest { packets: vec![packet(1), packet(2)], holes: vec![Hole { at: 65_536, bytes: 4096 }] }
}

fn packet(number: u8) -> PacketRef {
    PacketRef { digest: Digest([number; 32]), bytes: 65_536 }
}

fn version() -> Version {
    let Attr { dev, ino, bytes, mtime, ctime, .. } = attr(Kind::File);
    Version { dev, ino, bytes, mtime, ctime }
}

fn time(seconds: i64) -> Time {
    Time { seconds, nanos: 999_999_999 }
}

fn path(text: &str) -> TreePath {
    text.parse().expect("a sound path")
}

fn name(text: &str) -> FileName {
    text.parse().expect("a sound name")
}
