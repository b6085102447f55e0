//! Reads a command line word by word. What it says goes to a visitor; whether the command may walk is the
//! result.

use super::item::{Item, Product, Role, Stage};
use super::language;
use super::options::{self, DIALECTS, Dialect, Opt, Says, Takes};
use super::place::is_stream;
use super::response::{self, Quoting, ResponseFiles, Unread};
use super::tool::Tool;
use super::{tables, trial};
use crate::policy::base_name;
use crate::reason::Reason;

/// What a command line is read with.
#[derive(Debug)]
pub struct Reading<'a, 'f, F: ?Sized> {
    /// The program.
    pub tool: Tool,
    /// Every node has the origin's processor, so `-march=native` may walk.
    pub native_twin: bool,
    /// Reads `@file`s.
    pub files: &'f mut F,
    /// Room for their text, [`super::ROOM_BYTES`] where there are any.
    pub room: &'a mut [u8],
}

/// Decides from the arguments behind the program's name, and looks no further than the first reason.
///
/// # Errors
/// The reason why the command stays.
pub fn decide<'a, F: ResponseFiles>(
    reading: Reading<'a, '_, F>,
    arguments: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Reason> {
    let mut visit = |_: Item<'a>| {};
    let mut reader = Reader::new(reading, &mut visit);
    for argument in arguments {
        reader.argument(argument, 0);
        if let Some(reason) = reader.reason {
            return Err(reason);
        }
    }
    reader.end()
}

/// Reads all of the arguments behind the program's name, and hands what they say to `visit`.
///
/// # Errors
/// The first reason why the command stays; all was visited nevertheless.
pub fn read<'a, F: ResponseFiles>(
    reading: Reading<'a, '_, F>,
    arguments: impl Iterator<Item = &'a [u8]>,
    visit: &mut dyn FnMut(Item<'a>),
) -> Result<(), Reason> {
    let mut reader = Reader::new(reading, visit);
    arguments.for_each(|argument| reader.argument(argument, 0));
    reader.end()
}

struct Reader<'a, 'f, 'v> {
    dialect: Dialect,
    native_twin: bool,
    files: &'f mut dyn ResponseFiles,
    room: &'a mut [u8],
    visit: &'v mut dyn FnMut(Item<'a>),
    /// Options that wait for their value, in each language.
    pending: [Option<&'static Opt>; DIALECTS],
    is_first: bool,
    /// The words are for a part of the compiler; how far to go the driver is told itself.
    in_part: bool,
    /// No more options.
    ended: bool,
    language: Option<&'a [u8]>,
    stage: Option<Stage>,
    sources: usize,
    headers: usize,
    objects: usize,
    reason: Option<Reason>,
}

impl<'a, 'f, 'v> Reader<'a, 'f, 'v> {
    fn new<F: ResponseFiles>(
        reading: Reading<'a, 'f, F>,
        visit: &'v mut dyn FnMut(Item<'a>),
    ) -> Self {
        let dialect = match reading.tool {
            Tool::Driver => Dialect::Driver,
            Tool::Proper => Dialect::Proper,
            Tool::Gas => Dialect::Gas,
            Tool::Nasm => Dialect::Nasm,
            Tool::Rustc => Dialect::Rustc,
            Tool::Nvcc => Dialect::Nvcc,
        };
        Self {
            dialect,
            native_twin: reading.native_twin,
            files: reading.files,
            room: reading.room,
            visit,
            pending: [None; DIALECTS],
            is_first: true,
            in_part: false,
            ended: false,
            language: None,
            stage: None,
            sources: 0,
            headers: 0,
            objects: 0,
            reason: None,
        }
    }

    /// Reads an argument, or the file that it names.
    fn argument(&mut self, word: &'a [u8], depth: usize) {
        let quoting = match self.dialect {
            Dialect::Rustc => Some(Quoting::Lines),
            Dialect::Nasm | Dialect::Nvcc => None,
            _ => Some(Quoting::Gnu),
        };
        match (word, quoting) {
            ([b'@', _, ..], None) => self.stay(Reason::ResponseFile),
            ([b'@', name @ ..], Some(quoting)) if !name.is_empty() => {
                self.response(name, word, quoting, depth);
            }
            // `clang -cc1` is another program with another language.
            (b"-cc1", _) if self.is_first && self.dialect == Dialect::Driver => {
                self.dialect = Dialect::ClangProper;
            }
            _ => self.word(self.dialect, word),
        }
        self.is_first = false;
    }

    #[inline(never)]
    fn response(&mut self, name: &'a [u8], word: &'a [u8], quoting: Quoting, depth: usize) {
        if is_stream(name) {
            return self.stay(Reason::Stdin);
        }
        if depth == response::DEPTH_MAX {
            return self.stay(Reason::ResponseFile);
        }
        let room = core::mem::take(&mut self.room);
        let size = match self.files.read(name, room) {
            Ok(size) if size <= room.len() => size,
            Ok(_) | Err(Unread::Refused) => return self.stay(Reason::ResponseFile),
            Err(Unread::Absent) => {
                self.room = room;
                return self.word(self.dialect, word);
            }
        };
        let (mut text, rest) = room.split_at_mut(size);
        self.room = rest;
        if text.contains(&0) {
            // Each compiler ends somewhere else.
            return self.stay(Reason::ResponseFile);
        }
        (self.visit)(Item::Path(Role::Response, name));
        while let Some(word) = response::next_word(&mut text, quoting) {
            self.argument(word, depth + 1);
        }
    }

    fn word(&mut self, dialect: Dialect, word: &'a [u8]) {
        if trial::is_trial(word) {
            self.stay(Reason::Probe);
        }
        let is_option = word.starts_with(b"-") && word != b"-";
        match self.pending[dialect as usize].take() {
            Some(option) if option.takes != Takes::Maybe || !is_option => {
                return self.value(option, word);
            }
            _ => {}
        }
        if self.ended || !is_option {
            return self.operand(dialect, word);
        }
        let Some(option) = options::find(tables::of(dialect), word) else {
            return self.unknown(word);
        };
        let rest = &word[option.name.len()..];
        match (option.takes, rest) {
            (Takes::Next | Takes::RestAndNext, _)
            | (Takes::Either | Takes::Maybe | Takes::Equals, b"") => {
                self.pending[dialect as usize] = Some(option);
                // What stays does so without its value, too.
                if let Says::Stays(reason) = option.says {
                    self.stay(reason);
                }
            }
            (Takes::Equals, [_, value @ ..]) => self.value(option, value),
            (Takes::Either | Takes::Maybe | Takes::Rest | Takes::Nothing, rest) => {
                self.value(option, rest)
            }
        }
    }

    /// An option that is not known may name a file.
    fn unknown(&mut self, word: &'a [u8]) {
        let value =
            word.iter().position(|&byte| byte == b'=').map_or(&b""[..], |at| &word[at + 1..]);
        self.path(Role::Unknown, value);
    }

    /// A word that is no option.
    fn operand(&mut self, dialect: Dialect, word: &'a [u8]) {
        if self.in_part {
            return self.path(Role::Unknown, word);
        }
        if word == b"-" {
            return self.stay(Reason::Stdin);
        }
        match dialect {
            Dialect::Driver | Dialect::Nvcc
                if self.language.is_none() && !language::is_source(word) && !is_stream(word) =>
            {
                self.objects += 1;
                return self.path(Role::Object, word);
            }
            // The compiler's own name, where a wrapper is called with it: `clippy-driver rustc …`.
            Dialect::Rustc if self.is_first && base_name(word) == b"rustc" => return,
            Dialect::Gas if is_drivers_own(word) => self.stay(Reason::Link),
            _ => {}
        }
        self.sources += 1;
        self.headers += usize::from(language::is_header(word, self.language));
        self.path(Role::Source, word);
    }

    fn value(&mut self, option: &'static Opt, value: &'a [u8]) {
        let behind = value.iter().position(|&byte| byte == b'=').map(|at| &value[at + 1..]);
        match option.says {
            Says::Nothing => {}
            Says::Path(role) => self.path(role, value),
            Says::PathBehind(role) => self.path(role, behind.unwrap_or(value)),
            Says::OnlyBehind(role) => behind.into_iter().for_each(|path| self.path(role, path)),
            Says::FileBehind(product) => match behind {
                Some(path) => self.path(Role::SideOutput, up_to_comma(path)),
                None => (self.visit)(Item::Makes(product)),
            },
            Says::Emits => value.split(|&byte| byte == b',').for_each(|kind| {
                let at = kind.iter().position(|&byte| byte == b'=');
                at.into_iter().for_each(|at| self.path(Role::SideOutput, &kind[at + 1..]));
            }),
            Says::Stage(_) | Says::Language if self.in_part => {}
            Says::Stage(stage) => {
                self.stage = Some(stage);
                (self.visit)(Item::Stage(stage));
            }
            Says::Makes(product) => (self.visit)(Item::Makes(product)),
            Says::Language => {
                self.language = Some(value).filter(|&language| language != b"none");
                (self.visit)(Item::Language(self.language));
            }
            Says::DumpBase => (self.visit)(Item::DumpBase(value)),
            Says::DumpEnding => (self.visit)(Item::DumpEnding(value)),
            Says::DumpDir => (self.visit)(Item::DumpDir(value)),
            Says::Stays(reason) => self.stay(reason),
            Says::Processor => self.processor(value),
            Says::Codegen => self.codegen(value),
            Says::Mapper => match value {
                // A program, descriptors, or a socket: nobody answers there on another machine.
                [b'|' | b'<' | b'>' | b'=' | b'@', ..] => self.stay(Reason::Ipc),
                _ if value.contains(&b':') => self.stay(Reason::Ipc),
                _ => self.path(Role::Input, value),
            },
            Says::Words(dialect) => {
                value.split(|&byte| byte == b',').for_each(|word| self.part(dialect, word));
            }
            Says::Word(dialect) => self.part(dialect, value),
            Says::End => self.ended = true,
        }
    }

    /// A word for a part of the compiler, in that part's language.
    fn part(&mut self, dialect: Dialect, word: &'a [u8]) {
        self.in_part = true;
        self.word(dialect, word);
        self.in_part = false;
    }

    fn codegen(&mut self, value: &'a [u8]) {
        let at = value.iter().position(|&byte| byte == b'=').unwrap_or(value.len());
        let (name, path) = (&value[..at], value.get(at + 1..).unwrap_or_default());
        let mut room = [0; CODEGEN_BYTES_MAX];
        match dashed(name, &mut room) {
            b"target-cpu" | b"tune-cpu" => self.processor(path),
            // The graph goes where a variable of rustc's says.
            b"help" | b"dump-dep-graph" => self.stay(Reason::Probe),
            b"dump-mir" => self.path(Role::SideDir, b"mir_dump"),
            b"nll-facts" => self.path(Role::SideDir, b"nll-facts"),
            b"self-profile" if path.is_empty() => (self.visit)(Item::Makes(Product::Dumps)),
            b"incremental"
            | b"self-profile"
            | b"dump-mir-dir"
            | b"temps-dir"
            | b"metrics-dir"
            | b"nll-facts-dir"
            | b"remark-dir"
            | b"split-dwarf-out-dir"
            | b"dump-mono-stats" => {
                self.path(Role::SideDir, path);
            }
            b"profile-use"
            | b"profile-sample-use"
            | b"linker"
            | b"codegen-backend"
            | b"sanitizer-dataflow-abilist" => self.path(Role::Input, path),
            b"link-arg" | b"link-args" | b"pre-link-arg" | b"pre-link-args" | b"llvm-args" => {
                self.passed_on(path);
            }
            b"save-temps" | b"llvm-time-trace" => (self.visit)(Item::Makes(Product::Dumps)),
            _ => {}
        }
    }

    /// Words for a linker or for LLVM: what looks like a path may be written, but for what is only searched.
    fn passed_on(&mut self, words: &'a [u8]) {
        let mut is_searched = false;
        for piece in words.split(|byte| matches!(byte, b' ' | b',' | b'=')) {
            let is_option = piece.starts_with(b"-");
            let path = if is_option { piece.get(2..).unwrap_or_default() } else { piece };
            let searches = |name: &&[u8]| piece.starts_with(name);
            if piece == b"native" {
                self.processor(piece);
            }
            let is_search = is_option && SEARCHED.iter().any(searches);
            if !is_searched && !is_search && piece != b"native" {
                self.path(Role::Unknown, path);
            }
            is_searched = is_search;
        }
    }

    fn processor(&mut self, value: &[u8]) {
        if value == b"native" && !self.native_twin {
            self.stay(Reason::NativeCpu);
        }
    }

    fn path(&mut self, role: Role, path: &'a [u8]) {
        if role == Role::Unknown && !path.contains(&b'/') && !path.ends_with(b".json") {
            return;
        }
        if is_stream(path) {
            self.stay(if role.is_read() { Reason::Stdin } else { Reason::Descriptor });
        }
        (self.visit)(Item::Path(role, path));
    }

    fn stay(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    fn end(self) -> Result<(), Reason> {
        let precompiles = self.headers > 0 && self.headers == self.sources && self.objects == 0;
        let goes_on = match self.dialect {
            Dialect::Driver | Dialect::Nvcc if self.sources == 0 => Err(Reason::Link),
            Dialect::Driver | Dialect::Nvcc if self.stage.is_none() && !precompiles => {
                Err(Reason::Link)
            }
            Dialect::ClangProper if self.stage.is_none() => Err(Reason::Link),
            Dialect::Rustc | Dialect::Nasm if self.sources == 0 => Err(Reason::Probe),
            // Without a file they read standard input.
            _ if self.sources == 0 => Err(Reason::Stdin),
            _ => Ok(()),
        };
        self.reason.map_or(goes_on, Err)
    }
}

/// Longer names of codegen options are none that say something of files.
const CODEGEN_BYTES_MAX: usize = 32;
/// What options for linkers begin with whose values are only read.
const SEARCHED: [&[u8]; 8] =
    [b"-L", b"-l", b"-B", b"-I", b"-T", b"-rpath", b"--dynamic-linker", b"-dynamic-linker"];

/// Returns the name of a codegen option as the table has it: rustc takes `_` for `-`.
fn dashed<'r>(name: &[u8], room: &'r mut [u8; CODEGEN_BYTES_MAX]) -> &'r [u8] {
    let Some(room) = room.get_mut(..name.len()) else { return b"" };
    room.copy_from_slice(name);
    room.iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
    room
}

fn up_to_comma(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b',').next().unwrap_or(value)
}

/// Is this the assembly that a compiler driver made for itself (`/tmp/ccXXXXXX.s`)? Its driver runs here,
/// too, since it links what comes of this, and it is little work.
fn is_drivers_own(word: &[u8]) -> bool {
    let file = base_name(word);
    word.starts_with(b"/")
        && file.len() == b"ccXXXXXX.s".len()
        && file.starts_with(b"cc")
        && file.ends_with(b".s")
}
