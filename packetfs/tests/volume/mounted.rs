//! A volume that another process mounts, which can be killed at any moment.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::resource::{Resource, setrlimit};
use packetfs::fuse::volume::VolumeMount;
use packetfs::log::BootId;
use packetfs::volume::{Options, Volume};
use worknode::history::Author;
use worknode::key::SecretKey;

const STORE: &str = "PACKETFS_TEST_STORE";
const POINT: &str = "PACKETFS_TEST_POINT";
const BOOT: &str = "PACKETFS_TEST_BOOT";
const FILES: &str = "PACKETFS_TEST_FILES";
const PASSES: &str = "PACKETFS_TEST_PASSES";
/// What the other process says when the mount is there.
const READY: &str = "the volume is mounted";

/// A mounted volume.
pub(crate) struct Mounted {
    store: PathBuf,
    point: PathBuf,
    passes: bool,
    /// Counts boots of the machine.
    pub(crate) boot: u8,
    /// Limit of descriptors of the process.
    pub(crate) files: Option<u64>,
    child: Option<(Child, BufReader<ChildStdout>)>,
    /// How long the last mount took.
    pub(crate) took: Duration,
}

impl Mounted {
    /// Mounts a volume below a directory.
    pub(crate) fn new(store: &Path, point: &Path, passes: bool) -> Self {
        let mut mounted = Self::prepared(store, point, passes);
        mounted.start();
        mounted
    }

    /// Prepares a mount that is still to be started.
    pub(crate) fn prepared(store: &Path, point: &Path, passes: bool) -> Self {
        for dir in [store, point] {
            std::fs::create_dir_all(dir).expect("a writable directory");
        }
        let (store, point) = (store.to_owned(), point.to_owned());
        Self { store, point, passes, boot: 0, files: None, child: None, took: Duration::ZERO }
    }

    pub(crate) fn start(&mut self) {
        assert!(nix::unistd::geteuid().is_root(), "this test mounts, which needs root");
        assert!(Path::new("/dev/fuse").exists(), "this test needs /dev/fuse");
        let begin = Instant::now();
        self.unmount();
        let mut child = Command::new(env::current_exe().expect("this program has a path"))
            .args(["mounted::serve", "--exact", "--nocapture"])
            .env(STORE, &self.store)
            .env(POINT, &self.point)
            .env(BOOT, self.boot.to_string())
            .envs(self.files.map(|files| (FILES, files.to_string())))
            .env(PASSES, if self.passes { "1" } else { "0" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started");
        let mut said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let is_ready = said.by_ref().lines().map_while(Result::ok).any(|line| line.contains(READY));
        self.child = Some((child, said));
        self.took = begin.elapsed();
        assert!(is_ready, "the volume in {} cannot be mounted", self.store.display());
    }

    /// Kills the process, as a crash of the agent does. The mount stays, and each call fails, until another process serves it.
    pub(crate) fn kill(&mut self) {
        if let Some((mut child, _said)) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a child can be waited for");
        }
    }

    /// Unmounts what a killed process has left, as the end of the machine does.
    pub(crate) fn unmount(&self) {
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }

    /// Unmounts, and waits until the volume is closed.
    pub(crate) fn stop(&mut self) {
        if let Some((mut child, _said)) = self.child.take() {
            drop(child.stdin.take());
            assert!(
                child.wait().expect("a child can be waited for").success(),
                "the volume is closed"
            );
            let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.kill();
        self.unmount();
    }
}

/// How the tests open a volume. `boot` is another number for another boot of the machine.
pub(crate) fn options(passes: bool, boot: u8) -> Options {
    let signer = SecretKey::from_seed(&[7; 32]);
    let boot = Some(BootId([boot; 16]));
    Options { author: Author([1; 16]), signer: Some(signer), may_pass: passes, boot }
}

/// Is the other process, if the environment says so.
#[test]
fn serve() {
    let (Some(store), Some(point)) = (env::var_os(STORE), env::var_os(POINT)) else { return };
    let passes = env::var(PASSES).is_ok_and(|passes| passes == "1");
    let boot = env::var(BOOT).ok().and_then(|boot| boot.parse().ok()).unwrap_or_default();
    if let Some(files) = env::var(FILES).ok().and_then(|files| files.parse().ok()) {
        setrlimit(Resource::RLIMIT_NOFILE, files, files).expect("a limit can be lowered");
    }
    let volume = Volume::open(store.as_ref(), &options(passes, boot)).expect("the volume opens");
    let mount =
        VolumeMount::new(Arc::new(volume), point.as_ref(), false).expect("the volume is mounted");
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{READY}").and_then(|()| out.flush()).expect("the test listens");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(mount);
}
