//! \[unsafe\] The agent's dealings with the kernel that no library wraps: the launcher process, the
//! sandbox of a walk, descriptors passed over sockets.

pub mod fds;
pub mod launcher;
pub mod process;
pub mod sandbox;
