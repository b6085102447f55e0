//! What a session may ask for at the door, so that no user keeps the agent from others.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use worknode::glob;
use worknode::request::{HIDE_MAX, SessionOptions};

/// Most rules of a session, and most patterns of variables: each is compared with each program and each variable. So is each of
/// their bytes, in the worst case.
const RULES_MAX: usize = 4096;
const RULE_BYTES_MAX: usize = 64 * 1024;
const VARIABLE_PATTERNS_MAX: usize = 128;
const VARIABLE_PATTERN_BYTES_MAX: usize = 4096;

/// Longest time for finding out whose a user's files are.
const OWNERS_MAX: Duration = Duration::from_secs(2);

/// Counts the patterns that are not exactly a file of the user's own, such as the file of a token.
pub(crate) async fn others_files(patterns: &[String], uid: u32) -> usize {
    let (all, patterns) = (patterns.len(), patterns.to_vec());
    if all == 0 || all > HIDE_MAX {
        return all;
    }
    let is_own = move |path: &String| {
        let is_exact = !path.contains(['*', '?', '[', '\\']);
        is_exact && std::fs::symlink_metadata(path).is_ok_and(|it| it.is_file() && it.uid() == uid)
    };
    // A file system may not answer.
    let own = tokio::task::spawn_blocking(move || patterns.iter().filter(|it| is_own(it)).count());
    let own = tokio::time::timeout(OWNERS_MAX, own).await;
    all - own.ok().and_then(Result::ok).unwrap_or(0)
}

/// Refuses a session that would take too much of the agent's time.
///
/// # Errors
/// It has too many rules or patterns.
pub(crate) fn check_size(options: &SessionOptions) -> anyhow::Result<()> {
    let patterns = options.pass_env.len() + options.without_env.len();
    anyhow::ensure!(
        options.rules.len() <= RULES_MAX && patterns <= VARIABLE_PATTERNS_MAX,
        "more than {RULES_MAX} rules, or more than {VARIABLE_PATTERNS_MAX} patterns of variables: use fewer, with * in them"
    );
    let rule_bytes: usize = options.rules.iter().map(|rule| rule.pattern.len()).sum();
    let patterns = options.pass_env.iter().chain(&options.without_env);
    let pattern_bytes: usize = patterns.map(String::len).sum();
    anyhow::ensure!(
        rule_bytes <= RULE_BYTES_MAX && pattern_bytes <= VARIABLE_PATTERN_BYTES_MAX,
        "the rules have more than {RULE_BYTES_MAX} bytes, or the patterns of variables more than {VARIABLE_PATTERN_BYTES_MAX}: use shorter ones, with * in them"
    );
    // `oswalk` has checked them, but whoever asks may be another program.
    let all = options.rules.iter().map(|rule| &rule.pattern);
    for pattern in all.chain(&options.pass_env).chain(&options.without_env) {
        glob::check(pattern.as_bytes()).map_err(|error| {
            anyhow::anyhow!("the pattern '{}' is malformed: {error}", pattern.escape_debug())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use worknode::request::{Action, UserRule};

    use super::*;

    #[test]
    fn a_session_has_no_more_patterns_than_are_compared_in_a_moment() {
        let rule = |bytes| UserRule { pattern: "a".repeat(bytes), action: Action::Walk };
        let rules = |count: usize, bytes: usize| SessionOptions {
            rules: (0..count).map(|_| rule(bytes)).collect(),
            ..SessionOptions::default()
        };
        assert!(check_size(&rules(1000, 60)).is_ok());
        let malformed = |pattern: String| SessionOptions {
            rules: vec![UserRule { pattern, action: Action::Walk }],
            ..SessionOptions::default()
        };
        assert!(check_size(&malformed(format!("*{}b", "[".repeat(1000)))).is_err());
        assert!(check_size(&rules(4097, 1)).is_err() && check_size(&rules(2, 40_000)).is_err());
        let pass = |bytes: usize| SessionOptions {
            pass_env: vec!["A".repeat(bytes)],
            ..SessionOptions::default()
        };
        assert!(check_size(&pass(4096)).is_ok() && check_size(&pass(4097)).is_err());
    }
}
