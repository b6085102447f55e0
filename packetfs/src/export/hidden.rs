//! What is never shown, by its path: secrets, the kernel's file systems, what is the agent's own, and what
//! the user wants hidden. The exporter refuses to show it, the origin to commit to it.

use std::sync::{Arc, PoisonError, RwLock};

use super::names;
use super::pattern::{PATTERNS_MAX, Pattern};
use super::secrets::KERNELS;
use crate::mounts::Mounts;
use crate::path::{Bytes, is_within, join};

/// What an agent was started with.
#[derive(Default)]
pub struct Own {
    /// Its directories and files.
    pub paths: Vec<Bytes>,
    /// What makes a file a secret that contains it: that of the cluster, passwords.
    pub words: Vec<Bytes>,
}

/// Words that are shorter are in many files.
const WORD_BYTES_MIN: usize = 8;

/// What is hidden. Shared by all who ask.
#[derive(Debug, Default)]
pub struct Hidden {
    own: Own,
    asked: RwLock<Vec<Pattern>>,
    mounts: RwLock<Arc<Mounts>>,
}

/// A pattern that hides nothing.
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
    /// Hides what is the agent's own besides what is always hidden.
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

    /// Hides what fits these patterns, too, for as long as the agent lives: runners know one tree, whoever
    /// it is shown for. Returns whether any of them is new.
    ///
    /// # Errors
    /// One is unsound, or there are too many; then none is added.
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

    /// Tells whether a path is hidden for what it is, and not because every machine has its own there.
    #[must_use]
    pub fn hides_secret(&self, path: &[u8]) -> bool {
        let hides = |path: &[u8]| self.hides_here(path, names::hides);
        hides(path) || self.mounts().aliases(path).any(|alias| hides(&alias))
    }

    fn hides_by(&self, path: &[u8], by_name: impl Fn(&[u8]) -> bool) -> bool {
        let mounts = self.mounts();
        is_below_kernels(path)
            || self.hides_here(path, &by_name)
            // The standard places of these are empty directories, not hidden ones.
            || !is_kernels(path) && mounts.is_of_kind(path, KERNELS)
            || mounts.aliases(path).any(|alias| self.hides_here(&alias, &by_name))
    }

    fn hides_here(&self, path: &[u8], by_name: impl Fn(&[u8]) -> bool) -> bool {
        self.own.paths.iter().any(|own| is_within(path, own))
            || by_name(path)
            || self.asked().iter().any(|pattern| pattern.covers(path))
    }

    /// Tells which names of a directory that is not hidden are.
    pub(super) fn hider(&self, dir: &[u8]) -> impl FnMut(&[u8]) -> bool {
        let mut by_name = names::hider(dir);
        let asks = !self.asked().is_empty();
        move |name| by_name(name) || asks && self.hides_here(&join(dir, name), |_| false)
    }

    /// Tells whether something hidden may lie at a path or below it, as far as names say so.
    #[must_use]
    pub fn contains_hidden(&self, path: &[u8]) -> bool {
        self.hides(path)
            || self.own.paths.iter().any(|own| is_within(own, path))
            || names::holds(path)
            || self.asked().iter().any(|pattern| pattern.may_fit_below(path))
    }

    /// Tells whether a file or a directory may get another name: all that is hidden is so afterwards, and
    /// nothing of the agent's own moves.
    #[must_use]
    pub fn may_be_renamed(&self, from: &[u8], to: &[u8]) -> bool {
        !self.hides(from)
            && !self.hides(to)
            && !self.own.paths.iter().any(|own| is_within(own, from) || is_within(own, to))
            && names::survives(from, to)
            && self.asked().iter().all(|pattern| pattern.survives(from, to))
    }

    /// Returns what is mounted, as far as is known.
    #[must_use]
    pub fn mounts(&self) -> Arc<Mounts> {
        Arc::clone(&self.mounts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what is mounted now.
    pub fn set_mounts(&self, mounts: Arc<Mounts>) {
        *self.mounts.write().unwrap_or_else(PoisonError::into_inner) = mounts;
    }

    fn asked(&self) -> std::sync::RwLockReadGuard<'_, Vec<Pattern>> {
        self.asked.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether content has one of the agent's words in it.
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
        // No word in a log.
        f.debug_struct("Own").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// Directories that the kernel fills: a runner has its own.
pub(super) fn is_kernels(path: &[u8]) -> bool {
    matches!(path, b"/proc" | b"/sys" | b"/dev" | b"/run")
}

fn is_below_kernels(path: &[u8]) -> bool {
    [b"/proc/".as_slice(), b"/sys/", b"/dev/", b"/run/"].iter().any(|dir| path.starts_with(dir))
}
