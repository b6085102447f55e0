//! The lab that all tests share.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::run::{Run, seconds};

/// The nodes of the lab.
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The programs of the tests, each compiled from `tests/programs/NAME.c`.
const PROGRAMS: [&str; 8] =
    ["show", "hooks", "look", "change", "forbidden", "hostile", "leave", "tasks"];
/// When its standard input ends, takes the lab down by the script `$1` and removes the directory `$2`.
const GUARD: &str = r#"
read -r word
"$1" down
[ "$word" = keep ] || rm -rf --one-file-system "$2""#;
/// Limit for starting the lab, which takes about two seconds.
const UP: Duration = seconds(60);
const BUILD: Duration = seconds(900);

/// A lab that is started when the first test needs it.
pub(crate) struct Lab {
    up: OnceLock<Result<Up, String>>,
    /// Read by tests that need all nodes, written by a test that disturbs them.
    peace: RwLock<()>,
}

/// A lab that is up.
pub(crate) struct Up {
    /// The directory that holds the lab, the tests' programs and the tests' directories.
    pub(crate) dir: PathBuf,
    /// The directory with the programs of OS Walk.
    pub(crate) dist: PathBuf,
    id: String,
    guard: Mutex<Option<(Child, ChildStdin)>>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { up: OnceLock::new(), peace: RwLock::new(()) }
    }

    /// Returns the lab for a test that does not disturb the nodes.
    pub(crate) fn shared(&self) -> Result<(&Up, RwLockReadGuard<'_, ()>), String> {
        let up = self.up()?;
        Ok((up, self.peace.read().unwrap_or_else(|poisoned| poisoned.into_inner())))
    }

    /// Returns the lab for one test alone, which must leave it intact.
    pub(crate) fn alone(&self) -> Result<(&Up, RwLockWriteGuard<'_, ()>), String> {
        let up = self.up()?;
        Ok((up, self.peace.write().unwrap_or_else(|poisoned| poisoned.into_inner())))
    }

    fn up(&self) -> Result<&Up, String> {
        self.up.get_or_init(Up::start).as_ref().map_err(Clone::clone)
    }

    /// Takes the lab down, if it is up. After a failure, the tests' files and the agents' logs are kept.
    pub(crate) fn down(&self, failed: bool) {
        let Some(Ok(up)) = self.up.get() else { return };
        let guard = up.guard.lock().ok().and_then(|mut guard| guard.take());
        if let Some((mut child, mut stdin)) = guard {
            if failed {
                up.save_logs();
                let _ = stdin.write_all(b"keep\n");
                eprintln!("files and logs are in {}", up.dir.display());
            }
            drop(stdin);
            let _ = child.wait();
        }
    }
}

impl Up {
    fn start() -> Result<Self, String> {
        let id = format!("tests{}", process::id());
        let dir = env::temp_dir().join(format!("oswalk-{id}"));
        let dist = dist()?;
        fs::create_dir_all(dir.join("bin"))
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        let guard = guard(&dir, &id)?;
        let up = Self { dir, dist, id, guard: Mutex::new(Some(guard)) };
        for program in PROGRAMS {
            up.compile(program)?;
        }
        up.link_rust()?;
        up.lab(&["up", "--nodes", "3", "--slots", "2"])?;
        Ok(up)
    }

    /// Runs `scripts/lab` for this lab.
    pub(crate) fn lab(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = lab_command(&self.dir, &self.id);
        command.args(arguments).env("OSWALK_DIST", &self.dist);
        let run = Run::of(command, UP)?;
        if run.succeeded() { Ok(()) } else { Err(format!("scripts/lab {arguments:?}: {run}")) }
    }

    /// Restarts the agent of a node, and waits until it is a member again.
    pub(crate) fn restart(&self, node: &str) -> Result<(), String> {
        self.lab(&["kill", node])?;
        self.lab(&["heal", node])?;
        crate::nodes::all_join(self, &[node])
    }

    /// Restarts the agent of a node, from a shell with stray open descriptors.
    pub(crate) fn restart_with_descriptors(&self, node: &str) -> Result<(), String> {
        const SHELL: &str = "exec 7</ 100</ 200>>/dev/null; exec \"$@\"";
        self.lab(&["kill", node])?;
        let heal = lab_command(&self.dir, &self.id);
        let mut command = self.command("bash");
        command.args(["-c", SHELL, "bash"]).arg(heal.get_program()).args(["heal", node]);
        let set = heal.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.envs(set).env("OSWALK_DIST", &self.dist);
        let run = Run::of(command, UP)?;
        if run.succeeded() { Ok(()) } else { Err(format!("heal {node}: {run}")) }
    }

    /// Runs `ip` in the network namespace of a node.
    pub(crate) fn ip(&self, node: &str, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new("ip");
        command.args(["-n", &format!("osw-{}-{node}", self.id)]).args(arguments);
        let run = Run::of(command, UP)?;
        if run.succeeded() { Ok(()) } else { Err(format!("ip {arguments:?} for {node}: {run}")) }
    }

    /// Returns the state directory of a node.
    pub(crate) fn state(&self, node: &str) -> PathBuf {
        self.dir.join("lab").join(node)
    }

    /// Returns the path of a program of the tests.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Returns a command with the environment that all runs share, native and walked.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let own = [self.dir.join("bin"), self.dist.clone()];
        let path =
            own.into_iter().chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        let path = env::join_paths(path).expect("no colon in these paths");
        command.env_clear().env("PATH", path).env("HOME", self.dir.join("none")).env("LC_ALL", "C");
        command.env("OSWALK_STATE", self.state("origin")).stdin(Stdio::null());
        command.env("OSWALK_POLICY", self.dir.join("lab/policy.toml"));
        command
    }

    /// Returns the network namespace of a node.
    pub(crate) fn network(&self, node: &str) -> PathBuf {
        format!("/run/netns/osw-{}-{node}", self.id).into()
    }

    /// Returns a command that runs a program in the network of a node.
    pub(crate) fn inside(&self, node: &str, program: &str) -> Command {
        let mut command = self.command("nsenter");
        command.arg(format!("--net={}", self.network(node).display()));
        command.args(["unshare", "--mount", "--propagation", "slave", "--", program]);
        command
    }

    /// Returns a new line with which a node joins the cluster of a member, such as the origin's.
    pub(crate) fn join_line(&self, member: &Path) -> Result<String, String> {
        let mut command = self.command("oswalk");
        command.args(["cluster", "invite"]).env("OSWALK_STATE", member);
        let run = Run::of(command, UP)?;
        let line = run.out().split('\'').nth(1).map(str::to_owned);
        line.ok_or_else(|| format!("oswalk cluster invite: {run}"))
    }

    /// Runs `oswalk cluster` for the agent with a state directory.
    pub(crate) fn cluster(&self, state: &Path, arguments: &[&str]) -> Result<Run, String> {
        let mut command = self.command("oswalk");
        command.arg("cluster").args(arguments).env("OSWALK_STATE", state);
        Run::of(command, UP)
    }

    /// Returns a command that sends a Redis command to the broker.
    pub(crate) fn redis(&self, arguments: &[&str]) -> Result<Command, String> {
        let dir = self.state("broker");
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let settings = read(&dir.join("redis.conf"))?;
        let setting = |name: &str| {
            let found = settings.lines().find_map(|line| line.strip_prefix(name));
            found.map(str::trim).ok_or_else(|| format!("no {name}in {}", dir.display()))
        };
        let net = format!("--net=/run/netns/osw-{}-broker", self.id);
        let mut command = Command::new("nsenter");
        command.args([&net, "redis-cli", "-h", setting("bind ")?, "-p", setting("port ")?]);
        // In the environment, since everybody can read a command line.
        command.args(arguments).env("REDISCLI_AUTH", setting("requirepass ")?);
        Ok(command)
    }

    /// Returns an `oswalk exec` that becomes its command.
    pub(crate) fn exec_unreported(&self) -> Command {
        let mut command = self.command(self.dist.join("oswalk"));
        command.arg("exec");
        command
    }

    /// Returns an `oswalk exec` that writes a report.
    pub(crate) fn exec(&self, report: &Path) -> Command {
        let mut command = self.exec_unreported();
        command.arg("--report").arg(report);
        command
    }

    /// Creates an empty directory for a test.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf, String> {
        let dir = self.dir.join("t").join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(dir)
    }

    /// Returns the mount namespace that the agent of a node was started in, which is that of its exporter
    /// thread. Programs in any other namespace stay.
    pub(crate) fn namespace(&self, node: &str) -> Result<String, String> {
        self.namespace_of(&self.state(node))
    }

    /// Returns that of the agent with a state directory.
    pub(crate) fn namespace_of(&self, state: &Path) -> Result<String, String> {
        let pid = state.join("pid");
        let pid =
            fs::read_to_string(&pid).map_err(|error| format!("{}: {error}", pid.display()))?;
        let tasks = format!("/proc/{}/task", pid.trim());
        let tasks = fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))?;
        let is_exporter = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "exporter")
        };
        let task = tasks.flatten().find(is_exporter).ok_or("the agent has no exporter")?;
        Ok(task.path().join("ns/mnt").display().to_string())
    }

    /// Makes this machine look idle to the origin's agent until the result is dropped, whatever else
    /// runs on it.
    pub(crate) fn idle(&self) -> Result<Idle, String> {
        let file = self.dir.join("loadavg");
        fs::write(&file, "0.00 0.00 0.00 1/100 1\n").map_err(|error| error.to_string())?;
        let pid = self.state("origin").join("pid");
        let pid =
            fs::read_to_string(&pid).map_err(|error| format!("{}: {error}", pid.display()))?;
        let namespace = format!("--mount=/proc/{}/ns/mnt", pid.trim());
        let mut command = Command::new("nsenter");
        command.args([&namespace, "mount", "--bind"]).arg(file).arg(Idle::FILE);
        let run = Run::of(command, UP)?;
        if run.succeeded() { Ok(Idle { namespace }) } else { Err(format!("mount --bind: {run}")) }
    }

    fn save_logs(&self) {
        for node in NODES.into_iter().chain(["origin"]) {
            let log = self.dir.join(format!("{node}.log"));
            let _ = fs::copy(self.state(node).join("oswalkd.log"), log);
        }
    }

    /// Links the toolchain's own programs into the tests' `PATH`, since rustup's proxies need a home.
    fn link_rust(&self) -> Result<(), String> {
        let bin = Path::new(env!("CARGO")).parent().expect("cargo lies in a directory");
        ["cargo", "rustc"].into_iter().try_for_each(|name| {
            symlink(bin.join(name), self.program(name)).map_err(|error| format!("{name}: {error}"))
        })
    }

    fn compile(&self, program: &str) -> Result<(), String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("programs/{program}.c"));
        let mut command = Command::new("gcc");
        command.args(["-O1", "-pthread", "-o"]).arg(self.program(program)).arg(source);
        let run = Run::of(command, UP)?;
        if run.succeeded() { Ok(()) } else { Err(format!("failed to compile {program}: {run}")) }
    }
}

/// While this lives, the machine looks idle to the origin's agent.
pub(crate) struct Idle {
    namespace: String,
}

impl Idle {
    const FILE: &str = "/proc/loadavg";
}

impl Drop for Idle {
    fn drop(&mut self) {
        let mut command = Command::new("nsenter");
        command.args([&self.namespace, "umount", Self::FILE]);
        // Fails if the agent is gone, and its namespace with it.
        let _ = Run::of(command, UP);
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Returns the directory with the built programs, `OSWALK_DIST`, or builds them.
fn dist() -> Result<PathBuf, String> {
    if let Some(dist) = env::var_os("OSWALK_DIST") {
        return Ok(dist.into());
    }
    let run = Run::of(Command::new(root().join("scripts/build")), BUILD)?;
    let dist = String::from_utf8_lossy(&run.stdout).trim().to_owned();
    if run.succeeded() { Ok(dist.into()) } else { Err(format!("scripts/build failed: {run}")) }
}

fn lab_command(dir: &Path, id: &str) -> Command {
    let mut command = Command::new(root().join("scripts/lab"));
    command.env("OSWALK_LAB", id).env("OSWALK_LAB_DIR", dir.join("lab"));
    command
}

/// Starts a process that takes the lab down when this one ends, even by SIGKILL: its standard input then
/// ends.
fn guard(dir: &Path, id: &str) -> Result<(Child, ChildStdin), String> {
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", GUARD, "sh"])
        .arg(root().join("scripts/lab"))
        .arg(dir)
        .env("OSWALK_LAB", id)
        .env("OSWALK_LAB_DIR", dir.join("lab"))
        .stdin(Stdio::piped());
    let failed = |error| format!("failed to start the guard of the lab: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take().expect("was asked for");
    Ok((child, stdin))
}
