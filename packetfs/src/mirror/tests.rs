//! What a mirror knows, and what it has the kernel forget.

use super::*;

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
    Listing { attr: attr(Kind::Dir, ino, 0), entries, hidden: false }
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

#[test]
fn asks_for_what_it_does_not_know() {
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
fn numbers_survive_replacement_and_content_does_not() {
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
fn what_changed_since_has_no_version() {
    let mut mirror = mirror();
    let before = mirror.batches();
    let version = attr(Kind::File, 4, 10).version();
    assert_eq!(mirror.base_since(before, b"/src/a.c"), Base::Other(version));
    mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::File, 4, 11)))));
    assert_eq!(mirror.base_since(before, b"/src/a.c"), Base::Unknown);
    let version = attr(Kind::File, 4, 11).version();
    assert_eq!(mirror.base_since(mirror.batches(), b"/src/a.c"), Base::Other(version));
    assert!(matches!(mirror.base_since(before, b"/src/b.c"), Base::Other(_)));
}

#[test]
fn that_there_was_nothing_is_a_version() {
    let mut mirror = mirror();
    let dir = |mode| Attr { mode, ..attr(Kind::Dir, 9, 0) };
    let before = mirror.begin();
    assert_eq!(mirror.base_since(before, b"/src/lock"), Base::Nothing);
    assert_eq!(mirror.base_since(before, b"/src/b.c/x"), Base::Unknown);
    mirror.apply(names("/src", "lock", Some(entry("lock", dir(0o755)))));
    assert_eq!(mirror.base_since(before, b"/src/lock"), Base::Unknown);
    let made = mirror.batches();
    assert_eq!(mirror.base_since(made, b"/src/lock"), Base::of(&dir(0o755)));
    // What happens in a directory is no change of it; its mode is.
    mirror.take_listing(&path("/src/lock"), Listing { attr: dir(0o755), ..listing(9, Vec::new()) });
    let time = Time { seconds: 99, nanos: 0 };
    mirror.apply(names("/src", "lock", Some(entry("lock", Attr { mtime: time, ..dir(0o755) }))));
    assert_eq!(mirror.base_since(made, b"/src/lock"), Base::of(&dir(0o755)));
    mirror.apply(names("/src", "lock", Some(entry("lock", dir(0o700)))));
    assert_eq!(mirror.base_since(made, b"/src/lock"), Base::Unknown);
    let moded = mirror.batches();
    mirror.apply(names("/src", "lock", None));
    assert_eq!(mirror.base_since(moded, b"/src/lock"), Base::Unknown);
    let gone = mirror.batches();
    mirror.apply(names("/src", "lock", None));
    assert_eq!(mirror.base_since(gone, b"/src/lock"), Base::Nothing);
}

#[test]
fn who_begins_after_a_listing_was_forgotten_finds_what_is_listed_then() {
    let mut mirror = mirror();
    let before = mirror.begin();
    mirror.apply(vec![Change::Forget { dir: path("/src") }]);
    let after = mirror.begin();
    let new = attr(Kind::File, 77, 5);
    mirror.take_listing(&path("/src"), listing(2, vec![entry("new", new)]));
    assert_eq!(mirror.base_since(before, b"/src/new"), Base::Unknown);
    assert_eq!(mirror.base_since(after, b"/src/new"), Base::of(&new));
    assert_eq!(mirror.base_since(before, b"/src/a.c"), Base::Unknown);
    assert_eq!(mirror.base_since(after, b"/src/a.c"), Base::Nothing);
}

#[test]
fn what_is_listed_again_has_changed_where_it_differs() {
    let mut mirror = mirror();
    let began = mirror.begin();
    mirror.apply(vec![Change::Forget { dir: TreePath::root() }]);
    let version = attr(Kind::File, 4, 10).version();
    assert_eq!(mirror.base_since(began, b"/src/a.c"), Base::Other(version));
    assert_eq!(mirror.base_since(began, b"/src/new"), Base::Nothing);
    mirror.take_listing(&path("/"), listing(2, vec![entry("src", attr(Kind::Dir, 3, 0))]));
    let files = vec![entry("a.c", attr(Kind::File, 4, 10)), entry("new", attr(Kind::File, 7, 1))];
    mirror.take_listing(&path("/src"), listing(3, files));
    assert_eq!(mirror.base_since(began, b"/src/a.c"), Base::Other(version));
    assert_eq!(mirror.base_since(began, b"/src/b.c"), Base::Unknown);
    assert_eq!(mirror.base_since(began, b"/src/new"), Base::Unknown);
}

#[test]
fn directories_had_the_times_that_they_were_shown_with() {
    let mut mirror = mirror();
    let at = |ino| attr(Kind::Dir, ino, 0).mtime;
    let change = |mirror: &mut Mirror, now| {
        let (dir, attr) = (path("/src"), Some(Attr { mtime: at(now), ..attr(Kind::Dir, 3, 0) }));
        mirror.apply(vec![Change::Names { dir, attr, names: Vec::new() }]);
    };
    change(&mut mirror, 8);
    let began = mirror.begin();
    assert!(!mirror.had_time_since(began, b"/src", at(3)), "that was before");
    change(&mut mirror, 9);
    assert!(mirror.had_time_since(began, b"/src", at(8)));
    assert!(!mirror.had_time_since(began, b"/src", at(77)), "somebody has set it");
    assert!(mirror.had_time_since(began, b"/unknown", at(77)));
    (10..20).for_each(|now| change(&mut mirror, now));
    assert!(mirror.had_time_since(began, b"/src", at(77)), "there were more than are kept");
}

#[test]
fn what_a_directory_holds_is_known_until_it_changes() {
    let mut mirror = mirror();
    let began = mirror.begin();
    let holds = |names: &[&str]| {
        let names = names.iter().map(|name| (name.as_bytes().to_vec(), false)).collect::<Vec<_>>();
        crate::contents::digest(b"/src", &mut |_| Some(names.clone()))
    };
    assert_eq!(mirror.contents_since(began, b"/src"), holds(&["a.c", "b.c"]));
    assert_eq!(mirror.contents_since(began, b"/unknown"), None);
    mirror.apply(names("/src", "new", Some(entry("new", attr(Kind::File, 7, 1)))));
    assert_eq!(mirror.contents_since(began, b"/src"), None);
    let later = mirror.begin();
    assert_eq!(mirror.contents_since(later, b"/src"), holds(&["a.c", "b.c", "new"]));
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.contents_since(later, b"/src"), None);
    let last = mirror.begin();
    assert_eq!(mirror.contents_since(last, b"/src"), holds(&["b.c", "new"]));
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
fn an_overflow_unlearns_all() {
    let mut mirror = mirror();
    assert_eq!(mirror.lookup(ROOT, b"absent"), Answer::Absent);
    let forget = mirror.apply(vec![Change::Forget { dir: TreePath::root() }]);
    assert!(forget.contains(&Invalidation::Entry(ROOT, b"absent".to_vec())));
    assert!(forget.contains(&Invalidation::Entry(ROOT, b"src".to_vec())));
    assert!(matches!(mirror.lookup(ROOT, b"src"), Answer::Unknown(_)));
}

fn linked(ino: u64, links: u32) -> Attr {
    Attr { links, ..attr(Kind::File, ino, 10) }
}

/// Returns what a name of `/src` shows.
fn shown(mirror: &mut Mirror, name: &str) -> Node {
    let src = mirror.node(b"/src").expect("listed");
    match mirror.lookup(src, name.as_bytes()) {
        Answer::Known((node, _)) => node,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn names_of_one_file_share_a_number() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let alone = shown(&mut mirror, "a.c");
    // A second name: the file stays what it was for whoever has looked at the first.
    let forget = mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    assert!(forget.contains(&Invalidation::Node(alone)));
    let shared = shown(&mut mirror, "l");
    assert_eq!((shown(&mut mirror, "a.c"), shared), (alone, alone));
    assert_eq!(mirror.lookup(src, b"a.c"), Answer::Known((shared, linked(4, 2))));
    assert_eq!(mirror.known_paths(shared), [b"/src/a.c".to_vec(), b"/src/l".to_vec()]);
    assert_eq!(mirror.lookup(shared, b"."), Answer::Known((shared, linked(4, 2))));

    // A change that is noticed under one name is one of the other, too.
    let content = Content { attr: linked(4, 2), manifest: Manifest::default() };
    mirror.take_content(&path("/src/l"), content);
    assert!(matches!(mirror.manifest(shared), Answer::Known(_)));
    let before = mirror.batches();
    let forget = mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    assert!(forget.contains(&Invalidation::Node(shared)));
    assert!(matches!(mirror.manifest(shared), Answer::Unknown(_)));
    assert_eq!(mirror.base_since(before, b"/src/a.c"), Base::Unknown);
}

#[test]
fn names_that_part_have_numbers_of_their_own() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let own = shown(&mut mirror, "a.c");
    mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    let shared = shown(&mut mirror, "l");
    // The name is replaced by another file; the file has its other name still.
    let forget = mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::File, 9, 1)))));
    assert!(forget.contains(&Invalidation::Entry(src, b"a.c".to_vec())));
    // Who has seen the file under its other name must not find that number under this one.
    assert!(!forget.contains(&Invalidation::Entry(src, b"l".to_vec())));
    assert_eq!((own, shown(&mut mirror, "l")), (shared, shared));
    let fresh = shown(&mut mirror, "a.c");
    assert_ne!(fresh, shared);
    assert_eq!(mirror.known_paths(fresh), [b"/src/a.c".to_vec()]);
    let forget = mirror.apply(names("/src", "l", Some(entry("l", linked(4, 1)))));
    assert!(forget.contains(&Invalidation::Node(shared)));
    assert_eq!(mirror.known_paths(shared), [b"/src/l".to_vec()]);
    mirror.apply(names("/src", "l", None));
    // A program that has it open must not read the other file.
    assert_eq!(mirror.attr(shared), Answer::Absent);
    assert_eq!(mirror.manifest(shared), Answer::Absent);
    assert!(matches!(mirror.attr(fresh), Answer::Known(_)));
    // The inode number is used again.
    mirror.apply(names("/src", "m", Some(entry("m", linked(4, 2)))));
    assert_ne!(shown(&mut mirror, "m"), shared);
}

#[test]
fn a_name_that_is_gone_is_not_seen_through_the_others() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.lookup(src, b"a.c"), Answer::Absent);
    assert!(matches!(mirror.lookup(src, b"l"), Answer::Known(_)));
    // It comes back as something else.
    mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::Dir, 9, 0)))));
    mirror.take_listing(&path("/src/a.c"), listing(9, vec![entry("in", attr(Kind::File, 10, 1))]));
    let dir = shown(&mut mirror, "a.c");
    assert_ne!(dir, shown(&mut mirror, "l"));
    assert!(matches!(mirror.lookup(dir, b"in"), Answer::Known(_)));
}

#[test]
fn content_of_a_file_that_took_the_name_is_not_the_other_names() {
    let mut mirror = mirror();
    mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    // Replaced, and read before anybody has heard of it.
    let content = Content { attr: attr(Kind::File, 9, 1), manifest: Manifest::default() };
    mirror.take_content(&path("/src/a.c"), content);
    let (own, other) = (shown(&mut mirror, "a.c"), shown(&mut mirror, "l"));
    assert_ne!(own, other);
    assert_eq!(mirror.attr(other), Answer::Known(linked(4, 2)));
    assert!(matches!(mirror.manifest(own), Answer::Known(_)));
    assert!(matches!(mirror.manifest(other), Answer::Unknown(_)));
}

#[test]
fn names_in_other_directories_join_when_they_are_listed() {
    let mut mirror = mirror();
    mirror.apply(names("/", "other", Some(entry("other", attr(Kind::Dir, 8, 0)))));
    let alone = shown(&mut mirror, "a.c");
    let forget = mirror.take_listing(&path("/other"), listing(8, vec![entry("l", linked(4, 2))]));
    assert!(forget.contains(&Invalidation::Node(alone)));
    let shared = shown(&mut mirror, "a.c");
    assert_eq!(shared, alone, "the walk that looked at it may be the one that finds the other");
    assert_eq!(mirror.attr(shared), Answer::Known(linked(4, 2)));
    // Content is asked for under a name that is known to be there.
    mirror.apply(vec![Change::Forget { dir: "/src".parse().expect("sound") }]);
    assert_eq!(mirror.known_paths(shared), [b"/other/l".to_vec()]);
    assert_eq!(mirror.manifest(shared), Answer::Unknown(Need::Content(b"/other/l".to_vec())));
}

#[test]
fn attributes_are_marked_and_forgotten() {
    let mut mirror = mirror();
    assert_eq!(mirror.marks(), Marks::default());
    let node = shown(&mut mirror, "a.c");
    let xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
    let entry = Entry { xattrs: xattrs.clone(), ..entry("a.c", attr(Kind::File, 4, 10)) };
    let forget = mirror.apply(names("/src", "a.c", Some(entry)));
    // Whoever was told that there are none looks again.
    let src = mirror.node(b"/src").expect("listed");
    assert!(forget.contains(&Invalidation::Entry(src, b"a.c".to_vec())));
    assert_eq!(mirror.xattrs(node), xattrs);
    assert_eq!(mirror.marks(), Marks { xattrs: true, acls: false });
    mirror.apply(names("/src", "a.c", None));
    assert!(mirror.xattrs(node).is_empty());
}

#[test]
fn says_what_is_lacking_on_the_way_to_a_directory() {
    let mut mirror = Mirror::new();
    assert_eq!(mirror.lacks(b"/src/x"), Some(Need::Listing(b"/".to_vec())));
    mirror = self::mirror();
    assert_eq!((mirror.lacks(b"/src"), mirror.lacks(b"/src/a.c")), (None, None));
    mirror.apply(vec![Change::Forget { dir: "/src".parse().expect("sound") }]);
    assert_eq!(mirror.lacks(b"/src/x"), Some(Need::Listing(b"/src".to_vec())));
}

#[test]
fn who_looks_into_a_hidden_directory_is_refused() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let listing = Listing { hidden: true, ..listing(3, Vec::new()) };
    mirror.take_listing(&path("/src"), listing);
    assert!(matches!(mirror.attr(src), Answer::Known(_)));
    assert_eq!(mirror.lookup(src, b"a.c"), Answer::Hidden);
    assert_eq!(mirror.list(src, 0, 1), Answer::Hidden);
    assert!(matches!(mirror.lookup(ROOT, b"src"), Answer::Known(_)));
}

/// Makes and removes so many temporary names.
fn churn(mirror: &mut Mirror, names: std::ops::Range<u64>) {
    for number in names {
        let name = format!("tmp{number}");
        let made = entry(&name, attr(Kind::File, 1000 + number % 7, 1));
        mirror.apply(self::names("/src", &name, Some(made)));
        mirror.apply(self::names("/src", &name, None));
    }
}

#[test]
fn names_that_are_gone_are_dropped() {
    let mut mirror = mirror();
    let before = mirror.items.len();
    churn(&mut mirror, 0..200_000);
    assert_eq!(mirror.items.len(), before);
    assert_eq!(mirror.items[&mirror.node(b"/src").expect("listed")].order.len(), 2);
    // A directory goes with all that was known of it.
    mirror.apply(names("/src", "d", Some(entry("d", attr(Kind::Dir, 20, 0)))));
    mirror.take_listing(&path("/src/d"), listing(20, vec![entry("l", linked(4, 2))]));
    let shared = shown(&mut mirror, "a.c");
    assert_eq!(mirror.known_paths(shared).len(), 2);
    let forget = mirror.apply(names("/src", "d", None));
    assert!(!forget.is_empty());
    assert_eq!(mirror.items.len(), before);
    assert_eq!(mirror.known_paths(shared), [b"/src/a.c".to_vec()]);
}

#[test]
fn names_that_are_gone_are_kept_for_walks_that_may_have_seen_them() {
    let mut mirror = mirror();
    let size = mirror.items.len();
    let began = mirror.begin();
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.base_since(began, b"/src/a.c"), Base::Unknown);
    churn(&mut mirror, 0..100_000);
    assert!(mirror.items.len() <= size + gone::GONE_MAX, "{}", mirror.items.len());
    // What was dropped for want of room is not taken for what was never there.
    assert_eq!(mirror.base_since(began, b"/src/a.c"), Base::Unknown);
    let later = mirror.begin();
    assert_eq!(mirror.base_since(later, b"/src/a.c"), Base::Nothing);
    mirror.end(began);
    assert_eq!(mirror.items.len(), size - 1);
    mirror.end(later);
}

#[test]
fn the_kernel_remembers_so_many_absent_names_of_the_root() {
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

#[test]
fn inode_numbers_are_the_origins_and_differ() {
    let mut mirror = mirror();
    let on = |dev, ino| Attr { dev, ..attr(Kind::File, ino, 1) };
    let first = shown(&mut mirror, "a.c");
    assert_eq!(mirror.ino(first, &on(1, 4)), 4);
    mirror.apply(names("/src", "m", Some(entry("m", on(2, 4)))));
    mirror.apply(names("/src", "n", Some(entry("n", on(2, 77)))));
    let node = shown(&mut mirror, "m");
    let twin = mirror.ino(node, &on(2, 4));
    assert!(twin > u64::MAX / 2);
    let other = shown(&mut mirror, "n");
    assert_eq!(mirror.ino(other, &on(2, 77)), 77);
    // It stays what it was, whatever becomes of the other.
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.ino(node, &on(2, 4)), twin);
    let Answer::Known(listed) = mirror.list(mirror.node(b"/src").expect("listed"), 0, 9) else {
        panic!("listed")
    };
    assert_eq!(listed.iter().map(|name| name.ino).collect::<Vec<_>>(), [5, twin, 77]);
    mirror.apply(names("/src", "m", None));
    assert_eq!(mirror.ino(NOWHERE, &on(2, 4)), 4);
}

/// How deep its tree is says the origin.
#[test]
fn a_tree_of_any_depth_is_forgotten() {
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
