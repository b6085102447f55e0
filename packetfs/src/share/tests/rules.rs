//! Whose rules say what is shared, and what happens where they cannot be followed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use worknode::history::Permissions;

use super::super::rules::{ALL_PATTERNS_MAX, BYTES_MAX, PATTERNS_MAX};
use super::super::{Left, Share};
use super::nodes::Nodes;
use super::{at, settle};
use crate::volume::{Like, Ordinary, Volume};

const FILE: &str = ".oswalkignore";

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("it is in a directory")).expect("there is room");
    fs::write(path, content).expect("there is room");
}

fn get(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// Writes a file of the volume, as a program on another node does.
fn put_in_volume(volume: &Volume, dir: &[&str], name: &str, content: &str) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    put(file.path(), content);
    let like = Like { permissions: Permissions { mode: 0o666, uid: 0, gid: 0 }, modified: 1 };
    let (bytes, cancel) = (content.len() as u64, AtomicBool::new(false));
    let source = Ordinary {
        file: file.as_file(),
        bytes,
        blocks: bytes.div_ceil(512),
        like,
        cancel: &cancel,
    };
    volume.put_file(at(volume, dir), name.as_bytes(), &source).expect("the volume works");
}

/// Returns the names in a directory of the shared one in the volume.
fn names(volume: &Volume, dir: &[&str]) -> Vec<String> {
    let list = volume.list(at(volume, dir)).expect("a directory").into_iter().skip(2);
    list.map(|entry| String::from_utf8(entry.name).expect("UTF-8")).collect()
}

/// A share in one direction.
struct OneWay {
    dir: PathBuf,
    volume: Arc<Volume>,
    share: Share,
    _temporary: tempfile::TempDir,
}

impl OneWay {
    fn new(files: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let (dir, state) = (temporary.path().join("src"), temporary.path().join("state"));
        fs::create_dir(&dir).expect("it is free");
        set_mode(&dir, 0o755);
        files.iter().for_each(|(path, content)| put(&dir.join(path), content));
        let volume = super::volume(&state);
        let mut share = super::share(&dir, &volume, None);
        share.all().expect("the directory is there");
        settle(&mut share);
        Self { dir, volume, share, _temporary: temporary }
    }

    fn put(&self, path: &str, content: &str) {
        put(&self.dir.join(path), content);
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let path: Vec<&str> =
            ["team", "src"].into_iter().chain(dir.split('/')).filter(|it| !it.is_empty()).collect();
        names(&self.volume, &path)
    }
}

#[test]
fn rules_in_the_volume_share_nothing_and_never_reach_the_disk() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&two.join(FILE), "private/\n");
    put(&two.join("private/key.txt"), "secret");
    put(&two.join("private/more.txt"), "more");
    put(&two.join("f"), "f");
    nodes.settle();
    let volume = nodes.nodes[0].volume.clone();
    let top = ["team", "src"];
    assert_eq!(names(&volume, &top), ["f"], "rules stay on their disk");
    // Others put their own in its place, and a file where they think that it is.
    put_in_volume(&volume, &top, FILE, "");
    put(&one.join(FILE), "!private/\n");
    put(&one.join("private/key.txt"), "of one");
    nodes.settle();
    assert_eq!(get(&two.join(FILE)), "private/\n");
    assert_eq!(get(&one.join(FILE)), "!private/\n");
    assert_eq!(get(&two.join("private/key.txt")), "secret");
    assert_eq!(names(&volume, &["team", "src", "private"]), ["key.txt"]);
    let left = nodes.changed(1).expect("the share works").left;
    assert_eq!(left, [(FILE.into(), Left::Rules), (b"private".to_vec(), Left::Ignored)]);
    let known = nodes.known(1);
    nodes.crash(1, &known);
    nodes.settle();
    assert_eq!(get(&two.join(FILE)), "private/\n");
    assert!(!one.join("private/more.txt").exists());
    // The owner of the disk shares it after all.
    put(&two.join(FILE), "key.txt\n");
    nodes.settle();
    assert_eq!(get(&one.join("private/more.txt")), "more");
    assert_eq!(get(&two.join("private/key.txt")), "secret");
    fs::remove_file(two.join(FILE)).expect("it is there");
    nodes.settle();
    assert_eq!(get(&one.join("private/key.txt")), get(&two.join("private/key.txt")));
    assert!(!two.join(FILE).exists());
}

#[test]
fn whoever_may_write_a_directory_in_it_shares_nothing_that_the_owner_leaves_out() {
    let mut one = OneWay::new(&[(FILE, "*.dat\n"), ("sub/x.dat", "x"), ("sub/x.c", "c")]);
    set_mode(&one.dir.join("sub"), 0o777);
    one.put("sub/.oswalkignore", "!*\n*.c\n");
    settle(&mut one.share);
    assert_eq!(one.names("sub"), [FILE], "they leave out more");
    // Nobody else can have written it from now on.
    set_mode(&one.dir.join("sub"), 0o755);
    set_mode(&one.dir.join("sub").join(FILE), 0o644);
    settle(&mut one.share);
    assert_eq!(one.names("sub"), [FILE, "x.dat"]);
    set_mode(&one.dir, 0o777);
    one.put("new", "");
    settle(&mut one.share);
    assert_eq!(one.names("sub"), [FILE]);

    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&two.join(FILE), "*.dat\n");
    put(&two.join("sub/x.dat"), "x");
    set_mode(&two.join("sub"), 0o777);
    nodes.settle();
    put(&two.join("sub").join(FILE), "!*\n");
    nodes.settle();
    let count = |dir: &Path| fs::read_dir(dir.join("sub")).expect("it is there").count();
    assert_eq!(count(&one), 0);
    // Others may have taken the right to write it away again, by the volume.
    set_mode(&one.join("sub"), 0o755);
    nodes.settle();
    assert_eq!((count(&one), count(&two)), (0, 2));
    put(&two.join(FILE), "*.dat\n!/sub/x.dat\n");
    nodes.settle();
    assert_eq!(get(&one.join("sub/x.dat")), "x");
}

#[test]
fn nothing_is_shared_in_one_direction_where_rules_cannot_be_followed() {
    let mut one = OneWay::new(&[("sub/deep/f", "f"), ("sub/g", "g"), ("other/f", "f")]);
    let file = one.dir.join("sub").join(FILE);
    let broken = [
        "a?bc.c\n".repeat(PATTERNS_MAX + 1),
        "#".repeat(usize::try_from(BYTES_MAX).expect("it is small") + 1),
    ];
    for (number, text) in broken.iter().enumerate() {
        put(&file, text);
        let trouble = settle(&mut one.share).trouble.expect("it says so");
        assert!(trouble.starts_with(&*file.to_string_lossy()), "{trouble}");
        for path in ["sub/deep/new", "sub/new", "sub/more/new", "other/new"] {
            one.put(&format!("{path}{number}"), "new");
        }
        let _ = fs::remove_file(one.dir.join("sub/g"));
        assert!(settle(&mut one.share).trouble.is_some());
        let new = format!("new{number}");
        assert!(one.names("other").contains(&new), "the rest goes on");
        for dir in ["sub", "sub/deep"] {
            assert!(!one.names(dir).contains(&new), "{dir}");
        }
        assert!(number > 0 || one.names("sub").contains(&"g".to_owned()));
        put(&file, "more/\n");
        assert_eq!(settle(&mut one.share).trouble, None);
        assert!(one.names("sub").contains(&new) && one.names("sub/deep").contains(&new));
        assert!(!one.names("sub").contains(&"g".to_owned()));
        assert!(!one.names("sub").contains(&"more".to_owned()));
    }
    // It is not known what a link would say.
    fs::remove_file(&file).expect("it is there");
    std::os::unix::fs::symlink("deep/f", &file).expect("it is free");
    assert!(settle(&mut one.share).trouble.is_some());
    fs::remove_dir_all(one.dir.join("sub")).expect("it is there");
    assert_eq!(settle(&mut one.share).trouble, None);
    assert_eq!(one.names(""), ["other"]);
}

#[test]
fn rules_of_all_directories_have_a_bound_together() {
    let mut one = OneWay::new(&[]);
    let many = "a?bc.c\n".repeat(PATTERNS_MAX);
    let count = ALL_PATTERNS_MAX / PATTERNS_MAX + 1;
    for number in 0..count {
        one.put(&format!("d{number}/.oswalkignore"), &many);
        one.put(&format!("d{number}/f"), "f");
    }
    assert!(settle(&mut one.share).trouble.expect("it says so").contains("has no room"));
    let shared = |one: &OneWay| {
        (0..count)
            .filter(|number| one.names(&format!("d{number}")).contains(&"f".to_owned()))
            .count()
    };
    assert_eq!(shared(&one), count - 1);
    // One of those that had room is gone.
    let first = (0..count).find(|number| !one.names(&format!("d{number}")).is_empty());
    let first = one.dir.join(format!("d{}", first.expect("one is shared")));
    fs::remove_dir_all(first).expect("it is there");
    settle(&mut one.share);
    let trouble = settle(&mut one.share).trouble;
    assert_eq!(trouble, None);
    let left = one.names("");
    assert_eq!(left.len(), count - 1);
    assert!(left.iter().all(|dir| one.names(dir).contains(&"f".to_owned())), "{left:?}");
}

#[test]
fn nothing_is_written_where_rules_cannot_be_followed() {
    let mut nodes = Nodes::sharing(2);
    let [one, two] = [0, 1].map(|number| nodes.dir(number).to_owned());
    put(&one.join("sub/deep/f"), "f");
    put(&one.join("sub/g"), "g");
    nodes.settle();
    let file = two.join("sub").join(FILE);
    put(&file, &"a?bc.c\n".repeat(PATTERNS_MAX + 1));
    assert!(nodes.changed(1).expect("the share works").trouble.is_some());
    put(&one.join("sub/deep/f"), "other");
    put(&one.join("sub/new"), "new");
    fs::remove_file(one.join("sub/g")).expect("it is there");
    put(&one.join("other"), "other");
    put(&two.join("sub/of two"), "of two");
    nodes.settle();
    assert_eq!((get(&two.join("sub/deep/f")), get(&two.join("sub/g"))), ("f".into(), "g".into()));
    assert!(!two.join("sub/new").exists() && !one.join("sub/of two").exists());
    assert_eq!(get(&two.join("other")), "other");
    put(&file, "x\n");
    nodes.settle();
    assert_eq!(get(&two.join("sub/deep/f")), "other");
    assert_eq!(
        (get(&two.join("sub/new")), get(&one.join("sub/of two"))),
        ("new".into(), "of two".into())
    );
    assert!(!two.join("sub/g").exists());
    // Others remove the directory.
    put(&file, &"a?bc.c\n".repeat(PATTERNS_MAX + 1));
    assert!(nodes.changed(1).expect("the share works").trouble.is_some());
    fs::remove_dir_all(one.join("sub")).expect("it is there");
    nodes.settle();
    assert_eq!(
        (get(&two.join("sub/deep/f")), get(&two.join("sub/new"))),
        ("other".into(), "new".into())
    );
}

#[test]
fn a_directory_that_was_watched_before_it_was_left_out_is_not_shared_again() {
    let mut one = OneWay::new(&[("build/a/o", "o"), ("f", "f")]);
    assert_eq!(one.names(""), ["build", "f"]);
    one.put(FILE, "build/\n");
    settle(&mut one.share);
    one.put("build/p", "p");
    one.put("build/a/p", "p");
    settle(&mut one.share);
    assert_eq!(one.names(""), [FILE, "f"]);
    one.put(FILE, "");
    settle(&mut one.share);
    assert_eq!(one.names("build"), ["a", "p"]);
    assert_eq!(one.names("build/a"), ["o", "p"]);
}
