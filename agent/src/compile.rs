//! What the command line of a compile step says of the files that it will read and make.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use packetfs::tree::{Bytes, join, split};

/// The files of a compile step, as far as they can be known before it runs. Names are as they were given.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Files {
    /// Sources, and what is included before them.
    pub(crate) inputs: Vec<Bytes>,
    /// Where headers are looked for that are named in quotes, and then the others.
    pub(crate) quoted: Vec<Bytes>,
    pub(crate) included: Vec<Bytes>,
    /// The object and the rules for make.
    pub(crate) outputs: Vec<Bytes>,
}

impl Files {
    /// Returns what changes when what is read first changes, its inode and its time; nothing for what is not there.
    pub(crate) fn versions(&self, cwd: &[u8]) -> Vec<Option<(u64, SystemTime)>> {
        let version = |name: &Bytes| {
            let meta = std::fs::metadata(OsStr::from_bytes(&path(cwd, name))).ok()?;
            Some((meta.ino(), meta.modified().ok()?))
        };
        self.inputs.iter().map(version).collect()
    }
}

/// Reads the arguments behind the program's name.
pub(crate) fn files<'a>(mut arguments: impl Iterator<Item = &'a [u8]>) -> Files {
    let mut files = Files::default();
    let (mut object, mut rules) = (None, None);
    let (mut makes_rules, mut is_assembly) = (false, false);
    while let Some(argument) = arguments.next() {
        let mut value = |option: &[u8]| {
            let joined = argument.strip_prefix(option)?;
            let own = (!joined.is_empty()).then_some(joined);
            own.or_else(|| arguments.next()).map(<[u8]>::to_vec)
        };
        match argument {
            b"-o" => object = value(b"-o"),
            b"-MF" => rules = value(b"-MF"),
            b"-MD" | b"-MMD" => makes_rules = true,
            b"-S" => is_assembly = true,
            b"-include" | b"-imacros" => files.inputs.extend(value(argument)),
            b"-D" | b"-U" | b"-MT" | b"-MQ" | b"-x" => drop(value(argument)),
            b"-idirafter" => files.included.extend(value(argument)),
            _ if argument.starts_with(b"-isystem") => files.included.extend(value(b"-isystem")),
            _ if argument.starts_with(b"-iquote") => files.quoted.extend(value(b"-iquote")),
            _ if argument.starts_with(b"-I") => files.included.extend(value(b"-I")),
            _ if argument.starts_with(b"-") || argument.starts_with(b"@") => {}
            _ => files.inputs.push(argument.to_vec()),
        }
    }
    let source = files.inputs.last().and_then(|source| source.rsplit(|&byte| byte == b'/').next());
    let ending = if is_assembly { b".s" } else { b".o" };
    let implied = source.map(|source| [stem(source), ending].concat());
    let object = object.or(implied);
    if makes_rules && rules.is_none() {
        rules = object.as_ref().map(|object| [stem(object), b".d"].concat());
    }
    files.outputs = object.into_iter().chain(rules).collect();
    files
}

/// Returns a file's name up to its last dot.
fn stem(name: &[u8]) -> &[u8] {
    let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > base => &name[..dot],
        _ => name,
    }
}

/// Returns the path of a name. One that goes up again is as if there were no links on its way.
pub(crate) fn path(dir: &[u8], name: &[u8]) -> Bytes {
    let start = if name.starts_with(b"/") { b"/" } else { dir };
    name.split(|&byte| byte == b'/').fold(start.to_vec(), |path, name| match name {
        b"" | b"." => path,
        b".." => split(&path).map_or_else(|| path.clone(), |(dir, _)| dir.to_vec()),
        name => join(&path, name),
    })
}

/// Tells whether a name goes up again.
pub(crate) fn goes_up(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'/').any(|name| name == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_of(line: &str) -> Files {
        files(line.split_whitespace().map(str::as_bytes))
    }

    fn line(names: &[Bytes]) -> String {
        let names = names.iter().map(|name| String::from_utf8_lossy(name));
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_of_outputs() {
        for (arguments, expected) in [
            ("-O2 -c a.c -o x/a.o", "x/a.o"),
            ("-c ../src/a.b.c", "a.b.o"),
            ("-S a.c", "a.s"),
            ("-MMD -o x.d/a.o -c a.c", "x.d/a.o x.d/a.d"),
            ("-MD -c a.c", "a.o a.d"),
            ("-MD -MF deps/a -MT b.o -c -o a.o a.c", "a.o deps/a"),
            ("-MMD -o x.d/a -c a.c", "x.d/a x.d/a.d"),
            ("-c -I b.c -x c++ a.c", "a.o"),
            ("-c -include x.h a.c", "a.o"),
            ("-c", ""),
            ("-c a.c -o", "a.o"),
        ] {
            assert_eq!(line(&files_of(arguments).outputs), expected, "{arguments}");
        }
    }

    #[test]
    fn names_of_inputs() {
        let files = files_of(
            "-Ia -I b -iquote c -isystem d -isysteme -idirafter j -imacros k.h -include f.h -Wall -c g.c -o h.o @i",
        );
        assert_eq!(line(&files.inputs), "k.h f.h g.c");
        assert_eq!(line(&files.included), "a b d e j");
        assert_eq!(line(&files.quoted), "c");
    }

    #[test]
    fn paths_of_names() {
        let paths = [b"./x//a.o".as_slice(), b"/x/a.o", b"../a", b"../../../a"]
            .map(|name| path(b"/w/v", name));
        assert_eq!(line(&paths), "/w/v/x/a.o /x/a.o /w/a /a");
        assert!(goes_up(b"x/../a") && !goes_up(b"..x/a"));
    }
}
