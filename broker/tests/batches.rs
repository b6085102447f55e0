//! What is said while other calls are on their way goes in one call: it must be as if each had
//! been said by itself.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use broker::{Finished, Grant, Matchmaker, Submit, Submitted};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Agent, Cell, RedisCell, cell, node, plain, walk};
use tokio::task::JoinSet;
use tokio::time::timeout;
use worknode::id::{Attempt, WalkId};

const KEY: &str = "{w}6";

/// How long it may take until a server that was killed is there again.
const RESTART_MAX: Duration = Duration::from_secs(9);

/// One call that says `words`; returns the lines of the reply.
fn say(cell: &RedisCell, caller: &str, words: &[&str]) -> Vec<String> {
    let function = format!("{}_say", broker::library());
    let mut redis = cell.redis_cli();
    redis.args(["FCALL", &function, "1", KEY, caller]).args(words);
    let output = redis.output().expect("redis-cli runs").stdout;
    String::from_utf8_lossy(&output).trim_end().lines().map(with_short_addresses).collect()
}

/// Returns a line with `NAME:7` for the address of the agent of that name.
fn with_short_addresses(line: &str) -> String {
    let mut name = "";
    let words = line.split(' ').map(|word| {
        let before = std::mem::replace(&mut name, word);
        let is_address = word.contains(':') && word == support::address(before).to_string();
        if is_address { format!("{before}:7") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn submit(id: &str) -> [&str; 7] {
    ["submit", id, "0", "7", "", "", ""]
}

/// Submits all at once, so that most of them share calls.
async fn submit_all(agent: &Agent, walks: impl Iterator<Item = WalkId>) -> Vec<Submitted> {
    let mut tasks = JoinSet::new();
    for walk in walks {
        let broker = agent.broker.clone();
        tasks.spawn(async move { broker.submit(&plain(walk)).await.expect("submits") });
    }
    tasks.join_all().await
}

async fn finish_all(agent: &Agent, grants: &[Grant]) -> Vec<Finished> {
    let mut tasks = JoinSet::new();
    for grant in grants.iter().cloned() {
        let broker = agent.broker.clone();
        tasks.spawn(async move {
            let finished = broker.finish(grant.walk, &grant.node, grant.attempt).await;
            finished.expect("finishes")
        });
    }
    tasks.join_all().await
}

fn grants(submitted: Vec<Submitted>) -> Vec<Grant> {
    let grants = submitted.into_iter().filter_map(|submitted| match submitted {
        Submitted::Granted(grant) => Some(grant),
        _ => None,
    });
    grants.collect()
}

#[tokio::test]
async fn each_word_has_its_own_outcome_in_order() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _a = cell.node("a", 1).await;
    let _b = cell.node("b", 1).await;
    let words = [
        &submit("1-1")[..],
        &submit("1-2"),
        // No slot is left, then a freed one goes to who waits.
        &submit("1-3"),
        &["finish", "1-1", "a", "1"],
        // A duplicate, a stale attempt, a stranger.
        &submit("1-2"),
        &["finish", "1-2", "b", "7"],
        &["finish", "9-9", "b", "1"],
        &["cancel", "1-2"],
        // Its slot is free again.
        &submit("1-4"),
        &["retry", "1-4", "1", "b"],
        &["heartbeat", "a", "someone", "7"],
        &["reap"],
    ];
    let said = say(&cell, "origin", &words.concat());
    let expected = [
        "g 1-1 a a:7 1",
        "g 1-2 b b:7 1",
        "q 1",
        "ok g 1-3 a a:7 1",
        "g 1-2 b b:7 1",
        "fenced 1",
        "unknown",
        "ok",
        "g 1-4 b b:7 1",
        // The other node has no slot for it.
        "q 1",
        "unknown",
        "ok",
    ];
    assert_eq!(said, expected);
    assert_eq!(origin.running().await, 1);
}

#[tokio::test]
async fn a_batch_takes_the_slots_that_the_same_walks_would_take_alone() {
    let cell = cell().await;
    let origin = cell.node("origin", 1).await;
    let _a = cell.node("a", 2).await;
    let _b = cell.node("b", 4).await;
    let _c = cell.node("c", 2).await;
    let ids: Vec<String> = (1..=10).map(|number| format!("1-{number}")).collect();
    let words: Vec<_> = ids.iter().flat_map(|id| submit(id)).collect();
    let said = say(&cell, "origin", &words);
    let places: Vec<_> = said.iter().map(|line| line.split(' ').nth(2).unwrap_or("q")).collect();
    // See grants_go_to_the_least_loaded_in_turns_and_home_last.
    assert_eq!(places, ["a", "b", "c", "b", "a", "c", "b", "b", "origin", "q"]);
    assert_eq!(origin.running().await, 9);
}

#[tokio::test]
async fn a_heartbeat_in_a_call_sees_the_slots_that_the_call_takes() {
    let cell = cell().await;
    let home = cell.node("home", 1).await;
    let other = cell.agent("other").await;
    let incarnation = home.nodes().await[0].incarnation.clone();
    let heartbeat = ["heartbeat", "home", incarnation.as_str(), "7"];
    let said = say(&cell, "home", &[&submit("1-1")[..], &heartbeat].concat());
    assert_eq!(said[0], "g 1-1 home home:7 1");
    assert_eq!(other.submit(walk(2, 1)).await, Submitted::Queued(1), "the slot is taken");
}

#[tokio::test]
async fn a_batch_examines_more_nodes_if_the_known_ones_do_not_suit() {
    let cell = cell().await;
    let origin = cell.node("origin", 8).await;
    let mut agents = Vec::new();
    for index in 0..9 {
        agents.push(cell.node(&format!("n{index}"), 1).await);
    }
    // Eight of them are gone, though their leases are not.
    for agent in agents.iter_mut().take(8) {
        agent.fall_silent();
        origin.broker.reap_node(&agent.name).await.expect("reaps");
    }
    let avoiding = ["submit", "1-1", "0", "7", "", "origin", ""];
    let said = say(&cell, "origin", &[&avoiding[..], &submit("1-2"), &submit("1-3")].concat());
    assert_eq!(said[0], "g 1-1 n8 n8:7 1");
    assert!(said[1].contains(" origin ") && said[2].contains(" origin "), "{said:?}");
}

#[tokio::test]
async fn a_walk_submitted_twice_holds_one_slot() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 4).await;
    let twice = [submit("1-1"), submit("1-1"), submit("1-2"), submit("1-1")].concat();
    let said = say(&cell, "origin", &twice);
    assert_eq!(said[0], said[1]);
    assert_eq!(said[0], said[3]);
    assert_eq!(origin.running().await, 2);
    // As it is when a reply was lost.
    assert_eq!(say(&cell, "origin", &twice), said);
    assert_eq!(origin.running().await, 2);
    let end = ["finish", "1-1", "r", "1"];
    assert_eq!(say(&cell, "origin", &[end, end].concat()), ["ok", "unknown"]);
    // A walk that ended may be submitted once more, in the same call.
    let end = ["finish", "1-2", "r", "1"];
    let again = say(&cell, "origin", &[&end[..], &submit("1-2")].concat());
    assert_eq!(again, ["ok", "g 1-2 r r:7 1"]);
    assert_eq!(origin.running().await, 1);
}

#[tokio::test]
async fn a_bad_word_fails_alone() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 4).await;
    let bad = ["submit", "1-2", "no number", "7", "", "", ""];
    let said = say(&cell, "origin", &[submit("1-1"), bad, submit("1-3")].concat());
    assert_eq!((&said[0][..], &said[2][..]), ("g 1-1 r r:7 1", "g 1-3 r r:7 1"));
    assert!(said[1].starts_with("error "), "{said:?}");
    assert_eq!(origin.running().await, 2);
    // Where the words of another version end is known to nobody; what came before counts.
    let said = say(&cell, "origin", &[&submit("1-4")[..], &["sing", "1-5"]].concat());
    assert_eq!(said.len(), 2);
    assert!(said[0].starts_with("g 1-4 ") && said[1].starts_with("error "), "{said:?}");
}

#[tokio::test]
async fn notes_for_one_receiver_share_a_message() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let mut other = cell.node("other", 0).await;
    let _r = cell.node("r", 3).await;
    let mine = grants(submit_all(&origin, (1..=3).map(|number| walk(1, number))).await);
    for number in 1..=3 {
        other.submit(walk(2, number)).await;
    }
    assert_eq!(finish_all(&origin, &mine).await.len(), 3);
    let mut granted = HashSet::new();
    for _ in 0..3 {
        granted.insert(other.next_grant().await.walk);
    }
    assert_eq!(granted, (1..=3).map(|number| walk(2, number)).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_walks_leave_no_slot_taken() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let mut runners = Vec::new();
    for index in 0..5 {
        runners.push(cell.node(&format!("n{index}"), 60).await);
    }
    for round in 1..=5 {
        let submitted = submit_all(&origin, (1..=300).map(|number| walk(round, number))).await;
        let granted = grants(submitted);
        assert_eq!(granted.len(), 300);
        let nodes = origin.nodes().await;
        assert!(nodes.iter().all(|node| node.running == node.info.slots));
        let finished = finish_all(&origin, &granted).await;
        assert!(finished.iter().all(|finished| *finished == Finished::Done { next: None }));
        assert_eq!(origin.running().await, 0);
    }
    // Loads are right, too: all nodes are equal again, and take turns.
    let last = grants(submit_all(&origin, (1..=5).map(|number| walk(6, number))).await);
    let nodes: HashSet<_> = last.iter().map(|grant| grant.node.clone()).collect();
    assert_eq!(nodes.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_walk_of_a_broken_batch_ends_once() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1000).await;
    let mut tasks = JoinSet::new();
    for number in 1..=1000 {
        let broker = origin.broker.clone();
        tasks.spawn(async move {
            // A call fails only when the broker stays away; then it is made again.
            let grant = loop {
                match broker.submit(&plain(walk(1, number))).await {
                    Ok(Submitted::Granted(grant)) => break grant,
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => {}
                }
            };
            assert_eq!(grant.attempt, Attempt(1));
            loop {
                match broker.finish(grant.walk, &grant.node, grant.attempt).await {
                    // Unknown is the second answer to a finish whose first was lost.
                    Ok(Finished::Done { .. } | Finished::Unknown) => return,
                    Ok(fenced @ Finished::Fenced(_)) => panic!("{fenced:?}"),
                    Err(_) => {}
                }
            }
        });
        if number % 300 == 0 {
            tokio::task::yield_now().await;
            let pid = cell.server.pid().expect("the server runs");
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the server runs");
            // Until there is another, as there is no server to speak to.
            let another = async {
                while cell.server.pid().is_none_or(|now| now == pid) {
                    tokio::task::yield_now().await;
                }
            };
            timeout(RESTART_MAX, another).await.expect("the server is started again");
        }
    }
    assert_eq!(tasks.join_all().await.len(), 1000);
    assert_eq!(origin.running().await, 0);
}

#[tokio::test]
async fn waiting_words_are_not_overtaken() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 100).await;
    // All of these are said before any is answered, the cancellations last.
    let submits = (1..=50).map(|number| {
        let broker = origin.broker.clone();
        async move { drop(broker.submit(&plain(walk(1, number))).await.expect("submits")) }
    });
    let cancels = (1..=50).map(|number| {
        let broker = origin.broker.clone();
        async move { assert!(broker.cancel(walk(1, number)).await.expect("cancels"), "{number}") }
    });
    let mut tasks = JoinSet::new();
    submits.for_each(|submit| drop(tasks.spawn(submit)));
    cancels.for_each(|cancel| drop(tasks.spawn(cancel)));
    tasks.join_all().await;
    assert_eq!(origin.running().await, 0);
}

#[tokio::test]
async fn only_and_prefer_are_honoured_in_a_batch() {
    let cell = cell().await;
    let _origin = cell.node("origin", 0).await;
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        agents.push(cell.node(name, 2).await);
    }
    let words = [
        ["submit", "1-1", "0", "7", "", "", "c,b"],
        ["submit", "1-2", "0", "7", "", "a", "+a,c"],
        ["submit", "1-3", "0", "7", "b", "", ""],
        ["submit", "1-4", "0", "7", "b", "", ""],
        ["submit", "1-5", "0", "7", "", "a,c", ""],
        ["submit", "1-6", "0", "7", "", "", ""],
    ];
    let said = say(&cell, "origin", &words.concat());
    let places: Vec<_> = said.iter().map(|line| line.split(' ').nth(2).unwrap_or("q")).collect();
    // As in only_avoid_and_prefer_are_heard.
    assert_eq!(places, ["c", "b", "b", "q", "q", "a"]);
    let spare = Submit { only: Some(node("c")), ..plain(walk(2, 1)) };
    let granted = agents[0].broker.submit(&spare).await.expect("submits");
    assert!(matches!(granted, Submitted::Granted(grant) if grant.node == node("c")));
}
