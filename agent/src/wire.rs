//! The link protocol between two agents as pure codecs: bytes to values and back, without I/O.
//!
//! A link begins with a `greeting`. Then follow `frame`s, whose payloads are a few plain bytes or `message`s.
//! `squeeze` compresses messages that resemble earlier ones, and `lists` are decoded item by item. `limits` bounds
//! everything. The meaning of messages, and when they are sent, is in `link` and the modules that use it.
//!
//! Messages contain types of packetfs, so this module is in the agent rather than in worknode. The frames of the door
//! are in `worknode::door`, because the stub decodes them without an allocator.
//!
//! docs/protocol.md describes the same. A change raises [`VERSION`] and adds golden
//! files (tests/golden).

pub mod feed;
pub mod frame;
pub mod greeting;
pub mod holding;
pub mod joining;
pub mod limits;
pub mod lists;
pub mod message;
pub mod payload;
pub mod squeeze;

pub use limits::VERSION;
