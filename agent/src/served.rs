//! File systems that a server or another process answers for, such as NFS and FUSE. Exporter and committer are one
//! thread each, and look at no such file system before it has answered a question: one thread for each mount
//! asks it, and may wait.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use packetfs::export::Hidden;
use packetfs::path::Bytes;
use tokio::sync::watch;

use crate::look;
use crate::own_volume::OwnVolume;

/// Whoever needs such a file system waits so long at most; then it counts as one that fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most mounts that are asked at once, each by a thread. Beyond that, a mount counts as silent at once: far fewer are slow at
/// the same time, and the runtime's other threads are for looks and for the changes of walks.
const ASKED_MAX: usize = 64;
/// Whoever lists a directory waits so long at most for what is mounted in it, and whoever tells ahead.
const PATIENCE_BESIDE: Duration = Duration::from_millis(500);
/// How old an answer may be that a thread relies on. It is asked for just before; a file system that falls silent
/// meanwhile stops the thread.
const HEARD_FOR: Duration = Duration::from_millis(100);

/// A file system does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the file system at {point} does not answer, or {ASKED_MAX} others do not: look at its server, or unmount it"
)]
pub(crate) struct Silent {
    point: String,
}

/// A mount: its point, and the device of its file system.
type Mount = (Bytes, u64);

/// When which mount has answered, for any thread.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    hidden: Arc<Hidden>,
    own: OwnVolume,
    at: Arc<Mutex<HashMap<Mount, Instant>>>,
    heard_for: Duration,
}

impl Heard {
    pub(crate) fn new(hidden: Arc<Hidden>, own: OwnVolume) -> Self {
        Self { hidden, own, at: Arc::default(), heard_for: HEARD_FOR }
    }

    /// Returns the agent's own volume, which answers as local disks do.
    pub(crate) fn own_volume(&self) -> &OwnVolume {
        &self.own
    }

    /// Tells whether a path is below a mount of the agent's own volume.
    pub(crate) fn is_own(&self, path: &[u8]) -> bool {
        let mounts = self.hidden.mounts();
        mounts.served_at(path).is_some_and(|(point, dev)| self.own.is_at(point, dev))
    }

    /// Returns the mount that a path is in, if somebody else answers for it.
    fn served_at(&self, path: &[u8]) -> Option<Mount> {
        let mounts = self.hidden.mounts();
        let (point, dev) = mounts.served_at(path)?;
        (!self.own.is_at(point, dev)).then(|| (point.to_vec(), dev))
    }

    /// Tells whether the file system of a path is local, or has answered just now.
    pub(crate) fn may_be_asked(&self, path: &[u8]) -> bool {
        let Some(mount) = self.served_at(path) else { return true };
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.get(&mount).is_some_and(|at| at.elapsed() < self.heard_for)
    }

    /// Tells the same of a directory, and of what is mounted in it, whose attributes are listed with it.
    pub(crate) fn may_be_listed(&self, dir: &[u8]) -> bool {
        let mounts = self.hidden.mounts();
        self.may_be_asked(dir) && mounts.served_in(dir).all(|point| self.may_be_asked(point))
    }

    fn note(&self, mount: Mount) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        // The others are asked again in any case.
        at.retain(|_, at| at.elapsed() < self.heard_for);
        at.insert(mount, Instant::now());
    }
}

/// Asks mounts whether they answer.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    heard: Heard,
    /// Mounts that are being asked, and those who wait for that: one thread waits for each.
    asked: Rc<RefCell<HashMap<Mount, watch::Receiver<()>>>>,
}

impl Served {
    pub(crate) fn new(heard: Heard) -> Self {
        Self { heard, asked: Rc::default() }
    }

    /// Ends when a directory and what is mounted in it answer, or soon: what does not is listed as the kernel knows it.
    pub(crate) async fn wait_for_dir(&self, dir: &[u8]) {
        if !self.is_local_dir(dir) {
            let mounts = self.heard.hidden.mounts();
            let answered = self.wait_for(mounts.served_in(dir).chain([dir]));
            let _ = tokio::time::timeout(PATIENCE_BESIDE, answered).await;
        }
    }

    /// Ends when the file systems of all paths answer.
    ///
    /// # Errors
    /// One does not.
    pub(crate) async fn wait_for<'a>(
        &self,
        paths: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Silent> {
        let silent =
            |mount: &Mount| Silent { point: String::from_utf8_lossy(&mount.0).into_owned() };
        let ask = |mount| {
            self.ask(&mount).ok_or_else(|| silent(&mount)).map(|answered| (mount, answered))
        };
        // All at once, so that no answer is old when the last one comes.
        let asked: Vec<_> = self.mounts_of(paths).into_iter().map(ask).collect();
        for asked in asked {
            let (mount, mut answered) = asked?;
            // The sender is dropped with the answer.
            let answer = tokio::time::timeout(PATIENCE, answered.changed());
            let _ = answer.await.map_err(|_| silent(&mount))?;
        }
        Ok(())
    }

    /// Tells whether the file system of a path is local, or has answered just now.
    pub(crate) fn is_heard(&self, path: &[u8]) -> bool {
        self.heard.may_be_asked(path)
    }

    /// Tells whether a question about a path is answered without asking anybody else.
    pub(crate) fn is_local(&self, path: &[u8]) -> bool {
        self.heard.served_at(path).is_none()
    }

    /// Tells the same of a directory and of what is mounted in it.
    pub(crate) fn is_local_dir(&self, dir: &[u8]) -> bool {
        self.is_local(dir)
            && self.heard.hidden.mounts().served_in(dir).all(|point| self.is_local(point))
    }

    fn mounts_of<'a>(&self, paths: impl Iterator<Item = &'a [u8]>) -> BTreeSet<Mount> {
        paths.filter_map(|path| self.heard.served_at(path)).collect()
    }

    /// Asks a mount, unless too many are being asked.
    fn ask(&self, mount: &Mount) -> Option<watch::Receiver<()>> {
        if let Some(answered) = self.asked.borrow().get(mount) {
            return Some(answered.clone());
        }
        if self.asked.borrow().len() >= ASKED_MAX {
            return None;
        }
        let (answered_tx, answered) = watch::channel(());
        self.asked.borrow_mut().insert(mount.clone(), answered.clone());
        let (asked, heard, mount) = (Rc::clone(&self.asked), self.heard.clone(), mount.clone());
        let point = mount.0.clone();
        tokio::task::spawn_local(async move {
            // Whoever waits goes on after an error, too, and meets it.
            let answer = tokio::task::spawn_blocking(move || look::ask_server(&point)).await;
            asked.borrow_mut().remove(&mount);
            // Not what is there once it is unmounted.
            if matches!(answer, Ok(Ok(dev)) if dev == mount.1) {
                heard.note(mount);
            }
            drop(answered_tx);
        });
        Some(answered)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use packetfs::mounts::Mounts;

    use super::*;

    /// `/` is local; the directory is a mount of a file system that is not.
    fn heard(dir: &Path) -> Heard {
        let dev = dir.metadata().map_or(0, |metadata| metadata.dev());
        let (dev, dir) = (format!("{}:{}", libc::major(dev), libc::minor(dev)), dir.display());
        let text = format!("1 0 8:1 / / rw - ext4 d rw\n2 1 {dev} / {dir} rw - fuse f rw\n");
        let hidden: Arc<Hidden> = Arc::default();
        hidden.set_mounts(Arc::new(Mounts::parse(text.as_bytes())));
        Heard { heard_for: Duration::MAX, ..Heard::new(hidden, OwnVolume::default()) }
    }

    #[tokio::test]
    async fn who_has_answered_may_be_asked() {
        let test = async {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let heard = heard(dir.path());
            let served = Served::new(heard.clone());
            let path = dir.path().join("f").into_os_string().into_encoded_bytes();
            let above = dir.path().parent().expect("one").as_os_str().as_encoded_bytes();
            assert!(served.is_local(above) && !served.is_local_dir(above));
            assert!(!served.is_local(&path) && !heard.may_be_asked(&path));
            let paths = [above, &path, &path];
            assert_eq!(served.wait_for(paths.into_iter()).await, Ok(()));
            assert!(heard.may_be_asked(&path) && heard.may_be_listed(above));
            assert!(served.asked.borrow().is_empty());
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn who_answers_with_an_error_is_not_taken_to_answer() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let heard = heard(Path::new("/no/such/point"));
                let served = Served::new(heard.clone());
                let path = b"/no/such/point/f".as_slice();
                assert_eq!(served.wait_for([path].into_iter()).await, Ok(()));
                assert!(!heard.may_be_asked(path));
            })
            .await;
    }

    #[tokio::test]
    async fn no_more_mounts_are_asked_at_once_than_threads_may_wait() {
        let test = async {
            let served = Served::new(heard(Path::new("/no/such/point")));
            let (_answered_tx, answered) = watch::channel(());
            for dev in 0..ASKED_MAX as u64 {
                served.asked.borrow_mut().insert((b"/m".to_vec(), dev), answered.clone());
            }
            let path = b"/no/such/point/f".as_slice();
            let silent = Silent { point: "/no/such/point".to_owned() };
            assert_eq!(served.wait_for([path].into_iter()).await, Err(silent));
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }
}
