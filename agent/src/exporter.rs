//! The thread that shows this machine's files to runners. It alone lists, reads and watches, so
//! what a runner is told is in the order in which it was true.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use packetfs::export::Exporter;
use packetfs::packet::{Digest, PacketRef};
use packetfs::tree::{Attr, Bytes, Change, Kind as FileKind, Listing, join, split};
use packetfs::watch::{Drained, ReaderId, Watcher};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use crate::link::frame::{Frame, Kind};
use crate::link::message::{self, Answer, Ask};
use crate::link::squeeze::Squeezer;
use crate::sys::fds;

/// Packets a reader is known to have; when there are more, all are forgotten and sent again when
/// asked for.
const SENT_MAX: usize = 500_000;

/// What the thread is asked to do.
enum Job {
    Ask { reader: ReaderId, stream: u32, ask: Ask, out_tx: UnboundedSender<Frame> },
    Drain { done_tx: oneshot::Sender<()> },
    Forget { reader: ReaderId },
}

/// The handle to the thread.
#[derive(Debug, Clone)]
pub(crate) struct ExporterHandle {
    jobs_tx: mpsc::Sender<Job>,
    quiet: Arc<Quiet>,
}

/// Whether there is nothing to tell, as can be seen without waiting for the thread.
#[derive(Debug)]
struct Quiet {
    /// What the kernel has told of changes and the thread has not read.
    queue: OwnedFd,
    /// The thread is at work, and may have read what it has not passed on yet; or it does not hear of
    /// all changes.
    busy: AtomicBool,
}

impl Quiet {
    /// In this order: what is not in the queue any more was read by a thread that had said before
    /// that it is busy.
    fn holds(&self) -> bool {
        fds::unread(&self.queue).is_ok_and(|bytes| bytes == 0) && !self.busy.load(Ordering::SeqCst)
    }
}

impl ExporterHandle {
    /// Starts the thread.
    pub(crate) fn start(private: Vec<Bytes>) -> anyhow::Result<Self> {
        let watcher = Watcher::new()?;
        let (jobs_tx, jobs_rx) = mpsc::channel();
        let exporter = Exporter::new(private);
        let quiet = Arc::new(Quiet { queue: watcher.queue()?, busy: AtomicBool::new(false) });
        let state = State { exporter, watcher, readers: HashMap::new(), quiet: Arc::clone(&quiet) };
        std::thread::Builder::new().name("exporter".into()).spawn(move || state.serve(&jobs_rx))?;
        Ok(Self { jobs_tx, quiet })
    }

    /// Answers a runner's question, in a frame.
    pub(crate) fn ask(
        &self,
        reader: ReaderId,
        stream: u32,
        ask: Ask,
        out_tx: UnboundedSender<Frame>,
    ) {
        let _ = self.jobs_tx.send(Job::Ask { reader, stream, ask, out_tx });
    }

    /// Sends every reader what has changed. When this ends, whatever was changed before it began
    /// is on its way.
    pub(crate) async fn drain(&self) {
        if self.quiet.holds() {
            return;
        }
        let (done_tx, done_rx) = oneshot::channel();
        let _ = self.jobs_tx.send(Job::Drain { done_tx });
        let _ = done_rx.await;
    }

    /// Forgets a reader whose link broke.
    pub(crate) fn forget(&self, reader: ReaderId) {
        let _ = self.jobs_tx.send(Job::Forget { reader });
    }
}

struct State {
    exporter: Exporter,
    watcher: Watcher,
    readers: HashMap<ReaderId, Reader>,
    quiet: Arc<Quiet>,
}

struct Reader {
    out_tx: UnboundedSender<Frame>,
    squeezer: Squeezer,
    sent: std::collections::HashSet<Digest>,
}

impl State {
    fn serve(mut self, jobs_rx: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs_rx.recv() {
            self.quiet.busy.store(true, Ordering::SeqCst);
            match job {
                Job::Ask { reader, stream, ask, out_tx } => {
                    let sent = std::collections::HashSet::new();
                    let squeezer = Squeezer::default();
                    let entry = Reader { out_tx: out_tx.clone(), squeezer, sent };
                    self.readers.entry(reader).or_insert(entry);
                    let answer = self.answer(reader, ask);
                    let payload = message::encode(&answer);
                    let _ = out_tx.send(Frame { kind: Kind::Answer, stream, payload });
                }
                Job::Drain { done_tx } => {
                    self.drain();
                    let _ = done_tx.send(());
                }
                Job::Forget { reader } => {
                    self.readers.remove(&reader);
                    self.watcher.remove_reader(reader);
                }
            }
            self.quiet.busy.store(self.watcher.is_blind(), Ordering::SeqCst);
        }
    }

    fn answer(&mut self, reader: ReaderId, ask: Ask) -> Answer {
        let answered = match ask {
            Ask::Listing(path) => self.list(reader, &path),
            Ask::Content(path) => self.content(reader, &path),
            Ask::Packets(path, wanted) => self.packets(&path, &wanted),
        };
        answered.unwrap_or_else(|errno| Answer::Failed(errno as i32))
    }

    fn list(&mut self, reader: ReaderId, path: &[u8]) -> Result<Answer, nix::errno::Errno> {
        // What the kernel fills or what is hidden is not watched: it never changes for a reader.
        if !self.exporter.is_hidden(path) {
            self.watcher.watch_dir(path, reader)?;
        }
        match self.exporter.list(path) {
            Ok(listing) if listing.entries.iter().any(|entry| is_linked(&entry.attr)) => {
                for entry in listing.entries.iter().filter(|entry| is_linked(&entry.attr)) {
                    // One that is gone again already needs no watch.
                    let _ = self.watcher.watch_file(&join(path, &entry.name));
                }
                // Once more, because they may have changed before they were watched.
                self.exporter.list(path).map(Answer::Listing)
            }
            Ok(listing) => Ok(Answer::Listing(listing)),
            // A hidden directory looks empty, so that who walks a tree is not stopped by it.
            Err(nix::errno::Errno::EACCES) if self.exporter.is_hidden(path) => {
                let (dir, name) = split(path).ok_or(nix::errno::Errno::EACCES)?;
                let attr = self.exporter.entry(dir, name).ok_or(nix::errno::Errno::ENOENT)?.attr;
                Ok(Answer::Listing(Listing { attr, entries: Vec::new() }))
            }
            Err(errno) => Err(errno),
        }
    }

    fn content(&mut self, reader: ReaderId, path: &[u8]) -> Result<Answer, nix::errno::Errno> {
        let mut exported = self.exporter.content(path, true)?;
        if is_linked(&exported.content.attr) {
            self.watcher.watch_file(path)?;
            exported = self.exporter.content(path, true)?;
        }
        if let (Some(reader), [packet]) =
            (self.readers.get_mut(&reader), exported.content.manifest.packets.as_slice())
        {
            if reader.sent.len() >= SENT_MAX {
                reader.sent.clear();
            }
            if !reader.sent.insert(packet.digest) {
                exported.inline = None;
            }
        }
        Ok(Answer::Content(exported.content, exported.inline))
    }

    fn packets(
        &mut self,
        path: &[u8],
        wanted: &[(u64, PacketRef)],
    ) -> Result<Answer, nix::errno::Errno> {
        let packets = self.exporter.packets(path, wanted)?;
        if packets.len() < wanted.len() {
            // The file is not what the reader believes: it must hear so before it asks again.
            self.drain();
        }
        Ok(Answer::Packets(packets))
    }

    fn drain(&mut self) {
        let drained = self.watcher.drain();
        if drained.is_empty() {
            return;
        }
        let mut changes: BTreeMap<ReaderId, Vec<Change>> = BTreeMap::new();
        let Drained { names, forgotten, overflow } = drained;
        if overflow {
            for &reader in self.readers.keys() {
                changes.entry(reader).or_default().push(Change::Forget { dir: b"/".to_vec() });
            }
        }
        for (dir, readers) in forgotten {
            for reader in readers {
                changes.entry(reader).or_default().push(Change::Forget { dir: dir.clone() });
            }
        }
        for (dir, (readers, names)) in names {
            let (attr, names) = self.exporter.entries(&dir, names.into_iter());
            let entries = names.iter().filter_map(|(_, entry)| entry.as_ref());
            for entry in entries.filter(|entry| is_linked(&entry.attr)) {
                // One that is gone again already needs no watch.
                let _ = self.watcher.watch_file(&join(&dir, &entry.name));
            }
            let change = Change::Names { dir, attr, names };
            for reader in readers {
                changes.entry(reader).or_default().push(change.clone());
            }
        }
        for (reader, changes) in changes {
            if let Some(reader) = self.readers.get_mut(&reader) {
                let squeezed = reader.squeezer.squeeze(&message::encode(&changes));
                let payload = message::encode(&squeezed);
                let _ = reader.out_tx.send(Frame { kind: Kind::Changes, stream: 0, payload });
            }
        }
    }
}

/// Tells whether a file has other names, through which it may change unseen by its directory.
fn is_linked(attr: &Attr) -> bool {
    attr.kind == FileKind::File && attr.links > 1
}
