//! Makes events: each is in the log before its effect is in the tables.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use worknode::history::{Dot, Event, Nanos, Op};

use super::error::VolumeError;
use super::model::{Shared, State};
use super::node::Node;
use super::tree::Gone;

/// Returns the wall-clock time.
pub(super) fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns its milliseconds.
pub(super) fn ms(time: Nanos) -> u64 {
    u64::try_from(time / 1_000_000).unwrap_or(0)
}

impl Shared {
    /// Makes an event, and does what it says.
    pub(super) fn emit(&self, state: &mut State, op: Op, parents: Vec<Dot>) -> Result<Gone, Errno> {
        if state.is_disputed(&op).map_err(|error| failed(&error))? {
            return self.emit_planned(state, op).map(|()| None);
        }
        let event = self.log_event(state, op, parents)?;
        state.note_merged(&event);
        let applied = state.tree.apply(&event).map_err(|error| {
            state.is_broken = true;
            failed(&error)
        });
        state.tell_listeners(&event.op);
        applied
    }

    /// Makes an event, whose effect is still to come.
    pub(super) fn log_event(
        &self,
        state: &mut State,
        op: Op,
        parents: Vec<Dot>,
    ) -> Result<Event, Errno> {
        if state.is_broken || state.is_closed {
            return Err(Errno::EIO);
        }
        if let Op::Write { content, .. } = &op {
            state.readers.note(*content);
        }
        let time = state.now();
        let dot = Dot { author: self.author, seq: state.tree.state.applied + 1 };
        let event = Event { dot, hlc: state.clock.tick(ms(time)), time, parents, op };
        let appended = self.log.append(&event).map_err(VolumeError::from);
        self.room.note(&appended);
        appended.map_err(|error| failed(&error))?;
        self.prompt.note();
        Ok(event)
    }
}

impl State {
    /// Returns the wall-clock time of this node.
    pub(super) fn now(&self) -> Nanos {
        #[cfg(test)]
        return now() + self.skew;
        #[cfg(not(test))]
        now()
    }

    /// Returns a file.
    pub(super) fn node(&self, ino: u64) -> Result<Node, Errno> {
        self.tree.find(ino).map_err(|error| failed(&error))?.ok_or(Errno::ESTALE)
    }

    /// Returns a directory.
    pub(super) fn dir(&self, ino: u64) -> Result<Node, Errno> {
        let node = self.node(ino)?;
        if node.is_dir() { Ok(node) } else { Err(Errno::ENOTDIR) }
    }
}

/// Logs why the volume does not work, and returns the error number for the program.
pub(super) fn failed(error: &VolumeError) -> Errno {
    tracing::error!(%error, "a file system operation failed");
    Errno::from_raw(error.errno())
}

/// Returns the error number of a file operation.
pub(super) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
