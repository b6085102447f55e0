//! Calls the functions in Redis, again if the connection breaks meanwhile, and parses their replies.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use worknode::id::NodeId;

use super::answer::Answer;
use super::keeper::Line;
use super::note;
use super::wire::{Call, Value, WireError};
use super::word::Word;
use crate::error::BrokerError;
use crate::model::Event;
use crate::pulse::Pulse;

/// How long a call waits for a broken connection. A killed private Redis is back after 0.1 s.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(1);
/// Average number of texts in a word, and number in a heartbeat: the initial capacity for a call.
const WORD_TEXTS: usize = 6;
const HEARTBEAT_TEXTS: usize = 4;

/// What the calls of an agent share.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Without its password.
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) node: NodeId,
    /// keeper --line--> calls
    pub(crate) line_rx: watch::Receiver<Option<Line>>,
    pub(crate) pulse: Pulse,
    /// calls --events--> agent
    pub(crate) events_tx: mpsc::UnboundedSender<Event>,
}

impl Caller {
    /// Sends all words in one call, with the node's heartbeat if it is due or there are no words. An error concerns the
    /// whole call; each word has its own result.
    pub(crate) async fn say(
        &self,
        words: &[&Word],
        deadline: Instant,
    ) -> Result<Vec<Result<Answer, BrokerError>>, BrokerError> {
        let mut texts = Vec::with_capacity(words.len() * WORD_TEXTS + HEARTBEAT_TEXTS);
        for word in words {
            texts.push(word.kind.as_bytes());
            texts.extend(word.arguments.iter().map(String::as_bytes));
        }
        let load = self.pulse.load_percent.load(Ordering::Relaxed).to_string();
        let beats = words.is_empty() || self.pulse.is_due(Instant::now());
        if beats {
            let Self { node, pulse, .. } = self;
            let heartbeat = ["heartbeat", node.as_str(), &pulse.incarnation, &load, "reap"];
            texts.extend(heartbeat.map(str::as_bytes));
        }
        let reply = self.send("say", &texts, deadline).await?;
        self.read(&reply, words, beats)
            .ok_or_else(|| self.garbled(words.first().map_or("heartbeat", |word| word.kind)))
    }

    /// Sends a heartbeat alone.
    pub(crate) async fn beat(&self) -> Result<(), BrokerError> {
        self.say(&[], Instant::now() + AWAY_MAX).await.map(drop)
    }

    /// Calls a function that replies with one result, and notes.
    pub(crate) async fn ask(
        &self,
        function: &'static str,
        arguments: &[&[u8]],
    ) -> Result<Answer, BrokerError> {
        let reply = self.call(function, arguments).await?;
        let read = || {
            let mut lines = text(&reply)?.split('\n');
            let result = lines.next()?;
            self.deliver(lines)?;
            Some(Answer::new(result))
        };
        read().ok_or_else(|| self.garbled(function))
    }

    /// Calls a function.
    pub(crate) async fn call(
        &self,
        function: &'static str,
        arguments: &[&[u8]],
    ) -> Result<Value, BrokerError> {
        self.send(function, arguments, Instant::now() + AWAY_MAX).await
    }

    /// Reads a reply: a line for each word, two for a heartbeat and its reaping, then notes. Returns
    /// nothing if another version wrote it.
    fn read(
        &self,
        reply: &Value,
        words: &[&Word],
        beats: bool,
    ) -> Option<Vec<Result<Answer, BrokerError>>> {
        let mut lines = text(reply)?.split('\n');
        let results: Vec<_> = lines.by_ref().take(words.len()).collect();
        if results.len() < words.len() {
            return None;
        }
        if beats {
            // A failed heartbeat is repeated soon, and must not make the words fail.
            if let Some(registered) = Answer::new(lines.next()?).registered() {
                self.pulse.hear(registered, Instant::now());
            }
            // The buried nodes are ignored, because the list of nodes gets a new version.
            lines.next()?;
        }
        self.deliver(lines)?;
        let answers = results.into_iter().zip(words).map(|(result, word)| {
            match result.strip_prefix("error ") {
                None => Ok(Answer::new(result)),
                Some(said) => Err(self.refused(word.kind, WireError::said(said))),
            }
        });
        Some(answers.collect())
    }

    /// Sends a call, again whenever the connection breaks meanwhile, since all calls are idempotent.
    async fn send(
        &self,
        function: &'static str,
        arguments: &[&[u8]],
        deadline: Instant,
    ) -> Result<Value, BrokerError> {
        let call = Call { function, cell: &self.key, caller: self.node.as_str(), arguments };
        loop {
            let line = self.line(deadline).await?;
            match line.wire.call(&call).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_loss() => {
                    line.broken.notify_one();
                    self.gone(&line, deadline).await?;
                }
                Err(source) => return Err(self.refused(function, source)),
            }
        }
    }

    /// Returns the connection, waiting for it until the deadline.
    async fn line(&self, deadline: Instant) -> Result<Line, BrokerError> {
        if let Some(line) = self.line_rx.borrow().as_ref() {
            return Ok(line.clone());
        }
        let mut line_rx = self.line_rx.clone();
        match timeout_at(deadline, line_rx.wait_for(Option::is_some)).await {
            Ok(Ok(line)) => Ok(line.clone().expect("waited for a line")),
            _ => Err(self.away()),
        }
    }

    /// Waits until the keeper has replaced a broken connection.
    async fn gone(&self, broken: &Line, deadline: Instant) -> Result<(), BrokerError> {
        let mut line_rx = self.line_rx.clone();
        let replaced = |line: &Option<Line>| {
            line.as_ref().is_none_or(|line| !Arc::ptr_eq(&line.broken, &broken.broken))
        };
        match timeout_at(deadline, line_rx.wait_for(replaced)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.away()),
        }
    }

    /// Delivers notes to the agent; none of them if one is from another version.
    fn deliver<'a>(&self, notes: impl Iterator<Item = &'a str>) -> Option<()> {
        let events: Vec<_> = notes.map(note::parse).collect::<Option<_>>()?;
        for event in events {
            // Fails if the agent is ending.
            let _ = self.events_tx.send(event);
        }
        Some(())
    }

    pub(crate) fn away(&self) -> BrokerError {
        BrokerError::Away { url: self.url.clone() }
    }

    pub(crate) fn garbled(&self, function: &'static str) -> BrokerError {
        BrokerError::Garbled { url: self.url.clone(), function }
    }

    fn refused(&self, function: &'static str, source: WireError) -> BrokerError {
        BrokerError::Refused { url: self.url.clone(), function, source }
    }
}

fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}
