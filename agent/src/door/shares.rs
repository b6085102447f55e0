//! What each user, and all ordinary users together, may take of the agent's descriptors and memory. What remains is for root,
//! for the links to other agents, and for the walks of others that are executed here.

/// Most connections of one user. Each stands for a running or queued walk and the stub that waits for it.
const CONNECTIONS_PER_USER_MAX: usize = 8192;
/// Most sessions of one user. Each has a policy page, which is in memory.
const SESSIONS_PER_USER_MAX: usize = 1024;
/// Most bytes that the connections of one user have sent and that are kept: hellos of 8,192 walks, with 32 KiB each.
const BYTES_PER_USER_MAX: u64 = 256 * 1024 * 1024;

/// Descriptors of a connection: socket, its duplicate for writing, the stub's process, and one in reserve.
const DESCRIPTORS_OF_CONNECTION: usize = 4;
/// Descriptors of a session: page, process, and its connection.
const DESCRIPTORS_OF_SESSION: usize = 3;
/// One user gets this fraction of the descriptors for connections, and half of that for sessions …
const USER_PART: usize = 4;
/// … all ordinary users together this one …
const ALL_PART: usize = 2;
/// … and one user this fraction of the machine's memory, of which all together get four times as much.
const USER_MEMORY_PART: u64 = 64;

/// The shares of one user and of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(super) connections: Share,
    pub(crate) sessions: Share,
    pub(super) bytes: u64,
    pub(super) bytes_of_all: u64,
}

/// How many one user may have, and all ordinary users together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) of_user: usize,
    pub(crate) of_all: usize,
}

impl Shares {
    /// Divides what the agent may have.
    pub(crate) fn of(descriptors: usize, memory_bytes: u64) -> Self {
        let share = |all: usize, each: usize, max: usize| {
            let of_user = (all / USER_PART / each).clamp(1, max);
            Share { of_user, of_all: (all / ALL_PART / each).max(1) }
        };
        let bytes = (memory_bytes / USER_MEMORY_PART).min(BYTES_PER_USER_MAX);
        Self {
            connections: share(descriptors, DESCRIPTORS_OF_CONNECTION, CONNECTIONS_PER_USER_MAX),
            sessions: share(descriptors / 2, DESCRIPTORS_OF_SESSION, SESSIONS_PER_USER_MAX),
            bytes,
            bytes_of_all: bytes * 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_descriptors_remains() {
        for descriptors in [64, 1024, 20_000, 1 << 20, 1 << 30] {
            let Shares { connections, sessions, .. } = Shares::of(descriptors, 1 << 34);
            let taken = |connections, sessions| {
                connections * DESCRIPTORS_OF_CONNECTION + sessions * DESCRIPTORS_OF_SESSION
            };
            assert!(taken(connections.of_user, sessions.of_user) <= descriptors * 3 / 8);
            assert!(taken(connections.of_all, sessions.of_all) <= descriptors * 3 / 4);
        }
        let many = Shares::of(1 << 20, 1 << 34);
        let of_user = (many.connections.of_user, many.sessions.of_user);
        assert_eq!(of_user, (CONNECTIONS_PER_USER_MAX, SESSIONS_PER_USER_MAX));
        assert_eq!((many.bytes, many.bytes_of_all), (1 << 28, 1 << 30));
    }
}
