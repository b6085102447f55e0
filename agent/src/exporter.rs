//! The thread that shows this machine's files to runners. It alone lists, reads and watches, so
//! what a runner is told is in the order in which it was true.

mod foretell;
mod outbox;
mod predict;
pub(crate) mod profile;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use outbox::Outbox;
use packetfs::export::{Exporter, Hidden};
use packetfs::packet::{Digest, PacketRef};
use packetfs::path::{FileName, TreePath};
use packetfs::tree::{Attr, Bytes, Change, Kind as FileKind, Listing, join, split};
use packetfs::watch::{Drained, ReaderId, Watcher};
use profile::{Known, Likeness, Profiles};
use tokio::sync::{mpsc::UnboundedSender, oneshot};
use worknode::command::Files;

use crate::link::frame::{Frame, Kind};
use crate::link::message::{self, Answer, Ask};
use crate::link::squeeze::Squeezer;
use crate::sys::fds;
use crate::vital::Vital;

/// Packets a reader is known to have; when there are more, all are forgotten and sent again when
/// asked for.
const SENT_MAX: usize = 500_000;
/// A reader for which nothing begins hears of changes after this time, once there are more.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// A reader's question.
pub(crate) struct Question {
    pub(crate) stream: u32,
    pub(crate) ask: Ask,
    /// The walks that run for it, any of which may have asked.
    pub(crate) walks: Vec<Arc<Likeness>>,
}

/// A walk that is about to begin.
pub(crate) struct Upcoming {
    pub(crate) walk: Arc<Likeness>,
    /// It is the first of its kind for its runner.
    pub(crate) is_first: bool,
    /// Those of a compile step that its runner has not been told of as they are now.
    pub(crate) files: Option<Files>,
}

/// What the thread is asked to do.
enum Job {
    Ask {
        reader: ReaderId,
        question: Question,
        out_tx: UnboundedSender<Frame>,
    },
    Foretell {
        reader: ReaderId,
        upcoming: Upcoming,
        out_tx: UnboundedSender<Frame>,
        done_tx: oneshot::Sender<()>,
    },
    Drain {
        reader: ReaderId,
        done_tx: oneshot::Sender<()>,
    },
    Forget {
        reader: ReaderId,
    },
    Retell,
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
    /// What it has said and was not handed to the links.
    under_way: Arc<AtomicUsize>,
    /// Jobs after which more is hidden, and which are not done.
    retells: AtomicUsize,
    /// Readers that have not been told all that the thread knows.
    behind: Mutex<HashSet<ReaderId>>,
}

impl Quiet {
    /// In this order: what is not in the queue any more was read by a thread that had said before
    /// that it is busy, and says what it has read before it is not.
    fn holds(&self, reader: ReaderId) -> bool {
        fds::unread(&self.queue).is_ok_and(|bytes| bytes == 0)
            && !self.busy.load(Ordering::SeqCst)
            && self.under_way.load(Ordering::SeqCst) == 0
            && self.retells.load(Ordering::SeqCst) == 0
            && !self.behind().contains(&reader)
    }

    fn behind(&self) -> MutexGuard<'_, HashSet<ReaderId>> {
        // A panic while the lock was held leaves at worst a reader that is told sooner.
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExporterHandle {
    /// Starts the thread.
    pub(crate) fn start(vital: &Vital, hidden: Arc<Hidden>) -> anyhow::Result<Self> {
        let watcher = Watcher::new()?;
        let (jobs_tx, jobs_rx) = mpsc::channel();
        let exporter = Exporter::new(hidden);
        let outbox = Outbox::start();
        let quiet = Arc::new(Quiet {
            queue: watcher.queue()?,
            busy: AtomicBool::new(false),
            under_way: outbox.under_way(),
            retells: AtomicUsize::new(0),
            behind: Mutex::default(),
        });
        let state = State {
            exporter,
            watcher,
            readers: HashMap::new(),
            profiles: Profiles::default(),
            outbox,
            quiet: Arc::clone(&quiet),
        };
        vital.thread("exporter", move || state.serve(&jobs_rx))?;
        Ok(Self { jobs_tx, quiet })
    }

    /// Answers a runner's question, in a frame.
    pub(crate) fn ask(&self, reader: ReaderId, question: Question, out_tx: UnboundedSender<Frame>) {
        let _ = self.jobs_tx.send(Job::Ask { reader, question, out_tx });
    }

    /// Tells a reader ahead of a walk what it will ask for. When this ends, it is on its way.
    pub(crate) async fn foretell(
        &self,
        reader: ReaderId,
        upcoming: Upcoming,
        out_tx: UnboundedSender<Frame>,
    ) {
        let (done_tx, done_rx) = oneshot::channel();
        let _ = self.jobs_tx.send(Job::Foretell { reader, upcoming, out_tx, done_tx });
        let _ = done_rx.await;
    }

    /// Sends a reader what has changed. When this ends, whatever was changed before it began is on
    /// its way.
    pub(crate) async fn drain(&self, reader: ReaderId) {
        if self.quiet.holds(reader) {
            return;
        }
        let (done_tx, done_rx) = oneshot::channel();
        let _ = self.jobs_tx.send(Job::Drain { reader, done_tx });
        let _ = done_rx.await;
    }

    /// Has all readers ask again for what they know: some of it is hidden now.
    pub(crate) fn retell(&self) {
        self.quiet.retells.fetch_add(1, Ordering::SeqCst);
        let _ = self.jobs_tx.send(Job::Retell);
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
    profiles: Profiles,
    outbox: Outbox,
    quiet: Arc<Quiet>,
}

struct Reader {
    out_tx: UnboundedSender<Frame>,
    squeezer: Squeezer,
    sent: HashSet<Digest>,
    /// What it knows of this tree, as far as it was not taken back.
    told: Known,
    /// What it will be told ahead of the next that it is told.
    changes: Vec<Change>,
    /// When the first of them was drained.
    behind_since: Instant,
}

impl State {
    fn serve(mut self, jobs_rx: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs_rx.recv() {
            self.quiet.busy.store(true, Ordering::SeqCst);
            match job {
                Job::Ask { reader, question: Question { stream, ask, walks }, out_tx } => {
                    self.join(reader, &out_tx);
                    self.note(reader, &walks, &ask);
                    let answer = self.answer(reader, ask);
                    let payload = message::encode(&answer);
                    // They were true before the answer.
                    self.tell_changes(reader);
                    self.outbox.put(
                        &out_tx,
                        Frame { kind: Kind::Answer, stream, payload: payload.into() },
                    );
                }
                Job::Foretell { reader, upcoming, out_tx, done_tx } => {
                    self.join(reader, &out_tx);
                    // What is told below a directory that the reader has not heard of is lost.
                    self.drain();
                    self.tell_changes(reader);
                    self.foretell(reader, &upcoming, &out_tx);
                    self.outbox.put_done(done_tx);
                }
                Job::Drain { reader, done_tx } => {
                    self.drain();
                    self.tell_changes(reader);
                    self.outbox.put_done(done_tx);
                }
                Job::Forget { reader } => {
                    self.readers.remove(&reader);
                    self.quiet.behind().remove(&reader);
                    self.watcher.remove_reader(reader);
                }
                Job::Retell => {
                    let all = Change::Forget { dir: TreePath::root() };
                    let readers: Vec<_> = self.readers.keys().copied().collect();
                    readers.into_iter().for_each(|reader| self.queue(reader, vec![all.clone()]));
                    self.quiet.retells.fetch_sub(1, Ordering::SeqCst);
                }
            }
            self.outbox.send();
            self.quiet.busy.store(self.watcher.is_blind(), Ordering::SeqCst);
        }
    }

    fn join(&mut self, reader: ReaderId, out_tx: &UnboundedSender<Frame>) {
        self.readers.entry(reader).or_insert_with(|| Reader {
            out_tx: out_tx.clone(),
            squeezer: Squeezer::default(),
            sent: HashSet::new(),
            told: Known::default(),
            changes: Vec::new(),
            behind_since: Instant::now(),
        });
    }

    fn answer(&mut self, reader: ReaderId, ask: Ask) -> Answer {
        let answered = match ask {
            Ask::Listing(path) => self.list(reader, &path),
            Ask::Content(path) => self.content(reader, &path),
            Ask::Packets(path, wanted) => self.packets(&path, &wanted),
        };
        answered.unwrap_or_else(|errno| Answer::Failed(errno as i32))
    }

    fn list(&mut self, reader: ReaderId, path: &TreePath) -> Result<Answer, nix::errno::Errno> {
        // What the kernel fills or what is hidden is not watched: it never changes for a reader.
        if !self.exporter.hidden().hides_dir(path) {
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
            // Who looks into a hidden directory is refused; everybody may know that it is there.
            Err(nix::errno::Errno::EACCES) if self.exporter.hidden().hides_dir(path) => {
                let (dir, name) = split(path).ok_or(nix::errno::Errno::EACCES)?;
                let attr = self.exporter.entry(dir, name).ok_or(nix::errno::Errno::ENOENT)?.attr;
                Ok(Answer::Listing(Listing { attr, entries: Vec::new(), hidden: true }))
            }
            Err(errno) => Err(errno),
        }
    }

    fn content(&mut self, reader: ReaderId, path: &TreePath) -> Result<Answer, nix::errno::Errno> {
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
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
    ) -> Result<Answer, nix::errno::Errno> {
        let packets = self.exporter.packets(path, wanted)?;
        if packets.len() < wanted.len() {
            // The file is not what the reader believes: it must hear so before it asks again.
            self.drain();
        }
        Ok(Answer::Packets(packets))
    }

    /// Takes in what has changed. Readers are told with the next that they are told anyway, or when it
    /// has waited for long: to each the changes that follow each other in one piece.
    fn drain(&mut self) {
        let drained = self.watcher.drain();
        if drained.is_empty() {
            return;
        }
        let mut changes: BTreeMap<ReaderId, Vec<Change>> = BTreeMap::new();
        let Drained { names, forgotten, overflow } = drained;
        if overflow {
            for &reader in self.readers.keys() {
                changes.entry(reader).or_default().push(Change::Forget { dir: TreePath::root() });
            }
        }
        for (dir, readers) in forgotten {
            let dir = watched(dir);
            for reader in readers {
                changes.entry(reader).or_default().push(Change::Forget { dir: dir.clone() });
            }
        }
        for (dir, (readers, names)) in names {
            let dir = watched(dir);
            // The kernel tells no other names.
            let names = names.into_iter().filter_map(|name| FileName::new(name).ok());
            let (attr, names) = self.exporter.entries(&dir, names);
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
        for (number, changes) in changes {
            self.queue(number, changes);
        }
    }

    /// Keeps what a reader is to be told with the next that it is told.
    fn queue(&mut self, number: ReaderId, changes: Vec<Change>) {
        let Some(reader) = self.readers.get_mut(&number) else { return };
        for change in &changes {
            match change {
                Change::Names { dir, names, .. } => {
                    names.iter().for_each(|(name, _)| reader.told.forget(&join(dir, name)));
                }
                Change::Forget { dir } => reader.told.forget(dir),
            }
        }
        if reader.changes.is_empty() {
            reader.behind_since = Instant::now();
            self.quiet.behind().insert(number);
        }
        reader.changes.extend(changes);
        if reader.behind_since.elapsed() > BEHIND_MAX {
            self.tell_changes(number);
        }
    }

    /// Tells a reader all changes that it was not told.
    fn tell_changes(&mut self, number: ReaderId) {
        let Some(reader) = self.readers.get_mut(&number) else { return };
        if reader.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut reader.changes);
        let squeezed = reader.squeezer.squeeze(&message::encode(&changes));
        let payload = message::encode(&squeezed);
        self.outbox
            .put(&reader.out_tx, Frame { kind: Kind::Changes, stream: 0, payload: payload.into() });
        self.quiet.behind().remove(&number);
    }
}

/// Returns the path of a watched directory, or of one above it.
fn watched(dir: Bytes) -> TreePath {
    TreePath::new(dir).expect("only directories of tree paths are watched")
}

/// Tells whether a file has other names, through which it may change unseen by its directory.
fn is_linked(attr: &Attr) -> bool {
    attr.kind == FileKind::File && attr.links > 1
}

#[cfg(test)]
mod tests;
