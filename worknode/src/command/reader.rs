//! Parses a command line word by word. A visitor receives the items; the result tells whether the
//! command may walk.

use super::item::{Item, Product, Role, Stage};
use super::language;
use super::options::{self, DIALECTS, Dialect, Opt, Says, Takes};
use super::place::is_stream;
use super::response::{self, Quoting, ResponseFiles, Unread};
use super::tool::Tool;
use super::{tables, trial};
use crate::policy::base_name;
use crate::reason::Reason;

/// The context in which a command line is parsed.
#[derive(Debug)]
pub struct Reading<'a, 'f, F: ?Sized> {
    /// The program.
    pub tool: Tool,
    /// Every node has the origin's processor, so `-march=native` may walk.
    pub native_twin: bool,
    /// Reads response files.
    pub files: &'f mut F,
    /// Room for their text: [`super::ROOM_BYTES`] if the command line has any.
    pub room: &'a mut [u8],
}

/// Decides from the arguments after the program's name, and stops at the first reason to stay.
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

/// Parses all arguments after the program's name, and passes each item to `visit`.
///
/// # Errors
/// The first reason why the command stays. All items have been visited nevertheless.
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
    /// The option that waits for its value, in each dialect.
    pending: [Option<&'static Opt>; DIALECTS],
    is_first: bool,
    /// The words are passed on to a part of the compiler, and do not set the driver's stage.
    in_part: bool,
    /// All following words are operands.
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

    /// Parses an argument, or the response file that it names.
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
            // `clang -cc1` is another program with another option syntax.
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
            // Compilers differ in how they treat a NUL.
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
                // The command stays even if the value is missing.
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

    /// Visits the value of an unknown option, which may be a path.
    fn unknown(&mut self, word: &'a [u8]) {
        let value =
            word.iter().position(|&byte| byte == b'=').map_or(&b""[..], |at| &word[at + 1..]);
        self.path(Role::Unknown, value);
    }

    /// Parses a word that is not an option.
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
            // A wrapper's first argument may be the compiler's name: `clippy-driver rustc …`.
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
            Says::DumpExtension => (self.visit)(Item::DumpExtension(value)),
            Says::DumpDir => (self.visit)(Item::DumpDir(value)),
            Says::Stays(reason) => self.stay(reason),
            Says::Processor => self.processor(value),
            Says::Codegen => self.codegen(value),
            Says::Mapper => match value {
                // A program, descriptors or a socket, which another machine cannot reach.
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

    /// Parses a word for a part of the compiler, in that part's dialect.
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
            // A variable of rustc names the graph's file.
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

    /// Visits the paths in words for a linker or LLVM. Any may be an output, except those of search options.
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
            // Without a file the tool reads standard input.
            _ if self.sources == 0 => Err(Reason::Stdin),
            _ => Ok(()),
        };
        self.reason.map_or(goes_on, Err)
    }
}

/// Longest codegen option that concerns files.
const CODEGEN_BYTES_MAX: usize = 32;
/// Prefixes of linker options whose values are only read.
const SEARCHED: [&[u8]; 8] =
    [b"-L", b"-l", b"-B", b"-I", b"-T", b"-rpath", b"--dynamic-linker", b"-dynamic-linker"];

/// Returns a codegen option's name with `-` for `_`: rustc accepts both.
fn dashed<'r>(name: &[u8], room: &'r mut [u8; CODEGEN_BYTES_MAX]) -> &'r [u8] {
    let Some(room) = room.get_mut(..name.len()) else { return b"" };
    room.copy_from_slice(name);
    room.iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
    room
}

fn up_to_comma(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b',').next().unwrap_or(value)
}

/// Tells whether this is assembly that a compiler driver made for itself (`/tmp/ccXXXXXX.s`). The driver
/// runs at the origin because it links the result, and assembling is little work.
fn is_drivers_own(word: &[u8]) -> bool {
    let file = base_name(word);
    word.starts_with(b"/")
        && file.len() == b"ccXXXXXX.s".len()
        && file.starts_with(b"cc")
        && file.ends_with(b".s")
}
