//! `policy.toml`: the user's rules.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use nix::errno::Errno;
use serde::Deserialize;
use worknode::glob::{self, PatternError};
use worknode::request::{Action, HIDE_BYTES_MAX, HIDE_MAX, UserRule};

use crate::home;

/// The contents of the file. `stay` takes precedence over `compilers`, and these over `walk`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    walk: Vec<String>,
    #[serde(default)]
    stay: Vec<String>,
    #[serde(default)]
    compilers: Vec<String>,
    #[serde(default)]
    pass_env: Vec<String>,
    #[serde(default)]
    without_env: Vec<String>,
    #[serde(default)]
    alone: Alone,
    #[serde(default)]
    network: Network,
    #[serde(default)]
    hide: Vec<String>,
}

/// Where a compile step executes that is alone in its session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alone {
    /// At the origin, if that is idle and no slower than the nodes.
    #[default]
    Stay,
    /// On a node.
    Walk,
}

/// The network of programs that walk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// That of their node.
    #[default]
    Node,
    /// A loopback device that only walks of this machine share.
    None,
}

/// The policy of a session.
#[derive(Debug, Default, Clone)]
pub struct Policy {
    /// Which programs walk or stay.
    pub rules: Vec<UserRule>,
    /// Variables that are sent although they look like secrets.
    pub pass_env: Vec<String>,
    /// Variables that are withheld, and without which programs walk.
    pub without_env: Vec<String>,
    /// Where a lone compile step executes.
    pub alone: Alone,
    /// The network of programs that walk.
    pub network: Network,
    /// Patterns of paths that no runner is shown.
    pub hide: Vec<String>,
}

/// Why a policy file is not used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    #[error("failed to read policy file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to read policy file {path}: line {line}{}: {what}", key_part(.key))]
    Parse { path: PathBuf, line: usize, key: Option<String>, what: String },
    #[error("failed to read policy file {path}: key '{key}', pattern '{pattern}': {source}")]
    Pattern { path: PathBuf, key: &'static str, pattern: String, source: PatternError },
    #[error("failed to read policy file {path}: key 'hide', pattern '{pattern}': {what}")]
    Hide { path: PathBuf, pattern: String, what: &'static str },
    #[error(
        "failed to read policy file {path}: key 'hide': more than {HIDE_MAX} patterns: use fewer, with * in them"
    )]
    HidesTooMuch { path: PathBuf },
    #[error("failed to read policy file {path}: it is not a regular file of at most 1 MiB")]
    Kind { path: PathBuf },
}

/// Largest policy file; far larger than any list of rules.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn key_part(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!(", key '{key}'")).unwrap_or_default()
}

/// Returns the path of the policy file, and what has named it. One that a user has named must exist.
pub(crate) fn find(named: Option<&Path>) -> Option<(PathBuf, &'static str)> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let below = |name, dir: &str| Some((Path::new(&variable(name)?).join(dir), name));
    let of_option = named.map(|path| (path.to_owned(), "--policy"));
    of_option
        .or_else(|| Some((variable(VARIABLE)?.into(), VARIABLE)))
        .or_else(|| below("XDG_CONFIG_HOME", "oswalk/policy.toml"))
        .or_else(|| Some((home::dir()?.join(".config/oswalk/policy.toml"), "HOME")))
}

/// The variable that names a policy file.
const VARIABLE: &str = "OSWALK_POLICY";

/// Reads the named policy file, or else the default one if it exists.
pub fn load(named: Option<&Path>) -> Result<Policy, PolicyFileError> {
    let Some((path, named_by)) = find(named) else { return Ok(Policy::default()) };
    let must_exist = matches!(named_by, "--policy" | VARIABLE);
    match fs::metadata(&path) {
        Err(error) if !must_exist && is_unreachable(&error) => return Ok(Policy::default()),
        // The way to ask for no policy file.
        Ok(_) if path == Path::new("/dev/null") => return Ok(Policy::default()),
        Ok(meta) if !meta.is_file() || meta.len() > FILE_BYTES_MAX => {
            return Err(PolicyFileError::Kind { path });
        }
        _ => {}
    }
    match fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text, home::dir().as_deref()),
        Err(source) => Err(PolicyFileError::Read { path, source }),
    }
}

/// Tells whether the user can have no file at a path: it is missing, or no directory that the user may enter leads there.
fn is_unreachable(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG)
    )
}

pub(crate) fn parse(
    path: &Path,
    text: &str,
    home: Option<&Path>,
) -> Result<Policy, PolicyFileError> {
    let file: PolicyFile = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let what = error.message().to_owned();
        PolicyFileError::Parse { path: path.to_owned(), line, key: key_at(text, line), what }
    })?;
    for (key, patterns) in [
        ("walk", &file.walk),
        ("stay", &file.stay),
        ("compilers", &file.compilers),
        ("pass_env", &file.pass_env),
        ("without_env", &file.without_env),
        ("hide", &file.hide),
    ] {
        for pattern in patterns {
            glob::check(pattern.as_bytes()).map_err(|source| PolicyFileError::Pattern {
                path: path.to_owned(),
                key,
                pattern: pattern.clone(),
                source,
            })?;
        }
    }
    if file.hide.len() > HIDE_MAX {
        return Err(PolicyFileError::HidesTooMuch { path: path.to_owned() });
    }
    let hide = file.hide.into_iter().map(|pattern| {
        hidden(&pattern, home).map_err(|what| PolicyFileError::Hide {
            path: path.to_owned(),
            pattern: pattern.clone(),
            what,
        })
    });
    let hide = hide.collect::<Result<_, _>>()?;
    let rules = |patterns: Vec<String>, action| {
        patterns.into_iter().map(move |pattern| UserRule { pattern, action })
    };
    let rules = rules(file.stay, Action::Stay)
        .chain(rules(file.compilers, Action::Compiler))
        .chain(rules(file.walk, Action::Walk));
    Ok(Policy {
        rules: rules.collect(),
        pass_env: file.pass_env,
        without_env: file.without_env,
        alone: file.alone,
        network: file.network,
        hide,
    })
}

/// Why a pattern of `--hide` is not used.
#[derive(Debug, thiserror::Error)]
#[error("--hide '{pattern}': {what}")]
pub struct HideError {
    pattern: String,
    what: String,
}

/// Returns the patterns of `--hide`, which are written as in the file.
pub(crate) fn of_options(patterns: &[String]) -> Result<Vec<String>, HideError> {
    let home = home::dir();
    let of = |pattern: &String| {
        let checked = glob::check(pattern.as_bytes()).map_err(|error| error.to_string());
        let hidden = checked.and_then(|()| Ok(hidden(pattern, home.as_deref())?));
        hidden.map_err(|what| HideError { pattern: pattern.clone(), what })
    };
    patterns.iter().map(of).collect()
}

/// Returns a `hide` pattern with `~` expanded, or why it could match no path.
fn hidden(pattern: &str, home: Option<&Path>) -> Result<String, &'static str> {
    let below_home =
        pattern.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let pattern = match below_home {
        Some(rest) => {
            let home = home.filter(|home| home.is_absolute()).and_then(Path::to_str);
            let home = home.ok_or("'~' stands for HOME, which is not set to an absolute path")?;
            if home.as_bytes().iter().any(|byte| b"*?[".contains(byte)) {
                return Err("HOME contains one of * ? [: write the path instead of '~'");
            }
            format!("{}{rest}", home.trim_end_matches('/'))
        }
        None => pattern.to_owned(),
    };
    match () {
        () if !pattern.starts_with(['/', '*']) => {
            Err("it matches no path: begin it with /, * or ~/")
        }
        () if pattern.len() > HIDE_BYTES_MAX => Err("it is longer than 1024 bytes"),
        () if has_odd_component(&pattern) => {
            Err("it matches no path: remove the '//', '.' or '..', which no real path contains")
        }
        () => Ok(pattern),
    }
}

/// Tells whether a pattern has an empty, `.` or `..` component, which no real path has.
fn has_odd_component(pattern: &str) -> bool {
    let inner = pattern.strip_suffix('/').unwrap_or(pattern);
    inner.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) && inner.len() > 1
}

/// Returns the key whose value includes the line.
fn key_at(text: &str, line: usize) -> Option<String> {
    let lines: Vec<_> = text.lines().take(line).collect();
    let (key, _) = lines.iter().rev().find_map(|line| line.split_once('='))?;
    Some(key.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let home = Path::new("/home/me");
        parse(Path::new("/p.toml"), text, Some(home)).expect_err("a bad file").to_string()
    }

    #[test]
    fn rules_come_in_order_of_precedence() {
        let policy =
            parse(Path::new("p"), "walk = ['a', 'b']\nstay = ['c']\ncompilers = ['my-cc']\n", None)
                .expect("a sound file");
        let shown: Vec<_> =
            policy.rules.iter().map(|rule| (rule.pattern.as_str(), rule.action)).collect();
        assert_eq!(
            shown,
            [
                ("c", Action::Stay),
                ("my-cc", Action::Compiler),
                ("a", Action::Walk),
                ("b", Action::Walk)
            ]
        );
        let parse = |text| parse(Path::new("p"), text, None).expect("a sound file");
        assert!(parse("").rules.is_empty());
        assert_eq!(parse("hide = ['/srv/keys', '*.secret']").hide, ["/srv/keys", "*.secret"]);
        assert_eq!([parse("").alone, parse("alone = 'walk'").alone], [Alone::Stay, Alone::Walk]);
    }

    #[test]
    fn what_is_hidden_is_an_absolute_path() {
        let home = Some(Path::new("/home/me/"));
        for (pattern, expected) in [
            ("/srv/keys/", "/srv/keys/"),
            ("*.secret", "*.secret"),
            ("/", "/"),
            ("~/secret", "/home/me/secret"),
            ("~", "/home/me"),
            ("/srv/~/x", "/srv/~/x"),
            ("/srv/.hidden/..x", "/srv/.hidden/..x"),
        ] {
            assert_eq!(hidden(pattern, home).as_deref(), Ok(expected), "{pattern}");
        }
        for pattern in ["secret", "./secret", "~other/x", "/srv/../x", "/srv//x", "$HOME/x", "/./x"]
        {
            assert!(hidden(pattern, home).is_err(), "{pattern}");
        }
        assert!(hidden("~/x", None).is_err() && hidden("~/x", Some(Path::new("a"))).is_err());
        assert!(hidden(&format!("/{}", "x".repeat(HIDE_BYTES_MAX)), home).is_err());
        assert_eq!(
            error("walk = []\nhide = ['/srv', 'secret']\n"),
            "failed to read policy file /p.toml: key 'hide', pattern 'secret': it matches no path: \
             begin it with /, * or ~/"
        );
        for (text, what) in [
            ("hide = ['']", "it is empty"),
            ("hide = ['/srv/[a']", "no matching ']'"),
            ("hide = [\"/srv/a\\u0000b\"]", "NUL"),
        ] {
            assert!(error(text).contains(what), "{}", error(text));
        }
        let many: Vec<_> = (0..=HIDE_MAX).map(|number| format!("'/{number}'")).collect();
        assert!(error(&format!("hide = [{}]", many.join(","))).contains("more than 256"));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        assert_eq!(
            error("walk = []\nwakl = ['x']\n"),
            "failed to read policy file /p.toml: line 2, key 'wakl': unknown field `wakl`, \
             expected one of `walk`, `stay`, `compilers`, `pass_env`, `without_env`, `alone`, `network`, `hide`"
        );
        assert_eq!(
            error("walk = []\n\nstay = 7\n"),
            "failed to read policy file /p.toml: line 3, key 'stay': invalid type: integer `7`, \
             expected a sequence"
        );
        assert!(error("walk = [\n  'a',\n  5,\n]\n").contains("line 3, key 'walk'"));
        assert!(error("walk = [").starts_with("failed to read policy file /p.toml: line 1"));
        assert_eq!(
            error("stay = ['ok', '[a-']\n"),
            "failed to read policy file /p.toml: key 'stay', pattern '[a-': '[' has no matching ']'"
        );
    }
}
