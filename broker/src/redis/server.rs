//! A private Redis server: a child process on a unix socket, restarted when it dies.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use worknode::said::Said;

use super::wire::{Address, Wire};
use crate::error::ServerError;

/// Timeout for the first answer. Even a large log loads faster.
const READY_MAX: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(10);
/// Mode of the log, which only the user may read.
const LOG_MODE: u32 = 0o600;
/// Pauses between restarts double from the first to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Uptime after which a server counts as healthy, and the pauses restart at the minimum.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// The file in the server's directory that says who may do what.
const USERS: &str = "users.acl";
/// The user of other nodes.
const GUEST: &str = "guest";
const GUEST_ANSWER: &[u8; 5] = b"+OK\r\n";
/// What the client calls, and the functions. Not what administers the server, lists keys or waits.
const GUEST_COMMANDS: &str = "+@read +@write +hello +ping +subscribe +publish +time \
     -@dangerous -@blocking -@scripting +fcall +function|load";
/// `sun_path` without its NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A private Redis server. It ends when this is dropped.
#[derive(Debug)]
pub struct PrivateServer {
    url: String,
    guest: Guest,
    room: Arc<Room>,
    /// Joined on drop, after `stop` is set in the room.
    supervisor: Option<JoinHandle<()>>,
}

/// The state that the supervisor and the owner share.
#[derive(Debug, Default)]
struct Room {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// Present from its start until it is reaped, so that its pid can be signalled safely.
    child: Option<Child>,
    starts: u32,
}

impl Room {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PrivateServer {
    /// Starts a server with its socket, data and log in `dir`, and waits until it answers.
    ///
    /// # Errors
    /// Redis is not installed, or does not start.
    pub async fn start(dir: &Path) -> Result<Self, ServerError> {
        let binary = which::which("redis-server")
            .or_else(|_| which::which("valkey-server"))
            .map_err(|_| ServerError::NotInstalled)?;
        let socket = dir.join("redis.sock");
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(ServerError::PathTooLong { path: socket, max: SOCKET_PATH_BYTES_MAX });
        }
        let failed =
            |source| ServerError::Start { binary: binary.clone(), dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        // The socket of an earlier server would be mistaken for the new one's.
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let password = fresh_password().map_err(failed)?;
        let guest = Guest { socket: socket.clone(), password: fresh_password().map_err(failed)? };
        write_users(dir, &password, &guest.password).map_err(failed)?;
        let plan = Plan { binary: binary.clone(), dir: dir.to_owned(), socket: socket.clone() };
        let room = Arc::new(Room::default());
        let supervisor = std::thread::Builder::new()
            .name("redis-supervisor".to_owned())
            .spawn({
                let room = Arc::clone(&room);
                move || supervise(&plan, &room)
            })
            .map_err(failed)?;
        let url = format!("redis+unix://{}?pass={password}", socket.display());
        let server = Self { url, guest, room, supervisor: Some(supervisor) };
        if server.answers().await {
            return Ok(server);
        }
        Err(ServerError::Silent { binary, socket, log_line: last_line(&log_path(dir)) })
    }

    /// Returns the URL to connect to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns how other nodes are let in.
    #[must_use]
    pub fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// Returns the server's process id, unless it is being restarted.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.room.state().child.as_ref().map(Child::id)
    }

    async fn answers(&self) -> bool {
        let Ok(address) = Address::parse(&self.url) else { return false };
        let deadline = Instant::now() + READY_MAX;
        // A server that restarts before its first answer cannot run here.
        while Instant::now() < deadline && self.room.state().starts <= 1 {
            if Wire::answers(&address).await {
                return true;
            }
            tokio::time::sleep(READY_POLL).await;
        }
        false
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        {
            let mut state = self.room.state();
            state.stop = true;
            if let Some(child) = &state.child {
                let _ = kill(pid_of(child), Signal::SIGTERM);
            }
        }
        self.room.stopped.notify_all();
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

/// Admits other nodes, whose connections an agent relays: as a user that may call functions but not
/// administer the server. They never learn the password.
#[derive(Clone)]
pub struct Guest {
    socket: PathBuf,
    password: String,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Guest {
    /// Makes a connection for another node.
    ///
    /// # Errors
    /// The server is away.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(format!("AUTH {GUEST} {}\r\n", self.password).as_bytes()).await?;
        let mut answer = [0; GUEST_ANSWER.len()];
        stream.read_exact(&mut answer).await?;
        if answer == *GUEST_ANSWER {
            Ok(stream)
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
}

/// Writes who may do what: the agent everything, guests what the functions need.
fn write_users(dir: &Path, password: &str, of_guests: &str) -> io::Result<()> {
    let users = format!(
        "user default on >{password} ~* &* +@all\n\
         user {GUEST} on >{of_guests} ~* &* -@all {GUEST_COMMANDS}\n"
    );
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(LOG_MODE);
    file.custom_flags(OFlag::O_NOFOLLOW.bits()).open(dir.join(USERS))?.write_all(users.as_bytes())
}

/// Makes a password, of 32 hex digits.
fn fresh_password() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The server's binary and its directory.
struct Plan {
    binary: PathBuf,
    dir: PathBuf,
    socket: PathBuf,
}

impl Plan {
    fn spawn(&self) -> io::Result<Child> {
        let mut options = File::options();
        let log = options.write(true).create(true).truncate(true).mode(LOG_MODE);
        let log = log.custom_flags(OFlag::O_NOFOLLOW.bits()).open(log_path(&self.dir))?;
        let mut command = Command::new(&self.binary);
        command
            .current_dir(&self.dir)
            .args(["--port", "0", "--unixsocketperm", "600", "--daemonize", "no"])
            // No fsync: while one is under way, Redis answers before it writes, and a kill would lose
            // what it acknowledged. Written data is in the kernel and survives the server.
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "no"])
            // No latency histogram, and no scores stored as text: each saves a tenth of a call.
            .args(["--latency-tracking", "no", "--zset-max-listpack-entries", "0"])
            // The default of 10 costs an idle machine 2.4 ms of CPU time per second. Calls do the work of
            // these timers anyway.
            .args(["--hz", "2"])
            .args(["--aclfile", USERS])
            .arg("--dir")
            .arg(&self.dir)
            .arg("--unixsocket")
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        die_with_us(&mut command);
        command.spawn()
    }
}

/// Ends the server with this thread, which lives as long as the [`PrivateServer`].
#[expect(unsafe_code, reason = "pre_exec is the only way to run prctl in the child")]
fn die_with_us(command: &mut Command) {
    let die = || prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(die) };
}

fn supervise(plan: &Plan, room: &Room) {
    let mut pause = BACKOFF_MIN;
    loop {
        let started = Instant::now();
        {
            let mut state = room.state();
            if state.stop {
                return;
            }
            state.starts += 1;
            match plan.spawn() {
                Ok(child) => state.child = Some(child),
                Err(error) => {
                    tracing::error!(%error, binary = %plan.binary.display(), "failed to start redis")
                }
            }
        }
        await_end(room);
        if started.elapsed() > WELL_AFTER {
            pause = BACKOFF_MIN;
        }
        let state = room.state();
        if !state.stop {
            tracing::warn!(?pause, "the private redis ended; restarting it");
        }
        let _unused = room.stopped.wait_timeout_while(state, pause, |state| !state.stop);
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Waits for the child's end, then reaps it under the lock, so that a stale pid is never signalled.
fn await_end(room: &Room) {
    let Some(pid) = room.state().child.as_ref().map(pid_of) else { return };
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        == Err(nix::errno::Errno::EINTR)
    {}
    if let Some(mut child) = room.state().child.take() {
        let _ = child.wait();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("redis.log")
}

fn last_line(path: &Path) -> Said {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().next_back().unwrap_or("(empty)").into()
}
