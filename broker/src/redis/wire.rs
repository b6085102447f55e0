//! One connection to Redis. Only this file depends on the redis crate.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, PushKind, RedisConnectionInfo, RedisError,
};
use tokio::io::{AsyncRead, AsyncWrite, join, split};
use tokio::net::{TcpStream, UnixStream};

use super::measured::Measured;
use crate::dial::Dial;
use crate::functions::{self, library};

/// Connection timeout. A slower broker is useless for a build.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a call, which normally takes microseconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An error of the redis crate. Its text includes its cause, so it has no source.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct WireError(RedisError);

impl From<RedisError> for WireError {
    fn from(error: RedisError) -> Self {
        Self(error)
    }
}

impl WireError {
    /// Tells whether the connection is lost.
    pub(crate) fn is_loss(&self) -> bool {
        self.0.is_io_error() || self.0.is_timeout() || self.0.is_unrecoverable_error()
    }

    pub(crate) fn is_denied(&self) -> bool {
        self.0.kind() == ErrorKind::AuthenticationFailed
            || matches!(self.0.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
            || self.says("NOAUTH")
            || self.says("WRONGPASS")
    }

    pub(crate) fn is_too_old(&self) -> bool {
        self.0.kind() == ErrorKind::RESP3NotSupported || self.says("unknown command")
    }

    /// Tells whether Redis may be in protected mode. It sends an error and closes the connection; either may arrive first.
    pub(crate) fn is_protected(&self) -> bool {
        self.says("protected mode")
            || [
                "Connection reset",
                "Broken pipe",
                "broken pipe",
                "unexpected end of file",
                "early eof",
            ]
            .iter()
            .any(|words| self.says(words))
    }

    /// Makes an error from a function's answer to one of several words.
    pub(crate) fn said(words: &str) -> Self {
        let kind = ErrorKind::Extension;
        Self(RedisError::from((kind, "the function failed", words.to_owned())))
    }

    fn is_missing_function(&self) -> bool {
        self.says("Function not found")
    }

    fn says(&self, words: &str) -> bool {
        self.0.to_string().contains(words)
    }
}

/// An unsolicited message on a connection.
#[derive(Debug)]
pub(crate) enum Push {
    /// A message of the node's channel: one note per line.
    Notes(Vec<u8>),
    /// The connection is closed.
    Closed,
}

/// The broker's address.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Url(Box<redis::ConnectionInfo>),
    Through(Arc<dyn Dial>),
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, WireError> {
        let info = url.into_connection_info()?;
        let settings = resp3(info.redis_settings().clone());
        Ok(Self::Url(Box::new(info.set_redis_settings(settings))))
    }

    /// Returns host and port, unless the address is a socket.
    pub(crate) fn host(&self) -> Option<(String, u16)> {
        match self {
            Self::Through(dial) => Some(dial.host()),
            Self::Url(info) => match info.addr() {
                ConnectionAddr::Tcp(host, port) => Some((host.clone(), *port)),
                _ => None,
            },
        }
    }
}

fn resp3(settings: RedisConnectionInfo) -> RedisConnectionInfo {
    settings.set_protocol(ProtocolVersion::RESP3)
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
}

/// A call of a function.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) function: &'static str,
    pub(crate) cell: &'a str,
    pub(crate) caller: &'a str,
    pub(crate) arguments: &'a [&'a [u8]],
}

/// A connection to a server with the functions loaded.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    connection: MultiplexedConnection,
}

impl Wire {
    /// Connects, subscribes to `channel`, and loads the functions unless the server has them.
    pub(crate) async fn open(
        address: &Address,
        channel: &str,
        on_push: impl Fn(Push) + Send + Sync + 'static,
    ) -> Result<Self, WireError> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_push_sender(Pushes(on_push));
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, connect(address, config)).await;
        let mut connection = opened.map_err(|_| timed_out())??;
        connection.subscribe(channel).await?;
        let wire = Self { connection };
        wire.provide_functions().await?;
        Ok(wire)
    }

    /// Tells whether a server answers at the address.
    pub(crate) async fn answers(address: &Address) -> bool {
        let ping = async {
            let mut connection = connect(address, AsyncConnectionConfig::new()).await?;
            Ok::<(), WireError>(redis::cmd("PING").exec_async(&mut connection).await?)
        };
        ping.await.is_ok()
    }

    /// Calls a function. Reloads the functions if the server has lost them.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Value, WireError> {
        match self.call_once(call).await {
            Err(error) if error.is_missing_function() => {
                self.provide_functions().await?;
                self.call_once(call).await
            }
            outcome => outcome,
        }
    }

    async fn call_once(&self, call: &Call<'_>) -> Result<Value, WireError> {
        let mut connection = self.connection.clone();
        let mut command = redis::cmd("FCALL");
        let function = format!("{}_{}", library(), call.function);
        command.arg(function).arg(1).arg(call.cell).arg(call.caller).arg(call.arguments);
        Ok(convert(command.query_async(&mut connection).await?))
    }

    async fn provide_functions(&self) -> Result<(), WireError> {
        let loaded: Result<(), _> = redis::cmd("FCALL")
            .arg(format!("{}_loaded", library()))
            .arg(0)
            .exec_async(&mut self.connection.clone())
            .await;
        match loaded.map_err(WireError) {
            Err(error) if error.is_missing_function() => {}
            loaded => return loaded,
        }
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(functions::text());
        Ok(load.exec_async(&mut self.connection.clone()).await?)
    }
}

/// Opens a connection that limits the size of replies.
async fn connect(
    address: &Address,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, WireError> {
    let info = match address {
        Address::Url(info) => info,
        Address::Through(dial) => {
            let (reading, writing) = split(dial.dial().await.map_err(RedisError::from)?);
            let settings = resp3(RedisConnectionInfo::default());
            return speak(&settings, join(Measured::new(reading), writing), config).await;
        }
    };
    let settings = info.redis_settings();
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            let stream =
                TcpStream::connect((host.as_str(), *port)).await.map_err(RedisError::from)?;
            stream.set_nodelay(true).map_err(RedisError::from)?;
            let (reading, writing) = stream.into_split();
            speak(settings, join(Measured::new(reading), writing), config).await
        }
        ConnectionAddr::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(RedisError::from)?;
            let (reading, writing) = stream.into_split();
            speak(settings, join(Measured::new(reading), writing), config).await
        }
        _ => Err(RedisError::from((ErrorKind::InvalidClientConfig, "TLS is not supported")).into()),
    }
}

async fn speak(
    settings: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, WireError> {
    let (connection, driver) =
        MultiplexedConnection::new_with_config(settings, stream, config).await?;
    // The driver ends with the last clone of the connection.
    tokio::spawn(driver);
    Ok(connection)
}

fn timed_out() -> WireError {
    RedisError::from(io::Error::from(io::ErrorKind::TimedOut)).into()
}

struct Pushes<F>(F);

impl<F: Fn(Push) + Send + Sync + 'static> AsyncPushSender for Pushes<F> {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        match push.kind {
            PushKind::Disconnection => self.0(Push::Closed),
            PushKind::Message => {
                // A message is its channel and its payload.
                if let Some(redis::Value::BulkString(notes)) = push.data.into_iter().nth(1) {
                    self.0(Push::Notes(notes));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn convert(value: redis::Value) -> Value {
    match value {
        redis::Value::Int(number) => Value::Int(number),
        redis::Value::BulkString(bytes) => Value::Bytes(bytes),
        redis::Value::SimpleString(text) => Value::Bytes(text.into_bytes()),
        redis::Value::Array(parts) | redis::Value::Set(parts) => {
            Value::List(parts.into_iter().map(convert).collect())
        }
        _ => Value::Nil,
    }
}
