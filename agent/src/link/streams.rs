//! The streams of a link, one per walk. Each side closes its end when it needs no more frames.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::inbox::{self, Inbox, InboxSender};
use crate::wire::frame::Frame;

/// This side's ends of the streams of a link.
#[derive(Debug)]
pub(super) struct Streams {
    /// The caller's streams are odd, the callee's even.
    next: Cell<u32>,
    open: RefCell<HashMap<u32, InboxSender>>,
    /// Frames without a stream: late ones of finished walks, or invented ones of a dishonest peer.
    strays: Cell<u64>,
}

impl Streams {
    /// Makes the streams of the caller or the callee.
    pub(super) fn new(called: bool) -> Self {
        let next = Cell::new(if called { 1 } else { 2 });
        Self { next, open: RefCell::default(), strays: Cell::new(0) }
    }

    /// Opens a stream of this side.
    pub(super) fn open(&self) -> (u32, Inbox) {
        let stream = self.next.get();
        self.next.set(stream.wrapping_add(2));
        (stream, self.take_part(stream))
    }

    /// Accepts a stream that the peer opens. Returns `None` if the number is not one of its own, or already open.
    pub(super) fn accept(&self, stream: u32) -> Option<Inbox> {
        let is_ours = stream % 2 == self.next.get() % 2;
        let is_open = self.open.borrow().contains_key(&stream);
        (!is_ours && !is_open).then(|| self.take_part(stream))
    }

    fn take_part(&self, stream: u32) -> Inbox {
        let (slit, inbox) = inbox::inbox();
        self.open.borrow_mut().insert(stream, slit);
        inbox
    }

    /// Queues a frame in its stream. Returns false if too much is waiting there.
    pub(super) fn route(&self, frame: Frame) -> bool {
        match self.open.borrow().get(&frame.stream) {
            Some(slit) => slit.put(frame),
            None => {
                self.strays.set(self.strays.get() + 1);
                true
            }
        }
    }

    /// Closes a stream: its later frames are dropped.
    pub(super) fn close(&self, stream: u32) {
        self.open.borrow_mut().remove(&stream);
    }

    pub(super) fn is_any_open(&self) -> bool {
        !self.open.borrow().is_empty()
    }

    /// Closes all streams.
    pub(super) fn close_all(&self) {
        self.open.borrow_mut().clear();
    }

    /// Returns the number of frames that belonged to no stream.
    pub(super) fn strays(&self) -> u64 {
        self.strays.get()
    }
}
