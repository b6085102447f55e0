//! Dispatches the frames of all links to the parts that handle them.

use std::rc::Rc;

use crate::exporter::{ExporterHandle, Question};
use crate::link::Link;
use crate::links::Receive;
use crate::mirrors::Mirrors;
use crate::runner::Runner;
use crate::served::Served;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message;

/// The parts that handle frames of links.
pub(super) struct Dispatch {
    pub(super) exporter: ExporterHandle,
    pub(super) served: Served,
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
            Kind::Data
            | Kind::Eof
            | Kind::Credit
            | Kind::Broken
            | Kind::Signal
            | Kind::Cancel
            | Kind::Packets
            | Kind::Exit
            | Kind::Ping
            | Kind::Pong
            | Kind::Took
            | Kind::Ready
            | Kind::Settings
            | Kind::Resize
            | Kind::Stopped => link.route(frame),
        }
    }

    fn end(&self, link: &Rc<Link>) {
        self.exporter.forget(link.number);
        self.mirrors.end_link(link);
    }
}

impl Dispatch {
    fn take_question(&self, link: &Rc<Link>, frame: &Frame) {
        if !link.note_question() {
            tracing::error!(peer = %link.peer, "dropping the link: it has too many open questions");
            return link.close();
        }
        match message::Ask::decode(&frame.payload) {
            Some(ask) => {
                let question = Question { stream: frame.stream, ask, walks: link.foretold.walks() };
                if is_local(&self.served, &question.ask) {
                    self.exporter.ask(link.number, question, link.sender());
                } else {
                    tokio::task::spawn_local(self.ask_server(Rc::clone(link), question));
                }
            }
            None => fail(link, frame.stream, libc::EPROTO),
        }
    }

    /// Has a question answered when the file system that it is about answers. There are as many of these as
    /// questions of a link, which is bounded.
    fn ask_server(&self, link: Rc<Link>, question: Question) -> impl Future<Output = ()> + use<> {
        let (served, exporter) = (self.served.clone(), self.exporter.clone());
        async move {
            let answers = served.wait_for([path_of(&question.ask)].into_iter()).await;
            if let message::Ask::Listing(dir) = &question.ask {
                served.wait_for_dir(dir).await;
            }
            match answers {
                Ok(()) if link.is_closed() => {}
                Ok(()) => exporter.ask(link.number, question, link.sender()),
                Err(silent) => {
                    tracing::warn!(peer = %link.peer, %silent, "a question was not answered");
                    fail(&link, question.stream, libc::EIO);
                }
            }
        }
    }
}

fn is_local(served: &Served, ask: &message::Ask) -> bool {
    match ask {
        message::Ask::Listing(dir) => served.is_local_dir(dir),
        ask => served.is_local(path_of(ask)),
    }
}

fn path_of(ask: &message::Ask) -> &[u8] {
    let (message::Ask::Listing(path)
    | message::Ask::Content(path)
    | message::Ask::Packets(path, _)) = ask;
    path
}

fn fail(link: &Link, stream: u32, errno: i32) {
    link.send(Kind::Answer, stream, message::encode(&message::Answer::Failed(errno)));
}
