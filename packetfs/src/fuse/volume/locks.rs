//! The kernel's requests for locks.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Errno, INodeNo, LockOwner, ReplyEmpty, ReplyLock, Request};

use crate::locks::table::END;
use crate::locks::{Held, Mode, Space};
use crate::volume::{LockCall, Shown, Volume};

/// Looks at a thread that is about to sleep.
const LOOKS_MAX: u32 = 64;
/// Numbers of `flock` and `fcntl` for programs of 32 bits, which no 64-bit program uses for a lock.
const FLOCK_32: i64 = 143;
const FCNTL_32: [i64; 2] = [55, 221];

/// The open files of a mount by which locks were asked for. When the mount is gone, so are their locks.
#[derive(Debug)]
pub(super) struct Locked {
    volume: Arc<Shown>,
    handles: Mutex<BTreeSet<u64>>,
}

impl Locked {
    pub(super) fn new(volume: Arc<Shown>) -> Self {
        Self { volume, handles: Mutex::default() }
    }

    /// An open file is gone.
    pub(super) fn end(&self, handle: u64) {
        let had = self.handles.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if had {
            self.volume.release_handle(handle);
        }
    }

    fn note(&self, handle: u64) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).insert(handle);
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let handles =
            std::mem::take(self.handles.get_mut().unwrap_or_else(PoisonError::into_inner));
        handles.into_iter().for_each(|handle| self.volume.release_handle(handle));
    }
}

/// A request for a lock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) ino: INodeNo,
    pub(super) handle: u64,
    pub(super) owner: LockOwner,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: i32,
    pub(super) pid: u32,
}

impl Wanted {
    fn call(&self, request: &Request) -> LockCall {
        let (thread, user) = (request.pid(), request.uid());
        let Self { ino, handle, owner, start, end, pid, .. } = *self;
        let end = end.min(END);
        let space = if (start, end) == (0, END) { space(thread) } else { Space::Range };
        LockCall { ino: ino.0, handle, owner: owner.0, space, start, end, pid, thread, user }
    }

    fn mode(&self) -> Option<Mode> {
        match self.kind {
            libc::F_RDLCK => Some(Mode::Shared),
            libc::F_WRLCK => Some(Mode::Exclusive),
            _ => None,
        }
    }
}

/// Takes a lock or gives it back. The answer may come later.
pub(super) fn set(
    locked: &Locked,
    request: &Request,
    wanted: &Wanted,
    waits: bool,
    reply: ReplyEmpty,
) {
    let call = wanted.call(request);
    let answer = move |taken: Result<Option<Held>, nix::errno::Errno>| match taken {
        Ok(_) => reply.ok(),
        Err(error) => reply.error(Errno::from_i32(error as i32)),
    };
    match wanted.mode() {
        Some(mode) => {
            locked.note(wanted.handle);
            locked.volume.take_lock(call, mode, waits, Box::new(answer));
        }
        None => locked.volume.release_lock(call, Box::new(answer)),
    }
}

/// Tells which lock is in the way of one.
pub(super) fn test(volume: &Volume, request: &Request, wanted: Wanted, reply: ReplyLock) {
    let Some(mode) = wanted.mode() else { return reply.error(Errno::EINVAL) };
    let own = volume.author();
    let answer = move |found: Result<Option<Held>, nix::errno::Errno>| match found {
        Ok(None) => reply.locked(wanted.start, wanted.end, libc::F_UNLCK, 0),
        Ok(Some(held)) => {
            let kind = match held.mode {
                Mode::Shared => libc::F_RDLCK,
                Mode::Exclusive => libc::F_WRLCK,
            };
            // Processes of other nodes have no number here.
            let pid = if held.owner.node == own { held.pid } else { 0 };
            reply.locked(held.start, held.end, kind, pid);
        }
        Err(error) => reply.error(Errno::from_i32(error as i32)),
    };
    volume.test_lock(wanted.call(request), mode, Box::new(answer));
}

/// Tells by which call a thread asks for a lock on a whole file. The kernel says so in a field that fuser does not pass on.
fn space(thread: u32) -> Space {
    for _ in 0..LOOKS_MAX {
        let Ok(text) = fs::read_to_string(format!("/proc/{thread}/syscall")) else { break };
        match text.split_whitespace().next().map(str::parse::<i64>) {
            // It does not sleep yet.
            Some(Err(_)) => std::thread::yield_now(),
            Some(Ok(libc::SYS_flock | FLOCK_32)) => return Space::Flock,
            Some(Ok(number)) if number == libc::SYS_fcntl || FCNTL_32.contains(&number) => {
                return Space::Range;
            }
            _ => break,
        }
    }
    Space::Whole
}
