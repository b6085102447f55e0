//! Answers the requests of `oswalk`: open a session, report, status, end the agent.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use broker::Matchmaker;
use packetfs::export::Hidden;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use worknode::door::{HELLO_BYTES_MAX, Kind};
use worknode::id::{NodeId, SessionId};
use worknode::notice;
use worknode::page;
use worknode::principal::Principal;
use worknode::report::Report;
use worknode::request::{
    HIDE_BYTES_MAX, HIDE_MAX, Reply, Request, SessionOptions, Settings, Status,
};

use crate::admission::{Act, admit};
use crate::cluster::Cluster;
use crate::door::Visitor;
use crate::exporter::ExporterHandle;
use crate::links::Links;
use crate::mirrors::Mirrors;
use crate::session::{Session, Usage};
use crate::sessions::Sessions;
use crate::sys::view::View;
use crate::sys::{process, watch};

// `oswalk` checks the same limits, so that nothing it accepts is refused here.
const _: () = assert!(
    HIDE_MAX == packetfs::export::PATTERNS_MAX
        && HIDE_BYTES_MAX == packetfs::export::PATTERN_BYTES_MAX
);

/// The parts that requests concern.
pub(crate) struct Api {
    pub(crate) listen: String,
    pub(crate) settings: Settings,
    pub(crate) pages_dir: PathBuf,
    pub(crate) door_path: PathBuf,
    /// The view of the file system that this agent exports.
    pub(crate) view: View,
    pub(crate) hidden: Arc<Hidden>,
    pub(crate) exporter: ExporterHandle,
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) links: Rc<Links>,
    pub(crate) mirrors: Rc<Mirrors>,
    pub(crate) sessions: Rc<Sessions>,
    /// Ends the agent.
    pub(crate) shutdown: Rc<Notify>,
}

impl Api {
    /// Answers the requests of one connection, and ends its session with it.
    pub(crate) async fn talk(&self, visitor: Visitor, first: Vec<u8>) {
        let Visitor { pid, who, mut reader, mut writer } = visitor;
        let opened = Cell::new(None);
        let mut next = Some(first);
        while let Some(payload) = next {
            let answer = match serde_json::from_slice::<Request>(&payload) {
                Ok(request) => self.answer(pid, &who, &opened, request).await,
                Err(error) => Err(anyhow::anyhow!("the request cannot be decoded: {error}")),
            };
            let sent = match answer {
                Ok(reply) => {
                    let json = serde_json::to_vec(&reply).expect("replies have string keys only");
                    writer.send(Kind::Request, 0, &json).await
                }
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

    async fn answer(
        &self,
        pid: u32,
        who: &Principal,
        opened: &Cell<Option<SessionId>>,
        request: Request,
    ) -> anyhow::Result<Reply> {
        match request {
            Request::OpenSession(options) => self.open_session(pid, who, opened, options).await,
            Request::CloseSession => self.close_session(opened).await,
            Request::Status => {
                let other_mounts = self.other_mounts(pid).is_some();
                Ok(Reply::Status(Status { other_mounts, ..self.status().await }))
            }
            Request::Shutdown => {
                admit(who, Act::EndAgent { agent: nix::unistd::geteuid().as_raw() })?;
                self.shutdown.notify_one();
                Ok(Reply::Done)
            }
        }
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
        let shut = self.why_nothing_walks(options.on.as_ref()).await;
        if let Some(node) = &options.on {
            let is_known = self.cluster.status().iter().any(|status| status.node == *node);
            admit(who, Act::WalkOnlyTo { node, is_known })?;
        }
        // A process of another pid namespace is not visible here.
        let process = options.becomes.then(|| watch::process(pid).ok()).flatten();
        options.becomes = process.is_some();
        let notice = shut.clone().or_else(|| self.other_mounts(pid));
        let session =
            self.make_session((pid, who.uid), &options, shut.is_none(), notice.clone())?;
        match process {
            Some(process) => self.end_with(session.id, process),
            None => opened.set(Some(session.id)),
        }
        let page = session.page_path().as_os_str().as_encoded_bytes().to_vec();
        Ok(Reply::Session { session: session.id, page, becomes: options.becomes, notice })
    }

    async fn close_session(&self, opened: &Cell<Option<SessionId>>) -> anyhow::Result<Reply> {
        let id = opened.get().ok_or_else(|| anyhow::anyhow!("there is no session to close"))?;
        let Some(session) = self.sessions.get(id) else {
            let lost = Some("the agent has ended the session before its command".to_owned());
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
        let session =
            Session::open(dir, door, options, opener, gate, notice, is_leaf, self.usage())?;
        Ok(self.sessions.add(session))
    }

    /// Ends a session with a process.
    fn end_with(&self, session: SessionId, process: AsyncFd<OwnedFd>) {
        let sessions = Rc::clone(&self.sessions);
        tokio::task::spawn_local(async move {
            // An error also means that the process is gone.
            let _ = process.readable().await;
            sessions.end(session);
        });
    }

    /// Returns why nothing walks at present, or `None` if walks are possible.
    async fn why_nothing_walks(&self, on: Option<&NodeId>) -> Option<String> {
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
            settings: self.settings.clone(),
            sessions: u32::try_from(self.sessions.count()).unwrap_or(u32::MAX),
            fuse: self.mirrors.fuse_counts(),
            other_mounts: false,
            nodes: self.cluster.status(),
        }
    }

    /// Returns the agent's resource usage so far.
    fn usage(&self) -> Usage {
        let (bytes_out, bytes_in) = self.links.bytes();
        Usage { cpu_us: process::own_cpu_us(), bytes_out, bytes_in }
    }
}
