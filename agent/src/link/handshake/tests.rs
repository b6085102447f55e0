use tempfile::TempDir;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::membership::Place;
use crate::membership::tests::now;
use crate::wire::limits::GREETING_MESSAGE_BYTES_MAX;

type Socket = WebSocketStream<tokio::io::DuplexStream>;
/// The peer, and whether it knew of members or removals that this side did not.
type Greeted = Result<(Peer, bool), String>;

/// A node with its state directory.
struct Node {
    state: TempDir,
    membership: Membership,
}

impl Node {
    /// Founds a cluster.
    fn founder(name: &str) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let cluster = "lab".parse().expect("a name");
        Membership::found(state.path(), cluster, &place(name)).expect("founded");
        Self::opened(state)
    }

    /// Joins the cluster of `founder`, and knows the records of that moment.
    fn joined(founder: &Self, name: &str) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        founder.membership.admit_for_test(state.path(), &place(name));
        Self::opened(state)
    }

    fn opened(state: TempDir) -> Self {
        let membership = Membership::open(state.path()).expect("readable").expect("a member");
        Self { state, membership }
    }

    fn key(&self) -> Key {
        self.membership.key()
    }

    fn peer(&self) -> Peer {
        let node = self.membership.place().node.clone();
        let incarnation = u64::MAX - node.as_str().len() as u64;
        Peer { node, incarnation, key: None, speaks: VERSION }
    }

    /// Returns it as others know it after a greeting.
    fn seen(&self) -> Peer {
        Peer { key: Some(self.key()), ..self.peer() }
    }

    fn knows(&self, other: &Self) -> bool {
        self.membership.node(&other.key()) == Some(other.peer().node)
    }
}

fn place(name: &str) -> Place {
    Place {
        node: name.parse().expect("a node's name"),
        listen: "10.0.0.1:7700".parse().expect("an address"),
        advertise: None,
        bounds: Default::default(),
        broker: None,
    }
}

/// Lets a caller greet another side, and returns the results of both.
fn meet<T>(caller: &Node, expected: Key, other: impl AsyncFn(&mut Socket) -> T) -> (Greeted, T) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(4096);
        let calling = async {
            let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let known = (&caller.membership, expected);
            call(&mut socket, &caller.peer(), known, Purpose::Link).await.map_err(text)
        };
        let answering = async {
            let mut socket = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
            other(&mut socket).await
        };
        tokio::join!(calling, answering)
    })
}

/// Lets two nodes greet each other. Each result has the peer, and whether it knew more.
fn greet(caller: &Node, callee: &Node) -> (Greeted, Greeted) {
    meet(caller, callee.key(), async |socket| {
        let known = (&callee.membership, caller.key());
        let heard = answer(socket, &callee.peer(), known).await.map_err(text)?;
        let has_news = settle(socket, &callee.membership, &heard).await.map_err(text)?;
        Ok((heard.peer, has_news))
    })
}

fn text(error: HandshakeError) -> String {
    error.to_string()
}

/// Returns what a caller says of a callee that sends this instead of its hello.
fn refusal(theirs: impl Fn(Hello) -> Vec<u8>) -> String {
    let (caller, callee) = two();
    let (heard, ()) = meet(&caller, callee.key(), async |socket| {
        receive(socket, greeting::hello).await.expect("a hello");
        let sound = hello(&callee.peer(), &callee.membership, Purpose::Link, Side::CalledByMember);
        socket.send(Message::Binary(theirs(sound).into())).await.expect("heard");
    });
    heard.expect_err("refused")
}

fn two() -> (Node, Node) {
    let founder = Node::founder("callee");
    (Node::joined(&founder, "caller"), founder)
}

#[test]
fn members_with_the_same_roll_come_together() {
    let (caller, callee) = two();
    let (heard, answered) = greet(&caller, &callee);
    assert_eq!(heard, Ok((callee.seen(), false)));
    assert_eq!(answered, Ok((caller.seen(), false)));
}

#[test]
fn rolls_are_exchanged() {
    let founder = Node::founder("n1");
    let [older, newer] = ["older", "newer"].map(|name| Node::joined(&founder, name));
    let news = |heard: Greeted| heard.expect("greeted").1;
    let (heard, answered) = greet(&older, &founder);
    assert_eq!([news(heard), news(answered)], [true, false], "the caller learns");
    let later = Node::joined(&founder, "later");
    let (heard, answered) = greet(&later, &newer);
    assert_eq!([news(heard), news(answered)], [false, true], "who is called learns");
    assert!(newer.knows(&later) && !older.knows(&later));
    assert_eq!(newer.membership.digest(), later.membership.digest());
    let again = Membership::open(newer.state.path()).expect("readable").expect("a member");
    assert_eq!(again.digest(), later.membership.digest(), "it is written");
}

#[test]
fn a_caller_that_is_not_known_yet_brings_its_admission() {
    let founder = Node::founder("n1");
    let callee = Node::joined(&founder, "early");
    let caller = Node::joined(&founder, "late");
    assert!(!callee.knows(&caller));
    let (heard, answered) = greet(&caller, &callee);
    assert_eq!(heard.expect("greeted").0, callee.seen());
    assert_eq!(answered.expect("greeted").0, caller.seen());
    assert!(callee.knows(&caller));
}

/// Whoever holds a key can call: it learns neither who belongs to the cluster nor where the broker is.
#[test]
fn a_stranger_is_told_nothing_of_the_cluster() {
    let (callee, stranger) = (Node::founder("callee"), Node::founder("stranger"));
    let said = |side| hello(&callee.peer(), &callee.membership, Purpose::Link, side);
    let told = said(Side::CalledByStranger(stranger.key()));
    assert_eq!((told.roll, told.admission, told.broker), ([0; 32], Vec::new(), None));
    assert!(said(Side::CalledByMember).broker.is_some());
    let heard = meet(&stranger, callee.key(), async |socket| {
        let known = (&callee.membership, stranger.key());
        answer(socket, &callee.peer(), known).await.map(drop).map_err(text)
    });
    assert!(heard.1.is_err(), "{heard:?}");
}

/// Members tell each other where they are, and where the broker is.
#[test]
fn addresses_are_exchanged() {
    let founder = Node::founder("n1");
    let [moved, other] = ["moved", "other"].map(|name| Node::joined(&founder, name));
    let at = "10.0.9.9:7700".parse().expect("an address");
    moved.membership.set_address(at);
    greet(&other, &moved).0.expect("greeted");
    assert_eq!(other.membership.contacts.addresses(&moved.key()), [at]);
    // The founder runs the broker, and has moved.
    founder.membership.set_address(at);
    greet(&other, &founder).0.expect("greeted");
    assert_eq!(other.membership.contacts.addresses(&founder.key()), [at]);
    now(other.membership.save_addresses());
    let again = Membership::open(other.state.path()).expect("readable").expect("a member");
    assert_eq!(again.contacts.addresses(&founder.key()), [at], "it is written");
}

#[test]
fn strangers_are_refused_by_name() {
    let (callee, stranger) = (Node::founder("callee"), Node::founder("stranger"));
    let (heard, answered) = greet(&stranger, &callee);
    let said = answered.expect_err("refused");
    assert!(said.contains("stranger") && said.contains("oswalk cluster invite"), "{said}");
    assert!(heard.expect_err("it does not know the callee either").contains("callee"));
    assert!(!callee.knows(&stranger));
}

#[test]
fn a_removed_node_is_refused_by_name() {
    let (removed, callee) = two();
    now(callee.membership.remove(&removed.peer().node)).expect("the owner may");
    let said = greet(&removed, &callee).1.expect_err("refused");
    assert!(said.contains("caller") && said.contains("was removed"), "{said}");
    // It is told by whom, and then knows by itself.
    let [told, known] = [(); 2].map(|()| greet(&removed, &callee).0.expect_err("refused"));
    for said in [told, known] {
        assert!(said.contains("this node was removed from cluster"), "{said}");
        assert!(said.contains("by callee") && said.contains("cluster leave"), "{said}");
    }
}

/// A node that has not heard of a removal hears of it in the greeting.
#[test]
fn a_node_that_is_removed_in_the_greeting_gets_no_link() {
    let founder = Node::founder("n1");
    let removed = Node::joined(&founder, "removed");
    let callee = Node::joined(&founder, "callee");
    now(founder.membership.remove(&removed.peer().node)).expect("the owner may");
    // The removed node passes on the record of its own removal.
    now(removed.membership.merge(founder.membership.records()));
    let said = greet(&removed, &callee).1.expect_err("refused");
    assert!(said.contains("removed"), "{said}");
    assert!(!callee.knows(&removed));
}

#[test]
fn another_name_than_that_of_the_key_is_refused() {
    let said = refusal(|sound| encode(&Hello { node: "other".parse().expect("a name"), ..sound }));
    assert!(said.contains("other is not a member"), "{said}");
}

#[test]
fn another_version_is_refused_by_name() {
    let newer = Spoken { newest: VERSION + 1, oldest: VERSION + 1 };
    let said = refusal(|sound| encode(&Hello { version: "9.9.9".into(), spoken: newer, ..sound }));
    assert!(said.contains("9.9.9") && said.contains("install"), "{said}");
    assert!(said.contains(&(VERSION + 1).to_string()), "{said}");
}

#[test]
fn a_hello_is_short_and_names_a_node() {
    let garbled = HandshakeError::Garbled.to_string();
    assert_eq!(refusal(|_| vec![b'x'; GREETING_MESSAGE_BYTES_MAX]), garbled);
    let long = |sound: Hello| [encode(&sound), vec![0; GREETING_MESSAGE_BYTES_MAX]].concat();
    assert_eq!(refusal(long), garbled);
    // The name is as long.
    assert_eq!(refusal(|sound| replaced(&encode(&sound), b"callee", b"../../")), garbled);
}

#[test]
fn versions_are_escaped() {
    // As long as "0.1.0".
    let said = refusal(|sound| {
        let spoken = Spoken { newest: VERSION + 1, oldest: VERSION + 1 };
        replaced(&encode(&Hello { spoken, ..sound }), b"0.1.0", b"\x1b[2J\n")
    });
    assert!(said.contains("\\u{1b}[2J\\n") && !said.contains(char::is_control), "{said}");
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|part| part == old).expect("it is in there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

#[test]
fn clocks_agree() {
    for (theirs, ours) in [(100, 100), (100, 110), (110, 100)] {
        assert!(check_clock(theirs, ours).is_ok());
    }
    assert!(check_clock(u64::MAX, 0).is_err() && check_clock(0, u64::MAX).is_err());
}

#[test]
fn clocks_are_ahead_or_behind() {
    let said = |theirs| check_clock(theirs, 10_000).expect_err("far apart").to_string();
    assert_eq!(said(6_400), "the other side's clock is 3600 s behind this one");
    assert_eq!(said(13_600), "the other side's clock is 3600 s ahead of this one");
    assert!(check_clock(10_005, 10_000).is_ok());
}

/// The longest hello of an honest node fits, and so do all records of a full roll.
#[test]
fn honest_messages_fit() {
    let founder = Node::founder(&"f".repeat(64));
    let node = Node::joined(&founder, &"n".repeat(64));
    let hello = hello(&node.peer(), &node.membership, Purpose::Link, Side::Caller);
    assert!(encode(&hello).len() <= GREETING_MESSAGE_BYTES_MAX / 2);
    let record = encode(&hello.admission[0]).len();
    assert!(record * worknode::membership::RECORDS_MAX < crate::wire::limits::RECORDS_BYTES_MAX);
}
