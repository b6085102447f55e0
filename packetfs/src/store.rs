//! A node's packets on disk: append-only packs, an index that can be rebuilt from them, and a size limit.
//! Over the limit, the least recently used pack is dropped.
//!
//! Origins share the space, but not the packets: a packet is found by its digest together with the origin
//! that sent it. So knowing a digest is not enough to read content of another origin.

mod damage;
mod error;
mod index;
mod mend;
mod pack;
mod shelf;
mod sweep;

pub use damage::{Damaged, Damages};
pub use error::StoreError;
pub use shelf::{Checked, Shelf, Store};
pub use sweep::{Dead, Survey};
