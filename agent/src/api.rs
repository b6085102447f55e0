//! Answers the requests of `oswalk`: open a session, report, status, end the agent.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::Matchmaker;
use packetfs::export::Hidden;
use packetfs::progress::Progress;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use worknode::door::{HELLO_BYTES_MAX, Kind};
use worknode::id::{NodeId, SessionId};
use worknode::notice;
use worknode::page;
use worknode::principal::Principal;
use worknode::report::Report;
use worknode::request::{
    HIDE_BYTES_MAX, HIDE_MAX, MachineStatus, MemberStatus, NodeCondition, NodeStatus, Reply,
    Request, SessionOptions, Settings, Status, WorkProgress,
};

use crate::admission::{Act, Refusal, admit, rights_of};
use crate::cluster::Cluster;
use crate::door::shares::Share;
use crate::door::{Visitor, Writer};
use crate::exporter::ExporterHandle;
use crate::links::Links;
use crate::look::Looks;
use crate::machine;
use crate::membership::Membership;
use crate::membership::tokens::Pass;
use crate::mirrors::Mirrors;
use crate::origin;
use crate::own_volume::OwnVolume;
use crate::random;
use crate::session::{Granted, Session, Usage, limits};
use crate::sessions::Sessions;
use crate::sys::view::View;
use crate::sys::{process, watch};
use crate::volume::VolumeHandle;

// `oswalk` checks the same limits, so that nothing it accepts is refused here.
const _: () = assert!(
    HIDE_MAX == packetfs::export::PATTERNS_MAX
        && HIDE_BYTES_MAX == packetfs::export::PATTERN_BYTES_MAX
);

/// Longest request that is decoded, and most walks of a report that are encoded, between other work: a few milliseconds.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;
const WALKS_AT_ONCE_MAX: usize = 1000;

/// Time between two words on how far long work has come: well below the time that `oswalk` waits for an answer.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// Threads of a user take longer than anybody waits.
const BUSY: &str = "the agent is busy with other requests of this user: try again";

/// The parts that requests concern.
pub(crate) struct Api {
    pub(crate) listen: Option<String>,
    pub(crate) membership: Option<Rc<Membership>>,
    pub(crate) settings: Settings,
    pub(crate) pages_dir: PathBuf,
    pub(crate) door_path: PathBuf,
    /// The view of the file system that this agent exports.
    pub(crate) view: View,
    pub(crate) hidden: Arc<Hidden>,
    pub(crate) exporter: ExporterHandle,
    pub(crate) looks: Rc<Looks>,
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) links: Rc<Links>,
    pub(crate) mirrors: Rc<Mirrors>,
    pub(crate) sessions: Rc<Sessions>,
    pub(crate) volume: VolumeHandle,
    pub(crate) own_volume: OwnVolume,
    /// How many of them there may be.
    pub(crate) share: Share,
    /// Ends the agent.
    pub(crate) shutdown: Rc<Notify>,
}

impl Api {
    /// Answers the requests of one connection, and ends its session with it.
    pub(crate) async fn talk(&self, visitor: Visitor, first: Vec<u8>) {
        let Visitor { pid, who, mut reader, mut writer, guest: _guest } = visitor;
        let opened = Cell::new(None);
        let mut next = Some(first);
        while let Some(payload) = next {
            let answer = match self.decoded(who.uid, payload).await {
                Ok(request @ (Request::Mount { .. } | Request::Volume(_))) => {
                    self.answer_at_length(&who, request, &mut writer).await
                }
                Ok(request) => self.answer(pid, &who, &opened, request).await,
                Err(error) => Err(error),
            };
            let encoded = match answer {
                Ok(reply) => self.encoded(who.uid, reply).await,
                Err(error) => Err(error),
            };
            let sent = match encoded {
                Ok(json) => writer.send(Kind::Request, 0, &json).await,
                Err(error) => writer.send(Kind::Failed, 0, format!("{error:#}").as_bytes()).await,
            };
            next = if sent {
                reader.next(HELLO_BYTES_MAX).await.map(|(_, payload)| payload)
            } else {
                None
            };
        }
        if let Some(session) = opened.take() {
            self.sessions.end(session);
        }
    }

    /// Answers a request that may take long, and says again and again how far it has come.
    async fn answer_at_length(
        &self,
        who: &Principal,
        request: Request,
        writer: &mut Writer,
    ) -> anyhow::Result<Reply> {
        admit(who, Act::Manage { agent: own_uid() })?;
        let progress = Arc::new(Progress::default());
        let mut answer = pin!(self.of_volume(request, Arc::clone(&progress)));
        loop {
            let tick = tokio::time::sleep(PROGRESS_PERIOD);
            tokio::select! {
                answer = &mut answer => return answer,
                () = tick => {}
            }
            let (done, total) = progress.bytes();
            let told = Reply::Progress(WorkProgress { done, total });
            let json = serde_json::to_vec(&told).expect("it has no maps");
            if !writer.send(Kind::Request, 0, &json).await {
                anyhow::bail!("nobody waits for the answer");
            }
        }
    }

    async fn of_volume(&self, request: Request, progress: Arc<Progress>) -> anyhow::Result<Reply> {
        match request {
            Request::Mount { point, read_only, at_ms } => {
                self.volume.mount(path(point), read_only, at_ms).await?;
                Ok(Reply::Done)
            }
            Request::Volume(request) => {
                Ok(Reply::Volume(self.volume.work(request, progress).await?))
            }
            _ => anyhow::bail!("the request is not about the volume"),
        }
    }

    /// Decodes a request, on a thread of the user's if it is long.
    async fn decoded(&self, uid: u32, payload: Vec<u8>) -> anyhow::Result<Request> {
        let decoded = if payload.len() > AT_ONCE_BYTES_MAX {
            let decode = move |_| Ok(serde_json::from_slice(&payload));
            self.looks.look_apart(uid, decode).await.context(BUSY)?
        } else {
            serde_json::from_slice(&payload)
        };
        decoded.map_err(|error| anyhow::anyhow!("the request cannot be decoded: {error}"))
    }

    /// Encodes a reply, on a thread of the user's if it is long.
    async fn encoded(&self, uid: u32, reply: Reply) -> anyhow::Result<Vec<u8>> {
        let json =
            |reply: &Reply| serde_json::to_vec(reply).expect("replies have string keys only");
        match &reply {
            Reply::Report(report) if report.walks.len() > WALKS_AT_ONCE_MAX => {
                self.looks.look_apart(uid, move |_| Ok(json(&reply))).await.context(BUSY)
            }
            reply => Ok(json(reply)),
        }
    }

    async fn answer(
        &self,
        pid: u32,
        who: &Principal,
        opened: &Cell<Option<SessionId>>,
        request: Request,
    ) -> anyhow::Result<Reply> {
        let may_manage = || admit(who, Act::Manage { agent: own_uid() });
        match request {
            Request::OpenSession(options) => self.open_session(pid, who, opened, options).await,
            Request::CloseSession => self.close_session(opened).await,
            Request::Status => {
                let other_mounts = self.other_mounts(pid).is_some();
                Ok(Reply::Status(Status { other_mounts, ..self.status().await }))
            }
            Request::Invite { nodes, seconds } => {
                may_manage()?;
                let address = self.cluster.address().to_string();
                let line = self.membership()?.invite(nodes, seconds, &address).await?;
                Ok(Reply::JoinLine(line.to_string()))
            }
            Request::Invites => {
                may_manage()?;
                Ok(Reply::Invites(self.membership()?.invites()))
            }
            Request::Withdraw(id) => {
                may_manage()?;
                self.membership()?.withdraw(&id).await?;
                Ok(Reply::Done)
            }
            Request::Drain { node, drains } => {
                may_manage()?;
                self.drain(&node, drains).await?;
                Ok(Reply::Done)
            }
            Request::Trust(node) => {
                may_manage()?;
                anyhow::ensure!(
                    self.cluster.trust(&node),
                    "node '{node}' is not quarantined here: 'oswalk status' shows the state of each node"
                );
                Ok(Reply::Done)
            }
            Request::Rotate { broker } => {
                may_manage()?;
                self.rotate(broker).await?;
                Ok(Reply::Done)
            }
            Request::Members => Ok(Reply::Members(self.members().await?)),
            Request::Remove(node) => {
                may_manage()?;
                self.membership()?.remove(&node).await?;
                self.links.note_members();
                Ok(Reply::Done)
            }
            Request::Token => {
                let (rights, user) = (rights_of(who, own_uid()), machine::user_name(who.uid));
                Ok(Reply::Token(self.membership()?.token_for(who, rights, user)?))
            }
            Request::Revoke(token) => {
                let rights = rights_of(who, own_uid());
                let revoked = self.membership()?.revoke(who, rights, &token).await;
                self.links.note_members();
                Ok(Reply::Revoked(revoked?))
            }
            Request::RevokeId(id) => {
                may_manage()?;
                let revoked = self.membership()?.revoke_id(id).await;
                self.links.note_members();
                revoked?;
                Ok(Reply::Revoked(id))
            }
            Request::Mount { .. } | Request::Volume(_) => {
                anyhow::bail!("the request is answered at length")
            }
            Request::Unmount { point } => {
                may_manage()?;
                self.volume.unmount(path(point)).await?;
                Ok(Reply::Done)
            }
            Request::Shutdown => {
                may_manage()?;
                self.shutdown.notify_one();
                Ok(Reply::Done)
            }
            Request::Explain(command) => {
                let session = opened.get().and_then(|id| self.sessions.get(id));
                let session = session.context("a command is explained within a session")?;
                anyhow::ensure!(session.may_judge(&command.path), "the path is too long");
                let (explain, hidden) =
                    (origin::explain(&session, *command), Arc::clone(&self.hidden));
                let explain = move |_| Ok(explain(&hidden));
                let explained = self.looks.look_apart(who.uid, explain).await.context(BUSY)?;
                Ok(Reply::Explained(explained))
            }
        }
    }

    async fn drain(&self, node: &NodeId, drains: bool) -> anyhow::Result<()> {
        let membership = self.membership()?;
        if *node == membership.place().node {
            membership.set_draining(drains).await?;
            self.cluster.note_draining(drains).await;
            return Ok(());
        }
        membership.check_owner()?;
        self.links.drain(node, drains).await
    }

    /// Gives this node a new key. What was connected under the old one is connected anew.
    async fn rotate(&self, broker: Option<String>) -> anyhow::Result<()> {
        let membership = self.membership()?;
        if let Some(url) = broker {
            membership.set_broker_url(url).await?;
        }
        let key = membership.rotate().await?;
        tracing::info!(key = key.short(), "this node has a new key");
        self.sessions.renew(|pass| membership.renewed(pass));
        self.links.close();
        self.links.note_members();
        Ok(())
    }

    async fn members(&self) -> anyhow::Result<Vec<MemberStatus>> {
        let mut members = self.membership()?.members();
        if self.cluster.broker.is_up() {
            self.look_for_nodes().await;
        }
        let nodes = self.cluster.status();
        for member in &mut members {
            let listed = nodes.iter().find(|node| node.node == member.node);
            member.state = listed.map(|node| node.state);
        }
        Ok(members)
    }

    /// Returns a notice if this node was removed from its cluster.
    fn removed(&self) -> Option<String> {
        self.membership.as_deref()?.removed()
    }

    fn membership(&self) -> anyhow::Result<&Membership> {
        if let Some(removed) = self.removed() {
            anyhow::bail!(removed);
        }
        self.membership.as_deref().context(
            "this node belongs to no cluster: make one with 'oswalk cluster init', or join one with 'oswalk cluster \
             join'",
        )
    }

    async fn open_session(
        &self,
        pid: u32,
        who: &Principal,
        opened: &Cell<Option<SessionId>>,
        mut options: Box<SessionOptions>,
    ) -> anyhow::Result<Reply> {
        let has_one = opened.get().is_some();
        admit(who, Act::OpenSession { version: &options.version, has_one })?;
        self.check_sessions(who)?;
        let patterns = limits::others_files(&options.hide, who.uid).await;
        admit(who, Act::Hide { patterns, agent: own_uid() })?;
        limits::check_size(&options)?;
        let granted = self.grant(who, &options)?;
        let pass = granted.pass();
        let nodes = pass.as_ref().and_then(|pass| pass.capability.bounds.nodes.as_ref());
        if let (None, Some(nodes)) = (&options.on, nodes)
            && nodes.len() == 1
        {
            options.on = nodes.first().cloned();
        }
        let shut = match options.shell {
            // A shell must not be delayed. The gate opens when there is a node.
            Some(_) => self.cluster.notice(None),
            None => self.why_nothing_walks(options.on.as_ref()).await,
        };
        if let Some(node) = &options.on {
            let is_known = self.cluster.status().iter().any(|status| status.node == *node);
            admit(who, Act::WalkOnlyTo { node, is_known })?;
        }
        let granted = self.still_granted(who, &options, granted)?;
        let owner = match options.shell {
            Some(shell) => {
                admit(who, Act::EndWith { owner: process::user(shell) })?;
                process::is_above(shell, pid).then_some(shell)
            }
            None => options.becomes.then_some(pid),
        };
        // A process of another pid namespace is not visible here.
        let process = owner.and_then(|owner| watch::process(owner).ok());
        options.becomes = process.is_some();
        let owner = owner.unwrap_or(pid);
        let notice = shut.clone().or_else(|| self.other_mounts(pid));
        let session =
            self.make_session((owner, who.uid), &options, granted, shut.is_none(), notice.clone())?;
        match process {
            Some(process) => self.end_with(&session, process),
            None => opened.set(Some(session.id)),
        }
        let page = session.page_path().as_os_str().as_encoded_bytes().to_vec();
        Ok(Reply::Session { session: session.id, page, becomes: options.becomes, notice })
    }

    /// Refuses a session if there are too many of the user, or of all.
    fn check_sessions(&self, who: &Principal) -> Result<(), Refusal> {
        let Share { of_user, of_all } = self.share;
        admit(who, Act::OpenAnother { sessions: self.sessions.count_of(who.uid), max: of_user })?;
        if who.uid == own_uid() {
            return Ok(());
        }
        admit(
            who,
            Act::OpenBeside { sessions: self.sessions.count_of_others(own_uid()), max: of_all },
        )
    }

    /// Decides what a session may do. Without a cluster that is nothing, and nothing walks.
    fn grant(&self, who: &Principal, options: &SessionOptions) -> anyhow::Result<Granted> {
        let (id, token) = (SessionId(random::number()), options.token.as_ref());
        let membership = match token {
            Some(_) => Some(self.membership()?),
            None => self.membership.as_deref(),
        };
        let (rights, bounds) = (rights_of(who, own_uid()), (id, options.on.as_ref()));
        let pass = membership.map(|membership| membership.pass(who, rights, bounds, token));
        Ok(Granted::new(id, pass.transpose()?))
    }

    /// Decides anew if the token was revoked, or this node has got a new key, in the meantime.
    fn still_granted(
        &self,
        who: &Principal,
        options: &SessionOptions,
        granted: Granted,
    ) -> anyhow::Result<Granted> {
        let is_valid = |pass: &Pass| self.membership.as_ref().is_some_and(|it| it.is_valid(pass));
        match granted.pass() {
            Some(pass) if !is_valid(&pass) => self.grant(who, options),
            _ => Ok(granted),
        }
    }

    async fn close_session(&self, opened: &Cell<Option<SessionId>>) -> anyhow::Result<Reply> {
        let id = opened.get().ok_or_else(|| anyhow::anyhow!("there is no session to close"))?;
        let Some(session) = self.sessions.get(id) else {
            let lost = Some(
                "the agent has ended the session before its command, whose token may be revoked"
                    .to_owned(),
            );
            return Ok(Reply::Report(Report { lost, ..Report::default() }));
        };
        let walked_in_vain = session.walked_in_vain();
        let on = session.on.as_ref();
        let notice = if walked_in_vain { self.why_nothing_walks(on).await } else { None };
        // The session ends with the connection.
        Ok(Reply::Report(session.report(self.usage(), notice)))
    }

    fn make_session(
        &self,
        (pid, uid): (u32, u32),
        options: &SessionOptions,
        granted: Granted,
        is_open: bool,
        notice: Option<String>,
    ) -> anyhow::Result<Rc<Session>> {
        if self.hidden.hide(&options.hide)? {
            self.exporter.retell();
        }
        let gate = if is_open { page::GATE_OPEN } else { page::GATE_SHUT };
        // With --no-fallback, the user prefers a refused walk to execution at the origin.
        let gate = if options.no_fallback { page::GATE_OPEN } else { gate };
        let (dir, door) = (&self.pages_dir, &self.door_path);
        let is_leaf = options.command.is_some_and(|file| self.sessions.is_leaf(uid, file));
        let opener = (pid, uid);
        let session = Session::open(
            dir,
            door,
            options,
            opener,
            granted,
            gate,
            notice,
            is_leaf,
            self.usage(),
            &self.own_volume.points(),
        )?;
        Ok(self.sessions.add(session))
    }

    /// Ends a session with a process.
    fn end_with(&self, session: &Session, process: AsyncFd<OwnedFd>) {
        let (sessions, id) = (Rc::clone(&self.sessions), session.id);
        let watch = tokio::task::spawn_local(async move {
            // An error also means that the process is gone.
            let _ = process.readable().await;
            sessions.end(id);
        });
        session.set_watch(watch.abort_handle());
    }

    /// Returns why nothing walks at present, or `None` if walks are possible.
    async fn why_nothing_walks(&self, on: Option<&NodeId>) -> Option<String> {
        if let Some(removed) = self.removed() {
            return Some(removed);
        }
        if self.cluster.broker.is_up() {
            if self.cluster.has_runner_for(on, &[]) {
                return None;
            }
            // A node may have joined since the last heartbeat.
            self.look_for_nodes().await;
        }
        self.cluster.notice(on)
    }

    /// Returns a notice if the process that opens a session has other mounts than the agent, so that its programs stay.
    fn other_mounts(&self, pid: u32) -> Option<String> {
        let has_others = View::of(pid).ok().as_ref() != Some(&self.view);
        has_others.then(|| notice::other_mounts("this shell", std::process::id()))
    }

    async fn look_for_nodes(&self) {
        self.cluster.refresh().await;
        self.links.settle().await;
    }

    /// Returns the state of agent and cluster.
    async fn status(&self) -> Status {
        self.look_for_nodes().await;
        Status {
            node: self.cluster.info.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.listen.clone(),
            broker: self.cluster.broker.url().to_owned(),
            broker_up: self.cluster.broker.is_up(),
            removed: self.removed(),
            settings: self.settings.clone(),
            machine: MachineStatus {
                processors: machine::processors(),
                load: machine::load(),
                store_bytes: self.mirrors.store_bytes(),
            },
            sessions: u32::try_from(self.sessions.count()).unwrap_or(u32::MAX),
            fuse: self.mirrors.fuse_counts(),
            other_mounts: false,
            conflicts: self.volume.conflicts(),
            full_volume: self.volume.full(),
            nodes: self.nodes(),
        }
    }

    /// Returns all nodes but those that have gone and belong to the cluster no more.
    fn nodes(&self) -> Vec<NodeStatus> {
        let mut nodes = self.cluster.status();
        if let Some(membership) = &self.membership {
            let is_member = |node: &NodeStatus| membership.key_of(&node.node).is_some();
            nodes.retain(|node| node.state != NodeCondition::Gone || is_member(node));
        }
        nodes
    }

    /// Returns the agent's resource usage so far.
    fn usage(&self) -> Usage {
        let (bytes_out, bytes_in) = self.links.bytes();
        Usage { cpu_us: process::own_cpu_us(), bytes_out, bytes_in }
    }
}

/// Returns the user of this agent.
fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn path(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}
