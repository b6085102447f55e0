//! What others do in the directory of a share while it is written.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use worknode::history::Permissions;

use super::super::known::Stamp;
use super::super::source::Source;
use super::super::target::{Failed, NEW, settle, swap};

const PERMISSIONS: Permissions = Permissions { mode: 0o755, uid: 1000, gid: 1000 };
const SOMEBODY: u32 = 2000;

fn stamp(source: &Source, dir: &[u8], name: &str) -> Stamp {
    let (_, items) = source.list(dir, &AtomicBool::new(false)).expect("a directory");
    items.into_iter().find(|item| item.name == name.as_bytes()).expect("it is there").stamp
}

fn rights(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).expect("it is there");
    (meta.mode() & 0o7777, meta.uid())
}

fn of_somebody(path: &Path) {
    fs::create_dir(path).expect("it is free");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("ours");
    // Without the right to give it away, it is another one only.
    let _ = chown(path, Some(SOMEBODY), Some(SOMEBODY));
}

#[test]
fn a_directory_that_takes_the_place_of_a_new_one_is_left_alone() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("ours");
    let source = Source::new(dir, None);
    let at = source.open_at(b"", OFlags::DIRECTORY).expect("it is there");
    let stage = [NEW, b"1"].concat();
    let path = dir.join(String::from_utf8(stage.clone()).expect("ASCII"));
    // Somebody else's has come into the place of the hidden one.
    of_somebody(&path);
    let before = rights(&path);
    if before.1 == 0 {
        return;
    }
    source.make_in(&at, &stage, b"made", PERMISSIONS).expect("the name is free");
    assert_eq!(rights(&path), before);
    assert_eq!(rights(&dir.join("made")).1, 0, "it was given to nobody");
    assert_eq!(fs::read_dir(&path).expect("it is there").count(), 0);
    // One of the same user that others may write.
    fs::remove_dir(&path).expect("it is empty");
    fs::create_dir(&path).expect("it is free");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("ours");
    source.make_in(&at, &stage, b"also made", PERMISSIONS).expect("the name is free");
    assert_eq!(rights(&path), (0o777, 0));
    // A link leads nowhere.
    fs::remove_dir(&path).expect("it is empty");
    of_somebody(&dir.join("elsewhere"));
    std::os::unix::fs::symlink("elsewhere", &path).expect("it is free");
    source.make_in(&at, &stage, b"not made", PERMISSIONS).expect_err("a link is no directory");
    assert_eq!(rights(&dir.join("elsewhere")), before);
    assert_eq!(fs::read_dir(dir.join("elsewhere")).expect("it is there").count(), 0);
}

#[test]
fn whoever_exchanges_new_directories_is_given_nothing() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, is_done) = (temporary.path().join("dir"), AtomicBool::new(false));
    fs::create_dir(&dir).expect("it is free");
    let source = Source::new(&dir, None);
    let [somebodys, away] = ["somebody's", "away"].map(|name| temporary.path().join(name));
    of_somebody(&somebodys);
    fs::write(somebodys.join("f"), "f").expect("there is room");
    let before = rights(&somebodys);
    let exchange = |path: &Path| {
        if fs::rename(path, &away).is_ok() {
            let is_there = fs::rename(&somebodys, path).is_ok();
            let _ = fs::remove_dir_all(&away);
            if is_there {
                fs::rename(path, &somebodys).expect("it is not empty");
            }
        }
    };
    std::thread::scope(|scope| {
        // Somebody puts theirs in the place of each new directory that they see, or know the name of.
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                (0..100).for_each(|_| exchange(&dir.join("made")));
                let all = fs::read_dir(&dir).expect("a directory").flatten();
                all.for_each(|entry| exchange(&entry.path()));
            }
        });
        for _ in 0..3000 {
            // It may fail.
            let _ = source.make_dir((b"", b"made"), PERMISSIONS);
            let _ = fs::remove_dir(dir.join("made"));
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!(rights(&somebodys), before);
}

#[test]
fn a_directory_that_is_another_one_keeps_its_rights() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path();
    let source = Source::new(dir, None);
    fs::create_dir_all(dir.join("d/e")).expect("it is free");
    let (known, known_below) = (stamp(&source, b"", "d"), stamp(&source, b"d", "e"));
    fs::rename(dir.join("d"), dir.join("moved")).expect("it is free");
    of_somebody(&dir.join("d"));
    of_somebody(&dir.join("d/e"));
    let before = rights(&dir.join("d"));
    for (path, known) in [(&b"d"[..], &known), (b"d/e", &known_below)] {
        let set = source.set_dir(path, PERMISSIONS, known);
        assert!(matches!(set, Err(Failed::Changed)), "{set:?}");
    }
    let removed = source.remove_dir((b"d", b"e"), &known_below);
    assert!(matches!(removed, Err(Failed::Changed)), "{removed:?}");
    assert_eq!((rights(&dir.join("d")), rights(&dir.join("d/e"))), (before, before));
    // A mode that a program has set meanwhile is taken over first.
    let known = stamp(&source, b"", "moved");
    fs::set_permissions(dir.join("moved"), fs::Permissions::from_mode(0o711)).expect("ours");
    let set = source.set_dir(b"moved", PERMISSIONS, &known);
    assert!(matches!(set, Err(Failed::Changed)), "{set:?}");
    let known = stamp(&source, b"", "moved");
    source.set_dir(b"moved", PERMISSIONS, &known).expect("it is the same one");
    assert_eq!(rights(&dir.join("moved")).0, 0o755);
}

#[test]
fn what_a_crash_has_left_of_a_directory_is_removed_and_a_programs_is_kept() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path();
    let source = Source::new(dir, None);
    for path in ["new-1", "new-2/.oswalk-share-dir", "old-1", "old-2/a program's", "new-3/x"] {
        fs::create_dir_all(dir.join(format!(".oswalk-share-{path}"))).expect("it is free");
    }
    for name in ["new-1", "new-2", "old-1", "old-2", "new-3"] {
        let name = format!(".oswalk-share-{name}");
        source.clear_dir((b"", name.as_bytes())).expect("it is there");
    }
    assert!(dir.join("saved.conflict-1/a program's").exists());
    assert!(dir.join("saved.conflict-2/x").exists());
    assert_eq!(fs::read_dir(dir).expect("it is there").count(), 2);
}

/// Plays an exchange of `f` in which programs do something before and after. Returns all files.
fn exchange(
    before: impl FnOnce(&Path),
    after: impl FnOnce(&Path),
) -> (Result<(), Failed>, Vec<(String, String)>) {
    const TEMP: &str = ".oswalk-share-old-1";
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, source) = (temporary.path(), Source::new(temporary.path(), None));
    fs::write(dir.join("f"), "former").expect("there is room");
    fs::write(dir.join(TEMP), "ours").expect("there is room");
    let (former, own) = (stamp(&source, b"", "f"), stamp(&source, b"", TEMP));
    before(&dir.join("f"));
    let at = source.open_at(b"", OFlags::DIRECTORY).expect("it is there");
    swap(&at, TEMP.as_bytes(), b"f").expect("both are there");
    after(&dir.join("f"));
    let settled = settle(&at, TEMP.as_bytes(), b"f", &former, &own);
    let each = fs::read_dir(dir).expect("a directory").map(|entry| {
        let entry = entry.expect("an entry");
        let content = fs::read_to_string(entry.path()).expect("text");
        (entry.file_name().into_string().expect("UTF-8"), content)
    });
    let mut files: Vec<_> = each.collect();
    files.sort();
    (settled, files)
}

fn files(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|&(name, content)| (name.to_owned(), content.to_owned())).collect()
}

#[test]
fn what_programs_write_during_an_exchange_is_kept() {
    let put = |content: &'static str| move |path: &Path| fs::write(path, content).expect("room");
    let save = |content: &'static str| {
        move |path: &Path| {
            let temp = path.with_extension("~");
            fs::write(&temp, content).expect("there is room");
            fs::rename(&temp, path).expect("it is there");
        }
    };
    let (done, all) = exchange(|_| (), |_| ());
    assert!(done.is_ok());
    assert_eq!(all, files(&[("f", "ours")]));
    // A program was faster, and nobody has used what was there in between.
    let (done, all) = exchange(put("program"), |_| ());
    assert!(matches!(done, Err(Failed::Changed)));
    assert_eq!(all, files(&[("f", "program")]));
    // Another one has replaced that, or written into it, or removed it.
    let expected = files(&[("f", "later"), ("f.conflict-1", "program")]);
    assert_eq!(exchange(put("program"), save("later")).1, expected);
    assert_eq!(exchange(save("program"), put("later")).1, expected);
    let removed = exchange(put("program"), |path| fs::remove_file(path).expect("it is there"));
    assert_eq!(removed.1, files(&[("f.conflict-1", "program")]));
    // It has it open, and writes later.
    let mut writer = None;
    let open = |path: &Path| writer = fs::File::options().append(true).open(path).ok();
    let (_, all) = exchange(put("program"), open);
    assert_eq!(all, files(&[("f", "ours"), ("f.conflict-1", "program")]));
    // The former file is open.
    let mut former = None;
    let open = |path: &Path| former = fs::File::options().append(true).open(path).ok();
    let (done, all) = exchange(open, put("later"));
    assert!(matches!(done, Err(Failed::Open)));
    assert_eq!(all, files(&[("f", "later"), ("f.conflict-1", "former")]));
}
