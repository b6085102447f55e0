//! What two runners are told, and when.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use packetfs::tree::Names;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::unbounded_channel;

use super::long::DIR_AT_ONCE_BYTES_MAX;
use super::reach::Reach;
use super::*;
use crate::wire::lists;
use crate::wire::squeeze::Unsqueezer;

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
        self.ask_for(exporter, Ask::Listing(tree(dir)));
    }

    /// Asks for a walk of this test's user.
    fn ask_for(&self, exporter: &ExporterHandle, ask: Ask) {
        self.ask_as(exporter, ask, &[nix::unistd::geteuid().as_raw()]);
    }

    /// Asks for walks of users.
    fn ask_as(&self, exporter: &ExporterHandle, ask: Ask, users: &[u32]) {
        let walk = |&uid: &u32| {
            let user = Owner { uid, gid: uid, groups: Vec::new() };
            Arc::new(Likeness {
                program: b"/bin/cat".to_vec(),
                cwd: b"/".to_vec(),
                user,
                reach: Reach::default(),
            })
        };
        let question = Question { stream: 1, ask, walks: users.iter().map(walk).collect() };
        exporter.ask(self.number, question, self.out_tx.clone());
    }

    async fn next(&mut self) -> Kind {
        self.out_rx.recv().await.expect("the exporter lives").kind
    }

    /// Returns the next answer; what was changed before it is told ahead of it.
    async fn answer(&mut self) -> Answer {
        loop {
            let frame = self.out_rx.recv().await.expect("the exporter lives");
            if frame.kind == Kind::Answer {
                return postcard::from_bytes(&frame.payload).expect("an answer");
            }
        }
    }

    fn has_more(&mut self) -> bool {
        self.out_rx.try_recv().is_ok()
    }
}

fn tree(path: &Path) -> TreePath {
    path.as_os_str().as_bytes().try_into().expect("a sound path")
}

/// A directory that is seen at another path, too, until this is dropped.
struct Bound<'a>(&'a Path);

impl<'a> Bound<'a> {
    fn new(dir: &Path, point: &'a Path) -> Self {
        let none: Option<&str> = None;
        nix::mount::mount(Some(dir), point, none, nix::mount::MsFlags::MS_BIND, none)
            .expect("a test of mounts runs as root");
        Self(point)
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Starts the thread among the mounts of the test.
fn start(vital: &Vital, patience: Duration, watches: usize) -> ExporterHandle {
    let watcher = Watcher::with_watches(watches).expect("an inotify instance");
    let heard = Heard::new(Arc::default(), crate::own_volume::OwnVolume::default());
    start_hearing(vital, heard, patience, watcher).0
}

fn start_hearing(
    vital: &Vital,
    heard: Heard,
    patience: Duration,
    watcher: Watcher,
) -> (ExporterHandle, UnboundedReceiver<Asked>) {
    let files = (heard, Arc::default());
    ExporterHandle::start_with(vital, files, patience, watcher, || Ok(())).expect("a thread")
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
        test(start(&Vital::new().0, PATIENCE, usize::MAX), dir).await;
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
        exporter.drain(1).await.expect("it lives");
        assert_eq!(first.next().await, Kind::Changes);
        assert!(!second.has_more(), "nothing begins there");
        // Nothing has changed since, but the other one was not told.
        exporter.drain(2).await.expect("it lives");
        assert_eq!(second.next().await, Kind::Changes);
        exporter.drain(1).await.expect("it lives");
        exporter.drain(2).await.expect("it lives");
        assert!(!first.has_more() && !second.has_more(), "told once");
    });
}

#[test]
fn changes_come_before_an_answer() {
    with_exporter(async |exporter, dir| {
        let [mut first, mut second] = two_that_know(&exporter, dir.path()).await;
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), "1").expect("writable");
            exporter.drain(1).await.expect("it lives");
            assert_eq!(first.next().await, Kind::Changes);
        }
        second.ask(&exporter, dir.path());
        assert_eq!(second.next().await, Kind::Changes, "both in one piece");
        assert_eq!(second.next().await, Kind::Answer);
    });
}

/// One user's large file keeps nobody waiting.
#[test]
fn a_large_file_is_read_beside_other_questions() {
    with_exporter(async |exporter, dir| {
        let large = dir.path().join("large");
        std::fs::write(&large, vec![7; 128 * 1024 * 1024]).expect("writable");
        let mut runner = Runner::new(1);
        runner.ask_for(&exporter, Ask::Content(tree(&large)));
        runner.ask(&exporter, dir.path());
        assert!(matches!(runner.answer().await, Answer::Listing(_)), "it is not behind the file");
        let Answer::Content(content, None) = runner.answer().await else { panic!("a large file") };
        let packets: Vec<_> = content.manifest.covering(0, u64::MAX).take(8).collect();
        runner.ask_for(&exporter, Ask::Packets(tree(&large), packets.clone()));
        assert!(matches!(runner.answer().await, Answer::Packets(all) if all.len() == 8));
        // What changes while it is read is told ahead of the answer.
        runner.ask_for(&exporter, Ask::Packets(tree(&large), packets));
        std::fs::write(&large, "other").expect("writable");
        runner.ask_for(&exporter, Ask::Content(tree(&large)));
        exporter.drain(1).await.expect("it lives");
        let answers = [runner.answer().await, runner.answer().await];
        let is_new = |it: &Answer| matches!(it, Answer::Content(it, _) if it.attr.bytes == 5);
        assert!(answers.iter().any(is_new));
    });
}

/// The same holds for a large directory, whose listing is that of the time of the answer.
#[test]
fn a_large_directory_is_listed_beside_other_questions() {
    with_exporter(async |exporter, dir| {
        let large = dir.path().join("large");
        std::fs::create_dir(&large).expect("writable");
        for number in 0..20_000 {
            std::fs::write(large.join(format!("a file with a long name {number}")), "")
                .expect("writable");
        }
        assert!(large.metadata().expect("it is there").len() > DIR_AT_ONCE_BYTES_MAX);
        let mut runner = Runner::new(1);
        runner.ask(&exporter, &large);
        runner.ask(&exporter, dir.path());
        let Answer::Listing(small) = runner.answer().await else { panic!("a directory") };
        assert_eq!(small.entries.len(), 1, "it is not behind the large one");
        std::fs::write(large.join("new"), "").expect("writable");
        std::fs::remove_file(large.join("a file with a long name 7")).expect("it is there");
        exporter.drain(2).await.expect("it lives");
        let Answer::Listing(all) = runner.answer().await else { panic!("a directory") };
        assert_eq!(all.entries.len(), 20_000);
        let has = |name: &[u8]| all.entries.iter().any(|entry| *entry.name == *name);
        assert!(has(b"new") && !has(b"a file with a long name 7"));
    });
}

/// Between two walks nobody is asked for what has changed.
#[test]
fn what_is_hidden_is_hidden_where_it_was_mounted_just_now() {
    with_exporter(async |exporter, dir| {
        let [hidden, point] = [".docker", "seen"].map(|name| dir.path().join(name));
        for dir in [&hidden, &point] {
            std::fs::create_dir(dir).expect("writable");
        }
        std::fs::write(hidden.join("config.json"), "a secret").expect("writable");
        let mut runner = Runner::new(1);
        let ask = || Ask::Content(tree(&point.join("config.json")));
        runner.ask_for(&exporter, ask());
        assert_eq!(runner.answer().await, Answer::Failed(libc::ENOENT));
        let _bound = Bound::new(&hidden, &point);
        runner.ask_for(&exporter, ask());
        assert_eq!(runner.answer().await, Answer::Failed(libc::EACCES));
    });
}

/// A runner that lies gets no more than the users whose walks it executes may read.
#[test]
fn a_question_is_answered_with_the_rights_of_those_who_may_have_asked() {
    use std::os::unix::fs::PermissionsExt;
    const ROOT: u32 = 0;
    const USER: u32 = 4711;
    assert!(nix::unistd::geteuid().is_root(), "a test of several users runs as root");
    with_exporter(async |exporter, dir| {
        let make = |name: &str, mode| {
            let path = dir.path().join(name);
            if name.ends_with("dir") {
                std::fs::create_dir(&path).expect("writable");
            } else {
                std::fs::write(&path, name).expect("writable");
            }
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("ours");
            tree(&path)
        };
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        let (open, closed) = (make("open", 0o644), make("closed", 0o600));
        let (searched, shut) = (make("searched-dir", 0o711), make("shut-dir", 0o700));
        let below = make("shut-dir/file", 0o644);
        let mut runner = Runner::new(1);
        let mut is_told = async |ask: &Ask, users: &[u32]| {
            runner.ask_as(&exporter, ask.clone(), users);
            match runner.answer().await {
                Answer::Failed(errno) => {
                    assert_eq!(errno, libc::EACCES, "the walk is executed here");
                    false
                }
                Answer::Listing(listing) => listing.names == Names::Told,
                _ => true,
            }
        };
        let (content, listing) = (Ask::Content, Ask::Listing);
        for (ask, may) in
            [(content(open), true), (content(closed.clone()), false), (content(below), false)]
        {
            assert_eq!(is_told(&ask, &[USER]).await, may, "{ask:?}");
            // What has been read for root, and is cached, is not shown to others either.
            assert!(is_told(&ask, &[ROOT]).await, "{ask:?}");
            assert_eq!(is_told(&ask, &[USER]).await, may, "{ask:?}");
            assert!(is_told(&ask, &[USER, ROOT]).await, "either may have asked: {ask:?}");
            assert_eq!(is_told(&ask, &[]).await, may, "nobody has asked: {ask:?}");
        }
        let mut reader = 1;
        for (dir, may) in [(searched, true), (shut, false)] {
            // Names are shown for all users whose walks the reader has executed.
            reader += 1;
            let mut runner = Runner::new(reader);
            for (users, may) in [(&[][..], may), (&[USER], may), (&[ROOT], true), (&[USER], true)] {
                runner.ask_as(&exporter, listing(dir.clone()), users);
                let Answer::Listing(listed) = runner.answer().await else { panic!("{dir:?}") };
                assert_eq!(listed.names == Names::Told, may, "{dir:?}: {users:?}");
            }
        }
        let packet = packetfs::packet::reference(b"closed");
        let packets = Ask::Packets(closed, vec![(0, packet)]);
        assert!(is_told(&packets, &[ROOT]).await);
        assert!(!is_told(&packets, &[USER]).await);
    });
}

/// They are as secret as the content.
#[test]
fn attributes_are_told_to_who_executes_walks_of_a_user_that_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    const ROOT: u32 = 0;
    const USER: u32 = 4711;
    with_exporter(async |exporter, dir| {
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").expect("writable");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("ours");
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, "user.x", b"1", flags).expect("it has attributes");
        }
        let mut runner = Runner::new(1);
        let mut told = async |users: &[u32]| {
            runner.ask_as(&exporter, Ask::Listing(tree(dir.path())), users);
            let Answer::Listing(listing) = runner.answer().await else {
                panic!("it can be listed")
            };
            let has_any = |name: &[u8]| {
                let entry = listing.entries.iter().find(|entry| *entry.name == *name);
                !entry.expect("it is there").xattrs.is_empty()
            };
            [has_any(b"open"), has_any(b"closed")]
        };
        assert_eq!(told(&[USER]).await, [true, false]);
        assert_eq!(told(&[USER]).await, [true, false]);
        assert_eq!(told(&[ROOT]).await, [true, true], "one of its users may read it");
        let mut late = Runner::new(2);
        late.ask_as(&exporter, Ask::Listing(tree(dir.path())), &[USER]);
        late.answer().await;
        std::fs::write(dir.path().join("closed"), "changed").expect("writable");
        exporter.drain(2).await.expect("it lives");
        let frame = late.out_rx.recv().await.expect("it lives");
        let told = lists::decode_changes(&frame.payload, &mut Unsqueezer::default(), true);
        let [Change::Names { names, .. }] = &told.expect("sound")[..] else { panic!("one change") };
        assert!(
            names.iter().all(|(_, entry)| entry.as_ref().is_some_and(|it| it.xattrs.is_empty()))
        );
    });
}

/// What was not drained is never taken for drained.
#[test]
fn a_thread_that_dies_lets_no_walk_begin() {
    with_exporter(async |_, dir| {
        let (vital, mut ended) = Vital::new();
        let exporter = start(&vital, PATIENCE, usize::MAX);
        let [first, _] = two_that_know(&exporter, dir.path()).await;
        let dies = Job::Run(Box::new(|| panic!("in the middle of its work")));
        exporter.jobs_tx.send(dies).expect("it lives");
        assert_eq!(ended.wait().await, "exporter");
        std::fs::write(dir.path().join("new"), "1").expect("writable");
        assert_eq!(exporter.drain(1).await, Err(Untold::Died));
        let mut late = Runner::new(3);
        late.ask(&exporter, dir.path());
        assert_eq!(late.next().await, Kind::Answer, "that it failed");
        drop(first);
    });
}

#[test]
fn a_thread_that_stands_still_lets_no_walk_begin() {
    with_exporter(async |_, dir| {
        let exporter = start(&Vital::new().0, Duration::from_millis(10), usize::MAX);
        let _runners = two_that_know(&exporter, dir.path()).await;
        let (go_tx, go_rx) = mpsc::channel::<()>();
        let waits = Job::Run(Box::new(move || assert!(go_rx.recv().is_err())));
        exporter.jobs_tx.send(waits).expect("it lives");
        std::fs::write(dir.path().join("new"), "1").expect("writable");
        assert_eq!(exporter.drain(1).await, Err(Untold::Late));
        drop(go_tx);
    });
}

/// Of every kind of change, that of a file which is not watched is told, too.
#[test]
fn what_cannot_be_watched_is_told_of_before_each_walk() {
    with_exporter(async |_, dir| {
        let exporter = start(&Vital::new().0, PATIENCE, 1);
        std::fs::create_dir(dir.path().join("d")).expect("writable");
        std::fs::write(dir.path().join("f"), "1").expect("writable");
        std::fs::hard_link(dir.path().join("f"), dir.path().join("d/g")).expect("linkable");
        let mut runner = Runner::new(1);
        for path in [dir.path().to_owned(), dir.path().join("d")] {
            runner.ask(&exporter, &path);
            // If anything is mounted meanwhile, changes come first.
            assert!(matches!(runner.answer().await, Answer::Listing(_)));
        }
        for _ in 0..2 {
            exporter.drain(1).await.expect("it lives");
            assert_eq!(runner.next().await, Kind::Changes);
        }
    });
}

/// A mount that nobody has heard of is neither looked at for a question nor for a change.
#[test]
fn a_file_system_that_has_not_answered_is_not_looked_at() {
    with_exporter(async |_, dir| {
        let mounts: Arc<Hidden> = Arc::default();
        let heard = Heard::new(Arc::clone(&mounts), crate::own_volume::OwnVolume::default());
        let watcher = Watcher::new().expect("an inotify instance");
        let (exporter, mut unheard_rx) = start_hearing(&Vital::new().0, heard, PATIENCE, watcher);
        let [mut first, second] = two_that_know(&exporter, dir.path()).await;
        let table = format!("1 0 0:99 / {} rw - fuse f rw\n", dir.path().display());
        mounts.set_mounts(Arc::new(packetfs::mounts::Mounts::parse(table.as_bytes())));
        std::fs::write(dir.path().join("new"), "1").expect("writable");
        exporter.drain(1).await.expect("it lives");
        let frame = first.out_rx.recv().await.expect("it lives");
        let told = lists::decode_changes(&frame.payload, &mut Unsqueezer::default(), true);
        assert_eq!(told.ok(), Some(vec![Change::Forget { dir: tree(dir.path()) }]));
        second.ask(&exporter, dir.path());
        let asked = unheard_rx.recv().await.expect("it is handed back");
        assert_eq!((asked.reader, asked.tries), (2, 0));
        exporter.ask_again(Asked { tries: TRIES_MAX, ..asked });
        let mut second = second;
        assert_eq!(second.answer().await, Answer::Failed(libc::EIO));
    });
}

/// Who may not have a packet is not told who holds it, and gets no ticket for it.
#[test]
fn a_holder_is_named_to_whom_the_packet_may_be_sent_alone() {
    use std::os::unix::fs::PermissionsExt;

    use crate::wire::holding::Held;
    const ROOT: u32 = 0;
    const USER: u32 = 4711;
    assert!(nix::unistd::geteuid().is_root(), "a test of several users runs as root");
    with_exporter(async |exporter, dir| {
        let make = |name: &str, mode| {
            let (path, content) = (dir.path().join(name), name.repeat(5000));
            std::fs::write(&path, &content).expect("writable");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("ours");
            (tree(&path), packetfs::packet::reference(content.as_bytes()))
        };
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("ours");
        let [(open, shown), (closed, secret)] = [make("open", 0o644), make("closed", 0o600)];
        let mut runners = [1, 2, 3, 4].map(Runner::new);
        let mut keys = Vec::new();
        for runner in &mut runners {
            let node = format!("n{}", runner.number).parse().expect("a sound name");
            exporter.meet(
                runner.number,
                Peer { node, round_trip: None, knows_own_held: true },
                runner.out_tx.clone(),
            );
            let frame = runner.out_rx.recv().await.expect("the exporter lives");
            keys.push(TicketKey::decode(&frame.payload).expect("a key"));
        }
        let mut ask = async |runner: usize, ask: Ask, user: u32| {
            let runner = &mut runners[runner];
            runner.ask_as(&exporter, ask, &[user]);
            let mut held = Vec::new();
            loop {
                let frame = runner.out_rx.recv().await.expect("the exporter lives");
                match frame.kind {
                    Kind::Held => held.extend(Held::decode(&frame.payload).expect("a list")),
                    _ => return (held, postcard::from_bytes(&frame.payload).expect("an answer")),
                }
            }
        };
        for path in [&open, &closed] {
            let (held, answer) = ask(0, Ask::Content(path.clone()), ROOT).await;
            assert!(held.is_empty() && matches!(answer, Answer::Content(_, Some(_))));
        }
        let packets = |path: &TreePath, packet| Ask::Packets(path.clone(), vec![(0, packet)]);
        // The file is closed, or has another content.
        for ask_for in
            [Ask::Content(closed.clone()), packets(&closed, secret), packets(&open, secret)]
        {
            let (held, answer) = ask(1, ask_for, USER).await;
            assert_eq!(held, []);
            assert!(!matches!(answer, Answer::Content(..)), "{answer:?}");
            assert!(!matches!(&answer, Answer::Packets(packets) if !packets.is_empty()));
        }
        let takers = [
            (1, packets(&open, shown), USER, shown),
            (2, packets(&closed, secret), ROOT, secret),
            (3, Ask::Content(closed.clone()), ROOT, secret),
        ];
        for (taker, question, user, packet) in takers {
            let (held, answer) = ask(taker, question, user).await;
            let [Held { holder, ticket, packets: held }] = held.as_slice() else {
                panic!("{held:?}")
            };
            assert_eq!((holder.as_str(), held.as_slice()), ("n1", &[packet][..]));
            let node = format!("n{}", taker + 1).parse().expect("a sound name");
            assert!(keys[0].admits(&node, held, ticket));
            assert!(matches!(answer, Answer::Packets(packets) if packets.is_empty()) || taker == 3);
            // Whoever asks again could not get it there.
            let path = if packet == shown { &open } else { &closed };
            let (held, answer) = ask(taker, packets(path, packet), user).await;
            assert_eq!(held, []);
            assert!(matches!(answer, Answer::Packets(packets) if packets.len() == 1));
        }
        // What was a file's is not given once the file has another content.
        std::fs::write(dir.path().join("open"), "changed").expect("writable");
        let (held, _) = ask(3, packets(&open, shown), USER).await;
        assert_eq!(held, []);
    });
}
