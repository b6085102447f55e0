//! `policy.toml`: the user's rules.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use worknode::glob::{self, PatternError};
use worknode::request::{Action, UserRule};

/// The file. Of its rules, those that stay count most, then the compilers.
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
    hide: Vec<String>,
}

/// What becomes of a compile step that is the only thing under way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Alone {
    /// It stays if this machine is idle, and no slower than others.
    #[default]
    Stay,
    Walk,
}

/// What the file says.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    pub(crate) rules: Vec<UserRule>,
    /// Variables that travel though they look like secrets.
    pub(crate) pass_env: Vec<String>,
    /// Variables that are withheld, and without which programs walk.
    pub(crate) without_env: Vec<String>,
    pub(crate) alone: Alone,
    pub(crate) hide: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFileError {
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
    #[error("failed to read policy file {path}: it is no regular file of at most 1 MiB")]
    Kind { path: PathBuf },
}

/// Larger than any list of rules that somebody has written.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

fn key_part(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!(", key '{key}'")).unwrap_or_default()
}

/// Reads the rules of the file that was named, or of the usual one if it is there.
pub(crate) fn load(named: Option<&Path>) -> Result<Policy, PolicyFileError> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let named = named.map(Path::to_owned).or_else(|| variable("OSWALK_POLICY").map(PathBuf::from));
    let usual = || {
        let config = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")))?;
        Some(config.join("oswalk/policy.toml"))
    };
    let must_exist = named.is_some();
    let Some(path) = named.or_else(usual) else { return Ok(Policy::default()) };
    match fs::metadata(&path) {
        // Who wants none names this one.
        Ok(_) if path == Path::new("/dev/null") => return Ok(Policy::default()),
        Ok(meta) if !meta.is_file() || meta.len() > FILE_BYTES_MAX => {
            return Err(PolicyFileError::Kind { path });
        }
        _ => {}
    }
    match fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
            Ok(Policy::default())
        }
        Err(source) => Err(PolicyFileError::Read { path, source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Policy, PolicyFileError> {
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
        hide: file.hide,
    })
}

/// Returns the key whose value reaches into the line.
fn key_at(text: &str, line: usize) -> Option<String> {
    let lines: Vec<_> = text.lines().take(line).collect();
    let (key, _) = lines.iter().rev().find_map(|line| line.split_once('='))?;
    Some(key.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("/p.toml"), text).expect_err("a bad file").to_string()
    }

    #[test]
    fn rules_come_in_order_of_weight() {
        let policy =
            parse(Path::new("p"), "walk = ['a', 'b']\nstay = ['c']\ncompilers = ['my-cc']\n")
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
        let parse = |text| parse(Path::new("p"), text).expect("a sound file");
        assert!(parse("").rules.is_empty());
        assert_eq!(parse("hide = ['/srv/keys', '*.secret']").hide, ["/srv/keys", "*.secret"]);
        assert_eq!([parse("").alone, parse("alone = 'walk'").alone], [Alone::Stay, Alone::Walk]);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        assert_eq!(
            error("walk = []\nwakl = ['x']\n"),
            "failed to read policy file /p.toml: line 2, key 'wakl': unknown field `wakl`, \
             expected one of `walk`, `stay`, `compilers`, `pass_env`, `without_env`, `alone`, `hide`"
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
            "failed to read policy file /p.toml: key 'stay', pattern '[a-': no ']' ends what '[' begins"
        );
    }
}
