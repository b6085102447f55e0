//! Keeps a connection to the broker open, reconnecting whenever it breaks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::note;
use super::wire::{Address, Push, Wire, WireError};
use crate::model::Event;

/// Pauses between attempts to reconnect double from the first to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// A connection, and what is notified when it breaks.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) wire: Wire,
    pub(crate) broken: Arc<Notify>,
}

/// What is needed to open a connection.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) address: Address,
    pub(crate) channel: String,
    /// keeper --events--> agent. Unbounded, because the broker grants each waiting walk once, so there are no more events
    /// than walks that the agent has submitted.
    pub(crate) events_tx: mpsc::UnboundedSender<Event>,
}

impl Keeper {
    pub(crate) async fn open(&self) -> Result<Line, WireError> {
        let broken = Arc::new(Notify::new());
        let (events_tx, bell) = (self.events_tx.clone(), Arc::clone(&broken));
        let on_push = move |push| match push {
            Push::Closed => bell.notify_one(),
            Push::Notes(text) => deliver(&String::from_utf8_lossy(&text), &events_tx),
        };
        Ok(Line { wire: Wire::open(&self.address, &self.channel, on_push).await?, broken })
    }

    /// Runs until the task is aborted.
    pub(crate) async fn keep(self, line: Option<Line>, line_tx: watch::Sender<Option<Line>>) {
        let mut present = line;
        loop {
            if let Some(line) = present {
                line.broken.notified().await;
                line_tx.send_replace(None);
                let _ = self.events_tx.send(Event::Lost);
            }
            let line = self.reopen().await;
            line_tx.send_replace(Some(line.clone()));
            let _ = self.events_tx.send(Event::Back);
            present = Some(line);
        }
    }

    async fn reopen(&self) -> Line {
        let mut pause = BACKOFF_MIN;
        loop {
            match self.open().await {
                Ok(line) => return line,
                Err(error) => tracing::debug!(%error, "the broker is still away"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }
}

/// Delivers the notes of a message to the agent.
fn deliver(text: &str, events_tx: &mpsc::UnboundedSender<Event>) {
    for text in text.split('\n') {
        match note::parse(text) {
            // Fails if the agent is ending.
            Some(event) => drop(events_tx.send(event)),
            None => tracing::warn!(?text, "the broker sent an unknown note"),
        }
    }
}
