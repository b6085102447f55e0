//! Input of a walk. It is requested one pipe buffer at a time. The origin keeps it until the walk has read it,
//! so that unread input is left for the next process there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::unix::pipe::Sender;
use tokio::sync::Notify;
use worknode::door::DATA_BYTES_MAX;

use super::channel::Channel;
use crate::sys::fds;
use crate::wire::frame::Kind;

/// Bytes of input to request at once: the capacity of a pipe, and that of an enlarged pipe for a walk that
/// reads much.
const INPUT_BYTES: u32 = 64 * 1024;
const MUCH_INPUT_BYTES: u32 = 1024 * 1024;
/// Polling interval for a pipe with unread bytes: at first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);

/// An input of a walk.
#[derive(Debug)]
pub(super) struct Input {
    channel: Channel,
    arrived: RefCell<VecDeque<Vec<u8>>>,
    /// Bytes that were requested and have not arrived.
    wanted: Cell<usize>,
    /// Whether the input is at its end.
    ended: Cell<bool>,
    more: Notify,
    /// Bytes written to the pipe whose reading has not been reported to the origin.
    lent: Cell<usize>,
    pipe: RefCell<Option<Rc<Sender>>>,
}

impl Input {
    pub(super) fn new(channel: Channel) -> Rc<Self> {
        Rc::new(Self {
            channel,
            arrived: RefCell::default(),
            wanted: Cell::new(0),
            ended: Cell::new(false),
            more: Notify::new(),
            lent: Cell::new(0),
            pipe: RefCell::default(),
        })
    }

    /// Accepts requested bytes. Returns false if there are more than requested.
    pub(super) fn take(&self, bytes: Vec<u8>) -> bool {
        let Some(left) = self.wanted.get().checked_sub(bytes.len()) else { return false };
        self.wanted.set(left);
        self.arrived.borrow_mut().push_back(bytes);
        self.more.notify_one();
        true
    }

    pub(super) fn end(&self) {
        self.ended.set(true);
        self.more.notify_one();
    }

    /// Reports to the origin, at the end of the walk, how much it has read.
    pub(super) fn settle(&self) {
        let unread = self.pipe.borrow().as_deref().map_or(0, unread);
        self.tell_read(self.lent.get().saturating_sub(unread));
    }

    fn tell_read(&self, bytes: usize) {
        self.lent.set(self.lent.get() - bytes.min(self.lent.get()));
        if let Some(bytes) = u32::try_from(bytes).ok().filter(|&bytes| bytes > 0) {
            self.channel.send(Kind::Took, &bytes.to_le_bytes());
        }
    }

    fn want(&self, bytes: u32) {
        self.wanted.set(self.wanted.get() + bytes as usize);
        self.channel.send(Kind::Credit, &bytes.to_le_bytes());
    }

    /// Carries input into the pipe until its end.
    pub(super) async fn carry(self: Rc<Self>, pipe: Sender) {
        let pipe = Rc::new(pipe);
        self.pipe.replace(Some(Rc::clone(&pipe)));
        let (mut want, mut total) = (INPUT_BYTES, 0);
        self.want(want);
        loop {
            let next = self.arrived.borrow_mut().pop_front();
            match next {
                Some(bytes) => {
                    if !self.write(&pipe, &bytes).await {
                        return;
                    }
                    // Everything requested has arrived.
                    if bytes.len() < DATA_BYTES_MAX {
                        wait_until_read(&pipe).await;
                        total += self.lent.get();
                        self.tell_read(self.lent.get());
                        if want < MUCH_INPUT_BYTES && total > MUCH_INPUT_BYTES as usize {
                            want = MUCH_INPUT_BYTES;
                            fds::widen(&pipe, want as usize);
                        }
                        self.want(want);
                    }
                }
                None if self.ended.get() => break,
                None => self.more.notified().await,
            }
        }
        // Close the pipe only after everything in it has been read.
        self.pipe.replace(None);
    }

    /// Writes into the pipe. Returns false if it has no reader.
    async fn write(&self, pipe: &Sender, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match pipe.try_write(bytes) {
                Ok(written) => {
                    self.lent.set(self.lent.get() + written);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if pipe.writable().await.is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }
}

/// Waits until a pipe is empty or has no reader. It polls, because the kernel notifies only the writer of a
/// full pipe.
async fn wait_until_read(pipe: &Sender) {
    let mut pause = LOOK_FIRST;
    while unread(pipe) > 0 {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

fn unread(pipe: &Sender) -> usize {
    fds::unread(pipe).unwrap_or(0)
}
