//! What holds for every history.

use std::collections::{BTreeMap, BTreeSet};

use worknode::history::{Dot, Event, Events, FileId, Hlc, Op, Tree};

use crate::random::{Random, for_seeds};
use crate::world::{ROOT, World, dirs};

/// So many random histories if optimised.
const HISTORIES: u64 = 100_000;

#[test]
fn every_history_obeys_the_laws() {
    for_seeds(HISTORIES, |seed| {
        let mut world = World::lived(seed);
        let events = world.events();
        let tree = Tree::of(&events);
        assert_eq!(tree.idle(), 0, "every event has its causes");
        order_does_not_matter(&mut world.random, &events, &tree);
        nodes_that_met_are_alike(&mut world, &tree);
        union_is_associative(&mut world);
        a_moment_is_a_prefix(&mut world.random, &events, &tree);
        nothing_written_is_lost(&events, &tree);
        every_name_leads_from_the_root(&tree);
        if !world.removes {
            nothing_vanishes(&events, &tree);
        }
    });
}

fn order_does_not_matter(random: &mut Random, events: &[Event], tree: &Tree) {
    let mut shuffled: Vec<&Event> = events.iter().collect();
    random.shuffle(&mut shuffled);
    // Some come twice.
    let again: Vec<&Event> = shuffled.iter().copied().filter(|_| random.percent(20)).collect();
    let at = random.below(shuffled.len() + 1);
    let (first, second) = shuffled.split_at(at);
    let other = Tree::of(first.iter().chain(&again).chain(second).copied());
    assert_eq!(other.root(), tree.root());
    assert_eq!(other.conflicts(), tree.conflicts());
    let mut one_by_one = Tree::default();
    shuffled.into_iter().for_each(|event| one_by_one.apply(event));
    assert_eq!(one_by_one.root(), tree.root());
}

fn nodes_that_met_are_alike(world: &mut World, tree: &Tree) {
    for node in 0..world.nodes.len() {
        for other in 0..world.nodes.len() {
            let there =
                world.nodes[other].tree.events().missing(world.nodes[node].tree.events().summary());
            let missing: Vec<Event> = there.cloned().collect();
            missing.iter().for_each(|event| world.nodes[node].tree.apply(event));
        }
        assert_eq!(world.nodes[node].tree.root(), tree.root(), "node {node}");
    }
}

fn union_is_associative(world: &mut World) {
    let set = |random: &mut Random, world: &[Event]| {
        let mut events = Events::default();
        world.iter().filter(|_| random.percent(50)).for_each(|event| _ = events.insert(event));
        events
    };
    let all = world.events();
    let [a, b, c] = [0; 3].map(|_| set(&mut world.random, &all));
    let united = |x: &Events, y: &Events| {
        let mut united = x.clone();
        united.unite(y);
        united
    };
    assert_eq!(united(&united(&a, &b), &c), united(&a, &united(&b, &c)));
    assert_eq!(united(&a, &b), united(&b, &a));
    assert_eq!(united(&a, &a), a);
    assert_eq!(Tree::of(united(&a, &b).iter()).root(), Tree::of(united(&b, &a).iter()).root());
}

fn a_moment_is_a_prefix(random: &mut Random, events: &[Event], tree: &Tree) {
    let moment = if events.is_empty() { Hlc(0) } else { random.pick(events).hlc };
    let mut prefix = Tree::default();
    events.iter().filter(|event| event.hlc <= moment).for_each(|event| prefix.apply(event));
    assert_eq!(tree.at(moment).root(), prefix.root());
}

fn nothing_written_is_lost(events: &[Event], tree: &Tree) {
    let known: BTreeSet<Dot> = events
        .iter()
        .filter(|event| matches!(event.op, Op::Unlink { .. } | Op::Move { .. }))
        .flat_map(|event| event.parents.iter().copied())
        .collect();
    for event in events {
        let Op::Write { file, content, .. } = &event.op else { continue };
        let file = tree.file(*file).expect("it was made");
        let is_head = file.content().heads().iter().any(|head| head.stamp.dot == event.dot);
        let is_history = file.content().history().iter().any(|old| old.stamp.dot == event.dot);
        assert!(is_head != is_history, "{event:?}");
        assert_eq!(file.content().version(event.dot).expect("it is one of them").value, *content);
        assert!(
            !is_head || known.contains(&event.dot) || file.is_named(),
            "{event:?} is not shown"
        );
    }
}

fn every_name_leads_from_the_root(tree: &Tree) {
    let mut found: BTreeMap<FileId, usize> = BTreeMap::new();
    let dirs = dirs(tree);
    for dir in &dirs {
        for entry in tree.entries(*dir).into_values() {
            for id in [entry.file].iter().chain(&entry.united).chain(&entry.others) {
                *found.entry(*id).or_default() += 1;
            }
        }
    }
    assert_eq!(dirs.iter().collect::<BTreeSet<_>>().len(), dirs.len(), "there is no cycle");
    for made in tree.events().iter().filter(|event| matches!(event.op, Op::Make { .. })) {
        let names = tree.names(made.dot).len();
        assert_eq!(found.get(&made.dot).copied().unwrap_or(0), names, "names of {:?}", made.dot);
        assert_eq!(names > 0, tree.file(made.dot).expect("it is made").is_named());
        assert_eq!(names > 0, leads_to(tree, made.dot), "path of {:?}", made.dot);
    }
}

fn leads_to(tree: &Tree, id: FileId) -> bool {
    let Some(path) = tree.path(id) else { return false };
    let (last, dirs) = path.split_last().expect("it is not the root");
    let dir = dirs.iter().fold(ROOT, |dir, name| tree.entry(dir, name).expect("it is there").file);
    let entry = tree.entry(dir, last).expect("it is there");
    entry.file == id || entry.united.contains(&id) || entry.others.contains(&id)
}

/// Nothing was removed, so everything is there.
fn nothing_vanishes(events: &[Event], tree: &Tree) {
    for event in events.iter().filter(|event| matches!(event.op, Op::Make { .. })) {
        assert!(tree.file(event.dot).expect("it is made").is_named(), "{event:?}");
    }
}
