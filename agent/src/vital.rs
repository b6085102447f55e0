//! Threads and tasks that the agent cannot do without. A thread that panics, or a task that ends in
//! any way, ends the agent with its name: an agent that answers without it would answer wrongly. Programs that wait are executed by their stubs then.

use std::io;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Starts what is vital.
#[derive(Debug, Clone)]
pub(crate) struct Vital {
    ended_tx: UnboundedSender<&'static str>,
}

/// Where the end of something vital is told.
#[derive(Debug)]
pub(crate) struct Ended(UnboundedReceiver<&'static str>);

/// Tells, when it is dropped, that its holder has ended.
struct Guard {
    name: &'static str,
    /// Nothing, if it ended as it should.
    ended_tx: Option<UnboundedSender<&'static str>>,
}

impl Vital {
    /// Makes both ends.
    pub(crate) fn new() -> (Self, Ended) {
        let (ended_tx, ended_rx) = unbounded_channel();
        (Self { ended_tx }, Ended(ended_rx))
    }

    /// Starts a thread. It ends by itself when nobody has work for it any more.
    ///
    /// # Errors
    /// The system has no thread left.
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
    /// Waits for the first end, and returns whose it was.
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
    fn a_panic_is_told_by_name() {
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
