//! All files that a command line names or implies.

use super::item::{Item, Product, Role, Stage};
use super::language;
use super::reader::{self, Reading};
use super::response::{ROOM_BYTES, ResponseFiles};
use super::tool::Tool;
use crate::policy::base_name;
use crate::reason::Reason;

/// The files of a command, as far as its arguments tell. Names are kept as given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Files {
    /// Every path with its role: first those in the arguments, in order, then the derived ones.
    pub paths: Vec<(Role, Vec<u8>)>,
    /// Whether the command may walk.
    pub decision: Result<(), Reason>,
}

impl Files {
    /// Parses the arguments after the program's name.
    pub fn of<'a>(
        tool: Tool,
        arguments: impl Iterator<Item = &'a [u8]> + Clone,
        files: &mut impl ResponseFiles,
        native_twin: bool,
    ) -> Self {
        let has_files = arguments.clone().any(|argument| argument.starts_with(b"@"));
        let mut room = vec![0; if has_files { ROOM_BYTES } else { 0 }];
        let reading = Reading { tool, native_twin, files, room: &mut room };
        let mut line = Line::default();
        let arguments = arguments.map(|argument| argument as &[u8]);
        let decision = reader::read(reading, arguments, &mut |item| line.note(item));
        line.derive(tool);
        Self { paths: line.paths, decision }
    }

    /// Returns the paths of some roles.
    pub fn of_roles<'s>(&'s self, roles: &'s [Role]) -> impl Iterator<Item = &'s [u8]> {
        self.paths.iter().filter(|(role, _)| roles.contains(role)).map(|(_, path)| path.as_slice())
    }

    /// Returns the files that are certainly read: sources, pre-included headers, plug-ins, response files.
    pub fn inputs(&self) -> impl Iterator<Item = &[u8]> {
        self.of_roles(&[Role::Source, Role::Input, Role::Response, Role::Config])
    }

    /// Returns the files that are written under a known name.
    pub fn outputs(&self) -> impl Iterator<Item = &[u8]> {
        self.of_roles(&[Role::Output, Role::Rules, Role::SideOutput])
    }
}

/// What has been parsed of a command line so far.
#[derive(Default)]
struct Line {
    paths: Vec<(Role, Vec<u8>)>,
    sources: Vec<Source>,
    language: Option<Vec<u8>>,
    stage: Option<Stage>,
    products: Vec<Product>,
    output: Option<Vec<u8>>,
    has_rules: bool,
    has_output_dir: bool,
    dump_base: Option<Vec<u8>>,
    dump_extension: Option<Vec<u8>>,
    dump_dir: Option<Vec<u8>>,
}

struct Source {
    name: Vec<u8>,
    is_header: bool,
    makes_modules: bool,
}

impl Line {
    fn note(&mut self, item: Item<'_>) {
        match item {
            Item::Path(role, path) => self.path(role, path),
            Item::Stage(stage) => self.stage = Some(stage),
            Item::Makes(product) => self.products.push(product),
            Item::Language(language) => self.language = language.map(<[u8]>::to_vec),
            // An empty one is the default.
            Item::DumpBase(base) => {
                self.dump_base = Some(base.to_vec()).filter(|it| !it.is_empty())
            }
            Item::DumpExtension(extension) => self.dump_extension = Some(extension.to_vec()),
            Item::DumpDir(dir) => self.dump_dir = Some(dir.to_vec()),
        }
    }

    fn path(&mut self, role: Role, path: &[u8]) {
        match role {
            Role::Source => self.sources.push(Source {
                name: path.to_vec(),
                is_header: language::is_header(path, self.language.as_deref()),
                makes_modules: language::makes_modules(path, self.language.as_deref()),
            }),
            Role::Output => self.output = Some(path.to_vec()),
            Role::Rules => self.has_rules = true,
            Role::OutputDir => self.has_output_dir = true,
            _ => {}
        }
        // Some options accept `-` for a standard stream.
        let is_stream = path == b"-" && !role.is_read();
        if !is_stream && !path.is_empty() {
            self.paths.push((role, path.to_vec()));
        }
    }

    /// Adds the outputs that the command line does not name.
    fn derive(&mut self, tool: Tool) {
        match tool {
            Tool::Rustc => self.derive_of_rustc(),
            Tool::Gas if self.output.is_none() && !self.sources.is_empty() => {
                self.add(Role::Output, b"a.out".to_vec())
            }
            Tool::Gas => {}
            Tool::Nasm if self.output.is_none() => {
                for source in std::mem::take(&mut self.sources) {
                    self.add(Role::Output, [stem(&source.name), b".o"].concat());
                    // Flat binaries have no extension.
                    self.add(Role::Output, stem(&source.name).to_vec());
                }
            }
            Tool::Nasm => {}
            Tool::Driver | Tool::Proper | Tool::Nvcc => self.derive_of_family(tool),
        }
    }

    fn derive_of_rustc(&mut self) {
        // File names depend on the crate's name and type, so only the directory is known.
        if !self.has_output_dir {
            let dir = self.output.as_deref().map_or(&b"."[..], dir);
            self.add(Role::OutputDir, dir.to_vec());
        }
    }

    fn derive_of_family(&mut self, tool: Tool) {
        let sources = std::mem::take(&mut self.sources);
        for source in &sources {
            let output = self.output.clone().or_else(|| self.implied(tool, source));
            if let (None, Some(output)) = (&self.output, &output) {
                self.add(Role::Output, output.clone());
            }
            if self.stage == Some(Stage::Intermediate) && output.is_none() {
                // The extension depends on the form, so only the directory is known.
                self.add(Role::OutputDir, b".".to_vec());
            }
            self.derive_besides(source, output.as_deref());
        }
        if sources.iter().any(|source| source.makes_modules) && !self.has_output_dir {
            self.add(Role::OutputDir, b".".to_vec());
        }
    }

    /// Returns the default output name of a source, where no option gives one.
    fn implied(&self, tool: Tool, source: &Source) -> Option<Vec<u8>> {
        let is_bitcode = self.products.contains(&Product::Bitcode);
        let base = stem(base_name(&source.name));
        let precompiled = || Some([source.name.as_slice(), b".gch"].concat());
        match self.stage {
            Some(Stage::Check) => None,
            _ if source.is_header => precompiled(),
            Some(Stage::Precompiled) => precompiled(),
            Some(Stage::Intermediate) => None,
            None if tool != Tool::Proper => None,
            stage => {
                let stage = stage.unwrap_or(Stage::Assembly);
                Some([base, language::extension_of(stage, is_bitcode)].concat())
            }
        }
    }

    /// Adds the files that are made beside the output of a source.
    fn derive_besides(&mut self, source: &Source, output: Option<&[u8]>) {
        let base = stem(base_name(&source.name)).to_vec();
        // A link places them in the working directory, or beside the program.
        let output = output.filter(|_| self.stage.is_some());
        let beside = output.map_or_else(|| base.clone(), |output| stem(output).to_vec());
        let auxiliary = match (&self.dump_dir, &self.dump_base) {
            (None, None) => beside.clone(),
            (dir, name) => {
                let dir = dir.clone().unwrap_or_default();
                let extension = self.dump_extension.as_deref().unwrap_or_default();
                let name = name.as_deref().map(|name| name.strip_suffix(extension).unwrap_or(name));
                [dir, name.map_or(base, <[u8]>::to_vec)].concat()
            }
        };
        for product in self.products.clone() {
            let named = |extension: &[u8]| [auxiliary.as_slice(), extension].concat();
            match product {
                Product::Bitcode => {}
                Product::Rules if self.has_rules => {}
                Product::Rules => self.add(Role::Rules, [beside.as_slice(), b".d"].concat()),
                Product::Dwo => self.add(Role::SideOutput, named(b".dwo")),
                Product::Notes => self.add(Role::SideOutput, named(b".gcno")),
                Product::StackUsage => self.add(Role::SideOutput, named(b".su")),
                Product::Calls => self.add(Role::SideOutput, named(b".ci")),
                Product::TimeTrace => self.add(Role::SideOutput, named(b".json")),
                Product::Record | Product::Temporaries | Product::Dumps => {
                    self.add(Role::SideDir, b".".to_vec());
                    self.add(Role::SideDir, dir(&auxiliary).to_vec());
                }
            }
        }
    }

    fn add(&mut self, role: Role, path: Vec<u8>) {
        if !self.paths.iter().any(|known| (known.0, &known.1) == (role, &path)) {
            self.paths.push((role, path));
        }
    }
}

/// Returns a name without its extension.
fn stem(name: &[u8]) -> &[u8] {
    let base = name.len() - base_name(name).len();
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > base => &name[..dot],
        _ => name,
    }
}

/// Returns the directory of a name.
fn dir(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(0) => b"/",
        Some(slash) => &name[..slash],
        None => b".",
    }
}
