//! A full disk refuses events, and nothing else happens to the log.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::support::*;
use crate::log::{Log, LogError, Position};

const PAGE_BYTES: usize = 4096;
/// More than the log and its segments take in this test.
const PAGES: usize = 120;

#[test]
fn a_full_disk_refuses_events_and_loses_none() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // The thread has its own mount namespace, which ends with it.
    let elsewhere = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may");
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).expect("root may");
        let (dir, size) = (dir(), format!("size={}", PAGES * PAGE_BYTES));
        mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .expect("root may");
        (2..60).for_each(|free| fill(dir.path(), free));
        nix::mount::umount(dir.path()).expect("nothing is open there");
    });
    elsewhere.join().expect("no panic");
}

/// Uses a log on a disk that has so many pages left.
fn fill(disk: &Path, free: usize) {
    let (dir, filler) = (disk.join("log"), disk.join("filler"));
    let mut file = File::create(&filler).expect("there is room");
    file.write_all(&vec![1; (PAGES - free) * PAGE_BYTES - 2 * PAGE_BYTES]).expect("there is room");
    let refused = match try_open(&dir, BOOT) {
        Ok((log, _)) => Some(until_full(log, &dir)),
        Err(LogError::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
            None
        }
        Err(error) => panic!("{error}"),
    };
    drop(file);
    fs::remove_file(&filler).expect("it is there");
    check(&dir, refused.unwrap_or_default());
    fs::remove_dir_all(&dir).expect("it is there");
}

/// Appends until the disk is full, opens the log again, and tries again. Returns how many events were accepted.
fn until_full(mut log: Log, dir: &Path) -> u64 {
    for _ in 0..3 {
        let refused = loop {
            if let Err(error) = log.append(&event(log.last().0 + 1)) {
                break error;
            }
            if log.last().0.is_multiple_of(40) && log.barrier(|| Ok(())).is_err() {
                continue;
            }
        };
        assert_eq!(refused.errno(), libc::ENOSPC, "{refused}");
        assert_eq!(read(&log, 1), events(1..=log.last().0));
        let (last, covered) = (log.last(), log.covered());
        drop(log);
        let recovered;
        (log, recovered) = open(dir, BOOT);
        assert_eq!((recovered.last, recovered.cut), (last, None));
        assert!(recovered.covered <= covered);
    }
    log.last().0
}

/// Checks that a log has so many events, and takes more.
fn check(dir: &Path, count: u64) {
    let (log, recovered) = open(dir, BOOT);
    assert_eq!(recovered.last, Position(count));
    append(&log, 100);
    sync(&log);
    assert_eq!(log.verify().expect("readable").findings, []);
    drop(log);
    let (log, recovered) = open(dir, NEXT_BOOT);
    assert_eq!(recovered.last, Position(count + 100));
    assert_eq!(read(&log, 1), events(1..=count + 100));
}
