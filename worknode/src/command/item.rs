//! What a command line says, one thing at a time.

/// What a path on a command line is to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It is compiled.
    Source,
    /// It is read: included beforehand, a plug-in, a profile, a library of a crate.
    Input,
    /// Its arguments belong to the command line.
    Response,
    /// It adds arguments, in a language of its own: specs of gcc, a configuration file of clang.
    Config,
    /// Headers that are named in quotes are looked for here first.
    QuotedDir,
    /// Headers are looked for here.
    IncludedDir,
    /// Something else is looked for here: a sysroot, tools, libraries, modules.
    InputDir,
    /// The main output.
    Output,
    /// The rules for make.
    Rules,
    /// Another file that is written.
    SideOutput,
    /// The directory of outputs whose names are not known, instead of the working directory.
    OutputDir,
    /// A directory in which other files are made.
    SideDir,
    /// Relative names are relative to this one.
    WorkingDir,
    /// An object or a library for the linker.
    Object,
    /// The value of an option that is not known, which looks like a path.
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

/// How far a compiler goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// To objects.
    Object,
    /// To assembly.
    Assembly,
    /// To bitcode or another form of its own.
    Intermediate,
    /// To nothing: it only checks.
    Check,
    /// To a precompiled header or module.
    Precompiled,
}

/// What is made besides the output; its name is derived from the output's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// Bitcode, as the output itself.
    Bitcode,
    /// Rules for make (`.d`).
    Rules,
    /// Split debug information (`.dwo`).
    Dwo,
    /// Notes of coverage (`.gcno`).
    Notes,
    /// Stack usage (`.su`).
    StackUsage,
    /// The graph of calls (`.ci`).
    Calls,
    /// Where the time went (`.json`).
    TimeTrace,
    /// A record of optimizations.
    Record,
    /// Files of the stages before (`.i`, `.s` …).
    Temporaries,
    /// Files with names that are not known, beside the output and in the working directory.
    Dumps,
}

/// One thing that a command line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A path, as it is written there.
    Path(Role, &'a [u8]),
    /// How far to go.
    Stage(Stage),
    /// Something is made besides.
    Makes(Product),
    /// Sources that follow are in this language; nothing stands for what their names say.
    Language(Option<&'a [u8]>),
    /// The name from which those of further outputs are made.
    DumpBase(&'a [u8]),
    /// The ending that this name has too much.
    DumpEnding(&'a [u8]),
    /// What goes before the names of further outputs.
    DumpDir(&'a [u8]),
}
