//! What the rules of a share mean for it: which names it leaves alone, and where it waits because it cannot follow them.

use worknode::history::Kind;

use super::follower::Share;
use super::known::{Stamp, child};
use super::rules::{self, Text, Unclear};
use super::source::{Item, failure};
use crate::path::{Bytes, join, split};

impl Share {
    /// Reads the rules of a directory. Returns whether others hold from now on.
    pub(super) fn read_rules(&mut self, dir: &[u8], own: &Stamp, items: &[Item]) -> bool {
        let has_other_dir = self.rules.set_dir(dir, own);
        let found = items.iter().find(|item| item.name == rules::FILE);
        let text = match found.map(|item| &item.kind) {
            None | Some(Kind::Dir) => Ok(None),
            Some(_) => self.text(dir).map(Some),
        };
        let has_other_rules = self.rules.set(dir, text);
        for dir in self.rules.take_due() {
            self.is_unsure_of(&dir);
        }
        has_other_dir || has_other_rules
    }

    fn text(&mut self, dir: &[u8]) -> Result<Text, Unclear> {
        match self.source.text(&child(dir, rules::FILE)) {
            Ok((bytes, _)) if bytes.len() as u64 > rules::BYTES_MAX => Err(Unclear::Long),
            Ok((bytes, stamp)) => {
                Ok(Text { text: String::from_utf8_lossy(&bytes).into_owned(), stamp })
            }
            Err(error) => {
                if error.kind() == std::io::ErrorKind::NotFound {
                    // It was there just now, and is being replaced.
                    self.is_unsure_of(dir);
                }
                Err(Unclear::Unread(failure(error)))
            }
        }
    }

    /// Tells whether rules leave a name out. Where the directory is written, each node has rules of its own: what others put there
    /// may not say what is shared.
    pub(super) fn is_ruled_out(&self, dir: &[u8], name: &[u8], is_dir: bool) -> bool {
        self.is_own_rules(name) || self.rules.leave_out(dir, name, is_dir)
    }

    /// Tells whether it is the name of rules that stay on the disk.
    pub(super) fn is_own_rules(&self, name: &[u8]) -> bool {
        self.returns.is_some() && name == rules::FILE
    }

    pub(super) fn is_left_out(&self, dir: &[u8], item: &Item) -> bool {
        let path = join(&self.source.path(dir), &item.name);
        self.is_ruled_out(dir, &item.name, item.kind == Kind::Dir)
            || self.hidden.hides_secret(&path)
    }

    /// Tells whether a directory, or one above it, is left out. It may have been watched before.
    pub(super) fn is_dir_left_out(&self, dir: &[u8]) -> bool {
        let mut dir = dir;
        while !dir.is_empty() {
            let (above, name) = split(dir).unwrap_or((b"", dir));
            if self.is_ruled_out(above, name, true) {
                return true;
            }
            dir = above;
        }
        false
    }

    /// Says where rules cannot be followed.
    pub(super) fn unclear(&self) -> Option<String> {
        let (dir, why) = self.rules.unclear()?;
        let path: Bytes = join(&self.source.path(dir), rules::FILE);
        let path = String::from_utf8_lossy(&path);
        Some(format!("{path} {why}: nothing in its directory is shared until the file is mended"))
    }
}
