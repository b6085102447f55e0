//! Tests of the watcher.

use std::ffi::OsStr;

use super::*;

/// Drains without mount changes.
fn drain(watcher: &mut Watcher) -> Drained {
    watcher.drain(&BTreeSet::new())
}

fn bytes(dir: &tempfile::TempDir, name: &str) -> Bytes {
    join(dir.path().as_os_str().as_bytes(), name.as_bytes())
}

#[test]
fn sees_every_kind_of_change_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    std::fs::write(dir.path().join("old"), b"1").expect("writable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    watcher.watch_dir(&root, 1).expect("watchable");
    watcher.watch_dir(&root, 2).expect("watchable");
    assert!(drain(&mut watcher).is_empty());
    std::fs::write(dir.path().join("new"), b"1").expect("writable");
    std::fs::rename(dir.path().join("old"), dir.path().join("moved")).expect("movable");
    let drained = drain(&mut watcher);
    let (readers, names) = &drained.names[&root];
    assert_eq!(readers, &BTreeSet::from([1, 2]));
    assert_eq!(names, &[&b"new"[..], b"old", b"moved"].map(<[u8]>::to_vec).into());
    assert!(drain(&mut watcher).is_empty());
}

#[test]
fn moved_directories_are_forgotten_with_all_below() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join("a/b")).expect("writable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    for name in ["a", "a/b"] {
        watcher.watch_dir(&bytes(&dir, name), 1).expect("watchable");
    }
    std::fs::rename(dir.path().join("a"), dir.path().join("c")).expect("movable");
    std::fs::create_dir(dir.path().join("a")).expect("writable");
    let drained = drain(&mut watcher);
    assert!(drained.forgotten.contains_key(&bytes(&dir, "a")), "{drained:?}");
    std::fs::write(dir.path().join("c/b/x"), b"1").expect("writable");
    assert!(drain(&mut watcher).names.is_empty());
}

#[test]
fn an_open_removed_directory_is_not_mistaken_for_its_successor() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    std::fs::create_dir(dir.path().join("d")).expect("writable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    watcher.watch_dir(&root, 1).expect("watchable");
    watcher.watch_dir(&bytes(&dir, "d"), 1).expect("watchable");
    let open = std::fs::File::open(dir.path().join("d")).expect("openable");
    std::fs::remove_dir(dir.path().join("d")).expect("removable");
    std::fs::create_dir(dir.path().join("d")).expect("writable");
    assert!(drain(&mut watcher).forgotten.contains_key(&bytes(&dir, "d")));
    watcher.watch_dir(&bytes(&dir, "d"), 1).expect("watchable");
    std::fs::write(dir.path().join("d/new"), b"1").expect("writable");
    assert!(drain(&mut watcher).names.contains_key(&bytes(&dir, "d")));
    drop(open);
}

#[test]
fn changes_through_another_hard_link_are_detected() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(dir.path().join("seen")).expect("writable");
    std::fs::write(dir.path().join("one"), b"1").expect("writable");
    std::fs::hard_link(dir.path().join("one"), dir.path().join("seen/two")).expect("linkable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    watcher.watch_dir(&bytes(&dir, "seen"), 1).expect("watchable");
    watcher.watch_file(&bytes(&dir, "seen/two")).expect("watchable");
    std::fs::write(dir.path().join("one"), b"22").expect("writable");
    let drained = drain(&mut watcher);
    assert!(drained.names[&bytes(&dir, "seen")].1.contains(b"two".as_slice()));
}
#[test]
fn watches_end_with_their_readers_and_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    for name in ["a", "b"] {
        std::fs::write(dir.path().join(name), b"1").expect("writable");
    }
    let mut watcher = Watcher::new().expect("an inotify instance");
    assert_eq!(watcher.watch_file(&bytes(&dir, "a")), Ok(false), "nobody reads it");
    watcher.watch_dir(&root, 1).expect("watchable");
    for name in ["a", "b"] {
        assert_eq!(watcher.watch_file(&bytes(&dir, name)), Ok(true));
        assert_eq!(watcher.watch_file(&bytes(&dir, name)), Ok(false));
    }
    assert_eq!(watcher.subjects.len(), 3);
    std::fs::rename(dir.path().join("a"), dir.path().join("b")).expect("movable");
    drain(&mut watcher);
    assert_eq!(watcher.subjects.len(), 1, "{:?}", watcher.subjects);
    assert_eq!(watcher.watch_file(&bytes(&dir, "b")), Ok(true));
    watcher.remove_reader(1);
    assert!(watcher.subjects.is_empty() && watcher.files.is_empty());
}

#[test]
fn items_without_a_watch_count_as_changed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    let below: Vec<_> = (0..12).map(|number| bytes(&dir, &number.to_string())).collect();
    for path in &below {
        std::fs::create_dir(OsStr::from_bytes(path)).expect("writable");
    }
    std::fs::write(dir.path().join("f"), b"1").expect("writable");
    let mut watcher = Watcher::with_watches(8).expect("an inotify instance");
    watcher.watch_dir(&root, 1).expect("watchable");
    below.iter().for_each(|path| watcher.watch_dir(path, 1).expect("watchable"));
    assert_eq!(watcher.watch_file(&bytes(&dir, "f")), Ok(false));
    let drained = drain(&mut watcher);
    assert_eq!(drained.forgotten.len(), 5, "{drained:?}");
    assert!(drained.names[&root].1.contains(b"f".as_slice()), "{drained:?}");
    let again = drain(&mut watcher);
    assert!(again.forgotten.is_empty(), "they were not read again");
    assert!(again.names.contains_key(&root) && watcher.is_blind(), "it may still be known");
    // Watches that become free are used.
    for path in &below {
        std::fs::remove_dir(OsStr::from_bytes(path)).expect("removable");
    }
    drain(&mut watcher);
    assert_eq!(watcher.watch_file(&bytes(&dir, "f")), Ok(true));
    assert!(drain(&mut watcher).is_empty() && !watcher.is_blind());
}

#[test]
fn too_many_items_without_a_watch_invalidate_everything() {
    let mut watcher = Watcher::with_watches(0).expect("an inotify instance");
    for number in 0..=UNWATCHED_MAX {
        watcher.watch_dir(number.to_string().as_bytes(), 1).expect("watchable");
    }
    assert!(drain(&mut watcher).overflow);
    assert!(!watcher.is_blind() && drain(&mut watcher).is_empty());
}

#[test]
fn after_lost_events_nothing_is_watched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    std::fs::create_dir(dir.path().join("d")).expect("writable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    watcher.watch_dir(&root, 1).expect("watchable");
    watcher.watch_dir(&bytes(&dir, "d"), 1).expect("watchable");
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
    let most: usize = text.expect("readable").trim().parse().expect("a number");
    // The kernel merges consecutive equal events.
    for number in 0..=most {
        let name = if number % 2 == 0 { "e" } else { "f" };
        std::fs::write(dir.path().join("d").join(name), b"1").expect("writable");
    }
    std::fs::rename(dir.path().join("d"), dir.path().join("moved")).expect("movable");
    std::fs::create_dir(dir.path().join("d")).expect("writable");
    assert!(drain(&mut watcher).overflow);
    assert!(watcher.dirs.is_empty() && watcher.subjects.is_empty());
    watcher.watch_dir(&bytes(&dir, "d"), 1).expect("watchable");
    std::fs::write(dir.path().join("d/new"), b"1").expect("writable");
    assert!(drain(&mut watcher).names.contains_key(&bytes(&dir, "d")), "the new one");
}

#[test]
fn directories_below_a_new_mount_are_forgotten() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    std::fs::create_dir_all(dir.path().join("a/b")).expect("writable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    for path in [&root, &bytes(&dir, "a"), &bytes(&dir, "a/b")] {
        watcher.watch_dir(path, 1).expect("watchable");
    }
    let point = bytes(&dir, "a");
    let drained = watcher.drain(&BTreeSet::from([point.clone()]));
    assert_eq!(drained.forgotten[&point], BTreeSet::from([1]));
    assert!(drained.names[&root].1.contains(b"a".as_slice()));
    assert_eq!(watcher.subjects.len(), 1);
}

#[test]
fn changes_that_inotify_does_not_tell_are_added() {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join("d/below")).expect("writable");
    let mut watcher = Watcher::new().expect("an inotify instance");
    let root = dir.path().as_os_str().as_bytes().to_vec();
    for path in [root.clone(), bytes(&dir, "d"), bytes(&dir, "d/below")] {
        watcher.watch_dir(&path, 1).expect("watchable");
    }
    let data = dir.path().metadata().expect("it is there");
    let (dev, ino) = (data.dev(), data.ino());
    let mut add = |dev: u64, news: &News| {
        let mut drained = drain(&mut watcher);
        watcher.add(dev, news, &mut drained);
        drained
    };
    let written = News { names_of_files: [(ino, b"f".to_vec())].into(), ..News::default() };
    assert!(add(dev + 1, &written).is_empty());
    let drained = add(dev, &written);
    assert_eq!(drained.names[&root], ([1].into(), [b"f".to_vec()].into()));
    let attributes = News { files: [ino].into(), ..News::default() };
    assert!(add(dev, &attributes).names.contains_key(&root));
    let moved = News { names: [(ino, b"d".to_vec())].into(), ..News::default() };
    let drained = add(dev, &moved);
    assert!(drained.forgotten.contains_key(&bytes(&dir, "d")) && drained.names.contains_key(&root));
    assert!(add(dev, &News { is_all: true, ..News::default() }).forgotten.contains_key(&root));
    assert!(add(dev, &written).is_empty(), "nothing is watched any more");
}
