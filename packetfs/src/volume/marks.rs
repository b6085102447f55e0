//! The extended attributes by which programs look back: `user.oswalk.…`. They are not listed, so that nobody copies them.

use std::fmt::Write;

use nix::errno::Errno;

use super::changes::failed;
use super::model::Volume;
use super::names::Caller;
use super::past::{Spot, told};

/// The beginning of their names, which no other attribute has.
pub(super) const PREFIX: &[u8] = b"user.oswalk.";
/// Largest file of which a digest is made: a second's work. Holes count like other bytes.
const DIGESTED_MAX: u64 = 1 << 30;
/// Most versions in a list: an attribute has at most 64 KiB.
const VERSIONS_MAX: usize = 500;

/// Tells whether an attribute takes long: it is made of a file's content or history.
#[must_use]
pub fn is_long(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

impl Volume {
    /// Returns the value of one of the attributes.
    pub(super) fn mark(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        match name.strip_prefix(PREFIX) {
            Some(b"digest") => self.digest(ino),
            Some(b"versions") => self.list_versions(ino),
            Some(b"conflicts") => self.list_conflicts(ino),
            _ => Err(Errno::ENODATA),
        }
    }

    /// Sets one of the attributes: chooses or dismisses a version that the caller may read.
    pub(super) fn set_mark(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        caller: Caller,
    ) -> Result<(), Errno> {
        let is_choice = match name.strip_prefix(PREFIX) {
            Some(b"choose") => true,
            Some(b"dismiss") => false,
            _ => return Err(Errno::EPERM),
        };
        let version =
            std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?.trim_end_matches(['\0', '\n']);
        let spot = self.named(ino)?;
        if !self.may_read(&spot, version, caller)? {
            return Err(Errno::EACCES);
        }
        if is_choice {
            self.choose_at(&spot, version, caller)
        } else {
            self.dismiss_at(&spot, version, caller)
        }
    }

    fn digest(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        self.shared.catch_up(ino)?;
        let node = self.shared.lock().node(ino)?;
        if !node.is_file() {
            return Err(Errno::ENODATA);
        }
        if node.content.bytes > DIGESTED_MAX {
            return Err(Errno::EFBIG);
        }
        let digest = self.shared.library.digest(&node.content).map_err(|error| failed(&error))?;
        Ok(digest.to_string().into_bytes())
    }

    fn list_versions(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        self.shared.catch_up(ino)?;
        let spot = self.named(ino)?;
        let versions = self.shared.versions(&self.shared.as_now()?, &spot)?;
        let mut text = format!("{}\n", versions.len());
        for version in versions.iter().rev().take(VERSIONS_MAX) {
            let present = if version.is_present { " present" } else { "" };
            let chosen = if version.is_chosen { " chosen" } else { "" };
            let conflict = if version.is_conflict { " conflict" } else { "" };
            let (name, bytes) = (&version.name, version.bytes);
            let _ = writeln!(text, "{name} {bytes}{present}{chosen}{conflict}");
        }
        Ok(text.into_bytes())
    }

    /// Lists what lost against a concurrent content of the file, or as another file of its name.
    fn list_conflicts(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        let tree = self.shared.as_now()?;
        if tree.state.disputes == 0 {
            return Ok(Vec::new());
        }
        let Some(spot) = told(tree.spot_of(ino))? else { return Ok(Vec::new()) };
        let versions = self.shared.versions(&tree, &spot)?;
        let mut text = String::new();
        for version in versions.iter().rev().filter(|it| it.is_conflict).take(VERSIONS_MAX) {
            let _ = writeln!(text, "{} {}", version.name, version.bytes);
        }
        Ok(text.into_bytes())
    }

    fn named(&self, ino: u64) -> Result<Spot, Errno> {
        let tree = self.shared.as_now()?;
        let plain = told(tree.spot_of(ino))?.ok_or(Errno::ENODATA)?;
        // By its path, directories that were removed from there count, too.
        let Some(path) = told(tree.path(ino))? else { return Ok(plain) };
        let found = told(tree.spot(&path))?;
        Ok(found.filter(|it| (it.dir, &it.name) == (plain.dir, &plain.name)).unwrap_or(plain))
    }
}
