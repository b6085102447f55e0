//! The contents of files as packets. A content is one packet, or a packet that lists its packets.
//!
//! A list is a number of levels, then a manifest. At level 0 the manifest is of the content; above, of the next list, which
//! was too long for a packet.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use worknode::history::{Content, Packet};

use super::backing::Backing;
use super::error::VolumeError;
use super::fetching::Fetching;
use crate::packet::{self, Digest, Manifest, PACKET_BYTES_MAX, Packed, PacketRef};
use crate::progress::Progress;
use crate::store::{Checked, Damaged, Damages, Dead, Shelf, Survey};

/// Most manifests in memory.
const MANIFESTS_MAX: usize = 1024;
/// Bytes that are digested at once.
const DIGEST_BYTES: usize = 4 * 1024 * 1024;
/// Most levels of lists: enough for any file that a disk holds.
const LEVELS_MAX: u8 = 8;
/// Most bytes of the list of a content: that of a file of some 200 GB. A larger file stays in its backing file.
const LIST_BYTES_MAX: u64 = 128 << 20;

/// Packets that are fetched together: about two megabytes, so that the time for asking does not count.
const FETCHED_AT_ONCE: usize = 32;
/// Longest time that a program waits for what another one fetches: as long as it would fetch itself.
const OTHERS_FETCH_MAX: Duration = Duration::from_secs(20);

/// Where packets come from that are not here.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// Returns those of the packets that somebody has. Blocks for a bounded time.
    fn fetch(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)>;
}

/// The packets of a volume.
#[derive(Debug)]
pub(super) struct Library {
    shelf: Shelf,
    source: RwLock<Option<Arc<dyn Source>>>,
    manifests: Mutex<HashMap<Digest, Arc<Manifest>>>,
    fetching: Fetching,
}

impl Library {
    pub(super) fn new(shelf: Shelf) -> Self {
        Self {
            shelf,
            source: RwLock::default(),
            manifests: Mutex::default(),
            fetching: Fetching::default(),
        }
    }

    /// Stores the content of a backing file.
    pub(super) fn put(&self, backing: &Backing) -> Result<Content, VolumeError> {
        let io = |source| VolumeError::io("read", &backing.path())(source);
        let stat = backing.stat().map_err(io)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let file = backing.reopen().map_err(io)?;
        self.put_parts(&file, (bytes, blocks), &AtomicBool::new(false), io)
    }

    /// Stores the content of an open file. Fails as soon as that is cancelled.
    pub(super) fn put_file(
        &self,
        file: &File,
        (bytes, blocks): (u64, u64),
        cancel: &AtomicBool,
    ) -> Result<Content, VolumeError> {
        let io = VolumeError::io("read", Path::new("a file"));
        self.put_parts(file, (bytes, blocks), cancel, io)
    }

    fn put_parts(
        &self,
        file: &File,
        (bytes, blocks): (u64, u64),
        cancel: &AtomicBool,
        io: impl FnOnce(io::Error) -> VolumeError,
    ) -> Result<Content, VolumeError> {
        let mut failure = None;
        let manifest = packet::try_split_file(file, bytes, blocks, |packet, content| {
            if cancel.load(Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(libc::ECANCELED));
            }
            self.keep(packet, content).map_err(|error| {
                let errno = io::Error::from_raw_os_error(error.errno());
                failure = Some(error);
                errno
            })
        });
        match (failure, manifest) {
            (Some(error), _) => Err(error),
            (None, Ok(manifest)) => self.content_of(&manifest),
            (None, Err(error)) => Err(io(error)),
        }
    }

    fn content_of(&self, manifest: &Manifest) -> Result<Content, VolumeError> {
        let bytes = manifest.bytes();
        if manifest.packets.is_empty() {
            return Ok(Content { bytes, packet: None });
        }
        if let ([only], true) = (&*manifest.packets, manifest.holes.is_empty()) {
            let packet = Packet { digest: only.digest.0, bytes: only.bytes, is_list: false };
            return Ok(Content { bytes, packet: Some(packet) });
        }
        let list = self.keep_list(manifest)?;
        Ok(Content {
            bytes,
            packet: Some(Packet { digest: list.digest.0, bytes: list.bytes, is_list: true }),
        })
    }

    fn keep_list(&self, manifest: &Manifest) -> Result<PacketRef, VolumeError> {
        let mut level = 0;
        let mut list = encode(level, manifest)?;
        if list.len() as u64 > LIST_BYTES_MAX {
            let error = io::Error::from_raw_os_error(libc::EFBIG);
            return Err(VolumeError::io("make a list of packets in", Path::new("packs"))(error));
        }
        while list.len() > PACKET_BYTES_MAX && level < LEVELS_MAX {
            let pieces: Vec<_> =
                packet::split(&list).map(|piece| (packet::reference(piece), piece)).collect();
            pieces.iter().try_for_each(|&(packet, piece)| self.keep(packet, piece))?;
            let packets = pieces.into_iter().map(|(packet, _)| packet).collect();
            level += 1;
            list = encode(level, &Manifest { packets, holes: Vec::new() })?;
        }
        let packet = packet::reference(&list);
        self.keep(packet, &list)?;
        Ok(packet)
    }

    fn keep(&self, packet: PacketRef, content: &[u8]) -> Result<(), VolumeError> {
        if !self.shelf.has(&packet.digest) {
            self.shelf.put(packet, &Packed::pack(content))?;
        }
        Ok(())
    }

    /// Returns the packets of a content.
    pub(super) fn manifest(&self, content: &Content) -> io::Result<Arc<Manifest>> {
        let Some(packet) = content.packet else {
            let hole = crate::packet::Hole { at: 0, bytes: content.bytes };
            let holes = (content.bytes > 0).then_some(hole).into_iter().collect();
            return Ok(Arc::new(Manifest { packets: Vec::new(), holes }));
        };
        let reference = PacketRef { digest: Digest(packet.digest), bytes: packet.bytes };
        if !packet.is_list {
            return Ok(Arc::new(Manifest { packets: vec![reference], holes: Vec::new() }));
        }
        if let Some(known) = self.lock().get(&reference.digest) {
            return Ok(Arc::clone(known));
        }
        let manifest = Arc::new(self.unfold(reference)?);
        let mut manifests = self.lock();
        if manifests.len() >= MANIFESTS_MAX {
            manifests.clear();
        }
        manifests.insert(reference.digest, Arc::clone(&manifest));
        Ok(manifest)
    }

    /// Returns the packets of a content if its list is here, in one packet.
    pub(super) fn manifest_here(&self, content: &Content) -> Option<Manifest> {
        let packet = content.packet?;
        let reference = PacketRef { digest: Digest(packet.digest), bytes: packet.bytes };
        if !packet.is_list {
            return Some(Manifest { packets: vec![reference], holes: Vec::new() });
        }
        if let Some(known) = self.lock().get(&reference.digest) {
            return Some(Manifest::clone(known));
        }
        let (level, manifest) = decode(&self.shelf.get(reference)?).ok()?;
        (level == 0 && manifest.bytes() == content.bytes).then_some(manifest)
    }

    fn unfold(&self, list: PacketRef) -> io::Result<Manifest> {
        let mut bytes = self.packet(list)?;
        for _ in 0..=LEVELS_MAX {
            let (level, manifest) = decode(&bytes)?;
            if level == 0 {
                return Ok(manifest);
            }
            check_list(&manifest)?;
            self.fetch_missing(&manifest.packets)?;
            bytes = Vec::new();
            for &packet in &manifest.packets {
                bytes.extend(self.packet(packet)?);
            }
        }
        Err(damaged())
    }

    /// Tells whether the packet of a content is here.
    pub(super) fn has(&self, content: &Content) -> bool {
        content.packet.is_none_or(|packet| self.shelf.has(&Digest(packet.digest)))
    }

    /// Tells whether a packet is here.
    pub(super) fn has_packet(&self, packet: &PacketRef) -> bool {
        self.shelf.has(&packet.digest)
    }

    /// Tells whether packets come from others.
    pub(super) fn has_source(&self) -> bool {
        self.source.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Returns the BLAKE3 digest of a content.
    pub(super) fn digest(&self, content: &Content) -> Result<Digest, VolumeError> {
        if let Some(packet) = content.packet.filter(|packet| !packet.is_list) {
            return Ok(Digest(packet.digest));
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < content.bytes {
            let part = self.read(content, at, DIGEST_BYTES);
            let part = part.map_err(VolumeError::io("read", Path::new("packs")))?;
            hasher.update(&part);
            at += part.len() as u64;
        }
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// Returns all packets that a list of a content leads to, as far as it is here: no other node is asked.
    pub(super) fn packets_of(&self, content: &Content) -> io::Result<Vec<Digest>> {
        let mut all = Vec::new();
        let note = |packet: PacketRef| {
            all.push(packet.digest);
            Ok(())
        };
        self.descend(content, |packet| self.packet_here(packet), note)?;
        Ok(all)
    }

    /// Passes all packets that a list of a content leads to to a function, each before it is read.
    pub(super) fn each_packet(
        &self,
        content: &Content,
        work: impl FnMut(PacketRef) -> io::Result<()>,
    ) -> io::Result<()> {
        self.descend(content, |packet| self.packet(packet).map(Some), work)
    }

    /// Goes through the lists of a content, as far as they can be read.
    fn descend(
        &self,
        content: &Content,
        read: impl Fn(PacketRef) -> io::Result<Option<Vec<u8>>>,
        mut work: impl FnMut(PacketRef) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(list) = content.packet else { return Ok(()) };
        let list = PacketRef { digest: Digest(list.digest), bytes: list.bytes };
        let Some(mut bytes) = read(list)? else { return Ok(()) };
        for _ in 0..=LEVELS_MAX {
            let (level, manifest) = decode(&bytes)?;
            manifest.packets.iter().try_for_each(|packet| work(*packet))?;
            if level == 0 {
                return Ok(());
            }
            check_list(&manifest)?;
            bytes = Vec::new();
            for &packet in &manifest.packets {
                let Some(part) = read(packet)? else { return Ok(()) };
                bytes.extend(part);
            }
        }
        Err(damaged())
    }

    /// Returns a packet; none if only others have it.
    fn packet_here(&self, packet: PacketRef) -> io::Result<Option<Vec<u8>>> {
        let has_others = self.source.read().unwrap_or_else(PoisonError::into_inner).is_some();
        let was_here = self.shelf.has(&packet.digest);
        match self.shelf.get(packet) {
            Some(content) => Ok(Some(content)),
            None if has_others && !was_here => Ok(None),
            None => Err(damaged()),
        }
    }

    /// Forgets which packets contents have.
    pub(super) fn forget_manifests(&self) {
        self.lock().clear();
    }

    /// Returns the numbers of the packs.
    pub(super) fn packs(&self) -> Vec<u32> {
        self.shelf.packs()
    }

    /// Returns the keys of packets in the packs.
    pub(super) fn keys(&self, packets: &HashSet<Digest>) -> HashSet<Digest> {
        self.shelf.keys(packets)
    }

    /// Removes all packets of a pack except those with these keys.
    pub(super) fn sweep_pack(
        &self,
        pack: u32,
        keys: &HashSet<Digest>,
    ) -> Result<Dead, VolumeError> {
        Ok(self.shelf.sweep_pack(pack, keys)?)
    }

    /// Counts the packets.
    pub(super) fn survey(&self, needed: &HashSet<Digest>) -> Result<Survey, VolumeError> {
        Ok(self.shelf.survey(needed)?)
    }

    /// Checks all packets.
    pub(super) fn check(&self, progress: &Progress) -> Result<Checked, VolumeError> {
        Ok(self.shelf.check(progress)?)
    }

    /// Writes a damaged packet again where it is in its pack, from another place here or from others. Returns whether that was
    /// possible.
    pub(super) fn mend(&self, packet: PacketRef, damaged: &Damaged) -> Result<bool, VolumeError> {
        let content = self.shelf.get_elsewhere(packet, damaged).or_else(|| {
            let source = self.source.read().unwrap_or_else(PoisonError::into_inner).clone();
            let fetched = source.map(|source| source.fetch(&[packet])).unwrap_or_default();
            fetched.into_iter().find_map(|(it, packed)| {
                (it == packet).then(|| packed.into_content(packet).ok()).flatten()
            })
        });
        let Some(content) = content else { return Ok(false) };
        Ok(self.shelf.mend(packet, &Packed::pack(&content), damaged)?)
    }

    /// Returns the damaged places in packs where a packet is.
    pub(super) fn damaged_at<'a>(
        &self,
        packet: &PacketRef,
        damages: &Damages<'a>,
    ) -> Vec<&'a Damaged> {
        self.shelf.damaged_at(&packet.digest, damages)
    }

    /// Returns the bytes of all packs.
    pub(super) fn pack_bytes(&self) -> u64 {
        self.shelf.bytes()
    }

    /// Tells whether all of a content that is here is intact. Damaged packets are fetched again if others have them. Where there
    /// are others, some packets need not be here.
    pub(super) fn is_whole(&self, content: &Content) -> bool {
        let has_others = self.has_source();
        if has_others && !self.has(content) {
            return true;
        }
        let is_elsewhere = |packet: &PacketRef| has_others && !self.shelf.has(&packet.digest);
        let Ok(manifest) = self.manifest(content) else { return false };
        manifest.bytes() == content.bytes
            && manifest.packets.iter().all(|it| is_elsewhere(it) || self.packet(*it).is_ok())
    }

    /// Returns a packet, checked. It is fetched if it is not here.
    pub(super) fn packet(&self, packet: PacketRef) -> io::Result<Vec<u8>> {
        if let Some(content) = self.shelf.get(packet) {
            return Ok(content);
        }
        self.fetch(&[packet])?;
        self.shelf.get(packet).ok_or_else(damaged)
    }

    /// Returns a packet as it is sent, if it is here and intact.
    pub(super) fn packed(&self, packet: PacketRef) -> Option<Packed> {
        self.shelf.get(packet).map(|content| Packed::pack(&content))
    }

    pub(super) fn set_source(&self, source: Arc<dyn Source>) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// Stores packets that match their digests. Returns whether all did.
    pub(super) fn keep_checked(
        &self,
        packets: &[(PacketRef, Packed)],
    ) -> Result<bool, VolumeError> {
        let mut is_sound = true;
        for (packet, packed) in packets {
            if packed.unpack(*packet).is_ok() {
                self.shelf.put(*packet, packed)?;
            } else {
                is_sound = false;
            }
        }
        Ok(is_sound)
    }

    /// Fetches those of the packets that are not here.
    pub(super) fn fetch_missing(&self, packets: &[PacketRef]) -> io::Result<()> {
        let missing = packets.iter().filter(|packet| !self.shelf.has(&packet.digest));
        let missing: Vec<_> = missing.copied().collect();
        missing.chunks(FETCHED_AT_ONCE).try_for_each(|part| self.fetch(part))
    }

    /// Fetches what is not here of a content. Returns its packets, which are all here then.
    pub(super) fn complete(&self, content: &Content) -> io::Result<Arc<Manifest>> {
        let manifest = self.manifest(content)?;
        self.fetch_missing(&manifest.packets)?;
        let is_here = manifest.packets.iter().all(|packet| self.shelf.has(&packet.digest));
        is_here.then_some(manifest).ok_or_else(damaged)
    }

    fn fetch(&self, wanted: &[PacketRef]) -> io::Result<()> {
        let source = self.source.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(source) = source else { return Ok(()) };
        let fetched = source.fetch(wanted);
        self.keep_checked(&fetched).map_err(io::Error::other)?;
        Ok(())
    }

    /// Returns a packet of a file, which is at an offset. If it is not here it is fetched with some that follow. While another
    /// program fetches it, only those are.
    fn packet_ahead(&self, manifest: &Manifest, at: u64, packet: PacketRef) -> io::Result<Vec<u8>> {
        if let Some(content) = self.shelf.get(packet) {
            return Ok(content);
        }
        let until = Instant::now() + OTHERS_FETCH_MAX;
        loop {
            let following = manifest.covering(at, u64::MAX).map(|(_, packet)| packet);
            let missing = following.filter(|it| *it == packet || !self.shelf.has(&it.digest));
            let claim = self.fetching.claim(missing, FETCHED_AT_ONCE);
            self.fetch(&claim.packets)?;
            let is_own = claim.packets.contains(&packet);
            drop(claim);
            self.fetching.wait(&packet.digest, until);
            // Others may have fetched it in vain.
            match self.shelf.get(packet) {
                Some(content) => return Ok(content),
                None if is_own || Instant::now() >= until => return Err(damaged()),
                None => {}
            }
        }
    }

    /// Returns a part of a content; less of it at its end.
    pub(super) fn read(&self, content: &Content, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(size as u64).min(content.bytes);
        let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
        let mut part = vec![0; length];
        if length == 0 {
            return Ok(part);
        }
        let manifest = self.manifest(content)?;
        for (at, packet) in manifest.covering(offset, end) {
            let bytes = self.packet_ahead(&manifest, at, packet)?;
            let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
            let from = bytes.get(skip..).unwrap_or_default();
            let to = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            let room = part.get_mut(to..).unwrap_or_default();
            let count = from.len().min(room.len());
            room[..count].copy_from_slice(&from[..count]);
        }
        Ok(part)
    }

    /// Returns a part of a content, if it is known where its packets are, and they are here.
    pub(super) fn read_here(&self, content: &Content, offset: u64, size: usize) -> Option<Vec<u8>> {
        if !self.is_unfolded(content) {
            return None;
        }
        let end = offset.saturating_add(size as u64).min(content.bytes);
        let manifest = self.manifest(content).ok()?;
        let is_here = |(_, packet): (u64, PacketRef)| self.shelf.has(&packet.digest);
        if !manifest.covering(offset, end).all(is_here) {
            return None;
        }
        self.read(content, offset, size).ok()
    }

    /// Tells whether it is known which packets a content has.
    pub(super) fn is_unfolded(&self, content: &Content) -> bool {
        let list = content.packet.filter(|packet| packet.is_list);
        list.is_none_or(|list| self.lock().contains_key(&Digest(list.digest)))
    }

    /// Tells whether all of a small content is here.
    pub(super) fn is_here(&self, content: &Content) -> bool {
        self.is_unfolded(content)
            && self.manifest(content).is_ok_and(|manifest| {
                manifest.packets.iter().all(|packet| self.shelf.has(&packet.digest))
            })
    }

    /// Makes all packets durable.
    pub(super) fn sync(&self) -> Result<(), VolumeError> {
        Ok(self.shelf.sync()?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Manifest>>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(level: u8, manifest: &Manifest) -> Result<Vec<u8>, VolumeError> {
    postcard::to_extend(manifest, vec![level]).map_err(|_| VolumeError::Row)
}

fn decode(list: &[u8]) -> io::Result<(u8, Manifest)> {
    let (&level, manifest) = list.split_first().ok_or_else(malformed)?;
    Ok((level, postcard::from_bytes(manifest).map_err(|_| malformed())?))
}

/// Refuses lists that name more than a list may have, by naming one packet again and again.
fn check_list(manifest: &Manifest) -> io::Result<()> {
    let bytes: u64 = manifest.packets.iter().map(|packet| u64::from(packet.bytes)).sum();
    if bytes > LIST_BYTES_MAX { Err(malformed()) } else { Ok(()) }
}

/// Tells whether a list has the bytes that its author gave it, but is none.
pub(super) fn is_malformed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn damaged() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}
