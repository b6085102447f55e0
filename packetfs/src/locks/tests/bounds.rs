//! What programs and nodes cannot do to others, whatever they ask for or say.

use std::time::Duration;

use worknode::history::FileId;

use super::super::limits::{
    ANSWER_MAX, CLAIMS_WAIT, GONE_AFTER, LOCKS_MAX, NODE_LOCKS_MAX, RELEASES_MAX, ROUND_EVERY,
    TRY_MAX, USER_WAITERS_MAX, WAITERS_MAX,
};
use super::super::message::{Answer, Ask};
use super::super::table::{END, Held, Mode, Owner};
use super::super::{Action, Node, Refusal, Ticket, Told, Want, Word};
use super::nodes::{USER, World, author, file, lock};

const ROOT: u32 = 0;

fn wants(lock: Held) -> Want {
    Want::Lock { lock, waits: true }
}

/// Asks for a lock of a whole file by a user's program on the first node.
fn ask(world: &mut World, owner: u64, user: u32) -> (usize, u64) {
    let lock = Held::all_of(Owner { node: author(0), id: owner });
    let now = world.now;
    let id = world.nodes[0].request(file(1), wants(lock), user, now);
    (0, id)
}

fn told(node: &mut Node, id: u64) -> Option<Told> {
    let is_it = |told: &Told| match told {
        Told::Granted { id: of }
        | Told::Free { id: of }
        | Told::Released { id: of }
        | Told::Refused { id: of, .. }
        | Told::Late { id: of } => *of == id,
        Told::Lost { .. } => false,
    };
    node.actions().into_iter().find_map(|action| match action {
        Action::Tell(told) if is_it(&told) => Some(told),
        _ => None,
    })
}

#[test]
fn a_lock_is_not_split_into_more_parts_than_there_may_be() {
    let world = World::new(1, 0);
    let (mut node, now) = (Node::new(author(0)), world.now);
    let all = lock(0, 5, Mode::Exclusive, (0, END));
    node.request(file(1), wants(all), USER, now);
    let mut refused = 0;
    // In debug builds, too, each takes little time, however many there are.
    for at in 0..300_000 {
        let part = Held { start: 2 * at + 1, end: 2 * at + 1, ..all };
        let id = node.request(file(1), Want::Unlock { lock: part }, USER, now);
        refused += u64::from(told(&mut node, id) != Some(Told::Released { id }));
    }
    let count = node.own(file(1), &all).len();
    assert!(count <= LOCKS_MAX && count > LOCKS_MAX - 4, "{count} parts");
    assert_eq!(refused, 300_001 - count as u64);
    // Whatever its owner has in a range it can give back.
    let id = node.request(file(1), Want::Unlock { lock: Held { end: 99, ..all } }, USER, now);
    assert_eq!(told(&mut node, id), Some(Told::Released { id }));
    node.unlock(file(1), Held::all_of(all.owner), USER, now);
    assert_eq!(node.own(file(1), &all), []);
}

#[test]
fn who_gives_back_much_waits_for_the_master_and_closes_without() {
    let mut world = World::connected(2);
    let part = |at: u64| lock(1, 5, Mode::Exclusive, (2 * at, 2 * at));
    let count = RELEASES_MAX as u64 + 1;
    for at in 0..count {
        world.request(1, file(1), wants(part(at)));
    }
    world.deliver_all();
    let unlocks: Vec<_> =
        (0..count).map(|at| world.request(1, file(1), Want::Unlock { lock: part(at) })).collect();
    let last = unlocks[RELEASES_MAX];
    assert!(unlocks[..RELEASES_MAX].iter().all(|it| world.told.contains_key(it)));
    assert_eq!(world.told.get(&last), None);
    world.unlock(1, 5);
    world.unlock(1, 5);
    world.deliver_all();
    assert_eq!(world.told[&last], Told::Released { id: last.1 });
}

#[test]
fn releases_that_nobody_answers_are_over_with_the_next_round() {
    let mut world = World::connected(2);
    world.lock(1, 5, true);
    world.deliver_all();
    world.unlock(1, 5);
    world.give(0);
    // The master never hears of it.
    world.waiting.clear();
    world.pass(ANSWER_MAX);
    world.deliver_all();
    assert!(!world.nodes[1].is_waited_for());
    let other = world.lock(0, 6, true);
    assert_eq!(world.told[&other], Told::Granted { id: other.1 });
}

#[test]
fn what_takes_long_to_give_keeps_its_lock_and_nothing_else() {
    let mut world = World::connected(2);
    world.lock(1, 5, true);
    let other = lock(1, 7, Mode::Exclusive, (0, 9));
    world.request(1, file(2), wants(other));
    world.deliver_all();
    world.unlock(1, 5);
    world.pass(3 * ANSWER_MAX);
    let waits = world.lock(0, 6, true);
    let again = world.lock(1, 5, true);
    world.request(1, file(2), Want::Unlock { lock: other });
    while world.waiting.values().any(|queue| !queue.is_empty()) {
        world.deliver((1, 0));
        world.deliver((0, 1));
    }
    assert_eq!(world.told.get(&waits), None, "the content is not there");
    assert_eq!(world.told.get(&again), None, "its former release comes first");
    world.cancel(again);
    assert_eq!(world.told[&again], Told::Refused { id: again.1, refusal: Refusal::Cancelled });
    // What was written under the other one is there.
    world.give(1);
    world.deliver((1, 0));
    let free =
        world.request(0, file(2), wants(Held { owner: Owner { node: author(0), id: 1 }, ..other }));
    assert_eq!(world.told[&free], Told::Granted { id: free.1 });
    world.deliver_all();
    assert_eq!(world.told[&waits], Told::Granted { id: waits.1 });
}

#[test]
fn who_waits_for_what_a_master_is_giving_can_be_interrupted() {
    let mut world = World::connected(2);
    world.lock(0, 5, true);
    let waits = world.lock(1, 6, true);
    world.deliver_all();
    world.unlock(0, 5);
    assert_eq!(world.gives.len(), 1);
    let own = world.lock(0, 7, true);
    world.cancel(waits);
    world.deliver((1, 0));
    world.deliver((0, 1));
    assert_eq!(world.told[&waits], Told::Refused { id: waits.1, refusal: Refusal::Cancelled });
    assert_eq!(world.told[&own], Told::Granted { id: own.1 });
    world.deliver_all();
    world.check();
}

#[test]
fn a_user_who_waits_often_keeps_neither_others_nor_root_from_waiting() {
    let mut world = World::new(1, 0);
    ask(&mut world, 0, USER);
    let full = |id| Some(Told::Refused { id, refusal: Refusal::Full });
    for owner in 1..=USER_WAITERS_MAX as u64 {
        let (_, id) = ask(&mut world, owner, USER);
        assert_eq!(told(&mut world.nodes[0], id), None);
    }
    let (_, id) = ask(&mut world, 9999, USER);
    assert_eq!(told(&mut world.nodes[0], id), full(id));
    for (at, owner) in (10_000..10_000 + WAITERS_MAX as u64).enumerate() {
        // Many users together.
        ask(&mut world, owner, USER + 1 + u32::try_from(at / 100).unwrap());
    }
    let (_, id) = ask(&mut world, 9998, USER + 999);
    assert_eq!(told(&mut world.nodes[0], id), full(id));
    let (_, id) = ask(&mut world, 9997, ROOT);
    assert_eq!(told(&mut world.nodes[0], id), None);
}

#[test]
fn a_chain_of_waits_is_followed_to_its_end() {
    let now = World::new(1, 0).now;
    for length in [2, 200, WAITERS_MAX as u64] {
        let mut node = Node::new(author(0));
        let of = |owner, at| FileId { seq: at, ..file(owner) };
        let lock = |owner| lock(0, owner, Mode::Exclusive, (0, 9));
        for owner in 0..length {
            node.request(of(1, owner), wants(lock(owner)), ROOT, now);
        }
        for owner in 0..length - 1 {
            node.request(of(1, owner + 1), wants(lock(owner)), ROOT, now);
        }
        let id = node.request(of(1, 0), wants(lock(length - 1)), ROOT, now);
        let refused = Told::Refused { id, refusal: Refusal::Deadlock };
        assert_eq!(told(&mut node, id), Some(refused), "{length} owners");
    }
}

#[test]
fn an_answer_to_what_was_not_asked_is_not_believed() {
    let mut world = World::connected(2);
    let waits = world.lock(1, 5, true);
    let tried = world.lock(1, 6, false);
    let tested = world.request(1, file(1), Want::Test { lock: lock(1, 7, Mode::Shared, (0, 9)) });
    world.waiting.clear();
    let held = lock(0, 9, Mode::Exclusive, (50, 60));
    let refused = |id, refusal| Answer::Refused { id, refusal };
    let lies = [
        Answer::Unlocked { id: waits.1 },
        Answer::Free { id: waits.1 },
        refused(waits.1, Refusal::Cancelled),
        refused(tried.1, Refusal::Held(held)),
        refused(tried.1, Refusal::Deadlock),
        Answer::Granted { id: tested.1 },
    ];
    let (round, now) = (world.nodes[1].round(), world.now);
    for lie in lies {
        assert!(!world.nodes[1].hear(author(0), round, Word::Answer(lie.clone()), now), "{lie:?}");
    }
    world.act(1);
    world.cancel(waits);
    world.pass(ANSWER_MAX);
    let cancelled = Told::Refused { id: waits.1, refusal: Refusal::Cancelled };
    assert_eq!(world.told[&waits], cancelled);
    assert_eq!(world.told[&tried], Told::Late { id: tried.1 });
    assert_eq!(world.told[&tested], Told::Late { id: tested.1 });
}

#[test]
fn a_node_that_never_ends_its_claims_stops_nobody_for_long() {
    let mut world = World::connected(2);
    world.pass(CLAIMS_WAIT);
    let claim = |is_last| {
        let (locks, linked) = (Vec::new(), Vec::new());
        Word::Ask(Ask::Claim { is_first: true, is_last, locks, linked })
    };
    for round in 100..110 {
        let now = world.now;
        world.nodes[0].hear(author(1), round, claim(false), now);
        let tried = world.lock(0, round, false);
        world.pass(TRY_MAX);
        assert_eq!(world.told[&tried], Told::Granted { id: tried.1 });
        world.unlock(0, round);
    }
    // Its link comes and goes.
    let mut granted = 0;
    for owner in 200..220 {
        world.cut(0, 1);
        world.connect(0, 1);
        world.waiting.clear();
        let tried = world.lock(0, owner, true);
        world.pass(CLAIMS_WAIT / 2);
        granted += u32::from(world.told.contains_key(&tried));
        world.cancel(tried);
        world.unlock(0, owner);
    }
    assert!(granted >= 17, "{granted} of 20");
}

#[test]
fn a_node_claims_no_more_than_it_may_have() {
    let mut world = World::connected(2);
    let claims = |from: u64| {
        let lock = lock(1, 5, Mode::Exclusive, (0, 9));
        let locks = (from..from + 4096).map(|seq| (file(seq), lock)).collect();
        let is_last = from > NODE_LOCKS_MAX as u64;
        Word::Ask(Ask::Claim { is_first: from == 0, is_last, locks, linked: Vec::new() })
    };
    let now = world.now;
    for at in 0..=NODE_LOCKS_MAX as u64 / 4096 + 1 {
        world.nodes[0].hear(author(1), 100, claims(4096 * at), now);
    }
    let lost = world.nodes[0].actions().into_iter();
    let is_lost =
        |it: &Action| matches!(it, Action::Send { word: Word::Answer(Answer::Lost { .. }), .. });
    assert!(lost.filter(is_lost).count() >= 2 * 4096 - 2);
}

#[test]
fn greetings_without_end_have_all_told_once_a_second() {
    let mut world = World::connected(2);
    let sent = world.sent;
    for _ in 0..1000 {
        let now = world.now;
        world.nodes[1].hear(author(0), 0, Word::Ask(Ask::Hello), now);
        world.act(1);
    }
    assert_eq!(world.sent, sent);
    world.pass(ROUND_EVERY);
    assert_eq!(world.sent, sent + 1, "it is told once");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.sent, sent + 1);
}

#[test]
fn what_is_given_for_a_node_that_is_gone_is_given_for_nobody() {
    let mut world = World::connected(2);
    world.lock(1, 5, true);
    while world.gives.is_empty() {
        world.deliver((1, 0));
    }
    world.cut(0, 1);
    world.pass(GONE_AFTER);
    let (at, ticket) = world.gives[0];
    assert!(matches!((at, ticket), (0, Ticket::Grant(_))));
    world.give(0);
    let other = world.lock(0, 6, true);
    assert_eq!(world.told[&other], Told::Granted { id: other.1 });
}
