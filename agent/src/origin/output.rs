//! The queue of frames to the stub. A separate task writes them in order, so that a slow reader delays only its
//! own output. A walk's output may be held back until it is certain that the walk need not be repeated.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use worknode::door::{DATA_BYTES_MAX, Kind};

use super::life::Seen;
use crate::door::Writer;

/// Most output that is held back. If a walk writes more, it is shown at once, and a repetition must skip what
/// was shown.
const HELD_BYTES_MAX: usize = 128 * 1024;

/// Most frames without output that wait for a stub, which may be stopped. An honest runner sends one only when
/// something was read or requested.
const FRAMES_WAITING_MAX: usize = 4096;

/// Size from which output is not copied, but keeps its whole message of up to a megabyte in memory. A window has room for
/// 16 such pieces.
const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Most frames in one write to the stub: as many as fit a window.
const FRAMES_AT_ONCE: usize = 8;

/// The sending end of the queue.
#[derive(Debug)]
pub(super) struct Output {
    /// Bounded by what may be put in: output by the credit of its descriptors, all else by `waiting`.
    tx: mpsc::UnboundedSender<(Kind, u16, Bytes)>,
    task: JoinHandle<()>,
    /// Number of waiting frames without output. Output has its own bound.
    waiting: Rc<Cell<usize>>,
    holding: Cell<bool>,
    /// Whether output is held back until the walk ends, rather than only briefly.
    patient: Cell<bool>,
    held: RefCell<Vec<(u16, Bytes)>>,
    held_bytes: Cell<usize>,
    /// Bytes shown by descriptor, and bytes of the repeated attempt that remain to be skipped.
    shown: RefCell<HashMap<u16, u64>>,
    skip: RefCell<HashMap<u16, u64>>,
    consumed_input: Cell<bool>,
    /// Whether the stub's frames about descriptors still concern a failed attempt.
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
        // The reader of the stub's frames notices if it is gone.
        let _ = self.tx.send((kind, fd, payload.into()));
    }

    /// Passes on a runner's frame about a descriptor.
    pub(super) fn to_descriptor(&self, kind: Kind, fd: u16, payload: Bytes) {
        if kind == Kind::Took {
            // From here on the walk cannot be repeated, so holding output back is pointless.
            self.note_input();
            self.release();
        }
        self.send(kind, fd, payload);
    }

    /// Tells whether more frames wait for the stub than an honest runner sends.
    pub(super) fn is_flooded(&self) -> bool {
        self.waiting.get() > FRAMES_WAITING_MAX
    }

    /// Passes on output of the walk. Returns how many of its bytes had been shown before.
    pub(super) fn data(&self, fd: u16, bytes: Bytes) -> usize {
        if self.holding.get() {
            // A copy, so that the whole message, which may be long, need not stay in memory.
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

    /// Holds output back until the walk ends, as for compilers, whose output nobody watches.
    pub(super) fn be_patient(&self) {
        self.patient.set(true);
    }

    /// Tells whether output is held back until the walk ends.
    pub(super) fn is_patient(&self) -> bool {
        self.patient.get()
    }

    /// Shows the held output, and all later output at once.
    pub(super) fn release(&self) {
        self.holding.set(false);
        for (fd, bytes) in self.held.take() {
            self.show(fd, bytes);
        }
        self.held_bytes.set(0);
    }

    /// Prepares for repeating the walk: held output is dropped, and output that was shown will be skipped.
    pub(super) fn rewind(&self) {
        self.held.borrow_mut().clear();
        self.held_bytes.set(0);
        self.skip.replace(self.shown.borrow().clone());
        self.stale.set(true);
        self.send(Kind::Rewind, 0, Vec::new());
    }

    /// Tells whether a frame of the stub concerns a failed attempt.
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

    /// Records that the stub consumed input.
    pub(super) fn note_input(&self) {
        self.consumed_input.set(true);
    }

    /// Tells whether the stub consumed input, which a repeated walk would miss.
    pub(super) fn consumed_input(&self) -> bool {
        self.consumed_input.get()
    }

    /// Tells whether no output was shown and no input consumed, so that the program may still be executed here.
    pub(super) fn is_untouched(&self) -> bool {
        !self.consumed_input.get() && self.shown.borrow().is_empty()
    }

    /// Returns what has been seen of the walk.
    pub(super) fn seen(&self) -> Seen {
        Seen { nothing: self.is_untouched(), input_taken: self.consumed_input() }
    }

    /// Waits until all frames are written.
    pub(super) async fn finish(self) {
        drop(self.tx);
        let _ = self.task.await;
    }

    /// Shows output, except bytes that were shown before, and returns the number of those.
    fn show(&self, fd: u16, bytes: Bytes) -> usize {
        let mut skip = self.skip.borrow_mut();
        let skipped = skip.get(&fd).copied().unwrap_or(0).min(bytes.len() as u64);
        if skipped > 0 {
            *skip.entry(fd).or_default() -= skipped;
        }
        let skipped = usize::try_from(skipped).unwrap_or(bytes.len());
        // A slice keeps its whole message in memory.
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
