//! Gives packets to other nodes, and tells them which are here, on threads of its own.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};

use packetfs::volume::Volume;
use tokio::sync::mpsc::UnboundedSender;

use crate::wire::feed::{Fetch, Probe, Probed};
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{Packets, encode};

/// Threads that read packets: one waits for the disk while the other packs.
const THREADS: usize = 2;

/// A request, and where its answer goes.
struct Asked {
    out_tx: UnboundedSender<Frame>,
    frame: Frame,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Server {
    /// main thread --requests--> threads. Bounded by the open requests of each link, until their answers are sent.
    asked_tx: mpsc::Sender<Asked>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    volume: OnceLock<Arc<Volume>>,
}

impl Server {
    pub(super) fn start() -> std::io::Result<Self> {
        let (asked_tx, asked_rx) = mpsc::channel();
        let asked_rx = Arc::new(Mutex::new(asked_rx));
        let shared = Arc::<Shared>::default();
        for _ in 0..THREADS {
            let (asked_rx, shared) = (Arc::clone(&asked_rx), Arc::clone(&shared));
            let serve = move || {
                while let Some(asked) = next(&asked_rx) {
                    shared.answer(&asked);
                }
            };
            std::thread::Builder::new().name("mesh-packets".into()).spawn(serve)?;
        }
        Ok(Self { asked_tx, shared })
    }

    /// Gives packets of a volume from now on.
    pub(super) fn open(&self, volume: &Arc<Volume>) {
        // An agent has one volume.
        let _ = self.shared.volume.set(Arc::clone(volume));
    }

    /// Takes a request.
    pub(super) fn take(&self, out_tx: UnboundedSender<Frame>, frame: Frame) {
        // The threads live as long as the agent.
        let _ = self.asked_tx.send(Asked { out_tx, frame });
    }
}

fn next(asked_rx: &Mutex<mpsc::Receiver<Asked>>) -> Option<Asked> {
    asked_rx.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Shared {
    fn answer(&self, asked: &Asked) {
        let (kind, payload) = match asked.frame.kind {
            Kind::Probe => (Kind::Probed, self.probed(&asked.frame.payload)),
            _ => (Kind::Fetched, self.fetched(&asked.frame.payload)),
        };
        let stream = asked.frame.stream;
        // The link may have ended.
        let _ = asked.out_tx.send(Frame { kind, stream, payload: payload.into() });
    }

    fn fetched(&self, payload: &[u8]) -> Vec<u8> {
        let wanted = Fetch::decode(payload).map(|fetch| fetch.packets);
        let packets = self.volume.get().zip(wanted).map(|(volume, wanted)| volume.packets(&wanted));
        encode(&Packets { packets: packets.unwrap_or_default() })
    }

    fn probed(&self, payload: &[u8]) -> Vec<u8> {
        let packets = Probe::decode(payload).map(|probe| probe.packets);
        let has = self.volume.get().zip(packets).map(|(volume, packets)| volume.has(&packets));
        encode(&Probed { has })
    }
}
