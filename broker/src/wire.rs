//! One connection to Redis. The only file that names the redis crate.

use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisError,
};

/// A broker that needs longer than this to accept a connection is of no use to a build.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A call takes microseconds; one that takes this long is lost.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The end of a walk deletes its spec; this is for the spec of a walk that the broker never heard
/// of, because the connection broke between the two.
const SPEC_SECONDS: u32 = 24 * 60 * 60;
const SOURCE: &str = include_str!("functions.lua");

/// An error of the redis crate. It says its cause itself, and therefore names none.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct WireError(RedisError);

impl From<RedisError> for WireError {
    fn from(error: RedisError) -> Self {
        Self(error)
    }
}

impl WireError {
    /// The connection is of no use any more.
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

    /// What a function said of one of many things that it was to do.
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

/// What comes over a connection without being asked for.
#[derive(Debug)]
pub(crate) enum Push {
    /// A message of the node's channel: a note in each line.
    Notes(Vec<u8>),
    /// The connection is closed.
    Closed,
}

/// Where the broker is.
#[derive(Debug, Clone)]
pub(crate) struct Address(redis::ConnectionInfo);

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, WireError> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true);
        Ok(Self(info.set_redis_settings(settings).set_tcp_settings(tcp)))
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
}

impl Value {
    pub(crate) fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// A call of a function.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) function: &'static str,
    pub(crate) cell: &'a str,
    pub(crate) caller: &'a str,
    pub(crate) arguments: &'a [&'a [u8]],
    /// Keys and values that are stored just before, in the same write.
    pub(crate) specs: &'a [(&'a str, &'a [u8])],
}

/// A connection whose server has the functions.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    connection: MultiplexedConnection,
}

impl Wire {
    /// Connects, loads the functions if the server has others, and subscribes to `channel`.
    pub(crate) async fn open(
        address: &Address,
        channel: &str,
        on_push: impl Fn(Push) + Send + Sync + 'static,
    ) -> Result<Self, WireError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_push_sender(Pushes(on_push));
        let mut connection = Client::open(address.0.clone())?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        connection.subscribe(channel).await?;
        let wire = Self { connection };
        wire.provide_functions().await?;
        Ok(wire)
    }

    /// Tells whether a server answers at the address.
    pub(crate) async fn answers(address: &Address) -> bool {
        let ping = async {
            let client = Client::open(address.0.clone())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").exec_async(&mut connection).await
        };
        ping.await.is_ok()
    }

    /// Calls a function. Loads the functions once more if the server lost them.
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
        command.arg(call.function).arg(1).arg(call.cell).arg(call.caller).arg(call.arguments);
        if call.specs.is_empty() {
            return Ok(convert(command.query_async(&mut connection).await?));
        }
        let mut all = redis::Pipeline::with_capacity(call.specs.len() + 1);
        for (key, spec) in call.specs {
            all.cmd("SET").arg(key).arg(spec).arg("EX").arg(SPEC_SECONDS).ignore();
        }
        let (value,) = all.add_command(command).query_async(&mut connection).await?;
        Ok(convert(value))
    }

    async fn provide_functions(&self) -> Result<(), WireError> {
        let version = version_of(SOURCE);
        let found: Result<String, _> = redis::cmd("FCALL")
            .arg("oswalk_version")
            .arg(0)
            .query_async(&mut self.connection.clone())
            .await;
        match found.map_err(WireError) {
            Ok(found) if found == version => return Ok(()),
            Err(error) if !error.is_missing_function() => return Err(error),
            _ => {}
        }
        let source = SOURCE.replace("@VERSION@", &version);
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(source);
        Ok(load.exec_async(&mut self.connection.clone()).await?)
    }
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

/// FNV-1a of the source: another text is another version.
fn version_of(source: &str) -> String {
    let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
