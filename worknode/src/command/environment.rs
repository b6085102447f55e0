//! Environment variables that make compilers read or write files which their arguments do not name.

use super::item::Role;
use super::tool::Tool;
use crate::reason::Reason;

/// What a variable means to the programs that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// A path.
    Path(Role),
    /// Colon-separated paths; an empty one is the working directory.
    Paths(Role),
    /// A path, optionally followed by a space and a word.
    PathAndWord(Role),
    /// A path that is used only if this other variable is also set.
    PathIf(Role, &'static [u8]),
    /// Further arguments, which the command line does not show.
    Arguments,
}

/// A variable and the tools that read it.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static [u8],
    /// How its value is interpreted.
    pub means: Means,
    readers: &'static [Tool],
}

impl Variable {
    /// Tells whether a tool reads the variable.
    #[must_use]
    pub fn is_read_by(&self, tool: Tool) -> bool {
        self.readers.is_empty() || self.readers.contains(&tool)
    }
}

const FAMILY: &[Tool] = &[Tool::Driver, Tool::Proper, Tool::Nvcc];
const DRIVERS: &[Tool] = &[Tool::Driver, Tool::Nvcc];
const ALL: &[Tool] = &[];

const fn variable(name: &'static [u8], means: Means, readers: &'static [Tool]) -> Variable {
    Variable { name, means, readers }
}

/// The variables that the manuals of gcc, clang, rustc, nasm and nvcc document.
pub const VARIABLES: &[Variable] = &[
    variable(b"TMPDIR", Means::Path(Role::SideDir), ALL),
    variable(b"TMP", Means::Path(Role::SideDir), ALL),
    variable(b"TEMP", Means::Path(Role::SideDir), ALL),
    variable(b"DEPENDENCIES_OUTPUT", Means::PathAndWord(Role::Rules), FAMILY),
    variable(b"SUNPRO_DEPENDENCIES", Means::PathAndWord(Role::Rules), FAMILY),
    variable(b"CPATH", Means::Paths(Role::IncludedDir), FAMILY),
    variable(b"C_INCLUDE_PATH", Means::Paths(Role::IncludedDir), FAMILY),
    variable(b"CPLUS_INCLUDE_PATH", Means::Paths(Role::IncludedDir), FAMILY),
    variable(b"OBJC_INCLUDE_PATH", Means::Paths(Role::IncludedDir), FAMILY),
    variable(b"OBJCPLUS_INCLUDE_PATH", Means::Paths(Role::IncludedDir), FAMILY),
    variable(b"GCC_EXEC_PREFIX", Means::Path(Role::InputDir), FAMILY),
    variable(b"COMPILER_PATH", Means::Paths(Role::InputDir), DRIVERS),
    variable(b"LIBRARY_PATH", Means::Paths(Role::InputDir), DRIVERS),
    variable(b"GCC_ROOT", Means::Path(Role::InputDir), FAMILY),
    variable(b"BINUTILS_ROOT", Means::Path(Role::InputDir), DRIVERS),
    variable(b"CCC_OVERRIDE_OPTIONS", Means::Arguments, DRIVERS),
    variable(
        b"CC_PRINT_OPTIONS_FILE",
        Means::PathIf(Role::SideOutput, b"CC_PRINT_OPTIONS"),
        DRIVERS,
    ),
    variable(
        b"CC_PRINT_HEADERS_FILE",
        Means::PathIf(Role::SideOutput, b"CC_PRINT_HEADERS"),
        DRIVERS,
    ),
    variable(
        b"CC_LOG_DIAGNOSTICS_FILE",
        Means::PathIf(Role::SideOutput, b"CC_LOG_DIAGNOSTICS"),
        DRIVERS,
    ),
    variable(
        b"CC_PRINT_PROC_STAT_FILE",
        Means::PathIf(Role::SideOutput, b"CC_PRINT_PROC_STAT"),
        DRIVERS,
    ),
    variable(
        b"CC_PRINT_INTERNAL_STAT_FILE",
        Means::PathIf(Role::SideOutput, b"CC_PRINT_INTERNAL_STAT"),
        DRIVERS,
    ),
    variable(b"CLANG_MODULE_CACHE_PATH", Means::Path(Role::SideDir), DRIVERS),
    variable(b"CLANG_CRASH_DIAGNOSTICS_DIR", Means::Path(Role::SideDir), DRIVERS),
    variable(b"SDKROOT", Means::Path(Role::InputDir), DRIVERS),
    variable(b"CUDA_PATH", Means::Path(Role::InputDir), DRIVERS),
    variable(b"RUST_TARGET_PATH", Means::Paths(Role::InputDir), &[Tool::Rustc]),
    variable(b"RUSTC_ICE", Means::Path(Role::SideDir), &[Tool::Rustc]),
    variable(b"CLIPPY_CONF_DIR", Means::Path(Role::InputDir), &[Tool::Rustc]),
    variable(b"NASMENV", Means::Arguments, &[Tool::Nasm]),
    variable(b"NVCC_PREPEND_FLAGS", Means::Arguments, &[Tool::Nvcc]),
    variable(b"NVCC_APPEND_FLAGS", Means::Arguments, &[Tool::Nvcc]),
];

/// Passes each path that the environment (entries `NAME=value`) names to `visit`.
///
/// # Errors
/// The reason why a command with this environment stays.
pub fn read<'a>(
    tool: Tool,
    environment: impl Iterator<Item = &'a [u8]> + Clone,
    visit: &mut dyn FnMut(Role, &'a [u8]),
) -> Result<(), Reason> {
    let mut result = Ok(());
    for entry in environment.clone() {
        let Some((variable, value)) = known(tool, entry) else { continue };
        let is_set = |name: &[u8]| environment.clone().any(|entry| value_of(entry, name).is_some());
        match variable.means {
            _ if value.is_empty() => {}
            Means::Path(role) => visit(role, value),
            Means::Paths(role) => {
                value.split(|&byte| byte == b':').for_each(|path| {
                    visit(role, if path.is_empty() { b"." } else { path });
                });
            }
            Means::PathAndWord(role) => {
                visit(role, value.split(|&byte| byte == b' ').next().unwrap_or(value));
            }
            Means::PathIf(role, other) if is_set(other) => visit(role, value),
            Means::PathIf(..) => {}
            Means::Arguments => result = Err(Reason::ResponseFile),
        }
    }
    result
}

fn known(tool: Tool, entry: &[u8]) -> Option<(&'static Variable, &[u8])> {
    VARIABLES
        .iter()
        .filter(|variable| variable.is_read_by(tool))
        .find_map(|variable| Some((variable, value_of(entry, variable.name)?)))
}

fn value_of<'a>(entry: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    entry.strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tool: Tool, environment: &[&str]) -> (Vec<(Role, String)>, Result<(), Reason>) {
        let mut found = Vec::new();
        let entries = environment.iter().map(|entry| entry.as_bytes());
        let result = read(tool, entries, &mut |role, path| {
            found.push((role, String::from_utf8_lossy(path).into_owned()));
        });
        (found, result)
    }

    #[test]
    fn paths_of_an_environment() {
        let environment = [
            "PATH=/bin",
            "CPATH=/a::b",
            "DEPENDENCIES_OUTPUT=/d/log x.o",
            "CC_PRINT_OPTIONS_FILE=/o",
            "CC_PRINT_HEADERS_FILE=/h",
            "CC_PRINT_HEADERS=1",
            "TMPDIR=",
            "NASMENV=-o x",
        ];
        let expected = [
            (Role::IncludedDir, "/a"),
            (Role::IncludedDir, "."),
            (Role::IncludedDir, "b"),
            (Role::Rules, "/d/log"),
            (Role::SideOutput, "/h"),
        ]
        .map(|(role, path)| (role, path.to_owned()));
        assert_eq!(paths(Tool::Driver, &environment), (expected.to_vec(), Ok(())));
        assert_eq!(paths(Tool::Nasm, &environment), (vec![], Err(Reason::ResponseFile)));
        assert_eq!(paths(Tool::Rustc, &environment), (vec![], Ok(())));
    }
}
