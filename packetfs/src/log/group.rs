//! Group commit: while one caller works, the others wait, and then one of them works for all.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Callers that want the same work done.
#[derive(Debug, Default)]
pub(super) struct Group {
    is_working: Mutex<bool>,
    ended: Condvar,
}

/// The right to work. It ends when this is dropped, by a panic too.
struct Turn<'a>(&'a Group);

impl Group {
    /// Waits until `is_done` returns something, or nobody works: then works.
    pub(super) fn share<T, E>(
        &self,
        is_done: impl Fn() -> Option<T>,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut is_working = self.lock();
        loop {
            if let Some(done) = is_done() {
                return Ok(done);
            }
            if !*is_working {
                break;
            }
            is_working = self.ended.wait(is_working).unwrap_or_else(PoisonError::into_inner);
        }
        *is_working = true;
        drop(is_working);
        let _turn = Turn(self);
        work()
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.ended.notify_all();
    }
}
