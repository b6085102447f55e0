//! Threads that append and sync at the same time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::support::*;
use crate::log::{Log, Position};

const THREADS: u64 = 8;
const EVENTS: u64 = 400;

#[test]
fn threads_append_and_sync_in_one_order() {
    let dir = dir();
    let (log, _) = open(dir.path(), BOOT);
    let (volume, is_settling, settled) =
        (Mutex::new(()), AtomicBool::new(false), AtomicU64::new(0));
    let settle = || {
        assert!(!is_settling.swap(true, Ordering::SeqCst), "one settles at a time");
        settled.fetch_add(1, Ordering::SeqCst);
        is_settling.store(false, Ordering::SeqCst);
        Ok(())
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, volume) = (&log, &volume);
            scope.spawn(move || {
                for count in 0..EVENTS {
                    let position = append_one(log, volume);
                    if (count + thread) % 10 == 0 {
                        let covered = log.barrier(settle).expect("the disk works");
                        assert!(covered >= position && log.covered() >= covered);
                    }
                }
            });
        }
    });
    let (last, barriers) = (sync(&log), THREADS * EVENTS / 10);
    assert!(settled.load(Ordering::SeqCst) <= barriers);
    assert_eq!(last, Position(THREADS * EVENTS));
    assert_eq!(read(&log, 1), events(1..=last.0));
    assert_eq!(log.verify().expect("readable").findings, []);
    drop(log);
    assert_eq!(open(dir.path(), NEXT_BOOT).1.last, last);
}

fn append_one(log: &Log, volume: &Mutex<()>) -> Position {
    let _volume = volume.lock().expect("no panic");
    log.append(&event(log.last().0 + 1)).expect("the disk has room")
}

#[test]
fn who_comes_during_a_barrier_shares_the_next_one() {
    let dir = dir();
    let (log, _) = open(dir.path(), BOOT);
    append(&log, 1);
    let later = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let first = log.barrier(|| {
            // Four callers come while the first barrier is made.
            append(&log, 1);
            let (sent, came) = std::sync::mpsc::channel();
            for _ in 0..4 {
                let (log, later, sent) = (&log, &later, sent.clone());
                scope.spawn(move || {
                    sent.send(()).expect("it is waited for");
                    let covered = log.barrier(|| {
                        later.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    });
                    assert_eq!(covered.expect("the disk works"), Position(2));
                });
            }
            (0..4).try_for_each(|_| came.recv()).map_err(std::io::Error::other)
        });
        assert_eq!(first.expect("the disk works"), Position(1));
    });
    assert!(later.load(Ordering::SeqCst) <= 1, "one of them worked for all");
    assert_eq!(log.covered(), Position(2));
}
