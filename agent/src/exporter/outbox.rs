//! What the thread has to say, brought to the links in one piece and in its order: the agent wakes
//! once for it, and what a walk's runner is told ahead of the walk goes in one message with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::wire::frame::Frame;

/// Said at once when there is more: a link may begin with it.
const BATCH_BYTES: usize = 256 * 1024;

/// The thread's end.
#[derive(Debug)]
pub(super) struct Outbox {
    tx: UnboundedSender<Batch>,
    /// Batches that have not been handed over.
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
    /// Makes one, and the task that empties it.
    pub(super) fn start() -> Self {
        let (tx, rx) = unbounded_channel();
        let under_way = Arc::new(AtomicUsize::new(0));
        tokio::task::spawn_local(deliver(rx, Arc::clone(&under_way)));
        Self { tx, under_way, batch: Batch::default(), bytes: 0 }
    }

    /// Returns how many batches have not been handed over.
    pub(super) fn under_way(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.under_way)
    }

    /// Puts a frame for a link in.
    pub(super) fn put(&mut self, out_tx: &UnboundedSender<Frame>, frame: Frame) {
        self.bytes += frame.payload.len();
        self.batch.frames.push((out_tx.clone(), frame));
        if self.bytes > BATCH_BYTES {
            self.send();
        }
    }

    /// Has `done_tx` told when all that was put in is on its way.
    pub(super) fn put_done(&mut self, done_tx: oneshot::Sender<()>) {
        self.batch.done = Some(done_tx);
        self.send();
    }

    /// Sends what is in it.
    pub(super) fn send(&mut self) {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.frames.is_empty() || batch.done.is_some() {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            // Without the agent there is nobody to tell.
            let _ = self.tx.send(batch);
        }
    }
}

async fn deliver(mut rx: UnboundedReceiver<Batch>, under_way: Arc<AtomicUsize>) {
    while let Some(Batch { frames, done }) = rx.recv().await {
        // Who waits is woken first, and runs when all frames have been handed over: what it adds to
        // a link is there before the link's own task begins to write.
        if let Some(done_tx) = done {
            let _ = done_tx.send(());
        }
        for (out_tx, frame) in frames {
            let _ = out_tx.send(frame);
        }
        under_way.fetch_sub(1, Ordering::SeqCst);
    }
}
