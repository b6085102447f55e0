//! Counts the messages between volumes that wait to be sent on a link, for the threads that make them.
//!
//! The main thread empties a link's queue, and the thread of the mesh fills it. A node that reads nothing would otherwise
//! have it filled without limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::wire::frame::{Frame, Kind};

/// What a queued frame takes in memory besides its payload: its entry in the queue, and the head of an allocation.
pub(crate) const FRAME_COST_BYTES: usize = 128;

/// Most bytes of messages other than events that wait to be sent. A node with all the locks it may have is told of them in
/// 5 MiB. A peer for which more waits has asked for much and reads nothing: its link is dropped.
pub(crate) const QUEUED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most bytes of them above which nothing is said or asked that can be said or asked later.
pub(crate) const UNHURRIED_BYTES_MAX: usize = 1024 * 1024;

/// What the threads of a link's messages between volumes share.
#[derive(Debug, Default)]
pub(super) struct Queued {
    /// Bytes that wait of messages other than events, with the cost of each.
    bytes: AtomicUsize,
    /// Messages of events that were given to the socket so far.
    events: AtomicU64,
    /// Notified when too much waits.
    overflow: Notify,
}

impl Queued {
    /// Notes that a frame goes to the socket.
    pub(super) fn note_sent(&self, frame: &Frame) {
        match frame.kind {
            Kind::Events => drop(self.events.fetch_add(1, Ordering::Release)),
            Kind::Has | Kind::Want | Kind::Locks => {
                let bytes = frame.payload.len() + FRAME_COST_BYTES;
                self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Waits until too much waits.
    pub(super) async fn overflowed(&self) {
        self.overflow.notified().await;
    }
}

/// The way of messages between volumes to a link's queue, for use from other threads. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    out_tx: mpsc::UnboundedSender<Frame>,
    queued: Arc<Queued>,
}

impl Outbox {
    pub(super) fn new(out_tx: mpsc::UnboundedSender<Frame>, queued: Arc<Queued>) -> Self {
        Self { out_tx, queued }
    }

    /// Sends a message of events. How many wait is for the caller to bound, by [`Self::events_sent`].
    pub(crate) fn send_events(&self, payload: Bytes) {
        // It is dropped if the link has ended.
        let _ = self.out_tx.send(Frame { kind: Kind::Events, stream: 0, payload });
    }

    /// Sends a [`Kind::Has`], [`Kind::Want`] or [`Kind::Locks`], or ends the link if too much waits.
    pub(crate) fn send(&self, kind: Kind, payload: Bytes) {
        let bytes = payload.len() + FRAME_COST_BYTES;
        let before = self.queued.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > QUEUED_BYTES_MAX {
            self.queued.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return self.queued.overflow.notify_one();
        }
        // It is dropped if the link has ended.
        let _ = self.out_tx.send(Frame { kind, stream: 0, payload });
    }

    /// Tells whether so much waits that what can be said later is not said now.
    pub(crate) fn is_busy(&self) -> bool {
        self.queued.bytes.load(Ordering::Relaxed) > UNHURRIED_BYTES_MAX
    }

    /// Returns how many messages of events were given to the socket. The other side cannot have answered more.
    pub(crate) fn events_sent(&self) -> u64 {
        self.queued.events.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_bounded_and_ends_the_link() {
        let (outbox, mut socket) = testing::outbox();
        let frames = QUEUED_BYTES_MAX / FRAME_COST_BYTES;
        assert!(!outbox.is_busy());
        (0..frames).for_each(|_| outbox.send(Kind::Locks, Bytes::new()));
        assert!(outbox.is_busy() && !socket.is_overflowed());
        assert!(socket.take().is_some(), "one is read");
        (0..100).for_each(|_| outbox.send(Kind::Has, Bytes::new()));
        assert_eq!(socket.waiting(), frames);
        assert!(socket.is_overflowed());
        while socket.take().is_some() {}
        assert!(!outbox.is_busy(), "nothing waits");
    }

    #[test]
    fn events_count_when_they_go_to_the_socket() {
        let (outbox, mut socket) = testing::outbox();
        outbox.send_events(Bytes::from_static(b"events"));
        assert_eq!(outbox.events_sent(), 0);
        assert!(socket.take().is_some());
        assert_eq!(outbox.events_sent(), 1);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A link whose other side reads when a test says so.

    use super::*;

    /// The socket's end of a queue.
    pub(crate) struct Socket {
        out_rx: mpsc::UnboundedReceiver<Frame>,
        queued: Arc<Queued>,
    }

    pub(crate) fn outbox() -> (Outbox, Socket) {
        let (out_tx, out_rx) = mpsc::unbounded_channel();
        let queued = Arc::<Queued>::default();
        (Outbox::new(out_tx, Arc::clone(&queued)), Socket { out_rx, queued })
    }

    impl Socket {
        /// Takes the next frame that waits, as the writing task of a link does.
        pub(crate) fn take(&mut self) -> Option<Frame> {
            let frame = self.out_rx.try_recv().ok()?;
            self.queued.note_sent(&frame);
            Some(frame)
        }

        /// Returns how many frames wait.
        pub(crate) fn waiting(&self) -> usize {
            self.out_rx.len()
        }

        /// Tells whether the link is to end.
        pub(crate) fn is_overflowed(&self) -> bool {
            let mut overflowed = std::pin::pin!(self.queued.overflowed());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            overflowed.as_mut().poll(&mut context).is_ready()
        }
    }
}
