//! Events that have arrived: into the log of their author, then to the tables, unless they are from the future.

use worknode::history::Event;

use super::super::changes::{ms, now};
use super::super::error::VolumeError;
use super::super::model::Shared;
use super::batch::{Batch, Refused};
use super::foreign::{Foreign, Handed};
use crate::log::Unfit;

/// Events that are handed to the tables at once, while programs wait.
const AT_ONCE: usize = 512;

impl Shared {
    /// Takes in a batch. Returns how many of its events were new.
    pub(super) fn learn(&self, batch: &Batch) -> Result<u64, Refused> {
        if batch.author() == self.author {
            let is_news = batch.feed.covers() > self.log.last().0;
            return if is_news { Err(Refused::Own) } else { Err(Unfit::Known.into()) };
        }
        let foreign = self.foreign.of(&batch.statement)?;
        if foreign.is_forked() {
            return Err(Refused::Quarantined);
        }
        let mut handed = foreign.handed();
        let key = &foreign.statement.events;
        let extended = foreign.log.extend(&batch.feed, foreign.author, key);
        let events = match extended.map_err(VolumeError::from)? {
            Ok(events) => events,
            Err(Unfit::Fork) => {
                foreign.quarantine(batch);
                return Err(Unfit::Fork.into());
            }
            Err(unfit) => return Err(unfit.into()),
        };
        // Otherwise earlier ones wait for their moment.
        if events.first().is_some_and(|event| event.dot.seq == handed.last + 1) {
            self.hand_over(&mut handed, &events)?;
        }
        Ok(events.len() as u64)
    }

    /// Hands over what was not handed over before: after the volume was opened, or when its moment has come.
    pub(in crate::volume) fn hand_over_rest(&self) -> Result<(), VolumeError> {
        for foreign in self.foreign.all() {
            let mut handed = foreign.handed();
            while handed.last < foreign.log.last().0 {
                let events = foreign.read_from(handed.last + 1)?.take(AT_ONCE);
                let events: Vec<Event> = events.collect::<Result<_, _>>()?;
                let last = handed.last;
                self.hand_over(&mut handed, &events)?;
                if handed.last == last {
                    self.tell_ahead(&foreign, &mut handed, &events);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Hands events over to the tables, up to the first one that is too far ahead of this clock.
    fn hand_over(&self, handed: &mut Handed, events: &[Event]) -> Result<(), VolumeError> {
        for part in events.chunks(AT_ONCE) {
            let mut state = self.lock();
            let now = ms(state.now());
            let count =
                part.iter().take_while(|it| state.clock.observe(it.hlc, now).is_ok()).count();
            if count > 0 {
                self.apply_foreign(&mut state, &part[..count])?;
                if state.lacks_merged {
                    drop(state);
                    match self.make_merged() {
                        // What is missing will come.
                        Ok(()) | Err(VolumeError::Incomplete) => {}
                        Err(error) => return Err(error),
                    }
                    state = self.lock();
                    self.apply_pending(&mut state)?;
                }
                // Also after a restart, own events are later than what was seen.
                let latest = part[..count].iter().map(|event| event.hlc).max();
                state.tree.state.hlc = latest.max(Some(state.tree.state.hlc)).unwrap_or_default();
                handed.last += count as u64;
                handed.is_told = false;
            }
            if count < part.len() {
                break;
            }
        }
        Ok(())
    }

    fn tell_ahead(&self, foreign: &Foreign, handed: &mut Handed, events: &[Event]) {
        let Some(event) = events.first().filter(|_| !std::mem::replace(&mut handed.is_told, true))
        else {
            return;
        };
        let ahead_s = event.hlc.ms().saturating_sub(ms(now())) / 1000;
        tracing::warn!(
            node = %foreign.statement.node,
            ahead_s,
            "a node's clock is ahead, so its changes are not shown before that time: set the clocks of both machines"
        );
    }
}
