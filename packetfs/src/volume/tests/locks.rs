//! What whoever gets a lock sees, on two volumes in one process.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;

use super::super::node::ROOT;
use super::super::{Caller, LockCall, Volume};
use super::exchange::{give, open, settle};
use super::{SUPERUSER, write};
use crate::locks::table::END;
use crate::locks::{Held, Mode, Space};

const USER: u32 = 1000;
const LONG: Duration = Duration::from_secs(20);
/// Time in which what must not happen would.
const SHORT: Duration = Duration::from_millis(300);

type Told = Receiver<Result<Option<Held>, Errno>>;

/// Passes what one volume says of locks to another one, on a thread.
fn wire(from: &Arc<Volume>, to: &Arc<Volume>) -> JoinHandle<()> {
    let (said_tx, said) = channel::<Vec<u8>>();
    // It ends with the link.
    from.begin_locks(to.author(), Box::new(move |message| drop(said_tx.send(message))));
    let (author, to) = (from.author(), Arc::clone(to));
    std::thread::spawn(move || {
        said.iter().for_each(|it| to.hear_locks(author, &it).expect("a sound message"));
    })
}

fn call(volume: &Volume, name: &[u8], owner: u64) -> LockCall {
    let ino = volume.lookup(ROOT, name).expect("the file is there").attr.ino;
    let space = Space::Flock;
    LockCall { ino, handle: owner, owner, space, start: 0, end: END, pid: 1, thread: 0, user: USER }
}

fn lock(volume: &Volume, name: &[u8], owner: u64, waits: bool) -> Told {
    let (told_tx, told) = channel();
    // The test may have ended.
    let done = Box::new(move |end| told_tx.send(end).unwrap_or(()));
    volume.take_lock(call(volume, name, owner), Mode::Exclusive, waits, done);
    told
}

fn is_granted(told: &Told) -> bool {
    told.recv_timeout(LONG).expect("an answer").is_ok()
}

/// A program writes and closes a file. Nothing is done about that here.
fn write_only(volume: &Volume, name: &[u8], content: &[u8]) {
    let ino = volume.lookup(ROOT, name).expect("the file is there").attr.ino;
    // What was in it before may not be here.
    let flags = libc::O_WRONLY | libc::O_TRUNC;
    let opened = volume.open_file(ino, flags, SUPERUSER).expect("a file");
    volume.write(ino, 0, content, false).expect("the disk has room");
    volume.close_file(opened.handle);
}

#[test]
fn whoever_gets_a_lock_has_first_what_its_former_holder_closed() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let volumes = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    for name in [b"lock", b"data"] {
        write(&volumes[0], ROOT, name, b"");
    }
    settle(&volumes[0]);
    give(&volumes[0], &volumes[1]);
    let threads = [wire(&volumes[0], &volumes[1]), wire(&volumes[1], &volumes[0])];
    // Either is the master once.
    for (turn, [one, other]) in [[0, 1], [1, 0]].into_iter().enumerate() {
        let (one, other) = (&volumes[one], &volumes[other]);
        let content = vec![b'x'; 10 * (turn + 1)];
        assert!(is_granted(&lock(one, b"lock", 1, true)));
        assert!(!is_granted(&lock(other, b"lock", 2, false)));
        let waits = lock(other, b"lock", 2, true);
        write_only(one, b"data", &content);
        one.release_handle(1);
        let early = waits.recv_timeout(SHORT);
        assert_eq!(early.err(), Some(RecvTimeoutError::Timeout), "the events are not there");
        give(one, other);
        assert!(is_granted(&waits));
        let size = other.lookup(ROOT, b"data").expect("the file is there").attr.bytes;
        assert_eq!(size, content.len() as u64);
        other.release_lock(call(other, b"lock", 2), Box::new(|end| assert_eq!(end, Ok(None))));
        // Nothing was written under it.
        assert!(is_granted(&lock(one, b"lock", 3, true)));
        one.release_handle(3);
    }
    volumes[0].end_locks(volumes[1].author());
    volumes[1].end_locks(volumes[0].author());
    for thread in threads {
        thread.join().expect("sound messages");
    }
}

#[test]
fn what_only_a_lost_node_has_is_not_waited_for_long() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let volumes = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    write(&volumes[0], ROOT, b"lock", b"");
    settle(&volumes[0]);
    give(&volumes[0], &volumes[1]);
    let threads = [wire(&volumes[0], &volumes[1]), wire(&volumes[1], &volumes[0])];
    let [one, other] = &volumes;
    assert!(is_granted(&lock(one, b"lock", 1, true)));
    let waits = lock(other, b"lock", 2, true);
    write(one, ROOT, b"more", b"content");
    one.release_handle(1);
    assert_eq!(waits.recv_timeout(SHORT).err(), Some(RecvTimeoutError::Timeout));
    one.end_locks(other.author());
    other.end_locks(one.author());
    assert!(is_granted(&waits));
    assert!(is_granted(&lock(other, b"lock", 2, true)));
    for thread in threads {
        thread.join().expect("sound messages");
    }
}

fn write_as(volume: &Volume, name: &[u8], content: &[u8], uid: u32) {
    let ino = volume.lookup(ROOT, name).expect("the file is there").attr.ino;
    let caller = Caller { uid, ..SUPERUSER };
    let opened = volume.open_file(ino, libc::O_WRONLY | libc::O_TRUNC, caller).expect("a file");
    volume.write(ino, 0, content, false).expect("the disk has room");
    volume.close_file(opened.handle);
}

/// While packets of one user's files are made, which is never done here, others lock, and programs that wait can be told so.
#[test]
fn who_writes_much_keeps_the_own_locks_and_not_those_of_others() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let volumes = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    for name in [b"huge".as_slice(), b"lock"] {
        write(&volumes[0], ROOT, name, b"");
    }
    settle(&volumes[0]);
    give(&volumes[0], &volumes[1]);
    let threads = [wire(&volumes[0], &volumes[1]), wire(&volumes[1], &volumes[0])];
    // Either is the master once.
    for [one, other] in [[0, 1], [1, 0]] {
        let (one, other) = (&volumes[one], &volumes[other]);
        let at = |name, owner, user| LockCall { user, ..call(one, name, owner) };
        let take = |call| {
            let (told_tx, told) = channel();
            one.take_lock(
                call,
                Mode::Exclusive,
                true,
                Box::new(move |end| told_tx.send(end).unwrap_or(())),
            );
            told
        };
        assert!(is_granted(&take(at(b"huge", 1, USER))));
        assert!(is_granted(&take(at(b"lock", 2, USER + 1))));
        let making = one.shared.packets.write().expect("nothing has failed");
        write_as(one, b"huge", b"content", USER);
        let waits = lock(other, b"huge", 3, true);
        one.release_handle(1);
        one.release_handle(2);
        assert!(
            is_granted(&lock(other, b"lock", 4, true)),
            "what another user closed delays it only"
        );
        assert_eq!(waits.recv_timeout(SHORT).err(), Some(RecvTimeoutError::Timeout));
        // Its program is gone.
        other.release_handle(3);
        assert_eq!(waits.recv_timeout(LONG).expect("an answer"), Err(Errno::EINTR));
        drop(making);
        let waits = lock(other, b"huge", 5, true);
        // It is closed, so its events are there soon.
        while waits.recv_timeout(SHORT).is_err() {
            give(one, other);
        }
        other.release_handle(4);
        other.release_handle(5);
    }
    volumes[0].end_locks(volumes[1].author());
    volumes[1].end_locks(volumes[0].author());
    for thread in threads {
        thread.join().expect("sound messages");
    }
}

#[test]
fn a_close_that_is_told_late_takes_no_lock_of_the_next_open_file_with_that_number() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path(), 1);
    write(&volume, ROOT, b"lock", b"");
    let take = |handle: u64, owner: u64, waits: bool| {
        let (told_tx, told) = channel();
        let at = LockCall { handle, ..call(&volume, b"lock", owner) };
        let done = Box::new(move |end| told_tx.send(end).unwrap_or(()));
        volume.take_lock(at, Mode::Exclusive, waits, done);
        told
    };
    let is_free = |handle: u64| {
        let is_free = is_granted(&take(handle, 1000 + handle, false));
        volume.release_handle(handle);
        is_free
    };
    assert!(is_granted(&take(1, 7, true)));
    // It is closed, and the next one gets its number from the kernel before that is told.
    assert!(is_granted(&take(2, 7, true)));
    volume.release_handle(1);
    assert!(!is_free(10), "the second has it");
    volume.release_handle(2);
    assert!(is_free(11), "nobody has it");
    assert!(is_granted(&take(3, 7, true)));
    volume.release_handle(3);
    assert!(is_free(12));
}
