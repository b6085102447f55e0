//! Random command lines of compilers, natively and walked: outputs, files and status must be the same.
//!
//! `OSWALK_SEED` repeats a run, `OSWALK_COMMANDS` sets the number of command lines, and
//! `OSWALK_COMMAND` runs only one of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use oswalk_tests::tree::{Before, Tree};

use crate::Test;
use crate::case::Outcome;
use crate::coherence::{Random, number, seed};
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[("commands::at_random", at_random)];

const COMMANDS: u64 = 60;
/// Command lines that run at once.
const THREADS: usize = 3;
const LIMIT: std::time::Duration = seconds(30);

/// Writes the sources, and files in the place of outputs; `$1` is a second directory, or empty.
const SETUP: &str = r#"
mkdir -p src inc 'a dir' ünï out/sub links
cd src
echo '#define A 1' >a.h
printf '#include "a.h"\n#include <stdio.h>\n#ifdef X\n#define B 2\n#endif\nint a(int x) { return x + A; }\nint f(void) { return puts(__FILE__); }\n' >a.c
printf 'int b(int x) { int unused; if (x = 1) return 2; return x / 0; }\nchar *when = __BASE_FILE__;\n' >b.c
printf '#include "pre.h"\nint main(void) { return PRE; }\n' >main.c
printf '#include "a.h"\nint broken( { return A }\n' >bad.c
printf '#include "nowhere.h"\n#include <also/nowhere.h>\nint m;\n' >miss.c
printf '#include "a.h"\ntemplate <class T> T twice(T x) { return x + x; }\nint c() { return twice(A); }\nstruct S { virtual ~S() {} } s;\n' >a.cc
printf '#include <string>\nstd::string d(int x) { return std::string(x, *__FILE__); }\n' >b.cpp
printf '#include "a.h"\nint e() { return no_such; }\n' >bad.cxx
printf '.globl g\ng: ret\n.data\n.long 7\n' >g.s
printf '#include "a.h"\n.globl h\nh: mov $A, %%eax\n ret\n' >h.S
printf ' bogus %%eax\n' >bad.s
printf '# 1 "i.c"\n# 1 "a.h" 1\nextern int z;\n# 2 "i.c" 2\nint i(void) { return 1; }\n' >i.i
printf '# 1 "j.cc"\nint j() { return 2; }\n' >j.ii
cp a.c plain
cp a.h 'sp ace.h'
cp b.c 'sp ace.c'
cp b.c é.c
cp a.h p.h
cd ..
echo '#define PRE 3' >inc/pre.h
for dir in . 'a dir' ünï $1; do cp src/* "$dir"; done
for file in src/*; do ln -s "../$file" links; done
ln -s src ld
ln -s out lo
for dir in . out 'a dir' $1; do (
    cd "$dir"
    echo old >ro.o; chmod 444 ro.o
    echo old >hl.o; ln hl.o hl2.o
    ln -s target.o lx.o; ln -s hl.o to-old.o; ln -s nowhere/x.o dangling.o
    mkdir dir.o; echo old >deps.d; echo old >old.o
) done
"#;

/// The choices that a command line is made of.
const TOOLS: [&str; 7] = ["gcc", "gcc", "g++", "clang", "clang++", "cc1", "as"];
const C: [&str; 8] = ["a.c", "a.c", "b.c", "main.c", "bad.c", "miss.c", "sp ace.c", "\u{e9}.c"];
const CXX: [&str; 4] = ["a.cc", "b.cpp", "a.cc", "bad.cxx"];
const OTHERS: [&str; 6] = ["g.s", "h.S", "bad.s", "i.i", "j.ii", "none.c"];
const ASSEMBLER: [&str; 3] = ["g.s", "g.s", "bad.s"];
const OUTPUTS: [&str; 14] = [
    "x.o",
    "x.o",
    "x",
    "two words.o",
    "\u{e9}.o",
    "ro.o",
    "hl.o",
    "lx.o",
    "to-old.o",
    "dangling.o",
    "dir.o",
    "old.o",
    "x.y.o",
    "missing/x.o",
];
const FLAGS: [&str; 30] = [
    "-g",
    "-g",
    "-g3",
    "-gsplit-dwarf",
    "-g -gsplit-dwarf",
    "-save-temps",
    "-save-temps=obj",
    "-save-temps=cwd",
    "--coverage -frandom-seed=1",
    "-ftest-coverage -frandom-seed=1",
    "-O2",
    "-Wall",
    "-Wall -Werror",
    "-pipe",
    "-fstack-usage",
    "-H",
    "-fPIC",
    "-flto -frandom-seed=1",
    "-DX",
    "-include inc/pre.h",
    "-include none.h",
    "-imacros inc/pre.h",
    "-I inc",
    "-Iinc",
    "-iquote inc",
    "-isystem inc",
    "-idirafter ./inc",
    "-I none -I.",
    "-fdebug-prefix-map=src=else",
    "-ffunction-sections",
];
const GCC_FLAGS: [&str; 10] = [
    "-fcallgraph-info",
    "-fdump-tree-optimized",
    "-dumpdir out/",
    "-dumpbase base.c",
    "-dumpdir pre- -g -gsplit-dwarf",
    "-fdump-rtl-final=out/dump",
    "-fsave-optimization-record",
    "-Wa,-al=out/listing",
    "-fopt-info-all=out/info",
    "-dA -fverbose-asm",
];
const CLANG_FLAGS: [&str; 9] = [
    "-ftime-trace",
    "-emit-llvm",
    "-MJ out/part.json",
    "--serialize-diagnostics out/x.dia",
    "-serialize-diagnostics x.dia",
    "-fno-integrated-as",
    "-working-directory src",
    "-fsave-optimization-record",
    "-no-canonical-prefixes",
];

/// A directory in a place that each machine has of its own, removed when dropped.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A command line, and where it is executed.
struct Line {
    dir: PathBuf,
    elsewhere: Option<Elsewhere>,
    /// The script, the same natively and walked.
    script: String,
    /// Whether nothing in the command line is known to keep it at the origin.
    may_walk: bool,
}

/// Composes a command line.
struct Draw<'a> {
    random: Random,
    dir: &'a Path,
    elsewhere: Option<&'a Path>,
    may_walk: bool,
}

impl Draw<'_> {
    /// Returns true once in `times`, on average.
    fn once_in(&mut self, times: usize) -> bool {
        self.random.below(times) == 0
    }

    fn one<'s>(&mut self, of: &[&'s str]) -> &'s str {
        of[self.random.below(of.len())]
    }

    /// Returns a path for `name` in one of several spellings, in one of `dirs`.
    fn place(&mut self, dirs: &[&str], name: &str) -> String {
        let dir = self.one(dirs);
        let own = self.dir.file_name().expect("is named").to_string_lossy();
        let here = self.dir.display();
        match (self.random.below(12), self.elsewhere) {
            (0, _) => format!("{here}/{dir}{name}"),
            (1, _) => format!("../{own}/{dir}{name}"),
            (2, _) => format!("./{dir}{name}"),
            (3, _) => format!("out/sub/../../{dir}{name}"),
            (4..8, Some(elsewhere)) => {
                self.may_walk = false;
                format!("{}/{name}", elsewhere.display())
            }
            _ => format!("{dir}{name}"),
        }
    }

    fn source(&mut self, tool: &str) -> String {
        let kind = self.random.below(10);
        let name = match tool {
            "as" => self.one(&ASSEMBLER),
            "cc1" => self.one(&C),
            _ if kind < 2 => self.one(&OTHERS),
            _ if tool.ends_with("++") || kind == 2 => self.one(&CXX),
            _ => self.one(&C),
        };
        self.place(&["", "src/", "src/", "src/", "a dir/", "\u{fc}n\u{ef}/", "ld/", "links/"], name)
    }

    fn output(&mut self, name: &str) -> String {
        let dirs = [
            "",
            "",
            "out/",
            "out/sub/",
            "a dir/",
            "\u{fc}n\u{ef}/",
            "ld/",
            "lo/",
            "lo/sub/../",
            "none/",
        ];
        self.place(&dirs, name)
    }

    /// Adds `-o` and its value, as one word or as two.
    fn named_output(&mut self, words: &mut Vec<String>) {
        let name = self.one(&OUTPUTS);
        let output = match self.random.below(30) {
            0 => "-".into(),
            1 => "/dev/null".into(),
            // Not /dev/stdout: `as` removes a link before it writes, which root is allowed to do there.
            2 => "/proc/self/fd/1".into(),
            _ => self.output(name),
        };
        self.may_walk &= output != "/proc/self/fd/1";
        if self.once_in(3) {
            words.push(format!("-o{output}"));
        } else {
            words.extend(["-o".into(), output]);
        }
    }

    /// Adds options that write rules for make; returns variables that do the same.
    fn rules(&mut self, tool: &str, words: &mut Vec<String>) -> String {
        let name = self.one(&["deps.d", "new.d", "two words.d", "hl.o"]);
        let file = self.output(name);
        let add: &[&str] = match (tool, self.random.below(18)) {
            ("as", 0..6) => &["--MD", &file],
            ("as", _) => &[],
            ("cc1", 0..6) => &["-MMD", &file],
            ("cc1", _) => &[],
            (_, 0) => &["-MD"],
            (_, 1) => &["-MMD", "-MP"],
            (_, 2) => &["-MD", "-MF", &file],
            (_, 3) => &["-MMD", &format!("-MF{file}"), "-MT", "a target"],
            (_, 4) => &["-MD", "-MP", "-MQ", "$(x)", "-MF", &file],
            (_, 5) => &[&format!("-Wp,-MMD,{file}")],
            (_, 6) => &[&format!("-Wp,-MD,{file}"), "-Wp,-MT,x"],
            (_, 7) => &["-MD", "-MG"],
            (_, 8) => &["-MF", &file],
            _ => &[],
        };
        words.extend(add.iter().map(|&word| word.to_owned()));
        match self.random.below(24) {
            0 => format!("DEPENDENCIES_OUTPUT={} ", quoted(&file)),
            1 => "DEPENDENCIES_OUTPUT='out/log a-target' ".into(),
            2 => format!("SUNPRO_DEPENDENCIES={} ", quoted(&file)),
            _ => String::new(),
        }
    }

    /// Adds random options, each of one or more words.
    fn flags(&mut self, tool: &str, words: &mut Vec<String>) {
        let own: &[&str] = if tool.starts_with("clang") { &CLANG_FLAGS } else { &GCC_FLAGS };
        for _ in 0..self.random.below(4) {
            let flags = match tool {
                "as" => self.one(&["-g", "-Iinc", "--noexecstack", "-al=out/listing"]),
                "cc1" => self.one(&["-g", "-O2", "-Wall", "-Iinc", "-include inc/pre.h"]),
                _ if self.once_in(4) => self.one(own),
                _ => self.one(&FLAGS),
            };
            words.extend(flags.split(' ').map(str::to_owned));
        }
    }

    /// Adds the action and the sources; returns what follows the command.
    fn work(&mut self, tool: &str, words: &mut Vec<String>) -> String {
        if tool == "as" || tool == "cc1" {
            // Without this option, the tool prints how long it took.
            if tool == "cc1" {
                words.push("-quiet".into());
            }
            words.push(self.source(tool));
            if !self.once_in(4) {
                self.named_output(words);
            }
            return String::new();
        }
        match self.random.below(24) {
            0..11 => words.push("-c".into()),
            11..13 => words.push("-S".into()),
            13..15 => words.push("-fsyntax-only".into()),
            15..18 => {
                words.push("-c".into());
                let more = 1 + self.random.below(2);
                words.extend((0..more).map(|_| self.source(tool)));
                // Several sources with one output are an error.
                if self.once_in(10) {
                    self.named_output(words);
                }
                words.push(self.source(tool));
                return String::new();
            }
            18 => {
                self.may_walk = false;
                words.push("-E".into());
            }
            19..21 => {
                self.may_walk = false;
                words.push(self.source(tool));
                if self.once_in(3) {
                    words.extend(["-shared".into(), "-fPIC".into()]);
                }
            }
            21 => {
                if self.once_in(2) {
                    words.extend(["-x".into(), "c-header".into()]);
                }
                words.push(self.place(&["", "src/", "links/"], "p.h"));
                if self.once_in(2) {
                    self.named_output(words);
                }
                return String::new();
            }
            22 => {
                self.may_walk = false;
                let stdin = self.one(&["-", "/dev/stdin"]);
                words.extend(["-c", "-x", "c", stdin].map(str::to_owned));
                self.named_output(words);
                return " <src/a.c".into();
            }
            _ => {
                let language = self.one(&["c", "c++", "assembler-with-cpp", "cpp-output"]);
                let joined = self.once_in(2);
                words.push("-c".into());
                if joined {
                    words.push(format!("-x{language}"));
                } else {
                    words.extend(["-x".into(), language.into()]);
                }
                words.push(self.place(&["", "src/", "links/"], "plain"));
                self.named_output(words);
                return String::new();
            }
        }
        words.push(self.source(tool));
        if !self.once_in(4) {
            self.named_output(words);
        }
        String::new()
    }

    /// Moves some words into response files, which may be nested; returns the commands that write these.
    fn respond(&mut self, words: &mut Vec<String>) -> String {
        let mut commands = String::new();
        for file in ["one.rsp", "two.rsp"] {
            let from = self.random.below(words.len() + 1);
            let moved: Vec<_> = words
                .drain(from..)
                .map(|word| match self.random.below(3) {
                    0 => quoted(&word),
                    1 => format!("\"{word}\""),
                    _ => word.replace(' ', "\\ "),
                })
                .collect();
            let text = moved.join(self.one(&["\n", " ", "\t\r\n"]));
            commands += &format!("printf %s {} >{file}\n", quoted(&text));
            words.push(format!("@{file}"));
            if !self.once_in(2) {
                break;
            }
        }
        commands
    }

    fn script(&mut self, tool: &str, program: &str) -> String {
        let mut words = Vec::new();
        let variables = self.rules(tool, &mut words);
        self.flags(tool, &mut words);
        let behind = self.work(tool, &mut words);
        // If it writes no output, clang 14 prints uninitialized memory as the output's name.
        let is_check = words.iter().any(|word| word == "-fsyntax-only");
        words.retain(|word| !(is_check && ["-MJ", "out/part.json"].contains(&word.as_str())));
        // Diagnostics for sources preprocessed at the origin lack the source line (docs/semantics.md).
        words.retain(|word| self.elsewhere.is_none() || !word.starts_with("-save-temps"));
        // Order matters for few options; an option parted from its value makes the command line invalid.
        if self.once_in(6) {
            let first = self.random.below(words.len());
            words.rotate_left(first);
        }
        let before = if self.once_in(6) { self.respond(&mut words) } else { String::new() };
        let here = self.dir.display().to_string();
        let place = match self.random.below(12) {
            0 => "TMPDIR=/tmp ".into(),
            1 => "TMPDIR=/dev/shm ".into(),
            2 => format!("TMPDIR={} ", quoted(&here)),
            3 => "TMPDIR=out ".into(),
            4 => "TMPDIR=none ".into(),
            _ => String::new(),
        };
        let mask = if self.once_in(4) {
            self.one(&["umask 077\n", "umask 002\n", "umask 0\n"])
        } else {
            ""
        };
        let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
        format!("{before}{mask}{variables}{place}{} {}{behind}", quoted(program), words.join(" "))
    }
}

/// Quotes a word for the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=+,@:%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Line {
    fn draw(up: &Up, tools: &[(&str, String)], seed: u64, at: u64) -> Result<Self, String> {
        // Makes neighbouring command lines independent.
        let mut state = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut random = Random((state ^ (state >> 31)) | 1);
        let dir = up.fresh(&format!("commands-{at}"))?;
        let elsewhere = match random.below(16) {
            0 => Some("/dev/shm"),
            1 => Some("/run"),
            _ => None,
        };
        let name = format!("oswalk-commands-{}-{at}", std::process::id());
        let elsewhere = elsewhere.map(|place| Elsewhere(Path::new(place).join(name)));
        let (tool, program) = &tools[random.below(tools.len())];
        let place = elsewhere.as_ref().map(|place| place.0.as_path());
        let mut draw = Draw { random, dir: &dir, elsewhere: place, may_walk: true };
        let script = draw.script(tool, program);
        let may_walk = draw.may_walk;
        Ok(Self { dir, elsewhere, script, may_walk })
    }

    /// Runs the command line in a fresh directory, walked if a report is given.
    fn run(&self, up: &Up, report: Option<&Path>) -> Result<[Outcome; 2], String> {
        let dir = up.fresh(&self.dir.file_name().expect("is named").to_string_lossy())?;
        let mut setup = up.command("sh");
        setup.args(["-ec", SETUP, "sh"]).current_dir(&dir);
        if let Some(Elsewhere(place)) = &self.elsewhere {
            let _ = fs::remove_dir_all(place);
            fs::create_dir(place).map_err(|error| format!("{}: {error}", place.display()))?;
            setup.arg(place);
        }
        let setup = Run::of(setup, LIMIT)?;
        if !setup.succeeded() {
            return Err(format!("the setup failed: {setup}"));
        }
        let place = self.elsewhere.as_ref().map(|place| place.0.as_path());
        let before = Before::of(&dir)?;
        let before_elsewhere = place.map_or(Ok(Before::default()), Before::of)?;
        let mut command = match report {
            None => up.command("sh"),
            Some(report) => {
                let mut command = up.exec(report);
                command.args(["--", "sh"]);
                command
            }
        };
        command.args(["-c", &self.script]).current_dir(&dir);
        let mut run = Run::of(command, LIMIT)?;
        run.stdout = without_temporaries(&run.stdout);
        run.stderr = without_temporaries(&run.stderr);
        let status = run.status;
        let nothing = Run { status, stdout: Vec::new(), stderr: Vec::new(), took: run.took };
        let elsewhere = place.map_or(Ok(Tree::default()), |it| Tree::of(it, &before_elsewhere))?;
        let tree = Tree::of(&dir, &before)?;
        Ok([Outcome { run, tree }, Outcome { run: nothing, tree: elsewhere }])
    }

    /// Runs the command line natively and walked; returns whether it walked, and what prevented it.
    fn check(&self, up: &Up) -> Result<(bool, Vec<String>), String> {
        let report = self.dir.with_extension("json");
        let native = self.run(up, None)?;
        let walked = self.run(up, Some(&report))?;
        let report = Report::read(&report)?;
        let mut wrong = differences(&native, &walked);
        if !wrong.is_empty() {
            // Outputs that never repeat need only exist, and random names are ignored.
            let again = differences(&native, &self.run(up, None)?);
            let what = |text: &str| text.lines().next().unwrap_or_default().to_owned();
            let is_missing = |text: &String| text.contains("(none)");
            wrong.retain(|text| {
                !again.iter().any(|other| {
                    is_missing(text) == is_missing(other)
                        && (is_missing(text) || what(text) == what(other))
                })
            });
        }
        if wrong.is_empty() {
            let _ = fs::remove_dir_all(&self.dir);
            let stays = report.fallbacks().into_iter().filter(|stay| !Report::is_right(stay));
            return Ok((!report.walks.is_empty(), stays.collect()));
        }
        // The files left behind are those of the walked run.
        self.run(up, Some(&self.dir.with_extension("json")))?;
        let (walks, stays) = (&report.walks, &report.stays);
        Err(format!(
            "{}\nwalks {walks:?}, stays {stays:?}\ncd {}\n{}\n",
            wrong.join("\n"),
            self.dir.display(),
            self.script
        ))
    }
}

fn differences(native: &[Outcome; 2], walked: &[Outcome; 2]) -> Vec<String> {
    native.iter().zip(walked).flat_map(|(native, walked)| native.differences(walked)).collect()
}

/// Replaces the random names of temporary files in an output: gcc's `ccXXXXXX`, clang's `a-XXXXXX.o`.
fn without_temporaries(output: &[u8]) -> Vec<u8> {
    let mut output = output.to_vec();
    for at in 0..output.len() {
        let is_gcc = output[at..].starts_with(b"/cc");
        let from = if is_gcc { at + 3 } else { at + 1 };
        let Some(random) = output.get_mut(from..from + 6) else { break };
        let is_random = random.iter().all(u8::is_ascii_alphanumeric);
        let is_clang = random.iter().all(u8::is_ascii_hexdigit);
        if is_random
            && (is_gcc || is_clang && output[at] == b'-' && output.get(from + 6) == Some(&b'.'))
        {
            output[from..from + 6].fill(b'X');
        }
    }
    output
}

/// Returns the tools that are installed, and the command of each.
fn tools(up: &Up) -> Result<Vec<(&'static str, String)>, String> {
    let mut tools = Vec::new();
    for tool in TOOLS {
        let script = match tool {
            "cc1" => "p=$(gcc -print-prog-name=cc1) && command -v \"$p\"".to_owned(),
            _ => format!("command -v {tool} >&2 && echo {tool}"),
        };
        let mut command = up.command("sh");
        command.args(["-c", &script]);
        let run = Run::of(command, LIMIT)?;
        if run.succeeded() {
            tools.push((tool, run.out().trim().to_owned()));
        } else {
            eprintln!("commands: {tool} is not installed, and is left out");
        }
    }
    if tools.is_empty() { Err("no compiler is installed".into()) } else { Ok(tools) }
}

fn at_random(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let seed = seed();
    let count = number("OSWALK_COMMANDS").unwrap_or(COMMANDS);
    eprintln!("commands: OSWALK_SEED={seed} OSWALK_COMMANDS={count}");
    let lines: Vec<u64> = number("OSWALK_COMMAND").map_or((0..count).collect(), |one| vec![one]);
    let tools = tools(up)?;
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    // Counts of lines that could walk, of those among them that did, and of all that walked.
    let [able, moved, walks] = [const { AtomicUsize::new(0) }; 3];
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some(&at) = lines.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = Line::draw(up, &tools, seed, at).and_then(|line| {
                let (walked, stays) = line.check(up)?;
                // The result is right, but the work was done twice.
                if !stays.is_empty() {
                    eprintln!(
                        "commands: OSWALK_COMMAND={at} {}: {}",
                        stays.join(", "),
                        line.script
                    );
                }
                able.fetch_add(line.may_walk.into(), Ordering::Relaxed);
                moved.fetch_add((line.may_walk && walked).into(), Ordering::Relaxed);
                walks.fetch_add(walked.into(), Ordering::Relaxed);
                Ok(())
            });
            if let Err(error) = checked {
                let text = format!("OSWALK_SEED={seed} OSWALK_COMMAND={at}: {error}");
                wrong.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    let [able, moved, walks] = [able, moved, walks].map(AtomicUsize::into_inner);
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!(
        "commands: {} lines, {walks} walked, of {able} that could {moved}, {} differ, {:.0} s",
        lines.len(),
        wrong.len(),
        began.elapsed().as_secs_f64()
    );
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    if moved * 3 < able {
        return Err(format!("only {moved} of {able} command lines that could walk did so"));
    }
    Ok(())
}
