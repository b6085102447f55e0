//! Answers programs that cannot see the mount of the volume.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use worknode::door::Kind;

use super::VolumeHandle;
use super::lend::Borrower;
use crate::door::Visitor;

/// Longest wait for the thread that mounts, which may be busy: below the preload library's own.
const LEND_MAX: Duration = Duration::from_millis(1500);

/// Answers a process that asks for the root of the volume mounted at a path.
pub(crate) async fn lend(volume: &VolumeHandle, mut visitor: Visitor, point: Vec<u8>) {
    let point = PathBuf::from(OsString::from_vec(point));
    let namespace = visitor.reader.caller().mount_namespace(visitor.pid);
    let lent = volume.lend(point, Borrower { uid: visitor.who.uid, namespace });
    let Ok(lent) = tokio::time::timeout(LEND_MAX, lent).await else {
        // Without an answer the asker tries again.
        tracing::warn!("the volume was not lent in time: the thread that mounts is busy");
        return;
    };
    // The asker may be gone.
    let _ = match lent {
        Ok(root) => visitor.writer.send_descriptor(Kind::Root, &root),
        Err(error) => {
            tracing::debug!("the volume is not lent: {error:#}");
            visitor.writer.send(Kind::Failed, 0, format!("{error:#}").as_bytes()).await
        }
    };
}
