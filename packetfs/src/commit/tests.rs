//! Tests of commits in real directories, and of interrupted commits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::change::{Base, ChangeSet, Meta, Mtime, Op, Placing};
use crate::deep;
use crate::identity::Owner;
use crate::packet::{Manifest, Packed, reference, split};
use crate::path::Bytes;
use crate::tree::{Attr, Time, Version};
use temporary::Temporary;

mod conflicts;
mod interrupted;

struct Ground {
    dir: tempfile::TempDir,
    commit: Commit,
}

impl Ground {
    fn new() -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let owner = Owner { uid, gid, groups: Vec::new() };
        let commit = Commit {
            scope: Scope { set_id: true, ..Scope::default() },
            owner,
            changes: ChangeSet::default(),
            packets: Vec::new(),
            last_wins: false,
            began: Time::of(std::time::SystemTime::now()),
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("tree")).expect("writable");
        Self { dir, commit }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    fn bytes(&self, name: &str) -> TreePath {
        TreePath::new(self.file(name).as_os_str().as_bytes()).expect("a path of the tests")
    }

    fn meta(&self, mode: u32) -> Meta {
        let Owner { uid, gid, .. } = self.commit.owner;
        Meta { mode, uid, gid, mtime: None, xattrs: Vec::new(), without: Vec::new() }
    }

    fn write(&mut self, name: &str, content: &[u8], in_place: bool) {
        self.commit
            .packets
            .extend(split(content).map(|piece| (reference(piece), Packed::pack(piece))));
        let manifest = Manifest::of(content);
        let base = std::fs::symlink_metadata(self.file(name)).ok().filter(|_| in_place);
        let base = base.map(|_| version(&self.file(name)));
        let placing = if in_place { Placing::Over { base } } else { Placing::Fresh };
        let op = Op::File { path: self.bytes(name), meta: self.meta(0o640), manifest, placing };
        self.commit.changes.ops.push(op);
    }

    /// Records the current names of a directory as seen by the walk.
    fn see(&mut self, name: &str) {
        let path = self.bytes(name);
        let list = &mut |dir: &[u8]| {
            let entries = std::fs::read_dir(OsStr::from_bytes(dir)).ok()?;
            let named = |entry: std::io::Result<std::fs::DirEntry>| {
                let entry = entry.ok()?;
                let name = entry.file_name().as_bytes().to_vec();
                Some((name, entry.file_type().ok()?.is_dir()))
            };
            entries.map(named).collect()
        };
        let digest = crate::contents::digest(&path, list).expect("readable");
        self.commit.changes.emptied.push((path, digest));
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// Makes a commit that was interrupted at its very end.
    fn apply_once_more(&self) {
        let journal = Journal::open(&self.journal()).expect("writable");
        journal.write(&self.commit, Temporary::default()).expect("writable");
        journal.note_cleared().expect("writable");
        drop(Committer::open(&self.journal()).expect("usable"));
    }

    fn apply(&self) -> Result<Vec<TreePath>, CommitError> {
        Committer::open(&self.journal())?.commit(&self.commit)
    }
}

fn version(path: &Path) -> Version {
    Attr::of(&nix::sys::stat::lstat(path).expect("the file is there")).version()
}

fn ino(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).expect("the file is there").ino()
}

#[test]
fn files_are_made_replaced_and_written_in_place() {
    let mut ground = Ground::new();
    for name in ["replaced", "kept"] {
        std::fs::write(ground.file(name), b"old").expect("writable");
    }
    let (replaced, kept) = (ino(&ground.file("replaced")), ino(&ground.file("kept")));
    let large = vec![b'x'; 300_000];
    ground.write("new", b"new content", false);
    ground.write("replaced", b"other", false);
    ground.write("kept", &large, true);
    ground.apply().expect("applicable");
    assert_eq!(std::fs::read(ground.file("new")).expect("made"), b"new content");
    assert_eq!(std::fs::read(ground.file("replaced")).expect("there"), b"other");
    assert_eq!(std::fs::read(ground.file("kept")).expect("there"), large);
    assert_ne!(ino(&ground.file("replaced")), replaced);
    assert_eq!(ino(&ground.file("kept")), kept);
    let mode = std::fs::metadata(ground.file("kept")).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    let names = std::fs::read_dir(ground.file(".")).expect("listable").count();
    assert_eq!(names, 3, "no temporary file is left");
}

#[test]
fn directories_links_and_removals() {
    let mut ground = Ground::new();
    std::fs::create_dir_all(ground.file("gone/deep")).expect("writable");
    ground.see("gone");
    std::fs::create_dir_all(ground.file("was/inside")).expect("writable");
    std::fs::write(ground.file("file"), b"1").expect("writable");
    let meta = ground.meta(0o750);
    let time = Time { seconds: 1_000_000_000, nanos: 5 };
    ground.commit.changes.ops.extend([
        Op::Rename { from: ground.bytes("was"), to: ground.bytes("is") },
        Op::Remove { path: ground.bytes("gone") },
        Op::Remove { path: ground.bytes("never/was") },
        Op::Dir {
            path: ground.bytes("dir"),
            meta: Meta { mtime: Some(Mtime::Set(time)), ..meta.clone() },
            replaces: false,
        },
        Op::Symlink {
            path: ground.bytes("dir/link"),
            target: b"../file".to_vec(),
            meta: meta.clone(),
            keeps: false,
        },
        Op::Special { path: ground.bytes("fifo"), kind: crate::tree::Kind::Fifo, rdev: 0, meta },
        Op::Link { path: ground.bytes("second"), to: ground.bytes("file") },
    ]);
    for interrupted in [false, true] {
        if interrupted {
            ground.apply_once_more();
        } else {
            ground.apply().expect("applicable");
        }
        assert!(!ground.file("gone").exists());
        assert!(ground.file("is/inside").is_dir());
        assert_eq!(ino(&ground.file("second")), ino(&ground.file("file")));
        let link = std::fs::read_link(ground.file("dir/link")).expect("a link");
        assert_eq!(link, Path::new("../file"));
        let dir = std::fs::metadata(ground.file("dir")).expect("made");
        assert_eq!((dir.mtime(), dir.mode() & 0o7777), (1_000_000_000, 0o750));
    }
}

#[test]
fn renames_take_effect_simultaneously() {
    const NOW: [&str; 5] = ["a", "b", "d/e", "d/e/inner", "full"];
    let mut ground = Ground::new();
    for dir in ["a", "b", "d", "outer/inner", "outer", "full"] {
        std::fs::create_dir_all(ground.file(dir)).expect("writable");
        std::fs::write(ground.file(dir).join("was"), dir).expect("writable");
    }
    ground.see("full");
    let (path, meta) = (ground.bytes("d"), ground.meta(0o755));
    let pairs =
        [("a", "b"), ("b", "a"), ("d", "d/e"), ("outer", "full"), ("outer/inner", "d/e/inner")];
    let rename = |(from, to)| Op::Rename { from: ground.bytes(from), to: ground.bytes(to) };
    ground.commit.changes.ops = pairs.map(rename).to_vec();
    ground.commit.changes.ops.insert(0, Op::Dir { path, meta, replaces: true });
    let holds = || {
        let was = |name| std::fs::read_to_string(ground.file(name).join("was")).expect("moved");
        assert_eq!(NOW.map(was), ["b", "a", "d", "outer/inner", "outer"]);
        let left = std::fs::read_dir(ground.dir.path().join("tree")).expect("listable").count();
        assert_eq!(left, 4, "nothing is left aside");
    };
    ground.apply().expect("applicable");
    holds();
    ground.apply_once_more();
    holds();
}

#[test]
fn a_failed_commit_restores_what_was_moved_aside() {
    let mut ground = Ground::new();
    std::fs::create_dir_all(ground.file("d/deep")).expect("writable");
    ground.see("d");
    let ops = [
        Op::Dir { path: ground.bytes("d"), meta: ground.meta(0o755), replaces: true },
        Op::Rename { from: ground.bytes("never/was"), to: ground.bytes("x") },
    ];
    ground.commit.changes.ops.extend(ops);
    assert!(matches!(ground.apply(), Err(CommitError::Apply(_))));
    assert!(ground.file("d/deep").is_dir());
}

#[test]
fn symbolic_links_on_the_path_are_not_followed() {
    let mut ground = Ground::new();
    let outside = tempfile::tempdir().expect("a temporary directory");
    symlink(outside.path(), ground.file("dir")).expect("linkable");
    ground.write("dir/file", b"x", false);
    assert!(matches!(ground.apply(), Err(CommitError::Apply(_))));
    assert_eq!(std::fs::read_dir(outside.path()).expect("listable").count(), 0);
}

#[test]
fn a_bad_packet_changes_nothing() {
    let mut ground = Ground::new();
    ground.write("a", b"good", false);
    ground.write("b", b"bad", false);
    ground.commit.packets[1].1.body[0] ^= 1;
    assert!(matches!(ground.apply(), Err(CommitError::Packet(_))));
    assert!(!ground.file("a").exists());
}

/// Commits the changes of three walks that all found the same version of a file.
fn three_walks(
    found: &[u8],
    written: [&[u8]; 3],
) -> (Vec<Result<Vec<TreePath>, CommitError>>, Bytes) {
    let mut ground = Ground::new();
    std::fs::write(ground.file("log"), found).expect("writable");
    let changes = written.map(|content| {
        ground.write("log", content, true);
        ground.commit.changes.ops.pop().expect("just made")
    });
    let committer = Committer::open(&ground.journal()).expect("usable");
    let results = changes.into_iter().map(|change| {
        ground.commit.changes.ops = vec![change];
        committer.commit(&ground.commit)
    });
    let results = results.collect();
    (results, std::fs::read(ground.file("log")).expect("there"))
}

/// Locks a byte of the file in its argument, reports that, and holds the lock until its input ends.
const HOLD: &str = "open my $f, '+<', $ARGV[0] or die; my $lock = pack('s s x![q] q q l x![q]', F_WRLCK, 0, 0, 1, 0); \
    fcntl($f, F_SETLK, $lock) or die; $| = 1; print qq(ok\\n); <STDIN>";

/// Applies a commit of one change whose base no longer holds.
fn contested(
    make: impl Fn(&Ground) -> (Op, Vec<(&'static str, Base)>),
    before: impl Fn(&Ground),
    meanwhile: impl Fn(&Ground),
) {
    for disturbed in [false, true] {
        let mut ground = Ground::new();
        before(&ground);
        let (op, found) = make(&ground);
        let name = format!("{op:?}");
        ground.commit.changes.ops.push(op);
        ground.commit.changes.found =
            found.into_iter().map(|(name, base)| (ground.bytes(name), base)).collect();
        if disturbed {
            meanwhile(&ground);
        }
        match ground.apply() {
            Err(CommitError::Conflict(_)) if disturbed => {}
            Ok(_) if !disturbed => {}
            other => panic!("{name}, {disturbed}: {other:?}"),
        }
    }
}

fn base(path: &Path) -> Base {
    Base::of(&Attr::of(&nix::sys::stat::lstat(path).expect("the file is there")))
}

#[test]
fn attributes_are_set_and_removed() {
    let mut ground = Ground::new();
    std::fs::write(ground.file("file"), b"old").expect("writable");
    let file = std::os::fd::OwnedFd::from(std::fs::File::open(ground.file("file")).expect("there"));
    crate::xattr::set(&file, b"user.gone", b"1").expect("the file system has attributes");
    ground.write("file", b"new", true);
    let Some(Op::File { meta, .. }) = ground.commit.changes.ops.last_mut() else { panic!("added") };
    meta.xattrs = vec![(b"user.new".to_vec(), b"2".to_vec())];
    meta.without = vec![b"user.gone".to_vec(), b"user.never".to_vec()];
    ground.apply().expect("applicable");
    assert_eq!(crate::xattr::get(&file, b"user.gone").expect("readable"), None);
    assert_eq!(crate::xattr::get(&file, b"user.new").expect("readable"), Some(b"2".to_vec()));
}

#[test]
fn holes_are_preserved() {
    let mut ground = Ground::new();
    let blocks = |path: &Path| std::fs::metadata(path).expect("the file is there").blocks();
    std::fs::write(ground.file("filled"), vec![b'x'; 1_000_000]).expect("writable");
    let hole = |at, bytes| crate::packet::Hole { at, bytes };
    for (name, in_place) in [("new", false), ("filled", true)] {
        ground.write(name, b"content", in_place);
        let Some(Op::File { manifest, .. }) = ground.commit.changes.ops.last_mut() else {
            panic!("just added")
        };
        manifest.holes = vec![hole(0, 409_600), hole(409_607, 1 << 40)];
    }
    ground.apply().expect("applicable");
    for name in ["new", "filled"] {
        let file = std::fs::File::open(ground.file(name)).expect("readable");
        assert_eq!(file.metadata().expect("open").len(), 409_607 + (1 << 40));
        let mut read = [1; 9];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 409_599).expect("readable");
        assert_eq!(&read, b"\0content\0", "{name}");
        assert!(blocks(&ground.file(name)) <= 16, "{name}");
    }
}

#[test]
fn write_times_are_relative_to_the_begin_of_the_walk() {
    let mut ground = Ground::new();
    std::fs::create_dir(ground.file("old")).expect("writable");
    let began = Time::of(std::time::SystemTime::now()).before(5_000_000_000);
    ground.commit.began = began;
    for (name, seconds) in [("new", 2), ("old", 2), ("ahead", 9)] {
        let mtime = Some(Mtime::Since(seconds * 1_000_000_000));
        let meta = Meta { mtime, ..ground.meta(0o755) };
        ground.commit.changes.ops.push(Op::Dir { path: ground.bytes(name), meta, replaces: false });
        let path = ground.bytes(&format!("{name}/f"));
        let meta = Meta { mtime, ..ground.meta(0o644) };
        let (manifest, placing) = (Manifest::default(), Placing::Fresh);
        ground.commit.changes.ops.push(Op::File { path, meta, manifest, placing });
    }
    let committer = Committer::open(&ground.journal()).expect("writable");
    let before = Time::of(std::time::SystemTime::now());
    committer.commit(&ground.commit).expect("applied");
    let mtime =
        |name: &str| Attr::of(&nix::sys::stat::lstat(&ground.file(name)).expect("made")).mtime;
    let expected = began.after(2_000_000_000);
    assert_eq!(["new", "new/f", "old/f"].map(mtime), [expected; 3]);
    // Others may have created something in it meanwhile.
    assert!(mtime("old") > expected);
    let after = Time::of(std::time::SystemTime::now());
    assert!((before..=after).contains(&mtime("ahead/f")), "nothing is written in the future");
}

#[test]
fn special_files_are_created_with_their_mode() {
    let mut ground = Ground::new();
    for (name, mode) in [("a", 0o604), ("b", 0o1666), ("c", 0o200)] {
        let (path, kind) = (ground.bytes(name), crate::tree::Kind::Fifo);
        ground.commit.changes.ops.push(Op::Special {
            path,
            kind,
            rdev: 0,
            meta: ground.meta(mode),
        });
    }
    ground.apply().expect("applicable");
    let mode = |name: &str| {
        let metadata = std::fs::symlink_metadata(ground.file(name)).expect("made");
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!(["a", "b", "c"].map(mode), [0o604, 0o1666, 0o200]);
}

/// Others control the depth of trees, so no traversal may need stack in proportion to it.
#[test]
fn trees_of_any_depth_are_removed() {
    let mut ground = Ground::new();
    deep::make(&ground.file("gone"), deep::LEVELS);
    std::fs::write(ground.file("gone/d/file"), b"x").expect("writable");
    std::fs::create_dir_all(ground.file("gone/d/e/f")).expect("writable");
    ground.commit.last_wins = true;
    ground.commit.changes.ops.push(Op::Remove { path: ground.bytes("gone") });
    deep::on_a_small_stack(|| ground.apply().expect("applicable"));
    assert!(!ground.file("gone").exists());

    deep::make(&ground.file("other"), deep::LEVELS);
    let (other, never) = (ground.bytes("other"), Time { seconds: i64::MAX, nanos: 0 });
    let is_newer = deep::on_a_small_stack(|| apply::has_newer_files(&other, never));
    assert!(is_newer, "what no walk can have seen is somebody else's");
    deep::clear(&ground.file("other"));
}

/// `touch -h` changes a symbolic link under all its names, and leaves its directory alone.
#[test]
fn a_symbolic_link_keeps_its_inode_and_its_directory_its_time() {
    let attr = |path: &Path| Attr::of(&nix::sys::stat::lstat(path).expect("it is there"));
    let time = Time { seconds: 1_000_000_000, nanos: 5 };
    for (target, keeps, stays) in [("x", true, true), ("y", true, false), ("x", false, false)] {
        let mut ground = Ground::new();
        let (dir, link, other) = (ground.file("d"), ground.file("d/l"), ground.file("d/m"));
        std::fs::create_dir(&dir).expect("writable");
        symlink("x", &link).expect("writable");
        std::fs::hard_link(&link, &other).expect("writable");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::open(&dir).and_then(|dir| dir.set_modified(old)).expect("ours");
        let meta = Meta { mtime: Some(Mtime::Set(time)), ..ground.meta(0o777) };
        let (path, target) = (ground.bytes("d/l"), target.as_bytes().to_vec());
        ground.commit.changes.ops = vec![Op::Symlink { path, target, meta, keeps }];
        ground.apply().expect("applicable");
        assert_eq!(attr(&link).mtime, time);
        assert_eq!(attr(&link).ino == attr(&other).ino, stays);
        assert_eq!(attr(&dir).mtime == Time::of(old), stays);
    }
}

#[test]
fn too_long_paths_are_refused_before_the_first_change() {
    let mut ground = Ground::new();
    ground.write("first", b"1", false);
    let long = [&ground.bytes("d")[..], &b"/d".repeat(2100)].concat();
    let (path, meta) = (TreePath::new(long).expect("sound"), ground.meta(0o755));
    ground.commit.changes.ops.push(Op::Dir { path, meta, replaces: false });
    assert!(matches!(ground.apply(), Err(CommitError::Refused(_))));
    assert!(!ground.file("first").exists());
}
