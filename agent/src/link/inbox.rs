//! The bounded queue of one stream's frames. An honest peer stays within its credit; from any other, no more than the
//! bound is kept.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::mpsc;

use crate::wire::frame::Frame;
use crate::wire::limits::WAITING_BYTES_MAX;

/// Memory for a frame besides its payload.
const FRAME_BYTES: usize = 96;

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Inbox {
    rx: mpsc::UnboundedReceiver<Frame>,
    waiting: Rc<Cell<usize>>,
}

/// The sending end.
#[derive(Debug)]
pub(super) struct InboxSender {
    /// Bounded in bytes, by `waiting`.
    tx: mpsc::UnboundedSender<Frame>,
    waiting: Rc<Cell<usize>>,
}

/// Makes a queue.
pub(super) fn inbox() -> (InboxSender, Inbox) {
    let (tx, rx) = mpsc::unbounded_channel();
    let waiting = Rc::new(Cell::new(0));
    (InboxSender { tx, waiting: Rc::clone(&waiting) }, Inbox { rx, waiting })
}

impl Inbox {
    /// Returns the next frame, or `None` when the link has ended.
    pub(crate) async fn recv(&mut self) -> Option<Frame> {
        let frame = self.rx.recv().await?;
        self.waiting.set(self.waiting.get().saturating_sub(cost(&frame)));
        Some(frame)
    }
}

impl InboxSender {
    /// Queues a frame. Returns false if too much is waiting already.
    pub(super) fn put(&self, frame: Frame) -> bool {
        let waiting = self.waiting.get();
        let after = waiting.saturating_add(cost(&frame));
        // A single frame may be larger: a change set is one frame.
        if waiting > 0 && after > WAITING_BYTES_MAX {
            return false;
        }
        if self.tx.send(frame).is_ok() {
            self.waiting.set(after);
        }
        true
    }
}

fn cost(frame: &Frame) -> usize {
    frame.payload.len().saturating_add(FRAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Kind;

    #[test]
    fn the_queue_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let frame =
            |bytes: usize| Frame { kind: Kind::Data, stream: 1, payload: vec![0; bytes].into() };
        let (sender, mut inbox) = inbox();
        let frames = (0..10_000).take_while(|_| sender.put(frame(64 * 1024))).count();
        assert_eq!(frames, WAITING_BYTES_MAX / (64 * 1024 + FRAME_BYTES));
        runtime.block_on(async {
            for _ in 0..frames {
                inbox.recv().await.expect("it is there");
            }
        });
        assert!(sender.put(frame(WAITING_BYTES_MAX + 1)), "one alone");
        assert!(!sender.put(frame(1)));
        let empty = (0..).take_while(|_| InboxSender::put(&sender, frame(0))).count();
        assert_eq!(empty, 0, "empty ones count, too");
    }
}
