//! The address at which other agents reach this one, and whether it still works.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use anyhow::Context;

use crate::config::Config;

/// The address for other agents, and how it is determined.
#[derive(Debug)]
pub(crate) struct ReachedAt {
    way: Way,
    /// The broker's host and port, if it is reached over the network.
    broker: Option<SocketAddr>,
}

#[derive(Debug)]
enum Way {
    /// Given by the user, who may know of a gateway.
    Given(SocketAddr),
    /// The address it listens on.
    Listening(SocketAddr),
    /// The agent listens on all addresses; others use the one by which it reaches the broker.
    Route { port: u16, last: Cell<IpAddr> },
}

impl ReachedAt {
    /// Determines the address of an agent that listens on `listen`.
    pub(crate) fn new(
        config: &Config,
        listen: SocketAddr,
        broker: Option<(&str, u16)>,
    ) -> anyhow::Result<Self> {
        let broker = broker.and_then(|host| host.to_socket_addrs().ok()?.next());
        let way = match (config.advertise, broker) {
            (Some(address), _) => Way::Given(address),
            (None, _) if !listen.ip().is_unspecified() => Way::Listening(listen),
            (None, Some(broker)) => {
                let ip = route_to(broker).with_context(|| {
                    format!("failed to find the address by which the broker {broker} is reached; give --advertise")
                })?;
                check_private(ip)?;
                Way::Route { port: listen.port(), last: Cell::new(ip) }
            }
            (None, None) => anyhow::bail!(
                "{} is not an address that others can call: name one with --listen, or with --advertise",
                listen.ip()
            ),
        };
        Ok(Self { way, broker })
    }

    /// Returns the address.
    pub(crate) fn now(&self) -> SocketAddr {
        match &self.way {
            Way::Given(address) | Way::Listening(address) => *address,
            Way::Route { port, last } => {
                // Without a route to the broker, a new address could not be announced anyway.
                let route = self.broker.and_then(|broker| route_to(broker).ok());
                last.set(route.filter(|ip| check_private(*ip).is_ok()).unwrap_or(last.get()));
                (last.get(), *port).into()
            }
        }
    }

    /// Tells whether others can reach an address, as far as this machine can tell.
    pub(crate) fn is_there(&self, address: SocketAddr) -> bool {
        if matches!(self.way, Way::Given(_)) {
            return true;
        }
        let broker_is_elsewhere =
            self.broker.is_some_and(|broker| !broker.ip().is_loopback() && !is_own(broker.ip()));
        is_own(address.ip()) && !(address.ip().is_loopback() && broker_is_elsewhere)
    }
}

/// Refuses public addresses: links are not encrypted, so they are as safe as the network that they cross.
pub(crate) fn check_private(ip: IpAddr) -> anyhow::Result<()> {
    let private = match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unspecified(),
    };
    anyhow::ensure!(
        private,
        "{ip} is a public address: links are not encrypted yet; listen on loopback or in a private network"
    );
    Ok(())
}

/// Returns the source address of this machine for packets to `address`. Sends nothing.
fn route_to(address: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

/// Tells whether this machine has an address. Assumes so if that cannot be found out.
fn is_own(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind((ip, 0));
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn reached_at(
        options: &[&str],
        listen: &str,
        broker: Option<(&str, u16)>,
    ) -> anyhow::Result<ReachedAt> {
        let config = Config::parse_from([&["oswalkd", "--state", "/s"], options].concat());
        ReachedAt::new(&config, listen.parse().expect("an address"), broker)
    }

    #[test]
    fn unreachable_addresses_are_detected() {
        const ELSEWHERE: Option<(&str, u16)> = Some(("192.0.2.1", 6379));
        let loopback = "127.0.0.1:7";
        for (options, listen, broker, there) in [
            (&[][..], loopback, None, true),
            (&[], loopback, Some(("127.0.0.1", 6379)), true),
            (&[], loopback, ELSEWHERE, false),
            (&[], "192.0.2.7:7", None, false),
            (&["--advertise", "192.0.2.7:7"], "0.0.0.0:7", ELSEWHERE, true),
        ] {
            let reached = reached_at(options, listen, broker).expect("an address");
            assert_eq!(reached.is_there(reached.now()), there, "{options:?} {listen} {broker:?}");
        }
    }

    #[test]
    fn an_agent_on_all_addresses_uses_its_route_to_the_broker() {
        let reached = reached_at(&[], "0.0.0.0:7", Some(("127.0.0.1", 6379))).expect("an address");
        assert_eq!(reached.now(), "127.0.0.1:7".parse().expect("an address"));
        assert!(reached.is_there(reached.now()));
        assert!(reached_at(&[], "0.0.0.0:7", None).is_err());
    }
}
