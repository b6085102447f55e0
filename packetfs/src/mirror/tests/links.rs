//! Tests of hard links, and of the inode numbers that programs see.

use super::*;

#[test]
fn names_of_one_file_share_a_number() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let alone = shown(&mut mirror, "a.c");
    // A second hard link does not change the number that the first one shows.
    let forget = mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    assert!(forget.contains(&Invalidation::Node(alone)));
    let shared = shown(&mut mirror, "l");
    assert_eq!((shown(&mut mirror, "a.c"), shared), (alone, alone));
    assert_eq!(mirror.lookup(src, b"a.c"), Answer::Known((shared, linked(4, 2))));
    assert_eq!(mirror.known_paths(shared), [b"/src/a.c".to_vec(), b"/src/l".to_vec()]);
    assert_eq!(mirror.lookup(shared, b"."), Answer::Known((shared, linked(4, 2))));

    // A change that is reported for one name also applies to the other.
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
fn separated_hard_links_get_separate_numbers() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    let own = shown(&mut mirror, "a.c");
    mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    let shared = shown(&mut mirror, "l");
    // The name now names another file; the old file keeps its other name.
    let forget = mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::File, 9, 1)))));
    assert!(forget.contains(&Invalidation::Entry(src, b"a.c".to_vec())));
    // This name must not show the number of the file that is still visible under the other name.
    assert!(!forget.contains(&Invalidation::Entry(src, b"l".to_vec())));
    assert_eq!((own, shown(&mut mirror, "l")), (shared, shared));
    let fresh = shown(&mut mirror, "a.c");
    assert_ne!(fresh, shared);
    assert_eq!(mirror.known_paths(fresh), [b"/src/a.c".to_vec()]);
    let forget = mirror.apply(names("/src", "l", Some(entry("l", linked(4, 1)))));
    assert!(forget.contains(&Invalidation::Node(shared)));
    assert_eq!(mirror.known_paths(shared), [b"/src/l".to_vec()]);
    mirror.apply(names("/src", "l", None));
    // A program that has the old file open must not read the new one.
    assert_eq!(mirror.attr(shared), Answer::Absent);
    assert_eq!(mirror.manifest(shared), Answer::Absent);
    assert!(matches!(mirror.attr(fresh), Answer::Known(_)));
    // The inode number is reused.
    mirror.apply(names("/src", "m", Some(entry("m", linked(4, 2)))));
    assert_ne!(shown(&mut mirror, "m"), shared);
}

#[test]
fn a_removed_hard_link_is_not_visible_through_the_others() {
    let mut mirror = mirror();
    let src = mirror.node(b"/src").expect("listed");
    mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.lookup(src, b"a.c"), Answer::Absent);
    let other = shown(&mut mirror, "l");
    // It is created again as something else; a running walk may use the other name.
    mirror.apply(names("/src", "a.c", Some(entry("a.c", attr(Kind::Dir, 9, 0)))));
    mirror.take_listing(&path("/src/a.c"), listing(9, vec![entry("in", attr(Kind::File, 10, 1))]));
    let dir = shown(&mut mirror, "a.c");
    assert_ne!(dir, other);
    assert_eq!(shown(&mut mirror, "l"), other);
    assert!(matches!(mirror.lookup(dir, b"in"), Answer::Known(_)));
}

#[test]
fn content_of_a_replaced_file_is_separate_from_its_hard_links() {
    let mut mirror = mirror();
    mirror.apply(names("/src", "l", Some(entry("l", linked(4, 2)))));
    // Replaced, and read before the change has arrived.
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
    // Content is requested under a name that is known to exist.
    mirror.apply(vec![Change::Forget { dir: "/src".parse().expect("sound") }]);
    assert_eq!(mirror.known_paths(shared), [b"/other/l".to_vec()]);
    assert_eq!(mirror.manifest(shared), Answer::Unknown(Need::Content(b"/other/l".to_vec())));
}

#[test]
fn inode_numbers_are_the_origins_and_unique() {
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
    // It stays the same, whatever happens to the other name.
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.ino(node, &on(2, 4)), twin);
    let Answer::Known(listed) = mirror.list(mirror.node(b"/src").expect("listed"), 0, 9) else {
        panic!("listed")
    };
    assert_eq!(listed.iter().map(|name| name.ino).collect::<Vec<_>>(), [5, twin, 77]);
    mirror.apply(names("/src", "m", None));
    assert_eq!(mirror.ino(NOWHERE, &on(2, 4)), 4);
}

#[test]
fn a_file_that_changes_under_an_unknown_name_is_known_to_have_changed() {
    let mut mirror = mirror();
    let (a, b) = (shown(&mut mirror, "a.c"), shown(&mut mirror, "b.c"));
    for name in [&path("/src/a.c"), &path("/src/b.c")] {
        let attr = mirror.attr(mirror.node(name).expect("listed"));
        let Answer::Known(attr) = attr else { panic!("{attr:?}") };
        mirror.take_content(name, Content { attr, manifest: Manifest::default() });
    }
    // A directory that was never listed contains a new hard link to one of them.
    let before = mirror.batches();
    let forget = mirror.apply(names("/elsewhere", "l", Some(entry("l", linked(4, 2)))));
    assert!(forget.contains(&Invalidation::Node(a)) && !forget.contains(&Invalidation::Node(b)));
    assert_eq!(mirror.attr(a), Answer::Known(linked(4, 2)));
    assert!(matches!(mirror.manifest(a), Answer::Unknown(_)));
    assert!(matches!(mirror.manifest(b), Answer::Known(_)));
    assert_eq!(mirror.base_since(before, b"/src/a.c"), Base::Unknown);
    // With a single link it is another file, whose inode number was reused.
    let forget = mirror.apply(names("/elsewhere", "l", Some(entry("l", linked(5, 1)))));
    assert!(!forget.contains(&Invalidation::Node(b)));
}
