//! Threads and tasks that the agent depends on. A thread that panics, or a task that ends in any way, ends the agent
//! with its name, because without it the agent would give wrong answers. Stubs then execute their programs at the origin.

use std::io;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Starts vital threads and tasks.
#[derive(Debug, Clone)]
pub(crate) struct Vital {
    /// Bounded by the threads and tasks, each of which ends once; the first end is the agent's.
    ended_tx: UnboundedSender<&'static str>,
}

/// Receives the ends of vital threads and tasks.
#[derive(Debug)]
pub(crate) struct Ended(UnboundedReceiver<&'static str>);

/// Reports the end of its holder when it is dropped.
struct Guard {
    name: &'static str,
    /// `None` after an orderly end.
    ended_tx: Option<UnboundedSender<&'static str>>,
}

impl Vital {
    /// Makes a starter and the receiver of ends.
    pub(crate) fn new() -> (Self, Ended) {
        let (ended_tx, ended_rx) = unbounded_channel();
        (Self { ended_tx }, Ended(ended_rx))
    }

    /// Starts a thread, which ends orderly when its work queue is closed.
    ///
    /// # Errors
    /// The system cannot create a thread.
    pub(crate) fn thread(
        &self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let guard = self.guard(name);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            run();
            guard.disarm();
        })?;
        Ok(())
    }

    /// Starts a task.
    pub(crate) fn task(&self, name: &'static str, run: impl Future<Output = ()> + 'static) {
        let guard = self.guard(name);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            run.await;
        });
    }

    fn guard(&self, name: &'static str) -> Guard {
        Guard { name, ended_tx: Some(self.ended_tx.clone()) }
    }
}

impl Ended {
    /// Waits for the first end, and returns its name.
    pub(crate) async fn wait(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

impl Guard {
    fn disarm(mut self) {
        self.ended_tx = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // An agent that is ending does not listen any more.
        let _ = self.ended_tx.take().map(|ended_tx| ended_tx.send(self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_by_name() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let (vital, mut ended) = Vital::new();
            vital.thread("thread", || panic!("of the test")).expect("a thread");
            assert_eq!(ended.wait().await, "thread");
            vital.thread("idle", || {}).expect("a thread");
            vital.task("task", async { panic!("of the test") });
            assert_eq!(ended.wait().await, "task");
        });
    }
}
