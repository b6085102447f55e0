//! Shares: an ordinary directory, kept the same in a volume.
//!
//! Reading order: [`source`] reads the directory with its user's rights; [`rules`] say what is left out, and [`ruled`] what that means; [`known`] is what was
//! taken over before; [`round`] compares and takes over what differs. A watch says where something changes; if it cannot
//! say, all is compared again.
//!
//! A share never removes from the volume what others have put there, and what it replaces is a version.
//!
//! A share may also write its directory: [`decide`] is what it does with each name, [`seens`] is what the volume had, and [`returns`] what is to
//! be compared with it; [`both`]
//! takes over what has changed in the directory, and then [`back`] writes what has changed in the volume, by [`target`] and [`stage`]. What is in vain is tried
//! again by [`tries`].

mod back;
mod both;
mod decide;
mod follower;
mod known;
mod left;
mod links;
mod returns;
mod round;
mod ruled;
mod rules;
mod seens;
mod source;
mod stage;
mod target;
mod tries;

#[cfg(test)]
mod tests;

pub use follower::{Plan, Share, ShareError};
pub use left::Left;
pub use round::Round;
