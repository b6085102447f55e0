//! A share against the directory that it is of.

mod both;
mod nodes;
mod random;
mod rules;
mod target;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use worknode::history::Author;

use super::{Left, Plan, Round, Share, ShareError};
use crate::export::Hidden;
use crate::tree::Kind;
use crate::volume::{Options, Volume};
use crate::watch::Watcher;

const ROOT: u64 = 1;

/// Paths with mode, size, modification time and content of everything in a directory.
type Picture = BTreeMap<String, (u32, i64, String)>;

fn volume(dir: &Path) -> Arc<Volume> {
    let options = Options { author: Author([1; 16]), signer: None, may_pass: false, boot: None };
    Arc::new(Volume::open(dir, &options).expect("a volume"))
}

fn share(dir: &Path, volume: &Arc<Volume>, known: Option<&[u8]>) -> Share {
    let plan = Plan { dir: dir.to_owned(), owner: None, name: b"team/src".to_vec(), writes: false };
    Share::new(plan, Arc::clone(volume), Arc::new(Hidden::default()), known).expect("a share")
}

/// Takes over what has changed, until nothing changes any more.
fn settle(share: &mut Share) -> Round {
    let mut all = share.changed().expect("the directory is there");
    while share.is_unsure() {
        let more = share.changed().expect("the directory is there");
        (all.taken, all.trouble) = (all.taken + more.taken, more.trouble);
    }
    all
}

fn outside(dir: &Path, at: &Path, picture: &mut Picture) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let (path, meta) = entry.map(|it| (it.path(), it.metadata())).expect("an entry");
        let meta = meta.expect("it is there");
        let name = path.strip_prefix(at).expect("it is below").to_str().expect("UTF-8");
        let (content, time) = if meta.is_dir() {
            outside(&path, at, picture);
            (Vec::new(), 0)
        } else if meta.is_symlink() {
            (fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes(), 0)
        } else {
            (fs::read(&path).expect("readable"), meta.mtime() * 1_000_000_000 + meta.mtime_nsec())
        };
        picture.insert(name.to_owned(), (meta.mode() & 0o7777, time, shown(&content)));
    }
}

fn inside(volume: &Volume, dir: u64, path: &str, picture: &mut Picture) {
    for entry in volume.list(dir).expect("a directory") {
        if entry.name == b"." || entry.name == b".." {
            continue;
        }
        let name = String::from_utf8(entry.name.clone()).expect("UTF-8");
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        let attr = volume.attr(entry.ino).expect("it is there").attr;
        let (content, time) = match attr.kind {
            Kind::Dir => {
                inside(volume, entry.ino, &path, picture);
                (Vec::new(), 0)
            }
            Kind::Symlink => (volume.target(entry.ino).expect("a link"), 0),
            _ => {
                let content = volume.read(entry.ino, 0, 1 << 24).expect("readable");
                (content, attr.mtime.seconds * 1_000_000_000 + i64::from(attr.mtime.nanos))
            }
        };
        picture.insert(path, (attr.mode, time, shown(&content)));
    }
}

/// Returns a content in a form that a failure can show.
fn shown(content: &[u8]) -> String {
    let start = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
    format!("{start} ({} bytes, {})", content.len(), blake3::hash(content))
}

fn at(volume: &Volume, path: &[&str]) -> u64 {
    path.iter().fold(ROOT, |dir, name| {
        volume.peek(dir, name.as_bytes()).expect("a directory").expect("it is there").attr.ino
    })
}

fn assert_same(dir: &Path, volume: &Volume) {
    let (mut left, mut right) = (Picture::new(), Picture::new());
    outside(dir, dir, &mut left);
    inside(volume, at(volume, &["team", "src"]), "", &mut right);
    assert_eq!(left, right);
}

#[test]
fn the_volume_follows_the_directory() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
    fs::create_dir_all(dir.join("a/b/c")).expect("it is free");
    fs::write(dir.join("a/b/c/deep"), "deep").expect("there is room");
    fs::write(dir.join("large"), vec![7; 1 << 20]).expect("there is room");
    symlink("a/b", dir.join("link")).expect("it is free");
    let volume = volume(&state);
    let mut share = share(&dir, &volume, None);
    share.all().expect("the directory is there");
    settle(&mut share);
    assert_same(&dir, &volume);

    fs::write(dir.join("a/new"), "new").expect("there is room");
    fs::write(dir.join("a/b/c/deep"), "deeper").expect("there is room");
    let before = at(&volume, &["team", "src", "a", "b"]);
    fs::rename(dir.join("a/b"), dir.join("moved")).expect("it is free");
    fs::set_permissions(dir.join("large"), fs::Permissions::from_mode(0o600)).expect("ours");
    settle(&mut share);
    assert_same(&dir, &volume);
    assert_eq!(at(&volume, &["team", "src", "moved"]), before, "it was moved");

    fs::remove_file(dir.join("link")).expect("it is there");
    fs::create_dir(dir.join("link")).expect("it is free");
    fs::write(dir.join("link/x"), "x").expect("there is room");
    fs::remove_dir_all(dir.join("moved")).expect("it is there");
    fs::write(dir.join("moved"), "a file now").expect("there is room");
    settle(&mut share);
    assert_same(&dir, &volume);
    assert_eq!(settle(&mut share), Round::default(), "nothing has changed");
}

#[test]
fn what_is_written_through_one_name_of_a_file_changes_all() {
    let (dir, at) = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory")).into();
    for sub in ["x", "y", "z"] {
        fs::create_dir(dir.path().join(sub)).expect("the name is free");
    }
    fs::write(dir.path().join("x/a"), "one").expect("there is room");
    let link = |name: &str| fs::hard_link(dir.path().join("x/a"), dir.path().join(name));
    for name in ["y/b", "c"] {
        link(name).expect("the name is free");
    }
    let volume = volume(at.path());
    let mut share = share(dir.path(), &volume, None);
    share.all().expect("the directory is there");
    settle(&mut share);
    for (round, name) in ["x/a", "y/b", "c", "z/d"].into_iter().enumerate() {
        fs::write(dir.path().join(name), format!("round {round}")).expect("there is room");
        settle(&mut share);
        assert_same(dir.path(), &volume);
        if name == "c" {
            fs::rename(dir.path().join("y"), dir.path().join("z/y")).expect("the name is free");
            link("z/d").expect("the name is free");
            settle(&mut share);
        }
    }
}

#[test]
fn what_the_kernel_does_not_watch_is_found_too() {
    let (dir, at) = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory")).into();
    for number in 0..8 {
        fs::create_dir(dir.path().join(number.to_string())).expect("the name is free");
    }
    let volume = volume(at.path());
    let mut share = share(dir.path(), &volume, None);
    share.watcher = Watcher::with_watches(3).expect("an inotify instance");
    share.all().expect("the directory is there");
    assert!(share.lacks_watches());
    for round in 0..3 {
        for number in 0..8 {
            fs::write(dir.path().join(format!("{number}/f{round}")), "x").expect("writable");
        }
        settle(&mut share);
        assert_same(dir.path(), &volume);
        assert!(share.lacks_watches(), "round {round}");
    }
}

#[test]
fn a_later_run_takes_over_only_what_has_changed_meanwhile() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
    fs::create_dir(&dir).expect("it is free");
    for number in 0..50 {
        fs::write(dir.join(number.to_string()), number.to_string()).expect("there is room");
    }
    let volume = volume(&state);
    let mut first = share(&dir, &volume, None);
    first.all().expect("the directory is there");
    settle(&mut first);
    let known = first.known();
    drop(first);
    fs::write(dir.join("7"), "other").expect("there is room");
    fs::remove_file(dir.join("8")).expect("it is there");
    let mut second = share(&dir, &volume, Some(&known));
    let round = second.all().expect("the directory is there");
    assert_eq!((round.files, round.taken, round.removed), (49, 1, 1));
    settle(&mut second);
    assert_same(&dir, &volume);
    let mut damaged = share(&dir, &volume, Some(&known[1..]));
    assert_eq!(damaged.all().expect("the directory is there").files, 49);
    assert_same(&dir, &volume);
}

#[test]
fn secrets_and_what_rules_leave_out_are_not_shared() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
    fs::create_dir_all(dir.join("build")).expect("it is free");
    fs::create_dir_all(dir.join(".ssh")).expect("it is free");
    for name in ["build/x", "a.o", "a.c", ".ssh/id_rsa"] {
        fs::write(dir.join(name), name).expect("there is room");
    }
    fs::write(dir.join(".oswalkignore"), "*.o\nbuild/\n").expect("there is room");
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl";
    fs::write(dir.join("notes.txt"), key).expect("there is room");
    let volume = volume(&state);
    let mut share = share(&dir, &volume, None);
    let round = share.all().expect("the directory is there");
    assert_eq!(round.left, [(b"notes.txt".to_vec(), Left::Secret)]);
    settle(&mut share);
    let names = || {
        let list = volume.list(at(&volume, &["team", "src"])).expect("a directory");
        list.into_iter().map(|entry| String::from_utf8(entry.name).expect("UTF-8")).skip(2)
    };
    assert_eq!(names().collect::<Vec<_>>(), [".oswalkignore", "a.c"]);
    fs::remove_file(dir.join(".oswalkignore")).expect("it is there");
    settle(&mut share);
    assert_eq!(names().collect::<Vec<_>>(), ["a.c", "a.o", "build"]);
    fs::write(dir.join(".oswalkignore"), "build/\n").expect("there is room");
    settle(&mut share);
    assert_eq!(names().collect::<Vec<_>>(), [".oswalkignore", "a.c", "a.o"]);
}

#[test]
fn what_others_have_put_there_stays() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
    fs::create_dir_all(dir.join("d")).expect("it is free");
    fs::write(dir.join("d/ours"), "ours").expect("there is room");
    fs::write(dir.join("other"), "other").expect("there is room");
    let volume = volume(&state);
    let mut share = share(&dir, &volume, None);
    share.all().expect("the directory is there");
    let like = crate::volume::Like {
        permissions: worknode::history::Permissions { mode: 0o755, uid: 0, gid: 0 },
        modified: 0,
    };
    let there = at(&volume, &["team", "src", "d"]);
    let theirs = worknode::history::Kind::Symlink(b"theirs".to_vec());
    volume.put_other(there, b"theirs", theirs, like).expect("the name is free");
    fs::remove_dir_all(dir.join("d")).expect("it is there");
    settle(&mut share);
    let names = volume.list(at(&volume, &["team", "src", "d"])).expect("a directory");
    assert_eq!(names.into_iter().map(|it| it.name).skip(2).collect::<Vec<_>>(), [b"theirs"]);
}

#[test]
fn another_or_empty_directory_removes_nothing() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
    let moved = temporary.path().join("moved");
    fs::create_dir(&dir).expect("it is free");
    fs::write(dir.join("a"), "a").expect("there is room");
    let volume = volume(&state);
    let mut first = share(&dir, &volume, None);
    first.all().expect("the directory is there");
    settle(&mut first);
    let mut later = share(&dir, &volume, Some(&first.known()));
    fs::rename(&dir, &moved).expect("it is free");
    fs::create_dir(&dir).expect("it is free");
    fs::write(dir.join("b"), "b").expect("there is room");
    assert!(matches!(first.changed(), Err(ShareError::Other { .. })));
    assert!(matches!(later.all(), Err(ShareError::Other { .. })));
    fs::remove_dir_all(&dir).expect("it is there");
    fs::rename(&moved, &dir).expect("it is free");
    fs::remove_file(dir.join("a")).expect("it is there");
    assert!(matches!(later.all(), Err(ShareError::Empty { .. })));
    at(&volume, &["team", "src", "a"]);
    later.accept_top();
    assert_eq!(later.all().expect("it was accepted").removed, 0);
    at(&volume, &["team", "src", "a"]);
}
