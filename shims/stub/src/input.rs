//! Input of the walk. It is peeked at here, and consumed only when the walk has read it: input that a
//! walk leaves in a pipe is there for the next process. Terminals cannot be peeked at, so they are
//! read only while the walk waits for input.

use worknode::door::{DATA_BYTES_MAX, Kind};

use crate::door;
use crate::sys::{self, Sort};

/// Most descriptors that the agent may want to read from at a time.
pub(crate) const WANTS_MAX: usize = 64;
/// Default capacity of a pipe.
const PIPE_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
struct Want {
    fd: u16,
    /// Bytes wanted; 0 asks only to be told when there is input.
    bytes: usize,
}

/// The descriptors that the agent wants to read from.
#[derive(Debug)]
pub(crate) struct Input {
    wants: [Want; WANTS_MAX],
    count: usize,
    /// A private pipe, into which the contents of other pipes are copied.
    copy: Option<[i32; 2]>,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { wants: [Want { fd: 0, bytes: 0 }; WANTS_MAX], count: 0, copy: None }
    }

    /// Returns the descriptors to wait for, in the order of [`Input::serve`]'s index.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.wants[..self.count].iter().map(|want| i32::from(want.fd))
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds a want, replacing an earlier one for the descriptor; returns `None` if there are too many.
    pub(crate) fn want(&mut self, fd: u16, bytes: u32) -> Option<()> {
        self.forget(fd);
        let bytes = usize::try_from(bytes).unwrap_or(DATA_BYTES_MAX);
        *self.wants.get_mut(self.count)? = Want { fd, bytes };
        self.count += 1;
        Some(())
    }

    pub(crate) fn forget(&mut self, fd: u16) {
        let wants = &mut self.wants[..self.count];
        if let Some(index) = wants.iter().position(|want| want.fd == fd) {
            wants.swap(index, wants.len() - 1);
            self.count -= 1;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Serves a want whose descriptor is ready. Returns whether input was consumed, and so is lost to
    /// other processes.
    pub(crate) fn serve(&mut self, index: usize, door: i32, data: &mut [u8]) -> bool {
        let Want { fd: about, bytes } = self.wants[index];
        let fd = i32::from(about);
        let sort = sys::sort(fd);
        // A closed connection is noticed when the relay reads from it.
        let tell = |kind, payload: &[u8]| drop(door::send(door, kind, about, payload));
        if bytes == 0 {
            self.forget(about);
            tell(Kind::Ready, b"");
            return false;
        }
        let some = bytes.min(data.len());
        let found = match sort {
            Sort::Pipe => self.copy(fd, bytes),
            Sort::Socket => sys::peek(fd, &mut data[..some]),
            Sort::Regular | Sort::Other => sys::read(fd, &mut data[..some]),
        };
        let length = match found {
            Err(sys::EAGAIN | sys::EINTR) => return false,
            Ok(length @ 1..) => length,
            // A descriptor that cannot be read, such as a terminal that hung up, is at its end.
            Ok(0) | Err(_) => {
                self.forget(about);
                tell(Kind::Eof, b"");
                return false;
            }
        };
        self.forget(about);
        if let (Sort::Pipe, Some([copy, _])) = (sort, self.copy) {
            let mut left = length;
            while left > 0 {
                let room = left.min(data.len());
                let Ok(length @ 1..) = sys::read(copy, &mut data[..room]) else { break };
                tell(Kind::Data, &data[..length]);
                left -= length;
            }
        } else {
            tell(Kind::Data, &data[..length]);
        }
        // A frame that is not full ends the answer.
        if length.is_multiple_of(data.len()) {
            tell(Kind::Data, b"");
        }
        if sort == Sort::Regular {
            sys::move_offset(fd, -isize::try_from(length).unwrap_or(0));
        }
        sort == Sort::Other
    }

    /// Consumes what the walk has read.
    pub(crate) fn take(about: u16, bytes: u32, data: &mut [u8]) {
        let fd = i32::from(about);
        let mut left = usize::try_from(bytes).unwrap_or(0);
        match sys::sort(fd) {
            Sort::Regular => sys::move_offset(fd, isize::try_from(left).unwrap_or(0)),
            Sort::Pipe | Sort::Socket => {
                while left > 0 {
                    let room = left.min(data.len());
                    match sys::read_now(fd, &mut data[..room]) {
                        Ok(length @ 1..) => left -= length,
                        Err(sys::EINTR | sys::EAGAIN) if sys::has_input(fd) => {}
                        // Another reader of the pipe has consumed it.
                        Ok(0) | Err(_) => return,
                    }
                }
            }
            Sort::Other => {}
        }
    }

    /// Copies the contents of a pipe into the private one.
    fn copy(&mut self, fd: i32, bytes: usize) -> Result<usize, i32> {
        let to = match self.copy {
            Some([_, to]) => to,
            None => {
                let ends = sys::pipe()?.map(|end| sys::move_up(end, door::LEAST_DESCRIPTOR));
                self.copy.insert(ends)[1]
            }
        };
        if bytes > PIPE_BYTES {
            sys::widen(fd, bytes);
            sys::widen(to, bytes);
        }
        sys::tee(fd, to, bytes)
    }
}
