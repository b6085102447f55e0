//! What goes to the stub: frames in their order, written by a task of their own, so that a slow
//! reader holds up nothing but its own output. Output of a walk may be held back until it is certain
//! that the walk will not have to be repeated.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use worknode::door::{DATA_BYTES_MAX, Kind};

use super::life::Seen;
use crate::door::Writer;

/// Output that is held back at most. A walk that writes more is shown at once, and can then be
/// repeated only by skipping what was shown.
const HELD_BYTES_MAX: usize = 128 * 1024;

/// Frames besides output that wait for a stub at most, which may be stopped: a runner says something of a
/// descriptor when something was read or asked for there.
const FRAMES_WAITING_MAX: usize = 4096;

/// Output that is not copied, but keeps the message it came in, of up to a megabyte: a window has room for 16.
const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Frames that go to the stub in one piece, at most: as many as a window holds.
const FRAMES_AT_ONCE: usize = 8;

/// The way to the stub.
#[derive(Debug)]
pub(super) struct Output {
    tx: mpsc::UnboundedSender<(Kind, u16, Bytes)>,
    task: JoinHandle<()>,
    /// Frames that wait to be written and are no output, which has its own bound.
    waiting: Rc<Cell<usize>>,
    holding: Cell<bool>,
    /// Output is held until the walk ends, not only for a moment.
    patient: Cell<bool>,
    held: RefCell<Vec<(u16, Bytes)>>,
    held_bytes: Cell<usize>,
    /// Bytes shown, by descriptor, and those of the repeated attempt that are still to be skipped.
    shown: RefCell<HashMap<u16, u64>>,
    skip: RefCell<HashMap<u16, u64>>,
    consumed_input: Cell<bool>,
    /// What the stub says of descriptors is still about an attempt that failed.
    stale: Cell<bool>,
}

impl Output {
    pub(super) fn start(mut writer: Writer) -> Self {
        let (tx, mut rx) = mpsc::unbounded_channel::<(Kind, u16, Bytes)>();
        let waiting = Rc::new(Cell::new(0_usize));
        let waiting_now = Rc::clone(&waiting);
        let task = tokio::task::spawn_local(async move {
            let mut frames = Vec::new();
            while rx.recv_many(&mut frames, FRAMES_AT_ONCE).await > 0 {
                if !writer.send_all(&frames).await {
                    return;
                }
                let others = frames.iter().filter(|(kind, ..)| *kind != Kind::Data).count();
                waiting_now.set(waiting_now.get().saturating_sub(others));
                frames.clear();
            }
        });
        Self {
            tx,
            task,
            waiting,
            holding: Cell::new(true),
            patient: Cell::new(false),
            held: RefCell::default(),
            held_bytes: Cell::new(0),
            shown: RefCell::default(),
            skip: RefCell::default(),
            consumed_input: Cell::new(false),
            stale: Cell::new(false),
        }
    }

    /// Sends a frame.
    pub(super) fn send(&self, kind: Kind, fd: u16, payload: impl Into<Bytes>) {
        if kind != Kind::Data {
            self.waiting.set(self.waiting.get() + 1);
        }
        // A stub that is gone is noticed by the reader of its frames.
        let _ = self.tx.send((kind, fd, payload.into()));
    }

    /// Passes on what the runner wants of a descriptor, or has to say of it.
    pub(super) fn to_descriptor(&self, kind: Kind, fd: u16, payload: Bytes) {
        if kind == Kind::Took {
            // From here on it cannot be repeated: there is nothing to hold output back for.
            self.note_input();
            self.release();
        }
        self.send(kind, fd, payload);
    }

    /// Tells whether more waits for the stub than an honest runner has to say.
    pub(super) fn is_flooded(&self) -> bool {
        self.waiting.get() > FRAMES_WAITING_MAX
    }

    /// Passes on output of the walk. Returns the bytes of it that were shown before.
    pub(super) fn data(&self, fd: u16, bytes: Bytes) -> usize {
        if self.holding.get() {
            // Not the message that they came in, which may be long.
            self.held.borrow_mut().push((fd, Bytes::copy_from_slice(&bytes)));
            self.held_bytes.set(self.held_bytes.get() + bytes.len());
            if self.held_bytes.get() > HELD_BYTES_MAX {
                self.release();
            }
            0
        } else {
            self.show(fd, bytes)
        }
    }

    /// Holds output back until the walk ends: nobody watches a compiler think.
    pub(super) fn be_patient(&self) {
        self.patient.set(true);
    }

    /// Tells whether output is held back until the walk ends.
    pub(super) fn is_patient(&self) -> bool {
        self.patient.get()
    }

    /// Shows what was held back, and all that comes after it.
    pub(super) fn release(&self) {
        self.holding.set(false);
        for (fd, bytes) in self.held.take() {
            self.show(fd, bytes);
        }
        self.held_bytes.set(0);
    }

    /// The walk is repeated from its beginning: what was held back comes again, and what was shown
    /// is skipped.
    pub(super) fn rewind(&self) {
        self.held.borrow_mut().clear();
        self.held_bytes.set(0);
        self.skip.replace(self.shown.borrow().clone());
        self.stale.set(true);
        self.send(Kind::Rewind, 0, Vec::new());
    }

    /// Tells whether a frame of the stub is about an attempt that failed.
    pub(super) fn is_stale(&self, kind: Kind) -> bool {
        if kind == Kind::Rewind {
            self.stale.set(false);
            return true;
        }
        let of_attempt = matches!(
            kind,
            Kind::Data | Kind::Eof | Kind::Ready | Kind::Settings | Kind::Written | Kind::Broken
        );
        self.stale.get() && of_attempt
    }

    /// The stub gave away input.
    pub(super) fn note_input(&self) {
        self.consumed_input.set(true);
    }

    /// Tells whether the stub gave away input: a repeated walk would miss it.
    pub(super) fn consumed_input(&self) -> bool {
        self.consumed_input.get()
    }

    /// Tells that nothing of the walk was seen or taken: the program may still be executed here.
    pub(super) fn is_untouched(&self) -> bool {
        !self.consumed_input.get() && self.shown.borrow().is_empty()
    }

    /// Returns what the stub has shown and taken.
    pub(super) fn seen(&self) -> Seen {
        Seen { nothing: self.is_untouched(), input_taken: self.consumed_input() }
    }

    /// Ends when all frames are written.
    pub(super) async fn finish(self) {
        drop(self.tx);
        let _ = self.task.await;
    }

    /// Shows what was not shown before; returns the bytes that were.
    fn show(&self, fd: u16, bytes: Bytes) -> usize {
        let mut skip = self.skip.borrow_mut();
        let skipped = skip.get(&fd).copied().unwrap_or(0).min(bytes.len() as u64);
        if skipped > 0 {
            *skip.entry(fd).or_default() -= skipped;
        }
        let skipped = usize::try_from(skipped).unwrap_or(bytes.len());
        // A piece keeps all of the message that it came in.
        let is_long = bytes.len() - skipped >= SHARED_BYTES_MIN;
        let mut rest = if is_long {
            bytes.slice(skipped..)
        } else {
            Bytes::copy_from_slice(&bytes[skipped..])
        };
        if rest.is_empty() {
            return skipped;
        }
        *self.shown.borrow_mut().entry(fd).or_default() += rest.len() as u64;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(DATA_BYTES_MAX));
            self.send(Kind::Data, fd, piece);
        }
        skipped
    }
}
