//! The thread that exports this machine's files to runners. It alone lists, watches and answers, so that answers and changes
//! reach runners in the order in which they were true. What is large is read for it on other threads (`long`, `later`).

mod attributes;
mod changes;
mod files;
mod foretell;
mod holders;
mod later;
mod long;
mod outbox;
mod predict;
pub(crate) mod profile;
mod quiet;
pub(crate) mod reach;
mod reader;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use holders::Holders;
pub(crate) use holders::Peer;
use long::{AT_ONCE_BYTES_MAX, Done, Long, Reads};
use nix::errno::Errno;
use outbox::Outbox;
use packetfs::export::{Exporter, Hidden};
use packetfs::identity::Owner;
use packetfs::mounts::{MountWatch, Mounts};
use packetfs::path::{TreePath, join};
use packetfs::tree::{Attr, Change, Entry, Kind as FileKind};
use packetfs::watch::{ReaderId, Watcher};
use profile::{Likeness, Profiles};
use quiet::Quiet;
use reader::{Reader, users_of};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use worknode::command::Files;

use crate::random;
use crate::served::Heard;
use crate::sys::outside::Outside;
use crate::vital::Vital;
use crate::wire::frame::{Frame, Kind};
use crate::wire::holding::{TICKET_BYTES, TicketKey};
use crate::wire::limits::HELD_MAX;
use crate::wire::message::{self, Answer, Ask};

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
}

fn failed(errno: Errno) -> Answer {
    Answer::Failed(errno as i32)
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
