//! Requests to the agent of this machine.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;
use worknode::door::{HEADER_BYTES, Header, Kind};
use worknode::request::{Reply, Request, Status, WorkProgress};

/// Longest wait for an answer. The slowest one, the list of nodes while the broker is away, takes a
/// second.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest reply: a report of 100,000 walks has about 30 MB.
const REPLY_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// Longest path of a unix socket that the kernel accepts.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The user of a process that the kernel cannot name here.
const NOBODY: u32 = 65_534;

/// The hint for root, if there is no agent.
const NO_AGENT_OF_ROOT: &str = "start it with 'oswalk up'; 'oswalk cluster init' makes a cluster, 'oswalk cluster join LINE' joins one";
/// The hint for a user who is not root, if there is no agent.
const NO_AGENT_OF_A_USER: &str = "start one of your own with 'oswalk up', or ask an administrator of this machine to do it as root: root's agent serves all users";
/// The hint if the agent serves another user.
const ANOTHER_USERS_AGENT: &str = "unset OSWALK_STATE and OSWALK_DOOR, and omit --state, to use the agent that serves all users of this machine";

/// A connection to the agent. A session that it opened ends with it, unless the session ends with this
/// process.
#[derive(Debug)]
pub(crate) struct Door {
    stream: UnixStream,
    path: PathBuf,
    /// The agent's pid; 0 if the agent is in a pid namespace that this process cannot see.
    pid: i32,
    /// The agent's user.
    uid: u32,
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    #[error("no agent at {path}")]
    NoAgent {
        path: PathBuf,
        /// The cause, unless it is just that nobody listens.
        #[source]
        source: Option<io::Error>,
    },
    #[error("the agent at {path} serves another user")]
    Denied { path: PathBuf },
    #[error("the agent at {path} is user {uid}'s, who could read and change what is yours")]
    Untrusted { path: PathBuf, uid: u32 },
    #[error(
        "the path of the state directory is too long: that of its socket, {path}, may have at most \
         {SOCKET_PATH_BYTES_MAX} bytes"
    )]
    PathTooLong { path: PathBuf },
    #[error("the agent{} does not answer within {} s", in_brackets(*.pid), ANSWER_MAX.as_secs())]
    Silent { pid: i32 },
    #[error("failed to talk to the agent at {path}")]
    Broken {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent at {path} speaks another version of the protocol")]
    Protocol { path: PathBuf },
    #[error("{0}")]
    Failed(String),
}

fn in_brackets(pid: i32) -> String {
    if pid > 0 { format!(" (pid {pid})") } else { String::new() }
}

impl DoorError {
    /// Returns the remedy.
    pub(crate) fn hint(&self) -> String {
        self.hint_for(geteuid().is_root())
    }

    /// Tells whether the agent has ended while it was asked.
    pub(crate) fn is_end(&self) -> bool {
        let ends = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ];
        matches!(self, Self::Broken { source, .. } if ends.contains(&source.kind()))
    }

    pub(crate) fn hint_for(&self, is_root: bool) -> String {
        match self {
            Self::NoAgent { .. } if is_root => NO_AGENT_OF_ROOT.to_owned(),
            Self::NoAgent { .. } => NO_AGENT_OF_A_USER.to_owned(),
            Self::Denied { .. } | Self::Untrusted { .. } => ANOTHER_USERS_AGENT.to_owned(),
            Self::PathTooLong { .. } => "choose a shorter one with --state DIR".to_owned(),
            Self::Silent { pid } if *pid > 0 => format!(
                "if it stays silent, end it with 'kill -KILL {pid}', and start another with 'oswalk up'"
            ),
            Self::Protocol { .. } => {
                "use oswalk and oswalkd of one version: end the agent, then run 'oswalk up'"
                    .to_owned()
            }
            _ => "run 'oswalk doctor' to see what is wrong".to_owned(),
        }
    }
}

impl Door {
    /// Connects to the agent. The connection itself may time out, too, if the agent hangs.
    pub(crate) fn open(path: &Path) -> Result<Self, DoorError> {
        Self::open_within(path, ANSWER_MAX)
    }

    /// Connects to the agent, and waits no longer than this for it, nor for each of its answers.
    pub(crate) fn open_within(path: &Path, patience: Duration) -> Result<Self, DoorError> {
        let address = match UnixAddr::new(path) {
            Err(Errno::ENAMETOOLONG) => {
                return Err(DoorError::PathTooLong { path: path.to_owned() });
            }
            address => address,
        };
        let stream = || -> nix::Result<UnixStream> {
            let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
            let socket = socket(AddressFamily::Unix, kind, flags, None)?;
            let patience =
                TimeVal::new(patience.as_secs().cast_signed(), patience.subsec_micros().into());
            setsockopt(&socket, sockopt::SendTimeout, &patience)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
            connect(socket.as_raw_fd(), &address?)?;
            Ok(socket.into())
        };
        let stream = stream().map_err(|errno| match errno {
            Errno::EACCES | Errno::EPERM => DoorError::Denied { path: path.to_owned() },
            Errno::EAGAIN => DoorError::Silent { pid: 0 },
            // The agent was never started, or was killed.
            Errno::ENOENT | Errno::ECONNREFUSED => {
                DoorError::NoAgent { path: path.to_owned(), source: None }
            }
            errno => DoorError::NoAgent { path: path.to_owned(), source: Some(errno.into()) },
        })?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials);
        let uid = peer.map_or(NOBODY, |peer| peer.uid());
        if uid != 0 && uid != geteuid().as_raw() {
            return Err(DoorError::Untrusted { path: path.to_owned(), uid });
        }
        let pid = peer.map_or(0, |peer| peer.pid());
        Ok(Self { stream, path: path.to_owned(), pid, uid })
    }

    /// Tells whether this user may manage the agent.
    pub(crate) fn is_own(&self) -> bool {
        geteuid().is_root() || geteuid().as_raw() == self.uid
    }

    /// Sends a request that may take long, and passes on how far the agent has come.
    pub(crate) fn ask_at_length(
        &mut self,
        request: &Request,
        told: impl Fn(WorkProgress),
    ) -> Result<Reply, DoorError> {
        let mut reply = self.ask(request)?;
        while let Reply::Progress(progress) = reply {
            told(progress);
            reply = self.receive()?;
        }
        Ok(reply)
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, DoorError> {
        self.send(request).map_err(|source| self.broken(source))?;
        self.receive()
    }

    fn receive(&mut self) -> Result<Reply, DoorError> {
        let (kind, payload) = self
            .read()
            .map_err(|source| self.broken(source))?
            .ok_or_else(|| DoorError::Protocol { path: self.path.clone() })?;
        match kind {
            Kind::Request => serde_json::from_slice(&payload).map_err(|_| self.protocol()),
            Kind::Failed => Err(DoorError::Failed(String::from_utf8_lossy(&payload).into_owned())),
            _ => Err(self.protocol()),
        }
    }

    pub(crate) fn status(&mut self) -> Result<Status, DoorError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            _ => Err(self.protocol()),
        }
    }

    pub(crate) fn protocol(&self) -> DoorError {
        DoorError::Protocol { path: self.path.clone() }
    }

    fn broken(&self, source: io::Error) -> DoorError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                DoorError::Silent { pid: self.pid }
            }
            _ => DoorError::Broken { path: self.path.clone(), source },
        }
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        let body = serde_json::to_vec(request)?;
        let payload_bytes = u32::try_from(body.len()).map_err(io::Error::other)?;
        let header = Header { kind: Kind::Request, fd: 0, payload_bytes };
        self.stream.write_all(&[header.encode().as_slice(), &body].concat())
    }

    /// Reads one frame; returns `None` if it is not a valid one.
    fn read(&mut self) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head)?;
        let Some(header) = Header::decode(head) else { return Ok(None) };
        if header.payload_bytes > REPLY_BYTES_MAX {
            return Ok(None);
        }
        let mut payload = Vec::new();
        let size = u64::from(header.payload_bytes);
        (&self.stream).take(size).read_to_end(&mut payload)?;
        if payload.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((header.kind, payload)))
    }
}
