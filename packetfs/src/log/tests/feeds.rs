//! Events as other nodes get them.

use std::path::Path;

use worknode::history::Author;
use worknode::key::{Key, SecretKey};

use super::support::{
    self, BOOT, Dice, NEXT_BOOT, append, event, events, open, read, secret, sync,
};
use crate::log::{Feed, Log, Position, Unfit};

const AUTHOR: Author = Author([3; 16]);
const BYTES: usize = 1000;

fn foreign(dir: &Path, boot: crate::log::BootId, known: u64) -> Log {
    Log::open_foreign(dir, boot, secret().key(), known).expect("a sound log").0
}

fn feed(log: &Log, after: u64, bytes: usize) -> Option<Feed> {
    log.feed(after, u64::MAX, bytes).expect("a sound log")
}

fn extend(log: &Log, feed: &Feed, key: &Key) -> Result<u64, Unfit> {
    let taken = log.extend(feed, AUTHOR, key).expect("the disk has room");
    taken.map(|events| events.len() as u64)
}

#[test]
fn a_log_is_copied_in_pieces_and_passed_on() {
    let (dir, copy, third) = (support::dir(), support::dir(), support::dir());
    let mut dice = Dice::new();
    let (log, _) = open(dir.path(), BOOT);
    let logs = [foreign(copy.path(), BOOT, 0), foreign(third.path(), BOOT, 0)];
    let key = secret().key();
    for _ in 0..60 {
        append(&log, dice.below(40));
        if dice.below(3) > 0 {
            sync(&log);
        }
        while let Some(feed) = feed(&log, logs[0].last().0, BYTES) {
            assert!(feed.covers() <= log.covered().0, "only what is durable");
            assert_eq!(extend(&logs[0], &feed, &key), Ok(feed.events.len() as u64));
            assert_eq!(extend(&logs[0], &feed, &key), Err(Unfit::Known));
        }
        assert_eq!(logs[0].last(), log.covered());
        while let Some(feed) = feed(&logs[0], logs[1].last().0, 10 * BYTES) {
            assert_eq!(extend(&logs[1], &feed, &key), Ok(feed.events.len() as u64));
        }
    }
    let last = log.covered().0;
    logs.iter().for_each(|log| assert_eq!(read(log, 1), events(1..=last)));
    logs.iter().for_each(|log| log.sync().expect("the disk works"));
    let verified = logs[1].verify().expect("readable");
    assert_eq!((verified.events, verified.findings), (last, vec![]));
    drop(logs);
    let again = foreign(third.path(), NEXT_BOOT, last);
    assert_eq!((again.last(), read(&again, 1)), (Position(last), events(1..=last)));
}

#[test]
fn a_long_time_without_a_barrier_is_sent_in_pieces() {
    let dir = support::dir();
    let (log, _) = Log::open(dir.path(), BOOT, Some(secret())).expect("a new log");
    for seq in 1..=400 {
        log.append(&support::sized(seq, 5000)).expect("the disk has room");
    }
    sync(&log);
    let copy = support::dir();
    let there = foreign(copy.path(), BOOT, 0);
    let mut pieces = 0;
    while let Some(feed) = feed(&log, there.last().0, BYTES) {
        assert!(feed.bytes() < 300_000);
        extend(&there, &feed, &secret().key()).expect("a sound feed");
        pieces += 1;
    }
    assert_eq!((pieces > 5, there.last()), (true, Position(400)));
}

#[test]
fn what_the_author_has_not_signed_is_refused() {
    let (dir, copy) = (support::dir(), support::dir());
    let (log, _) = open(dir.path(), BOOT);
    append(&log, 9);
    sync(&log);
    let there = foreign(copy.path(), BOOT, 0);
    let key = secret().key();
    let sound = feed(&log, 0, 1 << 20).expect("events");
    let refused = |change: &dyn Fn(&mut Feed)| {
        let mut feed = sound.clone();
        change(&mut feed);
        extend(&there, &feed, &key)
    };
    assert_eq!(refused(&|feed| feed.events[3][9] ^= 1), Err(Unfit::Forged));
    assert_eq!(refused(&|feed| drop(feed.events.pop())), Err(Unfit::Forged));
    assert_eq!(refused(&|feed| feed.events.swap(1, 2)), Err(Unfit::Forged));
    assert_eq!(refused(&|feed| feed.before[0] ^= 1), Err(Unfit::Forged));
    assert_eq!(refused(&|feed| feed.after = 1), Err(Unfit::Gap));
    let other = SecretKey::from_seed(&[8; 32]).key();
    assert_eq!(extend(&there, &sound, &other), Err(Unfit::Forged));
    let author = Author([4; 16]);
    let taken = there.extend(&sound, author, &key).expect("the disk has room");
    assert_eq!(taken.map(|_| ()), Err(Unfit::Senseless));
    assert_eq!((there.last(), refused(&|_| ())), (Position(0), Ok(9)));
}

#[test]
fn two_histories_of_one_author_are_a_fork_wherever_they_part() {
    let dirs = [support::dir(), support::dir(), support::dir()];
    let key = secret().key();
    for parts_at in [1, 5, 9] {
        let [one, two, there] = dirs.each_ref().map(|dir| dir.path().join(parts_at.to_string()));
        let ((one, _), (two, _)) = (open(&one, BOOT), open(&two, BOOT));
        for seq in 1..=20 {
            let other = if seq < parts_at { event(seq) } else { support::sized(seq, 77) };
            one.append(&event(seq)).expect("the disk has room");
            two.append(&other).expect("the disk has room");
            sync(&one);
            sync(&two);
        }
        let there = foreign(&there, BOOT, 0);
        let mut first = feed(&one, 0, 0).expect("events");
        while there.last().0 < 8 {
            extend(&there, &first, &key).expect("a sound feed");
            first = feed(&one, there.last().0, 0).expect("events");
        }
        for after in [0, 6, 8] {
            let other = feed(&two, after, 1 << 20).expect("events");
            let expected = if parts_at < 9 { Err(Unfit::Fork) } else { Ok(12) };
            assert_eq!(extend(&there, &other, &key), expected, "{parts_at}, after {after}");
            if expected.is_ok() {
                break;
            }
        }
    }
}
