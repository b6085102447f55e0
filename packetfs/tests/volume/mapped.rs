//! What programs write into a file that the volume does not see as open: through a mapping, and through a mount that is gone.

#![expect(unsafe_code, reason = "no library maps a file safely")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::mounted::Mounted;

const PAGE: usize = 4096;
/// Time in which the volume notices that nobody can write a file any more.
const NOTICED: Duration = Duration::from_secs(40);
/// Pause between two looks at something that nothing else tells.
const POLL: Duration = Duration::from_millis(20);

/// The first page of a file, shared.
struct Mapping(*mut u8);

impl Mapping {
    fn new(file: RawFd) -> Self {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel chooses an address at which nothing is.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, shared, file, 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self(at.cast())
    }

    fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= PAGE);
        // SAFETY: the page is mapped as long as `self` is there, and nothing else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0, bytes.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` has mapped the page, and nothing refers to it any more.
        let done = unsafe { libc::munmap(self.0.cast(), PAGE) };
        assert_eq!(done, 0);
    }
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; PAGE]
}

/// Returns a new file with a page of zeros.
fn new_file(path: &Path) -> File {
    let mut file = File::options().read(true).write(true).create_new(true).open(path).expect("new");
    file.write_all(&page(0)).expect("the disk has room");
    file
}

/// Waits until packets were made of a file with this content, and until the barriers after which its backing file would be
/// deleted.
fn wait_for_version(root: &Path, name: &str, content: &[u8]) {
    let begin = Instant::now();
    let versions = root.join(".oswalk/versions").join(name);
    let is_it = |version: fs::DirEntry| {
        fs::read(version.path()).is_ok_and(|version| version.starts_with(content))
    };
    while !fs::read_dir(&versions).is_ok_and(|all| all.flatten().any(is_it)) {
        assert!(begin.elapsed() < NOTICED, "no packets are made of {name}");
        std::thread::sleep(POLL);
    }
    wait_for_barriers(root);
}

/// Waits until what is to be deleted after the next barrier is deleted.
fn wait_for_barriers(root: &Path) {
    for _ in 0..2 {
        let other = File::create(root.join("other")).expect("the disk has room");
        other.sync_all().expect("the disk works");
    }
}

/// Waits until no backing file has a content. Empty ones are kept for other files.
fn wait_for_packets(store: &Path) {
    let begin = Instant::now();
    let has_content = |entry: io::Result<fs::DirEntry>| {
        // One that is gone meanwhile has none.
        entry.and_then(|entry| entry.metadata()).is_ok_and(|metadata| metadata.len() > 0)
    };
    while fs::read_dir(store.join("open")).expect("a directory").any(has_content) {
        assert!(begin.elapsed() < NOTICED, "backing files are left");
        std::thread::sleep(POLL);
    }
}

#[test]
fn a_mapping_is_written_after_its_file_was_closed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (store, root) = (scratch.path().join("store"), scratch.path().join("mount"));
    let mut mounted = Mounted::new(&store, &root, true);
    let path = root.join("mapped");
    let file = new_file(&path);
    let mapping = Mapping::new(file.as_raw_fd());
    drop(file);
    mapping.write(b"first");
    wait_for_version(&root, "mapped", b"first");
    mapping.write(b"later");
    assert!(fs::read(&path).expect("it is there").starts_with(b"later"), "read by another program");
    // No version is made of it: the kernel sets no time when a page is written again.
    wait_for_barriers(&root);
    // Nothing changes the time of the modification now.
    mapping.write(b"again");
    drop(mapping);
    wait_for_packets(&store);
    assert!(fs::read(&path).expect("it is there").starts_with(b"again"), "as packets");
    mounted.stop();
    mounted.start();
    assert!(fs::read(&path).expect("it is there").starts_with(b"again"), "after a restart");
    mounted.stop();
}

#[test]
fn a_mapping_sees_what_others_write_and_truncate() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (store, root) = (scratch.path().join("store"), scratch.path().join("mount"));
    let mut mounted = Mounted::new(&store, &root, true);
    let path = root.join("mapped");
    let mapping = Mapping::new(new_file(&path).as_raw_fd());
    wait_for_version(&root, "mapped", &page(0));
    fs::write(&path, page(7)).expect("the disk has room");
    mapping.write(b"both");
    drop(mapping);
    wait_for_packets(&store);
    let expected = [b"both", &page(7)[4..]].concat();
    assert_eq!(fs::read(&path).expect("it is there"), expected);
    mounted.stop();
}

#[test]
fn what_is_written_through_a_dead_mount_is_kept() {
    for is_known in [false, true] {
        let scratch = tempfile::tempdir().expect("a directory");
        let (store, root) = (scratch.path().join("store"), scratch.path().join("mount"));
        let mut mounted = Mounted::new(&store, &root, true);
        let (plain, mapped) = (root.join("plain"), root.join("mapped"));
        let file = new_file(&plain);
        let mapping = Mapping::new(new_file(&mapped).as_raw_fd());
        mapping.write(b"first");
        if is_known {
            wait_for_version(&root, "mapped", b"first");
        }
        mounted.kill();
        file.write_all_at(b"while no agent is there", 0).expect("the kernel writes it");
        mounted.start();
        wait_for_version(&root, "plain", b"while no agent is there");
        wait_for_version(&root, "mapped", b"first");
        mapping.write(b"later");
        file.write_all_at(b"through the former mount", 0).expect("the kernel writes it");
        let read = |path: &Path| fs::read(path).expect("it is there");
        assert!(read(&plain).starts_with(b"through the former mount"), "at once");
        assert!(read(&mapped).starts_with(b"later"), "at once");
        drop((file, mapping));
        wait_for_packets(&store);
        assert!(read(&plain).starts_with(b"through the former mount"), "as packets");
        assert!(read(&mapped).starts_with(b"later"), "as packets");
        mounted.stop();
    }
}
