//! The mirror of an origin's tree on this runner: mounted once, shared by all walks of the origin, and fed over
//! the link to it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use packetfs::fuse::{Mount, Mounter};
use packetfs::mirror::Need;
use packetfs::owners::Owners;
use packetfs::packet::{Digest, PacketRef};
use packetfs::path::{Bytes, TreePath, above, normal, split};
use packetfs::store::{Shelf, Store};
use packetfs::tree::{Attr, Change, Time, Xattr};
use packetfs::view::{Ask as Lack, Done, Outset, Source};
use packetfs::xattr::has_acl;
use tokio::sync::{mpsc, oneshot};
use worknode::id::NodeId;
use worknode::spec::WalkSpec;

use crate::compile;
use crate::holders::Claims;
use crate::link::Link;
use crate::runner::sandboxes::Sandboxes;
use crate::sys::launcher::Launcher;
use crate::vital::Vital;
use crate::wire::frame::Kind;
use crate::wire::limits::{PACKETS_PER_ASK, QUESTIONS_AT_ONCE};
use crate::wire::message::{self, Answer, Ask, Doubt, Told};

/// An origin that answers no question for so long is assumed to wait for an unresponsive file system. The
/// requests fail, and the walks are executed at the origin. Reading a file of a hundred gigabytes takes less.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The access control list that new files in a directory inherit.
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The counts of recorded requests at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    failures: u64,
    missed: u64,
    missed_acls: u64,
    hidden: u64,
    torn: u64,
    elsewhere: u64,
    elsewhere_in_files: u64,
}

/// The lower layer of walks.
pub(crate) struct Lower {
    /// The mount point of the mirror.
    pub(crate) point: PathBuf,
    /// Sandboxes on it.
    pub(crate) sandboxes: Sandboxes,
    /// Whether it shows extended attributes.
    pub(crate) xattrs: bool,
}

/// An origin's tree on this node.
pub(crate) struct Mirror {
    /// The numbers of its owners here.
    pub(crate) owners: Owners,
    plain: Rc<Lower>,
    /// The mount with extended attributes, once a walk has needed it.
    with_xattrs: RefCell<Option<Rc<Lower>>>,
    mount: Mount,
    /// The packets of this origin.
    store: Shelf,
    origin: NodeId,
    /// What other runners are asked for.
    claims: Rc<Claims>,
    link: RefCell<Option<Rc<Link>>>,
    /// When its last link ended; `None` while it has a link.
    alone_since: Cell<Option<Instant>>,
    next_ask: Cell<u32>,
    /// When a question was last answered, or asked while none was open.
    heard: Cell<Instant>,
    asked: RefCell<HashMap<u32, Asked>>,
    /// Encoded questions that wait until fewer are under way, and the number under way.
    line: RefCell<VecDeque<(u32, Vec<u8>)>>,
    on_their_way: Cell<usize>,
    /// Callbacks that wait for a listing or a manifest.
    waiting: RefCell<HashMap<Need, Vec<Done>>>,
    /// Packets that were requested of the origin or another runner, and have not arrived.
    coming: RefCell<HashSet<Digest>>,
    waiting_packets: RefCell<Vec<(HashSet<Digest>, Done)>>,
    /// What the origin did if it sent data that does not match its digest.
    evidence: RefCell<Option<String>>,
    /// Number of change batches that the kernel has not processed yet.
    unsettled: Arc<AtomicU64>,
}

enum Asked {
    Need(Need),
    Packets(Vec<PacketRef>),
}

/// Passes fetches from FUSE threads to the agent's main thread.
struct Lacks {
    /// Bounded by the requests that the kernel has under way for a mount, each of which waits for its answer.
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
    /// Mounts the tree of the origin at the other end of `link`, in a directory below `dir`.
    pub(crate) fn mount(
        dir: &Path,
        link: &Rc<Link>,
        owners: Owners,
        mounter: Option<Mounter>,
        (store, claims): (&Arc<Store>, &Rc<Claims>),
        vital: &Vital,
        sandboxes: impl FnOnce(&Path) -> Sandboxes,
    ) -> anyhow::Result<Rc<Self>> {
        let point = dir.join(link.peer.as_str());
        std::fs::create_dir_all(&point)?;
        let (tx, mut rx) = mpsc::unbounded_channel();
        let (name, spawn) = (link.peer.as_str(), |name, run| vital.thread(name, run));
        let store = store.shelf(name);
        let lacks = Box::new(Lacks { tx });
        let mount = Mount::new((&point, name), owners, mounter, store.clone(), lacks, spawn)?;
        let mirror = Rc::new(Self {
            owners,
            plain: Rc::new(Lower { sandboxes: sandboxes(&point), point, xattrs: false }),
            with_xattrs: RefCell::default(),
            mount,
            store,
            origin: link.peer.clone(),
            claims: Rc::clone(claims),
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
            evidence: RefCell::default(),
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

    /// Returns the mount for a walk: the one with extended attributes, if anything in the tree has some.
    /// They cost a request for each file that a walk opens, so most compile steps do without. Those of root
    /// are not subject to access control lists, and need them only to create files below a default list.
    ///
    /// Returns `None` for a walk that could see that all files have one owner here: another program than a compile step,
    /// or one in whose directories access control lists matter.
    pub(crate) async fn lower(&self, spec: &WalkSpec) -> Option<Rc<Lower>> {
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
        let (marks, root) = (self.mount.marks(), spec.principal.uid == 0);
        let xattrs = self.mount.xattrs();
        let inherits = |dir: &Bytes| xattrs(dir).iter().any(|(name, _)| name == ACL_DEFAULT);
        if self.owners.are_one() {
            let is_below_one = |dir: &Bytes| {
                let mut all = std::iter::once(&**dir).chain(above(dir));
                all.any(|dir| has_acl(&xattrs(dir)))
            };
            let matters = |dir: &Bytes| inherits(dir) || !root && is_below_one(dir);
            let shown = !marks.acls || !dirs.iter().any(matters);
            return (spec.compiles && shown).then(|| Rc::clone(&self.plain));
        }
        let wanted = if spec.compiles {
            marks.acls && (!root || dirs.iter().any(inherits))
        } else {
            marks.xattrs
        };
        let mounted = wanted.then(|| self.lower_with_xattrs()).and_then(|mounted| {
            mounted.inspect_err(|error| tracing::error!(%error, "failed to mount the tree with extended attributes")).ok()
        });
        Some(mounted.unwrap_or_else(|| Rc::clone(&self.plain)))
    }

    /// Tells whether a walk of another user than root, in this pid namespace, met an access control list on a mount that shows
    /// none. The kernel did not check it.
    pub(crate) fn missed_acl(&self, lower: &Lower, since: Since, namespace: u64, uid: u32) -> bool {
        let missed = &self.mount.counters().missed_acls;
        uid != 0 && !lower.xattrs && missed.concern(since.missed_acls, namespace)
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

    /// Prepares sandboxes for the next walks.
    pub(crate) fn prepare(&self, launcher: &Launcher) {
        self.plain.sandboxes.refill(launcher);
        if let Some(lower) = self.with_xattrs.borrow().as_ref() {
            lower.sandboxes.refill(launcher);
        }
    }

    /// Drops idle sandboxes, and fails questions that stay unanswered for [`SILENCE_MAX`].
    pub(crate) fn rest(&self) {
        let is_late = !self.asked.borrow().is_empty() && self.heard.get().elapsed() > SILENCE_MAX;
        if is_late {
            tracing::error!(origin = ?self.plain.point, "the origin has not answered for {SILENCE_MAX:?}: its walks are executed there");
            self.fail_questions();
        }
        self.plain.sandboxes.rest();
        if let Some(lower) = self.with_xattrs.borrow().as_ref() {
            lower.sandboxes.rest();
        }
    }

    /// Fetches all listings on the path to a directory in advance; otherwise the walk would do so.
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

    /// Returns a function from path to extended attributes.
    pub(crate) fn xattrs(&self) -> impl Fn(&[u8]) -> Vec<Xattr> + Send + use<> {
        self.mount.xattrs()
    }

    /// Switches to a new link. Changes in between are unknown, so everything is invalidated.
    pub(crate) fn relink(&self, link: &Rc<Link>) {
        self.unlink();
        self.link.replace(Some(Rc::clone(link)));
        self.alone_since.set(None);
        self.take_changes(vec![Change::Forget { dir: TreePath::root() }]);
    }

    /// Handles the end of the link: open questions fail.
    pub(crate) fn unlink(&self) {
        if self.link.replace(None).is_some() {
            self.alone_since.set(Some(Instant::now()));
        }
        self.fail_questions();
    }

    /// Fails all open questions.
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

    /// Returns the mount points.
    pub(crate) fn points(&self) -> Vec<PathBuf> {
        let with_xattrs = self.with_xattrs.borrow();
        let lowers = [&self.plain].into_iter().chain(with_xattrs.iter());
        lowers.map(|lower| lower.point.clone()).collect()
    }

    /// Returns since when its origin has had no link.
    pub(crate) fn alone_since(&self) -> Option<Instant> {
        self.alone_since.get()
    }

    /// Returns the number of the link in use.
    pub(crate) fn link_number(&self) -> Option<u32> {
        self.link.borrow().as_ref().map(|link| link.number)
    }

    /// Applies changes of the origin's tree.
    pub(crate) fn take_changes(&self, changes: Vec<Change>) {
        let unsettled = Arc::clone(&self.unsettled);
        unsettled.fetch_add(1, Ordering::AcqRel);
        let done = Box::new(move || {
            unsettled.fetch_sub(1, Ordering::AcqRel);
        });
        self.mount.update(|mirror| mirror.apply(changes), done);
    }

    /// Waits until the kernel has processed all previous invalidations.
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

    /// Returns the counts of recorded requests so far.
    pub(crate) fn noted(&self) -> Since {
        let counters = self.mount.counters();
        Since {
            failures: counters.failures.count(),
            missed: counters.missed.count(),
            missed_acls: counters.missed_acls.count(),
            hidden: counters.hidden.count(),
            torn: counters.torn.count(),
            elsewhere: counters.elsewhere.count(),
            elsewhere_in_files: counters.elsewhere_in_files.count(),
        }
    }

    /// Tells whether a request of the walk in this pid namespace may have failed because a fetch failed.
    pub(crate) fn failed(&self, since: Since, namespace: u64) -> bool {
        self.mount.counters().failures.concern(since.failures, namespace)
    }

    /// Returns why the result of a walk cannot be trusted: it read a file during a change, accessed a hidden
    /// directory, found a file whose extended attributes were not shown (compile steps ignore them), or was
    /// led to files of this machine.
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

    /// Returns a function from path to attributes, where known.
    pub(crate) fn attrs(&self) -> impl Fn(&[u8]) -> packetfs::mirror::Answer<Attr> + Send + use<> {
        self.mount.attrs()
    }

    /// Returns a function from inode number to paths.
    pub(crate) fn paths(&self) -> impl Fn(u64) -> Vec<Bytes> + Send + use<> {
        self.mount.paths()
    }

    /// Returns the tree as a walk that begins now finds it.
    pub(crate) fn outset(&self) -> Outset {
        self.mount.outset()
    }

    /// Returns a function that lists the known modification times since a moment.
    pub(crate) fn times_since(&self) -> impl Fn(Time) -> HashSet<Time> + Send + use<> {
        self.mount.times_since()
    }

    /// Tells whether a question is open.
    pub(crate) fn awaits(&self, number: u32) -> bool {
        self.asked.borrow().contains_key(&number)
    }

    /// Handles the answer to a question.
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

    /// Handles answers that the origin sent ahead of the questions.
    pub(crate) fn take_told(&self, told: Vec<Told>) {
        for Told { ask, answer } in told {
            match ask {
                // An answer that does not fit is requested again when it is needed.
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
        let digests = asked.iter().map(|packet| packet.digest);
        // What others give is still to come.
        let is_over = |digest: &Digest| result.is_err() || !self.is_claimed(digest);
        self.end_wait(&digests.filter(is_over).collect(), result);
    }

    /// Handles the end of a claim. What has not come is asked of the origin by whoever waits for it.
    pub(crate) fn take_claimed(&self, digests: &HashSet<Digest>) {
        self.end_wait(digests, Ok(()));
    }

    fn is_claimed(&self, digest: &Digest) -> bool {
        self.claims.is_coming(&self.origin, digest)
    }

    /// Ends the wait for packets, which have come or will not.
    fn end_wait(&self, digests: &HashSet<Digest>, result: Result<(), i32>) {
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
        // If a packet is missing, the file has changed at the origin, which has invalidated its
        // manifest. The next attempt requests the new one.
        ready.into_iter().for_each(|done| done(result));
    }

    /// Stores a packet if it matches its digest; otherwise it counts as missing.
    fn keep(&self, packet: PacketRef, packed: &packetfs::packet::Packed) {
        // Others would refuse a packet that is larger than it need be, and take this node for a liar.
        if packed.may_be(packet) && packed.unpack(packet).is_ok() {
            if let Err(error) = self.store.put(packet, packed) {
                tracing::error!(%error, "failed to store a packet");
            }
        } else {
            let what = format!("packet {} of its files does not match its digest", packet.digest);
            self.evidence.replace(Some(what));
        }
    }

    /// Returns what the origin did if it has just sent data that does not match its digest.
    pub(crate) fn take_evidence(&self) -> Option<String> {
        self.evidence.take()
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
            // What others are about to give is waited for.
            let mut is_lacking = |digest| coming.insert(digest) && !self.is_claimed(&digest);
            both.filter(|(_, packet)| is_lacking(packet.digest)).copied().collect()
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

    /// Sends waiting questions, as many as may be under way at once.
    fn send_questions(&self, link: &Link, line: &mut VecDeque<(u32, Vec<u8>)>) {
        while self.on_their_way.get() < QUESTIONS_AT_ONCE
            && let Some((number, question)) = line.pop_front()
        {
            self.on_their_way.set(self.on_their_way.get() + 1);
            link.send(Kind::Ask, number, question);
        }
    }

    /// Asks the origin. Returns false if there is no link to it.
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

/// Converts a path of the mirror for a question. One that is too long fails as unreadable.
fn tree_path(path: &[u8]) -> Result<TreePath, i32> {
    TreePath::try_from(path).map_err(|_| libc::ENAMETOOLONG)
}
