//! Tests of a mirror's answers and invalidations.

use std::collections::BTreeSet;

use super::Mirror;
use super::answers::ABSENT_MAX;
use super::model::{Answer, Invalidation, Marks, Name, Need, Node, ROOT};
use super::paths::NOWHERE;
use crate::change::Base;
use crate::packet::Manifest;
use crate::path::TreePath;
use crate::tree::{Attr, Change, Content, Entry, Kind, Listing, Names, Time};

mod evict;
mod found;
mod gone;
mod links;

fn attr(kind: Kind, ino: u64, bytes: u64) -> Attr {
    let time = Time { seconds: i64::try_from(ino).unwrap_or(0), nanos: 0 };
    Attr {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        bytes,
        blocks: 8,
        links: 1,
        rdev: 0,
        mtime: time,
        ctime: time,
        ino,
        dev: 1,
    }
}

fn path(text: &str) -> TreePath {
    text.parse().expect("a sound path")
}

fn entry(name: &str, attr: Attr) -> Entry {
    Entry { name: name.parse().expect("sound"), attr, target: None, xattrs: Vec::new() }
}

fn listing(ino: u64, entries: Vec<Entry>) -> Listing {
    Listing { attr: attr(Kind::Dir, ino, 0), entries, names: Names::Told }
}

fn mirror() -> Mirror {
    let mut mirror = Mirror::new();
    mirror.take_listing(&path("/"), listing(2, vec![entry("src", attr(Kind::Dir, 3, 0))]));
    let files = vec![entry("a.c", attr(Kind::File, 4, 10)), entry("b.c", attr(Kind::File, 5, 1))];
    mirror.take_listing(&path("/src"), listing(3, files));
    mirror
}

fn names(dir: &str, name: &str, entry: Option<Entry>) -> Vec<Change> {
    let names = vec![(name.parse().expect("sound"), entry)];
    vec![Change::Names {
        dir: dir.parse().expect("sound"),
        attr: Some(attr(Kind::Dir, 3, 0)),
        names,
    }]
}

fn linked(ino: u64, links: u32) -> Attr {
    Attr { links, ..attr(Kind::File, ino, 10) }
}

/// Looks up a name of `/src`.
fn shown(mirror: &mut Mirror, name: &str) -> Node {
    let src = mirror.node(b"/src").expect("listed");
    match mirror.lookup(src, name.as_bytes()) {
        Answer::Known((node, _)) => node,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn unknown_data_is_requested() {
    let mut mirror = Mirror::new();
    assert_eq!(mirror.lookup(ROOT, b"src"), Answer::Unknown(Need::Listing(b"/".to_vec())));
    mirror = self::mirror();
    mirror.take_listing(&path("/"), listing(2, vec![entry("src", attr(Kind::Dir, 3, 0))]));
    let src = mirror.node(b"/src").expect("listed");
    let Answer::Known((node, found)) = mirror.lookup(src, b"a.c") else { panic!("listed") };
    assert_eq!(found.bytes, 10);
    assert_eq!(mirror.path(node), b"/src/a.c");
    assert_eq!(mirror.manifest(node), Answer::Unknown(Need::Content(b"/src/a.c".to_vec())));
    assert_eq!(mirror.lookup(src, b"none"), Answer::Absent);
}

#[test]
fn directories_are_listed_in_parts() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    mirror.apply(names("/src", "new", Some(entry("new", attr(Kind::File, 7, 1)))));
    mirror.apply(names("/src", "b.c", None));
    let mut found = Vec::new();
    let mut after = 0;
    while let Answer::Known(part) = mirror.list(src, after, 1)
        && let Some(Name { name, place, .. }) = part.into_iter().next()
    {
        found.push(name);
        after = place;
    }
    assert_eq!(found, [b"a.c".to_vec(), b"new".to_vec()]);
}

#[test]
fn a_replaced_file_keeps_its_number_but_not_its_content() {
    let mut mirror = mirror();
    let node = mirror.node(b"/src/a.c").expect("listed");
    let content = Content { attr: attr(Kind::File, 4, 10), manifest: Manifest::default() };
    assert!(mirror.take_content(&path("/src/a.c"), content).is_empty());
    assert!(matches!(mirror.manifest(node), Answer::Known(_)));
    let forget = mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::File, 9, 10)))));
    assert!(forget.contains(&Invalidation::Node(node)));
    assert_eq!(mirror.node(b"/src/a.c"), Some(node));
    assert!(matches!(mirror.manifest(node), Answer::Unknown(_)));
}

#[test]
fn created_and_deleted_names() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let forget = mirror.apply(names("/src", "new", Some(entry("new", attr(Kind::File, 7, 1)))));
    assert!(forget.contains(&Invalidation::Entry(src, b"new".to_vec())));
    assert!(matches!(mirror.lookup(src, b"new"), Answer::Known(_)));
    let forget = mirror.apply(names("/src", "new", None));
    assert!(forget.contains(&Invalidation::Entry(src, b"new".to_vec())));
    assert_eq!(mirror.lookup(src, b"new"), Answer::Absent);
}

#[test]
fn a_replaced_directory_is_listed_again() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let change = names("/", "src", Some(entry("src", attr(Kind::Dir, 33, 0))));
    let forget = mirror.apply(change);
    assert!(forget.contains(&Invalidation::Entry(ROOT, b"src".to_vec())));
    assert!(matches!(mirror.lookup(src, b"a.c"), Answer::Unknown(_)));
}

#[test]
fn an_overflow_invalidates_everything() {
    let mut mirror = mirror();
    assert_eq!(mirror.lookup(ROOT, b"absent"), Answer::Absent);
    let forget = mirror.apply(vec![Change::Forget { dir: TreePath::root() }]);
    assert!(forget.contains(&Invalidation::Entry(ROOT, b"absent".to_vec())));
    assert!(forget.contains(&Invalidation::Entry(ROOT, b"src".to_vec())));
    assert!(matches!(mirror.lookup(ROOT, b"src"), Answer::Unknown(_)));
}

#[test]
fn attributes_are_marked_and_forgotten() {
    let mut mirror = mirror();
    assert_eq!(mirror.marks(), Marks::default());
    let node = shown(&mut mirror, "a.c");
    let xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
    let entry = Entry { xattrs: xattrs.clone(), ..entry("a.c", attr(Kind::File, 4, 10)) };
    let forget = mirror.apply(names("/src", "a.c", Some(entry)));
    // Cached answers that there are none are invalidated.
    let src = mirror.node(b"/src").expect("listed");
    assert!(forget.contains(&Invalidation::Entry(src, b"a.c".to_vec())));
    assert_eq!(mirror.xattrs(node), xattrs);
    assert_eq!(mirror.marks(), Marks { xattrs: true, acls: false });
    mirror.apply(names("/src", "a.c", None));
    assert!(mirror.xattrs(node).is_empty());
}

#[test]
fn names_the_first_unknown_listing_on_a_path() {
    let mut mirror = Mirror::new();
    assert_eq!(mirror.lacks(b"/src/x"), Some(Need::Listing(b"/".to_vec())));
    mirror = self::mirror();
    assert_eq!((mirror.lacks(b"/src"), mirror.lacks(b"/src/a.c")), (None, None));
    mirror.apply(vec![Change::Forget { dir: "/src".parse().expect("sound") }]);
    assert_eq!(mirror.lacks(b"/src/x"), Some(Need::Listing(b"/src".to_vec())));
}

#[test]
fn reading_a_hidden_or_closed_directory_is_refused() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    for names in [Names::Hidden, Names::Closed] {
        let listing = Listing { names, ..listing(3, Vec::new()) };
        mirror.take_listing(&path("/src"), listing);
        assert!(matches!(mirror.attr(src), Answer::Known(_)));
        let is_refused = |answer| match names {
            Names::Hidden => answer == Answer::Hidden,
            _ => answer == Answer::Closed,
        };
        assert!(is_refused(mirror.lookup(src, b"a.c").map(drop)));
        assert!(is_refused(mirror.list(src, 0, 1).map(drop)));
        assert!(matches!(mirror.lookup(ROOT, b"src"), Answer::Known(_)));
    }
}

#[test]
fn cached_absent_names_of_the_root_are_bounded() {
    let mut mirror = mirror();
    let mut told = BTreeSet::new();
    for number in 0..100_000 {
        let name = format!("absent{number}").into_bytes();
        assert_eq!(mirror.lookup(ROOT, &name), Answer::Absent);
        let excess = mirror.take_excess();
        assert!(!excess.contains(&Invalidation::Entry(ROOT, name)));
        told.extend(excess);
    }
    assert_eq!(told.len(), 100_000 - ABSENT_MAX);
    assert_eq!(mirror.items[&ROOT].absent.len(), ABSENT_MAX);
}

/// The origin controls the depth of its tree.
#[test]
fn trees_of_any_depth_are_invalidated() {
    const LEVELS: u64 = 800;
    let mut mirror = Mirror::new();
    let mut dir = String::from("/");
    for level in 1..=LEVELS {
        let entries = vec![entry("d", attr(Kind::Dir, level + 1, 0))];
        mirror.take_listing(&path(&dir), listing(level, entries));
        dir = format!("{}/d", dir.trim_end_matches('/'));
    }
    let bottom = mirror.node(dir.as_bytes()).expect("listed");
    let forget = crate::deep::on_a_small_stack(|| {
        mirror.apply(vec![Change::Forget { dir: TreePath::root() }])
    });
    assert!(forget.contains(&Invalidation::Node(bottom)));
}
