//! Tests of refusals.

use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::packet::Manifest;

fn path(text: &str) -> TreePath {
    text.parse().expect("a sound path")
}

fn meta(mode: u32, uid: u32) -> Meta {
    Meta { mode, uid, gid: uid, mtime: None, xattrs: Vec::new(), without: Vec::new() }
}

fn file(at: &str, meta: Meta) -> Op {
    let (manifest, placing) = (Manifest::default(), Placing::Fresh);
    Op::File { path: path(at), meta, manifest, placing }
}

/// All operations on a path.
fn all(at: &str) -> Vec<Op> {
    let elsewhere = || path("/work/x");
    vec![
        Op::Rename { from: path(at), to: elsewhere() },
        Op::Rename { from: elsewhere(), to: path(at) },
        Op::Remove { path: path(at) },
        Op::Dir { path: path(at), meta: meta(0o777, 0), replaces: false },
        Op::Dir { path: path(at), meta: meta(0o755, 0), replaces: true },
        file(at, meta(0o644, 0)),
        Op::Symlink { path: path(at), target: b"x".to_vec(), meta: meta(0o777, 0), keeps: false },
        Op::Link { path: path(at), to: elsewhere() },
        Op::Link { path: elsewhere(), to: path(at) },
        Op::Special { path: path(at), kind: Kind::Fifo, rdev: 0, meta: meta(0o644, 0) },
    ]
}

fn may(scope: &Scope, uid: u32, op: Op) -> bool {
    let owner = Owner { uid, gid: uid, groups: Vec::new() };
    scope.check(&owner, &ChangeSet { ops: vec![op], ..ChangeSet::default() }).is_ok()
}

fn scope() -> Scope {
    let closed = vec![path("/usr"), path("/var/lib/oswalk")];
    Scope { only_below: Vec::new(), closed, set_id: true }
}

#[test]
fn closed_paths_and_their_ancestors_stay_unchanged() {
    let kernels = ["/proc", "/sys/x", "/dev/shm/f", "/run", "/run/user/0/x"];
    let closed = ["/usr", "/usr/bin/gcc", "/var/lib/oswalk", "/var/lib/oswalk/journal"];
    let above = ["/", "/var/lib", "/var"];
    for at in kernels.into_iter().chain(closed).chain(above) {
        for op in all(at) {
            assert!(!may(&scope(), 0, op.clone()), "{op:?}");
        }
    }
    for at in ["/work/y", "/usr2", "/procs", "/var/lib2/oswalk", "/devel"] {
        for op in all(at) {
            assert!(may(&scope(), 0, op.clone()), "{op:?}");
        }
    }
}

#[test]
fn a_compile_step_writes_where_it_says() {
    let scope = Scope { only_below: vec![path("/work"), path("/out/o")], ..scope() };
    for (at, expected) in [("/work/a", true), ("/out/o/a", true), ("/out/a", false), ("/a", false)]
    {
        for op in all(at) {
            assert_eq!(may(&scope, 0, op.clone()), expected, "{op:?}");
        }
    }
}

#[test]
fn times_of_ancestors_may_change() {
    let root = Attr::of(&nix::sys::stat::lstat("/").expect("there"));
    let meta = Meta { mode: root.mode, gid: root.gid, ..meta(0, root.uid) };
    let stir = |meta: Meta| Op::Dir { path: path("/"), meta, replaces: false };
    assert!(may(&scope(), 0, stir(meta.clone())));
    assert!(!may(&scope(), 0, stir(Meta { mode: root.mode ^ 0o022, ..meta.clone() })));
    let xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
    assert!(!may(&scope(), 0, stir(Meta { xattrs, ..meta.clone() })));
    let tmp = Attr::of(&nix::sys::stat::lstat("/tmp").expect("there"));
    let meta = Meta { mode: tmp.mode, gid: tmp.gid, ..self::meta(0, tmp.uid) };
    for (open, expected) in [("/tmp/file", true), ("/tmp/dir/file", false)] {
        let scope = Scope { only_below: vec![path(open)], ..scope() };
        let op = Op::Dir { path: path("/tmp"), meta: meta.clone(), replaces: false };
        assert_eq!(may(&scope, 0, op), expected, "{open}");
    }
}

#[test]
fn changes_that_no_walk_can_make_are_refused() {
    use Kind::{Block, Char, Dir, Fifo, File, Socket, Symlink};
    for kind in [File, Dir, Symlink, Fifo, Socket, Char, Block] {
        for rdev in [0, 0x103] {
            let op = Op::Special { path: path("/work/n"), kind, rdev, meta: meta(0o666, 0) };
            let sound = matches!(kind, Fifo | Socket) && rdev == 0;
            assert_eq!(may(&scope(), 0, op), sound, "{kind:?} {rdev}");
        }
    }
    for (name, sound) in [
        ("user.x", true),
        ("system.posix_acl_access", true),
        ("system.posix_acl_default", true),
        ("security.capability", false),
        ("security.selinux", false),
        ("trusted.overlay.opaque", false),
        ("system.other", false),
        ("", false),
    ] {
        let sets = Meta { xattrs: vec![(name.into(), vec![1])], ..meta(0o644, 0) };
        let removes = Meta { without: vec![name.into()], ..meta(0o644, 0) };
        assert_eq!(may(&scope(), 0, file("/work/f", sets)), sound, "{name}");
        assert_eq!(may(&scope(), 0, file("/work/f", removes)), sound, "{name}");
    }
    let compiles = Scope { set_id: false, ..scope() };
    for (mode, uid, scope, sound) in [
        (0o4755, 0, scope(), true),
        // Root may give files to others, and set their set-id bits.
        (0o4755, 1000, scope(), true),
        (0o4755, 0, compiles.clone(), false),
        (0o755, 1000, scope(), true),
        (0o100_644, 0, scope(), false),
    ] {
        assert_eq!(may(&scope, 0, file("/work/f", meta(mode, uid))), sound, "{mode:o} {uid}");
    }
    assert!(may(&scope(), 1000, file("/work/f", meta(0o644, 1000))));
    assert!(!may(&scope(), 1000, file("/work/f", meta(0o644, 0))));
    let behind = |at| Op::File {
        path: path("/work/log"),
        meta: meta(0o644, 0),
        manifest: Manifest::default(),
        placing: Placing::Behind(at),
    };
    assert!(!may(&scope(), 0, behind(0)) && !may(&scope(), 0, behind(1 << 42)));
    for target in [vec![], b"a\0b".to_vec(), vec![b'x'; TARGET_BYTES_MAX + 1]] {
        let op = Op::Symlink { path: path("/work/l"), target, meta: meta(0o777, 0), keeps: false };
        assert!(!may(&scope(), 0, op));
    }
}

#[test]
fn mount_points_are_those_of_this_thread() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let point = dir.path().as_os_str().as_bytes().to_vec();
    // The thread has its own mount namespace, which ends with it.
    let elsewhere = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may");
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).expect("root may");
        let memory = Some("tmpfs");
        mount(none, dir.path(), memory, MsFlags::empty(), none).expect("root may");
        mount_points()
    });
    assert!(elsewhere.join().expect("no panic").expect("there is a /proc").contains(&point));
}

#[test]
fn mount_points_of_the_kernels_table() {
    let table =
        b"22 1 8:1 / / rw - ext4 /dev/sda rw\n36 22 0:7 /x /mnt/a\\040b\\134c rw - tmpfs t rw\n";
    assert_eq!(points_in(table), [b"/".to_vec(), b"/mnt/a b\\c".to_vec()]);
    assert!(
        mount_points().expect("there is one").contains(&b"/proc".to_vec()),
        "this machine has one"
    );
}

/// It may lead to a file system that does not answer.
#[test]
fn no_link_on_the_way_to_a_change_is_followed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join("real/d")).expect("writable");
    std::os::unix::fs::symlink("real", dir.path().join("link")).expect("writable");
    let is_dir = |at: &str| is_dir(&path(&format!("{}/{at}", dir.path().display())));
    assert!(is_dir("real/d") && !is_dir("link/d") && !is_dir("link"));
    assert!(super::is_dir(&path("/")));
}
