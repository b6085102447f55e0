//! A directory of golden files. A file is bytes in hexadecimal; what follows a `#` says what they hold.

use std::collections::BTreeSet;
use std::env;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes in a line.
const ROW_BYTES: usize = 16;
/// Letters in a line that says what bytes hold.
const LINE_LETTERS: usize = 110;

/// The golden files of one wire in its present version.
pub(crate) struct Golden {
    dir: PathBuf,
    seen: BTreeSet<String>,
}

impl Golden {
    pub(crate) fn of(wire: &str, version: u32) -> Self {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
        Self { dir: all.join(wire).join(format!("v{version}")), seen: BTreeSet::new() }
    }

    /// Compares an example and its encoding with the file of this name, in both directions.
    pub(crate) fn check<T: Debug + PartialEq>(
        &mut self,
        name: &str,
        what: &str,
        example: &T,
        bytes: &[u8],
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) {
        let golden = self.read(name, what, example, bytes);
        assert_eq!(hex(bytes), hex(&golden), "{name}: it is encoded in another way than before");
        assert_eq!(decode(&golden).as_ref(), Some(example), "{name}");
    }

    /// Compares an example with the file of this name, for encodings that may differ: those of a compressor.
    pub(crate) fn check_decoded<T: Debug + PartialEq>(
        &mut self,
        name: &str,
        what: &str,
        example: &T,
        bytes: &[u8],
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) {
        let golden = self.read(name, what, example, bytes);
        assert_eq!(decode(&golden).as_ref(), Some(example), "{name}");
    }

    /// Returns the bytes in a file; writes it before if that is asked for.
    fn read(&mut self, name: &str, what: &str, example: &impl Debug, bytes: &[u8]) -> Vec<u8> {
        assert!(self.seen.insert(format!("{name}.hex")), "{name}: two examples have this name");
        let path = self.dir.join(name).with_extension("hex");
        if env::var_os("BLESS").is_some() {
            fs::create_dir_all(&self.dir).expect("the directory can be made");
            fs::write(&path, text(what, example, bytes)).expect("the file can be written");
        }
        let text = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{}: {error}: write it with BLESS=1, and read it", path.display())
        });
        parse(&text)
    }

    /// Checks that each file has an example.
    pub(crate) fn finish(self) {
        let names = fs::read_dir(&self.dir).expect("there are golden files");
        let names = names.map(|entry| entry.expect("a name").file_name().into_string());
        let found: BTreeSet<String> = names.map(|name| name.expect("UTF-8")).collect();
        assert_eq!(found, self.seen, "each file in {} has an example", self.dir.display());
    }
}

/// Returns a file's text: what it is, the example, and its bytes.
fn text(what: &str, example: &impl Debug, bytes: &[u8]) -> String {
    let mut text = format!("# {what}\n#");
    let mut letters = 0;
    for word in format!("{example:?}").split(' ') {
        letters += word.len() + 1;
        if letters > LINE_LETTERS {
            text += "\n#";
            letters = word.len() + 1;
        }
        text = text + " " + word;
    }
    text + "\n" + &hex(bytes)
}

/// Returns the name of an example's variant, for the name of its file.
pub(crate) fn variant(example: &impl Debug) -> String {
    let text = format!("{example:?}");
    let name = text.split(|letter: char| !letter.is_alphanumeric()).next();
    name.unwrap_or_default().to_lowercase()
}

/// Returns the bytes in rows, each with its text.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for row in bytes.chunks(ROW_BYTES) {
        let numbers: String = row.iter().map(|byte| format!("{byte:02x} ")).collect();
        let printable = |&byte: &u8| if byte.is_ascii_graphic() { char::from(byte) } else { '.' };
        let letters: String = row.iter().map(printable).collect();
        let _ = writeln!(text, "{numbers:<48}# {letters}");
    }
    text
}

fn parse(text: &str) -> Vec<u8> {
    let bytes =
        text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    bytes.map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits")).collect()
}
