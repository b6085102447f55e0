//! What a walk will need in its upper layer, as far as it is known before it begins: made beforehand,
//! it spares the kernel questions to the origin's tree.

use packetfs::mirror::Answer;
use packetfs::tree::{Attr, Bytes, Kind, join, split};
use worknode::spec::WalkSpec;

use crate::sys::launcher::Ahead;

/// Looks ahead; `attr_of` returns what is known of a path in the origin's tree.
pub(super) fn of(spec: &WalkSpec, attr_of: impl Fn(&[u8]) -> Answer<Attr>) -> Ahead {
    let mut ahead = Ahead { dirs: vec![spec.cwd.clone()], ..Ahead::default() };
    // What has a place of its own for temporary files hardly makes them in this one.
    if !spec.environment().any(|variable| variable.starts_with(b"TMPDIR=")) {
        ahead.dirs.push(b"/tmp".to_vec());
    }
    if spec.compiles {
        let names = outputs(spec.arguments().skip(1));
        for path in names.iter().filter_map(|name| plain_path(&spec.cwd, name)) {
            let Some((dir, _)) = split(&path) else { continue };
            let is_dir = matches!(attr_of(dir), Answer::Known(attr) if attr.kind == Kind::Dir);
            if is_dir && attr_of(&path) == Answer::Absent {
                if !ahead.dirs.iter().any(|known| known == dir) {
                    ahead.dirs.push(dir.to_vec());
                }
                ahead.absent.push(path);
            }
        }
    }
    let mut known: Vec<(Bytes, Attr)> = Vec::new();
    for dir in &ahead.dirs {
        let mut path = b"/".to_vec();
        for name in dir.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            path = join(&path, name);
            if known.iter().any(|(there, _)| *there == path) {
                continue;
            }
            let Answer::Known(attr) = attr_of(&path) else { break };
            known.push((path.clone(), attr));
        }
    }
    ahead.known = known;
    ahead
}

/// Returns the names of the files that a compile step will make: those that its command line says.
fn outputs<'a>(mut arguments: impl Iterator<Item = &'a [u8]>) -> Vec<Bytes> {
    let (mut object, mut rules, mut source) = (None, None, None);
    let (mut makes_rules, mut is_assembly) = (false, false);
    while let Some(argument) = arguments.next() {
        match argument {
            b"-o" => object = arguments.next().map(<[u8]>::to_vec),
            b"-MF" => rules = arguments.next().map(<[u8]>::to_vec),
            b"-MD" | b"-MMD" => makes_rules = true,
            b"-S" => is_assembly = true,
            b"-I" | b"-D" | b"-U" | b"-MT" | b"-MQ" | b"-include" | b"-isystem" | b"-x" => {
                arguments.next();
            }
            _ if argument.starts_with(b"-") || argument.starts_with(b"@") => {}
            _ => source = split(&[b"/", argument].concat()).map(|(_, name)| name.to_vec()),
        }
    }
    let ending = if is_assembly { b".s" } else { b".o" };
    let implied = source.map(|source| [stem(&source), ending].concat());
    let object = object.or(implied);
    if makes_rules && rules.is_none() {
        rules = object.as_ref().map(|object| [stem(object), b".d"].concat());
    }
    object.into_iter().chain(rules).collect()
}

/// Returns a file's name up to its last dot.
fn stem(name: &[u8]) -> &[u8] {
    let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot > base => &name[..dot],
        _ => name,
    }
}

/// Returns the path of a name, unless that goes up again.
fn plain_path(cwd: &[u8], name: &[u8]) -> Option<Bytes> {
    let start = if name.starts_with(b"/") { b"/" } else { cwd };
    let mut names = name.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.try_fold(start.to_vec(), |path, name| (name != b"..").then(|| join(&path, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs_of(line: &str) -> String {
        let names = outputs(line.split_whitespace().map(str::as_bytes));
        let names = names.iter().map(|name| String::from_utf8_lossy(name));
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_of_outputs() {
        for (line, expected) in [
            ("-O2 -c a.c -o x/a.o", "x/a.o"),
            ("-c ../src/a.b.c", "a.b.o"),
            ("-S a.c", "a.s"),
            ("-MMD -o x.d/a.o -c a.c", "x.d/a.o x.d/a.d"),
            ("-MD -c a.c", "a.o a.d"),
            ("-MD -MF deps/a -MT b.o -c -o a.o a.c", "a.o deps/a"),
            ("-MMD -o x.d/a -c a.c", "x.d/a x.d/a.d"),
            ("-c -I b.c -x c++ a.c", "a.o"),
            ("-c", ""),
            ("-c a.c -o", "a.o"),
        ] {
            assert_eq!(outputs_of(line), expected, "{line}");
        }
    }

    #[test]
    fn paths_that_go_up_are_left_alone() {
        let path = |name: &[u8]| plain_path(b"/w", name);
        assert_eq!(path(b"./x//a.o"), Some(b"/w/x/a.o".to_vec()));
        assert_eq!(path(b"/x/a.o"), Some(b"/x/a.o".to_vec()));
        assert_eq!(path(b"../a.o"), None);
    }
}
