//! Output of a walk, sent to its origin under credit-based flow control.

use std::cell::Cell;
use std::rc::Rc;

use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use worknode::door::{DATA_BYTES_MAX, WINDOW_BYTES};

use super::channel::Channel;
use crate::wire::frame::Kind;

/// Pipe capacity for a program that writes much, which reduces context switches.
const BULK_PIPE_BYTES: i32 = 256 * 1024;

/// Bytes that may still be sent.
#[derive(Debug)]
pub(super) struct Credit {
    bytes: Cell<usize>,
    more: Notify,
    broken: Cell<bool>,
}

impl Credit {
    pub(super) fn new() -> Rc<Self> {
        let (bytes, broken) = (Cell::new(WINDOW_BYTES), Cell::new(false));
        Rc::new(Self { bytes, more: Notify::new(), broken })
    }

    pub(super) fn add(&self, bytes: u32) {
        self.bytes.set(self.bytes.get() + bytes as usize);
        self.more.notify_one();
    }

    pub(super) fn break_off(&self) {
        self.broken.set(true);
        self.more.notify_one();
    }

    pub(super) fn spend(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }

    /// Waits for credit, and returns its amount. Returns `None` if the reader is gone.
    pub(super) async fn room(&self) -> Option<usize> {
        while self.bytes.get() == 0 && !self.broken.get() {
            self.more.notified().await;
        }
        (!self.broken.get()).then(|| self.bytes.get().min(DATA_BYTES_MAX))
    }

    /// Waits until the reader is gone.
    pub(super) async fn broken(&self) {
        while !self.broken.get() {
            self.more.notified().await;
        }
    }
}

/// Carries output from a pipe to the origin.
pub(super) async fn carry(channel: Channel, mut pipe: Receiver, credit: Rc<Credit>) {
    let mut is_wide = false;
    // Dropping the pipe gives the program the EPIPE that it would get at the origin.
    while let Some(room) = credit.room().await {
        let mut payload = channel.payload(room);
        let read = tokio::select! {
            read = pipe.read_buf(&mut payload) => read,
            () = credit.broken() => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(bytes) => {
                credit.spend(bytes);
                channel.send_payload(Kind::Data, payload);
                if bytes == DATA_BYTES_MAX && !is_wide {
                    is_wide = true;
                    // A failure only costs speed.
                    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(BULK_PIPE_BYTES));
                }
            }
        }
    }
}
