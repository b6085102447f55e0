//! The version and the limits of the door. docs/protocol.md lists them in tables that a test compares with this file.

/// Version of this protocol, in the hello. Raised with every change.
pub const VERSION: u32 = 5;

/// Longest payload of a [`super::Kind::Data`] frame.
pub const DATA_BYTES_MAX: usize = 32 * 1024;
/// Longest payload of a hello: the kernel limits arguments and environment to 6 MiB.
pub const HELLO_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes in flight to a descriptor of the stub before the agent waits for [`super::Kind::Written`].
pub const WINDOW_BYTES: usize = 256 * 1024;
/// Longest payload of a [`super::Kind::Root`]: a path.
pub const ROOT_BYTES_MAX: usize = 4096;
