//! Dispatches the frames of all links to the parts that handle them.

use std::rc::Rc;

use crate::exporter::{ExporterHandle, Question};
use crate::link::Link;
use crate::links::Receive;
use crate::mirrors::Mirrors;
use crate::runner::Runner;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message;

/// The parts that handle frames of links.
pub(super) struct Dispatch {
    pub(super) exporter: ExporterHandle,
    pub(super) mirrors: Rc<Mirrors>,
    pub(super) runner: Rc<Runner>,
}

impl Receive for Dispatch {
    fn take(&self, link: &Rc<Link>, frame: Frame) {
        match frame.kind {
            Kind::Open => self.runner.take_open(link, &frame),
            Kind::Ask => self.take_question(link, &frame),
            Kind::Answer => self.mirrors.take_answer(link, &frame),
            Kind::Told => self.mirrors.take_told(link, frame.payload),
            Kind::Changes => self.mirrors.take_changes(link, &frame.payload),
            _ => link.route(frame),
        }
    }

    fn end(&self, link: &Rc<Link>) {
        self.exporter.forget(link.number);
        self.mirrors.end_link(link);
    }
}

impl Dispatch {
    fn take_question(&self, link: &Link, frame: &Frame) {
        if !link.note_question() {
            tracing::error!(peer = %link.peer, "dropping the link: it has too many open questions");
            return link.close();
        }
        match message::Ask::decode(&frame.payload) {
            Some(ask) => {
                let question = Question { stream: frame.stream, ask, walks: link.foretold.walks() };
                self.exporter.ask(link.number, question, link.sender());
            }
            None => {
                let answer = message::Answer::Failed(libc::EPROTO);
                link.send(Kind::Answer, frame.stream, message::encode(&answer));
            }
        }
    }
}
