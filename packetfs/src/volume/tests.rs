//! Looking back, without a mount: versions, moments, restoring.

mod below;
mod bounds;
mod conflicts;
mod dice;
mod exchange;
mod locks;
mod model;
mod picture;
mod private;
mod several;
mod watched;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use worknode::history::{Attrs, Author, Hlc, Kind};

use super::changes::{ms, now};
use super::node::ROOT;
use super::{Caller, Garbage, Make, Options, Policy, Shown, Stale, Version, Volume};
use picture::Picture;

const SUPERUSER: Caller = Caller { uid: 0, gid: 0 };

fn open(dir: &Path) -> Arc<Volume> {
    let options = Options { author: Author([1; 16]), signer: None, may_pass: false, boot: None };
    let volume = Volume::open(dir, &options).expect("a volume");
    // Every attribute counts, however short it lasted.
    volume.shared.lock().tree.brief_ms = 0;
    Arc::new(volume)
}

/// Returns a moment after the last event, once it is over.
fn moment(volume: &Volume) -> Hlc {
    volume.shared.catch_up_all().expect("the disk has room");
    let moment = volume.shared.lock().tree.state.hlc.max(Hlc::at_ms(ms(now())));
    while moment.ms() >= ms(now()) {
        std::thread::yield_now();
    }
    moment
}

fn write(volume: &Volume, dir: u64, name: &[u8], content: &[u8]) -> u64 {
    let (ino, handle) = match volume.lookup(dir, name) {
        Ok(found) => {
            volume.forget(found.attr.ino, 1);
            let flags = libc::O_WRONLY | libc::O_TRUNC;
            (
                found.attr.ino,
                volume.open_file(found.attr.ino, flags, SUPERUSER).expect("a file").handle,
            )
        }
        Err(_) => {
            let made = volume.create((dir, name), (0o644, 0), libc::O_WRONLY, SUPERUSER);
            let (found, opened) = made.expect("the name is free");
            volume.forget(found.attr.ino, 1);
            (found.attr.ino, opened.handle)
        }
    };
    volume.write(ino, 0, content, false).expect("the disk has room");
    volume.close_file(handle);
    volume.shared.catch_up(ino).expect("the disk has room");
    ino
}

fn mkdir(volume: &Volume, dir: u64, name: &[u8]) -> u64 {
    let made = volume.make(dir, name, Make { kind: Kind::Dir, mode: 0o755, umask: 0 }, SUPERUSER);
    let ino = made.expect("the name is free").attr.ino;
    volume.forget(ino, 1);
    ino
}

fn content(volume: &Volume, path: &[u8], version: &str) -> Vec<u8> {
    let mut content = Vec::new();
    let mut reader = volume.open_version(path, version).expect("the version is there");
    reader.read_to_end(&mut content).expect("the packets are there");
    content
}

#[test]
fn a_file_has_all_its_versions_under_its_path() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let below = mkdir(&volume, ROOT, b"d");
    write(&volume, below, b"f", b"one");
    write(&volume, below, b"f", b"two");
    // As editors save.
    write(&volume, below, b"f.new", b"three");
    volume
        .rename((below, b"f.new"), (below, b"f"), super::Moving::Replace)
        .expect("both are there");
    let contents = |path: &[u8]| -> Vec<Vec<u8>> {
        let versions = volume.versions(path).expect("the path is known");
        versions.iter().map(|version| content(&volume, path, &version.name)).collect()
    };
    assert_eq!(contents(b"d/f"), [b"one".as_slice(), b"two", b"three"]);
    let versions = volume.versions(b"d/f").expect("the path is known");
    let present: Vec<_> = versions.iter().map(|version| version.is_present).collect();
    assert_eq!(present, [false, false, true]);
    volume.choose(b"d/f", &versions[0].name).expect("the version is there");
    assert_eq!(contents(b"/d//f"), [b"one".as_slice(), b"two", b"three", b"one"]);
    assert!(volume.versions(b"d/f").expect("the path is known")[3].is_chosen);
    volume.remove(below, b"f", false).expect("the name is there");
    volume.remove(ROOT, b"d", true).expect("the directory is empty");
    assert_eq!(contents(b"d/f").len(), 4, "a removed file has versions");
    assert_eq!(volume.choose(b"d/f", &versions[0].name), Err(Errno::ENOENT));
    assert_eq!(volume.versions(b"d/g").map(|_| ()), Err(Errno::ENOENT));
}

#[test]
fn tables_that_lack_an_event_get_it_from_the_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    write(&volume, ROOT, b"f", b"one");
    volume.shared.settle().expect("the disk has room");
    let kept = write(&volume, ROOT, b"g", b"two");
    {
        let mut state = volume.shared.lock();
        state.tree.tables.remove_plain(super::key::node(kept));
        state.is_broken = true;
    }
    volume.shared.heal().expect("the log is there");
    for (name, content) in [(b"f", b"one"), (b"g", b"two")] {
        let ino = volume.lookup(ROOT, name).expect("the log has it").attr.ino;
        assert_eq!(volume.read(ino, 0, 9).expect("the packets are there"), content);
    }
    let new = write(&volume, ROOT, b"h", b"three");
    assert_eq!(volume.read(new, 0, 9).expect("it was written"), b"three");
}

#[test]
fn programs_that_have_a_file_open_see_the_chosen_content() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let stale = volume.stale();
    let ino = write(&volume, ROOT, b"f", b"first");
    write(&volume, ROOT, b"f", b"another content");
    let first = volume.versions(b"f").expect("the path is known")[0].name.clone();
    let handle = volume.open_file(ino, libc::O_RDWR, SUPERUSER).expect("a file").handle;
    volume.write(ino, 0, b"UNSAVED", false).expect("the disk has room");
    volume.choose(b"f", &first).expect("the version is there");
    assert_eq!(volume.read(ino, 0, 100).as_deref(), Ok(b"first".as_slice()));
    volume.write(ino, 5, b"!", false).expect("the disk has room");
    volume.close_file(handle);
    let versions = volume.versions(b"f").expect("the path is known");
    let contents: Vec<_> = versions.iter().map(|it| content(&volume, b"f", &it.name)).collect();
    let expected =
        [b"first".as_slice(), b"another content", b"UNSAVED content", b"first", b"first!"];
    assert_eq!(contents, expected);
    assert!(matches!(stale.try_recv().map(|told| told.stale), Ok(Stale::File(it)) if it == ino));
}

#[test]
fn a_user_reads_no_version_that_was_or_is_private() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let ino = write(&volume, ROOT, b"f", b"secret");
    let mode = |mode| {
        let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
        volume.set_attr(ino, attrs, None, SUPERUSER).expect("the file is there");
    };
    mode(0o600);
    write(&volume, ROOT, b"f", b"private");
    write(&volume, ROOT, b"f", b"public");
    mode(0o644);
    let versions = volume.versions(b"f").expect("the path is known");
    let user = Caller { uid: 1000, gid: 1000 };
    let may = |user| -> Vec<_> {
        let may = |it: &super::Version| volume.may_read_version(b"f", &it.name, user);
        versions.iter().map(|it| may(it).expect("the version is there")).collect()
    };
    assert_eq!(may(user), [true, false, false], "the third was public later than it was written");
    assert_eq!(may(SUPERUSER), [true; 3]);
    mode(0o640);
    assert_eq!(may(user), [false; 3]);
    let shown = Shown::live(Arc::clone(&volume));
    let top = shown.lookup(ROOT, b".oswalk", 0).expect("it is there").attr.ino;
    let at = shown.lookup(top, b"versions", 0).expect("it is there").attr.ino;
    let file = shown.lookup(at, b"f", 0).expect("the path is known").attr.ino;
    let version = shown.lookup(file, versions[1].name.as_bytes(), 0).expect("it is there");
    assert_eq!(version.attr.mode & 0o077, 0);
    for (name, errno) in [(b"nothing".as_slice(), Errno::ENOENT), (b"", Errno::ENOENT)] {
        assert_eq!(shown.lookup(file, name, 0).map(|_| ()), Err(errno));
    }
    assert_eq!(shown.remove(ROOT, b".oswalk", true, SUPERUSER), Err(Errno::EROFS));
    assert_eq!(
        shown.open_file(version.attr.ino, libc::O_RDWR, SUPERUSER).map(|_| ()),
        Err(Errno::EROFS)
    );
}

#[test]
fn a_removed_tree_is_restored_with_links_and_attributes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let top = mkdir(&volume, ROOT, b"top");
    let below = mkdir(&volume, top, b"below");
    let ino = write(&volume, below, b"f", b"content");
    volume.link(ino, top, b"link").expect("the name is free");
    volume.set_xattr(ino, b"user.a", Some(b"1"), 0, SUPERUSER).expect("the file is there");
    write(&volume, top, b"moved", b"moved");
    let then = moment(&volume);
    let before = Picture::of_live(&volume);
    volume
        .rename((top, b"moved"), (ROOT, b"outside"), super::Moving::Replace)
        .expect("it is there");
    volume
        .rename((top, b"below"), (ROOT, b"elsewhere"), super::Moving::Replace)
        .expect("it is there");
    write(&volume, below, b"f", b"other");
    let middle = moment(&volume);
    volume.remove(top, b"link", false).expect("the name is there");
    volume.remove(ROOT, b"top", true).expect("the directory is empty");
    assert_eq!(volume.restore(b"no", then), Err(Errno::ENOENT));
    let part = volume.restore(b"top/below/f", then).expect("it was there");
    assert_eq!((part.placed, part.removed), (3, 0));
    volume.restore(b"top", then).expect("it was there");
    let mut after = Picture::of_live(&volume);
    assert_eq!(
        after.remove(b"elsewhere/f").as_deref(),
        Some(b"other".as_slice()),
        "what is outside stays"
    );
    assert_eq!(after.remove(b"outside").as_deref(), Some(b"moved".as_slice()));
    after.remove(b"elsewhere");
    assert_eq!(after.without_dir(b""), before.without_dir(b""));
    volume.restore(b"", middle).expect("the root was there");
    volume.restore(b"/", then).expect("the root was there");
    assert_eq!(Picture::of_live(&volume), before);
    drop(volume);
    assert_eq!(Picture::of_live(&open(dir.path())), before, "also after another start");
}

#[test]
fn garbage_goes_and_what_is_needed_stays() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let none = Policy { all: Duration::ZERO, hourly: Duration::ZERO, daily: Duration::ZERO };
    let noise = |seed: u64| -> Vec<u8> {
        let mut dice = dice::Dice(seed);
        (0..400_000).map(|_| u8::try_from(dice.below(256)).unwrap_or(0)).collect()
    };
    for seed in 0..10 {
        write(&volume, ROOT, b"f", &noise(seed));
    }
    let pinned = write(&volume, ROOT, b"pinned", &noise(20));
    write(&volume, ROOT, b"pinned", &noise(21));
    volume.pin(b"pinned", true).expect("the file is there");
    let read = volume.versions(b"f").expect("the path is known")[1].name.clone();
    let mut reader = volume.open_version(b"f", &read).expect("the version is there");
    assert_eq!(volume.gc(&Policy::default()).expect("the disk works"), Garbage::default());
    let then = moment(&volume);
    let before = volume.stat(&none).expect("the disk works");
    assert_eq!((before.files, before.bytes, before.packs, before.unpacked), (2, 800_000, 1, 0));
    assert_eq!((before.directories, before.pinned_files, before.pinned_bytes), (1, 1, 400_000));
    let garbage = volume.gc(&none).expect("the disk works");
    assert_eq!((garbage.packets, garbage.bytes), (before.garbage.packets, before.garbage.bytes));
    assert!(garbage.values >= 9 && garbage.bytes > 3_000_000, "{garbage:?}");
    assert_eq!(volume.versions(b"f").expect("the path is known").len(), 1);
    assert_eq!(volume.versions(b"pinned").expect("the path is known").len(), 2);
    assert_eq!(volume.read(pinned, 0, 400_000), Ok(noise(21)));
    let former = volume.versions(b"pinned").expect("the path is known")[0].name.clone();
    assert_eq!(content(&volume, b"pinned", &former), noise(20));
    let mut content = Vec::new();
    reader.read_to_end(&mut content).expect("what is being read is kept");
    assert_eq!(content, noise(1));
    drop(reader);
    assert_eq!(
        Shown::at(Arc::clone(&volume), then).map(|_| ()),
        Err(Errno::ENOENT),
        "too long ago"
    );
    volume.gc(&none).expect("the disk works");
    drop(volume);
    let volume = open(dir.path());
    assert_eq!(volume.read(pinned, 0, 400_000), Ok(noise(21)));
    assert_eq!(volume.stat(&none).expect("the disk works").former, before.former - garbage.values);
}

#[test]
fn what_was_done_is_told_in_words() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let below = mkdir(&volume, ROOT, b"d");
    let ino = write(&volume, below, b"f", b"content");
    let attrs = Attrs { mode: Some(0o600), gid: Some(7), ..Attrs::default() };
    volume.set_attr(ino, attrs, None, SUPERUSER).expect("the file is there");
    volume.set_xattr(ino, b"user.a", Some(b"1"), 0, SUPERUSER).expect("the file is there");
    volume.rename((ROOT, b"d"), (ROOT, b"e"), super::Moving::Replace).expect("it is there");
    volume.rename((below, b"f"), (ROOT, b"g"), super::Moving::Replace).expect("it is there");
    volume.remove(ROOT, b"e", true).expect("it is empty");
    mkdir(&volume, ROOT, b"x");
    let told = |path: &[u8], limit| -> Vec<String> {
        let records = volume.log(path, limit).expect("the log works");
        let line = |record: &super::Record| {
            format!("{} {}", String::from_utf8_lossy(&record.path), record.what)
        };
        records.iter().map(line).collect()
    };
    let of_file = [
        "/e/f moved to /g",
        "/d/f set attribute user.a",
        "/d/f set mode 0600, group 7",
        "/d/f wrote 7 bytes",
    ];
    assert_eq!(told(b"g", 10), of_file);
    assert_eq!(
        told(b"d/f", 10)[..4],
        [
            "/d/f set attribute user.a",
            "/d/f set mode 0600, group 7",
            "/d/f wrote 7 bytes",
            "/d/f made a file"
        ]
    );
    assert_eq!(told(b"d", 1), ["/d moved to /e"]);
    let all = told(b"", 100);
    assert_eq!((&*all[0], &*all[1], all.len()), ("/x made a directory", "/e removed", 9));
    assert_eq!(told(b"/", 2), all[..2]);
}

/// Times of a large tree, for `--release`: restoring it is to take a second at most.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "a measurement is read")]
fn a_large_tree_is_restored_at_once() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let volume = open(dir.path());
    volume.shared.lock().tree.brief_ms = 1000;
    for at in 0..100_u32 {
        let below = mkdir(&volume, ROOT, at.to_string().as_bytes());
        for at in 0..100_u32 {
            write(&volume, below, at.to_string().as_bytes(), &at.to_le_bytes().repeat(500));
        }
    }
    let then = moment(&volume);
    let whole = Picture::of_live(&volume);
    for at in 0..100_u32 {
        let below = volume.lookup(ROOT, at.to_string().as_bytes()).expect("it is there").attr.ino;
        for at in 0..100_u32 {
            let name = at.to_string();
            match at % 2 {
                0 => drop(write(&volume, below, name.as_bytes(), b"other")),
                _ => volume.remove(below, name.as_bytes(), false).expect("it is there"),
            }
        }
    }
    moment(&volume);
    let start = std::time::Instant::now();
    let restored = volume.restore(b"/", then).expect("the root was there");
    println!("restored {restored:?} in {:?}", start.elapsed());
    assert_eq!(Picture::of_live(&volume).differs(&whole), None);
    for at in 0..100_u32 {
        let below = volume.lookup(ROOT, at.to_string().as_bytes()).expect("it is there").attr.ino;
        for at in 0..100_u32 {
            volume.remove(below, at.to_string().as_bytes(), false).expect("it is there");
        }
        volume.remove(ROOT, at.to_string().as_bytes(), true).expect("it is empty");
    }
    let start = std::time::Instant::now();
    let restored = volume.restore(b"/", then).expect("the root was there");
    println!("restored {restored:?} in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let garbage = volume.gc(&Policy::default()).expect("the disk works");
    println!("collected {garbage:?} in {:?}", start.elapsed());
    println!("{:?}", volume.stat(&Policy::default()));
}

#[test]
fn a_chosen_content_has_no_privileges_of_the_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let ino = write(&volume, ROOT, b"f", b"one");
    write(&volume, ROOT, b"f", b"two");
    let privileged = Attrs { mode: Some(0o6775), ..Attrs::default() };
    volume.set_attr(ino, privileged, None, SUPERUSER).expect("it is there");
    let first = volume.versions(b"f").expect("it has versions").remove(0).name;
    volume.choose(b"f", &first).expect("it is there");
    assert_eq!(volume.read(ino, 0, 10).as_deref(), Ok(&b"one"[..]));
    assert_eq!(volume.attr(ino).expect("it is there").attr.mode, 0o775);
}

#[test]
fn no_digest_is_made_of_a_huge_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path());
    let ino = write(&volume, ROOT, b"f", b"one");
    let shown = Shown::live(Arc::clone(&volume));
    assert!(shown.xattr(ino, b"user.oswalk.digest").is_ok());
    volume.set_attr(ino, Attrs::default(), Some(2 << 40), SUPERUSER).expect("holes take no room");
    assert_eq!(shown.xattr(ino, b"user.oswalk.digest"), Err(Errno::EFBIG));
}
