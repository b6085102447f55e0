//! What a walk reads: asked for a pipe's worth at a time. The origin keeps it until the walk has read
//! it, so that what the walk leaves is there for the next process.

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

/// Input asked for at once: what a pipe holds, and what one can be made to hold for a walk that has
/// read much.
const INPUT_BYTES: u32 = 64 * 1024;
const MUCH_INPUT_BYTES: u32 = 1024 * 1024;
/// How often a pipe is looked at whose bytes are not read yet: at first, and in the end.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);

/// An input of a walk.
#[derive(Debug)]
pub(super) struct Input {
    channel: Channel,
    arrived: RefCell<VecDeque<Vec<u8>>>,
    /// Bytes that were asked for and have not come.
    wanted: Cell<usize>,
    /// No more will arrive.
    ended: Cell<bool>,
    more: Notify,
    /// Bytes in the pipe that the origin believes unread.
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

    /// Takes in what was asked for; false if it is more.
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

    /// The walk is over: tells the origin what it has read.
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

    /// Fills the pipe.
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
                    // All that was asked for has come.
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
        // It ends only when all that was lent has been read.
        self.pipe.replace(None);
    }

    /// Writes into the pipe; false if nobody will read it.
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

/// Ends when a pipe is empty, or has no reader that could empty it. The kernel tells a writer of a
/// pipe that was full, and no other.
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
