//! The command-line parser against a table: each line of `commands.txt` is a command with the expected result.
//!
//! ```text
//! program | arguments | reads | writes | decision
//! ```
//! Directories end with a slash; arguments are split at white space outside of `'…'`. Lines `@name = text` define
//! response files. `BLESS=1` rewrites the columns after the arguments: review the difference.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use worknode::command::{Files, ResponseFiles, Role, Tool, Unread};
use worknode::known;
use worknode::policy::{BUILT_IN, Rule, Verdict};
use worknode::reason::Reason;

/// Response files by name.
#[derive(Clone, Default)]
struct Texts(HashMap<Vec<u8>, Vec<u8>>);

impl ResponseFiles for Texts {
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread> {
        if path == b"refused" {
            return Err(Unread::Refused);
        }
        let text = self.0.get(path).ok_or(Unread::Absent)?;
        room.get_mut(..text.len()).ok_or(Unread::Refused)?.copy_from_slice(text);
        Ok(text.len())
    }
}

#[test]
fn command_lines_parse_as_in_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands.txt");
    let table = std::fs::read_to_string(&path).expect("the table is there");
    let mut texts = Texts::default();
    let (mut written, mut wrong) = (String::new(), Vec::new());
    for line in table.lines() {
        let found = if let Some((name, text)) =
            line.strip_prefix('@').and_then(|line| line.split_once(" = "))
        {
            let text = text.replace("\\n", "\n").into_bytes();
            texts.0.insert(name.as_bytes().to_vec(), text);
            line.to_owned()
        } else if line.is_empty() || line.starts_with('#') {
            line.to_owned()
        } else {
            row(line, &mut texts)
        };
        if found != line {
            wrong.push(format!("  table: {line}\n  found: {found}"));
        }
        writeln!(written, "{found}").expect("a string takes all");
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, written).expect("the table is writable");
        return;
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns a line of the table with the columns that the parser yields.
fn row(line: &str, texts: &mut Texts) -> String {
    let mut columns = line.split('|').map(str::trim);
    let program = columns.next().expect("a program");
    let line = columns.next().expect("arguments");
    let words = words(line);
    let (reads, writes, decision) = match verdict(program) {
        None => {
            let reason = known::stays(program.as_bytes()).unwrap_or(Reason::Unlisted);
            (String::new(), String::new(), reason.name())
        }
        Some(Verdict::Walk) => (String::new(), String::new(), "walk"),
        Some(Verdict::Stay(reason)) => (String::new(), String::new(), reason.name()),
        Some(verdict) => {
            let tool = Tool::of(verdict, program.as_bytes()).expect("the table names known tools");
            let arguments = words.iter().map(|word| word.as_bytes());
            let files = Files::of(tool, arguments, texts, false);
            (
                names(&files, Role::is_read),
                names(&files, Role::is_written),
                files.decision.err().map_or("walk", Reason::name),
            )
        }
    };
    format!("{program} | {line} | {reads} | {writes} | {decision}").replace("  ", " ")
}

fn verdict(program: &str) -> Option<Verdict> {
    BUILT_IN
        .iter()
        .map(|&(pattern, verdict)| Rule { pattern: pattern.as_bytes(), verdict })
        .find(|rule| rule.names(program.as_bytes()))
        .map(|rule| rule.verdict)
}

fn names(files: &Files, is_wanted: fn(Role) -> bool) -> String {
    let is_dir = |role| {
        matches!(
            role,
            Role::QuotedDir
                | Role::IncludedDir
                | Role::InputDir
                | Role::OutputDir
                | Role::SideDir
                | Role::WorkingDir
        )
    };
    let named = files.paths.iter().filter(|(role, _)| is_wanted(*role)).map(|(role, path)| {
        let path = String::from_utf8_lossy(path);
        let slash = if is_dir(*role) && !path.ends_with('/') { "/" } else { "" };
        if path.contains(' ') { format!("'{path}'{slash}") } else { format!("{path}{slash}") }
    });
    named.collect::<Vec<_>>().join(" ")
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
