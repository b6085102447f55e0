//! Random worlds: programs change one tree on all nodes, while links are cut and agents killed. When all is well again, all
//! nodes show the same tree, and each content that was closed is there, or a version.
//!
//! `OSWALK_SEED` selects one world, `OSWALK_ROUNDS` the number of worlds, `OSWALK_STEPS` the operations of each node.

mod actor;
mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::coherence::{Random, number, seed};
use crate::interrupts::wait_longer;
use crate::lab::{Lab, Up};
use crate::run::seconds;
use crate::volumes::{Mounted, NODES};
use actor::{Actor, DEPTH_MAX, Done, Stand};
use picture::picture;

/// The world of the suite.
const KNOWN_SEED: u64 = 20_261_128;

pub(crate) const ALL: &[Test] =
    &[("worlds::all_nodes_agree_after_cuts_and_kills_and_nothing_is_lost", agree)];

const STEPS: u64 = 300;
/// Operations of all nodes between two disturbances, at most.
const CALM: usize = 200;
/// Longest time of a world's operations.
const LIVE: Duration = seconds(240);
/// Longest time until nodes agree. Who waits for a packet that nobody has waits for 20 s.
const AGREE: Duration = seconds(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

fn agree(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let rounds = number("OSWALK_ROUNDS").unwrap_or(1);
    // Alone, the suite lives in a known world; other ones are for OSWALK_ROUNDS.
    let is_asked = |name: &str| std::env::var_os(name).is_some();
    let first =
        if is_asked("OSWALK_ROUNDS") || is_asked("OSWALK_SEED") { seed() } else { KNOWN_SEED };
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        eprintln!("OSWALK_SEED={seed}");
        let lived = World::new(up, seed).and_then(|world| world.live());
        // Whatever happened, the next test finds the lab intact.
        let healed = NODES.iter().try_for_each(|node| up.lab(&["heal", node]));
        let said = lived.map_err(|error| format!("OSWALK_SEED={seed}: {error}"))?;
        healed?;
        eprintln!("  {said}");
    }
    Ok(())
}

struct World<'a> {
    up: &'a Up,
    volume: Mounted<'a>,
    random: Random,
    /// The directory of this world, in the mount.
    name: String,
    stands: Vec<Arc<Stand>>,
    cut: BTreeSet<usize>,
    dead: BTreeSet<usize>,
    disturbed: usize,
}

impl<'a> World<'a> {
    fn new(up: &'a Up, seed: u64) -> Result<Self, String> {
        let name = format!("world{seed}");
        let volume = Mounted::new(up, &format!("worlds {seed}"))?;
        volume.done("origin", &format!("mkdir {name}"))?;
        volume.all(&format!("test -d {name}"))?;
        let stands = NODES.map(|_| Arc::new(Stand::default())).to_vec();
        // A xorshift generator stays at 0.
        let random = Random((seed << 1) | 1);
        let (cut, dead) = Default::default();
        let world = Self { up, volume, random, name, stands, cut, dead, disturbed: 0 };
        (0..NODES.len()).try_for_each(|node| world.stand(node))?;
        Ok(world)
    }

    /// Tells the actor of a node where its mount is, seen from this process.
    fn stand(&self, node: usize) -> Result<(), String> {
        self.stands[node].is_at(self.volume.seen(NODES[node])?.join(&self.name));
        Ok(())
    }

    fn live(mut self) -> Result<String, String> {
        let steps = number("OSWALK_STEPS").unwrap_or(STEPS);
        let actors: Vec<_> = (0..NODES.len())
            .map(|node| {
                let random = Random(self.random.0.wrapping_mul(2 * node as u64 + 3) | 1);
                let actor = Actor::new(NODES[node], Arc::clone(&self.stands[node]), random);
                thread::spawn(move || actor.live(steps))
            })
            .collect();
        let deadline = Instant::now() + LIVE;
        let mut next = self.random.below(CALM);
        while actors.iter().any(|actor| !actor.is_finished()) {
            // What they wait for comes by another disturbance.
            let all_wait = (actors.iter().zip(&self.stands))
                .all(|(actor, stand)| actor.is_finished() || stand.waits());
            if all_wait || self.stands.iter().map(|stand| stand.steps()).sum::<usize>() >= next {
                self.disturb()?;
                next = self.stands.iter().map(|stand| stand.steps()).sum::<usize>()
                    + self.random.below(CALM);
            }
            if Instant::now() > deadline {
                let at: Vec<_> = self.stands.iter().map(|stand| stand.now()).collect();
                return Err(format!("programs hang: {at:?}"));
            }
            thread::sleep(LOOK);
        }
        for node in self.dead.iter().chain(&self.cut) {
            self.up.lab(&["heal", NODES[*node]])?;
        }
        let mut done = Vec::new();
        for actor in actors {
            done.push(actor.join().map_err(|_| "a program panicked")??);
        }
        let done = Done::of_all(done);
        let checked = self.check(&done);
        if checked.is_err() {
            self.leave_traces(&done);
        }
        checked
    }

    /// Writes what happened beside the tests' files, which stay after a failure.
    fn leave_traces(&self, done: &Done) {
        let _ = std::fs::write(self.up.dir.join("history"), done.history.join("\n"));
        for node in NODES {
            let log = self.volume.done(node, "oswalk fs conflicts; oswalk log . --limit 100000");
            let _ = std::fs::write(
                self.up.dir.join(format!("{node}.events")),
                format!("{log:?}").replace("\\n", "\n"),
            );
        }
    }

    /// Cuts or kills a node, or puts it back.
    fn disturb(&mut self) -> Result<(), String> {
        let node = self.random.below(NODES.len());
        self.disturbed += 1;
        let (name, stand) = (NODES[node], &self.stands[node]);
        if self.dead.contains(&node) || self.cut.contains(&node) {
            let was_dead = self.dead.remove(&node);
            self.cut.remove(&node);
            self.up.lab(&["heal", name])?;
            if was_dead {
                self.stand(node)?;
            }
        } else if self.random.below(2) == 0 {
            self.cut.insert(node);
            self.up.lab(&["cut", name])?;
        } else {
            self.dead.insert(node);
            stand.is_gone();
            self.up.lab(&["kill", name])?;
        }
        Ok(())
    }

    fn roots(&self) -> Result<Vec<PathBuf>, String> {
        NODES.iter().map(|node| self.volume.seen(node)).collect()
    }

    fn check(&self, done: &Done) -> Result<String, String> {
        if let Some(wrong) = done.wrong.first() {
            return Err(format!("{} wrong answers, first: {wrong}", done.wrong.len()));
        }
        let began = Instant::now();
        let roots = self.roots()?;
        let mut seen: Vec<BTreeMap<String, String>> = Vec::new();
        let agreed = wait_longer(AGREE, "all nodes show the same", || {
            seen = roots.iter().map(|root| picture(&root.join(&self.name))).collect();
            let has_failed = seen.iter().flat_map(|it| it.values()).any(|it| it.contains("failed"));
            !has_failed && seen.iter().all(|it| *it == seen[0])
        });
        agreed.map_err(|error| format!("{error}: {}", differences(&seen)))?;
        let took = began.elapsed();
        for node in NODES {
            // It fails if anything is damaged, or the tables differ from the log.
            self.volume.done(node, "oswalk fs fsck")?;
        }
        // Of a file with several names each node tells one.
        let conflicts = self
            .volume
            .same("oswalk fs conflicts | grep -v present | grep -o '[^ ]*@[^ ]*' | sort -u")?
            .matches('@')
            .count();
        let (mut read, mut lost) = (0, Vec::new());
        for (root, node) in roots.iter().zip(NODES) {
            let found = picture::contents(root, &self.name, DEPTH_MAX)?;
            read += found.len();
            // Others list what they have seen, and what lost: not what was replaced before they heard of it.
            let own = done.kept.iter().filter(|(_, by)| by.starts_with(&format!("{node} ")));
            let not_there = own.filter(|(digest, _)| !found.contains_key(*digest));
            lost.extend(
                not_there.map(|(digest, by)| format!("{node} has lost {digest:.16} of {by}")),
            );
            let unknown = found.iter().filter(|(digest, _)| !done.tried.contains(*digest));
            lost.extend(unknown.map(|(_, path)| format!("{node} has what nobody wrote: {path}")));
        }
        if !lost.is_empty() {
            return Err(format!("of {} contents:\n{}", done.kept.len(), lost.join("\n")));
        }
        self.volume.done("origin", &format!("rm -r {}", self.name))?;
        Ok(format!(
            "{} operations ({} failed), {} disturbances; {} paths the same {:.1} s after all was healed; {} contents kept, \
             {} found on three nodes; {} versions in conflict",
            done.steps,
            done.failed,
            self.disturbed,
            seen[0].len(),
            took.as_secs_f64(),
            done.kept.len(),
            read,
            conflicts,
        ))
    }
}

/// Returns the first paths that not all nodes show alike.
fn differences(seen: &[BTreeMap<String, String>]) -> String {
    let paths: BTreeSet<_> = seen.iter().flat_map(|it| it.keys()).collect();
    let differ =
        paths.into_iter().filter(|path| seen.iter().any(|it| it.get(*path) != seen[0].get(*path)));
    let told = |path: &String| {
        let each: Vec<_> = seen.iter().map(|it| it.get(path).map_or("-", |it| it)).collect();
        format!("{path}:\n  {}\n", each.join("\n  "))
    };
    differ.take(5).map(told).collect()
}
