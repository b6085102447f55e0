//! A volume that another process serves: this program again. It does what lines of its standard input say, and answers each
//! with a line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use packetfs::fuse::volume::VolumeMount;
use packetfs::log::BootId;
use packetfs::volume::{Options, Policy, Volume, moment};
use worknode::history::Author;
use worknode::key::SecretKey;

/// The directory below which this process serves a volume, if it is set.
const DIR: &str = "PACKETFS_BENCH_DIR";
/// Time between two looks at whether all contents are packets.
const LOOK: Duration = Duration::from_millis(5);
/// Ticks of a second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// The volume of `DIR/store`, mounted at `DIR/point`.
pub(crate) struct Served {
    dir: PathBuf,
    child: Option<(Child, BufReader<ChildStdout>)>,
}

impl Served {
    pub(crate) fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("point")).expect("the directory is writable");
        let mut served = Self { dir: dir.to_owned(), child: None };
        served.start();
        served
    }

    /// Starts the process; returns how long it took to open and mount the volume.
    pub(crate) fn start(&mut self) -> Duration {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .env(DIR, &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started");
        let said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        self.child = Some((child, said));
        self.answer()
    }

    /// Unmounts, and waits until the volume is closed.
    pub(crate) fn stop(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// Has the process do something; returns how long it took.
    pub(crate) fn ask(&mut self, what: &str) -> Duration {
        let (child, _) = self.child.as_mut().expect("the volume is mounted");
        let stdin = child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{what}").expect("the process listens");
        self.answer()
    }

    /// Waits until all contents are packets.
    pub(crate) fn settle(&mut self) {
        self.ask("settle");
    }

    fn answer(&mut self) -> Duration {
        let (_, said) = self.child.as_mut().expect("the volume is mounted");
        let mut line = String::new();
        said.read_line(&mut line).expect("the process answers");
        let seconds = line.trim().parse().expect("the process works: it says why not");
        Duration::from_secs_f64(seconds)
    }

    /// Returns the CPU time of the process so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<_> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
        Duration::from_secs_f64(ticks / TICKS)
    }

    /// Returns the memory of the process in bytes.
    pub(crate) fn memory(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.expect("a process has memory") * 1024.0
    }

    /// Returns the bytes of all packs.
    pub(crate) fn stored(&self) -> f64 {
        bytes_below(&self.dir.join("store/packs"))
    }

    fn proc(&self, name: &str) -> String {
        let (child, _) = self.child.as_ref().expect("the volume is mounted");
        std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).expect("the process lives")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the bytes of all files below a directory.
pub(crate) fn bytes_below(dir: &Path) -> f64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_below(&entry.path()),
        Ok(data) => f64::from(u32::try_from(data.len()).unwrap_or(u32::MAX)),
        Err(_) => 0.0,
    });
    bytes.sum()
}

/// Is the other process, if the environment says so.
pub(crate) fn serve() -> bool {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return false };
    let begin = Instant::now();
    let options = Options {
        author: Author([1; 16]),
        signer: Some(SecretKey::from_seed(&[7; 32])),
        may_pass: true,
        boot: BootId::current().ok(),
    };
    let volume = Arc::new(Volume::open(&dir.join("store"), &options).expect("the volume opens"));
    let point = dir.join("point");
    let mount = VolumeMount::new(Arc::clone(&volume), &point, false).expect("it is mounted");
    say(begin);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let begin = Instant::now();
        obey(&volume, &dir, line.split_whitespace().collect::<Vec<_>>().as_slice());
        say(begin);
    }
    drop(mount);
    true
}

fn obey(volume: &Arc<Volume>, dir: &Path, words: &[&str]) {
    match words {
        ["settle"] => {
            while volume.stat(&Policy::default()).expect("the volume works").unpacked > 0 {
                std::thread::sleep(LOOK);
            }
        }
        ["gc"] => drop(volume.gc(&Policy::default()).expect("the volume works")),
        ["check"] => {
            let checked = volume.check().expect("the volume works");
            assert!(checked.findings.is_empty(), "the volume is sound: {:?}", checked.findings);
        }
        ["restore", path, time] => {
            let moment = moment::parse(time).expect("a time");
            volume.restore(path.as_bytes(), moment).expect("the volume works");
        }
        ["at", time] => {
            let point = dir.join("at");
            let _ = std::fs::create_dir(&point);
            let moment = moment::parse(time).expect("a time");
            let mount = VolumeMount::at(Arc::clone(volume), &point, moment).expect("it is mounted");
            std::fs::read_dir(&point).expect("the tree can be listed").for_each(drop);
            drop(mount);
        }
        _ => panic!("unknown words {words:?}"),
    }
}

fn say(begin: Instant) {
    println!("{}", begin.elapsed().as_secs_f64());
}
