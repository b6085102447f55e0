//! Tests of eviction.

use super::*;
use crate::mirror::NAMES_MAX;
use crate::mirror::evict::{PART, SEEN_FACTOR};
use crate::mirror::item::Item;

/// Lists `/` with a number of directories.
fn dirs(mirror: &mut Mirror, count: u64) {
    let dir = |number| entry(&format!("d{number}"), attr(Kind::Dir, 10 + number, 0));
    mirror.take_listing(&path("/"), listing(2, (0..count).map(dir).collect()));
}

/// Lists a directory of `/` with a number of files.
fn files(mirror: &mut Mirror, dir: u64, count: u64) {
    let ino = |number| 1_000_000 * (dir + 1) + number;
    let file = |number| entry(&format!("some-file-{number}.h"), attr(Kind::File, ino(number), 1));
    let listing = listing(10 + dir, (0..count).map(file).collect());
    mirror.take_listing(&path(&format!("/d{dir}")), listing);
}

/// Looks a path up as the kernel does, with a reference to its node.
fn look(mirror: &mut Mirror, path: &str) -> Node {
    let (dir, name) = path.rsplit_once('/').expect("absolute");
    let dir = mirror.node(dir.as_bytes()).expect("listed");
    let Answer::Known((node, _)) = mirror.lookup(dir, name.as_bytes()) else {
        panic!("{path} is listed")
    };
    mirror.tell(node);
    node
}

/// Memory of a mirror, except for what it shares.
fn bytes(mirror: &Mirror) -> usize {
    let table = |entries: usize, entry: usize| entries * (entry + 1);
    let of_item = |item: &Item| {
        let (names, children) = (item.name.capacity(), item.children.capacity());
        let keys: usize = item.children.keys().map(Vec::capacity).sum();
        size_of::<Item>()
            + names
            + keys
            + table(children, size_of::<(Vec<u8>, Node)>())
            + item.order.capacity() * 8
    };
    let links = mirror.items.len() * (size_of::<(u64, u64, Node)>() + 1);
    let items: usize = mirror.items.values().map(|item| of_item(item)).sum();
    table(mirror.items.capacity(), size_of::<(Node, Box<Item>)>()) + links + items
}

/// Makes a thousand walks look up a thousand files each. Returns the mirror's largest number of names and bytes in the
/// first and in the second half.
fn thousand_walks(mirror: &mut Mirror) -> [(usize, usize); 2] {
    dirs(mirror, 1000);
    let mut most = [(0, 0); 2];
    for dir in 0..1000 {
        let began = mirror.begin();
        files(mirror, dir, 1000);
        let path = format!("/d{dir}");
        let told = [look(mirror, &path), look(mirror, &format!("{path}/some-file-7.h"))];
        told.into_iter().for_each(|node| mirror.kernel_forgot(node, 1));
        let half = &mut most[usize::from(dir >= 500)];
        half.0 = half.0.max(mirror.items.len());
        if dir % 20 == 19 {
            half.1 = half.1.max(bytes(mirror));
        }
        mirror.end(began);
    }
    most
}

#[test]
fn a_million_names_take_no_more_memory_than_the_bound() {
    let bounded = thousand_walks(&mut Mirror::new());
    let [(first, first_bytes), (second, second_bytes)] = bounded;
    assert!(second <= NAMES_MAX + NAMES_MAX / PART + 1001, "{second} names");
    let is_level = second <= first + 1000 && second_bytes <= first_bytes * 11 / 10;
    assert!(is_level && second_bytes < 120_000_000, "no plateau: {bounded:?}");
}

#[test]
fn numbers_that_the_kernel_references_are_stable() {
    let mut mirror = Mirror::with_names_max(16);
    dirs(&mut mirror, 8);
    files(&mut mirror, 0, 4);
    let (dir, file) = (look(&mut mirror, "/d0"), look(&mut mirror, "/d0/some-file-1.h"));
    for dir in 1..8 {
        files(&mut mirror, dir, 4);
    }
    assert!(mirror.items.len() <= 24, "{}", mirror.items.len());
    assert_eq!(mirror.path(file), b"/d0/some-file-1.h");
    // The kernel needs the directory while it caches its names, but may drop references in any order.
    mirror.kernel_forgot(dir, 1);
    files(&mut mirror, 1, 4);
    assert_eq!(mirror.node(b"/d0/some-file-1.h"), Some(file));
    mirror.kernel_forgot(file, 1);
    for dir in 1..8 {
        files(&mut mirror, dir, 4);
    }
    assert_eq!(mirror.node(b"/d0/some-file-1.h"), None);
    assert_eq!(mirror.attr(file), Answer::Absent, "the number stands for nothing any more");
    // It is refetched on demand, with other numbers.
    assert_eq!(mirror.lookup(dir, b"x"), Answer::Unknown(Need::Listing(b"/d0".to_vec())));
    files(&mut mirror, 0, 4);
    assert!(mirror.node(b"/d0/some-file-1.h").is_some_and(|again| again > file));
}

#[test]
fn changes_of_evicted_items_are_ignored() {
    let mut mirror = Mirror::with_names_max(16);
    dirs(&mut mirror, 8);
    for dir in 0..8 {
        files(&mut mirror, dir, 4);
    }
    assert_eq!(mirror.node(b"/d0/some-file-1.h"), None);
    let size = mirror.items.len();
    let new = entry("new", attr(Kind::File, 5, 1));
    assert!(mirror.apply(names("/d0", "new", Some(new.clone()))).is_empty());
    mirror.apply(names("/d0/none", "new", Some(new)));
    mirror.apply(vec![Change::Forget { dir: path("/d0/none") }]);
    let content = Content { attr: attr(Kind::File, 5, 1), manifest: Manifest::default() };
    assert!(mirror.take_content(&path("/d0/some-file-1.h"), content).is_empty());
    mirror.take_listing(&path("/d0/none"), listing(77, Vec::new()));
    mirror.kernel_forgot(9999, 1);
    assert_eq!(mirror.items.len(), size);
    let dir = mirror.node(b"/d0").expect("listed");
    assert!(matches!(mirror.lookup(dir, b"new"), Answer::Unknown(_)), "nothing old is told");
}

#[test]
fn items_seen_by_running_walks_are_kept_up_to_a_bound() {
    let mut mirror = Mirror::with_names_max(24);
    dirs(&mut mirror, 24);
    files(&mut mirror, 0, 4);
    let began = mirror.begin();
    look(&mut mirror, "/d0/some-file-1.h");
    let file = mirror.node(b"/d0/some-file-1.h").expect("listed");
    let base = mirror.base_since(began, b"/d0/some-file-1.h");
    mirror.kernel_forgot(file, 1);
    files(&mut mirror, 1, 4);
    assert_eq!(mirror.base_since(began, b"/d0/some-file-1.h"), base);
    let mut dir = 1;
    while mirror.node(b"/d0/some-file-1.h").is_some() {
        dir += 1;
        files(&mut mirror, dir, 4);
    }
    assert!(mirror.items.len() <= SEEN_FACTOR * 24 + 5, "{}", mirror.items.len());
    assert_eq!(mirror.base_since(began, b"/d0/some-file-1.h"), Base::Unknown);
    // Refetched items may differ from what the walk found.
    files(&mut mirror, 0, 4);
    for name in ["some-file-1.h", "none"] {
        let path = format!("/d0/{name}");
        assert_eq!(mirror.base_since(began, path.as_bytes()), Base::Unknown, "{name}");
    }
    assert!(mirror.contents_since(began, b"/d0").is_none());
    assert!(mirror.had_time_since(began, b"/d0", attr(Kind::Dir, 99, 0).mtime));
    let later = mirror.begin();
    assert_eq!(mirror.base_since(later, b"/d0/some-file-1.h"), base);
    assert_eq!(mirror.base_since(later, b"/d0/none"), Base::Nothing);
}

#[test]
fn the_kernel_drops_names_when_no_walk_runs() {
    let mut mirror = Mirror::with_names_max(16);
    dirs(&mut mirror, 4);
    let (first, second) = (mirror.begin(), mirror.begin());
    for dir in 0..4 {
        files(&mut mirror, dir, 4);
        look(&mut mirror, &format!("/d{dir}"));
    }
    assert!(mirror.end(first).is_empty(), "the other one runs");
    let forget = mirror.end(second);
    for dir in 0..4 {
        assert!(forget.contains(&Invalidation::Entry(ROOT, format!("d{dir}").into_bytes())));
    }
    let third = mirror.begin();
    assert!(mirror.end(third).is_empty(), "it was asked already");
}
