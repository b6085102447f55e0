//! The thread that exports this machine's files to runners. It alone lists, watches and answers, so that answers and changes
//! reach runners in the order in which they were true. What is large is read for it on other threads (`long`, `later`).

mod attributes;
mod foretell;
mod holders;
mod later;
mod long;
mod outbox;
mod predict;
pub(crate) mod profile;
pub(crate) mod reach;
mod reader;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use holders::Holders;
pub(crate) use holders::Peer;
use long::{AT_ONCE_BYTES_MAX, DIR_AT_ONCE_BYTES_MAX, Done, Long, Reads, at_once};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use outbox::Outbox;
use packetfs::export::{self, Exporter, Hidden, read_packets};
use packetfs::identity::Owner;
use packetfs::mounts::{MountWatch, Mounts};
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::{Bytes, FileName, TreePath, join, split};
use packetfs::tree::{Attr, Change, Entry, Kind as FileKind, Listing, Names};
use packetfs::watch::{Drained, ReaderId, Watcher};
use profile::{Likeness, Profiles};
use reader::{CLOSED_MAX, NOBODY, Reader, users_of};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use worknode::command::Files;

use crate::own_volume::OwnVolume;
use crate::random;
use crate::served::Heard;
use crate::sys::outside::Outside;
use crate::vital::Vital;
use crate::wire::frame::{Frame, Kind};
use crate::wire::holding::{TICKET_BYTES, TicketKey};
use crate::wire::limits::HELD_MAX;
use crate::wire::lists;
use crate::wire::message::{self, Answer, Ask};

/// Most packets that a reader is known to have. Beyond this, all are dropped, and sent again on request.
const SENT_MAX: usize = 500_000;
/// Delay after which changes are sent to a reader without new walks, together with the next ones.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// Longest wait of a walk for the changes that its runner must be told first; after that the program stays. If it takes
/// longer, a file system does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a question or a commit is handed back because the last answer of its file system is too old. That is more than
/// ten seconds of a busy thread.
pub(crate) const TRIES_MAX: u8 = 100;

/// A question, and where its answer goes.
pub(crate) struct Asked {
    pub(crate) reader: ReaderId,
    pub(crate) question: Question,
    pub(crate) out_tx: UnboundedSender<Frame>,
    /// How often its file system has been asked for it.
    pub(crate) tries: u8,
    /// How often a file was read for it that had changed meanwhile, or was not kept.
    pub(crate) reads: u8,
}

/// A reader's question.
pub(crate) struct Question {
    pub(crate) stream: u32,
    pub(crate) ask: Ask,
    /// The walks that run for it, any of which may have caused the question.
    pub(crate) walks: Vec<Arc<Likeness>>,
}

/// A walk that is about to start.
pub(crate) struct Upcoming {
    pub(crate) walk: Arc<Likeness>,
    /// Whether it is the first of its kind for its runner.
    pub(crate) is_first: bool,
    /// The files of a compile step whose current versions have not been sent to its runner.
    pub(crate) files: Option<Files>,
}

/// A job for the thread.
enum Job {
    Ask(Asked),
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
    /// A reader knows of packets that other runners hold.
    Meet {
        reader: ReaderId,
        peer: Peer,
        out_tx: UnboundedSender<Frame>,
    },
    Forget {
        reader: ReaderId,
    },
    Retell,
    /// A long read has ended.
    Read(Done),
    #[cfg(test)]
    Run(Box<dyn FnOnce() + Send>),
}

/// What becomes of a question.
enum Answered {
    /// It is answered.
    Now(Answer),
    /// A file must be read for it, which takes a while.
    Long(Long),
}

/// Why changes could not be sent to a walk's runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untold {
    /// The thread has died, and the agent ends.
    #[error("the exporter has died: the program is executed here")]
    Died,
    /// The thread waits for a file system, or is overloaded.
    #[error(
        "the files of this machine could not be read in {PATIENCE:?}: the program is executed here"
    )]
    Late,
}

/// The handle to the thread.
#[derive(Debug, Clone)]
pub(crate) struct ExporterHandle {
    /// Unbounded, since the agent must not wait for the thread. Bounded by what waits for it: questions, which are
    /// counted for each link, and walks that begin, each with one job.
    jobs_tx: Arc<mpsc::Sender<Job>>,
    quiet: Arc<Quiet>,
    patience: Duration,
}

/// State by which the main thread can tell, without waiting, that there are no changes to send.
#[derive(Debug)]
struct Quiet {
    /// The inotify queue.
    queue: OwnedFd,
    /// Reports each change of the mounts once. `mounted` keeps that.
    mounts: MountWatch,
    /// Whether the mounts have changed since the thread read them.
    mounted: AtomicBool,
    /// Whether the thread is working, and so may have read changes that it has not passed on yet, or does not get events for
    /// all changes.
    busy: AtomicBool,
    /// Number of its batches that have not been passed to the links.
    under_way: Arc<AtomicUsize>,
    /// Number of pending jobs that hide further files.
    retells: AtomicUsize,
    /// The agent's own volume, whose changes have no events.
    own_volume: OwnVolume,
    /// Readers with pending changes.
    behind: Mutex<HashSet<ReaderId>>,
}

impl Quiet {
    /// Checks the queue before the busy flag. Events that are no longer queued were read by a thread that had set the flag
    /// before, and that passes them on before clearing it.
    fn holds(&self, reader: ReaderId) -> bool {
        !self.is_unread()
            && self.own_volume.is_quiet()
            && !self.mounted.load(Ordering::SeqCst)
            && !self.busy.load(Ordering::SeqCst)
            && self.under_way.load(Ordering::SeqCst) == 0
            && self.retells.load(Ordering::SeqCst) == 0
            && !self.behind().contains(&reader)
    }

    /// Tells by one system call whether events are queued.
    fn is_unread(&self) -> bool {
        let queue = PollFd::new(self.queue.as_fd(), PollFlags::POLLIN);
        let mut asked = [queue, self.mounts.poll_fd()];
        match poll(&mut asked, PollTimeout::ZERO) {
            Ok(0) => return false,
            Ok(_) if !MountWatch::is_set(&asked[1]) => {}
            _ => self.mounted.store(true, Ordering::SeqCst),
        }
        true
    }

    fn behind(&self) -> MutexGuard<'_, HashSet<ReaderId>> {
        // A panic under the lock leaves at worst a reader that gets changes early.
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    pub(crate) fn new(
        reader: ReaderId,
        question: Question,
        out_tx: UnboundedSender<Frame>,
    ) -> Self {
        Self { reader, question, out_tx, tries: 0, reads: 0 }
    }

    /// Answers with an error.
    pub(crate) fn fail(&self, errno: i32) {
        let _ = self.out_tx.send(self.frame(&Answer::Failed(errno)));
    }

    fn frame(&self, answer: &Answer) -> Frame {
        let payload = message::encode(answer).into();
        Frame { kind: Kind::Answer, stream: self.question.stream, payload }
    }
}

impl ExporterHandle {
    /// Starts the thread in the users' mount namespace. Returns also the questions that it hands back, because their file systems
    /// must be asked first.
    pub(crate) fn start(
        vital: &Vital,
        heard: Heard,
        hidden: Arc<Hidden>,
        outside: &Arc<Outside>,
    ) -> anyhow::Result<(Self, UnboundedReceiver<Asked>)> {
        let outside = Arc::clone(outside);
        let enter = move || outside.enter();
        Self::start_with(vital, (heard, hidden), PATIENCE, Watcher::new()?, enter)
    }

    fn start_with(
        vital: &Vital,
        (heard, hidden): (Heard, Arc<Hidden>),
        patience: Duration,
        watcher: Watcher,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> anyhow::Result<(Self, UnboundedReceiver<Asked>)> {
        let (unheard_tx, unheard_rx) = unbounded_channel();
        let (jobs_tx, jobs_rx) = mpsc::channel();
        let jobs_tx = Arc::new(jobs_tx);
        let reads = (Reads::new(vital.clone()), Arc::downgrade(&jobs_tx));
        let (ready_tx, ready_rx) = mpsc::channel();
        let outbox = Outbox::start();
        vital.thread("exporter", move || {
            match enter()
                .and_then(|()| State::new(hidden, heard, watcher, (outbox, unheard_tx), reads))
            {
                Ok(state) => {
                    let _ = ready_tx.send(Ok(Arc::clone(&state.quiet)));
                    state.serve(&jobs_rx);
                }
                Err(error) => drop(ready_tx.send(Err(error))),
            }
        })?;
        let quiet = ready_rx.recv()?.context("failed to look at the files and mounts of users")?;
        Ok((Self { jobs_tx, quiet, patience }, unheard_rx))
    }

    /// Answers a runner's question by a frame.
    pub(crate) fn ask(&self, reader: ReaderId, question: Question, out_tx: UnboundedSender<Frame>) {
        self.ask_again(Asked::new(reader, question, out_tx));
    }

    /// Answers a question whose file system has answered just now.
    pub(crate) fn ask_again(&self, asked: Asked) {
        if let Err(mpsc::SendError(Job::Ask(asked))) = self.jobs_tx.send(Job::Ask(asked)) {
            asked.fail(libc::EIO);
        }
    }

    /// Sends a reader the expected answers ahead of a walk. They have been passed to the link when this returns.
    ///
    /// # Errors
    /// See [`Untold`]: the walk must not begin.
    pub(crate) async fn foretell(
        &self,
        reader: ReaderId,
        upcoming: Upcoming,
        out_tx: UnboundedSender<Frame>,
    ) -> Result<(), Untold> {
        let (done_tx, done_rx) = oneshot::channel();
        self.wait(Job::Foretell { reader, upcoming, out_tx, done_tx }, done_rx).await
    }

    /// Sends a reader all changes. Everything that changed before the call has been passed to the link when this returns.
    ///
    /// # Errors
    /// See [`Untold`]: the walk must not begin.
    pub(crate) async fn drain(&self, reader: ReaderId) -> Result<(), Untold> {
        if self.quiet.holds(reader) {
            return Ok(());
        }
        let (done_tx, done_rx) = oneshot::channel();
        self.wait(Job::Drain { reader, done_tx }, done_rx).await
    }

    /// Has the thread read the mounts if something was mounted or unmounted.
    ///
    /// # Errors
    /// See [`Untold`].
    pub(crate) async fn see_mounts(&self) -> Result<(), Untold> {
        /// Any: a reader with this number would only get its changes early.
        const NOBODY: ReaderId = 0;
        self.quiet.is_unread();
        if self.quiet.mounted.load(Ordering::SeqCst) { self.drain(NOBODY).await } else { Ok(()) }
    }

    async fn wait(&self, job: Job, done_rx: oneshot::Receiver<()>) -> Result<(), Untold> {
        self.jobs_tx.send(job).map_err(|_| Untold::Died)?;
        match tokio::time::timeout(self.patience, done_rx).await {
            Ok(done) => done.map_err(|_| Untold::Died),
            Err(_) => Err(Untold::Late),
        }
    }

    /// Invalidates everything at all readers, because more files are hidden now.
    pub(crate) fn retell(&self) {
        self.quiet.retells.fetch_add(1, Ordering::SeqCst);
        let _ = self.jobs_tx.send(Job::Retell);
    }

    /// Has packets given to a runner by others, and to others by it.
    pub(crate) fn meet(&self, reader: ReaderId, peer: Peer, out_tx: UnboundedSender<Frame>) {
        let _ = self.jobs_tx.send(Job::Meet { reader, peer, out_tx });
    }

    /// Removes a reader whose link has ended.
    pub(crate) fn forget(&self, reader: ReaderId) {
        let _ = self.jobs_tx.send(Job::Forget { reader });
    }
}

struct State {
    exporter: Exporter,
    watcher: Watcher,
    mounts: MountWatch,
    readers: HashMap<ReaderId, Reader>,
    profiles: Profiles,
    holders: Holders,
    /// What may be looked at ahead of a question: what is asked for has answered before.
    heard: Heard,
    outbox: Outbox,
    /// Questions whose file systems must be asked first. Unbounded for the same reason as the outbox.
    unheard_tx: UnboundedSender<Asked>,
    reads: Reads<Asked>,
    /// reader --`Job::Read`--> exporter
    jobs_tx: Weak<mpsc::Sender<Job>>,
    quiet: Arc<Quiet>,
}

impl State {
    fn new(
        hidden: Arc<Hidden>,
        heard: Heard,
        watcher: Watcher,
        (outbox, unheard_tx): (Outbox, UnboundedSender<Asked>),
        (reads, jobs_tx): (Reads<Asked>, Weak<mpsc::Sender<Job>>),
    ) -> io::Result<Self> {
        let mut mounts = MountWatch::new()?;
        let quiet = Arc::new(Quiet {
            queue: watcher.queue()?,
            mounts: MountWatch::new()?,
            mounted: AtomicBool::new(false),
            busy: AtomicBool::new(watcher.is_blind()),
            under_way: outbox.under_way(),
            retells: AtomicUsize::new(0),
            own_volume: heard.own_volume().clone(),
            behind: Mutex::default(),
        });
        hidden.set_mounts(Arc::new(mounts.read()?));
        let asked = heard.clone();
        Ok(Self {
            exporter: Exporter::asking(hidden, move |path| asked.may_be_asked(path)),
            watcher,
            mounts,
            readers: HashMap::new(),
            profiles: Profiles::default(),
            holders: Holders::default(),
            heard,
            outbox,
            unheard_tx,
            reads,
            jobs_tx,
            quiet,
        })
    }

    fn serve(mut self, jobs_rx: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs_rx.recv() {
            self.quiet.busy.store(true, Ordering::SeqCst);
            match job {
                Job::Ask(asked) => self.take_question(asked),
                Job::Foretell { reader, upcoming, out_tx, done_tx } => {
                    self.add_reader(reader, &out_tx);
                    self.serve_user(reader, &upcoming.walk.user);
                    // A reader ignores answers below a directory that it does not know.
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
                Job::Meet { reader, peer, out_tx } => self.meet(reader, peer, &out_tx),
                Job::Forget { reader } => {
                    self.readers.remove(&reader);
                    self.holders.forget(reader);
                    self.quiet.behind().remove(&reader);
                    self.watcher.remove_reader(reader);
                }
                Job::Retell => {
                    let all = Change::Forget { dir: TreePath::root() };
                    let readers: Vec<_> = self.readers.keys().copied().collect();
                    readers.into_iter().for_each(|reader| self.queue(reader, vec![all.clone()]));
                    self.quiet.retells.fetch_sub(1, Ordering::SeqCst);
                }
                Job::Read(done) => self.take_read(done),
                #[cfg(test)]
                Job::Run(run) => run(),
            }
            self.outbox.send();
            self.quiet.busy.store(self.watcher.is_blind(), Ordering::SeqCst);
        }
    }

    /// Answers a question, or hands it back if its file system has not answered just now.
    fn take_question(&mut self, asked: Asked) {
        let Asked { reader, question: Question { ask, walks, .. }, out_tx, tries, .. } = &asked;
        self.add_reader(*reader, out_tx);
        walks.iter().for_each(|walk| self.serve_user(*reader, &walk.user));
        self.note(*reader, walks, ask);
        // What was mounted just now may not answer.
        self.drain_mounts();
        let users = users_of(walks, ask);
        let mut answer = self.answer_if_heard(*reader, ask, &users);
        // A file system mounted before the mounts were read may show files that are hidden elsewhere.
        if self.drain_mounts() {
            answer = self.answer_if_heard(*reader, ask, &users);
        }
        if answer.is_none() && *tries < TRIES_MAX {
            // Fails if the agent is ending.
            let _ = self.unheard_tx.send(asked);
            return;
        }
        self.name_holders(asked.reader, &asked.out_tx);
        match answer.unwrap_or(Answered::Now(Answer::Failed(libc::EIO))) {
            Answered::Now(answer) => self.send_answer(&asked, &answer),
            Answered::Long(long) => self.read(asked, long),
        }
    }

    fn send_answer(&mut self, asked: &Asked, answer: &Answer) {
        // Changes precede the answer.
        self.tell_changes(asked.reader);
        self.outbox.put(&asked.out_tx, asked.frame(answer));
    }

    /// Drains changes if something was mounted or unmounted. Returns whether it was.
    fn drain_mounts(&mut self) -> bool {
        let has_changed = self.mounts.has_changed();
        if has_changed {
            self.quiet.mounted.store(true, Ordering::SeqCst);
            self.drain();
        }
        has_changed
    }

    fn answer_if_heard(
        &mut self,
        reader: ReaderId,
        ask: &Ask,
        users: &[&Owner],
    ) -> Option<Answered> {
        let may_be_asked = self.heard.may_be_asked(ask.path());
        may_be_asked.then(|| self.answer(reader, ask, users, AT_ONCE_BYTES_MAX))
    }

    fn add_reader(&mut self, reader: ReaderId, out_tx: &UnboundedSender<Frame>) {
        self.readers.entry(reader).or_insert_with(|| Reader::new(out_tx.clone()));
    }

    /// Answers a question with the rights of the users whose walks may have asked it: one of them must be allowed to see
    /// the answer. More than `bytes_max` of packets are not read at once.
    fn answer(
        &mut self,
        reader: ReaderId,
        ask: &Ask,
        users: &[&Owner],
        bytes_max: u64,
    ) -> Answered {
        let mut answered = Err(Errno::EACCES);
        for user in users {
            answered = match ask {
                // Depends on all users of the reader.
                Ask::Listing(path) => match self.list((reader, user.uid), path) {
                    Err(errno) => return Answered::Now(failed(errno)),
                    listed => listed,
                },
                Ask::Content(path) => self.content(user, reader, path),
                Ask::Packets(path, wanted) => self.packets((user, reader), path, wanted, bytes_max),
            };
            if answered.is_ok() {
                break;
            }
        }
        match answered {
            // Whoever owns a file answers for its size, whoever else may have asked.
            Ok(Answered::Long(mut long)) if users.iter().any(|user| user.uid == long.owner) => {
                long.user = long.owner;
                Answered::Long(long)
            }
            answered => answered.unwrap_or_else(|errno| Answered::Now(failed(errno))),
        }
    }

    /// Records that a reader executes walks of a user, who may search directories that are closed to the others.
    fn serve_user(&mut self, number: ReaderId, user: &Owner) {
        let Some(reader) = self.readers.get_mut(&number) else { return };
        if !reader.add_user(user) {
            return;
        }
        let withheld = std::mem::take(&mut reader.withheld);
        let closed: Vec<_> = reader.closed.iter().cloned().collect();
        for dir in withheld {
            self.queue(number, vec![Change::Forget { dir }]);
        }
        for dir in closed {
            if self.exporter.may_search(user, &dir).is_ok() {
                self.queue(number, vec![Change::Forget { dir }]);
            }
        }
    }

    fn list(
        &mut self,
        (reader, user): (ReaderId, u32),
        path: &TreePath,
    ) -> Result<Answered, Errno> {
        if !self.may_search(reader, path) {
            return self.list_closed(reader, path).map(Answered::Now);
        }
        // The kernel's directories and hidden ones are not watched, because they never change for a reader.
        let hides = self.exporter.hidden().hides_dir(path);
        if !hides {
            self.watcher.watch_dir(path, reader)?;
        }
        let opened = self.exporter.open_dir(path);
        // Without a watch nobody knows what changes meanwhile.
        if let Ok(dir) = &opened
            && dir.attr().bytes > DIR_AT_ONCE_BYTES_MAX
            && !self.watcher.is_blind()
        {
            return opened.map(|dir| Answered::Long(Long::listing(user, dir)));
        }
        let listed = opened.and_then(|dir| dir.read());
        let listed = match &listed {
            Ok(listing) if self.watch_files(path, listing.entries.iter()) => {
                // Read again, because they may have changed before they were watched.
                self.exporter.list(path)
            }
            Ok(listing) => {
                self.exporter.note_listed(path, &listing.entries);
                listed
            }
            Err(_) => listed,
        };
        if listed.is_err() && !hides {
            self.watcher.unwatch_dir(path, reader);
        }
        let answer = match listed {
            // Reading a hidden directory is refused, but its existence is not secret.
            Err(Errno::EACCES) if hides => {
                let (dir, name) = split(path).ok_or(Errno::EACCES)?;
                let attr = self.exporter.entry(dir, name).ok_or(Errno::ENOENT)?.attr;
                Answer::Listing(Listing { attr, entries: Vec::new(), names: Names::Hidden })
            }
            listed => {
                let mut listing = listed?;
                self.withhold(reader, path, listing.entries.iter_mut().collect());
                Answer::Listing(listing)
            }
        };
        Ok(Answered::Now(answer))
    }

    /// Tells whether one of a reader's users may look up names in a directory.
    fn may_search(&mut self, reader: ReaderId, dir: &TreePath) -> bool {
        let users = self.readers.get(&reader).map_or(&[][..], |reader| &reader.users);
        let users = if users.is_empty() { std::slice::from_ref(&NOBODY) } else { users };
        users.iter().any(|user| self.exporter.may_search(user, dir) != Err(Errno::EACCES))
    }

    /// Answers with a directory's attributes alone, which every user may see.
    fn list_closed(&mut self, number: ReaderId, path: &TreePath) -> Result<Answer, Errno> {
        match self.watcher.watch_dir(path, number) {
            // An agent without root may not watch it either. Whether it is closed is an event of the directory above.
            Err(Errno::EACCES) => {}
            watched => watched?,
        }
        let (attr, _) = self.exporter.entries(path, std::iter::empty());
        let attr = attr.ok_or(Errno::ENOENT)?;
        let Some(reader) = self.readers.get_mut(&number) else { return Err(Errno::EACCES) };
        if reader.closed.len() >= CLOSED_MAX {
            return Err(Errno::EACCES);
        }
        reader.closed.insert(path.clone());
        Ok(Answer::Listing(Listing { attr, entries: Vec::new(), names: Names::Closed }))
    }

    /// Watches the files of a directory that may change without an event for the directory: those with other hard links, and
    /// mount points. Returns whether any watch is new.
    fn watch_files<'a>(
        &mut self,
        dir: &TreePath,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> bool {
        let mounts = self.exporter.hidden().mounts();
        let points = mounts.has_points_in(dir).then_some(&*mounts);
        let mut is_new = false;
        for entry in entries.filter(|entry| is_unseen(dir, entry, points)) {
            // Fails if the file has been removed again.
            is_new |= self.watcher.watch_file(&join(dir, &entry.name)).unwrap_or_default();
        }
        is_new
    }

    fn content(
        &mut self,
        user: &Owner,
        number: ReaderId,
        path: &TreePath,
    ) -> Result<Answered, Errno> {
        let mut asked = self.look_at(user, path)?;
        if is_linked(asked.attr()) && self.watcher.watch_file(path)? {
            asked = self.look_at(user, path)?;
        }
        let mut exported = match asked {
            export::Asked::Known(exported) => exported,
            export::Asked::Unread(file) => match self.known_otherwise(user, path, &file)? {
                Some(exported) => exported,
                None => return Ok(Answered::Long(Long::content(user.uid, file))),
            },
        };
        let is_theirs = self.is_theirs(number, path);
        if let (Some(reader), [packet]) =
            (self.readers.get_mut(&number), exported.content.manifest.packets.as_slice())
        {
            if reader.sent.len() >= SENT_MAX {
                reader.sent.clear();
            }
            if !reader.sent.insert(packet.digest) {
                exported.inline = None;
            } else if exported.inline.is_some() {
                let now = Instant::now();
                let is_named = if is_theirs {
                    self.holders.name_itself(number, *packet, now)
                } else {
                    self.holders.name(number, *packet, now)
                };
                if is_named {
                    exported.inline = None;
                } else {
                    self.holders.note_sent(number, *packet);
                }
            }
        }
        Ok(Answered::Now(Answer::Content(exported.content, exported.inline)))
    }

    fn look_at(&mut self, user: &Owner, path: &TreePath) -> Result<export::Asked, Errno> {
        let (own, is_own) = (self.heard.own_volume(), self.heard.is_own(path));
        self.exporter.for_user(user, |files| at_once(files, path, true, is_own.then_some(own)))
    }

    /// Returns the content of a file of the agent's own volume, if that knows its packets.
    fn known_otherwise(
        &mut self,
        user: &Owner,
        path: &TreePath,
        file: &export::Unread,
    ) -> Result<Option<export::Exported>, Errno> {
        let known = self.heard.own_volume().manifest(file.attr());
        let Some(manifest) = known else { return Ok(None) };
        self.exporter.learn(file.version(), manifest);
        Ok(match self.look_at(user, path)? {
            export::Asked::Known(exported) => Some(exported),
            // It has changed meanwhile.
            export::Asked::Unread(_) => None,
        })
    }

    fn packets(
        &mut self,
        (user, reader): (&Owner, ReaderId),
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
        bytes_max: u64,
    ) -> Result<Answered, Errno> {
        let file = self.exporter.for_user(user, |files| files.open_file(path))?;
        let wanted = &self.without_held((user, reader), path, wanted);
        if wanted.is_empty() {
            return Ok(Answered::Now(Answer::Packets(Vec::new())));
        }
        let bytes: u64 = wanted.iter().map(|(_, packet)| u64::from(packet.bytes)).sum();
        // The volume's may have to be fetched, whatever the asker affords.
        if bytes > bytes_max || self.heard.is_own(path) {
            return Ok(Answered::Long(Long::packets(user.uid, file, wanted)?));
        }
        let packets = read_packets(&file, wanted);
        if packets.len() < wanted.len() {
            // The file has changed: the reader must get the change before it asks again.
            self.drain();
        }
        self.note_sent(reader, &packets);
        Ok(Answered::Now(Answer::Packets(packets)))
    }

    /// Names holders of packets of a file to a reader, and returns the packets for which there is none. Only of what the file
    /// has now, and the user may read.
    fn without_held(
        &mut self,
        (user, reader): (&Owner, ReaderId),
        path: &TreePath,
        wanted: &[(u64, PacketRef)],
    ) -> Vec<(u64, PacketRef)> {
        let mut here = wanted.to_vec();
        let is_theirs = self.is_theirs(reader, path);
        let mut packets = wanted.iter().map(|(_, packet)| packet);
        if !is_theirs && !self.holders.hold_any(reader, &mut packets) {
            return here;
        }
        let (own, is_own) = (self.heard.own_volume(), self.heard.is_own(path));
        let own = is_own.then_some(own);
        let known = self.exporter.for_user(user, |files| at_once(files, path, false, own));
        let Ok(export::Asked::Known(exported)) = known else { return here };
        let now = Instant::now();
        for placed in exported.content.manifest.covering(0, u64::MAX) {
            let holders = &mut self.holders;
            here.retain(|it| {
                let is_named = *it == placed
                    && if is_theirs {
                        holders.name_itself(reader, placed.1, now)
                    } else {
                        holders.name(reader, placed.1, now)
                    };
                !is_named
            });
        }
        here
    }

    /// Tells whether a file is in a volume that the reader has, too.
    fn is_theirs(&self, reader: ReaderId, path: &TreePath) -> bool {
        self.heard.is_own(path) && self.heard.own_volume().is_shared_over(reader)
    }

    fn note_sent(&mut self, reader: ReaderId, packets: &[(PacketRef, Packed)]) {
        packets.iter().for_each(|(packet, _)| self.holders.note_sent(reader, *packet));
    }

    fn meet(&mut self, reader: ReaderId, peer: Peer, out_tx: &UnboundedSender<Frame>) {
        let mut key = [0; TICKET_BYTES];
        random::fill(&mut key);
        let key = TicketKey(key);
        let payload = message::encode(&key).into();
        self.outbox.put(out_tx, Frame { kind: Kind::TicketKey, stream: 0, payload });
        self.holders.meet(reader, peer, key, Instant::now());
    }

    /// Tells a reader who holds what it is not sent with the answers that follow.
    fn name_holders(&mut self, reader: ReaderId, out_tx: &UnboundedSender<Frame>) {
        let named = self.holders.take_named(reader);
        for named in named.chunks(HELD_MAX) {
            let payload = message::encode(&named).into();
            self.outbox.put(out_tx, Frame { kind: Kind::Held, stream: 0, payload });
        }
    }

    /// Drains changes. Pending changes go out with the next message to a reader, or after a delay, consecutive ones
    /// together.
    fn drain(&mut self) {
        let points = self.changed_mounts();
        let mut drained = self.watcher.drain(&points);
        let own_volume = self.heard.own_volume();
        if !own_volume.is_quiet() {
            let (devices, news) = own_volume.news();
            devices.iter().for_each(|dev| self.watcher.add(*dev, &news, &mut drained));
        }
        if drained.is_empty() {
            return;
        }
        self.reads.note(&drained);
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
            // What is mounted in it is listed with what the kernel knows, if it does not answer.
            if !self.heard.may_be_asked(&dir) {
                // They ask again, and may wait for it.
                for reader in readers {
                    let change = Change::Forget { dir: dir.clone() };
                    changes.entry(reader).or_default().push(change);
                }
                continue;
            }
            // The kernel reports only valid names.
            let names = names.into_iter().filter_map(|name| FileName::new(name).ok());
            let (mut attr, mut names) = self.exporter.entries(&dir, names);
            let entries: Vec<_> = names.iter().filter_map(|(_, entry)| entry.as_ref()).collect();
            if self.watch_files(&dir, entries.into_iter()) {
                // Read again, because they may have changed before they were watched.
                let again: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
                (attr, names) = self.exporter.entries(&dir, again.into_iter());
            }
            // A reader of another directory may know the same file.
            let linked = |(_, entry): &&(_, Option<Entry>)| {
                entry.as_ref().is_some_and(|entry| is_linked(&entry.attr))
            };
            let linked: Vec<_> = names.iter().filter(linked).cloned().collect();
            let others = self.readers.keys().filter(|reader| !readers.contains(reader));
            for &other in others.filter(|_| !linked.is_empty()) {
                let change = Change::Names { dir: dir.clone(), attr, names: linked.clone() };
                changes.entry(other).or_default().push(change);
            }
            let paths = names.iter().filter_map(|(name, _)| TreePath::new(join(&dir, name)).ok());
            let paths: Vec<_> = paths.collect();
            let change = Change::Names { dir: dir.clone(), attr, names };
            for reader in readers {
                let changes = changes.entry(reader).or_default();
                let closed = self.readers.get(&reader).map(|reader| &reader.closed);
                let is_closed = |dir: &TreePath| closed.is_some_and(|closed| closed.contains(dir));
                changes.push(match is_closed(&dir) {
                    true => Change::Forget { dir: dir.clone() },
                    false => change.clone(),
                });
                let below = paths.iter().filter(|path| is_closed(path));
                changes.extend(below.map(|dir| Change::Forget { dir: dir.clone() }));
            }
        }
        for (number, changes) in changes {
            self.queue(number, changes);
        }
    }

    /// Returns the points at which something was mounted or unmounted since the last call.
    fn changed_mounts(&mut self) -> BTreeSet<Bytes> {
        // Cleared before reading, because later changes may be missing from what is read.
        let was_noted = self.quiet.mounted.swap(false, Ordering::SeqCst);
        if !self.mounts.has_changed() && !was_noted {
            return BTreeSet::new();
        }
        let hidden = self.exporter.hidden();
        match self.mounts.read() {
            Ok(mounts) => {
                let changed = hidden.mounts().changed(&mounts);
                hidden.set_mounts(Arc::new(mounts));
                changed
            }
            Err(error) => {
                tracing::error!(%error, "failed to read the mounts: all runners fetch everything again");
                BTreeSet::from([b"/".to_vec()])
            }
        }
    }

    /// Adds a pending change for a reader.
    fn queue(&mut self, number: ReaderId, mut changes: Vec<Change>) {
        changes.iter_mut().for_each(|change| self.withhold_in(number, change));
        let Some(reader) = self.readers.get_mut(&number) else { return };
        changes.iter().for_each(|change| reader.forget(change));
        if reader.changes.is_empty() {
            reader.behind_since = Instant::now();
            self.quiet.behind().insert(number);
        }
        reader.changes.extend(changes);
        if reader.behind_since.elapsed() > BEHIND_MAX {
            self.tell_changes(number);
        }
    }

    /// Sends a reader its pending changes.
    fn tell_changes(&mut self, number: ReaderId) {
        let Some(reader) = self.readers.get_mut(&number) else { return };
        if reader.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut reader.changes);
        let payload = lists::encode_changes(&changes, &mut reader.squeezer);
        self.outbox
            .put(&reader.out_tx, Frame { kind: Kind::Changes, stream: 0, payload: payload.into() });
        self.quiet.behind().remove(&number);
    }
}

fn failed(errno: Errno) -> Answer {
    Answer::Failed(errno as i32)
}

/// Returns the path of a watched directory, or of an ancestor.
fn watched(dir: Bytes) -> TreePath {
    TreePath::new(dir).expect("only directories of tree paths are watched")
}

/// Tells whether a file may change without an event for its directory, in which there are mount points or none.
fn is_unseen(dir: &TreePath, entry: &Entry, points: Option<&Mounts>) -> bool {
    let is_point = |points: &Mounts| {
        entry.attr.kind == FileKind::File && points.is_point(&join(dir, &entry.name))
    };
    is_linked(&entry.attr) || points.is_some_and(is_point)
}

/// Tells whether a file has other hard links, through which it may change without an event for its directory.
fn is_linked(attr: &Attr) -> bool {
    attr.kind == FileKind::File && attr.links > 1
}

#[cfg(test)]
mod tests;
