//! Records of requests that were answered differently than at the origin, with the process that asked. The
//! result of such a walk is not trusted.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most requests whose processes are remembered.
const NOTED_MAX: usize = 1024;

/// The process behind a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pid: u32,
    /// Its pid namespace, if it was looked up while the process was certainly waiting for an answer.
    namespace: Option<u64>,
}

impl Asker {
    /// Names a process by its number.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, namespace: None }
    }

    /// Looks up the process's namespace. To be called before waiting for the network, because the process
    /// may be killed meanwhile, and a record of an unknown process concerns every walk.
    pub(super) fn looked_up(self) -> Self {
        Self { namespace: self.namespace.or_else(|| pid_namespace(self.pid)), ..self }
    }

    /// Returns the process's command name for the log.
    pub(super) fn program(self) -> String {
        std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default()
    }
}

fn pid_namespace(pid: u32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|metadata| metadata.ino())
}

/// Requests of one kind, so far.
#[derive(Debug, Default)]
pub struct Noted {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    count: u64,
    /// The pid namespaces of the last ones, where known.
    namespaces: VecDeque<Option<u64>>,
}

impl Noted {
    /// Records a request of a process.
    pub(super) fn note(&self, asker: Asker) {
        let namespace = asker.looked_up().namespace;
        let mut last = self.last();
        last.namespaces.push_back(namespace);
        if last.namespaces.len() > NOTED_MAX {
            last.namespaces.pop_front();
        }
        last.count += 1;
    }

    /// Returns the number of requests so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last().count
    }

    /// Tells whether a request after the first `since` may have come from the pid namespace with this
    /// inode number.
    #[must_use]
    pub fn concern(&self, since: u64, namespace: u64) -> bool {
        let last = self.last();
        let after = usize::try_from(last.count - since.min(last.count)).unwrap_or(usize::MAX);
        let mut concerned = last.namespaces.iter().rev().take(after);
        after > last.namespaces.len()
            || concerned.any(|known| known.is_none_or(|known| known == namespace))
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Poisoning is harmless: nothing panics between the changes of the two fields.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(pid: u32) -> Asker {
        Asker::of(pid)
    }

    #[test]
    fn a_request_concerns_its_namespace_or_any_if_unknown() {
        let noted = Noted::default();
        let own = std::fs::metadata("/proc/self/ns/pid").expect("a namespace").ino();
        noted.note(asker(std::process::id()));
        assert_eq!((noted.count(), noted.concern(0, own)), (1, true));
        assert!(!noted.concern(0, own + 1));
        assert!(!noted.concern(1, own));
        // This process has ended.
        noted.note(asker(u32::MAX));
        assert!(noted.concern(1, own + 1));
        (0..NOTED_MAX).for_each(|_| noted.note(asker(std::process::id())));
        assert!(noted.concern(0, own + 1), "forgotten requests may concern any walk");
    }

    #[test]
    fn a_process_killed_while_waiting_concerns_only_its_own_namespace() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        let asker = asker(child.id()).looked_up();
        child.kill().and_then(|()| child.wait()).expect("it ends");
        let noted = Noted::default();
        noted.note(asker);
        let own = pid_namespace(std::process::id()).expect("a namespace");
        assert!(noted.concern(0, own));
        assert!(!noted.concern(0, own + 1));
    }
}
