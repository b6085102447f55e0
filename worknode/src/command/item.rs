//! The items that the parser finds in a command line.

/// What a path on a command line is to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It is compiled.
    Source,
    /// It is read: a pre-included header, a plug-in, a profile, a crate's library.
    Input,
    /// A response file: its contents are arguments.
    Response,
    /// It adds arguments in its own syntax: gcc specs, a clang configuration file.
    Config,
    /// Searched first for headers that are included with quotes.
    QuotedDir,
    /// Searched for headers.
    IncludedDir,
    /// Searched for something else: a sysroot, tools, libraries, modules.
    InputDir,
    /// The main output.
    Output,
    /// The dependency rules for make.
    Rules,
    /// Another file that is written.
    SideOutput,
    /// The directory for outputs whose names are unknown, in place of the working directory.
    OutputDir,
    /// A directory in which other files are created.
    SideDir,
    /// Relative names are resolved against it.
    WorkingDir,
    /// An object or a library for the linker.
    Object,
    /// The value of an unknown option that looks like a path.
    Unknown,
}

impl Role {
    /// Tells whether the command writes there.
    #[must_use]
    pub fn is_written(self) -> bool {
        matches!(
            self,
            Self::Output
                | Self::Rules
                | Self::SideOutput
                | Self::OutputDir
                | Self::SideDir
                | Self::WorkingDir
                | Self::Unknown
        )
    }

    /// Tells whether the command reads there.
    #[must_use]
    pub fn is_read(self) -> bool {
        !matches!(
            self,
            Self::Output | Self::Rules | Self::SideOutput | Self::OutputDir | Self::SideDir
        )
    }
}

/// Where compilation stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// At object files.
    Object,
    /// At assembly.
    Assembly,
    /// At bitcode or another intermediate form of the compiler.
    Intermediate,
    /// After checking, without an output.
    Check,
    /// At a precompiled header or module.
    Precompiled,
}

/// A file that is made beside the output, and whose name is derived from the output's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// The output itself is bitcode.
    Bitcode,
    /// Rules for make (`.d`).
    Rules,
    /// Split debug information (`.dwo`).
    Dwo,
    /// Coverage notes (`.gcno`).
    Notes,
    /// Stack usage (`.su`).
    StackUsage,
    /// The call graph (`.ci`).
    Calls,
    /// A time trace (`.json`).
    TimeTrace,
    /// An optimization record.
    Record,
    /// Intermediate files that are kept (`.i`, `.s` …).
    Temporaries,
    /// Files of unknown names, beside the output and in the working directory.
    Dumps,
}

/// One item of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A path as written.
    Path(Role, &'a [u8]),
    /// Where compilation stops.
    Stage(Stage),
    /// A further file is made.
    Makes(Product),
    /// The language of the sources that follow; `None` means that their names tell.
    Language(Option<&'a [u8]>),
    /// The name from which further outputs derive theirs.
    DumpBase(&'a [u8]),
    /// The extension to strip from that name.
    DumpExtension(&'a [u8]),
    /// The prefix of the names of further outputs.
    DumpDir(&'a [u8]),
}
