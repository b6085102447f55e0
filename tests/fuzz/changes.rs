//! Change sets, and the journal that holds one.

use std::fs;

use packetfs::change::{Base, ChangeSet, Meta, Mtime, Op, Placing};
use packetfs::commit::{Commit, Committer, Owner};
use packetfs::packet::Digest;
use packetfs::path::TreePath;
use packetfs::tree::{Time, Version};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::bytes::{damage, damaged, noise, survives_postcard, word};
use crate::files::{kinds, manifests, names, packed, packets, times};
use crate::memory::bounded;
use crate::trial::holds;

/// A path that nothing leads to: no journal of these tests may change a file, whatever happens.
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
        (paths(), word(), metas()).prop_map(|(path, target, meta)| Op::Symlink {
            path,
            target,
            meta
        }),
        (paths(), paths()).prop_map(|(path, to)| Op::Link { path, to }),
        (paths(), kinds(), any::<u64>(), metas())
            .prop_map(|(path, kind, rdev, meta)| Op::Special { path, kind, rdev, meta }),
    ]
}

pub(crate) fn change_sets() -> impl Strategy<Value = ChangeSet> {
    (vec(ops(), 0..5), vec((paths(), bases()), 0..3), vec(paths(), 0..3))
        .prop_map(|(ops, found, linked)| ChangeSet { ops, found, linked })
}

fn commits() -> impl Strategy<Value = Commit> {
    let owners = (any::<(u32, u32)>(), vec(any::<u32>(), 0..4))
        .prop_map(|((uid, gid), groups)| Owner { uid, gid, groups });
    (owners, change_sets(), vec((packets(), packed()), 0..3)).prop_map(
        |(owner, changes, packets)| Commit {
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

/// A journal as it lies on disk.
fn journal(commit: &Commit) -> Vec<u8> {
    let Commit { owner, changes, packets, last_wins, began } = commit;
    let packets: Vec<_> = packets
        .iter()
        .map(|(packet, packed)| (*packet, packed.compressed, packed.body.len() as u64))
        .collect();
    let bodies = commit.packets.iter().flat_map(|(_, packed)| packed.body.clone()).collect();
    let record =
        postcard::to_allocvec(&(owner, changes, packets, last_wins, began)).expect("it fits");
    let bytes = (record.len() as u64).to_le_bytes().to_vec();
    [bytes, Digest::of(&record).0.to_vec(), vec![0; 8], record, bodies].concat()
}

/// Whatever the file holds: the agent starts, and the next one finds the journal struck.
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
