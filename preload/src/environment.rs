//! The environment of the next program. Where the caller's environment lacks the session's variables
//! (`env -i`, private arrays), the program gets a copy made on the stack. The caller's array and
//! `environ` are never written.

use core::ffi::{CStr, c_char, c_int};

use worknode::known;
use worknode::page::ASAN_OPTION;
use worknode::variables::{ADDED_ENTRY as ADDED, PAGE_ENTRY as PAGE, WALK_ENTRY as WALK};

use crate::scratch::{self, Scratch};
use crate::session::Session;
use crate::strings::Strings;

const PRELOAD: &[u8] = b"LD_PRELOAD=";
const ASAN: &[u8] = b"ASAN_OPTIONS=";
/// Entries that a copy may have beyond the original's, the terminating null included.
const POINTERS_MORE: usize = 6;

/// An environment to call with; `None` is the caller's own.
pub(crate) type Replacement = Option<*const *const c_char>;

/// What the next program needs in its environment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need<'a> {
    /// This library, so that the programs it executes are seen.
    Preload,
    /// No mention of this library, which its loader would warn about.
    NoPreload,
    /// What the stub needs to walk for the program at this path.
    Walk(&'a CStr),
}

/// Calls `call` with the environment that `need` asks for. Returns `None` without calling it if the
/// stack has no room for a copy.
pub(crate) fn with(
    session: &Session,
    envp: Strings<'_>,
    need: Need<'_>,
    call: &dyn Fn(Replacement) -> c_int,
) -> Option<c_int> {
    let copy = Copy { session, envp, need, preload: envp.variable(PRELOAD) };
    if copy.is_needless() {
        return Some(call(None));
    }
    scratch::with(envp.count() + POINTERS_MORE, copy.text_bytes(), |mut scratch| {
        copy.write(&mut scratch);
        call(Some(scratch.pointers.as_ptr()))
    })
}

/// Tells whether a program with this environment belongs to this session, or was put into another
/// one on purpose.
pub(crate) fn is_complete(session: &Session, envp: Strings<'_>) -> bool {
    let page = envp.variable(PAGE);
    page.is_some_and(|page| page != session.page_path())
        || (page.is_some() && lists(envp.variable(PRELOAD), session.preload()))
}

/// Tells whether the calling program was kept at the origin together with everything it executes: the
/// stub then leaves its own variable in the environment.
pub(crate) fn is_alone(envp: Strings<'_>) -> bool {
    envp.variable(WALK).is_some()
}

/// Tells whether a library in `LD_PRELOAD` talks to a process of this machine.
pub(crate) fn talks_here(envp: Strings<'_>) -> bool {
    envp.variable(PRELOAD).is_some_and(known::talks_here)
}

/// Returns the parts of the value for `LD_PRELOAD`: this library, then the program's own.
pub(crate) fn preload_list<'a>(session: &Session, envp: Strings<'a>) -> [&'a [u8]; 3] {
    match envp.variable(PRELOAD) {
        Some(list) if lists(Some(list), session.preload()) => [list, b"", b""],
        Some(list) => [session.preload(), b":", list],
        None => [session.preload(), b"", b""],
    }
}

fn lists(list: Option<&[u8]>, library: &[u8]) -> bool {
    list.is_some_and(|list| libraries(list).any(|entry| entry == library))
}

fn libraries(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b':' || byte == b' ').filter(|entry| !entry.is_empty())
}

/// The part of an environment entry that the program's parent had set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All of it.
    Whole,
    /// None of it: the entry was added.
    Nothing,
    /// The name, and the value without its first so many bytes.
    Behind(usize),
    /// The first so many bytes of the entry.
    Before(usize),
}

/// Returns the part of an entry that the program's parent had set.
pub(crate) fn shown(session: &Session, entry: &[u8]) -> Shown {
    if entry.starts_with(PAGE) || entry.starts_with(ADDED) {
        return Shown::Nothing;
    }
    if let Some(list) = entry.strip_prefix(PRELOAD) {
        return match list.strip_prefix(session.preload()) {
            Some(b"") => Shown::Nothing,
            Some([b':', ..]) => Shown::Behind(session.preload().len() + 1),
            _ => Shown::Whole,
        };
    }
    let options = entry.strip_prefix(ASAN).and_then(|all| all.strip_suffix(ASAN_OPTION.as_bytes()));
    match options {
        Some(b"") => Shown::Nothing,
        Some([before @ .., b':']) => Shown::Before(ASAN.len() + before.len()),
        _ => Shown::Whole,
    }
}

/// The only variable for which [`Shown::Behind`] is returned.
pub(crate) const BEHIND: &[u8] = PRELOAD;

/// A private copy of an environment.
struct Copy<'a> {
    session: &'a Session,
    envp: Strings<'a>,
    need: Need<'a>,
    preload: Option<&'a [u8]>,
}

impl Copy<'_> {
    fn is_needless(&self) -> bool {
        match self.need {
            Need::Preload => is_complete(self.session, self.envp),
            Need::NoPreload => !lists(self.preload, self.session.preload()),
            Need::Walk(_) => false,
        }
    }

    /// Tells whether the environment was made without the session's variables.
    fn adds(&self) -> bool {
        !matches!(self.need, Need::NoPreload) && self.envp.variable(PAGE).is_none()
    }

    fn text_bytes(&self) -> usize {
        let walk = if let Need::Walk(path) = self.need { path.count_bytes() } else { 0 };
        let preload = self.session.preload().len() + 1 + self.preload.map_or(0, <[u8]>::len) + 1;
        let asan = self.envp.variable(ASAN).map_or(0, <[u8]>::len) + 1 + ASAN_OPTION.len();
        let names = PRELOAD.len() + PAGE.len() + 1 + WALK.len() + 1 + ADDED.len() + 2;
        names + ASAN.len() + asan + 1 + preload + self.session.page_path().len() + walk
    }

    fn write(&self, scratch: &mut Scratch<'_>) {
        let mut entries = Entries { scratch, pointers: 0, bytes: 0 };
        let page = self.envp.variable(PAGE).unwrap_or(self.session.page_path());
        let adds = self.adds();
        let (mut wrote_preload, mut wrote_asan) = (false, false);
        for entry in self.envp.entries() {
            if entry.starts_with(PRELOAD) {
                if !core::mem::replace(&mut wrote_preload, true) {
                    self.write_preload(&mut entries);
                }
            } else if adds && entry.starts_with(ASAN) {
                if !core::mem::replace(&mut wrote_asan, true) {
                    self.write_asan(&mut entries);
                }
            } else if !(entry.starts_with(PAGE)
                || entry.starts_with(WALK)
                || adds && entry.starts_with(ADDED))
            {
                entries.push(entry.as_ptr());
            }
        }
        if !wrote_preload {
            self.write_preload(&mut entries);
        }
        entries.write(&[PAGE, page]);
        if adds {
            entries.write(&[ADDED, b"1"]);
            if !wrote_asan {
                self.write_asan(&mut entries);
            }
        }
        if let Need::Walk(path) = self.need {
            entries.write(&[WALK, path.to_bytes()]);
        }
    }

    /// Writes the option with which AddressSanitizer accepts that this library is loaded before it.
    fn write_asan(&self, entries: &mut Entries<'_, '_>) {
        let option = ASAN_OPTION.as_bytes();
        match self.envp.variable(ASAN).filter(|options| !options.is_empty()) {
            Some(options) if options.ends_with(option) => entries.write(&[ASAN, options]),
            Some(options) => entries.write(&[ASAN, options, b":", option]),
            None => entries.write(&[ASAN, option]),
        }
    }

    fn write_preload(&self, entries: &mut Entries<'_, '_>) {
        if !matches!(self.need, Need::NoPreload) {
            let [ours, colon, theirs] = preload_list(self.session, self.envp);
            return entries.write(&[PRELOAD, ours, colon, theirs]);
        }
        let ours = self.session.preload();
        let others = || libraries(self.preload.unwrap_or(b"")).filter(|&entry| entry != ours);
        if others().next().is_some() {
            entries.begin(PRELOAD);
            others().enumerate().for_each(|(index, entry)| {
                entries.append(if index == 0 { b"" } else { b":" });
                entries.append(entry);
            });
            entries.append(b"\0");
        }
    }
}

/// Writes entries into scratch memory that is zeroed and large enough.
struct Entries<'s, 'm> {
    scratch: &'s mut Scratch<'m>,
    pointers: usize,
    bytes: usize,
}

impl Entries<'_, '_> {
    fn write(&mut self, parts: &[&[u8]]) {
        self.begin(b"");
        parts.iter().for_each(|part| self.append(part));
        self.append(b"\0");
    }

    fn begin(&mut self, name: &[u8]) {
        if let Some(rest) = self.scratch.text.get(self.bytes..) {
            self.push(rest.as_ptr().cast());
        }
        self.append(name);
    }

    fn append(&mut self, part: &[u8]) {
        let end = self.bytes + part.len();
        if let Some(room) = self.scratch.text.get_mut(self.bytes..end) {
            room.copy_from_slice(part);
            self.bytes = end;
        }
    }

    /// Adds an entry; the last pointer stays null.
    fn push(&mut self, entry: *const c_char) {
        if let Some([slot, _]) = self.scratch.pointers.get_mut(self.pointers..self.pointers + 2) {
            *slot = entry;
            self.pointers += 1;
        }
    }
}
