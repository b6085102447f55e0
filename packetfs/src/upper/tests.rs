//! Tests of reading changes from upper layers.

use super::*;
use crate::deep;

#[test]
fn creation_and_write_times_of_a_new_file_agree() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let node = OwnedFd::from(File::open(dir.path()).expect("it is there"));
    File::create(dir.path().join("new")).expect("a file");
    let attr = Attr::of(&fstatat(&node, "new", AtFlags::empty()).expect("it is there"));
    assert_eq!(made(&node, b"new"), Some(attr.mtime));
    let given = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
    let file = File::open(dir.path().join("new")).expect("it is there");
    file.set_modified(given).expect("ours");
    assert_eq!(made(&node, b"new"), Some(attr.mtime));
    assert_eq!(made(&node, b"absent"), None);
}

/// Reads a layer above an empty lower layer.
fn read_new(upper: &Path) -> io::Result<ChangeSet> {
    let upper = OwnedFd::from(File::open(upper)?);
    let time = Time { seconds: 0, nanos: 0 };
    let mut reading = Reading {
        owners: Owners::UNSHIFTED,
        began: time,
        ended: time,
        lower_attr: &|_| None,
        lower_paths: &|_| Vec::new(),
        base: &|_| Base::Nothing,
        contents: &|_| None,
        had_time: &|_, _| false,
        lower_xattrs: &|_| Vec::new(),
        is_shown: &|_| false,
        absent: &[],
        packet: &mut |_, _| {},
    };
    read(&upper, None, &mut reading)
}

/// The walk controls the depth of its layer.
#[test]
fn layers_are_read_up_to_the_longest_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let (upper, many) = (dir.path().join("upper"), OPEN_DIRS_MAX + 2);
    deep::make(&upper, 500);
    for at in 0..many {
        std::fs::create_dir_all(upper.join(format!("d/{at}/e"))).expect("writable");
    }
    let changes = deep::on_a_small_stack(|| read_new(&upper)).expect("readable");
    let dirs = changes.ops.iter().filter_map(|op| match op {
        Op::Dir { path, .. } => Some(&**path),
        _ => None,
    });
    let made: Vec<&[u8]> = dirs.collect();
    assert_eq!(made.len(), 500 + 2 * many);
    for (at, path) in made.iter().enumerate() {
        let above = split(path).expect("not the root").0;
        assert!(above == b"/" || made[..at].contains(&above), "parents come first");
    }
    deep::make(&dir.path().join("deeper"), deep::LEVELS);
    let refused = deep::on_a_small_stack(|| read_new(&dir.path().join("deeper")));
    let errno = refused.expect_err("it is too deep").raw_os_error();
    assert_eq!(errno, Some(libc::ENAMETOOLONG));
    deep::clear(&dir.path().join("deeper"));
}

#[test]
fn set_times_are_distinguished_from_write_times() {
    let at = |seconds| Time { seconds, nanos: 7 };
    let (began, ended) = (at(100), at(110));
    let mtime = |modified, changed, shown: &[i64]| {
        let attr = Attr {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            bytes: 0,
            blocks: 0,
            links: 1,
            rdev: 0,
            mtime: at(modified),
            ctime: at(changed),
            ino: 1,
            dev: 1,
        };
        mtime(&attr, began, ended, &|time| shown.contains(&time.seconds))
    };
    let since = |seconds: u64| Mtime::Since(seconds * 1_000_000_000);
    assert_eq!(mtime(104, 104, &[]), since(4));
    assert_eq!(mtime(100, 100, &[]), since(0), "in the tick in which the walk began");
    assert_eq!(mtime(99, 104, &[]), Mtime::Set(at(99)), "older than the walk");
    assert_eq!(mtime(111, 104, &[]), Mtime::Set(at(111)), "in the future");
    // Written, then renamed or its mode changed.
    assert_eq!(mtime(104, 105, &[103]), since(4));
    // Copied from an origin whose clock is ahead.
    assert_eq!(mtime(104, 105, &[104]), Mtime::Set(at(104)));
    // A write at the origin has the same time.
    assert_eq!(mtime(104, 104, &[104]), since(4));
}
