//! What the exchange is told, and how much of it waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use packetfs::volume::Volume;
use worknode::id::NodeId;
use worknode::key::Key;

use crate::link::queued::{FRAME_COST_BYTES, Outbox};
use crate::wire::frame::Kind;
use crate::wire::limits::WAITING_BYTES_MAX;

/// A node that sent what does not match its digest or signature, and the evidence.
pub(crate) type Liar = (NodeId, String);

/// What the exchange is told.
pub(super) enum Heard {
    /// The volume is open.
    Volume(Arc<Volume>),
    /// Keys whose events are taken.
    Members(HashMap<Key, NodeId>),
    /// A link has begun. The last says whether the other side knows of locks.
    Begun(u32, NodeId, Outbox, bool),
    /// A link has ended.
    Ended(u32),
    /// A frame has come over a link.
    Frame(u32, Kind, Bytes),
    /// The volume has more to give.
    Grown,
}

/// Bytes of frames of each link that the exchange has not taken yet, with the cost of each.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<u32, usize>>);

impl Waiting {
    pub(super) fn begin(&self, link: u32) {
        self.lock().insert(link, 0);
    }

    pub(super) fn end(&self, link: u32) {
        self.lock().remove(&link);
    }

    /// Counts a frame. Returns false if too much waits. The frames of a link that has ended are not counted.
    pub(super) fn add(&self, link: u32, bytes: usize) -> bool {
        let bytes = bytes + FRAME_COST_BYTES;
        self.lock().get_mut(&link).is_none_or(|waiting| {
            *waiting += bytes;
            *waiting - bytes <= WAITING_BYTES_MAX
        })
    }

    pub(super) fn taken(&self, link: u32, bytes: usize) {
        if let Some(waiting) = self.lock().get_mut(&link) {
            *waiting = waiting.saturating_sub(bytes + FRAME_COST_BYTES);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_without_payload_are_bounded_too() {
        let waiting = Waiting::default();
        waiting.begin(1);
        let frames = (0..).take_while(|_| waiting.add(1, 0)).count();
        assert!(frames <= WAITING_BYTES_MAX / FRAME_COST_BYTES + 1, "{frames}");
        (0..=frames).for_each(|_| waiting.taken(1, 0));
        assert!(waiting.add(1, 0), "they were taken");
    }
}
