//! The broker, as an agent sees it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use crate::courier::{AWAY_MAX, Courier, Word};
use crate::error::BrokerError;
use crate::keeper::Keeper;
use crate::model::{
    Event, Finished, NODES_MAX, NodeInfo, NodeState, PastNode, Registered, Retried, SLOTS_MAX,
    Submit, Submitted, Trouble,
};
use crate::office::{Answer, Office};
use crate::pulse::Pulse;
use crate::wire::{Address, LAYOUT, Value};
use crate::{note, url};

/// A connection to the broker. Clones share it.
#[derive(Debug, Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    office: Arc<Office>,
    host: Option<(String, u16)>,
    courier: Courier,
    /// Aborted when the last clone is dropped; that closes the connection.
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
    /// The URL is none, nobody answers, the password is wrong, or the server is too old.
    pub async fn connect(
        url: &str,
        cell: &str,
        node: &NodeId,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), BrokerError> {
        let shown = worknode::broker_url::without_password(url);
        if url::is_unescaped(url) {
            return Err(BrokerError::Unescaped { url: shown });
        }
        let address = Address::parse(url)
            .map_err(|source| BrokerError::Url { url: shown.clone(), source })?;
        let host = address.host();
        let key = format!("{{{cell}}}{LAYOUT}");
        let (events_tx, events_rx) = mpsc::unbounded_channel();
        let channel = format!("{key}:to:{node}");
        let keeper = Keeper { address, channel, events_tx: events_tx.clone() };
        let line = keeper.open().await.map_err(|source| {
            let url = shown.clone();
            match source {
                error if error.is_denied() => BrokerError::Denied { url },
                error if error.is_too_old() => BrokerError::TooOld { url },
                source if source.is_protected() => BrokerError::Protected { url, source },
                source => BrokerError::Unreachable { url, source },
            }
        })?;
        let (line_tx, line_rx) = watch::channel(Some(line.clone()));
        let keeper = tokio::spawn(keeper.keep(line, line_tx)).abort_handle();
        let incarnation = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let pulse = Pulse::new(incarnation);
        let office = Office { url: shown, key, node: node.clone(), line_rx, pulse, events_tx };
        let office = Arc::new(office);
        let courier = Courier::start(Arc::clone(&office));
        let shared = Shared { office, host, courier, keeper };
        Ok((Self { shared: Arc::new(shared) }, events_rx))
    }

    /// Returns the broker's URL without its password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.office.url
    }

    /// Returns host and port of the broker, if it is reached over the network.
    #[must_use]
    pub fn host(&self) -> Option<(&str, u16)> {
        self.shared.host.as_ref().map(|(host, port)| (host.as_str(), *port))
    }

    /// Tells whether the connection stands.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.office.line_rx.borrow().is_some()
    }

    /// Enters a node, or changes what it said of itself. Walks that an earlier agent of this name
    /// ran are placed anew, those it was the origin of are cancelled.
    ///
    /// # Errors
    /// The broker is away, or a living agent elsewhere has the name.
    pub async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError> {
        let (slots, address) = (info.slots.to_string(), info.address.to_string());
        let arguments = [
            info.node.as_str(),
            &self.shared.office.pulse.incarnation,
            &address,
            info.version.as_str(),
            &slots,
            info.cpu.as_str(),
            info.trouble.map_or("", Trouble::name),
        ];
        let arguments = arguments.map(str::as_bytes);
        let office = &self.shared.office;
        let answer = office.ask("register", &arguments, deadline()).await?;
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

    /// Extends the lease of this agent's node, and places the walks of nodes whose lease ended anew.
    /// After the first one a heartbeat also goes with what is said anyway (see
    /// [`Broker::heard_lately`]).
    ///
    /// # Errors
    /// The broker is away.
    pub async fn heartbeat(&self) -> Result<Registered, BrokerError> {
        let office = &self.shared.office;
        office.say(&[], deadline()).await?;
        office.pulse.heard_lately(Instant::now()).ok_or_else(|| self.garbled("heartbeat"))
    }

    /// Returns what the last heartbeat said if that is not long ago: then no other is needed yet.
    #[must_use]
    pub fn heard_lately(&self) -> Option<Registered> {
        self.shared.office.pulse.heard_lately(Instant::now())
    }

    /// Takes a node out of the cluster: its walks are placed anew, those it is the origin of are
    /// cancelled.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn leave(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.say("leave", vec![node.to_string()]).await.map(drop)
    }

    /// Returns all nodes of the cell.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn nodes(&self) -> Result<Vec<NodeState>, BrokerError> {
        self.list().await.map(|(nodes, _)| nodes)
    }

    /// Returns all nodes of the cell, and those that have gone, as far as the broker remembers them.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn list(&self) -> Result<(Vec<NodeState>, Vec<PastNode>), BrokerError> {
        let office = &self.shared.office;
        let reply = office.send(office.plain("nodes", &[]), deadline()).await?;
        let Value::List(lines) = reply else { return Err(self.garbled("nodes")) };
        let past: Vec<_> = lines.iter().filter_map(past_node).take(NODES_MAX).collect();
        let nodes: Vec<_> = lines.iter().filter(|line| past_node(line).is_none()).collect();
        let count = nodes.len().min(NODES_MAX);
        // One that says nonsense of itself takes nobody else away.
        let states: Vec<_> = nodes.iter().take(count).filter_map(|line| node_state(line)).collect();
        if states.len() < nodes.len() {
            let left_out = nodes.len() - states.len();
            tracing::warn!(left_out, "the broker lists nodes that make no sense, or too many");
        }
        Ok((states, past))
    }

    /// Places a walk of this origin, or lets it wait for its turn.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn submit(&self, submit: &Submit) -> Result<Submitted, BrokerError> {
        let Submit { walk, after, .. } = submit;
        let only = submit.only.as_ref().map_or_else(String::new, NodeId::to_string);
        let (avoid, prefer) = (list(&submit.avoid), list(&submit.prefer));
        let words = vec![walk.to_string(), after.0.to_string(), only, avoid, prefer];
        let answer = self.say("submit", words).await?;
        answer.submitted().ok_or_else(|| self.garbled("submit"))
    }

    /// Gives up an attempt at a walk of this origin and asks for another, not on `avoid`.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn retry(
        &self,
        walk: WalkId,
        attempt: Attempt,
        avoid: Option<&NodeId>,
    ) -> Result<Retried, BrokerError> {
        let avoid = avoid.map_or_else(String::new, NodeId::to_string);
        let words = vec![walk.to_string(), attempt.0.to_string(), avoid];
        let answer = self.say("retry", words).await?;
        if answer.word(0) == Some("unknown") {
            return Ok(Retried::NotNeeded);
        }
        let submitted = answer.submitted().map(Retried::Submitted);
        submitted.ok_or_else(|| self.garbled("retry"))
    }

    /// Ends a walk: frees its slot, and grants it to the walk whose turn it is.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn finish(
        &self,
        walk: WalkId,
        node: &NodeId,
        attempt: Attempt,
    ) -> Result<Finished, BrokerError> {
        let words = vec![walk.to_string(), node.to_string(), attempt.0.to_string()];
        let answer = self.say("finish", words).await?;
        let finished = match answer.word(0) {
            Some("ok") => match answer.rest().map(note::parse) {
                None => Some(Finished::Done { next: None }),
                Some(Some(Event::Granted(next))) => Some(Finished::Done { next: Some(next) }),
                Some(_) => None,
            },
            Some("fenced") => answer.number(1).map(|newest| Finished::Fenced(Attempt(newest))),
            Some("unknown") => Some(Finished::Unknown),
            _ => None,
        };
        finished.ok_or_else(|| self.garbled("finish"))
    }

    /// Removes a walk, waiting or granted. Returns whether the broker knew it.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn cancel(&self, walk: WalkId) -> Result<bool, BrokerError> {
        let answer = self.say("cancel", vec![walk.to_string()]).await?;
        Ok(answer.word(0) == Some("ok"))
    }

    /// Removes all walks of a session.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn cancel_session(&self, session: SessionId) -> Result<(), BrokerError> {
        let session = session.to_string();
        while self.say("cancel-session", vec![session.clone()]).await?.word(0) == Some("more") {}
        Ok(())
    }

    /// Says that the link to a node broke: this origin's walks there are placed anew at once, and
    /// nobody's are placed there until its next heartbeat.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.say("reap-node", vec![node.to_string()]).await.map(drop)
    }

    async fn say(&self, kind: &'static str, words: Vec<String>) -> Result<Answer, BrokerError> {
        self.shared.courier.say(Word { kind, words }).await
    }

    fn garbled(&self, what: &'static str) -> BrokerError {
        self.shared.office.garbled(what)
    }
}

fn deadline() -> Instant {
    Instant::now() + AWAY_MAX
}

fn node_state(line: &Value) -> Option<NodeState> {
    let Value::List(fields) = line else { return None };
    let text = |index: usize| word(fields.get(index)?);
    Some(NodeState {
        info: NodeInfo {
            node: text(0)?.parse().ok()?,
            address: text(1)?.parse().ok()?,
            version: text(2)?.into(),
            slots: number(fields.get(3)?)?.min(SLOTS_MAX),
            cpu: text(4)?.into(),
            trouble: Trouble::parse(text(7)?),
        },
        running: number(fields.get(5)?)?,
        alive: number(fields.get(6)?)? == 1,
        incarnation: text(8)?.into(),
        heard_ago: age(fields.get(9)),
    })
}

/// Reads the line of a node that has gone.
fn past_node(line: &Value) -> Option<PastNode> {
    let Value::List(fields) = line else { return None };
    let [node, how, ago] = &fields[..] else { return None };
    let left = match word(how)? {
        "left" => true,
        "lost" => false,
        _ => return None,
    };
    Some(PastNode { node: word(node)?.parse().ok()?, left, heard_ago: age(Some(ago)) })
}

/// Reads how many milliseconds ago something was; nonsense is now.
fn age(value: Option<&Value>) -> Duration {
    Duration::from_millis(value.and_then(number).unwrap_or(0).into())
}

fn word(value: &Value) -> Option<&str> {
    match value {
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Int(number) => u32::try_from(*number).ok(),
        Value::Bytes(_) => word(value)?.parse().ok(),
        _ => None,
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",")
}
