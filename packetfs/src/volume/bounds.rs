//! What keeps programs from using up the agent's descriptors: each file that is written needs one until it is packets.

use nix::sys::resource::{Resource, getrlimit};

use super::handles::Handles;

/// Most closed files that wait to become packets, where there are descriptors enough. It takes seconds to get there.
const WAITING_MAX: usize = 8192;
/// Most files and directories that a user has open, other than the superuser: each takes memory of the agent.
const OPEN_MAX: usize = 65_536;
/// A process has so many descriptors at least.
const DESCRIPTORS_LEAST: usize = 1024;

/// How many descriptors may be used for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Closed files that wait to become packets.
    pub(super) waiting: usize,
    /// Files and directories that one user has open, other than the superuser.
    pub(super) open: usize,
    /// Files that one user has open for writing, other than the superuser.
    of_user: usize,
    /// Files that all users have open for writing.
    of_all: usize,
}

impl Bounds {
    /// Returns the bounds of this process.
    pub(super) fn of_process() -> Self {
        let soft = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| usize::try_from(soft));
        Self::of(soft.ok().and_then(Result::ok).unwrap_or(DESCRIPTORS_LEAST))
    }

    /// A quarter waits, a half is open, and a quarter is for all else.
    fn of(descriptors: usize) -> Self {
        let waiting = (descriptors / 4).min(WAITING_MAX);
        Self { waiting, open: OPEN_MAX, of_user: descriptors / 8, of_all: descriptors / 2 }
    }

    /// Tells whether a user may open another file or directory.
    pub(super) fn allow_open(&self, handles: &Handles, uid: u32) -> bool {
        uid == 0 || handles.of_user.get(&uid).copied().unwrap_or(0) < self.open
    }

    /// Tells whether a user may open another file for writing.
    pub(super) fn allow(&self, handles: &Handles, uid: u32) -> bool {
        let mine = handles.writers.get(&uid).copied().unwrap_or(0);
        let all: usize = handles.writers.values().sum();
        all < self.of_all && (uid == 0 || mine < self.of_user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_descriptors_to_others() {
        let bounds = Bounds::of(1024);
        let mut handles = Handles::default();
        let mut count = 0;
        while bounds.allow(&handles, 1000) {
            *handles.writers.entry(1000).or_default() += 1;
            count += 1;
        }
        assert_eq!(count, 128);
        assert!(bounds.allow(&handles, 1001) && bounds.allow(&handles, 0));
        handles.writers.insert(0, 512);
        assert!(!bounds.allow(&handles, 1001) && !bounds.allow(&handles, 0));
    }
}
