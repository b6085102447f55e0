//! One result in a reply of the functions.

use std::str::FromStr;

use worknode::id::Attempt;

use super::note;
use crate::model::{Event, Finished, Registered, Submitted};

/// Words separated by spaces. Its readers return nothing for what this version does not understand.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
}

impl Answer {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned() }
    }

    pub(crate) fn word(&self, index: usize) -> Option<&str> {
        self.text.split(' ').nth(index)
    }

    pub(crate) fn number<T: FromStr>(&self, index: usize) -> Option<T> {
        self.word(index)?.parse().ok()
    }

    /// Returns what follows the first word, if anything does.
    fn rest(&self) -> Option<&str> {
        self.text.split_once(' ').map(|(_, rest)| rest)
    }

    /// Reads the answer to a submission.
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

    /// Reads the answer to the end of a walk.
    pub(crate) fn finished(&self) -> Option<Finished> {
        match self.word(0)? {
            "ok" => match self.rest().map(note::parse) {
                None => Some(Finished::Done { next: None }),
                Some(Some(Event::Granted(next))) => Some(Finished::Done { next: Some(next) }),
                Some(_) => None,
            },
            "fenced" => self.number(1).map(|newest| Finished::Fenced(Attempt(newest))),
            "unknown" => Some(Finished::Unknown),
            _ => None,
        }
    }

    /// Reads the answer to a heartbeat.
    pub(crate) fn registered(&self) -> Option<Registered> {
        match self.word(0)? {
            "ok" => {
                Some(Registered::Yes { list: self.number(1)?, others_wait: self.word(2)? != "0" })
            }
            "unknown" => Some(Registered::No),
            _ => None,
        }
    }
}
