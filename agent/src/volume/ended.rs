//! Tells when a thread has ended, to as many as want to know, without waiting for ever.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Whether it has ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    is: Mutex<bool>,
    changed: Condvar,
}

/// Says so when it is dropped.
#[derive(Debug)]
pub(super) struct Ending(pub(super) Arc<Ended>);

impl Ended {
    pub(super) fn is(&self) -> bool {
        *self.is.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end, but not longer than this. Returns whether it has ended.
    pub(super) fn wait(&self, longest: Duration) -> bool {
        let is = self.is.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is, longest, |is| !*is);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.is.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_also_by_a_thread_that_panics() {
        let ended = Arc::new(Ended::default());
        assert!(!ended.is() && !ended.wait(Duration::from_millis(1)));
        let ending = Ending(Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let _ending = ending;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(ended.wait(Duration::from_secs(60)) && ended.is());
        thread.join().expect_err("it panics");
    }
}
