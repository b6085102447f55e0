//! Two volumes that change the same things while apart: what is seen, chosen and dismissed.

use std::sync::Arc;

use nix::errno::Errno;
use tempfile::TempDir;
use worknode::history::Attrs;

use super::super::marks::PREFIX;
use super::super::node::ROOT;
use super::exchange::{give, open, settle};
use super::picture::Picture;
use super::{SUPERUSER, content, mkdir, moment, write};
use crate::volume::{Caller, Moving, Shown, Volume};

/// Two volumes.
struct Pair {
    a: Arc<Volume>,
    b: Arc<Volume>,
    _dirs: [TempDir; 2],
}

impl Pair {
    fn new() -> Self {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let [a, b] = [1, 2].map(|number| open(dirs[usize::from(number) - 1].path(), number));
        Self { a, b, _dirs: dirs }
    }

    fn meet(&self) {
        for volume in [&self.a, &self.b] {
            volume.shared.catch_up_all().expect("the disk has room");
            settle(volume);
        }
        give(&self.a, &self.b);
        give(&self.b, &self.a);
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            to.keep(&from.packets(&refs(from))).expect("the disk has room");
        }
        self.check();
    }

    fn check(&self) {
        let pictures = [&self.a, &self.b].map(|volume| {
            let state = volume.shared.lock();
            let merged = volume.shared.merge(&state).expect("the logs are sound");
            let differences = state.tree.differences(&merged).expect("the tables work");
            assert_eq!(differences, Vec::<String>::new());
            drop(state);
            Picture::of_live(volume)
        });
        assert_eq!(pictures[0].differs(&pictures[1]), None);
    }

    fn is_merged(&self) -> bool {
        [&self.a, &self.b].iter().any(|volume| volume.shared.lock().merged.is_some())
    }
}

/// Returns the packets of all small contents.
fn refs(volume: &Volume) -> Vec<crate::packet::PacketRef> {
    let state = volume.shared.lock();
    let merged = volume.shared.merge(&state).expect("the logs are sound");
    let packet = |event: &worknode::history::Event| match event.op {
        worknode::history::Op::Write { content, .. } => content.packet,
        _ => None,
    };
    let packets = merged.events().iter().filter_map(packet);
    packets
        .map(|it| crate::packet::PacketRef {
            digest: crate::packet::Digest(it.digest),
            bytes: it.bytes,
        })
        .collect()
}

fn ino(volume: &Volume, path: &[u8]) -> u64 {
    volume.shared.lock().walk(path).expect("it is there")
}

fn read(volume: &Volume, path: &[u8]) -> Vec<u8> {
    volume.read(ino(volume, path), 0, 1000).expect("the packets are there")
}

/// Returns the contents that lost.
fn lost(volume: &Volume, path: &[u8]) -> Vec<Vec<u8>> {
    let versions = volume.versions(path).expect("the path is known");
    let lost = versions.iter().filter(|version| version.is_conflict);
    lost.map(|version| content(volume, path, &version.name)).collect()
}

#[test]
fn changes_of_one_after_the_other_need_no_merged_tree() {
    let pair = Pair::new();
    let dir = mkdir(&pair.a, ROOT, b"d");
    write(&pair.a, dir, b"f", b"one");
    pair.meet();
    let dir = ino(&pair.b, b"d");
    write(&pair.b, dir, b"f", b"two");
    write(&pair.b, dir, b"g", b"three");
    pair.b.rename((dir, b"g"), (dir, b"f"), Moving::Replace).expect("both are there");
    let file = ino(&pair.b, b"d/f");
    let attrs = Attrs { mode: Some(0o600), ..Attrs::default() };
    pair.b.set_attr(file, attrs, None, SUPERUSER).expect("it is there");
    pair.b.set_xattr(file, b"user.x", Some(b"1"), 0, SUPERUSER).expect("it is there");
    pair.b.set_xattr(file, b"user.x", None, 0, SUPERUSER).expect("it is there");
    pair.b.set_xattr(file, b"user.x", Some(b"2"), 0, SUPERUSER).expect("it is there");
    pair.b.rename((ROOT, b"d"), (ROOT, b"e"), Moving::New).expect("it is there");
    pair.meet();
    // Different names in one directory are no conflict.
    write(&pair.a, ino(&pair.a, b"e"), b"of a", b"1");
    write(&pair.b, ino(&pair.b, b"e"), b"of b", b"2");
    pair.meet();
    pair.a.remove(ino(&pair.a, b"e"), b"f", false).expect("it is there");
    pair.a.remove(ino(&pair.a, b"e"), b"of a", false).expect("it is there");
    pair.meet();
    assert_eq!(read(&pair.a, b"e/of b"), b"2");
    assert!(!pair.is_merged());
}

#[test]
fn a_conflict_lasts_until_it_is_chosen_whatever_programs_write() {
    let pair = Pair::new();
    write(&pair.a, ROOT, b"f", b"first");
    pair.meet();
    write(&pair.a, ROOT, b"f", b"of a");
    moment(&pair.a);
    write(&pair.b, ROOT, b"f", b"of b");
    pair.meet();
    write(&pair.a, ROOT, b"f", b"of a program");
    pair.meet();
    // What was closed just before is not translated later, after the file was replaced.
    write(&pair.b, ROOT, b"f", b"just before");
    write(&pair.b, ROOT, b"f~", b"of an editor");
    pair.b.rename((ROOT, b"f~"), (ROOT, b"f"), Moving::Replace).expect("both are there");
    pair.meet();
    let names = [&pair.a, &pair.b].map(|volume| {
        assert_eq!(read(volume, b"f"), b"of an editor");
        assert_eq!(lost(volume, b"f"), [b"of a"]);
        let versions = volume.versions(b"f").expect("it is there").into_iter();
        versions.filter(|version| version.is_conflict).map(|version| version.name).collect()
    });
    let [names, others]: [Vec<String>; 2] = names;
    assert_eq!(names, others);
    pair.a.choose(b"f", &names[0]).expect("it is a version");
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!((read(volume, b"f"), lost(volume, b"f")), (b"of a".to_vec(), vec![]));
    }
}

/// Returns the contents of all versions.
fn all(volume: &Volume, path: &[u8]) -> Vec<Vec<u8>> {
    let versions = volume.versions(path).expect("the path is known");
    versions.iter().map(|version| content(volume, path, &version.name)).collect()
}

#[test]
fn what_lost_a_name_is_a_version_there_also_when_the_conflict_has_ended() {
    let pair = Pair::new();
    for (volume, text) in [(&pair.a, b"of a"), (&pair.b, b"of b")] {
        let dir = mkdir(volume, ROOT, b"d");
        write(volume, dir, b"dismissed", text);
        write(volume, dir, b"removed", text);
        moment(volume);
    }
    pair.meet();
    let name = pair.a.versions(b"d/dismissed").expect("it is there");
    let name = &name.iter().find(|version| version.is_conflict).expect("one lost").name;
    pair.b.dismiss(b"d/dismissed", name).expect("it is a version");
    pair.b.remove(ino(&pair.b, b"d"), b"removed", false).expect("it is there");
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        for path in [&b"d/dismissed"[..], b"d/removed"] {
            assert!(all(volume, path).contains(&b"of a".to_vec()), "{volume:?}");
            assert!(all(volume, path).contains(&b"of b".to_vec()), "{volume:?}");
            assert_eq!(lost(volume, path), Vec::<Vec<u8>>::new());
        }
    }
}

#[test]
fn what_was_closed_before_another_node_removed_the_file_brings_it_back() {
    let pair = Pair::new();
    for name in [&b"removed"[..], b"replaced", b"read", b"here"] {
        write(&pair.a, ROOT, name, b"known");
    }
    pair.meet();
    write(&pair.b, ROOT, b"new", b"of b");
    pair.b.remove(ROOT, b"removed", false).expect("it is there");
    pair.b.remove(ROOT, b"read", false).expect("it is there");
    let renamed = pair.b.rename((ROOT, b"new"), (ROOT, b"replaced"), Moving::Replace);
    renamed.expect("both are there");
    pair.b.shared.catch_up_all().expect("the disk has room");
    settle(&pair.b);
    // It is closed, and becomes packets only after the removal has come.
    write(&pair.a, ROOT, b"removed", b"news");
    write(&pair.a, ROOT, b"replaced", b"news");
    write(&pair.a, ROOT, b"here", b"news");
    pair.a.remove(ROOT, b"here", false).expect("it is there");
    give(&pair.b, &pair.a);
    pair.meet();
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!(read(volume, b"removed"), b"news");
        assert!(all(volume, b"replaced").contains(&b"news".to_vec()), "{volume:?}");
        assert!(all(volume, b"replaced").contains(&b"of b".to_vec()), "{volume:?}");
        let is_gone = |name: &[u8]| volume.shared.lock().walk(name) == Err(Errno::ENOENT);
        assert!(is_gone(b"read") && is_gone(b"here"), "{volume:?}");
    }
}

#[test]
fn what_was_written_and_removed_while_apart_is_a_version_of_its_path() {
    let pair = Pair::new();
    // Directories of one name need the merged tree, and so does all that comes after them.
    mkdir(&pair.a, ROOT, b"d");
    let dir = mkdir(&pair.b, ROOT, b"d");
    for (name, text) in [(&b"removed"[..], b"1"), (b"replaced", b"2"), (b"new", b"3")] {
        write(&pair.b, dir, name, text);
    }
    pair.b.shared.catch_up_all().expect("the disk has room");
    pair.b.remove(dir, b"removed", false).expect("it is there");
    pair.b.rename((dir, b"new"), (dir, b"replaced"), Moving::Replace).expect("both are there");
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert!(all(volume, b"d/removed").contains(&b"1".to_vec()), "{volume:?}");
        assert!(all(volume, b"d/replaced").contains(&b"2".to_vec()), "{volume:?}");
    }
}

#[test]
fn nobody_dismisses_others_files_where_nobody_may_remove_them() {
    let pair = Pair::new();
    let dir = mkdir(&pair.a, ROOT, b"d");
    let attrs = Attrs { mode: Some(0o1777), ..Attrs::default() };
    pair.a.set_attr(dir, attrs, None, SUPERUSER).expect("it is there");
    pair.meet();
    for (volume, uid) in [(&pair.a, 1001), (&pair.b, 1002)] {
        let file = write(volume, ino(volume, b"d"), b"f", format!("of {uid}").as_bytes());
        let attrs = Attrs { mode: Some(0o644), uid: Some(uid), ..Attrs::default() };
        volume.set_attr(file, attrs, None, SUPERUSER).expect("it is there");
        moment(volume);
    }
    pair.meet();
    let versions = pair.b.versions(b"d/f").expect("it is there");
    let [own, others] = [true, false].map(|is_own| {
        let version = versions.iter().find(|it| it.is_present == is_own && it.bytes > 0);
        version.expect("there are both").name.clone()
    });
    let user = Caller { uid: 1002, gid: 1002 };
    let mark = |name: &str| [PREFIX, name.as_bytes()].concat();
    let file = ino(&pair.b, b"d/f");
    let dismissed = pair.b.set_mark(file, &mark("dismiss"), others.as_bytes(), user);
    assert_eq!(dismissed, Err(Errno::EPERM));
    pair.b.set_mark(file, &mark("choose"), own.as_bytes(), user).expect("it is the user's own");
    pair.meet();
    assert_eq!(lost(&pair.a, b"d/f"), [b"of 1001"]);
    pair.b.set_mark(file, &mark("dismiss"), others.as_bytes(), SUPERUSER).expect("root may");
    pair.meet();
    assert_eq!(lost(&pair.a, b"d/f"), Vec::<Vec<u8>>::new());
}

#[test]
fn the_log_tells_dismissals_from_removals() {
    let pair = Pair::new();
    write(&pair.a, ROOT, b"content", b"first");
    pair.meet();
    for (volume, text) in [(&pair.a, b"of a"), (&pair.b, b"of b")] {
        write(volume, ROOT, b"content", text);
        write(volume, ROOT, b"name", text);
        moment(volume);
    }
    pair.meet();
    for path in [&b"content"[..], b"name"] {
        let versions = pair.a.versions(path).expect("it is there");
        let lost = versions.iter().find(|it| it.is_conflict).expect("one lost");
        pair.a.dismiss(path, &lost.name).expect("it is a version");
    }
    pair.meet();
    pair.a.remove(ROOT, b"name", false).expect("it is there");
    write(&pair.a, ROOT, b"content", b"of b");
    pair.a.shared.catch_up_all().expect("the disk has room");
    let log = |path: &[u8]| -> Vec<String> {
        let records = pair.a.log(path, 2).expect("it was there");
        records.into_iter().map(|record| record.what).collect()
    };
    assert_eq!(log(b"name"), ["removed", "dismissed a file that had lost the name"]);
    assert_eq!(log(b"content"), ["wrote 4 bytes", "dismissed a version"]);
}

#[test]
fn who_removes_a_name_where_only_owners_may_removes_nothing_of_others() {
    for (mode, left) in [(0o1777, true), (0o777, false)] {
        let pair = Pair::new();
        let dir = mkdir(&pair.a, ROOT, b"d");
        let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
        pair.a.set_attr(dir, attrs, None, SUPERUSER).expect("it is there");
        pair.meet();
        for (volume, uid) in [(&pair.a, 1001), (&pair.b, 1002)] {
            let file = write(volume, ino(volume, b"d"), b"f", format!("of {uid}").as_bytes());
            let attrs = Attrs { mode: Some(0o644), uid: Some(uid), ..Attrs::default() };
            volume.set_attr(file, attrs, None, SUPERUSER).expect("it is there");
            moment(volume);
        }
        pair.meet();
        assert_eq!(read(&pair.a, b"d/f"), b"of 1002");
        let user = Caller { uid: 1002, gid: 1002 };
        let dir = ino(&pair.a, b"d");
        pair.a.remove_for(dir, b"f", false, user).expect("it is the user's");
        pair.meet();
        for volume in [&pair.a, &pair.b] {
            if left {
                assert_eq!(read(volume, b"d/f"), b"of 1001");
                assert_eq!(lost(volume, b"d/f"), Vec::<Vec<u8>>::new());
            } else {
                assert_eq!(volume.shared.lock().walk(b"d/f"), Err(Errno::ENOENT));
            }
            assert!(all(volume, b"d/f").contains(&b"of 1002".to_vec()), "it is a version");
        }
        let other = Caller { uid: 1001, gid: 1001 };
        if left {
            pair.b.remove_for(ino(&pair.b, b"d"), b"f", false, other).expect("it is the user's");
            pair.meet();
            assert_eq!(pair.a.shared.lock().walk(b"d/f"), Err(Errno::ENOENT));
        }
    }
}

#[test]
fn a_directory_that_is_made_again_has_the_versions_of_the_former_one() {
    let pair = Pair::new();
    let (a, path) = (&pair.a, b"d/e/f");
    for text in [&b"one"[..], b"two", b"three"] {
        let dir = mkdir(a, ROOT, b"d");
        let below = mkdir(a, dir, b"e");
        write(a, below, b"f", text);
        moment(a);
        if text != b"three" {
            a.remove(below, b"f", false).expect("it is there");
            a.remove(dir, b"e", true).expect("it is empty");
            a.remove(ROOT, b"d", true).expect("it is empty");
        }
    }
    assert_eq!(all(a, path), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    let versions = a.versions(path).expect("it is there");
    assert_eq!(versions.iter().filter(|version| version.is_present).count(), 1);
    a.choose(path, &versions[0].name).expect("it is a version");
    assert_eq!(read(a, path), b"one");
    let shown = Shown::live(Arc::clone(a));
    let told = shown.xattr(ino(a, path), &[PREFIX, b"versions"].concat()).expect("it is there");
    assert!(told.starts_with(b"4\n"), "{}", String::from_utf8_lossy(&told));
}

#[test]
fn of_two_contents_the_later_is_seen_and_the_other_may_be_chosen() {
    let pair = Pair::new();
    write(&pair.a, ROOT, b"f", b"first");
    pair.meet();
    write(&pair.a, ROOT, b"f", b"of a");
    moment(&pair.a);
    write(&pair.b, ROOT, b"f", b"of b");
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!(read(volume, b"f"), b"of b");
        assert_eq!(lost(volume, b"f"), [b"of a"]);
        let conflicts = volume.conflicts(b"").expect("the root is there");
        assert_eq!((conflicts.len(), conflicts[0].path.as_slice()), (1, b"/f".as_slice()));
    }
    let shown = Shown::live(Arc::clone(&pair.b));
    let mark = |name: &str| [PREFIX, name.as_bytes()].concat();
    let told = shown.xattr(ino(&pair.b, b"f"), &mark("conflicts")).expect("it is there");
    let told = String::from_utf8(told).expect("it is a name");
    let (name, bytes) = told.trim_end().split_once(' ').expect("a name and a size");
    assert_eq!(bytes, "4");
    let top = shown.lookup(ROOT, b".oswalk", 0).expect("it is there").attr.ino;
    let versions = shown.lookup(top, b"versions", 0).expect("it is there").attr.ino;
    let file = shown.lookup(versions, b"f", 0).expect("it is known").attr.ino;
    let version = shown.lookup(file, name.as_bytes(), 0).expect("it is listed").attr;
    assert_eq!(shown.read(version.ino, 0, 100).as_deref(), Ok(b"of a".as_slice()));
    let set =
        shown.set_xattr(ino(&pair.b, b"f"), &mark("choose"), Some(name.as_bytes()), 0, SUPERUSER);
    set.expect("the version is there");
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!((read(volume, b"f"), lost(volume, b"f").len()), (b"of a".to_vec(), 0));
        let all = volume.versions(b"f").expect("the path is known");
        let all: Vec<_> = all.iter().map(|it| content(volume, b"f", &it.name)).collect();
        assert!(all.contains(&b"of b".to_vec()) && all.contains(&b"first".to_vec()), "{all:?}");
    }
    assert_eq!(pair.a.conflicts(b""), Ok(Vec::new()));
    // After that it is an ordinary file.
    pair.a.shared.lock().merged = None;
    pair.b.shared.lock().merged = None;
    write(&pair.b, ROOT, b"f", b"later");
    pair.meet();
    assert_eq!(read(&pair.a, b"f"), b"later");
    assert!(!pair.is_merged());
}

#[test]
fn two_files_of_one_name_are_versions_until_one_is_dismissed() {
    let pair = Pair::new();
    write(&pair.a, ROOT, b"f", b"of a");
    moment(&pair.a);
    write(&pair.b, ROOT, b"f", b"of b");
    write(&pair.a, ROOT, b"g", b"of a");
    moment(&pair.a);
    write(&pair.b, ROOT, b"g", b"of b");
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!(
            (read(volume, b"f"), lost(volume, b"f")),
            (b"of b".to_vec(), vec![b"of a".to_vec()])
        );
    }
    let name = |volume: &Volume, path: &[u8]| {
        let versions = volume.versions(path).expect("the path is known");
        versions.into_iter().find(|it| it.is_conflict).expect("one lost").name
    };
    pair.a.dismiss(b"f", &name(&pair.a, b"f")).expect("it is there");
    pair.b.choose(b"g", &name(&pair.b, b"g")).expect("it is there");
    assert_eq!(pair.a.dismiss(b"nothing", "x"), Err(Errno::ENOENT));
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!((read(volume, b"f"), lost(volume, b"f").len()), (b"of b".to_vec(), 0));
        assert_eq!((read(volume, b"g"), lost(volume, b"g").len()), (b"of a".to_vec(), 0));
        assert_eq!(volume.shared.lock().tree.state.disputes, 0);
    }
}

#[test]
fn what_a_program_writes_is_concurrent_to_what_came_meanwhile() {
    let pair = Pair::new();
    let file = write(&pair.a, ROOT, b"f", b"first");
    pair.meet();
    let handle = pair.a.open_file(file, libc::O_RDWR, SUPERUSER).expect("a file").handle;
    pair.a.write(file, 0, b"FIRST", false).expect("the disk has room");
    write(&pair.b, ROOT, b"f", b"of b");
    settle(&pair.b);
    give(&pair.b, &pair.a);
    assert_eq!(read(&pair.a, b"f"), b"FIRST", "a program has it open");
    pair.a.write(file, 5, b"!", false).expect("the disk has room");
    pair.a.close_file(handle);
    pair.meet();
    for volume in [&pair.a, &pair.b] {
        assert_eq!(
            (read(volume, b"f"), lost(volume, b"f")),
            (b"FIRST!".to_vec(), vec![b"of b".to_vec()])
        );
    }
    // A file that is only read shows what came.
    let file = ino(&pair.b, b"f");
    let handle = pair.b.open_file(file, libc::O_RDONLY, SUPERUSER).expect("a file").handle;
    write(&pair.a, ROOT, b"f", b"later");
    pair.meet();
    assert_eq!(read(&pair.b, b"f"), b"later");
    pair.b.close_file(handle);
}

#[test]
fn a_removed_file_that_a_program_has_open_stays_readable() {
    let pair = Pair::new();
    write(&pair.a, ROOT, b"f", b"content");
    pair.meet();
    let file = ino(&pair.b, b"f");
    let handle = pair.b.open_file(file, libc::O_RDONLY, SUPERUSER).expect("a file").handle;
    pair.a.remove(ROOT, b"f", false).expect("it is there");
    pair.meet();
    assert_eq!(pair.b.lookup(ROOT, b"f").map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(pair.b.read(file, 0, 100).as_deref(), Ok(b"content".as_slice()));
    pair.b.close_file(handle);
    assert_eq!(pair.b.attr(file).map(|_| ()), Err(Errno::ESTALE));
}
