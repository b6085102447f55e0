//! Tests of the log on real files: here what it does, below what crashes, damage, full disks and threads do to it.

mod crash;
mod damage;
mod feeds;
mod full;
mod support;
mod together;

use std::fs::File;
use std::io::Error;
use std::sync::Arc;

use super::header::VERSION;
use super::*;
use support::{BOOT, NEXT_BOOT, append, event, events, open, read, secret, sync};

#[test]
fn what_is_appended_is_read_again() {
    let dir = support::dir();
    let (log, recovered) = open(dir.path(), BOOT);
    assert_eq!(recovered, Recovered::default());
    append(&log, 3000);
    assert_eq!(sync(&log), Position(3000));
    append(&log, 50);
    assert_eq!(read(&log, 1), events(1..=3050));
    assert_eq!(read(&log, 3033), events(3033..=3050));
    assert_eq!(read(&log, 3051), []);
    assert_eq!(log.first_seq().expect("readable"), 1);
    drop(log);
    let (log, recovered) = open(dir.path(), BOOT);
    assert_eq!((recovered.last, recovered.cut), (Position(3050), None));
    assert!(recovered.covered <= Position(3000));
    assert_eq!(recovered.hlc, event(3050).hlc);
    append(&log, 50);
    assert_eq!(read(&log, 1), events(1..=3100));
}

#[test]
fn after_a_reboot_what_a_barrier_covers_is_left_however_often_it_is_booted() {
    let dir = support::dir();
    let (log, _) = open(dir.path(), BOOT);
    append(&log, 2);
    // The third event comes before the barrier's record, but is not covered.
    let covered = log.barrier(|| {
        append(&log, 1);
        Ok(())
    });
    assert_eq!(covered.expect("the disk works"), Position(2));
    append(&log, 1);
    drop(log);
    for (boot, dropped) in [(NEXT_BOOT, 2), (BootId([3; 16]), 0), (BOOT, 0)] {
        let (log, recovered) = open(dir.path(), boot);
        assert!(recovered.has_rebooted);
        assert_eq!((recovered.last, recovered.covered), (Position(2), Position(2)));
        assert_eq!(recovered.cut.map_or(0, |cut| cut.events), dropped);
        assert_eq!(read(&log, 1), events(1..=2));
    }
    let (log, recovered) = open(dir.path(), BOOT);
    assert_eq!((recovered.has_rebooted, recovered.cut), (false, None));
    append(&log, 10);
    sync(&log);
    let verified = log.verify().expect("readable");
    assert_eq!((verified.events, verified.findings), (12, vec![]));
    assert_eq!(verified.signers, [secret().key()]);
}

#[test]
fn a_barrier_is_made_only_if_there_is_something_to_cover() {
    let dir = support::dir();
    let (log, _) = open(dir.path(), BOOT);
    let never = || -> io::Result<()> { panic!("there is nothing to cover") };
    assert_eq!(log.barrier(never).expect("nothing to do"), Position(0));
    append(&log, 1);
    assert_eq!((log.last(), log.covered()), (Position(1), Position(0)));
    sync(&log);
    assert_eq!(log.barrier(never).expect("nothing to do"), Position(1));
}

#[test]
fn what_does_not_belong_in_the_log_is_refused() {
    let dir = support::dir();
    let (log, _) = Log::open(dir.path(), BOOT, None).expect("a new log");
    let refused = log.append(&event(2)).expect_err("it is not the next");
    assert_eq!(refused.to_string(), "event 2 cannot be appended to the log: the next one is 1");
    let refused = log.append(&support::sized(1, 1 << 20)).expect_err("it is too long");
    assert_eq!(refused.errno(), libc::E2BIG);
    append(&log, 1);
    assert_eq!(read(&log, 1), events(1..=1));
    // The key may change at each start.
    sync(&log);
    drop(log);
    let (log, _) = Log::open(dir.path(), BOOT, Some(secret())).expect("a sound log");
    append(&log, 1);
    sync(&log);
    assert_eq!(log.verify().expect("readable").findings, []);
}

#[test]
fn a_log_is_used_by_one_process_at_a_time() {
    let dir = support::dir();
    let (log, _) = open(dir.path(), BOOT);
    let refused = Log::open(dir.path(), BOOT, None).expect_err("it is in use").to_string();
    let pid = std::process::id();
    assert!(refused.ends_with(&format!("is in use by process {pid}: stop that one first")));
    assert!(verify(dir.path()).is_err());
    drop(log);
    assert_eq!(verify(dir.path()).expect("readable"), Verified::default().by(secret().key()));
}

impl Verified {
    fn by(mut self, key: worknode::key::Key) -> Self {
        self.signers.push(key);
        self
    }
}

#[test]
fn a_log_of_another_version_is_refused() {
    let dir = support::dir();
    drop(open(dir.path(), BOOT));
    let path = dir.path().join("00000001.log");
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    std::fs::write(&path, bytes).expect("writable");
    let refused = Log::open(dir.path(), BOOT, None).expect_err("another version").to_string();
    assert!(refused.ends_with("start the agent that wrote it"), "{refused}");
}

#[test]
fn a_failed_sync_is_not_retried() {
    let dir = support::dir();
    let (log, _) = open(dir.path(), BOOT);
    append(&log, 5);
    // A pipe cannot be synced.
    let pipe = io::pipe().expect("a pipe").1;
    let pipe = Arc::new(File::from(std::os::fd::OwnedFd::from(pipe)));
    log.tail().add_unsynced(pipe);
    assert!(matches!(log.barrier(|| Ok(())), Err(LogError::Io { action: "sync", .. })));
    check_failed(&log);
    drop(log);
    let (log, recovered) = open(dir.path(), BOOT);
    assert_eq!((recovered.last, recovered.covered), (Position(5), Position(0)));
    let failed = log.barrier(|| Err(Error::from_raw_os_error(libc::EIO)));
    assert!(matches!(failed, Err(LogError::Settle { .. })));
    check_failed(&log);
    drop(log);
    let (log, _) = open(dir.path(), BOOT);
    assert_eq!(sync(&log), Position(5));
}

fn check_failed(log: &Log) {
    assert_eq!(log.append(&event(6)).expect_err("it has failed").errno(), libc::EIO);
    assert!(matches!(log.barrier(|| Ok(())), Err(LogError::Failed)));
    assert_eq!(log.covered(), Position(0));
    assert_eq!(read(log, 1), events(1..=5));
}
