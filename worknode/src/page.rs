//! The policy page: a small file that every process of a session maps read-only. From it a process
//! decides whether an exec walks in microseconds, without asking anyone.
//!
//! ```text
//! 0   magic "OSWPAGE1"
//! 8   u32 page bytes            12  u32 bytes of the tally that follows (see crate::tally)
//! 16  u32 options               20  u32 gate, written by the agent while the session runs
//! 24  u64 session
//! 32  span page path            40  span door path (the agent's socket)
//! 48  span stub path            56  span preload path
//! 64  u32 rule count            68  rules: span pattern, u8 verdict, u8 reason, u16 0
//! ..  strings, then zeros up to the page bytes
//! ```
//! A span is `u32 offset, u32 length`; all numbers are little-endian. Each path is followed by a NUL that
//! its length does not count, so that it can be passed to the kernel directly.

use crate::command::{self, Reading, ResponseFiles, Tool};
use crate::known;
use crate::policy::{Rule, Verdict};
use crate::reason::Reason;

const MAGIC: &[u8; 8] = b"OSWPAGE1";
const HEADER_BYTES: usize = 68;
const RULE_BYTES: usize = 12;
/// Offset of the gate in the file. Its value is [`GATE_OPEN`] or [`GATE_SHUT`].
pub const GATE_OFFSET: usize = 20;
/// The cluster has a node besides the origin.
pub const GATE_OPEN: u32 = 1;
/// The cluster has no other node: everything stays, at no cost.
pub const GATE_SHUT: u32 = 0;
/// Option: programs that no rule names walk too.
pub const WALK_ALL: u32 = 1;
/// Option: every node has the origin's processor.
pub const NATIVE_TWIN: u32 = 2;
/// Option: a program that should walk but cannot fails instead of running at the origin.
pub const NO_FALLBACK: u32 = 4;
/// Option: when the session's command ran before, it started no program that a rule names.
pub const LEAF: u32 = 8;
/// The option that a session adds to `ASAN_OPTIONS`, because AddressSanitizer's runtime otherwise insists
/// on being the first library of a program. It is not sent to runners.
pub const ASAN_OPTION: &str = "verify_asan_link_order=0";

/// A policy page, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    /// Returns the page in `bytes`, or `None` if it is malformed.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let page = Self { bytes };
        let sound = bytes.get(..8)? == MAGIC
            && page.page_bytes()? <= bytes.len()
            && HEADER_BYTES + page.rule_count()?.checked_mul(RULE_BYTES)? <= bytes.len();
        sound.then_some(page)
    }

    /// Decides whether the program at `path` walks when started with `arguments` (without `argv[0]`).
    /// `files` reads the response files that they name into `room` (see [`command::ROOM_BYTES`]).
    ///
    /// # Errors
    /// The reason of the stay.
    pub fn decide<'b>(
        &self,
        path: &[u8],
        arguments: impl Iterator<Item = &'b [u8]>,
        files: &mut impl ResponseFiles,
        room: &'b mut [u8],
    ) -> Result<(), Reason> {
        let options = self.options();
        let verdict = self.verdict(path);
        let native_twin = options & NATIVE_TWIN != 0;
        match (verdict, verdict.and_then(|verdict| Tool::of(verdict, path))) {
            (_, Some(tool)) => {
                command::decide(Reading { tool, native_twin, files, room }, arguments)
            }
            (Some(Verdict::Stay(reason)), None) => Err(reason),
            (Some(_), None) => Ok(()),
            (None, None) if options & WALK_ALL != 0 => {
                known::stays_always(path).map_or(Ok(()), Err)
            }
            (None, None) => Err(known::stays(path).unwrap_or(Reason::Unlisted)),
        }?;
        if self.gate() == GATE_OPEN { Ok(()) } else { Err(Reason::NoCluster) }
    }

    /// Returns the verdict of the rules on the program at `path`.
    #[must_use]
    pub fn verdict(&self, path: &[u8]) -> Option<Verdict> {
        let mut rules = self.rules().filter(|rule| rule.verdict != Verdict::Volume);
        rules.find(|rule| rule.names(path)).map(|rule| rule.verdict)
    }

    /// Tells whether a volume was mounted when the session was opened.
    #[must_use]
    pub fn has_volumes(&self) -> bool {
        let last = self.rule_count().unwrap_or(0).checked_sub(1).and_then(|last| self.rule(last));
        last.is_some_and(|rule| rule.verdict == Verdict::Volume)
    }

    /// Returns where a volume was mounted when the session was opened, if its path can be told from its rule.
    #[must_use]
    pub fn volume_point(&self) -> Option<&'a [u8]> {
        let last = self.rule(self.rule_count()?.checked_sub(1)?)?;
        let point = last.pattern.strip_suffix(b"/*").filter(|_| last.verdict == Verdict::Volume);
        // A bracket stands for a character that means more in patterns.
        point.filter(|point| point.len() > 1 && !point.contains(&b'['))
    }

    /// Decides whether a program that no rule names walks because its file, `real` with all links resolved, lies below a
    /// mounted volume. `None` if it does not. Of a script, what interprets it counts, too: see [`Self::interprets_here`].
    pub fn decide_in_volume(&self, path: &[u8], real: &[u8]) -> Option<Result<(), Reason>> {
        let names = |rule: Rule<'_>| rule.verdict == Verdict::Volume && rule.names(real);
        if self.verdict(path).is_some() || !self.rules().any(names) {
            return None;
        }
        Some(match known::stays(path) {
            Some(reason) => Err(reason),
            None if self.gate() == GATE_OPEN => Ok(()),
            None => Err(Reason::NoCluster),
        })
    }

    /// Returns why a script in a volume stays if `program`, a path or a name, interprets it. Shells and other programs that
    /// start programs do so for the rules to decide on each of those.
    #[must_use]
    pub fn interprets_here(&self, program: &[u8]) -> Option<Reason> {
        self.wraps(program)
    }

    /// Returns why a program with a compiler's name stays if that name is a symbolic link to `real`: a
    /// link to a wrapper is a wrapper.
    #[must_use]
    pub fn wraps(&self, real: &[u8]) -> Option<Reason> {
        match self.verdict(real) {
            Some(Verdict::Stay(reason)) => Some(reason),
            Some(_) => None,
            None => known::stays(real),
        }
    }

    /// Returns the rules in order of precedence.
    pub fn rules(&self) -> impl Iterator<Item = Rule<'a>> + use<'a> {
        let page = *self;
        let count = page.rule_count().unwrap_or(0);
        (0..count).filter_map(move |index| page.rule(index))
    }

    fn rule(self, index: usize) -> Option<Rule<'a>> {
        let at = HEADER_BYTES + index * RULE_BYTES;
        let pattern = self.span(at)?;
        let bytes = self.bytes.get(at + 8..at + 10)?;
        Some(Rule { pattern, verdict: Verdict::decode([bytes[0], bytes[1]])? })
    }

    /// Returns the session's number.
    #[must_use]
    pub fn session(&self) -> u64 {
        let low = u64::from(self.u32(24).unwrap_or(0));
        low | u64::from(self.u32(28).unwrap_or(0)) << 32
    }

    /// Returns the path of the page itself, with its NUL.
    #[must_use]
    pub fn page_path(&self) -> &'a [u8] {
        self.path(32)
    }

    /// Returns the path of the agent's socket, with its NUL.
    #[must_use]
    pub fn door_path(&self) -> &'a [u8] {
        self.path(40)
    }

    /// Returns the path of the stub, with its NUL.
    #[must_use]
    pub fn stub_path(&self) -> &'a [u8] {
        self.path(48)
    }

    /// Returns the path of the preload library, with its NUL.
    #[must_use]
    pub fn preload_path(&self) -> &'a [u8] {
        self.path(56)
    }

    /// Returns the option bits.
    #[must_use]
    pub fn options(&self) -> u32 {
        self.u32(16).unwrap_or(0)
    }

    /// Returns the gate, which the agent changes while the page is mapped. The word is aligned, so reads
    /// are never torn.
    #[must_use]
    pub fn gate(&self) -> u32 {
        self.u32(GATE_OFFSET).unwrap_or(GATE_SHUT)
    }

    /// Returns the size of the page, which is the offset of the tally.
    #[must_use]
    pub fn page_bytes(&self) -> Option<usize> {
        usize::try_from(self.u32(8)?).ok()
    }

    /// Returns the size of the tally behind the page.
    #[must_use]
    pub fn tally_bytes(&self) -> usize {
        self.u32(12).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }

    fn rule_count(&self) -> Option<usize> {
        usize::try_from(self.u32(64)?).ok()
    }

    fn path(&self, at: usize) -> &'a [u8] {
        let with_nul = self.u32(at).zip(self.u32(at + 4)).and_then(|(offset, length)| {
            let start = usize::try_from(offset).ok()?;
            self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)? + 1)
        });
        with_nul.filter(|path| path.last() == Some(&0)).unwrap_or(b"\0")
    }

    fn span(&self, at: usize) -> Option<&'a [u8]> {
        let start = usize::try_from(self.u32(at)?).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(self.u32(at + 4)?).ok()?)?)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// The contents of a page, to be encoded.
#[cfg(feature = "std")]
#[derive(Debug, Clone)]
pub struct PageContents<'a> {
    /// The session's number.
    pub session: u64,
    /// The option bits.
    pub options: u32,
    /// The initial gate.
    pub gate: u32,
    /// Path of the page itself.
    pub page_path: &'a [u8],
    /// Path of the agent's socket.
    pub door_path: &'a [u8],
    /// Path of the stub.
    pub stub_path: &'a [u8],
    /// Path of the preload library.
    pub preload_path: &'a [u8],
    /// The rules in order of precedence.
    pub rules: Vec<(Vec<u8>, Verdict)>,
    /// Bytes of the tally that follows the page.
    pub tally_bytes: u32,
}

#[cfg(feature = "std")]
impl PageContents<'_> {
    /// Returns the encoded page without the tally, padded to a multiple of 4 KiB.
    ///
    /// # Panics
    /// If the strings exceed 4 GiB.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size = |n: usize| u32::try_from(n).expect("a policy page is far below 4 GiB");
        let mut strings = Vec::new();
        let strings_at = HEADER_BYTES + self.rules.len() * RULE_BYTES;
        let mut span = |text: &[u8]| {
            let offset = size(strings_at + strings.len()).to_le_bytes();
            strings.extend_from_slice(text);
            strings.push(0);
            [offset, size(text.len()).to_le_bytes()].concat()
        };
        let mut body = Vec::new();
        for path in [self.page_path, self.door_path, self.stub_path, self.preload_path] {
            body.extend(span(path));
        }
        body.extend(size(self.rules.len()).to_le_bytes());
        for (pattern, verdict) in &self.rules {
            body.extend(span(pattern));
            body.extend(verdict.encode());
            body.extend([0, 0]);
        }
        let page_bytes = (strings_at + strings.len()).next_multiple_of(4096);
        let mut page = Vec::with_capacity(page_bytes);
        page.extend(MAGIC);
        page.extend(size(page_bytes).to_le_bytes());
        page.extend(self.tally_bytes.to_le_bytes());
        page.extend(self.options.to_le_bytes());
        page.extend(self.gate.to_le_bytes());
        page.extend(self.session.to_le_bytes());
        page.extend(body);
        page.extend(strings);
        page.resize(page_bytes, 0);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NoFiles;

    fn contents() -> PageContents<'static> {
        PageContents {
            session: 0x1234_5678_9abc_def0,
            options: 0,
            gate: GATE_OPEN,
            page_path: b"/run/s/1/page",
            door_path: b"/run/door",
            stub_path: b"/lib/stub",
            preload_path: b"/lib/preload.so",
            rules: vec![
                (b"gcc".to_vec(), Verdict::CompilerDriver),
                (b"make".to_vec(), Verdict::Stay(Reason::Driver)),
            ],
            tally_bytes: 4096,
        }
    }

    fn decide(page: &[u8], path: &str, arguments: &[&str]) -> Result<(), Reason> {
        let page = Page::parse(page).expect("the page was just encoded");
        let arguments = arguments.iter().map(|argument| argument.as_bytes());
        page.decide(path.as_bytes(), arguments, &mut NoFiles, &mut [])
    }

    #[test]
    fn decides_what_was_encoded() {
        let bytes = contents().encode();
        let page = Page::parse(&bytes).expect("the page was just encoded");
        assert_eq!(page.session(), 0x1234_5678_9abc_def0);
        assert_eq!(page.door_path(), b"/run/door\0");
        assert_eq!(page.preload_path(), b"/lib/preload.so\0");
        assert_eq!(page.page_bytes(), Some(4096));
        assert_eq!(decide(&bytes, "/usr/bin/gcc", &["-c", "a.c"]), Ok(()));
        assert_eq!(decide(&bytes, "/usr/bin/gcc", &["a.o"]), Err(Reason::Link));
        assert_eq!(decide(&bytes, "/usr/bin/make", &[]), Err(Reason::Driver));
        assert_eq!(decide(&bytes, "/bin/true", &[]), Err(Reason::Unlisted));
    }

    #[test]
    fn programs_below_a_mounted_volume_walk_unless_a_rule_names_them() {
        let mut contents = contents();
        assert!(!Page::parse(&contents.encode()).expect("a page").has_volumes());
        assert_eq!(Page::parse(&contents.encode()).expect("a page").volume_point(), None);
        contents.rules.push((crate::policy::below(b"/cluster"), Verdict::Volume));
        let decide = |contents: &PageContents<'_>, path: &str, real: &str| {
            let bytes = contents.encode();
            let page = Page::parse(&bytes).expect("the page was just encoded");
            assert!(page.has_volumes());
            assert_eq!(page.volume_point(), Some(b"/cluster".as_slice()));
            page.decide_in_volume(path.as_bytes(), real.as_bytes())
        };
        assert_eq!(decide(&contents, "./app", "/cluster/src/app"), Some(Ok(())));
        assert_eq!(decide(&contents, "./app", "/home/u/app"), None);
        assert_eq!(decide(&contents, "/cluster/make", "/cluster/make"), None);
        assert_eq!(decide(&contents, "./flock", "/cluster/flock"), Some(Err(Reason::Driver)));
        let page = contents.encode();
        let verdict = Page::parse(&page).expect("a page").verdict(b"/cluster/src/app");
        assert_eq!(verdict, None, "the file decides, not its path");
        let page = contents.encode();
        let interprets = |name: &[u8]| Page::parse(&page).expect("a page").interprets_here(name);
        assert_eq!(interprets(b"python3"), None);
        assert_eq!(interprets(b"/usr/bin/make"), Some(Reason::Driver));
        assert_eq!(interprets(b"expect"), Some(Reason::Driver), "it starts others");
        contents.gate = GATE_SHUT;
        assert_eq!(decide(&contents, "./app", "/cluster/app"), Some(Err(Reason::NoCluster)));
    }

    #[test]
    fn options_and_gate() {
        let all = PageContents { options: WALK_ALL, ..contents() }.encode();
        assert_eq!(decide(&all, "/bin/true", &[]), Ok(()));
        assert_eq!(decide(&all, "/usr/bin/make", &[]), Err(Reason::Driver));
        let shut = PageContents { gate: GATE_SHUT, ..contents() }.encode();
        assert_eq!(decide(&shut, "/usr/bin/gcc", &["-c", "a.c"]), Err(Reason::NoCluster));
    }

    #[test]
    fn damaged_pages_are_refused_or_harmless() {
        let bytes = contents().encode();
        assert!(Page::parse(&bytes[..40]).is_none());
        assert!(Page::parse(b"").is_none());
        for at in 0..bytes.len() {
            for value in [0, 0xff, bytes[at] ^ 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                if let Some(page) = Page::parse(&damaged) {
                    let _ = page.decide(b"/usr/bin/gcc", std::iter::empty(), &mut NoFiles, &mut []);
                    assert_eq!(page.door_path().last(), Some(&0));
                }
            }
        }
    }
}
