//! The agent: what all its tasks share, how it starts and how it ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use broker::{Broker, Grant, NodeInfo, PrivateServer, Trouble};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use packetfs::export::Hidden;
use packetfs::store::Store;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use worknode::id::{NodeId, SessionId};
use worknode::page;
use worknode::request::{FuseCounts, Settings, Status};
use worknode::spec::Fault;

use crate::budget::Budget;
use crate::cluster::{self, Cluster, Failure};
use crate::commits::Commits;
use crate::config::Config;
use crate::exporter::{ExporterHandle, Question};
use crate::leaves::Leaves;
use crate::link::frame::{Frame, Kind};
use crate::link::handshake::{Peer, Purpose, Secret};
use crate::link::{self, Link, TOLD_BYTES_MAX, lists, message};
use crate::mirrors::Mirror;
use crate::pages::PagesDir;
use crate::reached_at::{ReachedAt, check_private};
use crate::runner::admission::{self, Admission};
use crate::runner::sandboxes::Sandboxes;
use crate::session::{Session, Usage};
use crate::state::State;
use crate::sys::launcher::{Launcher, Plan};
use crate::sys::outside::Outside;
use crate::sys::rights::Rights;
use crate::sys::view::View;
use crate::transfer::Transfers;
use crate::vital::Vital;
use crate::{callers, door, look, own, runner};

/// A node that could not be reached is tried again after this time.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);

/// Trees of origins that are mounted at once: each has four threads or more and some ten megabytes. As many people as
/// share a cluster at work.
const MIRRORS_MAX: usize = 64;
/// A tree whose origin has no link for so long is unmounted: it comes back with what it has changed meanwhile, and must
/// be asked for all of it again anyway.
const MIRROR_ALONE_MAX: Duration = Duration::from_secs(600);

/// What walks have changed may take this part of the machine's memory until it is committed.
const ROOM_PART: u64 = 4;

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) hostname: Vec<u8>,
    /// What this agent saw when it was started: the files that it shows to runners.
    pub(crate) view: View,
    /// What processes may do that have given nothing up.
    pub(crate) rights: Rights,
    pub(crate) dirs: Dirs,
    pub(crate) door_path: PathBuf,
    pub(crate) pages_dir: PathBuf,
    /// What no runner is shown, and no walk may touch.
    pub(crate) hidden: Arc<Hidden>,
    pub(crate) upper_bytes: u64,
    /// Memory for what runners have sent back, of all walks.
    pub(crate) returned: Rc<Budget>,
    pub(crate) admission: Admission,
    pub(crate) launcher: Launcher,
    pub(crate) exporter: ExporterHandle,
    pub(crate) commits: Commits,
    pub(crate) cluster: Rc<Cluster>,
    /// Ends the agent.
    pub(crate) shutdown: tokio::sync::Notify,
    listen: SocketAddr,
    reached_at: ReachedAt,
    state: PathBuf,
    settings: Settings,
    pub(crate) transfers: Transfers,
    /// Tells this agent from an earlier one of the same name.
    incarnation: u64,
    secret: Secret,
    store: Arc<Store>,
    vital: Vital,
    links: RefCell<HashMap<NodeId, Rc<Link>>>,
    /// Held while a node is being called, so that two walks do not call twice.
    calling: RefCell<HashMap<NodeId, Rc<tokio::sync::Mutex<()>>>>,
    next_link: Cell<u32>,
    mirrors: RefCell<HashMap<NodeId, Rc<Mirror>>>,
    sessions: RefCell<HashMap<SessionId, Rc<Session>>>,
    /// Commands that were seen to start no others.
    pub(crate) leaves: Leaves,
    ended_links: Cell<(u64, u64)>,
    /// Counts of trees that were given up.
    ended_fuse: Cell<(u64, u64)>,
}

/// The directories below the state directory.
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    /// Mounted trees of origins.
    pub(crate) lower: PathBuf,
    /// Where walks mount their own file systems, each in its own namespace.
    pub(crate) scratch: PathBuf,
    /// The prepared `/dev` of walks.
    pub(crate) dev: PathBuf,
}

/// Runs the agent until it is told to end.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    // SAFETY: nothing has been opened yet.
    #[expect(unsafe_code, reason = "what was inherited has no owner in this process")]
    unsafe { crate::sys::fds::keep_only(&[]) }
        .context("failed to close inherited descriptors: oswalkd needs Linux 5.10 or newer")?;
    raise_descriptors();
    let state = State::take(&config.state)?;
    // Before it has mounts of its own: those of the users that it serves.
    let view = View::own().context("failed to look at /proc/self: oswalkd needs /proc")?;
    let outside = Arc::new(Outside::keep().context("failed to keep hold of /proc/self/ns/mnt")?);
    // Mounts of this agent are nobody else's, and end with it however it ends.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context(
        "failed to make a mount namespace: oswalkd needs root (or CAP_SYS_ADMIN) on this machine",
    )?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("failed to make the mounts private")?;
    let dirs = Dirs {
        lower: state.make_dir("lower")?,
        scratch: state.make_dir("scratch")?,
        dev: state.make_dir("dev")?,
    };
    crate::devices::prepare(&dirs.dev)?;
    check_fuse()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // SAFETY: no thread has been made yet.
    #[expect(unsafe_code, reason = "the launcher must be made before the first thread")]
    let launcher = unsafe { Launcher::start() }.context("failed to start the launcher")?;
    // Everything is one thread's: a `LocalSet` would wake itself through the kernel for each event.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(config, state.dir(), view, outside, dirs, launcher))
}

async fn serve(
    config: &Config,
    state: &Path,
    view: View,
    outside: Arc<Outside>,
    dirs: Dirs,
    launcher: Launcher,
) -> anyhow::Result<()> {
    let node = match &config.name {
        Some(name) => name.clone(),
        None => cluster::default_name()?,
    };
    check_private(config.listen.ip())?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("failed to listen on {}: choose another --listen address or port", config.listen)
    })?;
    let listen = listener.local_addr()?;
    let secret_path = config.secret.clone().unwrap_or_else(|| state.join("secret"));
    let secret = read_secret(&secret_path, config.secret.is_none())?;
    let server;
    let url = match &config.broker {
        Some(url) => url.clone(),
        None => {
            server = PrivateServer::start(&state.join("redis")).await?;
            server.url().to_owned()
        }
    };
    let (broker, events) = Broker::connect(&url, "oswalk", &node).await?;
    let reached_at = ReachedAt::new(config, listen, broker.host())?;
    let info = NodeInfo {
        node: node.clone(),
        address: reached_at.now(),
        version: env!("CARGO_PKG_VERSION").into(),
        slots: config.slots.unwrap_or_else(processors),
        cpu: cluster::processor(),
        trouble: trouble(&reached_at, reached_at.now(), state),
    };
    let cluster = Rc::new(Cluster::new(info.clone(), broker));
    cluster::enter(&cluster).await?;
    let settings = Settings {
        advertise: info.address.to_string(),
        slots: info.slots,
        secret: std::fs::canonicalize(&secret_path)?,
        store_bytes: config.store_bytes,
        upper_bytes: config
            .upper_bytes
            .unwrap_or_else(|| admission::upper_bytes(memory_bytes(), info.slots)),
    };
    let store = Store::open(&state.join("packets"), config.store_bytes)?;
    let pages = PagesDir::make(state)?;
    let door_path = state.join("door");
    let door = open_door(&door_path)?;
    let hidden = Arc::new(Hidden::new(own::all(config, &[state, pages.path()], &secret, &url)));
    look::begin_at(outside.root())?;
    let (vital, mut ended) = Vital::new();
    let agent = Rc::new(Agent {
        node,
        hostname: nix::unistd::gethostname()?.into_encoded_bytes(),
        view,
        rights: Rights::own().context("failed to look at the rights of this process")?,
        dirs,
        door_path,
        pages_dir: pages.path().to_owned(),
        hidden: Arc::clone(&hidden),
        upper_bytes: settings.upper_bytes,
        admission: Admission::new(info.slots),
        returned: Budget::new(config.upper_bytes.unwrap_or_else(|| memory_bytes() / ROOM_PART)),
        launcher,
        exporter: ExporterHandle::start(&vital, hidden, &outside)?,
        commits: Commits::start(&vital, &state.join("journal"), &outside)?,
        cluster,
        shutdown: tokio::sync::Notify::new(),
        listen,
        reached_at,
        state: state.to_owned(),
        settings,
        transfers: Transfers::default(),
        incarnation: crate::random::number(),
        secret: Secret::new(&secret),
        store: Arc::new(store),
        vital: vital.clone(),
        links: RefCell::default(),
        calling: RefCell::default(),
        next_link: Cell::new(1),
        mirrors: RefCell::default(),
        sessions: RefCell::default(),
        leaves: Leaves::default(),
        ended_links: Cell::new((0, 0)),
        ended_fuse: Cell::new((0, 0)),
    });
    agent.cluster.refresh().await;
    cluster::greet::begin(&agent, false);
    vital.task("broker's events", cluster::listen(Rc::clone(&agent), events));
    vital.task("heartbeat", cluster::beat(Rc::clone(&agent)));
    vital.task("links", callers::accept(Rc::clone(&agent), listener));
    vital.task("door", door::serve(Rc::clone(&agent), door));
    tracing::info!(node = %agent.node, listen = %agent.listen, "ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let died = tokio::select! {
        () = agent.shutdown.notified() => None,
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
        name = ended.wait() => Some(name),
    };
    let _ = std::fs::remove_file(&agent.door_path);
    agent.cluster.leave().await;
    // A reply to the request that ended the agent may still be on its way.
    tokio::time::sleep(Duration::from_millis(20)).await;
    agent.links.borrow().values().for_each(|link| link.close());
    match died {
        None => Ok(()),
        Some(name) => anyhow::bail!(
            "the agent's '{name}' died, which it cannot do without (its panic is above): \
             start the agent again with `oswalk up`, and report this"
        ),
    }
}

/// A node with less room in its state directory is full: what one walk reads may be as much.
const ROOM_BYTES_MIN: u64 = 32 * 1024 * 1024;
const ROOM_FILES_MIN: u64 = 64;

/// Nodes that are named to the broker as warm.
const PREFERRED_MAX: usize = 4;

impl Agent {
    /// Returns a session.
    pub(crate) fn session(&self, id: SessionId) -> Option<Rc<Session>> {
        self.sessions.borrow().get(&id).cloned()
    }

    /// Adds a session.
    pub(crate) fn add_session(&self, session: Session) -> Rc<Session> {
        let session = Rc::new(session);
        self.sessions.borrow_mut().insert(session.id, Rc::clone(&session));
        session
    }

    /// Ends a session: its waiting walks are taken out of the queue.
    pub(crate) fn end_session(&self, id: SessionId) {
        let ended = self.sessions.borrow_mut().remove(&id);
        self.cluster.drop_session(id);
        if let Some(session) = ended {
            if let Some(command) = session.leaf() {
                self.leaves.add(session.uid, command);
            }
            // Nobody waits for it.
            let cluster = Rc::clone(&self.cluster);
            tokio::task::spawn_local(async move {
                if let Err(error) = cluster.broker.cancel_session(id).await {
                    tracing::debug!(%error, "failed to cancel a session");
                }
            });
        }
    }

    /// Opens or shuts the gates of all sessions, as the cluster has other nodes or not.
    pub(crate) fn set_gates(&self) {
        for session in self.sessions.borrow().values().filter(|session| !session.no_fallback) {
            let open = self.cluster.broker.is_up()
                && self.cluster.has_runner_for(session.on.as_ref(), &[]);
            session.set_gate(if open { page::GATE_OPEN } else { page::GATE_SHUT });
        }
    }

    /// Returns what the agent has used so far.
    pub(crate) fn usage(&self) -> Usage {
        let (out, back) = self.ended_links.get();
        let links = self.links.borrow();
        let sum = links.values().map(|link| link.bytes());
        let (bytes_out, bytes_in) = sum.fold((out, back), |(a, b), (c, d)| (a + c, b + d));
        Usage { cpu_us: crate::sys::process::own_cpu_us(), bytes_out, bytes_in }
    }

    /// Returns the state of agent and cluster.
    pub(crate) async fn status(self: &Rc<Self>) -> Status {
        self.cluster.refresh().await;
        cluster::greet::settle(self).await;
        Status {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.listen.to_string(),
            broker: self.cluster.broker.url().to_owned(),
            broker_up: self.cluster.broker.is_up(),
            settings: self.settings.clone(),
            sessions: u32::try_from(self.sessions.borrow().len()).unwrap_or(u32::MAX),
            fuse: self.fuse_counts(),
            other_mounts: false,
            nodes: self.cluster.status(),
        }
    }

    fn fuse_counts(&self) -> FuseCounts {
        let (requests, fetches) = self.ended_fuse.get();
        let mut sum = FuseCounts { requests, fetches };
        for mirror in self.mirrors.borrow().values() {
            let (requests, fetches) = mirror.counts();
            sum.requests += requests;
            sum.fetches += fetches;
        }
        sum
    }

    /// Calls the agent of a node.
    pub(crate) async fn call(
        &self,
        node: &NodeId,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<(link::Socket, Peer), Failure> {
        let called = link::call::call(&self.own(), &self.secret, (node, address), purpose).await;
        let (socket, peer, took) = called?;
        self.transfers.note_distance(node, took);
        Ok((socket, peer))
    }

    /// Takes in whether a node could be greeted.
    pub(crate) fn note_greeting(self: &Rc<Self>, node: &NodeId, greeted: Result<(), Failure>) {
        let failure = greeted.as_ref().err().cloned();
        if self.cluster.note_greeting(node, greeted) {
            self.set_gates();
            if let Some(failure) = failure {
                let remedy = failure.remedy;
                tracing::warn!(%node, why = %failure, remedy, "failed to greet a node");
            }
        }
    }

    /// Returns the link to the node of a grant, calling it if there is none.
    pub(crate) async fn link_to(self: &Rc<Self>, grant: &Grant) -> anyhow::Result<Rc<Link>> {
        if let Some(link) = self.open_link(&grant.node) {
            return Ok(link);
        }
        let calling = Rc::clone(self.calling.borrow_mut().entry(grant.node.clone()).or_default());
        let _calling = calling.lock().await;
        if let Some(link) = self.open_link(&grant.node) {
            return Ok(link);
        }
        if let Some(failure) = self.cluster.members.failed_since(&grant.node, UNREACHABLE_FOR) {
            anyhow::bail!("{} could not be greeted just now: {failure}", grant.node);
        }
        let called = self.call(&grant.node, grant.address, Purpose::Link).await;
        let said = called.as_ref().map(drop).map_err(Clone::clone);
        self.note_greeting(&grant.node, said);
        let (socket, peer) = called.with_context(|| format!("failed to call {}", grant.node))?;
        Ok(self.start_link(socket, peer, true))
    }

    pub(crate) fn open_link(&self, node: &NodeId) -> Option<Rc<Link>> {
        self.links.borrow().get(node).filter(|link| !link.is_closed()).cloned()
    }

    /// Returns who this agent is.
    pub(crate) fn own(&self) -> Peer {
        Peer { node: self.node.clone(), incarnation: self.incarnation }
    }

    /// Returns the key that proves the cluster's secret.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn start_link(
        self: &Rc<Self>,
        socket: link::Socket,
        peer: Peer,
        called: bool,
    ) -> Rc<Link> {
        let other = self.open_link(&peer.node);
        let replaced = match other {
            Some(other) if !other.gives_way_to(&self.node, &peer, called) => {
                tracing::info!(peer = %peer.node, "both have called: their link stays, not this one");
                return other;
            }
            other => other,
        };
        let number = self.next_link.get();
        self.next_link.set(number + 1);
        let (taker, ender) = (Rc::clone(self), Rc::clone(self));
        let link = link::start(
            socket,
            peer,
            number,
            called,
            move |link, frame| taker.take(link, frame),
            move |link| ender.end_link(link),
        );
        self.links.borrow_mut().insert(link.peer.clone(), Rc::clone(&link));
        if let Some(replaced) = replaced {
            // Whose walks end with it find that there is another.
            tracing::info!(peer = %link.peer, "a newer link takes the place of the one that was there");
            replaced.close();
        }
        link
    }

    /// Hands a frame to whom it concerns. Never waits.
    fn take(self: &Rc<Self>, link: &Rc<Link>, frame: Frame) {
        match frame.kind {
            Kind::Open => self.take_open(link, &frame),
            Kind::Ask if !link.note_question() => {
                tracing::error!(peer = %link.peer, "dropping the link: it asks more than is answered");
                link.close();
            }
            Kind::Ask => match message::Ask::decode(&frame.payload) {
                Some(ask) => {
                    let question = Question { stream: frame.stream, ask, walks: link.walks() };
                    self.exporter.ask(link.number, question, link.sender());
                }
                None => {
                    let answer = message::Answer::Failed(libc::EPROTO);
                    link.send(Kind::Answer, frame.stream, message::encode(&answer));
                }
            },
            Kind::Answer => {
                if let Some(mirror) = self.mirror_of(&link.peer)
                    && mirror.awaits(frame.stream)
                {
                    let answer = postcard::from_bytes(&frame.payload)
                        .unwrap_or(message::Answer::Failed(libc::EPROTO));
                    mirror.take_answer(frame.stream, answer);
                }
            }
            Kind::Told if frame.payload.len() > TOLD_BYTES_MAX => {
                tracing::warn!(peer = %link.peer, "it tells more than any origin: it will be asked");
            }
            Kind::Told => match self.linked_mirror(&link.peer) {
                Some((mirror, current)) if current == link.number => tell(&mirror, &frame.payload),
                // A tree is mounted for a walk, and not for what is said.
                _ if self.cluster.lists(&link.peer) => link.keep_told(frame.payload),
                // It has come just now, or is none: it will be asked.
                _ => {}
            },
            Kind::Changes => {
                let mirror = self.linked_mirror(&link.peer);
                let mirror = mirror.filter(|(_, current)| *current == link.number);
                match (link.take_changes(&frame.payload, mirror.is_some()), mirror) {
                    (Ok(changes), Some((mirror, _))) => mirror.take_changes(changes),
                    // What was told before may not be so any more.
                    (Ok(_), None) => drop(link.take_told()),
                    // Without them the mirror would be stale: better no link at all.
                    (Err(()), _) => {
                        tracing::error!(peer = %link.peer, "dropping the link: its changes are none");
                        link.close();
                    }
                }
            }
            _ => link.route(frame),
        }
    }

    /// Takes in a walk, if there is room: before that nothing of it is unpacked.
    fn take_open(self: &Rc<Self>, link: &Rc<Link>, frame: &Frame) {
        let admitted = self.admission.admit();
        // Without it those that follow cannot be read either.
        let Ok(spec) = link.take_open(&frame.payload, admitted.is_some()) else {
            tracing::error!(peer = %link.peer, "dropping the link: it opened a walk that is none");
            return link.close();
        };
        let Some(frames) = link.accept_stream(frame.stream) else {
            tracing::error!(peer = %link.peer, "dropping the link: it opened a stream twice");
            return link.close();
        };
        let (Some(admitted), Some(spec)) = (admitted, spec) else {
            let is_read = link.send_exit(frame.stream, &runner::not_executed(Fault::Busy));
            link.close_stream(frame.stream);
            if !is_read {
                tracing::error!(peer = %link.peer, "dropping the link: it opens walks and does not read how they end");
                link.close();
            }
            return;
        };
        let (agent, link, stream) = (Rc::clone(self), Rc::clone(link), frame.stream);
        tokio::task::spawn_local(async move {
            let _admitted = admitted;
            runner::execute(agent, link, stream, spec, frames).await;
        });
    }

    fn end_link(&self, link: &Rc<Link>) {
        self.exporter.forget(link.number);
        let ((out, back), (link_out, link_back)) = (self.ended_links.get(), link.bytes());
        self.ended_links.set((out + link_out, back + link_back));
        let mut links = self.links.borrow_mut();
        if links.get(&link.peer).is_some_and(|present| present.number == link.number) {
            links.remove(&link.peer);
        }
        drop(links);
        if let Some((mirror, current)) = self.linked_mirror(&link.peer)
            && current == link.number
        {
            mirror.unlink();
        }
    }

    /// Returns the nodes that have much of this machine's tree already, those with most of it first.
    pub(crate) fn warm_nodes(&self) -> Vec<NodeId> {
        let links = self.links.borrow();
        let mut warm: Vec<_> = links.values().filter(|link| !link.is_closed()).collect();
        warm.sort_by_key(|link| std::cmp::Reverse(link.bytes().0));
        warm.into_iter().take(PREFERRED_MAX).map(|link| link.peer.clone()).collect()
    }

    fn mirror_of(&self, origin: &NodeId) -> Option<Rc<Mirror>> {
        self.mirrors.borrow().get(origin).cloned()
    }

    fn linked_mirror(&self, origin: &NodeId) -> Option<(Rc<Mirror>, u32)> {
        let mirror = self.mirror_of(origin)?;
        let number = mirror.link_number()?;
        Some((mirror, number))
    }

    /// Returns the tree of the origin on the other side of a link, for a walk that was taken in. Who is no node of the
    /// cluster has none, by whatever name.
    pub(crate) async fn tree_of(&self, link: &Rc<Link>) -> Result<Rc<Mirror>, Fault> {
        let is_known = || self.mirror_of(&link.peer).is_some() || self.cluster.lists(&link.peer);
        if !is_known() {
            // It may have come just now.
            self.cluster.refresh().await;
        }
        if !is_known() {
            return Err(Fault::Sandbox(format!("the broker lists no node {}", link.peer)));
        }
        if self.mirror_of(&link.peer).is_none() && !self.has_room_for_mirror() {
            return Err(Fault::Busy);
        }
        self.mirror(link).map_err(|error| Fault::Sandbox(format!("{error:#}")))
    }

    /// Makes room for another tree, if need be; false if there is none.
    fn has_room_for_mirror(&self) -> bool {
        if self.mirrors.borrow().len() < MIRRORS_MAX {
            return true;
        }
        let longest = longest_alone(self.alone_mirrors().into_iter());
        longest.inspect(|origin| self.give_up_mirror(origin)).is_some()
    }

    /// Returns the trees that no link feeds and no walk has, and since when.
    fn alone_mirrors(&self) -> Vec<(NodeId, Instant)> {
        let mirrors = self.mirrors.borrow();
        let alone = mirrors.iter().filter(|(_, mirror)| Rc::strong_count(mirror) == 1);
        alone.filter_map(|(origin, mirror)| Some((origin.clone(), mirror.alone_since()?))).collect()
    }

    fn give_up_mirror(&self, origin: &NodeId) {
        if let Some(mirror) = self.mirrors.borrow_mut().remove(origin) {
            let ((requests, fetches), (r, f)) = (self.ended_fuse.get(), mirror.counts());
            self.ended_fuse.set((requests + r, fetches + f));
            let points = mirror.points();
            // It was the last who had it.
            drop(mirror);
            for point in points {
                // Where something is mounted still the next one is mounted over it.
                let _ = std::fs::remove_dir(point);
            }
            tracing::info!(%origin, "unmounted the tree of a node that is gone");
        }
    }

    fn mirror(&self, link: &Rc<Link>) -> anyhow::Result<Rc<Mirror>> {
        if let Some(mirror) = self.mirror_of(&link.peer) {
            if mirror.link_number() != Some(link.number) {
                mirror.relink(link);
                link.take_told().iter().for_each(|told| tell(&mirror, told));
            }
            return Ok(mirror);
        }
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let sandboxes = |point: &Path| {
            Sandboxes::new(Plan {
                lower: bytes(point),
                scratch: bytes(&self.dirs.scratch),
                dev: bytes(&self.dirs.dev),
                upper_bytes_max: self.upper_bytes,
                memory_bytes_max: admission::memory_bytes(memory_bytes(), self.settings.slots),
            })
        };
        let mirror = Mirror::mount(&self.dirs.lower, link, &self.store, &self.vital, sandboxes)
            .with_context(|| format!("failed to mount the tree of {}", link.peer))?;
        self.mirrors.borrow_mut().insert(link.peer.clone(), Rc::clone(&mirror));
        link.take_told().iter().for_each(|told| tell(&mirror, told));
        Ok(mirror)
    }

    /// Returns what is wrong with this node, and where others reach it.
    pub(crate) fn look_at_itself(&self) -> (Option<Trouble>, SocketAddr) {
        let address = self.reached_at.now();
        (trouble(&self.reached_at, address, &self.state), address)
    }

    /// Gives up what no walk has needed for a long time.
    pub(crate) fn rest(&self) {
        self.mirrors.borrow().values().for_each(|mirror| mirror.rest());
        for (origin, since) in self.alone_mirrors() {
            if since.elapsed() > MIRROR_ALONE_MAX {
                self.give_up_mirror(&origin);
            }
        }
    }

    /// Prepares for the next walk of the origin on the other side of a link.
    pub(crate) fn prepare_for(&self, link: &Link) {
        if let Some((mirror, number)) = self.linked_mirror(&link.peer)
            && number == link.number
        {
            mirror.prepare(&self.launcher);
        }
    }
}

/// Returns the one that has been alone longest.
fn longest_alone(mirrors: impl Iterator<Item = (NodeId, Instant)>) -> Option<NodeId> {
    mirrors.min_by_key(|(_, since)| *since).map(|(origin, _)| origin)
}

/// Tells a tree what its origin has told.
fn tell(mirror: &Mirror, told: &[u8]) {
    match lists::told(told) {
        Some(told) => mirror.take_told(told),
        // It will ask.
        None => tracing::warn!("an origin told nothing readable"),
    }
}

/// Allows this process as many descriptors as it may have: each link, stub and walk needs some, and the usual
/// 1,024 are soon gone.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "failed to raise the limit of descriptors");
    }
}

fn trouble(reached_at: &ReachedAt, address: SocketAddr, state: &Path) -> Option<Trouble> {
    if !reached_at.is_there(address) {
        return Some(Trouble::Address);
    }
    (!has_room(state)).then_some(Trouble::Full)
}

/// Tells whether packets can be written. On errors they are tried.
fn has_room(state: &Path) -> bool {
    nix::sys::statvfs::statvfs(state).map_or(true, |stats| {
        let bytes = stats.blocks_available() * stats.fragment_size();
        // Some file systems have no number of files to run out of.
        let has_files = stats.files() == 0 || stats.files_available() >= ROOM_FILES_MIN;
        bytes >= ROOM_BYTES_MIN && has_files
    })
}

fn open_door(path: &Path) -> anyhow::Result<AsyncFd<UnixListener>> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("failed to open the door {}", path.display());
    let _ = std::fs::remove_file(path);
    let door = UnixListener::bind(path).with_context(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(failed)?;
    door.set_nonblocking(true).with_context(failed)?;
    crate::sys::watch::readable(door).with_context(failed)
}

fn check_fuse() -> anyhow::Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map(drop).context(
        "failed to open /dev/fuse: load the fuse module (`modprobe fuse`), or let the container use the device",
    )
}

/// A secret that somebody typed is guessed; 32 hex digits are 16 random bytes.
const SECRET_BYTES_MIN: usize = 16;
/// A file that is larger is something else.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads the secret; makes one if nobody has named a file and there is none.
fn read_secret(path: &Path, is_own: bool) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    if is_own && !path.exists() {
        let mut fresh = [0; 32];
        crate::random::fill(&mut fresh);
        let text: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
        std::io::Write::write_all(&mut file?, text.as_bytes())?;
    }
    let failed = || format!("failed to read the secret {}", path.display());
    let mut options = std::fs::File::options();
    // A fifo would keep the agent waiting.
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).with_context(failed)?;
    let metadata = file.metadata().with_context(failed)?;
    anyhow::ensure!(
        metadata.is_file() && metadata.len() <= SECRET_BYTES_MAX,
        "the secret {} is no regular file of at most {SECRET_BYTES_MAX} bytes",
        path.display()
    );
    anyhow::ensure!(
        metadata.mode() & 0o077 == 0,
        "the secret {} can be read by others: `chmod 600` it",
        path.display()
    );
    anyhow::ensure!(
        metadata.uid() == 0 || metadata.uid() == nix::unistd::geteuid().as_raw(),
        "the secret {} belongs to user {}, who may change it: `chown root` it",
        path.display(),
        metadata.uid()
    );
    let mut text = Vec::new();
    file.take(SECRET_BYTES_MAX).read_to_end(&mut text).with_context(failed)?;
    let length = text.trim_ascii().len();
    anyhow::ensure!(
        length >= SECRET_BYTES_MIN,
        "the secret {} has {length} bytes, which can be guessed: write at least {SECRET_BYTES_MIN} \
         random ones (`openssl rand -hex 32`), the same on all nodes",
        path.display()
    );
    Ok(text)
}

fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(1)
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(4 * 1024 * 1024) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_that_was_alone_longest_goes_first() {
        let now = Instant::now();
        let at = |name: &str, seconds| {
            (name.parse().expect("a name"), now + Duration::from_secs(seconds))
        };
        let alone = [at("b", 20), at("a", 10), at("c", 30)];
        assert_eq!(longest_alone(alone.into_iter()), "a".parse().ok());
        assert_eq!(longest_alone(std::iter::empty()), None);
    }
}
