//! Shares: an ordinary directory, kept the same in a volume.
//!
//! Reading order: [`source`] reads the directory with its user's rights; [`rules`] say what is left out; [`known`] is what was
//! taken over before; [`round`] compares and takes over what differs. A watch says where something changes; if it cannot
//! say, all is compared again.
//!
//! A share never removes from the volume what others have put there, and what it replaces is a version.

mod follower;
mod known;
mod round;
mod rules;
mod source;

#[cfg(test)]
mod tests;

pub use follower::{Plan, Share, ShareError};
pub use round::Round;
