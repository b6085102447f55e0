//! Who calls this agent. Until they have greeted, callers are nobody: there are few of them at once, each for
//! a short time, and they say little.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use crate::agent::Agent;
use crate::link::call::LINK_TIMEOUT;
use crate::link::guarded::Guarded;
use crate::link::handshake::{Peer, Purpose};
use crate::link::{self, handshake};

/// Callers that have not greeted, in all: as many as a large cluster has nodes, which may all call at once
/// when the network is back.
const CALLERS_MAX: usize = 256;
/// And from one address: a node calls once at a time; some may be behind one address.
const CALLERS_PER_ADDRESS_MAX: usize = 16;
/// Pauses after a failure to accept double from the first to the second: descriptors or memory are short, and
/// some will be free again soon.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts links as long as the agent lives.
pub(crate) async fn accept(agent: Rc<Agent>, listener: TcpListener) {
    let callers = Rc::new(Callers::default());
    let mut pause = PAUSE_MIN;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "failed to accept a link");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        pause = PAUSE_MIN;
        let Some(caller) = callers.enter(address.ip()) else {
            tracing::warn!(%address, "refused a link: too many callers have not greeted");
            continue;
        };
        let agent = Rc::clone(&agent);
        tokio::task::spawn_local(async move {
            match tokio::time::timeout(LINK_TIMEOUT, greet(&agent, stream)).await {
                // That it can call says nothing of whether it can be called.
                Ok(Ok((_, _, Purpose::Greet))) => {}
                Ok(Ok((socket, peer, Purpose::Link))) => {
                    agent.start_link(socket, peer, false);
                }
                Ok(Err(error)) => tracing::warn!(%address, "refused a link: {error:#}"),
                Err(_) => tracing::warn!(%address, "refused a link: it did not greet in time"),
            }
            drop(caller);
        });
    }
}

async fn greet(agent: &Agent, stream: TcpStream) -> anyhow::Result<(link::Socket, Peer, Purpose)> {
    link::prepare(&stream)?;
    let (stream, config) = (Guarded::new(stream), Some(link::socket_config()));
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, config).await?;
    let answered = Instant::now();
    let (peer, purpose) = handshake::answer(&mut socket, &agent.own(), agent.secret()).await?;
    agent.transfers.note_distance(&peer.node, answered.elapsed());
    socket.get_mut().open();
    Ok((socket, peer, purpose))
}

/// Counts callers that have not greeted.
#[derive(Debug, Default)]
struct Callers {
    by_address: RefCell<HashMap<IpAddr, usize>>,
}

/// A caller that has not greeted, until it is dropped.
#[derive(Debug)]
struct Caller {
    callers: Rc<Callers>,
    address: IpAddr,
}

impl Callers {
    /// Counts one more; nothing if there are too many.
    fn enter(self: &Rc<Self>, address: IpAddr) -> Option<Caller> {
        let address = network(address);
        let mut by_address = self.by_address.borrow_mut();
        let all: usize = by_address.values().sum();
        let same = by_address.get(&address).copied().unwrap_or(0);
        if all >= CALLERS_MAX || same >= CALLERS_PER_ADDRESS_MAX {
            return None;
        }
        by_address.insert(address, same + 1);
        Some(Caller { callers: Rc::clone(self), address })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut by_address = self.callers.by_address.borrow_mut();
        match by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(by_address.remove(&self.address)),
        }
    }
}

/// Returns what one machine has: of IPv6, the first 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_have_not_greeted_are_few() {
        let callers = Rc::new(Callers::default());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let mut inside: Vec<_> = (0..1000).map_while(|_| callers.enter(address(1))).collect();
        assert_eq!(inside.len(), CALLERS_PER_ADDRESS_MAX);
        inside.extend((2..1000).map_while(|number| callers.enter(address(number))));
        assert_eq!(inside.len(), CALLERS_MAX);
        inside.clear();
        assert!(callers.by_address.borrow().is_empty(), "who has left is forgotten");
        let six = |last| IpAddr::from([0xfd00, 1, 2, 3, 9, 9, 9, last]);
        inside.extend((0..1000).map_while(|last| callers.enter(six(last))));
        assert_eq!(inside.len(), CALLERS_PER_ADDRESS_MAX);
    }
}
