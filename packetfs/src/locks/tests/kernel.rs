//! The table does what the kernel does with a file of its own: each owner is an open file description.

use std::fs::File;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, flock};
use worknode::history::{Author, FileId};

use super::super::limits::TRY_MAX;
use super::super::table::{END, Held, Mode, Owner, Space, Table};
use super::super::{Action, Node, Told, Want};
use super::{Dice, seed};

const OWNERS: u64 = 4;
const STEPS: u64 = 4000;

fn call(file: &File, kind: i32, (start, end): (u64, u64), gets: bool) -> Result<i32, Errno> {
    let length = if end == END { 0 } else { end - start + 1 };
    let mut lock = libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: start.try_into().unwrap(),
        l_len: length.try_into().unwrap(),
        l_pid: 0,
    };
    if gets {
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    } else {
        fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
    }
    Ok(i32::from(lock.l_type))
}

#[test]
fn ranges_are_locked_as_the_kernel_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    File::create(&path).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let files: Vec<File> = (0..OWNERS).map(|_| open()).collect();
    let seed = seed();
    let mut dice = Dice(seed);
    let mut table = Table::default();
    for step in 0..STEPS {
        let id = dice.below(OWNERS);
        let owner = Owner { node: Author::default(), id };
        let start = dice.below(40);
        let end = if dice.below(6) == 0 { END } else { start + dice.below(20) };
        let mode = if dice.below(2) == 0 { Mode::Shared } else { Mode::Exclusive };
        let lock = Held { owner, space: Space::Range, mode, start, end, pid: 0 };
        let kind = if mode == Mode::Shared { libc::F_RDLCK } else { libc::F_WRLCK };
        let file = &files[usize::try_from(id).unwrap()];
        match dice.below(4) {
            0 => {
                call(file, libc::F_UNLCK, (start, end), false).unwrap();
                table.clear(&lock);
            }
            1 => {
                let found = call(file, kind, (start, end), true).unwrap();
                let is_free = found == libc::F_UNLCK;
                assert_eq!(
                    is_free,
                    table.conflict(&lock).is_none(),
                    "OSWALK_SEED={seed}, step {step}: {lock:?}"
                );
            }
            _ => {
                let is_set = call(file, kind, (start, end), false).is_ok();
                assert_eq!(
                    is_set,
                    table.conflict(&lock).is_none(),
                    "OSWALK_SEED={seed}, step {step}: {lock:?}"
                );
                if is_set {
                    table.set(lock);
                }
            }
        }
    }
}

/// Each owner locks, converts and unlocks without waiting. A conversion that fails loses what there was.
#[test]
fn flock_is_taken_converted_and_lost_as_the_kernel_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    File::create(&path).unwrap();
    let files: Vec<File> = (0..OWNERS).map(|_| File::open(&path).unwrap()).collect();
    let seed = seed();
    let mut dice = Dice(seed);
    let (mut node, mut now) = (Node::new(Author([1; 16])), Instant::now());
    let file = FileId { author: Author([9; 16]), seq: 1 };
    for step in 0..STEPS {
        let id = dice.below(OWNERS);
        let owner = Owner { node: Author([1; 16]), id };
        let lock = Held { space: Space::Flock, ..Held::all_of(owner) };
        let at = &files[usize::try_from(id).unwrap()];
        let (mode, operation) = match dice.below(3) {
            0 => {
                flock(at, FlockOperation::Unlock).unwrap();
                node.unlock(file, lock, 0, now);
                continue;
            }
            1 => (Mode::Shared, FlockOperation::NonBlockingLockShared),
            _ => (Mode::Exclusive, FlockOperation::NonBlockingLockExclusive),
        };
        let is_granted = flock(at, operation).is_ok();
        let id =
            node.request(file, Want::Lock { lock: Held { mode, ..lock }, waits: false }, 0, now);
        now += TRY_MAX;
        node.tick(now);
        let told = Action::Tell(Told::Granted { id });
        let context = format!("OSWALK_SEED={seed}, step {step}: {lock:?}");
        assert_eq!(node.actions().contains(&told), is_granted, "{context}");
    }
}

#[test]
fn flock_and_fcntl_do_not_see_each_other_and_a_lock_of_unknown_kind_sees_both() {
    let lock = |id, space| Held { space, ..Held::all_of(Owner { node: Author::default(), id }) };
    let mut table = Table::default();
    table.set(lock(1, Space::Flock));
    table.set(lock(2, Space::Range));
    assert!(table.conflict(&lock(3, Space::Flock)).is_some_and(|held| held.owner.id == 1));
    assert!(table.conflict(&lock(3, Space::Range)).is_some_and(|held| held.owner.id == 2));
    table.clear(&lock(1, Space::Flock));
    assert!(table.conflict(&lock(3, Space::Flock)).is_none());
    assert!(table.conflict(&lock(3, Space::Whole)).is_some());
}
