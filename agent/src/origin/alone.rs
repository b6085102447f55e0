//! Decides whether a compile step stays because it is alone: nothing else of its session is running, and this machine has a
//! free processor that is no slower than the runners', so a walk would gain nothing.

use crate::cluster::Cluster;
use crate::machine::processors;
use crate::session::Session;

/// Tells whether a compile step is better executed here. Not so if the user named a node, forbade the fallback, or gave the
/// step itself to `oswalk exec`.
pub(super) fn is_alone(cluster: &Cluster, session: &Session, pid: u32) -> bool {
    session.keeps_lone
        && session.under_way() == 0
        && cluster.is_of_one_kind()
        && session.is_below_command(pid)
        && is_idle(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default(), processors())
}

/// Tells from `/proc/loadavg` whether a processor is free once this thread and the stub wait.
fn is_idle(loadavg: &str, processors: u32) -> bool {
    let running = loadavg.split(' ').nth(3).and_then(|tasks| tasks.split_once('/'));
    running
        .and_then(|(running, _)| running.parse().ok())
        .is_some_and(|running: u32| running < processors + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_free() {
        assert!(is_idle("0.41 2.08 2.12 2/230 4711\n", 1));
        assert!(!is_idle("0.41 2.08 2.12 3/230 4711\n", 1));
        assert!(is_idle("9.99 2.08 2.12 3/230 4711\n", 2));
        assert!(!is_idle("", 8));
    }
}
