//! Who waits for whom in a pipeline: a walk that waits for a slot may be the one whose output all those wait for that have slots.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use worknode::spec::{FdKind, WalkSpec};

/// A pipe: device and number of its inode.
type Pipe = (u32, u32, u64);

/// The pipes that executed walks read.
#[derive(Debug, Default)]
pub(crate) struct Pipes(RefCell<HashMap<Pipe, Read>>);

#[derive(Debug, Default)]
struct Read {
    /// Walks that read it.
    walks: usize,
    /// When a walk that writes into it last left the queue.
    left: Option<Instant>,
}

/// Counts a walk among those that read its input, until it is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    pipes: Rc<Pipes>,
    pipe: Pipe,
}

impl Pipes {
    /// Notes that the walk of a stub is executed, if its standard input is a pipe.
    pub(super) fn read(self: &Rc<Self>, stub: u32, spec: &WalkSpec) -> Option<Reading> {
        let pipe = reads_a_stream(spec).then(|| pipe(stub, 0)).flatten()?;
        Some(self.note(pipe))
    }

    fn note(self: &Rc<Self>, pipe: Pipe) -> Reading {
        self.0.borrow_mut().entry(pipe).or_default().walks += 1;
        Reading { pipes: Rc::clone(self), pipe }
    }

    /// Tells whether a walk is to leave the queue because another one, which has a slot, reads what it writes. Only one of those
    /// that write into the same pipe may do so in each `period`: they may be many, and need not be what the reader waits for.
    pub(super) fn leaves(&self, writes: &[Pipe], now: Instant, period: Duration) -> bool {
        let mut pipes = self.0.borrow_mut();
        let Some(read) = writes.iter().find(|pipe| pipes.contains_key(pipe)) else { return false };
        let read = pipes.get_mut(read).expect("it was just there");
        let may_leave = read.left.is_none_or(|left| now.saturating_duration_since(left) >= period);
        if may_leave {
            read.left = Some(now);
        }
        may_leave
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut pipes = self.pipes.0.borrow_mut();
        if let Some(read) = pipes.get_mut(&self.pipe) {
            read.walks -= 1;
            if read.walks == 0 {
                pipes.remove(&self.pipe);
            }
        }
    }
}

/// Tells whether a walk's standard input is a stream.
pub(super) fn reads_a_stream(spec: &WalkSpec) -> bool {
    spec.fds.iter().any(|fd| fd.fd == 0 && fd.kind == FdKind::Input)
}

/// Returns the pipes into which the walk of a stub writes.
pub(super) fn written(stub: u32, spec: &WalkSpec) -> Vec<Pipe> {
    let outputs = spec.fds.iter().filter(|fd| fd.kind == FdKind::Output);
    outputs.filter_map(|fd| pipe(stub, fd.fd)).collect()
}

/// Returns the pipe that a process has open as a descriptor, if it is one. No file system is asked.
fn pipe(pid: u32, fd: u32) -> Option<Pipe> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok()?;
    let is_pipe = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Fifo;
    is_pipe.then_some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    #[test]
    fn one_writer_of_those_whose_reader_has_a_slot_leaves_in_each_period() {
        let (pipes, now) = (Rc::new(Pipes::default()), Instant::now());
        let (one, other) = ((0, 1, 10), (0, 1, 11));
        assert!(!pipes.leaves(&[one], now, PERIOD), "nobody reads it");
        let [first, second] = [pipes.note(one), pipes.note(one)];
        assert!(!pipes.leaves(&[other], now, PERIOD) && !pipes.leaves(&[], now, PERIOD));
        assert!(pipes.leaves(&[other, one], now, PERIOD));
        assert!(!pipes.leaves(&[one], now + PERIOD / 2, PERIOD));
        assert!(pipes.leaves(&[one], now + PERIOD, PERIOD));
        drop(first);
        assert!(pipes.leaves(&[one], now + 2 * PERIOD, PERIOD));
        drop(second);
        assert!(!pipes.leaves(&[one], now + 3 * PERIOD, PERIOD) && pipes.0.borrow().is_empty());
    }

    #[test]
    fn both_ends_are_the_same_pipe() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (_, another) = std::io::pipe().expect("a pipe");
        let own = |fd: &dyn AsRawFd| pipe(std::process::id(), fd.as_raw_fd().cast_unsigned());
        assert!(own(&reader).is_some() && own(&reader) == own(&writer));
        assert_ne!(own(&reader), own(&another));
        let file = std::fs::File::open("/proc/self/status").expect("it is there");
        assert_eq!(own(&file), None);
    }
}
