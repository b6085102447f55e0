//! The cluster's file system for a process whose mount namespace does not have it, such as one in a container.
//!
//! The agent passes a descriptor of the mount's root. A hook makes a call below the mount point relative to it: the kernel
//! checks the process's own rights, and what is opened is the real file. Where the mount is visible, and in sessions without
//! a volume, every call is the next function's.
//!
//! ```text
//! hooks ──▶ the first bytes ──▶ place: below the mount point? ──▶ root: its descriptor, asked of the agent ──▶ the call
//! ```

mod ask;
mod directory;
mod hooks;
mod links;
mod memory;
mod mode;
mod place;
mod program;
mod root;
mod temporary;

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ask::Lack;
pub(crate) use memory::Memory;
use place::Place;
pub(crate) use program::Script;
pub(crate) use root::name;

use crate::next;
use crate::path::PathBuffer;
use crate::session::volume_point;
use crate::sys;

/// Most links that are followed in a path, as for the kernel.
const LINKS_MAX: usize = 40;
const ENOENT: c_int = 2;
const ENOTDIR: c_int = 20;
const ELOOP: c_int = 40;

/// A volume was mounted when the session was opened, and neither its mount nor something in its place is visible here.
static IS_HIDDEN: AtomicBool = AtomicBool::new(false);
/// A bit for each byte that a name of the mount point begins with, of the byte's lowest six bits, and for dots and slashes.
static FIRST: AtomicU64 = AtomicU64::new(0);

/// A call with a directory and a path relative to it; returns the error number, 0 if there is none.
pub(crate) type Call<'c> = &'c mut dyn FnMut(c_int, &CStr) -> c_int;

/// What a call returns.
pub(crate) trait Outcome {
    /// Returns the error number, 0 if there is none.
    fn error(&self) -> c_int;
}

impl<T> Outcome for Result<T, c_int> {
    fn error(&self) -> c_int {
        self.as_ref().map_or_else(|error| *error, |_| 0)
    }
}

impl<T> Outcome for Option<T> {
    fn error(&self) -> c_int {
        if self.is_some() { 0 } else { ENOENT }
    }
}

impl Outcome for bool {
    fn error(&self) -> c_int {
        if *self { 0 } else { ENOENT }
    }
}

impl Outcome for c_int {
    fn error(&self) -> c_int {
        if *self < 0 { next::errno() } else { 0 }
    }
}

impl Outcome for isize {
    fn error(&self) -> c_int {
        if *self < 0 { next::errno() } else { 0 }
    }
}

impl<T> Outcome for *mut T {
    fn error(&self) -> c_int {
        if self.is_null() { next::errno() } else { 0 }
    }
}

/// Finds out whether the session has a volume that this process cannot see. Nobody is asked for that: where the mount is
/// visible, and without a volume, no call may need more than the next function does.
pub(crate) fn begin() {
    let Some(point) = volume_point().filter(|point| !is_visible(point)) else { return };
    let names = point.split(|&byte| byte == b'/').filter_map(<[u8]>::first);
    let first = names.chain(b"./").fold(0, |bits, &byte| bits | bit(byte));
    FIRST.store(first, Ordering::Relaxed);
    IS_HIDDEN.store(true, Ordering::Relaxed);
}

fn bit(byte: u8) -> u64 {
    1 << (byte & 63)
}

/// Tells whether a path may lead to the volume, if a name in it begins with this byte.
#[inline]
fn may_begin(byte: u8) -> bool {
    FIRST.load(Ordering::Relaxed) & bit(byte) != 0
}

/// Tells whether this process cannot see the mount. Decided once, when the library is loaded.
#[inline]
pub(crate) fn is_hidden() -> bool {
    IS_HIDDEN.load(Ordering::Relaxed)
}

/// Tells whether something is mounted at the mount point: the volume, or what somebody wants to be there instead.
fn is_visible(point: &[u8]) -> bool {
    let mut buffer = PathBuffer::new();
    let Some(path) = buffer.join(&[point]) else { return true };
    match sys::identity(sys::AT_FDCWD, path) {
        Ok(found) => found.is_mount,
        Err(error) => !matches!(error, ENOENT | ENOTDIR),
    }
}

/// The volume for a call.
#[derive(Clone, Copy)]
struct Volume {
    point: &'static [u8],
    memory: Memory,
}

/// Calls `call` with a directory and a path relative to it, if `path` leads to the volume, from the directory `from`, and the
/// volume is not visible here. Returns false without calling it otherwise: the path is then the next function's.
///
/// If `call` has found nothing, it may be called again with the path to which an absolute link leads.
#[inline(never)]
fn at(from: c_int, path: &CStr, memory: Memory, call: Call<'_>) -> bool {
    let Some(point) = volume_point() else { return false };
    let volume = Volume { point, memory };
    match place::of(path, point) {
        Place::Elsewhere => false,
        _ if !is_hidden() => false,
        Place::Upwards => volume.upwards(from, path, call),
        Place::Below { above, .. } if !volume.is_directory(from, above) => false,
        Place::Below { rest, .. } => volume.below(rest, call),
    }
}

impl Volume {
    /// Tells whether a path is relative to the directory of an absolute one; all are to the root.
    fn is_directory(self, from: c_int, path: Option<&[u8]>) -> bool {
        let Some(path) = path else { return true };
        let slash: &[u8] = if path.is_empty() { b"/" } else { b"" };
        let identify = |path: &CStr| sys::identity(sys::AT_FDCWD, path).ok();
        let wanted = self.memory.with(|[mut room]| room.join(&[path, slash]).and_then(identify));
        wanted.is_some() && wanted == sys::identity(from, c"").ok()
    }

    /// Calls with a path relative to the mount's root.
    fn below(self, rest: &CStr, call: Call<'_>) -> bool {
        let root = match root::get() {
            Ok(root) => root,
            // It is unmounted: programs see what is below, as everywhere.
            Err(Lack::Refused) => return false,
            // What they write must not end in a directory that is there by chance.
            Err(Lack::Unreachable) => {
                fail(root::ENOTCONN, rest, call);
                return true;
            }
        };
        if place::leaves(rest.to_bytes()) {
            return self.memory.with(|[mut room]| {
                let path = place::resolve(&[self.point, rest.to_bytes()], &mut room);
                path.is_some_and(|path| self.resolved(root, path, call))
            });
        }
        self.within(root, or_dot(rest), call);
        true
    }

    /// Calls with a relative path that begins with `..`. The root of the mount has no parent here, so one that leads out is
    /// made absolute.
    fn upwards(self, from: c_int, path: &CStr, call: Call<'_>) -> bool {
        self.memory.with(|[mut room, mut buffer]| {
            let Some(inside) = directory::inside(from, &mut room) else { return false };
            let (Ok(root), true) = (root::get(), place::leaves_from(inside, path.to_bytes()))
            else {
                return false;
            };
            let path = place::resolve(&[self.point, inside, path.to_bytes()], &mut buffer);
            path.is_some_and(|path| self.resolved(root, path, call))
        })
    }

    /// Calls with an absolute path without `..`.
    fn resolved(self, root: c_int, path: &CStr, call: Call<'_>) -> bool {
        match place::of(path, self.point) {
            Place::Below { rest, .. } => self.within(root, or_dot(rest), call),
            _ => {
                call(sys::AT_FDCWD, path);
            }
        }
        true
    }

    /// Calls with a path that stays in the volume, and again if an absolute link has led to where the volume is not mounted:
    /// the kernel has then found nothing. After any other error, a call that does not follow the last name must not do so.
    fn within(self, root: c_int, rest: &CStr, call: Call<'_>) {
        match call(root, rest) {
            // The agent is gone.
            root::ENOTCONN => {
                if let Some(another) = root::another() {
                    call(another, rest);
                }
            }
            ENOENT | ENOTDIR => self.follow(root, rest, call),
            _ => {}
        }
    }

    #[inline(never)]
    fn follow(self, root: c_int, rest: &CStr, call: Call<'_>) {
        self.memory.with(|[mut path, whole, name, target]| {
            let mut rooms = [whole, name, target];
            let mut followed = path.join(&[rest.to_bytes()]).is_some();
            for count in 0..=LINKS_MAX {
                followed = followed && links::follow_first(root, &mut path, &mut rooms, self.point);
                if !followed {
                    if let Some(path) = path.path().filter(|_| count > 0) {
                        call(root, path);
                    }
                    return;
                }
            }
            fail(ELOOP, rest, call);
        });
    }
}

/// Has a call fail with an error.
fn fail(error: c_int, rest: &CStr, call: Call<'_>) {
    call(root::GONE, rest);
    next::fail(error);
}

fn or_dot(rest: &CStr) -> &CStr {
    if rest.is_empty() { c"." } else { rest }
}

/// Returns what `look` finds at a path, in the volume or elsewhere.
pub(crate) fn look<R: Outcome>(path: &CStr, mut look: impl FnMut(c_int, &CStr) -> R) -> R {
    let found = if is_hidden() { find(sys::AT_FDCWD, path, &mut look) } else { None };
    found.unwrap_or_else(|| look(sys::AT_FDCWD, path))
}

/// Returns what `call` returns, or `None` if it is not called (see [`at`]).
pub(crate) fn find<R: Outcome>(
    from: c_int,
    path: &CStr,
    call: impl FnMut(c_int, &CStr) -> R,
) -> Option<R> {
    find_by(Memory::Mapped, from, path, call)
}

/// Returns what `call` returns, for which the buffers lie in this memory.
pub(crate) fn find_by<R: Outcome>(
    memory: Memory,
    from: c_int,
    path: &CStr,
    mut call: impl FnMut(c_int, &CStr) -> R,
) -> Option<R> {
    let mut result = None;
    at(from, path, memory, &mut |directory, path| result.insert(call(directory, path)).error());
    result
}

/// Tells whether a path leads into the volume, which is not visible here.
pub(crate) fn is_inside(path: &CStr) -> bool {
    is_hidden()
        && find(sys::AT_FDCWD, path, |directory, _| Some(directory != sys::AT_FDCWD)).flatten()
            == Some(true)
}

/// Returns the interpreter of the file at a path, if it is a script that may be executed.
pub(crate) fn script(path: &CStr) -> Option<Script> {
    if !look(path, sys::may_execute_at) {
        return None;
    }
    let fd = look(path, |directory, path| sys::open_at(directory, path, sys::O_RDONLY)).ok()?;
    let script = program::read_from(fd);
    sys::close(fd);
    script
}
