//! The way to Redis and back: sends calls, once more when the connection broke meanwhile, and reads
//! what the functions reply.

use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use worknode::id::NodeId;

use crate::courier::Word;
use crate::error::BrokerError;
use crate::keeper::Line;
use crate::model::{Event, Registered, Submitted};
use crate::note;
use crate::pulse::Pulse;
use crate::wire::{Call, Value, WireError};

/// Texts of a heartbeat in a call.
const HEARTBEAT_TEXTS: usize = 4;

#[derive(Debug)]
pub(crate) struct Office {
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

impl Office {
    /// Says everything in one call, and the node's heartbeat with it if that is due. An error is that
    /// of the call; each word has a result of its own.
    pub(crate) async fn say(
        &self,
        words: &[&Word],
        deadline: Instant,
    ) -> Result<Vec<Result<Answer, BrokerError>>, BrokerError> {
        let mut texts = Vec::with_capacity(words.len() * 6 + HEARTBEAT_TEXTS);
        for word in words {
            texts.push(word.kind.as_bytes());
            texts.extend(word.words.iter().map(String::as_bytes));
        }
        let beats = words.is_empty() || self.pulse.is_due(Instant::now());
        if beats {
            let Self { node, pulse, .. } = self;
            let heartbeat = ["heartbeat", node.as_str(), &pulse.incarnation, "reap"];
            texts.extend(heartbeat.map(str::as_bytes));
        }
        let reply = self.send(self.plain("say", &texts), deadline).await?;
        let garbled = || self.garbled(words.first().map_or("heartbeat", |word| word.kind));
        let text = String::from_utf8(reply.bytes().ok_or_else(garbled)?).map_err(|_| garbled())?;
        let mut lines = text.split('\n');
        let results: Vec<_> = lines.by_ref().take(words.len()).collect();
        if results.len() < words.len() {
            return Err(garbled());
        }
        if beats {
            // One that failed is said again soon, and is no reason for the others to fail.
            if let Some(registered) = registered(lines.next().ok_or_else(garbled)?) {
                self.pulse.hear(registered, Instant::now());
            }
            // Who was buried is nobody's concern here: the list of nodes is another one then.
            lines.next().ok_or_else(garbled)?;
        }
        self.deliver(lines).ok_or_else(garbled)?;
        let answers = results.into_iter().zip(words).map(|(result, word)| {
            match result.strip_prefix("error ") {
                None => Ok(Answer { text: result.to_owned() }),
                Some(said) => Err(self.refused(word.kind, WireError::said(said))),
            }
        });
        Ok(answers.collect())
    }

    /// Calls a function that replies with one result, and notes.
    pub(crate) async fn ask(
        &self,
        function: &'static str,
        arguments: &[&[u8]],
        deadline: Instant,
    ) -> Result<Answer, BrokerError> {
        let garbled = || self.garbled(function);
        let reply = self.send(self.plain(function, arguments), deadline).await?;
        let text = String::from_utf8(reply.bytes().ok_or_else(garbled)?).map_err(|_| garbled())?;
        let mut lines = text.split('\n');
        let result = lines.next().ok_or_else(garbled)?.to_owned();
        self.deliver(lines).ok_or_else(garbled)?;
        Ok(Answer { text: result })
    }

    pub(crate) fn plain<'a>(
        &'a self,
        function: &'static str,
        arguments: &'a [&'a [u8]],
    ) -> Call<'a> {
        let Self { key, node, .. } = self;
        Call { function, cell: key, caller: node.as_str(), arguments }
    }

    /// Sends a call, and sends it once more when the connection broke meanwhile: everything may be
    /// said twice.
    pub(crate) async fn send(
        &self,
        call: Call<'_>,
        deadline: Instant,
    ) -> Result<Value, BrokerError> {
        loop {
            let line = self.line(deadline).await?;
            match line.wire.call(&call).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_loss() => {
                    line.broken.notify_one();
                    self.gone(&line, deadline).await?;
                }
                Err(source) => return Err(self.refused(call.function, source)),
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

    /// Waits until the keeper has taken a broken connection away.
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

    /// Hands notes to the agent; nothing if another version wrote one.
    fn deliver<'a>(&self, notes: impl Iterator<Item = &'a str>) -> Option<()> {
        let events: Vec<_> = notes.map(note::parse).collect::<Option<_>>()?;
        for event in events {
            // A closed receiver is an agent that ends.
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

/// Reads what is replied to a heartbeat.
fn registered(result: &str) -> Option<Registered> {
    match result.strip_prefix("ok ") {
        Some(said) => {
            let (list, others_wait) = said.split_once(' ')?;
            Some(Registered::Yes { list: list.parse().ok()?, others_wait: others_wait != "0" })
        }
        None => (result == "unknown").then_some(Registered::No),
    }
}

/// One result: words with spaces between them.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
}

impl Answer {
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.text.split(' ')
    }

    pub(crate) fn word(&self, index: usize) -> Option<&str> {
        self.words().nth(index)
    }

    pub(crate) fn number<T: FromStr>(&self, index: usize) -> Option<T> {
        self.word(index)?.parse().ok()
    }

    /// Returns what follows the first word, if anything does.
    pub(crate) fn rest(&self) -> Option<&str> {
        self.text.split_once(' ').map(|(_, rest)| rest)
    }

    pub(crate) fn submitted(&self) -> Option<Submitted> {
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
