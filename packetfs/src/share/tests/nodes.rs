//! Nodes in one process: each has a volume and a directory that is shared both ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use worknode::key::SecretKey;

use super::super::{Plan, Round, Share, ShareError};
use crate::export::Hidden;
use crate::packet::{Packed, PacketRef};
use crate::volume::{Options, Source, Statement, Volume, author_of};

/// Longest wait until nothing changes any more.
const QUIET: Duration = Duration::from_secs(60);
/// Bytes of events that are passed on at once.
const BYTES: usize = 1 << 20;

/// The volumes that have what one of them lacks.
#[derive(Debug, Default)]
struct Neighbours(Mutex<Vec<Weak<Volume>>>);

impl Source for Neighbours {
    fn fetch(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        let volumes = self.0.lock().expect("no test panics with it").clone();
        volumes.iter().filter_map(Weak::upgrade).flat_map(|it| it.packets(wanted)).collect()
    }
}

pub(super) struct Node {
    pub(super) dir: PathBuf,
    pub(super) volume: Arc<Volume>,
    pub(super) share: Option<Share>,
}

pub(super) struct Nodes {
    pub(super) nodes: Vec<Node>,
    _temporary: TempDir,
}

impl Nodes {
    /// Makes nodes with empty directories, which are not shared yet.
    pub(super) fn new(count: u8) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let neighbours = Arc::new(Neighbours::default());
        let node = |number: u8| {
            let at = temporary.path().join(number.to_string());
            fs::create_dir_all(at.join("src")).expect("it is free");
            let volume = open(&at.join("state"), number);
            volume.set_source(Arc::clone(&neighbours) as Arc<dyn Source>);
            neighbours.0.lock().expect("unlocked").push(Arc::downgrade(&volume));
            Node { dir: at.join("src"), volume, share: None }
        };
        Self { nodes: (0..count).map(node).collect(), _temporary: temporary }
    }

    /// Makes nodes of which each shares its directory.
    pub(super) fn sharing(count: u8) -> Self {
        let mut nodes = Self::new(count);
        for number in 0..usize::from(count) {
            nodes.share(number, None);
            nodes.settle();
        }
        nodes
    }

    pub(super) fn share(&mut self, number: usize, known: Option<&[u8]>) {
        let node = &mut self.nodes[number];
        let plan =
            Plan { dir: node.dir.clone(), owner: None, name: b"team/src".to_vec(), writes: true };
        let share = Share::new(plan, Arc::clone(&node.volume), Arc::new(Hidden::default()), known);
        let share = node.share.insert(share.expect("the kernel watches"));
        share.all().expect("the directory is there");
    }

    /// Ends a share as a crash does, with what was noted at that time.
    pub(super) fn crash(&mut self, number: usize, known: &[u8]) {
        self.nodes[number].share = None;
        self.share(number, Some(known));
    }

    pub(super) fn known(&mut self, number: usize) -> Vec<u8> {
        self.nodes[number].share.as_ref().expect("it is shared").known()
    }

    pub(super) fn dir(&self, number: usize) -> &Path {
        &self.nodes[number].dir
    }

    pub(super) fn changed(&mut self, number: usize) -> Result<Round, ShareError> {
        let share = self.nodes[number].share.as_mut().expect("it is shared");
        let mut round = share.changed()?;
        let begin = Instant::now();
        while share.is_unsure() {
            assert!(begin.elapsed() < QUIET, "a file is never sure: {round:?}");
            let more = share.changed()?;
            round.taken += more.taken;
            round.removed += more.removed;
            round.written += more.written;
            (round.left, round.trouble) = (more.left, more.trouble);
        }
        Ok(round)
    }

    /// Gives each volume what the others have.
    pub(super) fn meet(&self) {
        for from in &self.nodes {
            from.volume.sync().expect("the disk works");
            for to in self.nodes.iter().filter(|to| !Arc::ptr_eq(&to.volume, &from.volume)) {
                give(&from.volume, &to.volume);
            }
        }
    }

    /// Lets all meet until nothing changes any more. Returns how many files were written to directories.
    pub(super) fn settle(&mut self) -> u64 {
        let (begin, mut written) = (Instant::now(), 0);
        loop {
            let before = self.events();
            self.meet();
            let mut is_quiet = true;
            for number in 0..self.nodes.len() {
                if self.nodes[number].share.is_none() {
                    continue;
                }
                let round = self.changed(number).expect("the share works");
                written += round.written;
                is_quiet &= round.taken + round.removed + round.written == 0;
            }
            if is_quiet && self.events() == before {
                return written;
            }
            assert!(begin.elapsed() < QUIET, "there is always something new");
        }
    }

    /// Returns how many events there are.
    pub(super) fn events(&self) -> Vec<Vec<u64>> {
        let all = self.nodes.iter().map(|node| {
            node.volume.sync().expect("the disk works");
            node.volume.summary().0.into_values().collect()
        });
        all.collect()
    }
}

pub(super) fn open(dir: &Path, number: u8) -> Arc<Volume> {
    let [events, node] = [number, number + 100].map(|byte| SecretKey::from_seed(&[byte; 32]));
    let author = author_of(&events.key());
    let statement = Statement::sign(events.key(), &node);
    let options = Options { author, signer: Some(events), may_pass: false, boot: None };
    let volume = Volume::open(dir, &options).expect("a volume");
    volume.set_statement(statement);
    Arc::new(volume)
}

fn give(from: &Volume, to: &Volume) {
    for author in from.summary().0.into_keys() {
        loop {
            let after = to.summary().of(author);
            let batch = from.events_after(author, after, BYTES).expect("a sound log");
            let Some(batch) = batch else { break };
            to.learn(&batch).expect("sound events");
        }
    }
}
