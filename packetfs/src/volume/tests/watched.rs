//! What whoever watches a mount is told of changes that do not come from its kernel.

use std::time::{Duration, Instant};

use super::super::node::ROOT;
use super::super::{Make, Volume};
use super::exchange::{give, open, settle};
use super::{SUPERUSER, write};
use crate::packet;

/// Longest time until a closed file is in packets.
const PACKED_MAX: Duration = Duration::from_secs(60);

fn names(volume: &Volume) -> Vec<(u64, Vec<u8>)> {
    let news = volume.news();
    assert!(!news.is_all && news.dirs.is_empty(), "{news:?}");
    news.names.into_iter().chain(news.names_of_files).collect()
}

#[test]
fn what_comes_from_another_node_is_news_also_if_no_kernel_knows_the_file() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [here, there] = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    let make = Make { kind: worknode::history::Kind::Dir, mode: 0o755, umask: 0 };
    let dir = there.make(ROOT, b"d", make, SUPERUSER).expect("the name is free").attr.ino;
    write(&there, dir, b"f", b"one");
    settle(&there);
    give(&there, &here);
    assert!(names(&here).contains(&(ROOT, b"d".to_vec())));
    // The kernel knows the directory that is watched, but not the file.
    let dir = here.lookup(ROOT, b"d").expect("it has come").attr.ino;
    assert_eq!(names(&here), []);
    write(&there, there.lookup(ROOT, b"d").expect("it is there").attr.ino, b"f", b"two");
    settle(&there);
    give(&there, &here);
    assert_eq!(names(&here), [(dir, b"f".to_vec())]);
    let kernel = here.stale();
    // A name of a directory that the kernel knows is news until the kernel has forgotten it, and once after that.
    there
        .remove(there.lookup(ROOT, b"d").expect("it is there").attr.ino, b"f", false)
        .expect("a file");
    settle(&there);
    let told = std::thread::spawn(move || {
        let mut told: Vec<_> = kernel.recv().into_iter().collect();
        while !matches!(told.last().map(|it| &it.stale), Some(super::super::Stale::Mark(_)) | None)
        {
            told.extend(kernel.recv());
        }
        // What was told is dropped only when the other side has looked.
        told.retain(|it| !matches!(it.stale, super::super::Stale::Mark(_)));
        told
    });
    give(&there, &here);
    let told = told.join().expect("it does not panic");
    let gone = (dir, b"f".to_vec());
    assert!(names(&here).contains(&gone) && names(&here).contains(&gone));
    drop(told);
    assert!(names(&here).contains(&gone));
    assert_eq!(names(&here), []);
    assert!(here.feed().is_quiet());
}

#[test]
fn a_file_in_packets_need_not_be_split_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path(), 0);
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(|it| (it / 7).to_le_bytes()).collect();
    let ino = write(&volume, ROOT, b"f", &content);
    let seen = || volume.attr(ino).expect("it is there").attr;
    let began = Instant::now();
    let manifest = loop {
        if let Some(manifest) = volume.manifest_of(&seen()) {
            break manifest;
        }
        assert!(began.elapsed() < PACKED_MAX, "a closed file becomes packets");
        std::thread::sleep(Duration::from_millis(10));
    };
    let seen = seen();
    let packets: Vec<_> = packet::split(&content).map(packet::reference).collect();
    assert_eq!((manifest.packets, manifest.holes), (packets, Vec::new()));
    let other = crate::tree::Attr { ctime: seen.ctime.after(1), ..seen };
    assert_eq!(volume.manifest_of(&other), None);
    let handle = volume.open_file(ino, libc::O_RDWR, SUPERUSER).expect("a file").handle;
    assert_eq!(volume.manifest_of(&seen), None, "it may be written");
    volume.close_file(handle);
}
