//! What the files below `.oswalk` look like: attributes, names, contents.

use nix::errno::Errno;
use worknode::history::{Content, Hlc, Kind, Name};

use super::access::Access;
use super::handles::DirEntry;
use super::model::Shared;
use super::moment;
use super::names::{Found, bytes_of, kind_of, time};
use super::node::{Node, ROOT};
use super::past::{Spot, told};
use super::special::Place;
use super::tree::Tree;
use super::versions::Version;
use crate::tree::{self, Attr};

const DIR_MODE: u32 = 0o555;
const DIR_BYTES: u64 = 4096;
const BLOCK_BYTES: u64 = 512;
const TOP: [&[u8]; 2] = [b"at", b"versions"];

impl Shared {
    /// Returns what a name below a place leads to.
    pub(super) fn step(&self, tree: &Tree, place: &Place, name: &[u8]) -> Result<Place, Errno> {
        match place {
            Place::Top if name == TOP[0] => Ok(Place::Moments),
            Place::Top if name == TOP[1] => Ok(Place::Versions(Spot::root())),
            Place::Top | Place::Lost(..) => Err(Errno::ENOENT),
            Place::Moments => {
                let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
                let moment = moment::parse(text).ok_or(Errno::ENOENT)?;
                Ok(Place::At(tree.kept_moment(moment)?, ROOT))
            }
            Place::At(moment, dir) => {
                let entry = told(tree.entry_at(*dir, name, *moment))?.ok_or(Errno::ENOENT)?;
                Ok(Place::At(*moment, entry.ino))
            }
            Place::Versions(spot) => {
                if let Some(below) = told(tree.below(spot, name))? {
                    return Ok(Place::Versions(below));
                }
                let versions = self.versions(tree, spot)?;
                let version = versions.into_iter().find(|version| version.name.as_bytes() == name);
                let place = |it: Version| match it.is_lost {
                    true => Place::Lost(it.ino, it.written),
                    false => Place::At(it.since, it.ino),
                };
                version.map(place).ok_or(Errno::ENOENT)
            }
        }
    }

    /// Returns the names in a place, with what each is.
    pub(super) fn names(
        &self,
        tree: &Tree,
        place: &Place,
    ) -> Result<Vec<(Name, tree::Kind)>, Errno> {
        match place {
            Place::Top => Ok(TOP.map(|name| (name.to_vec(), tree::Kind::Dir)).to_vec()),
            // Any moment is there.
            Place::Moments | Place::Lost(..) => Ok(Vec::new()),
            Place::At(moment, dir) => {
                let entries = told(tree.entries_at(*dir, *moment))?.into_iter();
                let known = entries.filter_map(|(name, entry)| {
                    let node = tree.find_at(entry.ino, *moment).transpose()?;
                    Some(told(node).map(|node| (name, kind_of(&node.kind))))
                });
                known.collect()
            }
            Place::Versions(spot) => {
                let mut names = Vec::new();
                for dir in told(tree.dirs_at(spot))? {
                    let ever = told(tree.names_ever(dir))?;
                    names.extend(ever.into_iter().map(|name| (name, tree::Kind::Dir)));
                }
                let versions = self.versions(tree, spot)?.into_iter();
                names.extend(versions.map(|it| (it.name.into_bytes(), tree::Kind::File)));
                names.sort_by(|(one, _), (other, _)| one.cmp(other));
                names.dedup_by(|(one, _), (other, _)| one == other);
                Ok(names)
            }
        }
    }
}

impl Tree {
    /// Returns the attributes of a place, with a number.
    pub(super) fn look(&self, place: &Place, number: u64) -> Result<Found, Errno> {
        match place {
            Place::Top | Place::Moments => {
                Ok(dir(number, Access { uid: 0, gid: 0, mode: DIR_MODE }, None))
            }
            Place::Versions(spot) => {
                let latest = told(self.dirs_at(spot))?.first().copied();
                if let Some(latest) = latest {
                    let access = told(self.access_to_dirs(spot))?.ok_or(Errno::ESTALE)?;
                    return Ok(dir(number, access, told(self.latest(latest))?.as_ref()));
                }
                let binding = told(self.bindings(spot))?.pop().ok_or(Errno::ESTALE)?;
                let ino = binding.value.ino;
                let held = told(self.nodes_of(ino))?.pop().ok_or(Errno::ESTALE)?;
                let access = told(self.access_at(ino, held.since))?.ok_or(Errno::ESTALE)?;
                Ok(dir(number, access.as_dir(), Some(&held.value)))
            }
            Place::At(moment, ino) => {
                let node = self.node_at(*ino, *moment)?;
                let access = told(self.access_at(*ino, *moment))?.ok_or(Errno::ESTALE)?;
                Ok(found(number, &node, access))
            }
            Place::Lost(ino, version) => {
                let node = self.with_lost(*ino, *version)?;
                let access = told(self.access_ever(*ino))?.ok_or(Errno::ESTALE)?;
                Ok(found(number, &node, access))
            }
        }
    }

    /// Returns a file as it was at a moment.
    pub(super) fn node_at(&self, ino: u64, moment: Hlc) -> Result<Node, Errno> {
        told(self.find_at(ino, moment))?.ok_or(Errno::ESTALE)
    }

    /// Returns the content of a place.
    pub(super) fn content_of(&self, place: &Place) -> Result<Content, Errno> {
        let node = match place {
            Place::At(moment, ino) => self.node_at(*ino, *moment)?,
            Place::Lost(ino, version) => self.with_lost(*ino, *version)?,
            _ => return Err(Errno::EISDIR),
        };
        match node.kind {
            Kind::File => Ok(node.content),
            Kind::Dir => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Returns directory entries for names.
pub(super) fn entries(number: u64, names: Vec<(Name, tree::Kind)>) -> Vec<DirEntry> {
    let dots = [b".".to_vec(), b"..".to_vec()].map(|name| (name, tree::Kind::Dir));
    dots.into_iter().chain(names).map(|(name, kind)| DirEntry { name, ino: number, kind }).collect()
}

fn dir(number: u64, access: Access, node: Option<&Node>) -> Found {
    let modified = node.map_or(0, |node| node.modified);
    let changed = node.map_or(0, |node| node.changed);
    let attr = Attr {
        kind: tree::Kind::Dir,
        mode: access.mode & DIR_MODE,
        uid: access.uid,
        gid: access.gid,
        bytes: DIR_BYTES,
        blocks: 0,
        links: 2,
        rdev: 0,
        mtime: time(modified),
        ctime: time(changed),
        ino: number,
        dev: 0,
    };
    Found { attr, accessed: time(modified), is_written: false }
}

fn found(number: u64, node: &Node, access: Access) -> Found {
    let bytes = bytes_of(node);
    let attr = Attr {
        kind: kind_of(&node.kind),
        mode: if matches!(node.kind, Kind::Symlink(_)) { 0o777 } else { access.mode },
        uid: access.uid,
        gid: access.gid,
        bytes,
        blocks: bytes.div_ceil(BLOCK_BYTES),
        links: node.links.max(1),
        // A device is not given back to those who lost it.
        rdev: 0,
        mtime: time(node.modified),
        ctime: time(node.changed),
        ino: number,
        dev: 0,
    };
    Found { attr, accessed: time(node.accessed), is_written: false }
}
