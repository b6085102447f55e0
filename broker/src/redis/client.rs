//! [`Broker`]: connects an agent to Redis, encodes its calls as words and decodes the answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use super::answer::Answer;
use super::batcher::Batcher;
use super::caller::Caller;
use super::keeper::Keeper;
use super::wire::{Address, Value, WireError};
use super::word::Word;
use super::{nodes, url};
use crate::dial::Dial;
use crate::error::BrokerError;
use crate::functions::LAYOUT;
use crate::matchmaker::Matchmaker;
use crate::model::{
    Event, Finished, NodeInfo, NodeState, PastNode, Registered, Retried, Submit, Submitted, Trouble,
};
use crate::pulse::Pulse;

/// A connection to the matchmaker in Redis. Clones share it.
#[derive(Debug, Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    caller: Arc<Caller>,
    host: Option<(String, u16)>,
    batcher: Batcher,
    /// Aborted when the last clone is dropped, which closes the connection.
    keeper: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Broker {
    /// Connects to the cell `cell` of the broker at `url` on behalf of `node`.
    ///
    /// # Errors
    /// The URL is invalid, the server does not answer, the password is wrong, or the server is too old.
    pub async fn connect(
        url: &str,
        cell: &str,
        node: &NodeId,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), BrokerError> {
        let shown = worknode::broker_url::without_password(url);
        let address = parse(url, &shown)?;
        Self::open(address, shown, cell, node, false).await
    }

    /// Connects to the cell `cell` of the broker to which `dial` makes connections. If it is away, it is connected as
    /// soon as it is back.
    ///
    /// # Errors
    /// The server is too old, or refuses this node.
    pub async fn connect_through(
        dial: Arc<dyn Dial>,
        cell: &str,
        node: &NodeId,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), BrokerError> {
        let shown = dial.shown();
        Self::open(Address::Through(dial), shown, cell, node, true).await
    }

    async fn open(
        address: Address,
        shown: String,
        cell: &str,
        node: &NodeId,
        may_be_away: bool,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), BrokerError> {
        let host = address.host();
        let key = format!("{{{cell}}}{LAYOUT}");
        let (events_tx, events_rx) = mpsc::unbounded_channel();
        let channel = format!("{key}:to:{node}");
        let keeper = Keeper { address, channel, events_tx: events_tx.clone() };
        let line = match keeper.open().await {
            Err(source) if may_be_away && source.is_loss() => {
                tracing::warn!(url = shown, %source, "the broker is away: nothing walks until it is back");
                None
            }
            opened => Some(opened.map_err(|source| not_connected(source, &shown))?),
        };
        let (line_tx, line_rx) = watch::channel(line.clone());
        let keeper = tokio::spawn(keeper.keep(line, line_tx)).abort_handle();
        let incarnation = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let pulse = Pulse::new(incarnation);
        let caller = Caller { url: shown, key, node: node.clone(), line_rx, pulse, events_tx };
        let caller = Arc::new(caller);
        let batcher = Batcher::start(Arc::clone(&caller));
        let shared = Shared { caller, host, batcher, keeper };
        Ok((Self { shared: Arc::new(shared) }, events_rx))
    }

    /// Returns host and port of the broker, if it is reached over the network.
    #[must_use]
    pub fn host(&self) -> Option<(&str, u16)> {
        self.shared.host.as_ref().map(|(host, port)| (host.as_str(), *port))
    }

    async fn say(&self, kind: &'static str, arguments: Vec<String>) -> Result<Answer, BrokerError> {
        self.shared.batcher.say(Word { kind, arguments }).await
    }

    fn garbled(&self, function: &'static str) -> BrokerError {
        self.shared.caller.garbled(function)
    }
}

impl Matchmaker for Broker {
    fn url(&self) -> &str {
        &self.shared.caller.url
    }

    fn is_up(&self) -> bool {
        self.shared.caller.line_rx.borrow().is_some()
    }

    async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError> {
        let caller = &self.shared.caller;
        let (slots, address) = (info.slots.to_string(), info.address.to_string());
        let arguments = [
            info.node.as_str(),
            &caller.pulse.incarnation,
            &address,
            info.version.as_str(),
            &slots,
            info.cpu.as_str(),
            info.trouble.map_or("", Trouble::name),
            info.takes.name(),
        ];
        let answer = caller.ask("register", &arguments.map(str::as_bytes)).await?;
        match answer.word(0) {
            Some("ok") => Ok(()),
            Some("taken") => {
                let address = answer.word(1).unwrap_or_default().into();
                let heard_ago = Duration::from_millis(answer.number(2).unwrap_or(0));
                Err(BrokerError::NameTaken { node: info.node.clone(), address, heard_ago })
            }
            _ => Err(self.garbled("register")),
        }
    }

    async fn heartbeat(&self) -> Result<Registered, BrokerError> {
        self.shared.caller.beat().await?;
        self.heard_lately().ok_or_else(|| self.garbled("heartbeat"))
    }

    fn note_load(&self, load_percent: u32) {
        self.shared.caller.pulse.load_percent.store(load_percent, Ordering::Relaxed);
    }

    fn heard_lately(&self) -> Option<Registered> {
        self.shared.caller.pulse.heard_lately(Instant::now())
    }

    async fn leave(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.say("leave", vec![node.to_string()]).await.map(drop)
    }

    async fn list(&self) -> Result<(Vec<NodeState>, Vec<PastNode>), BrokerError> {
        match self.shared.caller.call("nodes", &[]).await? {
            Value::List(lines) => Ok(nodes::read(&lines)),
            _ => Err(self.garbled("nodes")),
        }
    }

    async fn submit(&self, submit: &Submit) -> Result<Submitted, BrokerError> {
        let Submit { walk, after, uid, .. } = submit;
        let only = optional(submit.only.as_ref());
        let (avoid, prefer) = (list(&submit.avoid), preferred(submit));
        let (after, uid) = (after.0.to_string(), uid.to_string());
        let arguments = vec![walk.to_string(), after, uid, only, avoid, prefer];
        let answer = self.say("submit", arguments).await?;
        answer.submitted().ok_or_else(|| self.garbled("submit"))
    }

    async fn retry(
        &self,
        walk: WalkId,
        attempt: Attempt,
        avoid: Option<&NodeId>,
    ) -> Result<Retried, BrokerError> {
        let arguments = vec![walk.to_string(), attempt.0.to_string(), optional(avoid)];
        let answer = self.say("retry", arguments).await?;
        if answer.word(0) == Some("unknown") {
            return Ok(Retried::NotNeeded);
        }
        let submitted = answer.submitted().map(Retried::Submitted);
        submitted.ok_or_else(|| self.garbled("retry"))
    }

    async fn finish(
        &self,
        walk: WalkId,
        node: &NodeId,
        attempt: Attempt,
    ) -> Result<Finished, BrokerError> {
        let arguments = vec![walk.to_string(), node.to_string(), attempt.0.to_string()];
        let answer = self.say("finish", arguments).await?;
        answer.finished().ok_or_else(|| self.garbled("finish"))
    }

    async fn cancel(&self, walk: WalkId) -> Result<bool, BrokerError> {
        let answer = self.say("cancel", vec![walk.to_string()]).await?;
        Ok(answer.word(0) == Some("ok"))
    }

    async fn cancel_session(&self, session: SessionId) -> Result<(), BrokerError> {
        let session = session.to_string();
        while self.say("cancel-session", vec![session.clone()]).await?.word(0) == Some("more") {}
        Ok(())
    }

    async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.say("reap-node", vec![node.to_string()]).await.map(drop)
    }
}

fn parse(url: &str, shown: &str) -> Result<Address, BrokerError> {
    if url::is_unescaped(url) {
        return Err(BrokerError::Unescaped { url: shown.to_owned() });
    }
    Address::parse(url).map_err(|source| BrokerError::Url { url: shown.to_owned(), source })
}

/// Returns why the first connection failed.
fn not_connected(source: WireError, shown: &str) -> BrokerError {
    let url = shown.to_owned();
    match source {
        error if error.is_denied() => BrokerError::Denied { url },
        error if error.is_too_old() => BrokerError::TooOld { url },
        source if source.is_protected() => BrokerError::Protected { url, source },
        source => BrokerError::Unreachable { url, source },
    }
}

fn optional(node: Option<&NodeId>) -> String {
    node.map_or_else(String::new, NodeId::to_string)
}

/// Returns the nodes to prefer, those that are near first and marked.
fn preferred(submit: &Submit) -> String {
    let near = submit.near.iter().map(|node| format!("+{node}"));
    near.chain(submit.prefer.iter().map(NodeId::to_string)).collect::<Vec<_>>().join(",")
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",")
}
