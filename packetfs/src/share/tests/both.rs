//! Shares that also write their directory.

use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use worknode::history::{Attrs, Kind, Permissions};

use super::super::target::is_hidden;
use super::super::{Left, ShareError};
use super::nodes::Nodes;
use super::{Picture, Round, assert_same, at, outside};
use crate::volume::{Caller, Like, Ordinary};

const SUPERUSER: Caller = Caller { uid: 0, gid: 0 };

fn put(path: &Path, content: &str) {
    fs::write(path, content).expect("there is room");
}

fn get(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the contents of all conflicts below the shared name.
fn conflicts(nodes: &Nodes, number: usize) -> Vec<String> {
    let volume = &nodes.nodes[number].volume;
    let mut contents = Vec::new();
    for it in volume.conflicts(b"team/src").expect("it is there") {
        for version in it.versions {
            let mut reader = volume.open_version(&it.path, &version.name).expect("it is there");
            let mut content = String::new();
            std::io::Read::read_to_string(&mut reader, &mut content).expect("text");
            contents.push(content);
        }
    }
    contents
}

fn assert_equal(nodes: &Nodes) {
    let picture = |dir: &Path| {
        let mut picture = Picture::new();
        outside(dir, dir, &mut picture);
        picture
    };
    let first = picture(nodes.dir(0));
    assert!(!first.keys().any(|name| name.split('/').any(|name| is_hidden(name.as_bytes()))));
    for node in &nodes.nodes {
        assert_eq!(picture(&node.dir), first);
        assert_same(&node.dir, &node.volume);
    }
}

#[test]
fn two_directories_are_kept_the_same() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    fs::create_dir_all(one.join("a/b/c")).expect("it is free");
    put(&one.join("a/b/c/deep"), "deep");
    put(&one.join("large"), &"large ".repeat(100_000));
    symlink("a/b", one.join("link")).expect("it is free");
    nodes.settle();
    assert_equal(&nodes);
    put(&two.join("a/b/c/deep"), "deeper");
    put(&two.join("a/new"), "new");
    fs::set_permissions(two.join("large"), fs::Permissions::from_mode(0o750)).expect("ours");
    fs::rename(two.join("a/b"), two.join("moved")).expect("it is free");
    nodes.settle();
    assert_equal(&nodes);
    // As editors save.
    put(&one.join("new~"), "other");
    fs::rename(one.join("new~"), one.join("a/new")).expect("it is there");
    fs::remove_file(one.join("link")).expect("it is there");
    symlink("elsewhere", one.join("link")).expect("it is free");
    fs::remove_dir_all(one.join("moved")).expect("it is there");
    put(&one.join("moved"), "a file now");
    nodes.settle();
    assert_equal(&nodes);
    fs::remove_file(two.join("moved")).expect("it is there");
    fs::create_dir(two.join("moved")).expect("it is free");
    put(&two.join("moved/x"), "x");
    fs::remove_dir_all(two.join("a")).expect("it is there");
    nodes.settle();
    assert_equal(&nodes);
    let before = nodes.events();
    for _ in 0..5 {
        nodes.meet();
        for number in [0, 1] {
            let round = nodes.changed(number).expect("the share works");
            assert_eq!((round.taken, round.removed, round.written), (0, 0, 0));
        }
    }
    assert_eq!(nodes.events(), before, "nothing echoes");
    assert!(conflicts(&nodes, 0).is_empty());
}

#[test]
fn what_programs_do_in_the_volume_is_written() {
    let mut nodes = Nodes::sharing(1);
    let dir = nodes.dir(0).to_owned();
    put(&dir.join("f"), "f");
    nodes.settle();
    let volume = nodes.nodes[0].volume.clone();
    let top = at(&volume, &["team", "src"]);
    let made = volume.create((top, b"g"), (0o640, 0), libc::O_WRONLY, SUPERUSER);
    let (found, opened) = made.expect("the name is free");
    volume.write(found.attr.ino, 0, b"by a program", false).expect("there is room");
    volume.close_file(opened.handle);
    volume.versions(b"team/src/g").expect("it is there");
    volume.rename((top, b"f"), (top, b"h"), crate::volume::Moving::New).expect("it is free");
    nodes.settle();
    assert_eq!((get(&dir.join("g")), get(&dir.join("h"))), ("by a program".into(), "f".into()));
    assert!(!dir.join("f").exists());
    assert_same(&dir, &volume);
    volume.remove(top, b"h", false).expect("it is there");
    nodes.settle();
    assert!(!dir.join("h").exists());
}

#[test]
fn both_contents_of_a_conflict_are_kept() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    for name in ["f", "removed", "removed too"] {
        put(&one.join(name), "both");
    }
    nodes.settle();
    put(&one.join("f"), "of one");
    put(&two.join("f"), "of two");
    // A change beats a removal, whoever is first.
    put(&one.join("removed"), "changed");
    fs::remove_file(two.join("removed")).expect("it is there");
    fs::remove_file(one.join("removed too")).expect("it is there");
    put(&two.join("removed too"), "changed");
    nodes.settle();
    assert_equal(&nodes);
    let present = get(&one.join("f"));
    let lost = if present == "of one" { "of two" } else { "of one" };
    assert_eq!(conflicts(&nodes, 0), [lost]);
    assert_eq!(get(&two.join("removed")), "changed");
    assert_eq!(get(&one.join("removed too")), "changed");

    // The disk has changed, and the share hears of the volume's change only then.
    nodes.changed(0).expect("the share works");
    put(&one.join("f"), "once more");
    let volume = nodes.nodes[0].volume.clone();
    let conflict = volume.conflicts(b"team/src/f").expect("it is there").remove(0);
    volume.choose(&conflict.path, &conflict.versions[0].name).expect("it is there");
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(get(&two.join("f")), "once more");
    assert_eq!(conflicts(&nodes, 1), [lost], "what was chosen meanwhile has not seen it");
    let conflict = volume.conflicts(b"team/src/f").expect("it is there").remove(0);
    volume.choose(&conflict.path, &conflict.versions[0].name).expect("it is there");
    nodes.settle();
    assert_eq!((get(&one.join("f")), get(&two.join("f"))), (lost.into(), lost.into()));
}

#[test]
fn a_second_directory_joins_with_its_files() {
    let mut nodes = Nodes::new(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    let hour = Duration::from_secs(3600);
    let dated = |path: &Path, content: &str, time: SystemTime| {
        put(path, content);
        fs::File::open(path).and_then(|it| it.set_modified(time)).expect("ours");
    };
    let now = SystemTime::now();
    for dir in [&one, &two] {
        fs::create_dir(dir.join("d")).expect("it is free");
        dated(&dir.join("d/same"), "same", now);
    }
    put(&one.join("d/only one"), "1");
    put(&two.join("d/only two"), "2");
    dated(&one.join("later here"), "one, later", now);
    dated(&two.join("later here"), "two, sooner", now - hour);
    dated(&one.join("later there"), "one, sooner", now - hour);
    dated(&two.join("later there"), "two, later", now);
    symlink("one", one.join("link")).expect("it is free");
    put(&two.join("link"), "a file");
    fs::create_dir(one.join("dir")).expect("it is free");
    put(&one.join("dir/x"), "x");
    put(&two.join("dir"), "a file");
    nodes.share(0, None);
    nodes.settle();
    nodes.share(1, None);
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(get(&two.join("later here")), "one, later");
    assert_eq!(get(&one.join("later there")), "two, later");
    let mut lost = conflicts(&nodes, 0);
    lost.sort();
    assert_eq!(lost, ["one, sooner", "two, sooner"]);
    assert_eq!(get(&one.join("dir.conflict-1")), "a file");
    assert_eq!(get(&two.join("dir/x")), "x");
}

#[test]
fn an_empty_directory_is_filled() {
    let mut nodes = Nodes::new(2);
    fs::create_dir_all(nodes.dir(0).join("a/b")).expect("it is free");
    put(&nodes.dir(0).join("a/b/f"), "f");
    nodes.share(0, None);
    nodes.settle();
    nodes.share(1, None);
    nodes.settle();
    assert_eq!(get(&nodes.dir(1).join("a/b/f")), "f");
    assert_equal(&nodes);
}

#[test]
fn another_empty_or_removed_directory_changes_nothing() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&one.join("f"), "f");
    nodes.settle();
    // Its disk is not mounted.
    let away = one.with_extension("away");
    fs::rename(&one, &away).expect("it is free");
    fs::create_dir(&one).expect("it is free");
    put(&two.join("g"), "g");
    nodes.changed(1).expect("the share works");
    nodes.meet();
    assert!(matches!(nodes.changed(0), Err(ShareError::Other { .. })));
    assert_eq!(fs::read_dir(&one).expect("it is there").count(), 0, "it was not filled");
    fs::remove_dir(&one).expect("it is empty");
    fs::rename(&away, &one).expect("it is free");
    let known = nodes.known(0);
    nodes.crash(0, &known);
    nodes.settle();
    assert_equal(&nodes);
    // All files are gone.
    for name in ["f", "g"] {
        fs::remove_file(one.join(name)).expect("it is there");
    }
    put(&two.join("h"), "h");
    nodes.changed(1).expect("the share works");
    nodes.meet();
    assert!(matches!(nodes.changed(0), Err(ShareError::Empty { .. })));
    assert!(two.join("f").exists() && !one.join("h").exists());
    // All of it is gone from the volume.
    let volume = nodes.nodes[1].volume.clone();
    let team = at(&volume, &["team"]);
    volume.rename((team, b"src"), (team, b"elsewhere"), crate::volume::Moving::New).expect("free");
    assert!(matches!(nodes.changed(1), Err(ShareError::Removed { .. })));
    assert!(two.join("f").exists());
    let known = nodes.known(1);
    let share = nodes.nodes[1].share.as_mut().expect("it is shared");
    share.accept_top();
    share.all().expect("it was accepted");
    assert!(two.join("f").exists() && !known.is_empty());
    at(&volume, &["team", "src", "f"]);
}

#[test]
fn the_last_file_that_others_remove_goes() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&one.join("f"), "f");
    nodes.settle();
    let known = nodes.known(1);
    let volume = nodes.nodes[0].volume.clone();
    volume.remove(at(&volume, &["team", "src"]), b"f", false).expect("it is there");
    nodes.settle();
    assert!(!one.join("f").exists() && !two.join("f").exists());
    nodes.crash(1, &known);
    put(&two.join("g"), "g");
    nodes.settle();
    assert_eq!(get(&one.join("g")), "g");
    assert_equal(&nodes);
}

#[test]
fn a_crash_at_any_point_loses_nothing() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    for name in ["changed", "removed", "kept", "late"] {
        put(&one.join(name), "before");
    }
    nodes.settle();
    let [known, old] = [nodes.known(1), nodes.known(0)];
    put(&one.join("changed"), "after");
    put(&one.join("made"), "made");
    fs::remove_file(one.join("removed")).expect("it is there");
    nodes.settle();
    // What was noted is older than both sides.
    let before = nodes.events();
    nodes.crash(1, &known);
    nodes.crash(0, &old);
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(nodes.events(), before, "both sides were the same");
    nodes.crash(1, &known);
    put(&two.join("late"), "changed after the crash");
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(get(&one.join("late")), "changed after the crash");
    assert!(conflicts(&nodes, 0).is_empty());

    // It ended while it wrote a file, and between an exchange and the look at what came out.
    let known = nodes.known(1);
    put(&two.join(".oswalk-share-new-1"), "hal");
    put(&two.join(".oswalk-share-old-1"), "a change of a program");
    put(&two.join(".oswalk-share-old-2"), "after");
    nodes.crash(1, &known);
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(get(&one.join("saved.conflict-1")), "a change of a program");
    assert_eq!(fs::read_dir(&two).expect("it is there").count(), 5);
}

#[test]
fn a_swapped_link_leads_nowhere() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    let elsewhere = two.with_extension("elsewhere");
    fs::create_dir(&elsewhere).expect("it is free");
    fs::create_dir(one.join("d")).expect("it is free");
    put(&one.join("d/f"), "f");
    put(&elsewhere.join("f"), "f");
    nodes.settle();
    put(&one.join("d/f"), "changed");
    put(&one.join("d/g"), "new");
    nodes.changed(0).expect("the share works");
    nodes.meet();
    fs::rename(two.join("d"), two.with_extension("away")).expect("it is free");
    symlink(&elsewhere, two.join("d")).expect("it is free");
    // Without the look at the directory that would find the link.
    let share = nodes.nodes[1].share.as_mut().expect("it is shared");
    let mut round = Round::default();
    share.write_back(&mut round).expect("the share works");
    assert_eq!(get(&elsewhere.join("f")), "f");
    assert_eq!(fs::read_dir(&elsewhere).expect("it is there").count(), 1);
    nodes.settle();
    assert_eq!(get(&elsewhere.join("f")), "f");
    assert_eq!(fs::read_dir(&elsewhere).expect("it is there").count(), 1);
}

#[test]
fn a_file_that_a_program_writes_is_left_alone() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&one.join("f"), "before");
    nodes.settle();
    let mut writer = fs::File::options().append(true).open(two.join("f")).expect("it is there");
    put(&one.join("f"), "after");
    nodes.changed(0).expect("the share works");
    nodes.meet();
    let round = nodes.changed(1).expect("the share works");
    assert_eq!(round.left, [(b"f".to_vec(), Left::Open)]);
    assert!(nodes.nodes[1].share.as_ref().expect("it is shared").next_try().is_some());
    assert_eq!(get(&two.join("f")), "before");
    writer.write_all(b" and more").expect("there is room");
    drop(writer);
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(get(&one.join("f")), "before and more");
    assert_eq!(conflicts(&nodes, 1), ["after"]);
}

#[test]
fn a_change_during_the_write_is_not_lost() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    for name in ["f", "g", "h"] {
        put(&one.join(name), "before");
    }
    nodes.settle();
    put(&one.join("f"), "after");
    fs::remove_file(one.join("g")).expect("it is there");
    put(&one.join("new"), "of one");
    nodes.changed(0).expect("the share works");
    nodes.meet();
    for name in ["f", "g", "new"] {
        put(&two.join(name), "of two");
    }
    // Without the look at the directory, as if that had been just before.
    let share = nodes.nodes[1].share.as_mut().expect("it is shared");
    share.write_back(&mut Round::default()).expect("the share works");
    for name in ["f", "g", "new"] {
        assert_eq!(get(&two.join(name)), "of two");
    }
    nodes.settle();
    assert_equal(&nodes);
    assert_eq!(get(&one.join("g")), "of two");
    let mut lost = conflicts(&nodes, 0);
    lost.sort();
    assert_eq!(lost, ["after", "of one"]);
}

#[test]
fn members_write_no_secrets_and_nothing_that_rules_leave_out() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&two.join(".oswalkignore"), "*.o\nbuild/\n");
    put(&two.join("a.o"), "of two");
    nodes.settle();
    let volume = nodes.nodes[0].volume.clone();
    let top = at(&volume, &["team", "src"]);
    let like = Like { permissions: Permissions { mode: 0o777, uid: 0, gid: 0 }, modified: 0 };
    for name in [".ssh", "build", ".oswalk-share-new-x"] {
        let dir = volume.put_other(top, name.as_bytes(), Kind::Dir, like).expect("it is free");
        volume.put_other(dir, b"link", Kind::Symlink(b"x".to_vec()), like).expect("it is free");
    }
    volume.put_other(top, b"a.o", Kind::Symlink(b"x".to_vec()), like).expect("it is free");
    volume.put_other(top, b"pipe", Kind::Fifo, like).expect("it is free");
    nodes.meet();
    let round = nodes.changed(1).expect("the share works");
    let left: Vec<_> = round.left.iter().map(|(path, left)| (path.as_slice(), *left)).collect();
    assert_eq!(
        left,
        [
            (b".oswalk-share-new-x".as_slice(), Left::Errno(nix::errno::Errno::EPERM)),
            (b".ssh", Left::Secret),
            (b"a.o", Left::Ignored),
            (b"build", Left::Ignored),
            (b"pipe", Left::Special),
        ]
    );
    assert_eq!(get(&two.join("a.o")), "of two");
    assert_eq!(fs::read_dir(&two).expect("it is there").count(), 2);
    nodes.settle();
    // What rules leave out from now on stays on both sides.
    put(&one.join("b.c"), "b");
    nodes.settle();
    put(&one.join(".oswalkignore"), "*.o\n*.c\nbuild/\n");
    nodes.settle();
    assert_eq!((get(&one.join("b.c")), get(&two.join("b.c"))), ("b".into(), "b".into()));
    fs::remove_file(one.join("b.c")).expect("it is there");
    nodes.settle();
    assert_eq!(get(&two.join("b.c")), "b");
    at(&volume, &["team", "src", "b.c"]);
}

#[test]
fn nobody_is_given_set_id_bits() {
    let mut nodes = Nodes::sharing(2);
    let two = nodes.dir(1).to_owned();
    put(&nodes.dir(0).join("f"), "f");
    nodes.settle();
    let volume = nodes.nodes[0].volume.clone();
    let ino = at(&volume, &["team", "src", "f"]);
    let attrs = Attrs { mode: Some(0o6755), ..Attrs::default() };
    volume.set_attr(ino, attrs, None, SUPERUSER).expect("it is there");
    nodes.settle();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    assert_eq!(mode(&two.join("f")), 0o755);
    // A change of the content does not change the volume's mode, which the disk does not have.
    put(&two.join("f"), "changed");
    nodes.settle();
    assert_eq!(volume.attr(ino).expect("it is there").attr.mode & 0o777, 0o755);
    assert_eq!(mode(&two.join("f")), 0o755);
    assert_eq!(get(&nodes.dir(0).join("f")), "changed");
}

#[test]
fn a_name_that_the_disk_cannot_have_is_left() {
    let mut nodes = Nodes::sharing(2);
    let volume = nodes.nodes[0].volume.clone();
    let like = Like { permissions: Permissions { mode: 0o755, uid: 0, gid: 0 }, modified: 0 };
    let mut dir = at(&volume, &["team", "src"]);
    for _ in 0..20 {
        dir = volume.put_other(dir, &[b'n'; 200], Kind::Dir, like).expect("it is free");
    }
    let last = volume.put_other(dir, b"x", Kind::Dir, like).expect("it is free");
    assert!(last > 0);
    nodes.meet();
    let round = nodes.changed(1).expect("the share works");
    assert_eq!(round.left.len(), 1);
    assert_eq!(round.left[0].1, Left::Errno(nix::errno::Errno::ENAMETOOLONG));
    nodes.settle();
}

#[test]
fn what_was_known_of_one_direction_is_compared_again() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
    fs::create_dir(&dir).expect("it is free");
    put(&dir.join("f"), "f");
    let volume = super::volume(&state);
    let mut one_way = super::share(&dir, &volume, None);
    one_way.all().expect("the directory is there");
    super::settle(&mut one_way);
    let known = one_way.known();
    drop(one_way);
    volume.remove(at(&volume, &["team", "src"]), b"f", false).expect("it is there");
    let plan =
        super::Plan { dir: dir.clone(), owner: None, name: b"team/src".to_vec(), writes: true };
    let hidden = std::sync::Arc::default();
    let mut both = super::Share::new(plan, volume.clone(), hidden, Some(&known)).expect("a share");
    both.all().expect("the directory is there");
    super::settle(&mut both);
    assert_eq!(get(&dir.join("f")), "f");
    assert_same(&dir, &volume);
}

#[test]
fn only_directories_that_were_written_are_made_durable() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    for dir in ["a/b", "c", "d"] {
        fs::create_dir_all(one.join(dir)).expect("it is free");
        put(&one.join(dir).join("f"), "f");
    }
    nodes.settle();
    let unsynced = |nodes: &Nodes| {
        let share = nodes.nodes[1].share.as_ref().expect("it is shared");
        let unsynced = share.returns.as_ref().expect("it is written").unsynced.iter();
        unsynced.map(|dir| String::from_utf8_lossy(dir).into_owned()).collect::<Vec<_>>()
    };
    let sync = |nodes: &mut Nodes| {
        let share = nodes.nodes[1].share.as_mut().expect("it is shared");
        while !share.sync().expect("the disk works") {}
    };
    assert_eq!(unsynced(&nodes), ["", "a", "a/b", "c", "d"]);
    sync(&mut nodes);
    assert!(unsynced(&nodes).is_empty());
    put(&one.join("a/b/f"), "changed");
    fs::remove_file(one.join("d/f")).expect("it is there");
    fs::set_permissions(one.join("c"), fs::Permissions::from_mode(0o700)).expect("ours");
    nodes.settle();
    assert_eq!(unsynced(&nodes), ["a/b", "c", "d"]);
    // A program has moved one meanwhile, and removed one.
    fs::rename(two.join("a"), two.join("e")).expect("it is free");
    fs::remove_dir(two.join("d")).expect("it is empty");
    nodes.settle();
    assert_eq!(unsynced(&nodes), ["c", "d", "e/b"]);
    sync(&mut nodes);
    assert!(unsynced(&nodes).is_empty());
}

#[test]
fn a_share_that_is_to_end_neither_reads_nor_writes_on() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&one.join("f"), "f");
    put(&one.join("large"), &"large ".repeat(1 << 20));
    nodes.settle();
    put(&one.join("large"), &"larger ".repeat(1 << 20));
    put(&one.join("new"), "new");
    nodes.changed(0).expect("the share works");
    nodes.meet();
    fs::remove_file(two.join("f")).expect("it is there");
    let (events, known) = (nodes.events(), nodes.known(1));
    let share = nodes.nodes[1].share.as_mut().expect("it is shared");
    share.cancel().store(true, Ordering::Relaxed);
    assert!(matches!(share.changed(), Err(ShareError::Cancelled)));
    assert!(matches!(share.write_back(&mut Round::default()), Err(ShareError::Cancelled)));
    assert!(matches!(share.all(), Err(ShareError::Cancelled)));
    assert_eq!(fs::read_dir(&two).expect("it is there").count(), 1);
    assert_eq!(get(&two.join("large")), "large ".repeat(1 << 20));
    assert_eq!(nodes.events(), events, "a list that has no end removes nothing");
    nodes.crash(1, &known);
    nodes.settle();
    assert_equal(&nodes);
    assert!(!one.join("f").exists());
    assert_eq!(get(&two.join("new")), "new");
}

#[test]
fn a_long_file_is_not_read_to_its_end_when_the_share_is_to_end() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let volume = super::volume(&temporary.path().join("state"));
    let path = temporary.path().join("large");
    put(&path, &"large ".repeat(4 << 20));
    let (mut file, cancel) = (fs::File::open(&path).expect("it is there"), AtomicBool::new(true));
    let like = Like { permissions: Permissions { mode: 0o644, uid: 0, gid: 0 }, modified: 0 };
    let bytes = file.metadata().expect("it is there").len();
    let source = Ordinary { file: &file, bytes, blocks: bytes / 512, like, cancel: &cancel };
    let put = volume.put_file_beside(crate::volume::ROOT, b"large", &source, None);
    assert_eq!(put.expect_err("it was cancelled"), nix::errno::Errno::ECANCELED);
    assert!(file.stream_position().expect("a file") < bytes / 4);
    assert!(volume.seen(crate::volume::ROOT, b"large").expect("the volume works").is_none());
}

#[test]
fn what_has_no_place_on_the_disk_costs_nothing() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&two.join(".oswalkignore"), "*\n!*/\n");
    put(&two.join("x"), "not shared");
    nodes.settle();
    // The other node has no such rules, since they leave out themselves.
    fs::create_dir(one.join("x")).expect("it is free");
    put(&one.join("x/f"), "f");
    nodes.settle();
    let left = |nodes: &mut Nodes| nodes.changed(1).expect("the share works").left;
    let taken = [(b"x".to_vec(), Left::Taken)];
    assert_eq!(left(&mut nodes), taken);
    let idle = |nodes: &Nodes| {
        let share = nodes.nodes[1].share.as_ref().expect("it is shared");
        !share.is_unsure() && share.next_try().is_none()
    };
    assert!(idle(&nodes), "nothing begins a round");
    // Something else in the directory changes.
    put(&two.join("y"), "y");
    assert_eq!(left(&mut nodes), taken);
    assert!(idle(&nodes));
    assert_eq!(get(&two.join("x")), "not shared");
    // Room is made for it.
    fs::rename(two.join("x"), two.join("z")).expect("it is free");
    nodes.settle();
    assert!(two.join("x").is_dir() && idle(&nodes));
    assert_eq!(left(&mut nodes), [(b"x/f".to_vec(), Left::Ignored)]);
}

#[test]
fn a_file_that_always_changes_is_read_now_and_then() {
    let mut nodes = Nodes::sharing(1);
    let one = nodes.dir(0).to_owned();
    let share = nodes.nodes[0].share.as_mut().expect("it is shared");
    let (begin, mut number) = (Instant::now(), 0_u64);
    let mut write = || {
        number += 1;
        put(&one.join("log"), &number.to_string());
    };
    loop {
        write();
        let round = share.changed().expect("the share works");
        if !round.left.is_empty() {
            assert_eq!(round.left, [(b"log".to_vec(), Left::Busy)]);
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "it is always read");
    }
    assert!(!share.is_unsure() && share.next_try().is_some());
    // Its changes do not wake it.
    write();
    let round = share.changed().expect("the share works");
    assert_eq!((round.taken, share.is_unsure()), (0, false));
    put(&one.join("other"), "is taken over meanwhile");
    assert_eq!(share.changed().expect("the share works").taken, 1);
    // It has come to rest.
    while share.is_unsure() {
        share.changed().expect("the share works");
    }
    let wait = share.next_try().expect("it is tried again");
    share.tries.hurry(wait);
    nodes.settle();
    assert_same(&one, &nodes.nodes[0].volume);
    let share = nodes.nodes[0].share.as_mut().expect("it is shared");
    assert_eq!(share.next_try(), None);
    // A share that does not work has nothing that is due all the time.
    share.tries.rest((Vec::new(), b"log".to_vec()), Left::Busy, Instant::now());
    share.tries.hurry(share.next_try().expect("it rests"));
    fs::rename(&one, one.with_extension("away")).expect("it is free");
    share.all().expect_err("the directory is gone");
    assert_eq!(share.next_try(), None);
}
