//! The address at which other agents reach this one, and whether it still works.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use nix::ifaddrs::getifaddrs;

use crate::membership::Place;

/// An address of the documentation network, which is behind the default route.
const ELSEWHERE: ([u8; 4], u16) = ([192, 0, 2, 1], 9);

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
    /// Determines the address of an agent that has this place in its cluster and listens on `listen`. One that belongs
    /// to no cluster listens on nothing.
    pub(crate) fn new(
        place: Option<&Place>,
        listen: Option<SocketAddr>,
        broker: Option<(&str, u16)>,
    ) -> Self {
        let broker = broker.and_then(|host| host.to_socket_addrs().ok()?.next());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let way = match (place.and_then(|place| place.advertise), listen) {
            (Some(address), _) => Way::Given(address),
            (None, None) => Way::Given(nowhere),
            (None, Some(listen)) if !listen.ip().is_unspecified() => Way::Listening(listen),
            (None, Some(listen)) => {
                // A laptop may start before it has a network.
                let ip = own_address(broker).unwrap_or(Ipv4Addr::LOCALHOST.into());
                Way::Route { port: listen.port(), last: Cell::new(ip) }
            }
        };
        Self { way, broker }
    }

    /// Returns the address.
    pub(crate) fn now(&self) -> SocketAddr {
        match &self.way {
            Way::Given(address) | Way::Listening(address) => *address,
            Way::Route { port, last } => {
                last.set(own_address(self.broker).unwrap_or(last.get()));
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

/// Returns the address by which this machine reaches the broker, or the rest of the world, or one of its networks.
fn own_address(broker: Option<SocketAddr>) -> Option<IpAddr> {
    let ways = broker.into_iter().chain([SocketAddr::from(ELSEWHERE)]);
    let mut routed = ways.filter_map(|way| route_to(way).ok());
    routed.find(|ip| !ip.is_loopback()).or_else(|| {
        let all = getifaddrs().ok()?.filter_map(|interface| interface.address);
        let mut v4 = all.filter_map(|address| Some(IpAddr::V4(address.as_sockaddr_in()?.ip())));
        v4.find(|ip| !ip.is_loopback())
    })
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
    use super::*;
    use crate::config::Bounds;

    fn reached_at(advertise: Option<&str>, listen: &str, broker: Option<(&str, u16)>) -> ReachedAt {
        let address = |text: &str| text.parse().expect("an address");
        let (listen, advertise) = (address(listen), advertise.map(address));
        let node = "n".parse().expect("a name");
        ReachedAt::new(
            Some(&Place { node, listen, advertise, bounds: Bounds::default(), broker: None }),
            Some(listen),
            broker,
        )
    }

    #[test]
    fn unreachable_addresses_are_detected() {
        const ELSEWHERE: Option<(&str, u16)> = Some(("192.0.2.1", 6379));
        let loopback = "127.0.0.1:7";
        for (advertise, listen, broker, there) in [
            (None, loopback, None, true),
            (None, loopback, Some(("127.0.0.1", 6379)), true),
            (None, loopback, ELSEWHERE, false),
            (None, "192.0.2.7:7", None, false),
            (Some("192.0.2.7:7"), "0.0.0.0:7", ELSEWHERE, true),
        ] {
            let reached = reached_at(advertise, listen, broker);
            assert_eq!(reached.is_there(reached.now()), there, "{advertise:?} {listen} {broker:?}");
        }
    }

    #[test]
    fn an_agent_without_a_cluster_is_reached_by_nobody() {
        let reached = ReachedAt::new(None, None, None);
        assert_eq!(reached.now().port(), 0);
    }
}
