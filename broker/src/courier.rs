//! Carries what an agent has to say to the broker: at once while few calls are on their way, otherwise
//! together with all else that waits then, in one call.
//!
//! Nobody waits for company: what is said together is what was said while others were on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::error::BrokerError;
use crate::office::{Answer, Office};

/// How long a call waits for a broken connection to come back: a Redis that was killed is there
/// again after 0.1 s.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(1);
/// Calls on their way at once: while Redis works on one, the answers of the other are heard.
const CALLS_MAX: usize = 2;
/// Words in a call: it must not keep others waiting for more than a few milliseconds.
const WORDS_MAX: usize = 128;

/// One thing that is said.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) kind: &'static str,
    /// The words that belong to it, as many as it always has.
    pub(crate) words: Vec<String>,
}

/// What waits to be said.
#[derive(Debug)]
struct Letter {
    word: Word,
    deadline: Instant,
    answer_tx: oneshot::Sender<Result<Answer, BrokerError>>,
}

/// Who is spoken to by all clones of a [`crate::Broker`]. The task that carries the letters ends when
/// it is dropped.
#[derive(Debug)]
pub(crate) struct Courier {
    /// callers --letters--> courier. Unbounded: each caller waits for its answer.
    letters_tx: mpsc::UnboundedSender<Letter>,
    road: Arc<Road>,
}

#[derive(Debug)]
struct Road {
    office: Arc<Office>,
    /// A permit for each call that may be on its way.
    calls: Semaphore,
    /// Letters that are not on their way yet: nobody overtakes them.
    waiting: AtomicUsize,
}

impl Courier {
    pub(crate) fn start(office: Arc<Office>) -> Self {
        let (letters_tx, letters_rx) = mpsc::unbounded_channel();
        let calls = Semaphore::new(CALLS_MAX);
        let road = Arc::new(Road { office, calls, waiting: AtomicUsize::new(0) });
        tokio::spawn(Arc::clone(&road).run(letters_rx));
        Self { letters_tx, road }
    }

    /// Says something, and waits for the answer.
    pub(crate) async fn say(&self, word: Word) -> Result<Answer, BrokerError> {
        let deadline = Instant::now() + AWAY_MAX;
        if self.road.waiting.load(Ordering::Acquire) == 0
            && let Ok(_permit) = self.road.calls.try_acquire()
        {
            let mut answers = self.road.office.say(&[&word], deadline).await?;
            return answers.pop().expect("an answer to each word: checked by the office");
        }
        let (answer_tx, answer_rx) = oneshot::channel();
        self.road.waiting.fetch_add(1, Ordering::AcqRel);
        let letter = Letter { word, deadline, answer_tx };
        if self.letters_tx.send(letter).is_err() {
            return Err(self.road.office.away());
        }
        answer_rx.await.unwrap_or_else(|_| Err(self.road.office.away()))
    }
}

impl Road {
    async fn run(self: Arc<Self>, mut letters_rx: mpsc::UnboundedReceiver<Letter>) {
        while let Some(first) = letters_rx.recv().await {
            let permit = self.calls.acquire().await.expect("the semaphore is never closed");
            permit.forget();
            let mut letters = vec![first];
            while letters.len() < WORDS_MAX
                && let Ok(letter) = letters_rx.try_recv()
            {
                letters.push(letter);
            }
            tokio::spawn(Arc::clone(&self).carry(letters));
        }
    }

    /// Takes letters to the office and their answers back.
    async fn carry(self: Arc<Self>, letters: Vec<Letter>) {
        let _permit = Permit(&self.calls);
        let words: Vec<&Word> = letters.iter().map(|letter| &letter.word).collect();
        self.waiting.fetch_sub(letters.len(), Ordering::AcqRel);
        let answers = self.office.say(&words, letters[0].deadline).await;
        // Who does not listen any more has given up.
        match answers {
            Ok(answers) => {
                for (letter, answer) in letters.into_iter().zip(answers) {
                    let _ = letter.answer_tx.send(answer);
                }
            }
            Err(error) => {
                for letter in letters {
                    let _ = letter.answer_tx.send(Err(error.clone()));
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
