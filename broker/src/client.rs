//! The broker, as an agent sees it.

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use crate::error::BrokerError;
use crate::keeper::{Keeper, Line};
use crate::model::{Event, Finished, NodeInfo, NodeState, Registered, Retried, Submit, Submitted};
use crate::wire::{Address, Call, Value};
use crate::{note, url};

/// How long a call waits for a broken connection to come back: a Redis that was killed is there
/// again after 0.1 s.
const AWAY_MAX: Duration = Duration::from_secs(1);
/// Part of every key, raised when the functions read their keys in another way: those of an
/// earlier version in the log of a private server are not met again.
const LAYOUT: u32 = 2;

/// A connection to the broker. Clones share it.
#[derive(Debug, Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    key: String,
    node: NodeId,
    /// Tells this agent from an earlier one of the same name.
    incarnation: String,
    /// keeper --line--> calls
    line_rx: watch::Receiver<Option<Line>>,
    /// calls --events--> agent
    events_tx: mpsc::UnboundedSender<Event>,
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
        let shown = url::without_password(url);
        let address = Address::parse(url)
            .map_err(|source| BrokerError::Url { url: shown.clone(), source })?;
        let key = format!("{{{cell}}}{LAYOUT}");
        let (events_tx, events_rx) = mpsc::unbounded_channel();
        let channel = format!("{key}:to:{node}");
        let keeper = Keeper { address, channel, events_tx: events_tx.clone() };
        let line = keeper.open().await.map_err(|source| {
            let url = shown.clone();
            match source {
                error if error.is_denied() => BrokerError::Denied { url },
                error if error.is_too_old() => BrokerError::TooOld { url },
                source => BrokerError::Unreachable { url, source },
            }
        })?;
        let (line_tx, line_rx) = watch::channel(Some(line.clone()));
        let keeper = tokio::spawn(keeper.keep(line, line_tx)).abort_handle();
        let incarnation = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let node = node.clone();
        let shared = Shared { url: shown, key, node, incarnation, line_rx, events_tx, keeper };
        Ok((Self { shared: Arc::new(shared) }, events_rx))
    }

    /// Returns the broker's URL without its password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Tells whether the connection stands.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.line_rx.borrow().is_some()
    }

    /// Enters a node, or changes what it said of itself. Walks that an earlier agent of this name
    /// ran are placed anew, those it was the origin of are cancelled.
    ///
    /// # Errors
    /// The broker is away, or a living agent elsewhere has the name.
    pub async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError> {
        let slots = info.slots.to_string();
        let answer = self
            .call(
                "oswalk_register",
                &[
                    info.node.as_str().as_bytes(),
                    self.shared.incarnation.as_bytes(),
                    info.address.as_bytes(),
                    info.version.as_bytes(),
                    slots.as_bytes(),
                    info.cpu.as_bytes(),
                ],
            )
            .await?;
        match answer.word(0) {
            Some("ok") => Ok(()),
            Some("taken") => {
                let address = answer.word(1).unwrap_or_default().to_owned();
                Err(BrokerError::NameTaken { node: info.node.clone(), address })
            }
            _ => Err(self.garbled("oswalk_register")),
        }
    }

    /// Extends the node's lease.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn heartbeat(&self, node: &NodeId) -> Result<Registered, BrokerError> {
        let arguments = [node.as_str().as_bytes(), self.shared.incarnation.as_bytes()];
        match self.call("oswalk_heartbeat", &arguments).await?.word(0) {
            Some("ok") => Ok(Registered::Yes),
            Some("unknown") => Ok(Registered::No),
            _ => Err(self.garbled("oswalk_heartbeat")),
        }
    }

    /// Takes a node out of the cluster: its walks are placed anew, those it is the origin of are
    /// cancelled.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn leave(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.call("oswalk_leave", &[node.as_str().as_bytes()]).await.map(drop)
    }

    /// Returns all nodes of the cell.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn nodes(&self) -> Result<Vec<NodeState>, BrokerError> {
        let nodes = match self.send(self.plain("oswalk_nodes", &[])).await? {
            Value::List(lines) => lines.iter().map(node_state).collect(),
            _ => None,
        };
        nodes.ok_or_else(|| self.garbled("oswalk_nodes"))
    }

    /// Stores a walk of this origin and places it, or lets it wait for its turn.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn submit(&self, submit: &Submit) -> Result<Submitted, BrokerError> {
        let function = "oswalk_submit";
        let (walk, after) = (submit.walk.to_string(), submit.after.0.to_string());
        let only = submit.only.as_ref().map_or("", NodeId::as_str);
        let (avoid, prefer) = (list(&submit.avoid), list(&submit.prefer));
        let arguments = [&walk, &after, only, &avoid, &prefer].map(str::as_bytes);
        let spec_key = format!("{}:spec:{walk}", self.shared.key);
        let spec = Some((spec_key, &submit.spec[..]));
        let reply = self.send(Call { spec, ..self.plain(function, &arguments) }).await?;
        let (answer, events) = Answer::read(reply).ok_or_else(|| self.garbled(function))?;
        self.deliver(events);
        answer.submitted().ok_or_else(|| self.garbled(function))
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
        let (walk, attempt) = (walk.to_string(), attempt.0.to_string());
        let avoid = avoid.map_or("", NodeId::as_str);
        let arguments = [walk.as_bytes(), attempt.as_bytes(), avoid.as_bytes()];
        let answer = self.call("oswalk_retry", &arguments).await?;
        if answer.word(0) == Some("unknown") {
            return Ok(Retried::NotNeeded);
        }
        let submitted = answer.submitted().map(Retried::Submitted);
        submitted.ok_or_else(|| self.garbled("oswalk_retry"))
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
        let (walk, attempt) = (walk.to_string(), attempt.0.to_string());
        let arguments = [walk.as_bytes(), node.as_str().as_bytes(), attempt.as_bytes()];
        let (answer, mut events) = self.ask("oswalk_finish", &arguments).await?;
        let next = match events.first() {
            Some(Event::Granted(_)) => match events.remove(0) {
                Event::Granted(grant) => Some(grant),
                _ => None,
            },
            _ => None,
        };
        self.deliver(events);
        let finished = match answer.word(0) {
            Some("ok") => Some(Finished::Done { next }),
            Some("fenced") => answer.number(1).map(|newest| Finished::Fenced(Attempt(newest))),
            Some("unknown") => Some(Finished::Unknown),
            _ => None,
        };
        finished.ok_or_else(|| self.garbled("oswalk_finish"))
    }

    /// Removes a walk, waiting or granted. Returns whether the broker knew it.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn cancel(&self, walk: WalkId) -> Result<bool, BrokerError> {
        let answer = self.call("oswalk_cancel", &[walk.to_string().as_bytes()]).await?;
        Ok(answer.word(0) == Some("ok"))
    }

    /// Removes all walks of a session.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn cancel_session(&self, session: SessionId) -> Result<(), BrokerError> {
        let session = session.to_string();
        while self.call("oswalk_cancel_session", &[session.as_bytes()]).await?.word(0)
            == Some("more")
        {}
        Ok(())
    }

    /// Places the walks of nodes whose lease ended anew, and returns these nodes. Every agent calls
    /// this five times a second; who comes first does the work.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn reap(&self) -> Result<Vec<NodeId>, BrokerError> {
        let answer = self.call("oswalk_reap", &[]).await?;
        let nodes: Result<_, _> = answer.words().skip(1).map(str::parse).collect();
        nodes.map_err(|_| self.garbled("oswalk_reap"))
    }

    /// Says that the link to a node broke: this origin's walks there are placed anew at once, and
    /// nobody's are placed there until its next heartbeat.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.call("oswalk_reap_node", &[node.as_str().as_bytes()]).await.map(drop)
    }

    /// Returns the stored spec of a walk, if the broker knows the walk.
    ///
    /// # Errors
    /// The broker is away.
    pub async fn spec(&self, walk: WalkId) -> Result<Option<Vec<u8>>, BrokerError> {
        let walk = walk.to_string();
        Ok(match self.send(self.plain("oswalk_spec", &[walk.as_bytes()])).await? {
            Value::Bytes(spec) => Some(spec),
            _ => None,
        })
    }

    /// Calls a function and hands what it notes to the agent as events.
    async fn call(
        &self,
        function: &'static str,
        arguments: &[&[u8]],
    ) -> Result<Answer, BrokerError> {
        let (answer, events) = self.ask(function, arguments).await?;
        self.deliver(events);
        Ok(answer)
    }

    async fn ask(
        &self,
        function: &'static str,
        arguments: &[&[u8]],
    ) -> Result<(Answer, Vec<Event>), BrokerError> {
        let reply = self.send(self.plain(function, arguments)).await?;
        Answer::read(reply).ok_or_else(|| self.garbled(function))
    }

    fn plain<'a>(&'a self, function: &'static str, arguments: &'a [&'a [u8]]) -> Call<'a> {
        let Shared { key, node, .. } = &*self.shared;
        Call { function, cell: key, caller: node.as_str(), arguments, spec: None }
    }

    /// Sends a call, and sends it once more when the connection broke meanwhile: all functions may
    /// be called twice.
    async fn send(&self, call: Call<'_>) -> Result<Value, BrokerError> {
        let deadline = Instant::now() + AWAY_MAX;
        loop {
            let line = self.line(deadline).await?;
            match line.wire.call(&call).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_loss() => {
                    line.broken.notify_one();
                    self.gone(&line, deadline).await?;
                }
                Err(source) => {
                    let (url, function) = (self.shared.url.clone(), call.function);
                    return Err(BrokerError::Refused { url, function, source });
                }
            }
        }
    }

    /// Returns the connection, waiting for it until the deadline.
    async fn line(&self, deadline: Instant) -> Result<Line, BrokerError> {
        if let Some(line) = self.shared.line_rx.borrow().as_ref() {
            return Ok(line.clone());
        }
        let mut line_rx = self.shared.line_rx.clone();
        match timeout_at(deadline, line_rx.wait_for(Option::is_some)).await {
            Ok(Ok(line)) => Ok(line.clone().expect("waited for a line")),
            _ => Err(self.away()),
        }
    }

    /// Waits until the keeper has taken a broken connection away.
    async fn gone(&self, broken: &Line, deadline: Instant) -> Result<(), BrokerError> {
        let mut line_rx = self.shared.line_rx.clone();
        let replaced = |line: &Option<Line>| {
            line.as_ref().is_none_or(|line| !Arc::ptr_eq(&line.broken, &broken.broken))
        };
        match timeout_at(deadline, line_rx.wait_for(replaced)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.away()),
        }
    }

    fn deliver(&self, events: Vec<Event>) {
        for event in events {
            // A closed receiver is an agent that ends.
            let _ = self.shared.events_tx.send(event);
        }
    }

    fn away(&self) -> BrokerError {
        BrokerError::Away { url: self.shared.url.clone() }
    }

    fn garbled(&self, function: &'static str) -> BrokerError {
        BrokerError::Garbled { url: self.shared.url.clone(), function }
    }
}

/// What a function answered: the words of its first line.
struct Answer {
    text: String,
}

impl Answer {
    /// Splits a reply into the answer and the events of its notes.
    fn read(reply: Value) -> Option<(Self, Vec<Event>)> {
        let Value::Bytes(bytes) = reply else { return None };
        let mut text = String::from_utf8(bytes).ok()?;
        let mut events = Vec::new();
        if let Some(end) = text.find('\n') {
            let notes = text[end + 1..].split('\n');
            events = notes.map(note::parse).collect::<Option<_>>()?;
            text.truncate(end);
        }
        Some((Self { text }, events))
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.text.split(' ')
    }

    fn word(&self, index: usize) -> Option<&str> {
        self.words().nth(index)
    }

    fn number<T: FromStr>(&self, index: usize) -> Option<T> {
        self.word(index)?.parse().ok()
    }

    fn submitted(&self) -> Option<Submitted> {
        Some(match self.word(0)? {
            "g" => match note::parse(&self.text)? {
                Event::Granted(grant) => Submitted::Granted(grant),
                _ => return None,
            },
            "q" => Submitted::Queued(self.number(1)?),
            "busy" => Submitted::Busy,
            "x" => Submitted::Exhausted,
            _ => return None,
        })
    }
}

fn node_state(line: &Value) -> Option<NodeState> {
    let Value::List(fields) = line else { return None };
    let text = |index: usize| word(fields.get(index)?).map(str::to_owned);
    Some(NodeState {
        info: NodeInfo {
            node: text(0)?.parse().ok()?,
            address: text(1)?,
            version: text(2)?,
            slots: number(fields.get(3)?)?,
            cpu: text(4)?,
        },
        running: number(fields.get(5)?)?,
        alive: number(fields.get(6)?)? == 1,
    })
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
