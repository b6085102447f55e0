//! The mesh of volumes: exchanges events and packets with the volumes of the other members, over the links.
//!
//! The main thread only passes on what comes over the links. `exchange` is a thread that has the state and does all that
//! waits for a disk; what it decides is in `peer`. `fetch` gets packets from other nodes when a program reads them, and
//! `serve` gives them.

mod asking;
mod exchange;
mod fetch;
mod heard;
mod keep;
mod linked;
mod met;
mod names;
mod peer;
mod serve;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::packet::{Packed, PacketRef};
use packetfs::volume::Volume;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use worknode::id::NodeId;
use worknode::key::Key;

use crate::link::Link;
use crate::wire::frame::{Frame, Kind};
use crate::wire::limits::PAYLOAD_BYTES_MAX;
use exchange::Exchange;
use fetch::Fetcher;
use heard::{Heard, Waiting};
use keep::Keeper;
use met::Met;
use names::{Named, Names};
use serve::Server;

pub(crate) use fetch::ANSWER_MAX;
pub(crate) use fetch::probe::Answer;
pub(crate) use heard::Liar;

/// The mesh, as other threads know it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    /// Bounded by the bytes that wait of each link.
    heard_tx: mpsc::Sender<Heard>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    is_open: AtomicBool,
    waiting: Arc<Waiting>,
    fetcher: Arc<Fetcher>,
    server: Server,
    names: Arc<Named>,
    met: Arc<Met>,
    /// Paths in conflict.
    conflicts: Arc<AtomicU64>,
    /// The volume, once it is open.
    volume: Arc<OnceLock<Arc<Volume>>>,
}

impl Mesh {
    /// Starts the threads. Returns also the receiver of nodes that lie.
    pub(crate) fn start() -> std::io::Result<(Self, UnboundedReceiver<Liar>)> {
        let (heard_tx, heard_rx) = mpsc::channel();
        let (liar_tx, liar_rx) = unbounded_channel();
        let shared = Arc::new(Shared {
            is_open: AtomicBool::new(false),
            waiting: Arc::default(),
            fetcher: Arc::new(Fetcher::new(liar_tx.clone())),
            server: Server::start()?,
            names: Arc::default(),
            met: Arc::new(Met::new(Instant::now())),
            conflicts: Arc::default(),
            volume: Arc::default(),
        });
        let keeper = Keeper::new(
            Arc::clone(&shared.volume),
            Arc::clone(&shared.met),
            Arc::clone(&shared.names),
            Arc::clone(&shared.conflicts),
        );
        std::thread::Builder::new().name("mesh-keep".into()).spawn(move || keeper.run())?;
        let mesh = Self { heard_tx, shared };
        let waiting = Arc::clone(&mesh.shared.waiting);
        let met = Arc::clone(&mesh.shared.met);
        let exchange = Exchange::new((mesh.heard_tx.clone(), waiting), liar_tx, met);
        std::thread::Builder::new().name("mesh".into()).spawn(move || exchange.run(&heard_rx))?;
        Ok((mesh, liar_rx))
    }

    /// Begins to exchange events for a volume.
    pub(crate) fn open(&self, volume: &Arc<Volume>) {
        volume.set_source(Arc::<Fetcher>::clone(&self.shared.fetcher));
        self.shared.server.open(volume);
        // An agent has one volume.
        let _ = self.shared.volume.set(Arc::clone(volume));
        self.shared.is_open.store(true, Ordering::Relaxed);
        self.tell(Heard::Volume(Arc::clone(volume)));
    }

    /// Tells whether there is a volume, for which links are needed.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.is_open.load(Ordering::Relaxed)
    }

    /// Says which keys are or were members', which nodes had them, and whether these still are members.
    pub(crate) fn note_members(&self, nodes: HashMap<Key, (NodeId, bool)>) {
        let members = nodes.iter().map(|(key, (node, _))| (*key, node.clone()));
        self.tell(Heard::Members(members.collect()));
        self.shared.names.set(Names::new(nodes));
    }

    /// Returns the names of all nodes.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.shared.names.now()
    }

    /// Returns how many paths were in conflict a moment ago.
    pub(crate) fn conflicts(&self) -> u64 {
        self.shared.conflicts.load(Ordering::Relaxed)
    }

    /// Asks all linked nodes, except some, which of a few packets they have. Blocks until they have answered, or for this time.
    pub(crate) fn probe(
        &self,
        packets: &[PacketRef],
        except: &BTreeSet<NodeId>,
        patience: Duration,
    ) -> BTreeMap<NodeId, Answer> {
        self.shared.fetcher.probe(packets, except, patience)
    }

    /// Tells whether a link leads to a node whose volume gets the events of this one's.
    pub(crate) fn leads_to_volume(&self, link: u32) -> bool {
        self.shared.met.is_linked(link)
    }

    /// Returns packets of the volume, which fetches what it lacks from other nodes. Blocks for a bounded time.
    pub(crate) fn obtain(&self, packets: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        let volume = self.shared.volume.get();
        volume.map(|volume| volume.obtain(packets)).unwrap_or_default()
    }

    /// Handles a new link.
    pub(crate) fn begin(&self, link: &Rc<Link>) {
        self.shared.waiting.begin(link.number);
        self.shared.fetcher.begin(link.number, link.peer.clone(), link.sender());
        let (peer, out) = (link.peer.clone(), link.outbox());
        self.tell(Heard::Begun(link.number, peer, out, link.knows_locks()));
    }

    /// Handles the end of a link.
    pub(crate) fn end(&self, link: &Rc<Link>) {
        self.shared.waiting.end(link.number);
        self.shared.fetcher.end(link.number);
        self.tell(Heard::Ended(link.number));
    }

    /// Handles a frame between volumes. Never blocks.
    pub(crate) fn take(&self, link: &Rc<Link>, frame: Frame) {
        match frame.kind {
            Kind::Fetch | Kind::Probe => {
                if !link.note_fetch() {
                    tracing::error!(peer = %link.peer, "dropping the link: it has too many open requests for packets");
                    return link.close();
                }
                self.shared.server.take(link.sender(), frame);
            }
            Kind::Fetched | Kind::Probed => {
                self.shared.fetcher.take(link.number, frame.stream, frame.payload);
            }
            kind => {
                if !self.shared.waiting.add(link.number, frame.payload.len()) {
                    tracing::error!(peer = %link.peer, "dropping the link: it sends events that nobody has asked for");
                    return link.close();
                }
                // A copy, so that the whole message need not stay in memory for a short frame in it.
                let is_part = frame.payload.len() <= PAYLOAD_BYTES_MAX;
                let payload =
                    if is_part { Bytes::copy_from_slice(&frame.payload) } else { frame.payload };
                self.tell(Heard::Frame(link.number, kind, payload));
            }
        }
    }

    fn tell(&self, heard: Heard) {
        // The thread ends with the agent.
        let _ = self.heard_tx.send(heard);
    }
}
