//! Everything that two agents say to each other over a link, as pure codecs: bytes to values and back, without I/O.
//!
//! `greeting` comes first on a link, then `frame`s, whose payloads are `payload`s of a few bytes or `message`s;
//! `squeeze` makes messages small that are like earlier ones, and `lists` are read item by item. `limits` bounds all
//! of them. What a message means, and when it is sent, is in `link` and the rooms behind it.
//!
//! Messages carry the types of packetfs, so this room is in the agent, not in worknode. Frames at the door are in
//! `worknode::door`, because the stub reads them without an allocator.
//!
//! docs/protocol.md describes the same. A change raises [`VERSION`] and adds golden
//! files (tests/golden).

pub mod frame;
pub mod greeting;
pub mod limits;
pub mod lists;
pub mod message;
pub mod payload;
pub mod squeeze;

pub use limits::VERSION;
