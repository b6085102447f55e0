//! Tests of removed names.

use super::*;
use crate::mirror::gone;

/// Creates and removes a number of temporary names.
fn churn(mirror: &mut Mirror, names: std::ops::Range<u64>) {
    for number in names {
        let name = format!("tmp{number}");
        let made = entry(&name, attr(Kind::File, 1000 + number % 7, 1));
        mirror.apply(self::names("/src", &name, Some(made)));
        mirror.apply(self::names("/src", &name, None));
    }
}

#[test]
fn removed_names_are_dropped() {
    let mut mirror = mirror();
    let before = mirror.items.len();
    churn(&mut mirror, 0..200_000);
    assert_eq!(mirror.items.len(), before);
    assert_eq!(mirror.items[&mirror.node(b"/src").expect("listed")].order.len(), 2);
    // A directory is dropped with everything below it.
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
fn removed_names_are_kept_for_walks_that_may_have_seen_them() {
    let mut mirror = mirror();
    let size = mirror.items.len();
    let began = mirror.begin();
    mirror.apply(names("/src", "a.c", None));
    assert_eq!(mirror.base_since(began, b"/src/a.c"), Base::Unknown);
    churn(&mut mirror, 0..100_000);
    assert!(mirror.items.len() <= size + gone::GONE_MAX, "{}", mirror.items.len());
    // A name that was dropped to save memory does not count as one that never existed.
    assert_eq!(mirror.base_since(began, b"/src/a.c"), Base::Unknown);
    let later = mirror.begin();
    assert_eq!(mirror.base_since(later, b"/src/a.c"), Base::Nothing);
    mirror.end(began);
    assert_eq!(mirror.items.len(), size - 1);
    mirror.end(later);
}
