//! Formats of PacketFS: packets, manifests, listings, changes of the origin's tree.

use packetfs::packet::{Digest, Hole, Manifest, Packed, PacketRef, reference};
use packetfs::path::{FileName, TreePath};
use packetfs::tree::{Attr, Change, Content, Entry, Kind, Listing, Names, Time};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample;

use crate::bytes::{damage, damaged, survives_postcard, word};
use crate::memory::bounded;
use crate::trial::holds;

pub(crate) fn packets() -> impl Strategy<Value = PacketRef> {
    any::<([u8; 32], u32)>().prop_map(|(digest, bytes)| PacketRef { digest: Digest(digest), bytes })
}

pub(crate) fn manifests() -> impl Strategy<Value = Manifest> {
    let hole = any::<(u64, u64)>().prop_map(|(at, bytes)| Hole { at, bytes });
    (vec(packets(), 0..6), vec(hole, 0..3)).prop_map(|(packets, holes)| Manifest { packets, holes })
}

pub(crate) fn packed() -> impl Strategy<Value = Packed> {
    (any::<bool>(), word()).prop_map(|(compressed, body)| Packed { compressed, body })
}

pub(crate) fn kinds() -> impl Strategy<Value = Kind> {
    use Kind::{Block, Char, Dir, Fifo, File, Socket, Symlink};
    proptest::sample::select(vec![File, Dir, Symlink, Fifo, Socket, Char, Block])
}

pub(crate) fn times() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

fn attrs() -> impl Strategy<Value = Attr> {
    (kinds(), any::<[u32; 4]>(), any::<[u64; 5]>(), times(), times()).prop_map(
        |(kind, [mode, uid, gid, links], [bytes, blocks, rdev, ino, dev], mtime, ctime)| Attr {
            kind,
            mode,
            uid,
            gid,
            bytes,
            blocks,
            links,
            rdev,
            mtime,
            ctime,
            ino,
            dev,
        },
    )
}

/// Generates any valid file name.
pub(crate) fn names() -> impl Strategy<Value = FileName> {
    word().prop_filter_map("no name", |word| FileName::new(word).ok())
}

pub(crate) fn tree_paths() -> impl Strategy<Value = TreePath> {
    vec(names(), 0..4).prop_map(|names| {
        let names: Vec<_> = names.iter().map(|name| &**name).collect();
        TreePath::new([b"/", &names.join(&b'/')[..]].concat()).expect("a sound path")
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    (names(), attrs(), option::of(word()), vec((word(), word()), 0..3))
        .prop_map(|(name, attr, target, xattrs)| Entry { name, attr, target, xattrs })
}

pub(crate) fn listings() -> impl Strategy<Value = Listing> {
    let names = sample::select(vec![Names::Told, Names::Hidden, Names::Closed]);
    (attrs(), vec(entries(), 0..5), names).prop_map(|(attr, entries, names)| Listing {
        attr,
        entries,
        names,
    })
}

pub(crate) fn contents() -> impl Strategy<Value = Content> {
    (attrs(), manifests()).prop_map(|(attr, manifest)| Content { attr, manifest })
}

#[test]
fn trees() {
    survives_postcard((listings(), contents()));
}

#[test]
fn changes_of_trees() {
    let names = (tree_paths(), option::of(attrs()), vec((names(), option::of(entries())), 0..4))
        .prop_map(|(dir, attr, names)| Change::Names { dir, attr, names });
    let forget = tree_paths().prop_map(|dir| Change::Forget { dir });
    survives_postcard(vec(prop_oneof![names, forget], 0..4));
}

#[test]
fn manifests_cover_ranges() {
    holds(&(manifests(), any::<(u64, u64)>()), |(manifest, (start, end))| {
        let covering = manifest.covering(start, end).count();
        assert!(covering <= manifest.packets.len());
        assert!(start < end || covering == 0);
        if let Some((_, first)) = manifest.covering(0, u64::MAX).next() {
            assert!(first.bytes > 0 && manifest.bytes() > 0);
        }
    });
}

/// A packet unpacks to its content or to an error: no damage goes unnoticed.
#[test]
fn packets_are_believed_after_a_look() {
    let pieces = prop_oneof![vec(any::<u8>(), 0..2000), vec(0..2_u8, 0..20_000)];
    holds(&(pieces, damage(), packets()), |(content, damages, other)| {
        let packet = reference(&content);
        let packed = Packed::pack(&content);
        assert_eq!(packed.unpack(packet).ok().as_deref(), Some(content.as_slice()));
        assert!(packed.unpack(other).is_err());
        let body = damaged(packed.body, &damages);
        for compressed in [true, false] {
            let hostile = Packed { compressed, body: body.clone() };
            if let Ok(unpacked) = bounded(&body, |_| hostile.unpack(packet)) {
                assert_eq!(unpacked, content);
            }
        }
    });
}
