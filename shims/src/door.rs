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
use worknode::request::{Reply, Request, Status};

/// Longest wait for an answer. The slowest one, the list of nodes while the broker is away, takes a
/// second.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest reply: a report of 100,000 walks has about 30 MB.
const REPLY_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// Longest path of a unix socket that the kernel accepts.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The hint for a user who is not root, if there is no agent.
const NO_AGENT_OF_A_USER: &str =
    "an agent needs root, and so far serves only root: run 'oswalk up' and the build as root";
/// The hint if the agent serves another user.
const ANOTHER_USERS_AGENT: &str = "so far an agent serves only the user who started it, usually root: run the command as that user";

/// A connection to the agent. A session that it opened ends with it, unless the session ends with this
/// process.
#[derive(Debug)]
pub(crate) struct Door {
    stream: UnixStream,
    path: PathBuf,
    /// The agent's pid; 0 if the agent is in a pid namespace that this process cannot see.
    pid: i32,
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

    pub(crate) fn hint_for(&self, is_root: bool) -> String {
        match self {
            Self::NoAgent { .. } if is_root => "start it with 'oswalk up'".to_owned(),
            Self::NoAgent { .. } => NO_AGENT_OF_A_USER.to_owned(),
            Self::Denied { .. } => ANOTHER_USERS_AGENT.to_owned(),
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
        let address = match UnixAddr::new(path) {
            Err(Errno::ENAMETOOLONG) => {
                return Err(DoorError::PathTooLong { path: path.to_owned() });
            }
            address => address,
        };
        let stream = || -> nix::Result<UnixStream> {
            let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
            let socket = socket(AddressFamily::Unix, kind, flags, None)?;
            let patience = TimeVal::new(ANSWER_MAX.as_secs().cast_signed(), 0);
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
        let pid = getsockopt(&stream, sockopt::PeerCredentials).map_or(0, |peer| peer.pid());
        Ok(Self { stream, path: path.to_owned(), pid })
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, DoorError> {
        let (kind, payload) = self
            .exchange(request)
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

    /// Sends a request and reads one frame; returns `None` if the reply is not a valid frame.
    fn exchange(&mut self, request: &Request) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let body = serde_json::to_vec(request)?;
        let payload_bytes = u32::try_from(body.len()).map_err(io::Error::other)?;
        let header = Header { kind: Kind::Request, fd: 0, payload_bytes };
        self.stream.write_all(&[header.encode().as_slice(), &body].concat())?;
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
