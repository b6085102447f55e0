//! Accepts links. Callers that have not completed the handshake are unauthenticated, so their number, their time and
//! their bytes are limited. When there are too many, the oldest is dropped: an honest handshake takes a moment, so silent
//! callers cannot keep honest ones out. A handshake takes the main thread some time, so their rate is limited, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::Links;
use crate::link::call::LINK_TIMEOUT;

/// Most unauthenticated callers in total: as many as a large cluster has nodes, which may all call at once after a
/// network failure.
const CALLERS_MAX: usize = 256;
/// Most from one network. A node calls once at a time, but several may share an address.
const CALLERS_PER_NETWORK_MAX: usize = 16;
/// Most handshakes with one network in a row, and in a second after that: honest nodes call once in two seconds, and have few
/// connections to the broker. A handshake takes up to half a millisecond.
const HANDSHAKES_MAX: f64 = 128.0;
const HANDSHAKES_PER_SECOND: f64 = 50.0;
/// Pauses after failures to accept double from the first value to the second: descriptors or memory are short, and
/// some will soon be free.
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
            let Some(caller) = callers.enter(address.ip(), Instant::now()) else {
                tracing::warn!(%address, "refused a caller: its network calls too often");
                continue;
            };
            let links = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                let answered = tokio::select! {
                    answered = tokio::time::timeout(LINK_TIMEOUT, links.answer(stream)) => answered,
                    () = caller.turned_away() => {
                        return tracing::warn!(%address, "refused a caller: too many, and this one has not completed the handshake");
                    }
                };
                drop(caller);
                match answered {
                    Ok(Ok(answered)) => links.serve(answered),
                    Ok(Err(error)) => tracing::warn!(%address, "refused a caller: {error:#}"),
                    Err(_) => tracing::warn!(%address, "refused a caller: the handshake timed out"),
                }
            });
        }
    }
}

/// Unauthenticated callers, the oldest first.
#[derive(Debug, Default)]
struct Callers {
    waiting: RefCell<Vec<Waiting>>,
    /// Networks that have called lately.
    rates: RefCell<HashMap<IpAddr, Rate>>,
}

/// How many handshakes a network may begin.
#[derive(Debug)]
struct Rate {
    left: f64,
    at: Instant,
}

impl Rate {
    /// Returns how many may begin now.
    fn left(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * HANDSHAKES_PER_SECOND).min(HANDSHAKES_MAX)
    }
}

#[derive(Debug)]
struct Waiting {
    network: IpAddr,
    /// Notified when it must be dropped.
    turned_away: Rc<Notify>,
}

/// An unauthenticated caller, until it is dropped.
#[derive(Debug)]
struct Caller {
    callers: Rc<Callers>,
    turned_away: Rc<Notify>,
}

impl Callers {
    /// Counts a handshake. Returns false if a network has begun too many.
    fn may_begin(&self, network: IpAddr, now: Instant) -> bool {
        let mut rates = self.rates.borrow_mut();
        let left = rates.get(&network).map_or(HANDSHAKES_MAX, |rate| rate.left(now));
        if left < 1.0 {
            return false;
        }
        rates.retain(|_, rate| rate.left(now) < HANDSHAKES_MAX);
        rates.insert(network, Rate { left: left - 1.0, at: now });
        true
    }

    /// Adds a caller, unless its network calls too often. If its network has too many, that network's oldest is dropped; if there are too many in total, the
    /// oldest of the network with the most callers is.
    fn enter(self: &Rc<Self>, address: IpAddr, now: Instant) -> Option<Caller> {
        let network = network(address);
        if !self.may_begin(network, now) {
            return None;
        }
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
        Some(Caller { callers: Rc::clone(self), turned_away })
    }
}

impl Caller {
    /// Waits until the caller must be dropped.
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

/// Returns the network that one machine controls: of IPv6, the first 64 bits; all loopback addresses are one.
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

    /// Lets somebody call when the network has been quiet for a while.
    fn enter(callers: &Rc<Callers>, address: IpAddr) -> Caller {
        callers.rates.borrow_mut().clear();
        callers.enter(address, Instant::now()).expect("it has not called")
    }

    #[test]
    fn a_network_that_calls_too_often_is_refused() {
        let (callers, began) = (Rc::new(Callers::default()), Instant::now());
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let calls = |from, after: f64| {
            let now = began + Duration::from_secs_f64(after);
            (0..1000).filter(|_| callers.enter(from, now).is_some()).count()
        };
        assert_eq!([calls(one, 0.0), calls(other, 0.0), calls(one, 1.0)], [128, 128, 50]);
        assert_eq!(calls(one, 100.0), 128);
        assert_eq!(callers.rates.borrow().len(), 1, "others are forgotten");
    }

    fn stays(caller: &Caller) -> bool {
        let all = caller.callers.waiting.borrow();
        all.iter().any(|waiting| Rc::ptr_eq(&waiting.turned_away, &caller.turned_away))
    }

    fn staying(callers: &[Caller]) -> usize {
        callers.iter().filter(|caller| stays(caller)).count()
    }

    #[test]
    fn unauthenticated_callers_are_bounded() {
        let callers = Rc::new(Callers::default());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let mut inside: Vec<_> = (0..1000).map(|_| enter(&callers, address(1))).collect();
        assert_eq!(staying(&inside), CALLERS_PER_NETWORK_MAX);
        assert!(inside[1000 - CALLERS_PER_NETWORK_MAX..].iter().all(stays), "the oldest go");
        inside.extend((2..1000).map(|number| enter(&callers, address(number))));
        assert_eq!(staying(&inside), CALLERS_MAX);
        inside.clear();
        assert!(callers.waiting.borrow().is_empty(), "dropped callers are forgotten");
        let six = |last| IpAddr::from([0xfd00, 1, 2, 3, 9, 9, 9, last]);
        inside.extend((0..1000).map(|last| enter(&callers, six(last))));
        assert_eq!(staying(&inside), CALLERS_PER_NETWORK_MAX);
    }

    #[test]
    fn silent_callers_do_not_keep_others_out() {
        let callers = Rc::new(Callers::default());
        let mut silent = Vec::new();
        for last in 1..=255 {
            silent.extend((0..16).map(|_| enter(&callers, IpAddr::from([127, 0, 0, last]))));
        }
        silent.push(enter(&callers, IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
        assert_eq!(staying(&silent), CALLERS_PER_NETWORK_MAX, "they are one machine");
        let honest = enter(&callers, IpAddr::from([10, 0, 0, 7]));
        for third in 0..200 {
            silent.extend((0..16).map(|_| enter(&callers, IpAddr::from([10, 0, 1, third]))));
        }
        assert!(staying(&silent) < CALLERS_MAX && stays(&honest), "crowds go first");
        let next = enter(&callers, IpAddr::from([10, 0, 1, 0]));
        assert!(stays(&next));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(silent[0].turned_away());
    }
}
