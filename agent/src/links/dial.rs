//! Connections to a broker that another member runs: its agent relays them.

use std::io;
use std::time::Duration;

use broker::{Dial, Dialed, Stream};
use futures_util::future::select_ok;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use worknode::key::Key;

use crate::membership::Contacts;
use crate::tls::{self, Use};

/// Timeout of one address. All are tried at once.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The way to the broker of a member.
#[derive(Debug)]
pub(crate) struct Relayed {
    contacts: Contacts,
    /// Host and port of its agent, as this node was told when it joined.
    host: String,
    port: u16,
}

impl Relayed {
    /// Returns the way to the agent of the broker's node; `None` if the address is not `HOST:PORT`.
    pub(crate) fn new(contacts: Contacts, address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { contacts, host, port: port.parse().ok()? })
    }
}

impl Dial for Relayed {
    fn dial(&self) -> Dialed {
        let (contacts, first) = (self.contacts.clone(), (self.host.clone(), self.port));
        Box::pin(async move {
            let key = contacts.broker().ok_or(io::ErrorKind::NotFound)?;
            let seen = contacts.addresses(&key).into_iter();
            let seen = seen.map(|address| (address.ip().to_string(), address.port()));
            let calls = seen
                .filter(|address| *address != first)
                .chain([first.clone()])
                .map(|address| Box::pin(call(&contacts, key, address)));
            let (stream, _) = select_ok(calls.collect::<Vec<_>>()).await?;
            Ok::<Box<dyn Stream>, io::Error>(Box::new(stream))
        })
    }

    fn shown(&self) -> String {
        format!("oswalk://{}:{}/", self.host, self.port)
    }

    fn host(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }
}

/// Calls an address. Whoever answers must prove the key.
async fn call(
    contacts: &Contacts,
    key: Key,
    address: (String, u16),
) -> io::Result<impl Stream + use<>> {
    let connector = TlsConnector::from(contacts.identity().caller(key, Use::Broker));
    let called = async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connector.connect(tls::nameless(), stream).await
    };
    tokio::time::timeout(ANSWER_MAX, called).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}
