//! The backing files that the kernel uses directly.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::BackingId;

use crate::volume::BackingFile;

/// The kernel's number for each, by file, and how many handles use it.
type Numbers = HashMap<u64, (Arc<BackingId>, u32)>;

/// The backing files that one mount has passed to the kernel. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Passed(Arc<Mutex<Numbers>>);

impl Passed {
    /// Returns the kernel's number for a backing file, which all handles of a file share.
    pub(super) fn pass(
        &self,
        ino: u64,
        file: &BackingFile,
        register: impl FnOnce(&BackingFile) -> io::Result<BackingId>,
    ) -> io::Result<Arc<BackingId>> {
        let mut passed = self.lock();
        if let Some((id, handles)) = passed.get_mut(&ino) {
            *handles += 1;
            return Ok(Arc::clone(id));
        }
        let id = Arc::new(register(file)?);
        passed.insert(ino, (Arc::clone(&id), 1));
        Ok(id)
    }

    /// Notes that a handle is closed.
    pub(super) fn unpass(&self, ino: u64) {
        let mut passed = self.lock();
        if let Some((_, handles)) = passed.get_mut(&ino) {
            *handles -= 1;
            if *handles == 0 {
                passed.remove(&ino);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
