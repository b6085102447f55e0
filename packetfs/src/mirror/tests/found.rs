//! Tests of what a walk has found.

use super::*;

#[test]
fn an_item_changed_since_has_no_version() {
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
fn absence_counts_as_a_version() {
    let mut mirror = mirror();
    let dir = |mode| Attr { mode, ..attr(Kind::Dir, 9, 0) };
    let before = mirror.begin();
    assert_eq!(mirror.base_since(before, b"/src/lock"), Base::Nothing);
    assert_eq!(mirror.base_since(before, b"/src/b.c/x"), Base::Unknown);
    mirror.apply(names("/src", "lock", Some(entry("lock", dir(0o755)))));
    assert_eq!(mirror.base_since(before, b"/src/lock"), Base::Unknown);
    let made = mirror.batches();
    assert_eq!(mirror.base_since(made, b"/src/lock"), Base::of(&dir(0o755)));
    // Changes of its entries do not count as changes of a directory, but a change of its mode does.
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
fn a_walk_after_an_invalidation_finds_the_new_listing() {
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
fn a_new_listing_changes_only_entries_that_differ() {
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
fn former_times_of_directories_are_known() {
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
fn the_digest_of_a_directory_is_known_until_it_changes() {
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
