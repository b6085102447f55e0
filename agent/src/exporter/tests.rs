//! What two runners are told, and when.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::unbounded_channel;

use super::*;

/// A runner, as the exporter sees it.
struct Runner {
    number: ReaderId,
    out_tx: UnboundedSender<Frame>,
    out_rx: UnboundedReceiver<Frame>,
}

impl Runner {
    fn new(number: ReaderId) -> Self {
        let (out_tx, out_rx) = unbounded_channel();
        Self { number, out_tx, out_rx }
    }

    fn ask(&self, exporter: &ExporterHandle, dir: &Path) {
        let ask = Ask::Listing(dir.as_os_str().as_bytes().try_into().expect("a sound path"));
        let question = Question { stream: 1, ask, walks: Vec::new() };
        exporter.ask(self.number, question, self.out_tx.clone());
    }

    async fn next(&mut self) -> Kind {
        self.out_rx.recv().await.expect("the exporter lives").kind
    }

    fn has_more(&mut self) -> bool {
        self.out_rx.try_recv().is_ok()
    }
}

fn with_exporter<F: Future<Output = ()>>(
    test: impl FnOnce(ExporterHandle, tempfile::TempDir) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    runtime.block_on(async {
        test(ExporterHandle::start(&Vital::new().0, Arc::default()).expect("a thread"), dir).await;
    });
}

/// Returns two runners that have asked what is in a directory.
async fn two_that_know(exporter: &ExporterHandle, dir: &Path) -> [Runner; 2] {
    let mut runners = [Runner::new(1), Runner::new(2)];
    for runner in &mut runners {
        runner.ask(exporter, dir);
        assert_eq!(runner.next().await, Kind::Answer);
    }
    runners
}

#[test]
fn changes_go_to_where_something_begins() {
    with_exporter(async |exporter, dir| {
        let [mut first, mut second] = two_that_know(&exporter, dir.path()).await;
        std::fs::write(dir.path().join("new"), "1").expect("writable");
        exporter.drain(1).await;
        assert_eq!(first.next().await, Kind::Changes);
        assert!(!second.has_more(), "nothing begins there");
        // Nothing has changed since, but the other one was not told.
        exporter.drain(2).await;
        assert_eq!(second.next().await, Kind::Changes);
        exporter.drain(1).await;
        exporter.drain(2).await;
        assert!(!first.has_more() && !second.has_more(), "told once");
    });
}

#[test]
fn changes_come_before_an_answer() {
    with_exporter(async |exporter, dir| {
        let [mut first, mut second] = two_that_know(&exporter, dir.path()).await;
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), "1").expect("writable");
            exporter.drain(1).await;
            assert_eq!(first.next().await, Kind::Changes);
        }
        second.ask(&exporter, dir.path());
        assert_eq!(second.next().await, Kind::Changes, "both in one piece");
        assert_eq!(second.next().await, Kind::Answer);
    });
}
