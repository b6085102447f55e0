//! What was in a private directory stays private, whatever becomes of the directory and its name.

use super::super::Moving;
use super::super::names::Found;
use super::*;

const USER: Caller = Caller { uid: 1000, gid: 1000 };

fn chmod(volume: &Volume, ino: u64, mode: u32) {
    let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
    volume.set_attr(ino, attrs, None, SUPERUSER).expect("the file is there");
}

/// Makes a directory that only the superuser can enter.
fn private(volume: &Volume, dir: u64, name: &[u8]) -> u64 {
    let made = volume.make(dir, name, Make { kind: Kind::Dir, mode: 0o700, umask: 0 }, SUPERUSER);
    let ino = made.expect("the name is free").attr.ino;
    volume.forget(ino, 1);
    ino
}

fn rename(volume: &Volume, from: (u64, &[u8]), to: (u64, &[u8])) {
    volume.rename(from, to, Moving::Replace).expect("it is there");
}

/// Tells of each version of a file whether the user may read it.
fn may(volume: &Volume, path: &[u8]) -> Vec<bool> {
    let versions = volume.versions(path).expect("the path is known").into_iter();
    let may = |it: Version| volume.may_read_version(path, &it.name, USER).expect("it is there");
    versions.map(may).collect()
}

/// Returns what the kernel gets to see at a path below `.oswalk`.
fn shown(volume: &Arc<Volume>, path: &[&[u8]]) -> Found {
    let shown = Shown::live(Arc::clone(volume));
    let mut found = shown.lookup(ROOT, b".oswalk", 0).expect("it is there");
    for name in path {
        found = shown.lookup(found.attr.ino, name, 0).expect("the path is known");
    }
    found
}

fn others(volume: &Arc<Volume>, path: &[&[u8]]) -> u32 {
    shown(volume, path).attr.mode & 0o077
}

/// Runs a test with a volume that keeps every row, and with one that keeps no brief ones.
fn twice(test: impl Fn(&Arc<Volume>)) {
    for brief_ms in [0, 1_000_000] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let volume = open(dir.path());
        volume.shared.lock().tree.brief_ms = brief_ms;
        test(&volume);
    }
}

#[test]
fn who_makes_the_name_of_a_private_directory_again_sees_nothing_of_it() {
    twice(|volume| {
        let dir = private(volume, ROOT, b"priv");
        write(volume, dir, b"key", b"secret");
        let then = moment(volume);
        rename(volume, (ROOT, b"priv"), (ROOT, b"other"));
        mkdir(volume, ROOT, b"priv");
        assert_eq!(others(volume, &[b"versions", b"priv"]), 0);
        assert_eq!(may(volume, b"priv/key"), [false]);
        volume.remove(dir, b"key", false).expect("it is there");
        volume.remove(ROOT, b"other", true).expect("it is empty");
        assert_eq!(others(volume, &[b"versions", b"priv"]), 0);
        assert_eq!(may(volume, b"priv/key"), [false]);
        let name = volume.versions(b"priv/key").expect("the path is known")[0].name.clone();
        assert_eq!(others(volume, &[b"versions", b"priv", b"key", name.as_bytes()]), 0);
        let then = super::super::moment::version(then, Author([1; 16]));
        let then = then.split('@').next().expect("a time").as_bytes();
        assert_eq!(others(volume, &[b"at", then, b"priv"]), 0);
        assert_eq!(others(volume, &[b"at", then, b"priv", b"key"]), 0);
    });
}

#[test]
fn a_directory_that_leaves_a_private_one_publishes_no_former_version() {
    twice(|volume| {
        let top = private(volume, ROOT, b"priv");
        let dir = mkdir(volume, top, b"d");
        write(volume, dir, b"f", b"secret");
        write(volume, dir, b"f", b"draft");
        rename(volume, (top, b"d"), (ROOT, b"d"));
        write(volume, dir, b"f", b"public");
        assert_eq!(may(volume, b"d/f"), [false, false, true]);
        assert_eq!(others(volume, &[b"versions", b"d"]), 0, "names that were private");
        rename(volume, (ROOT, b"d"), (top, b"d"));
        assert_eq!(may(volume, b"priv/d/f"), [false; 3], "now none of it can be reached");
    });
}

#[test]
fn a_removed_file_was_where_it_was() {
    twice(|volume| {
        let dir = private(volume, ROOT, b"priv");
        write(volume, dir, b"f", b"secret");
        rename(volume, (dir, b"f"), (ROOT, b"f"));
        write(volume, ROOT, b"f", b"public");
        assert_eq!(may(volume, b"f"), [false, true]);
        volume.remove(ROOT, b"f", false).expect("it is there");
        assert_eq!(may(volume, b"f"), [false, true]);
        // The directory is opened when it is empty.
        chmod(volume, dir, 0o755);
        assert_eq!(may(volume, b"f"), [false, true]);
    });
}

#[test]
fn a_list_or_another_name_leaves_only_the_owner() {
    twice(|volume| {
        let dir = mkdir(volume, ROOT, b"d");
        let listed = write(volume, dir, b"f", b"content");
        assert_eq!(
            (may(volume, b"d/f"), others(volume, &[b"versions", b"d"])),
            (vec![true], 0o055)
        );
        // `u::rwx u:1000:--- g::r-x m::r-x o::r-x`
        let entry = |tag: u16, bits: u16, id: u32| {
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let none = u32::MAX;
        let entries = [
            entry(1, 7, none),
            entry(2, 0, 1000),
            entry(4, 5, none),
            entry(16, 5, none),
            entry(32, 5, none),
        ];
        let list = [2_u32.to_le_bytes().to_vec(), entries.concat()].concat();
        let name = b"system.posix_acl_access";
        volume.set_xattr(dir, name, Some(&list), 0, SUPERUSER).expect("a list");
        assert_eq!((may(volume, b"d/f"), others(volume, &[b"versions", b"d"])), (vec![false], 0));
        volume.set_xattr(dir, name, None, 0, SUPERUSER).expect("it has a list");
        assert_eq!((may(volume, b"d/f"), others(volume, &[b"versions", b"d"])), (vec![false], 0));
        let secret = private(volume, ROOT, b"priv");
        rename(volume, (dir, b"f"), (ROOT, b"f"));
        volume.link(listed, secret, b"f").expect("the name is free");
        volume.remove(ROOT, b"f", false).expect("it is there");
        write(volume, secret, b"f", b"secret");
        assert_eq!(may(volume, b"priv/f"), [false; 2]);
    });
}
