//! Sends a runner data ahead of a walk: what similar walks have requested elsewhere, and what its sources include.

use std::sync::Arc;

use packetfs::export::{Asked, Exported, Exporter};
use packetfs::packet::PacketRef;
use packetfs::path::{TreePath, above};
use packetfs::watch::ReaderId;
use tokio::sync::mpsc::UnboundedSender;
use worknode::command::Files;

use super::long::at_once;
use super::profile::{Facts, Known, Likeness};
use super::{Answered, State, Upcoming, predict};
use crate::served::Heard;

use crate::wire::frame::{Frame, Kind};
use crate::wire::limits::PACKETS_PER_ASK;
use crate::wire::message::{self, Answer, Ask, Told};

/// Most bytes to send ahead of a walk, and most in one frame.
const BYTES_MAX: usize = 4 * 1024 * 1024;
const FRAME_BYTES: usize = 256 * 1024;

/// Most bytes of content for which holders are named ahead of a walk: as much as that, uncompressed.
const NAMED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most memory for what a reader knows, some 100,000 paths. Beyond this, all is dropped, and may be sent again.
const KNOWN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The data that is being sent.
#[derive(Default)]
struct Telling {
    frame: Vec<Told>,
    frame_bytes: usize,
    /// Bytes in this frame and the previous ones.
    bytes: usize,
    /// Bytes for which holders had been named before.
    named_before: u64,
}

impl Telling {
    /// Returns a frame if there is enough data for one.
    fn add(&mut self, told: Told) -> Option<Frame> {
        let bytes = told.bytes();
        self.bytes += bytes;
        self.frame_bytes += bytes;
        self.frame.push(told);
        if self.frame_bytes > FRAME_BYTES { self.frame() } else { None }
    }

    fn frame(&mut self) -> Option<Frame> {
        self.frame_bytes = 0;
        let told = std::mem::take(&mut self.frame);
        let payload = (!told.is_empty()).then(|| message::encode(&told))?;
        Some(Frame { kind: Kind::Told, stream: 0, payload: payload.into() })
    }
}

impl State {
    /// Records a request: for other nodes that will need the same, and as known to this one.
    pub(super) fn note(&mut self, reader: ReaderId, walks: &[Arc<Likeness>], ask: &Ask) {
        let add = |facts: &mut Facts| match ask {
            Ask::Listing(_) => facts.listing = true,
            Ask::Content(_) => facts.content = true,
            Ask::Packets(_, packets) => {
                facts.packets.extend(packets.iter().map(|&(offset, _)| offset));
            }
        };
        let (Ask::Listing(path) | Ask::Content(path) | Ask::Packets(path, _)) = ask;
        self.profiles.note(walks, path, add);
        if let Some(reader) = self.readers.get_mut(&reader) {
            if reader.told.bytes() >= KNOWN_BYTES_MAX {
                reader.told.clear();
            }
            reader.told.note(path, add);
        }
    }

    /// Sends a reader what similar walks have requested, if this is the first of its kind there, and what a compile step will
    /// read, except what the reader knows.
    pub(super) fn foretell(
        &mut self,
        reader: ReaderId,
        upcoming: &Upcoming,
        out_tx: &UnboundedSender<Frame>,
    ) {
        let named_before = self.holders.named_bytes();
        let mut telling = Telling { named_before, ..Telling::default() };
        if let Some(asked) = upcoming.is_first.then(|| self.profiles.of(&upcoming.walk)).flatten() {
            self.tell((reader, &upcoming.walk), &asked, &mut telling, out_tx);
        }
        if let Some(files) = &upcoming.files {
            let predicted = self.predicted(reader, &upcoming.walk, files);
            self.tell((reader, &upcoming.walk), &predicted, &mut telling, out_tx);
        }
        self.name_holders(reader, out_tx);
        if let Some(frame) = telling.frame() {
            self.outbox.put(out_tx, frame);
        }
    }

    /// Sends a reader what a walk may see of what is wanted.
    fn tell(
        &mut self,
        (reader, walk): (ReaderId, &Likeness),
        wanted: &Known,
        telling: &mut Telling,
        out_tx: &UnboundedSender<Frame>,
    ) {
        for (path, facts) in wanted.iter() {
            if !self.heard.may_be_asked(path) {
                continue;
            }
            for ask in self.untold(reader, path, facts) {
                if matches!(&ask, Ask::Listing(dir) if !self.heard.may_be_listed(dir)) {
                    continue;
                }
                if !walk.reach.has(&ask) {
                    continue;
                }
                let named = self.holders.named_bytes() - telling.named_before;
                if telling.bytes > BYTES_MAX || named > NAMED_BYTES_MAX {
                    return;
                }
                let told = match self.answer(reader, &ask, &[&walk.user], u64::MAX) {
                    // A large file is read when it is asked for.
                    Answered::Now(Answer::Failed(_)) | Answered::Long(_) => continue,
                    Answered::Now(answer) => Told { ask, answer },
                };
                self.note(reader, &[], &told.ask);
                if let Some(frame) = telling.add(told) {
                    self.name_holders(reader, out_tx);
                    self.outbox.put(out_tx, frame);
                }
            }
        }
    }

    /// Returns what a compile step will read, except files and headers that the reader knows.
    fn predicted(&mut self, reader: ReaderId, walk: &Likeness, files: &Files) -> Known {
        let told = self.readers.get(&reader).map(|reader| &reader.told);
        let is_told = |path: &[u8]| told?.get(path).map(|facts| facts.content);
        let hidden = self.exporter.hidden();
        // What is in the agent's own volume may have to be fetched.
        let may_be_asked = |path: &[u8]| self.heard.may_be_asked(path) && !self.heard.is_own(path);
        let leave = |path: &[u8]| is_told(path).unwrap_or_default() || hidden.hides(path);
        let mut known = predict::reads(&walk.cwd, files, may_be_asked, leave);
        known.of(&walk.cwd).listing = true;
        for (path, facts) in known.iter_mut().filter(|(_, facts)| facts.content) {
            if let Some(exported) = content(&mut self.exporter, &self.heard, path) {
                let packets = exported.content.manifest.covering(0, u64::MAX);
                facts.packets = packets.map(|(offset, _)| offset).collect();
            }
            // A small file is sent with its content.
            if facts.packets.len() == 1 {
                facts.packets.clear();
            }
        }
        known
    }

    /// Returns the questions by which a reader would learn these facts about a path.
    fn untold(&mut self, reader: ReaderId, path: &[u8], facts: &Facts) -> Vec<Ask> {
        let Some(reader) = self.readers.get(&reader) else { return Vec::new() };
        // Runners ask only for canonical paths.
        let Ok(path) = TreePath::try_from(path) else { return Vec::new() };
        let mut asks = Vec::new();
        let listed = |dir: &[u8]| reader.told.get(dir).is_some_and(|facts| facts.listing);
        // The runner looks paths up from the root.
        let above: Vec<_> = above(&path).collect();
        let unlisted = above.into_iter().rev().filter(|dir| !listed(dir));
        asks.extend(unlisted.filter_map(|dir| Some(Ask::Listing(dir.try_into().ok()?))));
        if facts.listing && !listed(&path) {
            asks.push(Ask::Listing(path.clone()));
        }
        let told = reader.told.get(&path).cloned().unwrap_or_default();
        if facts.content && !told.content {
            asks.push(Ask::Content(path.clone()));
        }
        if !facts.packets.is_subset(&told.packets)
            && let Some(exported) = content(&mut self.exporter, &self.heard, &path)
        {
            let lacks =
                |offset: &u64| facts.packets.contains(offset) && !told.packets.contains(offset);
            let all = exported.content.manifest.covering(0, u64::MAX);
            let packets: Vec<(u64, PacketRef)> = all.filter(|(offset, _)| lacks(offset)).collect();
            let parts = packets.chunks(PACKETS_PER_ASK);
            asks.extend(parts.map(|part| Ask::Packets(path.clone(), part.to_vec())));
        }
        asks
    }
}

/// Returns what is known of a file, or can be read at once.
fn content(exporter: &mut Exporter, heard: &Heard, path: &[u8]) -> Option<Exported> {
    let own = heard.is_own(path).then_some(heard.own_volume());
    match at_once(exporter, &path.try_into().ok()?, false, own).ok()? {
        Asked::Known(exported) => Some(exported),
        Asked::Unread(_) => None,
    }
}
