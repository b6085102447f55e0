//! Dispatches the frames of all links to the parts that handle them.

use std::rc::Rc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::exporter::{Asked, ExporterHandle, Peer, Question, TRIES_MAX};
use crate::holders::Holders;
use crate::link::Link;
use crate::links::Receive;
use crate::mesh::Mesh;
use crate::mirrors::Mirrors;
use crate::runner::Runner;
use crate::served::Served;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Ask};

/// The parts that handle frames of links.
pub(super) struct Dispatch {
    pub(super) exporter: ExporterHandle,
    pub(super) served: Served,
    pub(super) mirrors: Rc<Mirrors>,
    pub(super) runner: Rc<Runner>,
    pub(super) mesh: Mesh,
    pub(super) holders: Holders,
}

impl Receive for Dispatch {
    fn take(&self, link: &Rc<Link>, frame: Frame) {
        match frame.kind {
            Kind::Open => self.runner.take_open(link, &frame),
            Kind::Session => self.runner.take_session(link, &frame),
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
            Kind::Has
            | Kind::Events
            | Kind::Want
            | Kind::Fetch
            | Kind::Fetched
            | Kind::Probe
            | Kind::Probed
            | Kind::Locks => {
                self.mesh.take(link, frame);
            }
            Kind::Held => self.mirrors.take_held(link, &frame.payload),
            Kind::TicketKey | Kind::Claim | Kind::Given => self.holders.take(link, frame),
        }
    }

    fn begin(&self, link: &Rc<Link>) {
        self.mesh.begin(link);
        self.holders.begin(link);
        if link.knows_holders() {
            let peer = Peer {
                node: link.peer.clone(),
                round_trip: link.round_trip(),
                knows_own_held: link.knows_own_held(),
            };
            self.exporter.meet(link.number, peer, link.sender());
        }
    }

    fn end(&self, link: &Rc<Link>) {
        self.mesh.end(link);
        self.holders.end(link);
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
        match Ask::decode(&frame.payload) {
            Some(ask) => {
                let question = Question { stream: frame.stream, ask, walks: link.foretold.walks() };
                if is_local(&self.served, &question.ask) {
                    self.exporter.ask(link.number, question, link.sender());
                } else {
                    let (reader, out_tx) = (link.number, link.sender());
                    self.ask_server(Asked::new(reader, question, out_tx));
                }
            }
            None => fail(link, frame.stream, libc::EPROTO),
        }
    }

    /// Asks the file systems of the questions that the exporter hands back.
    pub(super) async fn ask_servers(self: Rc<Self>, mut unheard_rx: UnboundedReceiver<Asked>) {
        while let Some(asked) = unheard_rx.recv().await {
            self.ask_server(asked);
        }
    }

    /// Has a question answered when the file system that it is about answers. There are as many of these as
    /// questions of a link, which is bounded.
    fn ask_server(&self, asked: Asked) {
        let (served, exporter) = (self.served.clone(), self.exporter.clone());
        tokio::task::spawn_local(async move {
            let ask = &asked.question.ask;
            if let Ask::Listing(dir) = ask {
                served.wait_for_dir(dir).await;
            }
            let answers = served.wait_for([ask.path()].into_iter()).await;
            // Once it has answered with an error, asking again is of no use.
            let tries = if served.is_heard(ask.path()) { asked.tries + 1 } else { TRIES_MAX };
            match answers {
                // The link has ended.
                Ok(()) if asked.out_tx.is_closed() => {}
                Ok(()) => exporter.ask_again(Asked { tries, ..asked }),
                Err(silent) => {
                    tracing::warn!(reader = asked.reader, %silent, "a question was not answered");
                    asked.fail(libc::EIO);
                }
            }
        });
    }
}

fn is_local(served: &Served, ask: &Ask) -> bool {
    match ask {
        Ask::Listing(dir) => served.is_local_dir(dir),
        ask => served.is_local(ask.path()),
    }
}

fn fail(link: &Link, stream: u32, errno: i32) {
    link.send(Kind::Answer, stream, message::encode(&message::Answer::Failed(errno)));
}
