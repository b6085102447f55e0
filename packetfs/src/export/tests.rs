//! Tests of exporting and hiding.

use super::*;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

fn path(dir: &tempfile::TempDir, name: &str) -> TreePath {
    TreePath::new(dir.path().join(name).as_os_str().as_bytes()).expect("a sound path")
}

fn root(dir: &tempfile::TempDir) -> TreePath {
    TreePath::new(dir.path().as_os_str().as_bytes()).expect("a sound path")
}

#[test]
fn lists_and_reads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("small"), b"hello").expect("writable");
    std::fs::write(dir.path().join("large"), vec![b'x'; 300_000]).expect("writable");
    symlink("small", dir.path().join("link")).expect("writable");
    let mut exporter = Exporter::new(Arc::default());
    let listing = exporter
        .list(&TreePath::new(dir.path().as_os_str().as_bytes()).expect("sound"))
        .expect("listable");
    let mut names: Vec<_> = listing.entries.iter().map(|entry| entry.name.clone()).collect();
    names.sort();
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        [b"large".as_slice(), b"link", b"small"]
    );
    let link = listing.entries.iter().find(|entry| *entry.name == *b"link").expect("listed");
    assert_eq!(link.target.as_deref(), Some(b"small".as_slice()));

    let small = exporter.content(&path(&dir, "small"), true).expect("readable");
    let packet = small.content.manifest.packets[0];
    assert_eq!(*small.inline.expect("inline").unpack(packet).expect("sound"), *b"hello");
    let large = exporter.content(&path(&dir, "large"), true).expect("readable");
    assert!(large.inline.is_none());
    let wanted: Vec<_> = large.content.manifest.covering(0, 300_000).collect();
    let packets = exporter.packets(&path(&dir, "large"), &wanted).expect("readable");
    assert_eq!(packets.len(), wanted.len());
    assert_eq!(exporter.content(&path(&dir, "link"), true).err(), Some(Errno::ELOOP));

    std::fs::write(dir.path().join("large"), b"other").expect("writable");
    assert!(exporter.packets(&path(&dir, "large"), &wanted).expect("readable").is_empty());
}

/// The writer of a fifo is unblocked only by a reader, not by the exporter.
#[test]
fn only_regular_files_are_opened() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fifo = dir.path().join("fifo");
    let status = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(status.expect("every machine has it").success());
    let queue = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_NONBLOCK)
        .expect("an instance");
    let opened = nix::sys::inotify::AddWatchFlags::IN_OPEN;
    queue.add_watch(dir.path(), opened).expect("watchable");
    let mut exporter = Exporter::new(Arc::default());
    let content = exporter.content(&path(&dir, "fifo"), true).err();
    let packets = exporter.packets(&path(&dir, "fifo"), &[]).err();
    assert_eq!((content, packets), (Some(Errno::EINVAL), Some(Errno::EINVAL)));
    assert_eq!(queue.read_events().err(), Some(Errno::EAGAIN), "nothing was opened");
}

/// Makes an exporter that hides this path.
fn hiding(paths: &[&str], words: &[&str]) -> Exporter {
    let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    Exporter::new(Arc::new(Hidden::new(Own { paths, words })))
}

fn is_refused(exporter: &mut Exporter, path: &TreePath) -> bool {
    let packets = exporter.packets(path, &[]).err();
    let content = exporter.content(path, true).err();
    assert_eq!(content, packets, "{}", String::from_utf8_lossy(path));
    content == Some(Errno::EACCES)
}

#[test]
fn secrets_are_hidden() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join(".ssh/keys")).expect("writable");
    for name in [".ssh/x", ".ssh/keys/y", ".netrc", "own", "plain"] {
        std::fs::write(dir.path().join(name), name).expect("writable");
    }
    let own = path(&dir, "own");
    let mut exporter = hiding(&[std::str::from_utf8(&own).expect("plain")], &[]);
    for name in [".ssh/x", ".ssh/keys/y", ".netrc", "own"] {
        assert!(is_refused(&mut exporter, &path(&dir, name)), "{name}");
    }
    assert!(!is_refused(&mut exporter, &path(&dir, "plain")));
    assert_eq!(exporter.list(&path(&dir, ".ssh")).err(), Some(Errno::EACCES));
    assert!(exporter.list(&root(&dir)).is_ok());
    let told = exporter.entries(&path(&dir, ".ssh"), std::iter::once("x".parse().expect("sound")));
    assert_eq!(told, (None, Vec::new()), "nothing in it is told of");
}

#[test]
fn other_hard_links_to_secrets_are_hidden() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(dir.path().join(".ssh/keys")).expect("writable");
    for name in [".ssh/x", ".ssh/keys/y", ".netrc", "own", "plain"] {
        std::fs::write(dir.path().join(name), name).expect("writable");
    }
    let link = |from: &str, to: &str| {
        std::fs::hard_link(dir.path().join(from), dir.path().join(to)).expect("linkable");
    };
    link(".ssh/x", "a");
    link("own", "d");
    link("plain", "e");
    let own = path(&dir, "own");
    let mut exporter = hiding(&[std::str::from_utf8(&own).expect("plain")], &[]);
    assert!(is_refused(&mut exporter, &path(&dir, "d")), "known from the start");
    // Runners list the directory before they look up the others.
    exporter.list(&root(&dir)).expect("listable");
    assert!(is_refused(&mut exporter, &path(&dir, "a")));
    assert!(!is_refused(&mut exporter, &path(&dir, "e")));
    link(".ssh/keys/y", "b");
    link(".netrc", "c");
    for name in ["b", "c"] {
        assert!(is_refused(&mut exporter, &path(&dir, name)), "{name}, made later");
    }
    // A file with the reused inode number of a removed secret is not hidden.
    std::fs::rename(dir.path().join(".netrc"), dir.path().join("f")).expect("movable");
    assert!(!is_refused(&mut exporter, &path(&dir, "f")));
}

#[test]
fn the_kernels_directories_always_appear_empty() {
    let mut exporter = hiding(&[], &[]);
    for dir in ["/dev", "/proc"] {
        let dir: TreePath = dir.parse().expect("sound");
        assert!(exporter.list(&dir).expect("listable").entries.is_empty());
        let name = if &*dir == b"/dev" { "null" } else { "self" };
        let (attr, names) = exporter.entries(&dir, std::iter::once(name.parse().expect("sound")));
        assert!(attr.is_some() && names.iter().all(|(_, entry)| entry.is_none()), "{name}");
        assert_eq!(exporter.entry(&dir, name.as_bytes()), None, "{name}");
    }
}

#[test]
fn secrets_are_known_by_their_content() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut exporter = hiding(&[], &["0123456789abcdef", "short"]);
    for (name, text, mode, expected) in [
        ("a", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", 0o644, true),
        ("b", "-----BEGIN CERTIFICATE-----\nb3Bl", 0o644, false),
        ("c.h", "#define K \"-----BEGIN PRIVATE KEY-----\"\n", 0o644, false),
        ("d", "requirepass 0123456789abcdef\n", 0o640, true),
        ("e", "requirepass 0123456789abcdef\n", 0o644, false),
        ("f", "a short one", 0o600, false),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("writable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("mine");
        let refused = exporter.content(&path(&dir, name), true).err() == Some(Errno::EACCES);
        assert_eq!(refused, expected, "{name}");
    }
}

#[test]
fn files_hidden_at_another_mount_point_are_hidden() {
    let hidden = Hidden::new(Own {
        paths: vec![b"/srv/oswalk".to_vec(), b"/etc/cluster.secret".to_vec()],
        words: Vec::new(),
    });
    let mounts = "1 0 8:1 / / rw - ext4 d rw\n2 1 8:1 /home/u/.docker /mnt/d rw - ext4 d rw\n\
        3 1 8:1 /srv /mnt/s rw - ext4 d rw\n4 1 0:5 / /mnt/c/proc rw - proc p rw\n\
        5 1 0:5 / /proc rw - proc p rw\n";
    hidden.set_mounts(Arc::new(crate::mounts::Mounts::parse(mounts.as_bytes())));
    assert_eq!(hidden.hide(&["/data/*.pw"]), Ok(true));
    assert_eq!(hidden.hide(&["/data/*.pw"]), Ok(false));
    assert!(hidden.hide(&["nowhere"]).is_err());
    for path in [
        "/srv/oswalk",
        "/srv/oswalk/secret",
        "/etc/cluster.secret",
        "/mnt/d/config.json",
        "/mnt/s/oswalk/x",
        "/mnt/c/proc/1/environ",
        "/proc/1/environ",
        "/data/a/b.pw",
    ] {
        assert!(hidden.hides(path.as_bytes()), "{path}");
    }
    for path in ["/proc", "/run", "/mnt/d/x", "/mnt/s/x", "/data/a", "/etc/cluster"] {
        assert!(!hidden.hides(path.as_bytes()), "{path}");
    }
    for path in ["/srv", "/", "/etc", "/data", "/home/u/.docker"] {
        assert!(hidden.contains_hidden(path.as_bytes()), "{path}");
    }
    assert!(!hidden.contains_hidden(b"/home/u"));
    for (from, to) in [("/srv", "/s"), ("/x", "/srv"), ("/data", "/d"), ("/a/.docker", "/a/d")] {
        assert!(!hidden.may_be_renamed(from.as_bytes(), to.as_bytes()), "{from} {to}");
    }
    assert!(hidden.may_be_renamed(b"/home/u/a", b"/home/u/b"));
}
