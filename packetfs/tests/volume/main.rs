//! Tests of a mounted volume against the kernel's own file systems, and against crashes. They need root and `/dev/fuse`.
//!
//! The mount is served by another process, which is this program again: so it can be killed. `OSWALK_SEED` selects the
//! operations of a random test, `OSWALK_STEPS` their number.

#![expect(clippy::print_stdout, reason = "seeds are printed, for doing a trial again")]

mod acl;
mod crash;
mod dice;
mod flips;
mod full;
mod load;
mod many;
mod mapped;
mod model;
mod mounted;
mod picture;
mod power;
mod sqlite;
mod steps;
