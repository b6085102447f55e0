//! Requests to the agent of this machine.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use worknode::door::{HEADER_BYTES, Header, Kind};
use worknode::request::{Reply, Request, Status};

/// An agent that needs longer is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A report of 100,000 walks has about 30 MB.
const REPLY_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// A connection to the agent. A session lives as long as it.
#[derive(Debug)]
pub(crate) struct Door {
    stream: UnixStream,
    path: PathBuf,
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    #[error("no agent at {path}")]
    NoAgent {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to talk to the agent at {path}")]
    Broken {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent at {path} speaks another protocol: install one version of OS Walk")]
    Protocol { path: PathBuf },
    #[error("{0}")]
    Failed(String),
}

impl Door {
    pub(crate) fn open(path: &Path) -> Result<Self, DoorError> {
        let no_agent = |source| DoorError::NoAgent { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(no_agent)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(no_agent)?;
        stream.set_write_timeout(Some(ANSWER_MAX)).map_err(no_agent)?;
        Ok(Self { stream, path: path.to_owned() })
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
        DoorError::Broken { path: self.path.clone(), source }
    }

    /// Sends a request and reads one frame; nothing if the frame is none.
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
