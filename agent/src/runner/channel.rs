//! Sends frames about one descriptor of a walk to its origin.

use std::rc::Rc;

use crate::link::Link;
use crate::wire::frame::Kind;
use crate::wire::payload::about;

/// Sends frames about one descriptor.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    link: Rc<Link>,
    stream: u32,
    fd: u8,
}

impl Channel {
    /// Makes the channel of descriptor 0 of the walk on a stream.
    pub(super) fn new(link: &Rc<Link>, stream: u32) -> Self {
        Self { link: Rc::clone(link), stream, fd: 0 }
    }

    /// Returns the channel of another descriptor of the same walk.
    pub(super) fn of(&self, fd: u8) -> Self {
        Self { fd, ..self.clone() }
    }

    pub(super) fn send(&self, kind: Kind, payload: &[u8]) {
        self.send_payload(kind, about(self.fd, payload));
    }

    /// Returns an empty payload with capacity for `bytes`.
    pub(super) fn payload(&self, bytes: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(1 + bytes);
        payload.push(self.fd);
        payload
    }

    /// Sends a payload that [`Channel::payload`] made.
    pub(super) fn send_payload(&self, kind: Kind, payload: Vec<u8>) {
        self.link.send(kind, self.stream, payload);
    }
}
