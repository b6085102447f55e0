use tokio::io::DuplexStream;

use super::join::answer;
use super::*;
use crate::wire::joining::{BrokerPlace, JoinRefusal};

impl Membership {
    /// Admits a node, and writes its files as [`join()`] does.
    pub(crate) fn admit_for_test(&self, state: &Path, place: &Place) {
        let key = random::secret_key();
        now(async {
            let word = self.invite(1, 60, "hub:7700").await.expect("may invite").word;
            self.admit(&word, &place.node, key.key()).await.expect("admitted");
        });
        Files::of(state).create(&key, None, &self.roll.borrow(), place).expect("written");
    }
}

/// Waits for something.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

fn place(node: &str) -> Place {
    let node = node.parse().expect("a name");
    Place {
        node,
        listen: "10.0.0.1:7700".parse().expect("an address"),
        advertise: None,
        bounds: crate::config::Bounds::default(),
        broker: None,
    }
}

pub(crate) fn founded(state: &Path) -> Membership {
    Membership::found(state, "lab".parse().expect("a name"), &place("n1")).expect("founded");
    Membership::open(state).expect("readable").expect("a member")
}

#[test]
fn what_was_founded_is_read_again() {
    let state = tempfile::tempdir().expect("a directory");
    assert!(Membership::open(state.path()).expect("readable").is_none(), "no cluster yet");
    let membership = founded(state.path());
    assert_eq!(membership.cluster().to_string(), "lab");
    assert_eq!(membership.node(&membership.key()), Some("n1".parse().expect("a name")));
    assert_eq!(membership.members().len(), 1);
    let again = Membership::found(state.path(), "lab".parse().expect("a name"), &place("n1"));
    let said = again.expect_err("once").to_string();
    assert!(said.contains("'lab' already") && said.contains("cluster leave"), "{said}");
}

#[test]
fn a_word_admits_as_many_nodes_as_it_is_for() {
    let state = tempfile::tempdir().expect("a directory");
    let membership = founded(state.path());
    let invite = || now(membership.invite(1, 60, "hub:7700")).expect("may invite").word;
    let admit = |word: &[u8; 16], node: &NodeId, key| now(membership.admit(word, node, key));
    let word = invite();
    let (key, other) = (random::secret_key().key(), random::secret_key().key());
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| name.parse().expect("a name"));
    assert_eq!(admit(&[0; 16], &n2, key), Err(JoinRefusal::Unknown));
    assert_eq!(admit(&word, &n1, key), Err(JoinRefusal::NameTaken(n1)));
    assert_eq!(admit(&word, &n2, key), Ok(()));
    assert_eq!(admit(&word, &n2, key), Ok(()), "its answer may have been lost");
    assert_eq!(admit(&word, &n3, other), Err(JoinRefusal::UsedUp));
    let again = Membership::open(state.path()).expect("readable").expect("a member");
    assert_eq!(again.members(), membership.members());
    assert_eq!(
        now(again.admit(&word, &n3, other)),
        Err(JoinRefusal::UsedUp),
        "after a restart as well"
    );
    assert_eq!(now(membership.remove(&n2)).expect("the owner may"), key);
    assert_eq!(membership.node(&key), None);
    let word = invite();
    assert_eq!(admit(&word, &n2, key), Err(JoinRefusal::Removed));
    assert_eq!(admit(&word, &n2, other), Ok(()), "with a fresh key");
}

/// A node that dies between the answer and its files asks again under the same key.
#[test]
fn a_node_that_asks_again_has_the_same_key() {
    let state = tempfile::tempdir().expect("a directory");
    let files = Files::of(state.path());
    let key = files.joining_key().expect("writable").key();
    assert_eq!(files.joining_key().expect("readable").key(), key);
    files.forget_joining_key();
    assert_ne!(files.joining_key().expect("writable").key(), key);
}

#[test]
fn damaged_files_are_named_with_a_remedy() {
    for name in ["key", "records", "place"] {
        let state = tempfile::tempdir().expect("a directory");
        founded(state.path());
        let path = state.path().join("cluster").join(name);
        for content in [None, Some(&b"\x01\x00damaged"[..])] {
            match content {
                Some(content) => std::fs::write(&path, content).expect("writable"),
                None => std::fs::remove_file(&path).expect("it is there"),
            }
            let said = format!("{:#}", Membership::open(state.path()).expect_err("damaged"));
            assert!(said.contains(name) && said.contains("cluster leave"), "{said}");
        }
    }
}

/// Lets a node ask a member over some connection.
async fn answered(membership: &Membership, far: DuplexStream, key: Key) -> Option<NodeId> {
    let mut far = far;
    let request = answer(membership, &mut far, key, "hub:7700").await.expect("heard");
    request.map(|request| request.node)
}

#[test]
fn a_request_is_answered_with_all_records() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let state = tempfile::tempdir().expect("a directory");
    let membership = founded(state.path());
    let word = now(membership.invite(1, 60, "hub:7700")).expect("may invite").word;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let key = random::secret_key().key();
        let node: NodeId = "n2".parse().expect("a name");
        let request = crate::wire::joining::JoinRequest {
            proof: crate::wire::joining::Proof::Word(word),
            node: node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            spoken: crate::wire::greeting::Spoken::OURS,
        };
        let bytes = postcard::to_allocvec(&request).expect("encodes");
        let length = u32::try_from(bytes.len()).expect("short").to_le_bytes();
        near.write_all(&[&length[..], &bytes].concat()).await.expect("there is room");
        assert_eq!(answered(&membership, far, key).await, Some(node));
        let mut reply = Vec::new();
        near.read_to_end(&mut reply).await.expect("a reply");
        let reply: crate::wire::joining::JoinReply =
            postcard::from_bytes(&reply[4..]).expect("decodes");
        let crate::wire::joining::JoinReply::Welcome(welcome) = reply else { panic!("{reply:?}") };
        let cluster = membership.roll.borrow().cluster();
        let roll = Roll::of(cluster, welcome.records).expect("whole");
        assert!(roll.member(&key).is_some());
        assert_eq!(
            welcome.broker,
            BrokerPlace::Node { address: "hub:7700".into(), key: membership.key() }
        );
    });
}

/// Records that arrive at the same time are saved in the order in which they are believed.
#[test]
fn what_is_believed_is_on_disk() {
    let [state, other] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let founder = founded(state.path());
    founder.admit_for_test(other.path(), &place("n2"));
    let member = Membership::open(other.path()).expect("readable").expect("a member");
    let key = random::secret_key().key();
    now(async {
        let word = founder.invite(1, 60, "hub:7700").await.expect("may invite").word;
        founder.admit(&word, &"n3".parse().expect("a name"), key).await.expect("admitted");
        let admitted = founder.records();
        founder.remove(&"n3".parse().expect("a name")).await.expect("the owner may");
        let removed = founder.records();
        let news = tokio::join!(
            member.merge(admitted.clone()),
            member.merge(removed),
            member.merge(admitted)
        );
        assert_eq!(news, (true, true, false));
    });
    assert_eq!(member.node(&key), None);
    let again = Membership::open(other.path()).expect("readable").expect("a member");
    assert_eq!(again.digest(), member.digest());
    assert_eq!(again.node(&key), None, "a removal survives a crash");
}
