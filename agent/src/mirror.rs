//! The trees of origins that this node runs walks for: each mounted once, shared by all walks of its
//! origin, and fed over the link to it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use packetfs::fuse::Mount;
use packetfs::mirror::Need;
use packetfs::packet::{Digest, PacketRef};
use packetfs::path::TreePath;
use packetfs::store::{Shelf, Store};
use packetfs::tree::{Attr, Bytes, Change, Time, Xattr, normal, split};
use packetfs::view::{Ask as Lack, Done, Outset, Source};
use tokio::sync::{mpsc, oneshot};
use worknode::spec::WalkSpec;

use crate::compile;
use crate::link::Link;
use crate::runner::sandboxes::Sandboxes;
use crate::sys::launcher::Launcher;
use crate::vital::Vital;
use crate::wire::frame::Kind;
use crate::wire::limits::{PACKETS_PER_ASK, QUESTIONS_AT_ONCE};
use crate::wire::message::{self, Answer, Ask, Doubt, Told};

/// An origin that answers none of the questions asked of it for so long waits for a file system of its own
/// that does not answer: what is read there fails here, and the walks are executed at the origin. A file of a
/// hundred gigabytes takes less to be read.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The list that files get which are made in a directory.
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// What had been noted of requests at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    failures: u64,
    missed: u64,
    hidden: u64,
    torn: u64,
    elsewhere: u64,
    elsewhere_in_files: u64,
}

/// What lies under a walk.
pub(crate) struct Lower {
    /// Where the mirror is mounted.
    pub(crate) point: PathBuf,
    /// For walks on it.
    pub(crate) sandboxes: Sandboxes,
    /// It shows extended attributes.
    pub(crate) xattrs: bool,
}

/// An origin's tree on this node.
pub(crate) struct Mirror {
    plain: Rc<Lower>,
    /// The mount with extended attributes, once a walk has needed that.
    with_xattrs: RefCell<Option<Rc<Lower>>>,
    mount: Mount,
    /// The packets that this origin has sent.
    store: Shelf,
    link: RefCell<Option<Rc<Link>>>,
    /// When its last link broke; nothing while there is one.
    alone_since: Cell<Option<Instant>>,
    next_ask: Cell<u32>,
    /// When a question was answered, or one was asked while none waited.
    heard: Cell<Instant>,
    asked: RefCell<HashMap<u32, Asked>>,
    /// Of these, encoded, what waits until fewer are on their way, and how many are.
    line: RefCell<VecDeque<(u32, Vec<u8>)>>,
    on_their_way: Cell<usize>,
    /// Who waits for a listing or a file's manifest.
    waiting: RefCell<HashMap<Need, Vec<Done>>>,
    /// Packets that were asked for and have not come.
    coming: RefCell<HashSet<Digest>>,
    waiting_packets: RefCell<Vec<(HashSet<Digest>, Done)>>,
    /// Changes that the kernel has not been told of yet.
    unsettled: Arc<AtomicU64>,
}

enum Asked {
    Need(Need),
    Packets(Vec<PacketRef>),
}

/// Carries what FUSE threads lack to the agent's own thread.
struct Lacks {
    tx: mpsc::UnboundedSender<(Lack, Done)>,
}

impl Source for Lacks {
    fn fetch(&self, ask: Lack, done: Done) {
        if let Err(mpsc::error::SendError((_, done))) = self.tx.send((ask, done)) {
            done(Err(libc::EIO));
        }
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("point", &self.plain.point).finish_non_exhaustive()
    }
}

impl Mirror {
    /// Mounts the tree of the origin on the other side of `link`, in a directory of `dir`.
    pub(crate) fn mount(
        dir: &Path,
        link: &Rc<Link>,
        store: &Arc<Store>,
        vital: &Vital,
        sandboxes: impl FnOnce(&Path) -> Sandboxes,
    ) -> anyhow::Result<Rc<Self>> {
        let point = dir.join(link.peer.as_str());
        std::fs::create_dir_all(&point)?;
        let (tx, mut rx) = mpsc::unbounded_channel();
        let (name, spawn) = (link.peer.as_str(), |name, run| vital.thread(name, run));
        let store = store.shelf(name);
        let mount = Mount::new(&point, name, store.clone(), Box::new(Lacks { tx }), spawn)?;
        let mirror = Rc::new(Self {
            plain: Rc::new(Lower { sandboxes: sandboxes(&point), point, xattrs: false }),
            with_xattrs: RefCell::default(),
            mount,
            store,
            link: RefCell::new(Some(Rc::clone(link))),
            alone_since: Cell::new(None),
            next_ask: Cell::new(1),
            heard: Cell::new(Instant::now()),
            asked: RefCell::default(),
            line: RefCell::default(),
            on_their_way: Cell::new(0),
            waiting: RefCell::default(),
            coming: RefCell::default(),
            waiting_packets: RefCell::default(),
            unsettled: Arc::default(),
        });
        let serving = Rc::downgrade(&mirror);
        tokio::task::spawn_local(async move {
            while let Some((lack, done)) = rx.recv().await {
                match serving.upgrade() {
                    Some(mirror) => mirror.fetch(lack, done),
                    None => done(Err(libc::EIO)),
                }
            }
        });
        Ok(mirror)
    }

    /// Returns the mount for a walk: that with extended attributes, if anything in the tree has some.
    /// They cost a request for each file that a walk opens, so most compile steps do without: root's,
    /// whom no list stops, need them only to make files where a default list says their modes.
    pub(crate) async fn lower(&self, spec: &WalkSpec) -> Rc<Lower> {
        self.know(&spec.cwd).await;
        let mut dirs = vec![spec.cwd.clone()];
        if spec.compiles {
            let paths = compile::outputs(spec).into_iter().map(|it| normal(&spec.cwd, &it));
            dirs.extend(paths.filter_map(|path| Some(split(&path)?.0.to_vec())));
            dirs.dedup();
            for dir in &dirs[1..] {
                self.know(dir).await;
            }
        }
        let (marks, root) = (self.mount.marks(), spec.credentials.uid == 0);
        let xattrs = self.mount.xattrs();
        let inherits = |dir: &Bytes| xattrs(dir).iter().any(|(name, _)| name == ACL_DEFAULT);
        let wanted = if spec.compiles {
            marks.acls && (!root || dirs.iter().any(inherits))
        } else {
            marks.xattrs
        };
        let mounted = wanted.then(|| self.lower_with_xattrs()).and_then(|mounted| {
            mounted.inspect_err(|error| tracing::error!(%error, "failed to show attributes")).ok()
        });
        mounted.unwrap_or_else(|| Rc::clone(&self.plain))
    }

    fn lower_with_xattrs(&self) -> std::io::Result<Rc<Lower>> {
        if let Some(lower) = self.with_xattrs.borrow().as_ref() {
            return Ok(Rc::clone(lower));
        }
        let name = self.plain.point.file_name().unwrap_or_default().to_string_lossy();
        let point = self.plain.point.with_file_name(format!("{name}+xattrs"));
        std::fs::create_dir_all(&point)?;
        self.mount.mount_with_xattrs(&point, &name)?;
        let sandboxes = self.plain.sandboxes.on(&point);
        let lower = Rc::new(Lower { point, sandboxes, xattrs: true });
        self.with_xattrs.replace(Some(Rc::clone(&lower)));
        Ok(lower)
    }

    /// Has sandboxes made for the next walks.
    pub(crate) fn prepare(&self, launcher: &Launcher) {
        self.plain.sandboxes.refill(launcher);
        if let Some(lower) = self.with_xattrs.borrow().as_ref() {
            lower.sandboxes.refill(launcher);
        }
    }

    /// Gives up what was made for walks that do not come.
    pub(crate) fn rest(&self) {
        let is_late = !self.asked.borrow().is_empty() && self.heard.get().elapsed() > SILENCE_MAX;
        if is_late {
            tracing::error!(origin = ?self.plain.point, "no answer in {SILENCE_MAX:?}: its walks are executed there");
            self.fail_questions();
        }
        self.plain.sandboxes.rest();
        if let Some(lower) = self.with_xattrs.borrow().as_ref() {
            lower.sandboxes.rest();
        }
    }

    /// Fetches all listings on the way to a directory, which the walk would do itself.
    async fn know(&self, dir: &[u8]) {
        while let Some(need) = self.mount.lacks(dir) {
            let (tx, rx) = oneshot::channel();
            let done: Done = Box::new(move |result| {
                let _ = tx.send(result);
            });
            self.fetch_need(need, done);
            if !matches!(rx.await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Returns what gives the extended attributes of a path.
    pub(crate) fn xattrs(&self) -> impl Fn(&[u8]) -> Vec<Xattr> + Send + use<> {
        self.mount.xattrs()
    }

    /// Goes on over a new link. What changed meanwhile is not known: everything is asked for again.
    pub(crate) fn relink(&self, link: &Rc<Link>) {
        self.unlink();
        self.link.replace(Some(Rc::clone(link)));
        self.alone_since.set(None);
        self.take_changes(vec![Change::Forget { dir: TreePath::root() }]);
    }

    /// The link broke: whoever waits gets an error.
    pub(crate) fn unlink(&self) {
        if self.link.replace(None).is_some() {
            self.alone_since.set(Some(Instant::now()));
        }
        self.fail_questions();
    }

    /// Whoever waits for an answer gets an error.
    fn fail_questions(&self) {
        self.asked.borrow_mut().clear();
        self.line.borrow_mut().clear();
        self.on_their_way.set(0);
        self.coming.borrow_mut().clear();
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        let packets = std::mem::take(&mut *self.waiting_packets.borrow_mut());
        let all = waiting.into_values().flatten().chain(packets.into_iter().map(|(_, done)| done));
        for done in all {
            done(Err(libc::EIO));
        }
    }

    /// Returns where it is mounted.
    pub(crate) fn points(&self) -> Vec<PathBuf> {
        let with_xattrs = self.with_xattrs.borrow();
        let lowers = [&self.plain].into_iter().chain(with_xattrs.iter());
        lowers.map(|lower| lower.point.clone()).collect()
    }

    /// Returns since when there is no link to its origin.
    pub(crate) fn alone_since(&self) -> Option<Instant> {
        self.alone_since.get()
    }

    /// Returns the number of the link in use.
    pub(crate) fn link_number(&self) -> Option<u32> {
        self.link.borrow().as_ref().map(|link| link.number)
    }

    /// Takes in what changed at the origin.
    pub(crate) fn take_changes(&self, changes: Vec<Change>) {
        let unsettled = Arc::clone(&self.unsettled);
        unsettled.fetch_add(1, Ordering::AcqRel);
        let done = Box::new(move || {
            unsettled.fetch_sub(1, Ordering::AcqRel);
        });
        self.mount.update(|mirror| mirror.apply(changes), done);
    }

    /// Ends when the kernel has forgotten all that changed before.
    pub(crate) async fn settle(&self) {
        if self.unsettled.load(Ordering::Acquire) > 0 || !self.mount.is_settled() {
            let (tx, rx) = oneshot::channel();
            let done = Box::new(move || {
                let _ = tx.send(());
            });
            self.mount.invalidate(std::collections::BTreeSet::new(), done);
            let _ = rx.await;
        }
    }

    /// Returns the counts of FUSE requests, and of those that needed the network.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let counters = self.mount.counters();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&counters.requests), count(&counters.fetches))
    }

    /// Returns what has been noted of requests so far.
    pub(crate) fn noted(&self) -> Since {
        let counters = self.mount.counters();
        Since {
            failures: counters.failures.count(),
            missed: counters.missed.count(),
            hidden: counters.hidden.count(),
            torn: counters.torn.count(),
            elsewhere: counters.elsewhere.count(),
            elsewhere_in_files: counters.elsewhere_in_files.count(),
        }
    }

    /// Tells whether a request of a walk failed because something could not be fetched, as far as is
    /// known. The walk is that in the pid namespace with this number.
    pub(crate) fn failed(&self, since: Since, namespace: u64) -> bool {
        self.mount.counters().failures.concern(since.failures, namespace)
    }

    /// Returns why a walk is not to be believed. It has read a file while that was changed; or has
    /// looked into a hidden directory; or has found something whose extended attributes it was not
    /// shown, which a compile step does not want; or was led to what this machine has of its own.
    pub(crate) fn doubt(&self, since: Since, namespace: u64, compiles: bool) -> Option<Doubt> {
        let counters = self.mount.counters();
        let less = counters.hidden.concern(since.hidden, namespace)
            || !compiles && counters.missed.concern(since.missed, namespace);
        let torn = counters.torn.concern(since.torn, namespace);
        let elsewhere = if compiles {
            counters.elsewhere.concern(since.elsewhere, namespace)
        } else {
            counters.elsewhere_in_files.concern(since.elsewhere_in_files, namespace)
        };
        match (torn, less) {
            (true, _) => Some(Doubt::Torn),
            (_, true) => Some(Doubt::ShownLess),
            _ => elsewhere.then_some(Doubt::Elsewhere),
        }
    }

    /// Returns what gives the attributes of what a path names, as far as they are known.
    pub(crate) fn attrs(&self) -> impl Fn(&[u8]) -> packetfs::mirror::Answer<Attr> + Send + use<> {
        self.mount.attrs()
    }

    /// Returns what gives the paths behind a number of the tree.
    pub(crate) fn paths(&self) -> impl Fn(u64) -> Vec<Bytes> + Send + use<> {
        self.mount.paths()
    }

    /// Returns what tells what a walk finds that begins now.
    pub(crate) fn outset(&self) -> Outset {
        self.mount.outset()
    }

    /// Returns what gives the modification times since a moment that are known of the tree.
    pub(crate) fn times_since(&self) -> impl Fn(Time) -> HashSet<Time> + Send + use<> {
        self.mount.times_since()
    }

    /// Tells whether a question waits for its answer.
    pub(crate) fn awaits(&self, number: u32) -> bool {
        self.asked.borrow().contains_key(&number)
    }

    /// Takes in the answer to a question.
    pub(crate) fn take_answer(&self, number: u32, answer: Answer) {
        let Some(asked) = self.asked.borrow_mut().remove(&number) else { return };
        self.heard.set(Instant::now());
        self.on_their_way.set(self.on_their_way.get().saturating_sub(1));
        if let Some(link) = self.link.borrow().as_ref() {
            self.send_questions(link, &mut self.line.borrow_mut());
        }
        match asked {
            Asked::Need(need) => {
                let result = self.learn(&need, answer);
                let waiting = self.waiting.borrow_mut().remove(&need).unwrap_or_default();
                waiting.into_iter().for_each(|done| done(result));
            }
            Asked::Packets(packets) => self.take_packets(&packets, answer),
        }
    }

    /// Takes in the answers to questions that were not asked yet.
    pub(crate) fn take_told(&self, told: Vec<Told>) {
        for Told { ask, answer } in told {
            match ask {
                // What cannot be learned will be asked for.
                Ask::Listing(path) => drop(self.learn(&Need::Listing(path.into_bytes()), answer)),
                Ask::Content(path) => drop(self.learn(&Need::Content(path.into_bytes()), answer)),
                Ask::Packets(_, packets) => {
                    let packets: Vec<_> = packets.into_iter().map(|(_, packet)| packet).collect();
                    self.take_packets(&packets, answer);
                }
            }
        }
    }

    fn learn(&self, need: &Need, answer: Answer) -> Result<(), i32> {
        match (need, answer) {
            (Need::Listing(path), Answer::Listing(listing)) => {
                let path = tree_path(path)?;
                self.mount.update(|mirror| mirror.take_listing(&path, listing), Box::new(|| {}));
                Ok(())
            }
            (Need::Content(path), Answer::Content(content, inline)) => {
                if let (Some(packed), [packet]) = (inline, content.manifest.packets.as_slice()) {
                    self.keep(*packet, &packed);
                }
                let path = tree_path(path)?;
                self.mount.update(|mirror| mirror.take_content(&path, content), Box::new(|| {}));
                Ok(())
            }
            (_, Answer::Failed(errno)) => Err(errno),
            _ => Err(libc::EPROTO),
        }
    }

    fn take_packets(&self, asked: &[PacketRef], answer: Answer) {
        let result = match answer {
            Answer::Packets(packets) => {
                for (packet, packed) in packets {
                    self.keep(packet, &packed);
                }
                Ok(())
            }
            Answer::Failed(errno) => Err(errno),
            _ => Err(libc::EPROTO),
        };
        let digests: HashSet<Digest> = asked.iter().map(|packet| packet.digest).collect();
        self.coming.borrow_mut().retain(|digest| !digests.contains(digest));
        let mut ready = Vec::new();
        self.waiting_packets.borrow_mut().retain_mut(|(lacking, done)| {
            let before = lacking.len();
            lacking.retain(|digest| !digests.contains(digest));
            let finished = lacking.is_empty() || (result.is_err() && lacking.len() < before);
            if finished {
                ready.push(std::mem::replace(done, Box::new(|_| {})));
            }
            !finished
        });
        // A packet that did not come has changed at the origin: the next attempt asks for the
        // file's manifest, which a change of the file has taken away.
        ready.into_iter().for_each(|done| done(result));
    }

    /// Keeps a packet that is what its name says; another one is as good as none.
    fn keep(&self, packet: PacketRef, packed: &packetfs::packet::Packed) {
        match packed.unpack(packet) {
            Ok(_) => {
                if let Err(error) = self.store.put(packet, packed) {
                    tracing::error!(%error, "failed to keep a packet");
                }
            }
            Err(error) => tracing::error!(%error, "an origin sent a bad packet"),
        }
    }

    fn fetch(&self, lack: Lack, done: Done) {
        match lack {
            Lack::Need(need) => self.fetch_need(need, done),
            Lack::Packets(path, needed, ahead) => self.fetch_packets(&path, &needed, &ahead, done),
        }
    }

    fn fetch_need(&self, need: Need, done: Done) {
        let ask = match &need {
            Need::Listing(path) => tree_path(path).map(Ask::Listing),
            Need::Content(path) => tree_path(path).map(Ask::Content),
        };
        let ask = match ask {
            Ok(ask) => ask,
            Err(errno) => return done(Err(errno)),
        };
        let mut waiting = self.waiting.borrow_mut();
        if let Some(others) = waiting.get_mut(&need) {
            others.push(done);
            return;
        }
        if self.ask(&ask, Asked::Need(need.clone())) {
            waiting.insert(need, vec![done]);
        } else {
            drop(waiting);
            done(Err(libc::EIO));
        }
    }

    fn fetch_packets(
        &self,
        path: &[u8],
        needed: &[(u64, PacketRef)],
        ahead: &[(u64, PacketRef)],
        done: Done,
    ) {
        let path = match tree_path(path) {
            Ok(path) => path,
            Err(errno) => return done(Err(errno)),
        };
        let wanted: Vec<_> = {
            let mut coming = self.coming.borrow_mut();
            let both = needed.iter().chain(ahead);
            both.filter(|(_, packet)| coming.insert(packet.digest)).copied().collect()
        };
        for part in wanted.chunks(PACKETS_PER_ASK) {
            let ask = Ask::Packets(path.clone(), part.to_vec());
            let packets = part.iter().map(|&(_, packet)| packet).collect();
            if !self.ask(&ask, Asked::Packets(packets)) {
                done(Err(libc::EIO));
                return;
            }
        }
        let lacking = needed
            .iter()
            .map(|&(_, packet)| packet.digest)
            .filter(|digest| self.coming.borrow().contains(digest))
            .collect::<HashSet<_>>();
        if lacking.is_empty() {
            done(Ok(()));
        } else {
            self.waiting_packets.borrow_mut().push((lacking, done));
        }
    }

    /// Sends questions that wait, as many as may be on their way.
    fn send_questions(&self, link: &Link, line: &mut VecDeque<(u32, Vec<u8>)>) {
        while self.on_their_way.get() < QUESTIONS_AT_ONCE
            && let Some((number, question)) = line.pop_front()
        {
            self.on_their_way.set(self.on_their_way.get() + 1);
            link.send(Kind::Ask, number, question);
        }
    }

    /// Asks the origin; false if there is no link to it.
    fn ask(&self, ask: &Ask, asked: Asked) -> bool {
        let link = self.link.borrow();
        let Some(link) = link.as_ref() else { return false };
        if self.asked.borrow().is_empty() {
            self.heard.set(Instant::now());
        }
        let number = self.next_ask.get();
        self.next_ask.set(number.wrapping_add(1));
        self.asked.borrow_mut().insert(number, asked);
        let mut line = self.line.borrow_mut();
        line.push_back((number, message::encode(ask)));
        self.send_questions(link, &mut line);
        true
    }
}

/// Returns a path of the mirror as it is asked for: one that is too long is as good as unreadable.
fn tree_path(path: &[u8]) -> Result<TreePath, i32> {
    TreePath::try_from(path).map_err(|_| libc::ENAMETOOLONG)
}
