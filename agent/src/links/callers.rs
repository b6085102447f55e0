//! Who calls this agent. Until they have greeted, callers are nobody: there are few of them at once, each for
//! a short time, and they say little. When there are too many, the one that has waited longest goes: to greet takes
//! an honest caller a moment, and whoever says nothing keeps nobody out.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::Links;
use crate::link::call::LINK_TIMEOUT;
use crate::link::guarded::Guarded;
use crate::link::handshake::Peer;
use crate::link::{self, handshake};
use crate::wire::greeting::Purpose;

/// Callers that have not greeted, in all: as many as a large cluster has nodes, which may all call at once
/// when the network is back.
const CALLERS_MAX: usize = 256;
/// And from one network: a node calls once at a time; some may be behind one address.
const CALLERS_PER_NETWORK_MAX: usize = 16;
/// Pauses after a failure to accept double from the first to the second: descriptors or memory are short, and
/// some will be free again soon.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Links {
    /// Accepts links as long as the agent lives.
    pub(crate) async fn accept(self: Rc<Self>, listener: TcpListener) {
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
            let caller = callers.enter(address.ip());
            let links = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                let greeted = tokio::select! {
                    greeted = tokio::time::timeout(LINK_TIMEOUT, links.answer(stream)) => greeted,
                    () = caller.turned_away() => {
                        return tracing::warn!(%address, "refused a link: others call, and it has not greeted");
                    }
                };
                match greeted {
                    // That it can call says nothing of whether it can be called.
                    Ok(Ok((_, _, Purpose::Greet))) => {}
                    Ok(Ok((socket, peer, Purpose::Link))) => {
                        links.start(socket, peer, false);
                    }
                    Ok(Err(error)) => tracing::warn!(%address, "refused a link: {error:#}"),
                    Err(_) => tracing::warn!(%address, "refused a link: it did not greet in time"),
                }
            });
        }
    }

    async fn answer(&self, stream: TcpStream) -> anyhow::Result<(link::Socket, Peer, Purpose)> {
        link::prepare(&stream)?;
        let (stream, config) = (Guarded::new(stream), Some(link::socket_config()));
        let mut socket = tokio_tungstenite::accept_async_with_config(stream, config).await?;
        let answered = Instant::now();
        let (peer, purpose) = handshake::answer(&mut socket, &self.own, &self.secret).await?;
        self.transfers.note_distance(&peer.node, answered.elapsed());
        socket.get_mut().open();
        Ok((socket, peer, purpose))
    }
}

/// Callers that have not greeted, the oldest first.
#[derive(Debug, Default)]
struct Callers {
    waiting: RefCell<Vec<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    network: IpAddr,
    /// Told when it has to go.
    turned_away: Rc<Notify>,
}

/// A caller that has not greeted, until it is dropped.
#[derive(Debug)]
struct Caller {
    callers: Rc<Callers>,
    turned_away: Rc<Notify>,
}

impl Callers {
    /// Takes one more in; if there are too many of its network, or in all, the oldest of that network goes, or of
    /// the one that has most.
    fn enter(self: &Rc<Self>, address: IpAddr) -> Caller {
        let network = network(address);
        let turned_away = Rc::new(Notify::new());
        let mut waiting = self.waiting.borrow_mut();
        let crowd = if count(&waiting, network) >= CALLERS_PER_NETWORK_MAX {
            Some(network)
        } else if waiting.len() >= CALLERS_MAX {
            let networks = waiting.iter().map(|caller| caller.network);
            networks.rev().max_by_key(|&network| count(&waiting, network))
        } else {
            None
        };
        let oldest = waiting.iter().position(|caller| Some(caller.network) == crowd);
        if let Some(oldest) = oldest {
            waiting.remove(oldest).turned_away.notify_one();
        }
        waiting.push(Waiting { network, turned_away: Rc::clone(&turned_away) });
        Caller { callers: Rc::clone(self), turned_away }
    }
}

impl Caller {
    /// Ends when it has to go.
    async fn turned_away(&self) {
        self.turned_away.notified().await;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut waiting = self.callers.waiting.borrow_mut();
        waiting.retain(|caller| !Rc::ptr_eq(&caller.turned_away, &self.turned_away));
    }
}

fn count(waiting: &[Waiting], network: IpAddr) -> usize {
    waiting.iter().filter(|caller| caller.network == network).count()
}

/// Returns what one machine has: of IPv6, the first 64 bits; all that leads back to this one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => IpAddr::from([127, 0, 0, 1]),
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

    fn stays(caller: &Caller) -> bool {
        let all = caller.callers.waiting.borrow();
        all.iter().any(|waiting| Rc::ptr_eq(&waiting.turned_away, &caller.turned_away))
    }

    fn staying(callers: &[Caller]) -> usize {
        callers.iter().filter(|caller| stays(caller)).count()
    }

    #[test]
    fn callers_that_have_not_greeted_are_few() {
        let callers = Rc::new(Callers::default());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let mut inside: Vec<_> = (0..1000).map(|_| callers.enter(address(1))).collect();
        assert_eq!(staying(&inside), CALLERS_PER_NETWORK_MAX);
        assert!(inside[1000 - CALLERS_PER_NETWORK_MAX..].iter().all(stays), "the oldest go");
        inside.extend((2..1000).map(|number| callers.enter(address(number))));
        assert_eq!(staying(&inside), CALLERS_MAX);
        inside.clear();
        assert!(callers.waiting.borrow().is_empty(), "who has left is forgotten");
        let six = |last| IpAddr::from([0xfd00, 1, 2, 3, 9, 9, 9, last]);
        inside.extend((0..1000).map(|last| callers.enter(six(last))));
        assert_eq!(staying(&inside), CALLERS_PER_NETWORK_MAX);
    }

    #[test]
    fn who_says_nothing_keeps_nobody_out() {
        let callers = Rc::new(Callers::default());
        let mut silent = Vec::new();
        for last in 1..=255 {
            silent.extend((0..16).map(|_| callers.enter(IpAddr::from([127, 0, 0, last]))));
        }
        silent.push(callers.enter(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
        assert_eq!(staying(&silent), CALLERS_PER_NETWORK_MAX, "they are one machine");
        let honest = callers.enter(IpAddr::from([10, 0, 0, 7]));
        for third in 0..200 {
            silent.extend((0..16).map(|_| callers.enter(IpAddr::from([10, 0, 1, third]))));
        }
        assert!(staying(&silent) < CALLERS_MAX && stays(&honest), "crowds go first");
        let next = callers.enter(IpAddr::from([10, 0, 1, 0]));
        assert!(stays(&next));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(silent[0].turned_away());
    }
}
