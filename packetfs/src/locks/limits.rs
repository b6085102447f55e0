//! Limits of locks, and why they are what they are. Each user has a share, so that none keeps another from locking; root has a
//! reserve. A master bounds what it keeps for each node by what an honest node asks for.

use std::time::Duration;

/// Most requests of a node's programs that wait: each is a thread, and is looked at for signals.
pub const WAITERS_MAX: usize = 1024;
/// Most of them of one user.
pub const USER_WAITERS_MAX: usize = 256;
/// How many of them only root may use.
pub const ROOT_WAITERS: usize = 128;
/// Most that wait at a master for one node: an honest one may have given up some of which the master does not know it yet.
pub const NODE_WAITERS_MAX: usize = 2 * WAITERS_MAX;
/// Most releases of a user that are under way while its programs go on. A program that releases more waits for one of them.
pub const RELEASES_MAX: usize = 64;

/// Most locks of a node on one file: whoever asks for another lock is compared with all of them.
pub const LOCKS_MAX: usize = 4096;
/// Most locks of a node: in each round it tells a new master all of them.
pub const NODE_LOCKS_MAX: usize = 65_536;
/// Most locks of one user.
pub const USER_LOCKS_MAX: usize = 16_384;
/// How many locks only root may use.
pub const ROOT_LOCKS: usize = 4096;
/// How many locks what is under way may add to those that a node has: at most two for each request.
pub(super) const COMING_LOCKS: usize = 4 * WAITERS_MAX;

/// Longest wait for the answer to a request that does not wait for a lock.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Time after the end of its link for which a node keeps its locks.
pub const GONE_AFTER: Duration = Duration::from_secs(3);
/// Longest wait of a master for what others have, before it gives anything.
pub const CLAIMS_WAIT: Duration = Duration::from_secs(3);
/// Time in which a master waits that long for each node altogether: one whose link comes and goes does not stop all others.
pub const AWAITED_EVERY: Duration = Duration::from_secs(30);
/// Time for which a lock that is not waited for may wait all the same, if a program of the same node has it: the kernel tells of
/// the end of a descriptor a little after the program has closed it.
pub const TRY_MAX: Duration = Duration::from_millis(20);
/// Time between rounds that another node's greetings or late answers cause: each tells all locks.
pub const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Most locks that are compared to find out whether a program would wait for itself. Beyond that it waits, as in the kernel.
pub const DEADLOCK_STEPS_MAX: usize = 10_000;

/// Most locks in one message.
pub const CLAIMS_MAX: usize = 4096;
/// Most authors in one message.
pub const AUTHORS_MAX: usize = 4096;

/// Time after which the word of an author that it has fewer events than another node says of it is believed.
pub const DENIED_AFTER: Duration = Duration::from_secs(2);
/// Time for which nobody is believed about an author whose events were waited for in vain.
pub const DOUBTED: Duration = Duration::from_secs(60);
