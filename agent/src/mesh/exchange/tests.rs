//! An exchange, and members that lie to it over links that a test reads.

use std::path::Path;

use packetfs::volume::{Caller, Make, Options, ROOT, Statement, author_of};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use worknode::key::SecretKey;

use super::*;
use crate::link::queued::testing::{Socket, outbox};
use crate::wire::limits::EVENTS_AT_ONCE;

const PATIENCE: Duration = Duration::from_secs(60);

/// The key of a node's events, and its own.
fn keys(number: u8) -> [SecretKey; 2] {
    [number, number + 100].map(|byte| SecretKey::from_seed(&[byte; 32]))
}

fn author(number: u8) -> Author {
    author_of(&keys(number)[0].key())
}

fn name(number: u8) -> NodeId {
    format!("n{number}").parse().expect("a sound name")
}

fn open(dir: &Path, number: u8) -> Arc<Volume> {
    let [events, node] = keys(number);
    let statement = Statement::sign(events.key(), &node);
    let options =
        Options { author: author(number), signer: Some(events), may_pass: false, boot: None };
    let volume = Volume::open(dir, &options).expect("a volume");
    volume.set_statement(statement);
    Arc::new(volume)
}

/// Makes a directory, and waits until others may have it.
fn make(volume: &Volume, name: &[u8]) {
    let before = volume.summary().of(volume.author());
    let caller = Caller { uid: 0, gid: 0 };
    let make = Make { kind: worknode::history::Kind::Dir, mode: 0o755, umask: 0 };
    volume.make(ROOT, name, make, caller).expect("the name is free");
    volume.grown(|| false);
    let begun = Instant::now();
    while volume.summary().of(volume.author()) == before {
        assert!(begun.elapsed() < PATIENCE, "changes become durable each second");
        std::thread::yield_now();
    }
}

/// The exchange of node 1, of which nodes 2 to 4 are members.
struct Lab {
    exchange: Exchange,
    volume: Arc<Volume>,
    _liar_rx: UnboundedReceiver<Liar>,
    _dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let volume = open(dir.path(), 1);
        let (liar_tx, liar_rx) = unbounded_channel();
        let met = Arc::new(Met::new(Instant::now()));
        let heard = (mpsc::channel().0, Arc::default());
        let mut exchange = Exchange::new(heard, liar_tx, met);
        let members = (1..=4).map(|number| (keys(number)[1].key(), name(number)));
        exchange.hear(Heard::Members(members.collect()));
        exchange.hear(Heard::Volume(Arc::clone(&volume)));
        Self { exchange, volume, _liar_rx: liar_rx, _dir: dir }
    }

    fn link(&mut self, number: u8) -> Socket {
        let (outbox, socket) = outbox();
        self.exchange.hear(Heard::Begun(number.into(), name(number), outbox, true));
        socket
    }

    fn hear(&mut self, link: u8, kind: Kind, payload: Vec<u8>) {
        self.exchange.hear(Heard::Frame(link.into(), kind, payload.into()));
    }

    /// A node says whose volume it has, and which events.
    fn claim(&mut self, link: u8, whose: u8, summary: &[(u8, u64)]) {
        let summary = summary.iter().map(|&(number, last)| (author(number), last));
        let summary = Summary(summary.collect());
        let has = Has { author: Some(author(whose)), summary, is_all: true };
        self.hear(link, Kind::Has, encode(&has));
    }

    /// A node answers a message of events: it has taken none.
    fn answer(&mut self, link: u8) {
        let summary = Summary([(author(1), 0)].into());
        let has = Has { author: Some(author(link)), summary, is_all: false };
        self.hear(link, Kind::Has, encode(&has));
    }

    fn meets(&self, link: u8) -> bool {
        self.exchange.met.is_linked(link.into())
    }
}

/// Returns what was sent of a kind.
fn sent(socket: &mut Socket, kind: Kind) -> Vec<Bytes> {
    let frames = std::iter::from_fn(|| socket.take());
    frames.filter(|frame| frame.kind == kind).map(|frame| frame.payload).collect()
}

fn wants(socket: &mut Socket) -> Vec<Author> {
    let wants = sent(socket, Kind::Want);
    let author =
        |payload: &Bytes| postcard::from_bytes::<Want>(payload).expect("a sound message").author;
    wants.iter().map(author).collect()
}

#[test]
fn answers_to_what_nobody_has_read_bring_no_more_events() {
    let mut lab = Lab::new();
    make(&lab.volume, b"dir");
    let mut socket = lab.link(2);
    lab.claim(2, 2, &[]);
    for _ in 0..300 {
        lab.answer(2);
    }
    assert_eq!(sent(&mut socket, Kind::Events).len(), 1, "it had read nothing");
    lab.answer(2);
    assert_eq!(sent(&mut socket, Kind::Events).len(), 1, "it was read and not taken");
    for number in 0..2 * EVENTS_AT_ONCE {
        make(&lab.volume, format!("{number}").as_bytes());
        lab.exchange.hear(Heard::Grown);
        lab.answer(2);
    }
    assert_eq!(sent(&mut socket, Kind::Events).len(), EVENTS_AT_ONCE);
}

#[test]
fn who_claims_an_absent_nodes_volume_hides_none_of_its_files() {
    let mut lab = Lab::new();
    let [mut liar, mut honest] = [2, 3].map(|number| lab.link(number));
    lab.claim(2, 4, &[(4, 1)]);
    lab.claim(3, 3, &[(4, 2)]);
    let asked = [wants(&mut liar), wants(&mut honest)];
    assert_eq!(asked[0], [author(4)], "it is one of those that may have them");
    assert_eq!(asked[1], [], "the first has time to answer");
    lab.exchange.asking.note_answer(2, author(4));
    lab.claim(2, 4, &[(4, 1)]);
    assert_eq!(wants(&mut honest), [author(4)], "the liar gave nothing");
    assert!(lab.meets(2), "nobody has stated whose it is");

    let dir = tempfile::tempdir().expect("a temporary directory");
    let absent = open(dir.path(), 4);
    make(&absent, b"dir");
    let (events, _) = message(&absent, author(4), 0).expect("there is an event");
    lab.hear(3, Kind::Events, events.to_vec());
    assert!(lab.volume.summary().of(author(4)) > 0, "they are taken");
    assert!(!lab.meets(2), "the statement says whose it is");
    lab.claim(2, 4, &[(4, 1)]);
    assert!(!lab.meets(2), "it is no more believed");
}

#[test]
fn a_node_that_pushes_its_own_events_is_not_asked_for_them() {
    let mut lab = Lab::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let other = open(dir.path(), 2);
    make(&other, b"dir");
    let mut socket = lab.link(2);
    lab.claim(2, 2, &[]);
    assert!(lab.meets(2));
    let (events, covers) = message(&other, author(2), 0).expect("there is an event");
    lab.hear(2, Kind::Events, events.to_vec());
    assert!(lab.meets(2));
    lab.claim(2, 2, &[(2, covers + 5)]);
    assert_eq!(wants(&mut socket), [], "it sends them without being asked");
}
