//! Passes the exporter's frames to the links in batches and in order. The agent wakes up once per batch, and
//! answers sent ahead of a walk go into the same message as the walk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::wire::frame::Frame;

/// Batch size beyond which a batch is passed on at once, so that links can start sending.
const BATCH_BYTES: usize = 256 * 1024;

/// The exporter's end.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Unbounded, since the thread must not wait for the agent, which may be waiting for it. It holds answers to
    /// questions, which are bounded for each link, and changes.
    tx: UnboundedSender<Batch>,
    /// Number of batches that have not been passed on.
    under_way: Arc<AtomicUsize>,
    batch: Batch,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Batch {
    frames: Vec<(UnboundedSender<Frame>, Frame)>,
    done: Option<oneshot::Sender<()>>,
}

impl Outbox {
    /// Makes an outbox, and starts the task that empties it.
    pub(super) fn start() -> Self {
        let (tx, rx) = unbounded_channel();
        let under_way = Arc::new(AtomicUsize::new(0));
        tokio::task::spawn_local(deliver(rx, Arc::clone(&under_way)));
        Self { tx, under_way, batch: Batch::default(), bytes: 0 }
    }

    /// Returns the number of batches that have not been passed on.
    pub(super) fn under_way(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.under_way)
    }

    /// Adds a frame for a link.
    pub(super) fn put(&mut self, out_tx: &UnboundedSender<Frame>, frame: Frame) {
        self.bytes += frame.payload.len();
        self.batch.frames.push((out_tx.clone(), frame));
        if self.bytes > BATCH_BYTES {
            self.send();
        }
    }

    /// Notifies `done_tx` when everything added so far has been passed on.
    pub(super) fn put_done(&mut self, done_tx: oneshot::Sender<()>) {
        self.batch.done = Some(done_tx);
        self.send();
    }

    /// Sends the batch.
    pub(super) fn send(&mut self) {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.frames.is_empty() || batch.done.is_some() {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            // Fails if the agent is ending.
            let _ = self.tx.send(batch);
        }
    }
}

async fn deliver(mut rx: UnboundedReceiver<Batch>, under_way: Arc<AtomicUsize>) {
    while let Some(Batch { frames, done }) = rx.recv().await {
        // Waiting tasks are woken first, and run after all frames have been passed on. So a frame that
        // they add to a link is queued before the link's task begins to write.
        if let Some(done_tx) = done {
            let _ = done_tx.send(());
        }
        for (out_tx, frame) in frames {
            let _ = out_tx.send(frame);
        }
        under_way.fetch_sub(1, Ordering::SeqCst);
    }
}
