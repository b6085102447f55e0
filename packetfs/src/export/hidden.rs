//! Decides by path what is hidden: secrets, the kernel's file systems, the agent's own files, and what the user
//! wants hidden. Hidden files are neither exported nor changed by commits.

use std::sync::{Arc, PoisonError, RwLock};

use super::names;
use super::pattern::{PATTERNS_MAX, Pattern};
use super::secrets::KERNELS;
use crate::mounts::Mounts;
use crate::path::{Bytes, is_within, join};

/// An agent's own files and secrets.
#[derive(Default)]
pub struct Own {
    /// Its directories and files.
    pub paths: Vec<Bytes>,
    /// Words that make a file secret if it contains them: the cluster's secret, passwords.
    pub words: Vec<Bytes>,
}

/// Shortest such word. Shorter ones occur in many files.
const WORD_BYTES_MIN: usize = 8;

/// The rules for hiding, shared by all users of them.
#[derive(Debug, Default)]
pub struct Hidden {
    own: Own,
    asked: RwLock<Vec<Pattern>>,
    mounts: RwLock<Arc<Mounts>>,
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It begins with neither `/` nor `*`, or is too long.
    #[error("the pattern '{0}' can hide no path: begin it with / or *")]
    Unsound(String),
    /// There are too many.
    #[error("more than {PATTERNS_MAX} patterns to hide: use fewer with * in them")]
    TooMany,
}

impl Hidden {
    /// Makes rules that hide the agent's own files in addition to what is always hidden.
    #[must_use]
    pub fn new(mut own: Own) -> Self {
        own.words.retain(|word| word.len() >= WORD_BYTES_MIN);
        Self { own, ..Self::default() }
    }

    /// Returns the agent's own directories and files.
    #[must_use]
    pub fn own_paths(&self) -> &[Bytes] {
        &self.own.paths
    }

    /// Hides also what matches these patterns, for the agent's lifetime, because runners have one mirror for all
    /// sessions. Returns whether any pattern is new.
    ///
    /// # Errors
    /// A pattern is invalid, or there are too many. Then none is added.
    pub fn hide(&self, patterns: &[impl AsRef<[u8]>]) -> Result<bool, PatternError> {
        let mut asked = self.asked.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = asked.clone();
        for text in patterns.iter().map(AsRef::as_ref) {
            let shown = || PatternError::Unsound(String::from_utf8_lossy(text).into_owned());
            let pattern = Pattern::new(text).ok_or_else(shown)?;
            if !all.contains(&pattern) {
                all.push(pattern);
            }
        }
        if all.len() > PATTERNS_MAX {
            return Err(PatternError::TooMany);
        }
        let is_new = all.len() > asked.len();
        *asked = all;
        Ok(is_new)
    }

    /// Tells whether a path is hidden.
    #[must_use]
    pub fn hides(&self, path: &[u8]) -> bool {
        self.hides_by(path, names::hides)
    }

    /// Tells whether a directory's names are hidden.
    #[must_use]
    pub fn hides_dir(&self, dir: &[u8]) -> bool {
        self.hides_by(dir, names::hides_dir)
    }

    /// Tells whether a path is hidden as a secret, rather than because it is local to each machine.
    #[must_use]
    pub fn hides_secret(&self, path: &[u8]) -> bool {
        let hides = |path: &[u8]| self.hides_here(path, names::hides);
        hides(path) || self.mounts().aliases(path).any(|alias| hides(&alias))
    }

    fn hides_by(&self, path: &[u8], by_name: impl Fn(&[u8]) -> bool) -> bool {
        let mounts = self.mounts();
        is_below_kernels(path)
            || self.hides_here(path, &by_name)
            // The kernel's standard directories are shown as empty rather than hidden.
            || !is_kernels(path) && mounts.is_of_kind(path, KERNELS)
            || mounts.aliases(path).any(|alias| self.hides_here(&alias, &by_name))
    }

    fn hides_here(&self, path: &[u8], by_name: impl Fn(&[u8]) -> bool) -> bool {
        self.own.paths.iter().any(|own| is_within(path, own))
            || by_name(path)
            || self.asked().iter().any(|pattern| pattern.covers(path))
    }

    /// Returns a predicate for hidden names in a directory that is not hidden itself.
    pub(super) fn hider(&self, dir: &[u8]) -> impl FnMut(&[u8]) -> bool {
        let mut by_name = names::hider(dir);
        let asks = !self.asked().is_empty();
        move |name| by_name(name) || asks && self.hides_here(&join(dir, name), |_| false)
    }

    /// Tells whether something hidden may be at a path or below it, judging by names.
    #[must_use]
    pub fn contains_hidden(&self, path: &[u8]) -> bool {
        self.hides(path)
            || self.own.paths.iter().any(|own| is_within(own, path))
            || names::holds(path)
            || self.asked().iter().any(|pattern| pattern.may_fit_below(path))
    }

    /// Tells whether a file or directory may be renamed: everything hidden must stay hidden, and none of the
    /// agent's own files may move.
    #[must_use]
    pub fn may_be_renamed(&self, from: &[u8], to: &[u8]) -> bool {
        !self.hides(from)
            && !self.hides(to)
            && !self.own.paths.iter().any(|own| is_within(own, from) || is_within(own, to))
            && names::survives(from, to)
            && self.asked().iter().all(|pattern| pattern.survives(from, to))
    }

    /// Returns the last known mounts.
    #[must_use]
    pub fn mounts(&self) -> Arc<Mounts> {
        Arc::clone(&self.mounts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Updates the mounts.
    pub fn set_mounts(&self, mounts: Arc<Mounts>) {
        *self.mounts.write().unwrap_or_else(PoisonError::into_inner) = mounts;
    }

    fn asked(&self) -> std::sync::RwLockReadGuard<'_, Vec<Pattern>> {
        self.asked.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether content contains one of the agent's secret words.
    pub(super) fn has_own_word(&self, content: &[u8]) -> bool {
        let begins = |word: &Bytes, at: usize| content[at..].starts_with(word);
        let is_in = |word: &Bytes| {
            let starts = content.iter().enumerate().filter(|&(_, byte)| Some(byte) == word.first());
            starts.into_iter().any(|(at, _)| begins(word, at))
        };
        self.own.words.iter().any(is_in)
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keeps the words out of logs.
        f.debug_struct("Own").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// Tells whether a path is a directory that the kernel or daemons fill, and that is local to each machine.
pub fn is_kernels(path: &[u8]) -> bool {
    matches!(path, b"/proc" | b"/sys" | b"/dev" | b"/run")
}

fn is_below_kernels(path: &[u8]) -> bool {
    [b"/proc/".as_slice(), b"/sys/", b"/dev/", b"/run/"].iter().any(|dir| path.starts_with(dir))
}
