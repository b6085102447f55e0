//! Messages for users about walks that lost something.

use worknode::id::WalkId;
use worknode::reason::Reason;

use super::stub::Cause;

/// The message about a walk that can neither continue nor be repeated.
pub(super) fn loss(walk: WalkId, Cause { reason, detail }: &Cause) -> String {
    let what = match reason {
        Reason::RunnerLost | Reason::RunnerFault | Reason::NoSlot | Reason::NoCluster => {
            format!("lost the runner of walk {walk}")
        }
        Reason::CommitFault => format!("failed to write what walk {walk} has changed"),
        _ => format!("failed to finish walk {walk}"),
    };
    let detail = detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    format!(
        "{what} ({}) after the program had read input or written output, so it cannot be repeated{detail}",
        reason.name()
    )
}

/// The message about overwritten changes of others.
pub(super) fn overwritten(argv0: &str, path: &str) -> String {
    format!(
        "oswalk: {argv0} has overwritten {path}, which another process had changed while it ran\n"
    )
}

/// The message about a hidden file that the walk wrote on the runner.
pub(super) fn not_written(argv0: &str, path: &str) -> String {
    format!(
        "oswalk: {argv0} has written {path}, which is not exported: its changes are lost, and the file is unchanged\n"
    )
}

/// The message about a torn read that could not be repeated.
pub(super) fn torn(argv0: &str) -> String {
    format!(
        "oswalk: {argv0} has read a file while another process changed it, and may have seen the old \
         size with the new content; run it again if that matters\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use worknode::id::SessionId;

    #[test]
    fn losses_name_their_cause() {
        let walk = WalkId { session: SessionId(1), number: 2 };
        let detail = "the runner changed /root/.x_history, which is not exported".to_owned();
        let told = loss(walk, &Cause { reason: Reason::CommitFault, detail: Some(detail) });
        assert!(
            told.starts_with("failed to write what walk ") && told.contains("/root/.x_history")
        );
        assert!(!told.contains("lost the runner") && told.contains("(commit-fault)"));
        let told = loss(walk, &Reason::RunnerLost.into());
        assert!(told.starts_with("lost the runner of walk "), "{told}");
    }

    #[test]
    fn messages() {
        let mut messages = crate::messages::Messages::default();
        let walk = WalkId { session: SessionId(1), number: 2 };
        for reason in
            [Reason::RunnerLost, Reason::CommitFault, Reason::Conflict, Reason::NotExported]
        {
            messages.add(reason.name(), loss(walk, &reason.into()));
        }
        messages.add("a lost update", overwritten("cc", "/w/a.o"));
        messages.add("a hidden file was written", not_written("cc", "/root/.netrc"));
        messages.add("a torn read", torn("cc"));
        messages.compare("losses");
    }
}
