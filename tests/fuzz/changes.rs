//! Change sets, commits, and journals.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use packetfs::change::{Base, ChangeSet, Meta, Mtime, Op, Placing};
use packetfs::commit::{Commit, Committer, Scope};
use packetfs::identity::Owner;
use packetfs::packet::{Digest, Manifest};
use packetfs::path::TreePath;
use packetfs::tree::{Time, Version};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::bytes::{damage, damaged, noise, survives_postcard, word};
use crate::files::{kinds, manifests, names, packed, packets, times};
use crate::memory::bounded;
use crate::trial::holds;

/// Generates a path that cannot exist, so that no journal of these tests can change a file.
fn paths() -> impl Strategy<Value = TreePath> {
    names().prop_map(|name| {
        TreePath::new([b"/nonexistent/oswalk-fuzz/", &name[..]].concat()).expect("a sound path")
    })
}

fn metas() -> impl Strategy<Value = Meta> {
    let mtime = prop_oneof![times().prop_map(Mtime::Set), any::<u64>().prop_map(Mtime::Since)];
    let xattrs = (vec((word(), word()), 0..3), vec(word(), 0..3));
    (any::<[u32; 3]>(), option::of(mtime), xattrs).prop_map(
        |([mode, uid, gid], mtime, (xattrs, without))| Meta {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
            without,
        },
    )
}

fn versions() -> impl Strategy<Value = Version> {
    let versions = (any::<[u64; 3]>(), times(), times());
    versions.prop_map(|([dev, ino, bytes], mtime, ctime)| Version { dev, ino, bytes, mtime, ctime })
}

fn bases() -> impl Strategy<Value = Base> {
    let dirs = (any::<(u64, u64)>(), any::<[u32; 3]>());
    prop_oneof![
        Just(Base::Nothing),
        dirs.prop_map(|((dev, ino), [mode, uid, gid])| Base::Dir { dev, ino, mode, uid, gid }),
        versions().prop_map(Base::Other),
        Just(Base::Unknown),
    ]
}

fn placings() -> impl Strategy<Value = Placing> {
    prop_oneof![
        Just(Placing::Fresh),
        option::of(versions()).prop_map(|base| Placing::Over { base }),
        any::<u64>().prop_map(Placing::Behind),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        (paths(), paths()).prop_map(|(from, to)| Op::Rename { from, to }),
        paths().prop_map(|path| Op::Remove { path }),
        (paths(), metas(), any::<bool>()).prop_map(|(path, meta, replaces)| Op::Dir {
            path,
            meta,
            replaces
        }),
        (paths(), metas(), manifests(), placings()).prop_map(|(path, meta, manifest, placing)| {
            Op::File { path, meta, manifest, placing }
        }),
        (paths(), word(), metas(), any::<bool>())
            .prop_map(|(path, target, meta, keeps)| Op::Symlink { path, target, meta, keeps }),
        (paths(), paths()).prop_map(|(path, to)| Op::Link { path, to }),
        (paths(), kinds(), any::<u64>(), metas())
            .prop_map(|(path, kind, rdev, meta)| Op::Special { path, kind, rdev, meta }),
    ]
}

pub(crate) fn change_sets() -> impl Strategy<Value = ChangeSet> {
    let emptied = vec((paths(), any::<[u8; 32]>().prop_map(Digest)), 0..3);
    (vec(ops(), 0..5), vec((paths(), bases()), 0..3), emptied, vec(paths(), 0..3))
        .prop_map(|(ops, found, emptied, linked)| ChangeSet { ops, found, emptied, linked })
}

fn commits() -> impl Strategy<Value = Commit> {
    let owners = (any::<(u32, u32)>(), vec(any::<u32>(), 0..4))
        .prop_map(|((uid, gid), groups)| Owner { uid, gid, groups });
    (owners, change_sets(), vec((packets(), packed()), 0..3)).prop_map(
        |(owner, changes, packets)| Commit {
            scope: Scope::default(),
            owner,
            changes,
            packets,
            last_wins: false,
            began: Time { seconds: 1, nanos: 2 },
        },
    )
}

#[test]
fn changes_of_walks() {
    survives_postcard(change_sets());
}

/// Places in a small tree: the walk's directory, places closed to the walk, and links between them.
const PLACES: [&str; 16] = [
    "",
    "work",
    "work/f",
    "work/d",
    "work/d/f",
    "work/new",
    "work/to-state",
    "work/to-state/f",
    "work/to-system",
    "work/to-system/tool",
    "state",
    "state/f",
    "state/new",
    "system",
    "system/tool",
    "system/new",
];

fn places(root: &Path) -> impl Strategy<Value = TreePath> + use<> {
    let root = root.as_os_str().as_bytes().to_vec();
    proptest::sample::select(&PLACES[..]).prop_map(move |place| {
        let slash = if place.is_empty() { "" } else { "/" };
        TreePath::new([&root, slash.as_bytes(), place.as_bytes()].concat()).expect("sound")
    })
}

/// Returns the operation at other paths.
fn moved(op: Op, at: TreePath, other: TreePath) -> Op {
    match op {
        Op::Rename { .. } => Op::Rename { from: at, to: other },
        Op::Link { .. } => Op::Link { path: at, to: other },
        Op::Remove { .. } => Op::Remove { path: at },
        Op::Dir { meta, replaces, .. } => Op::Dir { path: at, meta, replaces },
        Op::File { meta, placing, .. } => {
            Op::File { path: at, meta, manifest: Manifest::default(), placing }
        }
        Op::Symlink { target, meta, keeps, .. } => Op::Symlink { path: at, target, meta, keeps },
        Op::Special { kind, rdev, meta, .. } => Op::Special { path: at, kind, rdev, meta },
    }
}

/// Collects path, mode, owners and content of everything below a directory.
fn picture(dir: &Path, seen: &mut Vec<(PathBuf, u32, u32, u64, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("listable").flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("there"));
        let content = if meta.is_file() { fs::read(&path).expect("readable") } else { Vec::new() };
        seen.push((path.clone(), meta.mode(), meta.uid(), meta.rdev(), content));
        if meta.is_dir() {
            picture(&path, seen);
        }
    }
    seen.sort();
}

fn pictures(root: &Path) -> Vec<(PathBuf, u32, u32, u64, Vec<u8>)> {
    let mut seen = Vec::new();
    ["state", "system"].iter().for_each(|dir| picture(&root.join(dir), &mut seen));
    seen
}

/// Whatever changes a runner sends, places closed to the walk are unchanged, and no device or set-id
/// program was created.
#[test]
fn commits_leave_alone_what_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("tree");
    let one = || (ops(), places(&root), places(&root));
    let sets = vec(one(), 1..6)
        .prop_map(|all| all.into_iter().map(|(op, at, other)| moved(op, at, other)).collect());
    holds(&(sets, any::<(bool, bool)>()), |(ops, (last_wins, interrupted)): (Vec<Op>, _)| {
        let _ = fs::remove_dir_all(&root);
        for place in ["work/d", "state", "system"] {
            fs::create_dir_all(root.join(place)).expect("writable");
        }
        for place in ["work/f", "work/d/f", "state/f", "system/tool"] {
            fs::write(root.join(place), place).expect("writable");
        }
        symlink("../state", root.join("work/to-state")).expect("writable");
        symlink("../system", root.join("work/to-system")).expect("writable");
        let path =
            |name: &str| TreePath::new(root.join(name).as_os_str().as_bytes()).expect("sound");
        let scope = Scope {
            only_below: Vec::new(),
            closed: vec![path("state"), path("system")],
            set_id: false,
        };
        let owner = Owner { uid: 0, gid: 0, groups: Vec::new() };
        let changes = ChangeSet { ops, ..ChangeSet::default() };
        let began = Time { seconds: 1, nanos: 2 };
        let commit = Commit { scope, owner, changes, packets: Vec::new(), last_wins, began };
        let (before, at) = (pictures(&root), dir.path().join("journal"));
        if interrupted {
            fs::write(&at, journal(&commit)).expect("writable");
        }
        let committer = Committer::open(&at).expect("usable");
        let _ = committer.commit(&commit);
        assert_eq!(pictures(&root), before);
        let mut all = Vec::new();
        // The walk may have removed or renamed its own directory.
        if root.join("work").is_dir() {
            picture(&root.join("work"), &mut all);
        }
        for (path, mode, _, rdev, _) in all {
            let is_dir = mode & 0o170_000 == 0o040_000;
            assert!(rdev == 0 && (is_dir || mode & 0o6000 == 0), "{}", path.display());
        }
    });
}

/// Returns a journal as stored on disk.
fn journal(commit: &Commit) -> Vec<u8> {
    let Commit { owner, scope, changes, packets, last_wins, began } = commit;
    let packets: Vec<_> = packets
        .iter()
        .map(|(packet, packed)| (*packet, packed.compressed, packed.body.len() as u64))
        .collect();
    let bodies = commit.packets.iter().flat_map(|(_, packed)| packed.body.clone()).collect();
    let record = postcard::to_allocvec(&(owner, scope, changes, packets, last_wins, began))
        .expect("it fits");
    let bytes = (record.len() as u64).to_le_bytes().to_vec();
    [bytes, Digest::of(&record).0.to_vec(), vec![0; 8], record, bodies].concat()
}

/// Whatever the journal contains, the agent starts and clears it.
#[test]
fn journals() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal");
    holds(&(commits(), damage(), noise()), |(commit, damages, noise)| {
        for hostile in [damaged(journal(&commit), &damages), noise, journal(&commit)] {
            fs::write(&path, &hostile).expect("the file can be written");
            bounded(&hostile, |_| Committer::open(&path)).expect("any file will do");
            let again = fs::read(&path).expect("the file is there");
            let unread = again.len() < 48 || again == hostile;
            assert!(unread || again[..48].iter().all(|&byte| byte == 0), "not struck");
        }
    });
}
