//! A session: one `oswalk exec`, with its policy page and its report.

mod claims;
pub(crate) mod limits;
mod pass;
mod walks;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::task::AbortHandle;
use worknode::id::{NodeId, SessionId, WalkId};
use worknode::notice::{is_in_vain, why_nothing_walked};
use worknode::page::{self, PageContents};
use worknode::policy::{self, BUILT_IN, Rule, Verdict};
use worknode::reason::Reason;
use worknode::report::{Report, StayLine, Totals, WalkLine};
use worknode::request::{Action, CommandFile, SessionOptions};
use worknode::tally;

use crate::pages::Page;
use crate::sys::process;
pub(crate) use claims::Claims;
pub(crate) use pass::Granted;
use walks::Walks;
pub(crate) use walks::argv;

/// Most pairs of program and reason that are counted separately; further programs are counted together.
const STAYS_MAX: usize = 10_000;
/// Most comparisons of a byte of a path with a byte of a rule, for some milliseconds: those of a path of 800 bytes with
/// ten times as many rules as are built in.
const COMPARISONS_MAX: usize = 1024 * 1024;
/// Most bytes of such a program's name, as of a file's, and of a variable's.
const NAME_BYTES_MAX: usize = 255;

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The user of the session.
    pub(crate) uid: u32,
    /// What it may do.
    pub(crate) granted: Granted,
    /// The only acceptable runner, if given.
    pub(crate) on: Option<NodeId>,
    /// Whether a program that should walk but cannot fails.
    pub(crate) no_fallback: bool,
    /// The file of its command.
    command: Option<CommandFile>,
    /// The process that opened it.
    owner: u32,
    /// Whether the owner has become the command, rather than being its parent.
    becomes: bool,
    /// Whether a lone compile step may stay.
    pub(crate) keeps_lone: bool,
    /// Time spent on compile steps that stayed because the transfer to distant nodes would have taken longer.
    stayed_for: Rc<Cell<Duration>>,
    /// Nodes for which the user was told that files are being sent.
    told_of: RefCell<HashSet<NodeId>>,
    /// Number of processes that walk, or stay because they are alone.
    under_way: Rc<Cell<usize>>,
    page_path: PathBuf,
    page: Page,
    /// Where its tally begins.
    page_bytes: u64,
    rules: Vec<(Vec<u8>, Verdict)>,
    /// Whether its walks have no network.
    pub(crate) offline: bool,
    /// The user's choice of variables to send.
    pub(crate) wishes: Arc<Wishes>,
    next_walk: Cell<u32>,
    /// `None` if no report will be requested.
    walks: Option<RefCell<Walks>>,
    stays: RefCell<BTreeMap<Stay, u64>>,
    began: Instant,
    began_unix_ms: u64,
    /// Why nothing could walk at the start, if so.
    notice: Option<String>,
    /// Waits for the process with which the session ends.
    watch: RefCell<Option<AbortHandle>>,
    /// The agent's usage when the session began.
    pub(crate) before: Usage,
}

/// The user's choice of variables, by shell patterns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// Variables to send.
    pub(crate) pass: Vec<String>,
    /// Variables to withhold; programs walk without them.
    pub(crate) without: Vec<String>,
}

impl Wishes {
    /// Returns the bytes of all patterns.
    pub(crate) fn bytes(&self) -> usize {
        self.pass.iter().chain(&self.without).map(String::len).sum()
    }
}

/// A program that stayed, the reason, and the withheld variable.
type Stay = (String, Reason, Option<String>);

/// The agent's resource usage since its start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_us: u64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
}

/// A running process, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Rc<Cell<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A compile step that is executed here.
#[derive(Debug)]
pub(crate) struct Stayed {
    since: Instant,
    sum: Rc<Cell<Duration>>,
}

impl Drop for Stayed {
    fn drop(&mut self) {
        self.sum.set(self.sum.get() + self.since.elapsed());
    }
}

impl Session {
    /// Opens a session whose page lies in `dir` and may be used by the user who opens it, from a process.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a fact of its own, and there is one caller"
    )]
    pub(crate) fn open(
        dir: &Path,
        door: &Path,
        options: &SessionOptions,
        (pid, uid): (u32, u32),
        granted: Granted,
        gate: u32,
        notice: Option<String>,
        is_leaf: bool,
        before: Usage,
        volumes: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let id = granted.session();
        let offline = options.offline || granted.is_offline();
        let page_path = dir.join(id.to_string());
        let rules = rules(options, volumes);
        let bits = [
            (options.walk_all, page::WALK_ALL),
            (options.no_fallback, page::NO_FALLBACK),
            (is_leaf, page::LEAF),
        ];
        let contents = PageContents {
            session: id.0,
            options: bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum(),
            gate,
            page_path: page_path.as_os_str().as_bytes(),
            door_path: door.as_os_str().as_bytes(),
            stub_path: &options.stub,
            preload_path: &options.preload,
            rules: rules.clone(),
            tally_bytes: u32::try_from(tally::WORDS * 8).expect("a tally is 64 KiB"),
        };
        let page = contents.encode();
        let create = || -> std::io::Result<File> {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&page_path)?;
            file.write_all_at(&page, 0)?;
            file.set_len(page.len() as u64 + u64::from(contents.tally_bytes))?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            std::os::unix::fs::fchown(&file, Some(uid), None)?;
            Ok(file)
        };
        let page_file = create()
            .with_context(|| format!("failed to write the policy page {}", page_path.display()))?;
        Ok(Self {
            id,
            uid,
            granted,
            on: options.on.clone(),
            no_fallback: options.no_fallback,
            command: options.command,
            owner: pid,
            becomes: options.becomes,
            keeps_lone: !(options.lone_walks
                || options.walk_all
                || options.no_fallback
                || options.on.is_some()),
            stayed_for: Rc::default(),
            told_of: RefCell::default(),
            under_way: Rc::default(),
            page_path: page_path.clone(),
            page: Page::new(page_file, page.len() as u64 + u64::from(contents.tally_bytes)),
            page_bytes: page.len() as u64,
            rules,
            offline,
            wishes: Arc::new(Wishes {
                pass: options.pass_env.clone(),
                without: options.without_env.clone(),
            }),
            next_walk: Cell::new(1),
            walks: (!options.becomes).then(RefCell::default),
            stays: RefCell::default(),
            began: Instant::now(),
            began_unix_ms: unix_ms(SystemTime::now()),
            notice,
            watch: RefCell::default(),
            before,
        })
    }

    /// Has a task stopped when the session ends, which waits for a process.
    pub(crate) fn set_watch(&self, watch: AbortHandle) {
        self.watch.replace(Some(watch));
    }

    /// Waits no more for the process with which the session would end, and removes the page: processes that outlive the
    /// session find none, and are executed natively.
    pub(crate) fn close(&self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        let _ = std::fs::remove_file(&self.page_path);
    }

    /// Tells whether a process was started by the session's command, rather than being the command.
    pub(crate) fn is_below_command(&self, pid: u32) -> bool {
        if self.becomes {
            return pid != self.owner;
        }
        let parent = process::Status::open(pid).ok().and_then(|status| status.parent());
        parent.is_some_and(|parent| parent != self.owner)
    }

    /// Returns the path of the policy page.
    pub(crate) fn page_path(&self) -> &Path {
        &self.page_path
    }

    pub(crate) fn page(&self) -> &Page {
        &self.page
    }

    /// Sets the gate, which tells whether there is a node to walk to.
    pub(crate) fn set_gate(&self, gate: u32) {
        if let Err(error) =
            self.page.file.write_all_at(&gate.to_le_bytes(), page::GATE_OFFSET as u64)
        {
            tracing::warn!(%error, session = %self.id, "failed to set the gate");
        }
    }

    /// Returns the next walk's id.
    pub(crate) fn next_walk(&self) -> WalkId {
        let number = self.next_walk.get();
        self.next_walk.set(number + 1);
        WalkId { session: self.id, number }
    }

    /// Returns the number of its processes that walk, or stay because they are alone.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    /// Counts a running process until the result is dropped.
    pub(crate) fn note_under_way(&self) -> UnderWay {
        self.under_way.set(self.under_way.get() + 1);
        UnderWay(Rc::clone(&self.under_way))
    }

    /// Records that the user is told of a transfer to a node. Returns false if that has been done before.
    pub(crate) fn is_first_news_of(&self, node: &NodeId) -> bool {
        self.told_of.borrow_mut().insert(node.clone())
    }

    /// Tells whether a compile step may wait for a transfer, because staying has already cost as much time.
    pub(crate) fn affords(&self, price: Duration) -> bool {
        price <= self.stayed_for.get()
    }

    /// Measures the time of a compile step that stayed because of its transfer, until the result is dropped.
    pub(crate) fn note_stayed(&self) -> Stayed {
        Stayed { since: Instant::now(), sum: Rc::clone(&self.stayed_for) }
    }

    /// Tells whether the rules say in a moment what happens to the program at `path`: in the worst case each byte of it is compared
    /// with each of theirs.
    pub(crate) fn may_judge(&self, path: &[u8]) -> bool {
        let bytes: usize = self.rules.iter().map(|(pattern, _)| pattern.len()).sum();
        bytes.saturating_mul(path.len()) <= COMPARISONS_MAX
    }

    /// Returns the verdict of the rules on the program at `path`.
    pub(crate) fn verdict(&self, path: &[u8]) -> Option<Verdict> {
        let mut rules =
            self.rules.iter().map(|(pattern, verdict)| Rule { pattern, verdict: *verdict });
        rules.find(|rule| rule.names(path)).map(|rule| rule.verdict)
    }

    /// Tells whether the report may be requested.
    pub(crate) fn keeps_report(&self) -> bool {
        self.walks.is_some()
    }

    /// Returns the current time, relative to the begin of the session.
    pub(crate) fn report_ms(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64() * 1e3
    }

    /// Returns the command's file if the command stayed because it might start others, but started none that a rule
    /// names.
    pub(crate) fn leaf(&self) -> Option<CommandFile> {
        let stays = self.stays();
        let count = |reason: Reason| -> u64 {
            stays.iter().filter(|stay| stay.reason == reason.name()).map(|stay| stay.count).sum()
        };
        let all: u64 = stays.iter().map(|stay| stay.count).sum();
        let is_leaf = self.next_walk.get() == 1
            && count(Reason::Driver) == 1
            && all == 1 + count(Reason::Unlisted);
        self.command.filter(|_| is_leaf)
    }

    /// Adds a committed walk to the report.
    pub(crate) fn add_walk(&self, line: WalkLine) {
        if let Some(walks) = &self.walks {
            let end_ms = self.report_ms(Instant::now());
            walks.borrow_mut().add(WalkLine { end_ms, ..line });
        }
    }

    /// Adds a process whose stub reached the agent, but which stayed nevertheless.
    pub(crate) fn add_stay(&self, argv0: &str, reason: Reason, withheld: Option<String>) {
        if !self.keeps_report() {
            return;
        }
        let mut stays = self.stays.borrow_mut();
        let name = |text: &str| text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned();
        let key = (name(argv0), reason, withheld.as_deref().map(name));
        let is_new = !stays.contains_key(&key);
        let key =
            if is_new && stays.len() >= STAYS_MAX { (String::new(), reason, None) } else { key };
        *stays.entry(key).or_default() += 1;
    }

    /// Tells whether programs should have walked but none did.
    pub(crate) fn walked_in_vain(&self) -> bool {
        let walked = self.walks.as_ref().is_some_and(|walks| walks.borrow().count() > 0);
        !walked && self.stays().iter().any(|stay| is_in_vain(&stay.reason))
    }

    /// Makes the report. `now` is the agent's current usage; `notice` tells why nothing can walk at present.
    pub(crate) fn report(&self, now: Usage, notice: Option<String>) -> Report {
        let stays = self.stays();
        let why_not = self
            .walked_in_vain()
            .then(|| {
                let session = || self.notice.clone();
                notice.or_else(session).or_else(|| why_nothing_walked(&stays, std::process::id()))
            })
            .flatten();
        // They may be many, and nobody asks again.
        let walks = self.walks.as_ref().map(RefCell::take).unwrap_or_default();
        let totals = Totals {
            walks: walks.count(),
            stays: stays.iter().map(|stay| stay.count).sum(),
            wall_ms: self.began.elapsed().as_secs_f64() * 1e3,
            origin_cpu_ms: walks.origin_cpu_ms + ms(now.cpu_us - self.before.cpu_us),
            runner_cpu_ms: walks.runner_cpu_ms,
            bytes_out: now.bytes_out - self.before.bytes_out,
            bytes_back: now.bytes_in - self.before.bytes_in,
        };
        Report {
            began_unix_ms: self.began_unix_ms,
            why_not,
            lost: None,
            walks: walks.lines,
            walks_left_out: walks.left_out,
            stays,
            totals,
        }
    }

    fn stays(&self) -> Vec<StayLine> {
        let mut counts: BTreeMap<(String, String, Option<String>), u64> = BTreeMap::new();
        for ((argv0, reason, withheld), count) in self.stays.borrow().iter() {
            let line = (argv0.clone(), reason.name().to_owned(), withheld.clone());
            *counts.entry(line).or_default() += count;
        }
        let mut bytes = vec![0; tally::WORDS * 8];
        if self.page.file.read_exact_at(&mut bytes, self.page_bytes).is_ok() {
            for line in tally::read(&bytes) {
                let argv0 = String::from_utf8_lossy(&line.name).into_owned();
                let reason = line.reason.map_or("untallied", Reason::name).to_owned();
                *counts.entry((argv0, reason, None)).or_default() += line.count;
            }
        }
        counts
            .into_iter()
            .map(|((argv0, reason, variable), count)| StayLine { argv0, reason, variable, count })
            .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// Converts microseconds to milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the user's rules, the built-in ones, and last those of mounted volumes.
fn rules(options: &SessionOptions, volumes: &[PathBuf]) -> Vec<(Vec<u8>, Verdict)> {
    let user = options.rules.iter().map(|rule| {
        let verdict = match rule.action {
            Action::Walk => Verdict::Walk,
            Action::Stay => Verdict::Stay(Reason::Rule),
            Action::Compiler => Verdict::CompilerDriver,
        };
        (rule.pattern.clone().into_bytes(), verdict)
    });
    let built_in =
        BUILT_IN.iter().map(|&(pattern, verdict)| (pattern.as_bytes().to_vec(), verdict));
    let below = |point: &PathBuf| (policy::below(point.as_os_str().as_bytes()), Verdict::Volume);
    user.chain(built_in).chain(volumes.iter().map(below)).collect()
}
