//! What one user makes keeps no other waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use worknode::history::Kind;

use super::super::key;
use super::super::listing::PAGE_ROWS;
use super::*;

const USER: Caller = Caller { uid: 1000, gid: 1000 };

fn make(volume: &Volume, dir: u64, name: &str, kind: Kind) -> u64 {
    let make = Make { kind, mode: 0o755, umask: 0 };
    volume.make(dir, name.as_bytes(), make, USER).expect("the name is free").attr.ino
}

fn names(volume: &Volume, handle: u64, mut position: u64) -> (Vec<String>, u64) {
    let mut names = Vec::new();
    loop {
        let page = volume.read_dir(handle, position).expect("it is open");
        let before = names.len();
        for (entry, next) in page.from(position) {
            names.push(String::from_utf8(entry.name.clone()).expect("names are text"));
            position = next;
        }
        if names.len() == before {
            return (names, position);
        }
    }
}

#[test]
fn a_large_directory_is_listed_in_pages() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let wanted: Vec<_> = (0..3 * PAGE_ROWS + 7).map(|it| format!("{it:05}")).collect();
    for name in &wanted {
        make(&volume, ROOT, name, Kind::Fifo);
    }
    let handle = volume.open_dir(ROOT, 1000).expect("a directory");
    let (all, end) = names(&volume, handle, 0);
    assert_eq!((&all[..2], &all[2..]), (&[".".to_owned(), "..".to_owned()][..], &wanted[..]));
    assert_eq!(volume.read_dir(handle, end).expect("it is open").from(end).count(), 0);
    // A program that goes back finds what is left from there on.
    assert_eq!(names(&volume, handle, 300).0, all[300..]);
    for name in &wanted[..PAGE_ROWS] {
        volume.remove(ROOT, name.as_bytes(), false).expect("it is there");
    }
    let (left, _) = names(&volume, handle, 2);
    assert_eq!(left, wanted[PAGE_ROWS..]);
    assert_eq!(names(&volume, handle, 0).0[2..], wanted[PAGE_ROWS..]);
    volume.close_dir(handle);
    assert_eq!(volume.read_dir(handle, 0).map(|_| ()), Err(Errno::EBADF));
}

#[test]
fn extended_attributes_of_a_file_have_a_bound() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let file = make(&volume, ROOT, "f", Kind::File);
    let set =
        |name: &str, value: Option<&[u8]>| volume.set_xattr(file, name.as_bytes(), value, 0, USER);
    let value = [7; 1000];
    let count = (0..).take_while(|it| set(&format!("user.{it}"), Some(&value)).is_ok()).count();
    assert!((50..70).contains(&count), "{count}");
    assert_eq!(set("user.more", Some(&value)), Err(Errno::ENOSPC));
    assert_eq!(set("user.0", Some(&value)), Ok(()), "what is there can be set again");
    set("user.0", None).expect("it is there");
    assert_eq!(set("user.more", Some(&value)), Ok(()));
    let large = make(&volume, ROOT, "g", Kind::File);
    let value = [7; 64 * 1024];
    assert_eq!(volume.set_xattr(large, b"user.a", Some(&value), 0, USER), Ok(()));
    assert_eq!(volume.set_xattr(large, b"user.b", Some(&[7; 4096]), 0, USER), Err(Errno::ENOSPC));
}

#[test]
fn a_file_that_had_many_attributes_is_removed_in_pieces() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let file = make(&volume, ROOT, "f", Kind::File);
    for name in (0..2000).map(|it| format!("user.{it}")) {
        volume.set_xattr(file, name.as_bytes(), Some(b"v"), 0, USER).expect("there is room");
        volume.set_xattr(file, name.as_bytes(), None, 0, USER).expect("it is there");
    }
    volume.forget(file, 1);
    volume.remove(ROOT, b"f", false).expect("it is there");
    assert_eq!(volume.attr(file).map(|_| ()), Ok(()), "most of it is still there");
    volume.shared.bury_rest().expect("the tables work");
    assert_eq!(volume.attr(file).map(|_| ()), Err(Errno::ESTALE));
    let state = volume.shared.lock();
    assert_eq!(state.tree.tables.all(&key::removed_xattrs(file)).expect("they work"), []);
    assert_eq!(state.tree.tables.all(&key::ORPHANS).expect("they work"), []);
}

#[test]
fn programs_do_not_wait_while_somebody_looks_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = Arc::new(open(dir.path()));
    let top = make(&volume, ROOT, "d", Kind::Dir);
    for name in 0..5000 {
        make(&volume, top, &name.to_string(), Kind::Fifo);
    }
    let shown = Arc::new(Shown::live(Arc::clone(&volume)));
    let oswalk = shown.lookup(ROOT, b".oswalk", 7).expect("it is there").attr.ino;
    let versions = shown.lookup(oswalk, b"versions", 7).expect("it is there").attr.ino;
    let past = shown.lookup(versions, b"d", 7).expect("the path is known").attr.ino;
    let looking = Arc::clone(&shown);
    let looks = std::thread::spawn(move || looking.open_dir(past, 7).expect("a directory"));
    let mut longest = Duration::ZERO;
    while !looks.is_finished() {
        let begin = Instant::now();
        volume.attr(ROOT).expect("it is there");
        longest = longest.max(begin.elapsed());
    }
    let handle = looks.join().expect("it was listed");
    assert_eq!(shown.read_dir(handle, 0).expect("it is open").from(0).count(), 5002);
    // Without the pieces it is as long as the listing.
    assert!(longest < Duration::from_millis(500), "{longest:?}");
}
