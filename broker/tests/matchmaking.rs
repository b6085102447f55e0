//! Each promise of a matchmaker, kept by the one in Redis and the one in memory.

#![expect(clippy::print_stdout, reason = "the measured times are of interest")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use broker::{
    BrokerError, Event, Finished, LEASE, Matchmaker, MemoryCell, Registered, Retried, Submit,
    Submitted, Takes,
};
use support::{Agent, Cell, cell, info, node, plain, walk};
use tokio::time::Instant;
use worknode::id::{Attempt, SessionId};

/// Makes two tests of each promise. In memory the clock is the runtime's, and does not wait.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod redis {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&super::cell().await).await;
            })*
        }

        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $promise() {
                super::$promise(&super::MemoryCell::default()).await;
            })*
        }
    };
}

promises! {
    grants_go_to_the_least_loaded_in_turns_and_home_last
    only_avoid_and_prefer_are_heard
    preferred_nodes_come_first_only_among_equals_that_may_be_used
    near_nodes_come_first_while_they_have_free_slots
    a_freed_slot_goes_to_the_next_in_the_same_reply_or_is_published
    a_hog_does_not_starve_small_sessions
    a_user_with_many_sessions_has_one_share
    submitting_twice_changes_nothing
    a_stale_attempt_is_fenced
    a_walk_is_tried_five_times_and_counts_on_after_a_loss_of_memory
    a_new_node_or_a_larger_one_drains_the_queue
    walks_of_a_silent_node_go_elsewhere
    what_a_node_takes_and_its_load_are_listed
    who_says_something_needs_no_heartbeat
    a_heartbeat_says_whether_others_wait
    who_registers_again_after_its_lease_gets_walks_at_once
    a_broken_link_moves_the_callers_walks_at_once
    a_restarted_agent_inherits_nothing
    how_a_node_went_is_remembered
    cancelling_frees_slots_and_places_in_the_queue
    a_leaving_node_hands_its_walks_on
    the_walks_of_an_origin_that_leaves_end
}

fn no_next() -> Finished {
    Finished::Done { next: None }
}

async fn grants_go_to_the_least_loaded_in_turns_and_home_last(cell: &impl Cell) {
    let origin = cell.node("origin", 1).await;
    let _a = cell.node("a", 2).await;
    let _b = cell.node("b", 4).await;
    let _c = cell.node("c", 2).await;
    let mut order = Vec::new();
    for number in 1..=9 {
        let grant = origin.granted(walk(1, number)).await;
        assert_eq!(grant.attempt, Attempt(1));
        assert_eq!(grant.address, support::address(grant.node.as_str()));
        order.push(grant.node.to_string());
    }
    // All free, then b is freest, then all half full, …; the origin when the others are full.
    assert_eq!(order, ["a", "b", "c", "b", "a", "c", "b", "b", "origin"]);
    assert_eq!(origin.submit(walk(1, 10)).await, Submitted::Queued(1));
    assert_eq!(origin.submit(walk(1, 11)).await, Submitted::Queued(2));
}

async fn only_avoid_and_prefer_are_heard(cell: &impl Cell) {
    let origin = cell.node("origin", 0).await;
    let _a = cell.node("a", 2).await;
    let _b = cell.node("b", 2).await;
    let _c = cell.node("c", 2).await;
    let ask = async |number, only: &str, avoid: &[&str], prefer: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
        let submit = Submit {
            only: (!only.is_empty()).then(|| node(only)),
            avoid: list(avoid),
            prefer: list(prefer),
            ..plain(walk(1, number))
        };
        match origin.broker.submit(&submit).await.expect("submits") {
            Submitted::Granted(grant) => grant.node.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(ask(1, "", &[], &["c", "b"]).await, "c");
    assert_eq!(ask(2, "", &["a"], &["c"]).await, "b", "c is preferred, but not equal");
    assert_eq!(ask(3, "b", &[], &[]).await, "b");
    assert_eq!(ask(4, "b", &[], &[]).await, "Queued(1)");
    assert_eq!(ask(5, "", &["a", "c"], &[]).await, "Queued(1)");
    assert_eq!(ask(6, "", &[], &[]).await, "a");
}

async fn near_nodes_come_first_while_they_have_free_slots(cell: &impl Cell) {
    let origin = cell.node("origin", 1).await;
    let _a = cell.node("a", 4).await;
    let _b = cell.node("b", 4).await;
    let _c = cell.node("c", 4).await;
    let ask = async |number, near: &[&str], avoid: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
        let submit = Submit { near: list(near), avoid: list(avoid), ..plain(walk(1, number)) };
        match origin.broker.submit(&submit).await.expect("submits") {
            Submitted::Granted(grant) => grant.node.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(ask(1, &["nobody", "c"], &[]).await, "c");
    assert_eq!(ask(2, &["c"], &[]).await, "c", "though it has more to do than others");
    assert_eq!(ask(3, &["c", "b"], &[]).await, "b", "the least loaded of those that are near");
    assert_eq!(ask(4, &["c"], &["c"]).await, "a", "what is avoided is not used");
    assert_eq!(ask(5, &["origin"], &[]).await, "origin", "home may be near");
    assert_eq!(ask(6, &["origin"], &[]).await, "b", "it has no free slot");
}

async fn preferred_nodes_come_first_only_among_equals_that_may_be_used(cell: &impl Cell) {
    let origin = cell.node("origin", 4).await;
    let _a = cell.node("a", 2).await;
    let _b = cell.node("b", 4).await;
    let mut c = cell.node("c", 4).await;
    let ask = async |number, prefer: &[&str], avoid: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| node(name)).collect::<Vec<_>>();
        let submit = Submit { prefer: list(prefer), avoid: list(avoid), ..plain(walk(1, number)) };
        match origin.broker.submit(&submit).await.expect("submits") {
            Submitted::Granted(grant) => grant.node.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(ask(1, &["nobody", "origin", "c", "b"], &[]).await, "c", "not home, not unknown");
    assert_eq!(ask(2, &["b"], &["b"]).await, "a", "what is avoided is not preferred");
    assert_eq!(ask(3, &["c"], &[]).await, "b", "c has more to do");
    assert_eq!(ask(4, &["c"], &[]).await, "c", "equal to b, and after it in turn");
    assert_eq!(ask(5, &["a"], &[]).await, "b", "half of a is more than a quarter of b");
    assert_eq!(ask(6, &["c"], &[]).await, "c", "half of each");
    c.fall_silent();
    let other = cell.agent("other").await;
    other.broker.reap_node(&c.name).await.expect("reaps");
    assert_eq!(ask(7, &["c", "b"], &[]).await, "b", "c is suspect");
}

async fn a_freed_slot_goes_to_the_next_in_the_same_reply_or_is_published(cell: &impl Cell) {
    let one = cell.node("one", 0).await;
    let mut two = cell.node("two", 0).await;
    let _r = cell.node("r", 1).await;
    let first = one.granted(walk(1, 1)).await;
    one.submit(walk(1, 2)).await;
    two.submit(walk(2, 1)).await;

    let done = one.broker.finish(first.walk, &first.node, first.attempt).await.expect("finishes");
    let Finished::Done { next: Some(next) } = done else { panic!("{done:?}") };
    assert_eq!(next.walk, walk(1, 2));
    let done = one.broker.finish(next.walk, &next.node, next.attempt).await.expect("finishes");
    assert_eq!(done, no_next());
    let grant = two.next_grant().await;
    assert_eq!((grant.walk, grant.node), (walk(2, 1), node("r")));
}

async fn a_hog_does_not_starve_small_sessions(cell: &impl Cell) {
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    let mut current = origin.granted(walk(1, 1)).await;
    for number in 2..=2000 {
        origin.submit(walk(1, number)).await;
    }
    for session in 2..=5 {
        for number in 1..=20 {
            origin.submit(walk(session, number)).await;
        }
    }
    let mut served: BTreeMap<u64, u32> = BTreeMap::new();
    for _ in 0..100 {
        let done = origin.broker.finish(current.walk, &current.node, current.attempt).await;
        let Ok(Finished::Done { next: Some(next) }) = done else { panic!("{done:?}") };
        *served.entry(next.walk.session.0).or_default() += 1;
        current = next;
    }
    for (session, walks) in served {
        assert!((19..=21).contains(&walks), "session {session} had {walks} of 100 turns");
    }
}

async fn a_user_with_many_sessions_has_one_share(cell: &impl Cell) {
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    let mut current = origin.granted(walk(1000, 1)).await;
    // One user has a hundred sessions, two others have one each, and all have more walks than turns.
    let user = |session| match session {
        101 => 1,
        102 => 2,
        _ => 0,
    };
    for session in 1..=102 {
        for number in 1..=40 {
            let submit = Submit { uid: user(session), ..plain(walk(session, number)) };
            let _queued = origin.broker.submit(&submit).await.expect("submits");
        }
    }
    let (mut of_users, mut sessions) = ([0; 3], BTreeSet::new());
    for _ in 0..90 {
        let done = origin.broker.finish(current.walk, &current.node, current.attempt).await;
        let Ok(Finished::Done { next: Some(next) }) = done else { panic!("{done:?}") };
        of_users[user(next.walk.session.0) as usize] += 1;
        sessions.insert(next.walk.session);
        current = next;
    }
    assert!(of_users.iter().all(|turns| (29..=31).contains(turns)), "{of_users:?}");
    assert_eq!(sessions.len(), 2 + of_users[0], "the user's sessions take turns");
}

async fn submitting_twice_changes_nothing(cell: &impl Cell) {
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    let grant = origin.granted(walk(1, 1)).await;
    assert_eq!(origin.granted(walk(1, 1)).await, grant);
    assert_eq!(origin.submit(walk(1, 2)).await, Submitted::Queued(1));
    assert_eq!(origin.submit(walk(1, 2)).await, Submitted::Queued(1));
    assert_eq!(origin.running().await, 1);
}

async fn a_stale_attempt_is_fenced(cell: &impl Cell) {
    let origin = cell.node("origin", 0).await;
    let _a = cell.node("a", 1).await;
    let _b = cell.node("b", 1).await;
    let old = origin.granted(walk(1, 1)).await;
    let retried = origin.broker.retry(old.walk, old.attempt, Some(&old.node)).await;
    let Ok(Retried::Submitted(Submitted::Granted(new))) = retried else { panic!("{retried:?}") };
    assert_eq!(new.attempt, Attempt(2));
    assert_ne!(new.node, old.node);
    // The reply may have been lost: the same question has the same answer.
    let again = origin.broker.retry(old.walk, old.attempt, Some(&old.node)).await;
    assert_eq!(again.expect("retries"), Retried::Submitted(Submitted::Granted(new.clone())));

    let finish = async |grant: &broker::Grant| {
        origin.broker.finish(grant.walk, &grant.node, grant.attempt).await.expect("finishes")
    };
    assert_eq!(finish(&old).await, Finished::Fenced(Attempt(2)));
    assert_eq!(finish(&new).await, no_next());
    assert_eq!(finish(&new).await, Finished::Unknown);
    assert_eq!(origin.running().await, 0);
    let late = origin.broker.retry(new.walk, new.attempt, None).await.expect("retries");
    assert_eq!(late, Retried::NotNeeded);
}

async fn a_walk_is_tried_five_times_and_counts_on_after_a_loss_of_memory(cell: &impl Cell) {
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    let submit = Submit { after: Attempt(7), ..plain(walk(1, 1)) };
    let Ok(Submitted::Granted(mut grant)) = origin.broker.submit(&submit).await else {
        panic!("granted")
    };
    for attempt in 8..12 {
        assert_eq!(grant.attempt, Attempt(attempt));
        grant = match origin.broker.retry(grant.walk, grant.attempt, None).await {
            Ok(Retried::Submitted(Submitted::Granted(grant))) => grant,
            other => panic!("{other:?}"),
        };
    }
    let last = origin.broker.retry(grant.walk, grant.attempt, None).await.expect("retries");
    assert_eq!(last, Retried::Submitted(Submitted::Exhausted));
    assert_eq!(origin.running().await, 0);
}

async fn a_new_node_or_a_larger_one_drains_the_queue(cell: &impl Cell) {
    let mut origin = cell.node("origin", 0).await;
    for number in 1..=3 {
        assert_eq!(origin.submit(walk(1, number)).await, Submitted::Queued(number.into()));
    }
    let runner = cell.node("r", 1).await;
    assert_eq!(origin.next_grant().await.walk, walk(1, 1));
    runner.register(3).await;
    assert_eq!(origin.next_grant().await.walk, walk(1, 2));
    assert_eq!(origin.next_grant().await.walk, walk(1, 3));
    assert_eq!(origin.running().await, 3);
}

async fn walks_of_a_silent_node_go_elsewhere(cell: &impl Cell) {
    let mut origin = cell.node("origin", 0).await;
    let mut dead = cell.node("dead", 2).await;
    let old = [origin.granted(walk(1, 1)).await, origin.granted(walk(1, 2)).await];
    let _heir = cell.node("heir", 1).await;
    // Heartbeats reap; the first of all only learns that nobody did so far.
    tokio::time::sleep(LEASE * 6 / 5).await;
    dead.fall_silent();
    let silent = Instant::now();
    let is_there = async || {
        let nodes = origin.nodes().await;
        nodes.iter().any(|state| state.info.node == node("dead"))
    };
    assert!(is_there().await);
    while is_there().await {
        assert!(silent.elapsed() < 2 * LEASE, "nobody was reaped");
        tokio::time::sleep(LEASE / 20).await;
    }
    println!("reaped {:?} after the last heartbeat or less", silent.elapsed() + LEASE / 4);
    let grant = origin.next_grant().await;
    assert_eq!((grant.node.as_str(), grant.attempt), ("heir", Attempt(2)));
    for grant in &old {
        let late = origin.broker.finish(grant.walk, &grant.node, grant.attempt).await;
        assert!(matches!(late, Ok(Finished::Fenced(_))), "{late:?}");
    }
    // The other one waits, and goes to the node when it comes back.
    assert_eq!(dead.broker.heartbeat().await.expect("beats"), Registered::No);
    dead.register(2).await;
    let grant = origin.next_grant().await;
    assert_eq!((grant.node.as_str(), grant.attempt), ("dead", Attempt(2)));
    assert_eq!(origin.running().await, 2);
}

async fn what_a_node_takes_and_its_load_are_listed(cell: &impl Cell) {
    let agent = cell.agent("a").await;
    let info = broker::NodeInfo { takes: Takes::CompileSteps, ..info("a", 1) };
    agent.broker.register(&info).await.expect("registers");
    agent.broker.note_load(153);
    agent.broker.heartbeat().await.expect("is heard");
    let listed = agent.nodes().await;
    assert_eq!((listed[0].info.takes, listed[0].load_percent), (Takes::CompileSteps, 153));
}

async fn who_says_something_needs_no_heartbeat(cell: &impl Cell) {
    let watcher = cell.node("watcher", 0).await;
    let talker = cell.agent("talker").await;
    talker.register(1).await;
    talker.broker.heartbeat().await.expect("beats");
    let is_alive = async || {
        let nodes = watcher.nodes().await;
        nodes.iter().any(|state| state.info.node == talker.name && state.alive)
    };
    let started = Instant::now();
    while started.elapsed() < LEASE * 2 {
        tokio::time::sleep(LEASE / 10).await;
        talker.broker.cancel(walk(1, 1)).await.expect("says something");
        assert!(is_alive().await, "its lease ended after {:?}", started.elapsed());
    }
    assert!(talker.broker.heard_lately().is_some());
}

async fn others_wait(agent: &Agent<impl Matchmaker>) -> bool {
    match agent.broker.heartbeat().await {
        Ok(Registered::Yes { others_wait, .. }) => others_wait,
        answer => panic!("no heartbeat: {answer:?}"),
    }
}

async fn a_heartbeat_says_whether_others_wait(cell: &impl Cell) {
    let (hog, other) = (cell.node("hog", 0).await, cell.node("other", 0).await);
    let _runner = cell.node("runner", 1).await;
    let grant = hog.granted(walk(1, 1)).await;
    assert_eq!(hog.submit(walk(1, 2)).await, Submitted::Queued(1));
    assert!(!others_wait(&hog).await, "its own walk waits");
    assert!(others_wait(&other).await);
    hog.broker.cancel(walk(1, 2)).await.expect("cancels");
    assert_eq!(other.submit(walk(2, 1)).await, Submitted::Queued(1));
    assert!(others_wait(&hog).await);
    hog.broker.finish(grant.walk, &grant.node, grant.attempt).await.expect("finishes");
    assert!(!others_wait(&hog).await, "it has its slot");
}

async fn who_registers_again_after_its_lease_gets_walks_at_once(cell: &impl Cell) {
    let (origin, runner) = (cell.agent("origin").await, cell.agent("r").await);
    runner.register(1).await;
    tokio::time::sleep(LEASE * 11 / 10).await;
    assert_eq!(origin.submit(walk(1, 1)).await, Submitted::Queued(1), "the lease is over");
    tokio::time::sleep(LEASE * 11 / 10).await;
    runner.register(1).await;
    assert_eq!(origin.granted(walk(1, 1)).await.node, runner.name);
}

async fn a_broken_link_moves_the_callers_walks_at_once(cell: &impl Cell) {
    let mut one = cell.node("one", 0).await;
    let two = cell.node("two", 0).await;
    let mut runner = cell.node("a", 2).await;
    runner.fall_silent();
    let mine = one.granted(walk(1, 1)).await;
    let theirs = two.granted(walk(2, 1)).await;
    let _b = cell.node("b", 1).await;
    one.broker.reap_node(&runner.name).await.expect("reaps");
    let moved = one.next_grant().await;
    assert_eq!((moved.walk, moved.node, moved.attempt), (mine.walk, node("b"), Attempt(2)));
    assert_eq!(one.submit(walk(1, 2)).await, Submitted::Queued(1), "the node is suspect");
    let done = two.broker.finish(theirs.walk, &theirs.node, theirs.attempt).await;
    assert_eq!(done.expect("finishes"), no_next(), "the link of the other origin still stands");
    runner.broker.heartbeat().await.expect("beats");
    assert_eq!(one.next_grant().await.node, runner.name);
}

async fn a_restarted_agent_inherits_nothing(cell: &impl Cell) {
    let mut origin = cell.node("origin", 0).await;
    let mut old = cell.node("r", 2).await;
    old.fall_silent();
    origin.granted(walk(1, 1)).await;
    old.granted(walk(9, 1)).await;
    let new = cell.node("r", 1).await;
    let grant = origin.next_grant().await;
    assert_eq!((grant.node, grant.attempt), (new.name.clone(), Attempt(2)));
    assert_eq!(origin.running().await, 1, "the walk of the old agent itself is gone");
    assert_eq!(old.broker.heartbeat().await.expect("beats"), Registered::No);

    let elsewhere = broker::NodeInfo { address: support::address("elsewhere"), ..info("r", 1) };
    let twin = cell.agent("r").await;
    let refused = twin.broker.register(&elsewhere).await;
    assert!(matches!(refused, Err(BrokerError::NameTaken { .. })), "{refused:?}");
}

/// Who has gone is remembered, with how and when; who comes back is not.
async fn how_a_node_went_is_remembered(cell: &impl Cell) {
    let watcher = cell.node("watcher", 0).await;
    let (leaves, mut dies) = (cell.node("leaves", 1).await, cell.node("dies", 1).await);
    tokio::time::sleep(LEASE * 6 / 5).await;
    leaves.broker.leave(&leaves.name).await.expect("leaves");
    dies.fall_silent();
    let silent = Instant::now();
    let past = async || watcher.broker.list().await.expect("lists").1;
    let mut found = past().await;
    while found.len() < 2 {
        assert!(silent.elapsed() < 3 * LEASE, "{found:?}");
        tokio::time::sleep(LEASE / 20).await;
        found = past().await;
    }
    found.sort_by(|a, b| a.node.cmp(&b.node));
    let how: Vec<_> = found.iter().map(|past| (past.node.as_str(), past.left)).collect();
    assert_eq!(how, [("dies", false), ("leaves", true)]);
    // Its last word came before it fell silent, half a lease at most.
    assert!(found[0].heard_ago >= LEASE, "{found:?}");
    assert!(found[0].heard_ago <= silent.elapsed() + LEASE, "{found:?}");
    assert!(found[1].heard_ago <= silent.elapsed() + LEASE / 10, "{found:?}");
    dies.register(1).await;
    assert_eq!(past().await.len(), 1);
}

async fn cancelling_frees_slots_and_places_in_the_queue(cell: &impl Cell) {
    let mut origin = cell.node("origin", 0).await;
    let mut runner = cell.node("r", 1).await;
    origin.granted(walk(1, 1)).await;
    for number in 2..=4 {
        origin.submit(walk(1, number)).await;
    }
    assert!(origin.broker.cancel(walk(1, 2)).await.expect("cancels"), "a waiting one");
    assert!(origin.broker.cancel(walk(1, 1)).await.expect("cancels"), "a running one");
    assert!(!origin.broker.cancel(walk(1, 1)).await.expect("cancels"), "it is gone");
    assert_eq!(runner.event().await, Event::Cancelled(walk(1, 1)));
    assert_eq!(origin.next_grant().await.walk, walk(1, 3));
    origin.submit(walk(2, 1)).await;
    origin.broker.cancel_session(SessionId(1)).await.expect("cancels");
    assert_eq!(origin.next_grant().await.walk, walk(2, 1));
    assert_eq!(origin.running().await, 1);
}

async fn a_leaving_node_hands_its_walks_on(cell: &impl Cell) {
    let mut origin = cell.node("origin", 0).await;
    let leaver = cell.node("a", 1).await;
    let grant = origin.granted(walk(1, 1)).await;
    assert_eq!(leaver.submit(walk(2, 1)).await, Submitted::Queued(1));
    let _b = cell.node("b", 1).await;
    leaver.broker.leave(&leaver.name).await.expect("leaves");
    let moved = origin.next_grant().await;
    assert_eq!((moved.walk, moved.node), (grant.walk, node("b")));
    assert_eq!(origin.running().await, 1);
}

async fn the_walks_of_an_origin_that_leaves_end(cell: &impl Cell) {
    let other = cell.node("other", 0).await;
    let leaver = cell.node("leaver", 0).await;
    let mut runner = cell.node("r", 1).await;
    leaver.granted(walk(1, 1)).await;
    assert_eq!(leaver.submit(walk(1, 2)).await, Submitted::Queued(1));
    for (number, only) in [(3, "r"), (4, "nobody")] {
        let submit = Submit { only: Some(node(only)), ..plain(walk(1, number)) };
        let submitted = leaver.broker.submit(&submit).await.expect("submits");
        assert_eq!(submitted, Submitted::Queued(1));
    }
    leaver.broker.leave(&leaver.name).await.expect("leaves");
    assert_eq!(runner.event().await, Event::Cancelled(walk(1, 1)));
    for number in 1..=4 {
        assert!(!other.broker.cancel(walk(1, number)).await.expect("cancels"), "it is gone");
    }
    assert_eq!(other.granted(walk(2, 1)).await.node, runner.name);
}
