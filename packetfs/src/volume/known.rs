//! Which moments can be looked at, and why others cannot.

use worknode::history::Hlc;

use super::changes::{ms, now};
use super::error::VolumeError;
use super::model::Volume;
use super::moment;
use crate::log::Log;

/// Why the tree of a moment cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum MomentError {
    /// It is not over yet.
    #[error("{} is in the future: name a time that is over", moment::text(*.0))]
    Future(Hlc),
    /// Nothing was there yet.
    #[error("the volume has nothing from {}: {}", moment::text(*.moment), at_first(*.first))]
    Early {
        /// The moment.
        moment: Hlc,
        /// The first moment at which there is something.
        first: Option<Hlc>,
    },
    /// What was there is not kept.
    #[error("what the volume had at {} is not kept any more: 'oswalk fs status' says what is", moment::text(*.0))]
    Forgotten(Hlc),
    /// The volume does not work.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

fn at_first(first: Option<Hlc>) -> String {
    first.map_or_else(
        || "it is empty".to_owned(),
        |first| format!("its first event was at {}", moment::text(first)),
    )
}

impl Volume {
    /// Returns the last moment up to a moment at which the tree is still known.
    ///
    /// # Errors
    /// There is none, or the volume does not work.
    pub fn known_moment(&self, moment: Hlc) -> Result<Hlc, MomentError> {
        if moment.ms() >= ms(now()) {
            return Err(MomentError::Future(moment));
        }
        let first = self.first_moment()?;
        if first.is_none_or(|first| moment < first) {
            return Err(MomentError::Early { moment, first });
        }
        self.shared.lock().tree.kept()?.last(moment).ok_or(MomentError::Forgotten(moment))
    }

    /// Returns the moment of the first event that is here, whoever has made it.
    ///
    /// # Errors
    /// A log is damaged.
    pub fn first_moment(&self) -> Result<Option<Hlc>, VolumeError> {
        let first = |log: &Log| -> Result<Option<Hlc>, VolumeError> {
            let event = log.read_from(log.first_seq()?)?.next().transpose()?;
            Ok(event.map(|event| event.hlc))
        };
        let foreign = self.shared.foreign.all();
        let mut all = vec![first(&self.shared.log)?];
        for foreign in &foreign {
            all.push(first(foreign.log())?);
        }
        Ok(all.into_iter().flatten().min())
    }

    /// Returns the directory in which the volume is.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.shared.dir
    }
}
