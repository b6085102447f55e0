//! Checks a whole volume: chain and signatures of the log, each packet, each content of each file, and that the tables are
//! what the log says.

use std::collections::BTreeMap;
use std::path::Path;

use worknode::history::Content;

use super::error::VolumeError;
use super::key::{self, Key};
use super::model::Volume;
use super::node::Node;
use super::row::Row;
use super::tables::Tables;
use super::tree::Tree;
use crate::log::{self, Cut, Place};
use crate::progress::Progress;
use crate::store::Damaged;

/// What a check has found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Events in the log.
    pub events: u64,
    /// Packets in the store.
    pub packets: u64,
    /// Files in the tree.
    pub files: u64,
    /// Packets that were damaged, and are intact again since another node had them.
    pub healed: u64,
    /// What was wrong and is mended, a sentence each.
    pub mended: Vec<String>,
    /// What is wrong, a sentence each: the file of the volume and the place in it, or the file of the tree.
    pub findings: Vec<String>,
}

impl Volume {
    /// Checks an open volume. Programs may use it meanwhile.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn check(&self) -> Result<Checked, VolumeError> {
        self.check_with(&Progress::default())
    }

    /// Does the same, and says how far it has come.
    ///
    /// # Errors
    /// The disk cannot be read, or it was cancelled.
    pub fn check_with(&self, progress: &Progress) -> Result<Checked, VolumeError> {
        let contents = self.contents()?;
        progress.expect(contents.iter().map(|(_, content)| content.bytes).sum());
        let mut checked = self.scrub(progress)?;
        let log = self.shared.log.verify()?;
        checked.events = log.events;
        checked.findings.extend(log.findings.iter().map(ToString::to_string));
        checked.mended.extend(self.shared.cut.map(|cut| told(&cut)));
        self.check_contents(&contents, progress, &mut checked)?;
        if log.findings.is_empty() {
            self.check_tables(&mut checked)?;
        }
        Ok(checked)
    }

    /// Reads every packet. Damaged ones are mended if other nodes have them.
    ///
    /// # Errors
    /// The disk cannot be read, or it was cancelled.
    pub fn scrub(&self, progress: &Progress) -> Result<Checked, VolumeError> {
        progress.expect(self.shared.library.pack_bytes());
        let packets = self.shared.library.check(progress)?;
        if progress.is_cancelled() {
            return Err(VolumeError::Cancelled);
        }
        let (damaged, healed) = self.shared.mend(packets.damaged, progress)?;
        let told = |it: &Damaged| {
            format!("{} at byte {}: a packet is damaged", it.path.display(), it.from)
        };
        let findings = damaged.iter().map(told).collect();
        Ok(Checked { packets: packets.packets, healed, findings, ..Checked::default() })
    }

    /// Checks the log of a volume that cannot be opened.
    ///
    /// # Errors
    /// The log is in use, or cannot be read.
    pub fn check_log(dir: &Path) -> Result<Checked, VolumeError> {
        let log = log::verify(&dir.join("log"))?;
        let findings = log.findings.iter().map(ToString::to_string).collect();
        Ok(Checked { events: log.events, findings, ..Checked::default() })
    }

    /// Returns the content of each file, by its number.
    fn contents(&self) -> Result<Vec<(u64, Content)>, VolumeError> {
        let mut contents = Vec::new();
        self.shared.each(&key::NODES, |_, row| {
            contents.push((key::number(&row.key).unwrap_or(0), Node::decode(&row.value)?.content));
            Ok(())
        })?;
        Ok(contents)
    }

    fn check_contents(
        &self,
        contents: &[(u64, Content)],
        progress: &Progress,
        checked: &mut Checked,
    ) -> Result<(), VolumeError> {
        for (ino, content) in contents {
            if progress.is_cancelled() {
                return Err(VolumeError::Cancelled);
            }
            checked.files += 1;
            progress.add(content.bytes);
            if self.shared.library.is_whole(content) {
                continue;
            }
            let Some(path) = self.path_of(*ino, content)? else { continue };
            checked.findings.push(format!(
                "{path}: a part of its content is missing; 'oswalk versions' lists others that it had"
            ));
        }
        Ok(())
    }

    /// Returns the path of a file that still has a content.
    fn path_of(&self, ino: u64, content: &Content) -> Result<Option<String>, VolumeError> {
        let state = self.shared.lock();
        let node = state.tree.find(ino)?;
        if node.is_none_or(|node| node.content != *content) {
            return Ok(None);
        }
        let path = state.tree.path(ino)?;
        Ok(Some(path.map_or_else(
            || format!("file {ino}"),
            |path| String::from_utf8_lossy(&path).into_owned(),
        )))
    }

    fn check_tables(&self, checked: &mut Checked) -> Result<(), VolumeError> {
        let path = self.shared.dir.join("tables.check");
        let mut state = self.shared.lock();
        if !self.shared.foreign.all().is_empty() {
            let merged = self.shared.merge(&state)?;
            let told = |it| format!("tables.redb: {it}");
            checked.findings.extend(state.tree.differences(&merged)?.into_iter().map(told));
            return Ok(());
        }
        let (tables, applied) = (state.tree.tables.as_now()?, state.tree.state.applied);
        drop(state);
        let compared = compare(&tables, applied, self, &path);
        let _ = std::fs::remove_file(&path);
        checked.findings.extend(compared?);
        Ok(())
    }
}

/// Says what was cut off from the log.
fn told(cut: &Cut) -> String {
    let Place { segment, offset } = cut.place;
    let flaw = cut.flaw.map_or_else(String::new, |flaw| format!(": {flaw}"));
    let Cut { bytes, events, .. } = cut;
    format!(
        "log/{segment:08}.log at byte {offset}: {bytes} bytes with {events} events were cut off after a crash{flaw}"
    )
}

fn compare(
    tables: &Tables,
    applied: u64,
    volume: &Volume,
    path: &Path,
) -> Result<Vec<String>, VolumeError> {
    let _ = std::fs::remove_file(path);
    let mut tree = Tree::open(path, volume.shared.author)?;
    for event in volume.shared.log.read_from(tree.state.applied + 1)? {
        let event = event?;
        if event.dot.seq > applied {
            break;
        }
        tree.apply(&event)?;
    }
    let (ours, logged) = (present(tables)?, present(&tree.tables)?);
    let mut keys: Vec<_> = ours.keys().chain(logged.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differs = keys.into_iter().filter(|key| ours.get(*key) != logged.get(*key));
    Ok(differs
        .map(|key| format!("tables.redb: the row {} is not what the log says", key.escape_ascii()))
        .collect())
}

/// Returns the rows of all files that have names.
fn present(tables: &Tables) -> Result<BTreeMap<Key, Vec<u8>>, VolumeError> {
    let mut rows = BTreeMap::new();
    for prefix in key::PRESENT {
        rows.extend(tables.all(&[prefix])?.into_iter().map(|(key, row)| (key, row.to_vec())));
    }
    let orphans: Vec<_> =
        tables.all(&key::ORPHANS)?.iter().filter_map(|(key, _)| key::number(key)).collect();
    rows.retain(|key, _| key::number(key).is_none_or(|ino| orphans.binary_search(&ino).is_err()));
    Ok(rows)
}
