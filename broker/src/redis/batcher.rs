//! Batches an agent's commands ("words"). While few calls are under way, a word is sent at once, otherwise together
//! with all others that are waiting by then.
//!
//! No word waits for a batch to fill: a batch is what accumulated while other calls were under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::answer::Answer;
use super::caller::{AWAY_MAX, Caller};
use super::word::Word;
use crate::error::BrokerError;

/// Most calls under way at once: while Redis works on one, the reply to the other is read.
const CALLS_MAX: usize = 2;
/// Most words in a call, so that it blocks other agents for a few milliseconds at most.
const WORDS_MAX: usize = 128;

/// Shared by all clones of a [`crate::Broker`]. Its task ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Batcher {
    /// callers --waiting words--> task. Unbounded: each caller waits for its answer.
    waiting_tx: mpsc::UnboundedSender<Waiting>,
    shared: Arc<Shared>,
}

/// A waiting word.
#[derive(Debug)]
struct Waiting {
    word: Word,
    deadline: Instant,
    answer_tx: oneshot::Sender<Result<Answer, BrokerError>>,
}

#[derive(Debug)]
struct Shared {
    caller: Arc<Caller>,
    /// A permit for each call that may be under way.
    calls: Semaphore,
    /// Number of waiting words. While there are some, later words must not overtake them.
    waiting: AtomicUsize,
}

impl Batcher {
    pub(crate) fn start(caller: Arc<Caller>) -> Self {
        let (waiting_tx, waiting_rx) = mpsc::unbounded_channel();
        let calls = Semaphore::new(CALLS_MAX);
        let shared = Arc::new(Shared { caller, calls, waiting: AtomicUsize::new(0) });
        tokio::spawn(Arc::clone(&shared).run(waiting_rx));
        Self { waiting_tx, shared }
    }

    /// Sends a word, and waits for the answer.
    pub(crate) async fn say(&self, word: Word) -> Result<Answer, BrokerError> {
        let deadline = Instant::now() + AWAY_MAX;
        let shared = &self.shared;
        if shared.waiting.load(Ordering::Acquire) == 0
            && let Ok(_permit) = shared.calls.try_acquire()
        {
            let mut answers = shared.caller.say(&[&word], deadline).await?;
            return answers.pop().expect("the caller returns an answer to each word");
        }
        let (answer_tx, answer_rx) = oneshot::channel();
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        if self.waiting_tx.send(Waiting { word, deadline, answer_tx }).is_err() {
            return Err(shared.caller.away());
        }
        answer_rx.await.unwrap_or_else(|_| Err(shared.caller.away()))
    }
}

impl Shared {
    async fn run(self: Arc<Self>, mut waiting_rx: mpsc::UnboundedReceiver<Waiting>) {
        while let Some(first) = waiting_rx.recv().await {
            let permit = self.calls.acquire().await.expect("the semaphore is never closed");
            permit.forget();
            let mut batch = vec![first];
            while batch.len() < WORDS_MAX
                && let Ok(next) = waiting_rx.try_recv()
            {
                batch.push(next);
            }
            tokio::spawn(Arc::clone(&self).send(batch));
        }
    }

    /// Sends a batch in one call, and distributes the answers.
    async fn send(self: Arc<Self>, batch: Vec<Waiting>) {
        let _permit = Permit(&self.calls);
        let words: Vec<&Word> = batch.iter().map(|waiting| &waiting.word).collect();
        self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
        let answers = self.caller.say(&words, batch[0].deadline).await;
        // Fails if the caller has given up.
        match answers {
            Ok(answers) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    let _ = waiting.answer_tx.send(answer);
                }
            }
            Err(error) => {
                for waiting in batch {
                    let _ = waiting.answer_tx.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Gives back a forgotten permit.
struct Permit<'a>(&'a Semaphore);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}
