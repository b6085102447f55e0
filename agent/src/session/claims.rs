//! What a hello claims of its process and what no process may give itself: priority and limits. The kernel is asked.

use worknode::door::HelloHead;

use crate::sys::standing::{hard_limits_of, nice_of};

/// Priority and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) nice: i32,
    pub(crate) rlimits: Vec<(u64, u64)>,
}

impl Claims {
    pub(crate) fn of(head: &HelloHead) -> Self {
        Self { nice: head.nice, rlimits: head.rlimits.to_vec() }
    }

    /// Returns what holds of a process. Claims of less than it has are believed. Returns `None` if the process is gone.
    pub(crate) fn checked(self, pid: u32) -> Option<Self> {
        Some(self.within(nice_of(pid).ok()?, &hard_limits_of(pid).ok()?))
    }

    fn within(mut self, nice: i32, hard_limits: &[u64]) -> Self {
        self.nice = self.nice.max(nice);
        for ((soft, hard), of_process) in self.rlimits.iter_mut().zip(hard_limits) {
            *hard = (*hard).min(*of_process);
            *soft = (*soft).min(*hard);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_claims_more_than_the_kernel_grants() {
        let claims = |nice, limit| Claims { nice, rlimits: vec![limit, (1, 2)] };
        let granted = [1000, u64::MAX];
        let forged = claims(-20, (u64::MAX, u64::MAX)).within(0, &granted);
        assert_eq!(forged, claims(0, (1000, 1000)));
        for honest in [claims(0, (10, 1000)), claims(5, (10, 20))] {
            assert_eq!(honest.clone().within(0, &granted), honest);
        }
        assert_eq!(claims(-5, (10, 20)).within(-5, &granted).nice, -5, "root may");
    }
}
