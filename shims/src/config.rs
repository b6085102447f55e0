//! `oswalk config show`: the values in force, and where each comes from.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use worknode::policy::{BUILT_IN, Verdict};
use worknode::request::{Action, Status};
use worknode::variables;

use crate::door::Door;
use crate::error::Failure;
use crate::places::{self, DEFAULT, Places};
use crate::policy_file::{self, Alone, Policy};
use crate::{say, service};

/// Show the configuration
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Show the values in force, and where each comes from
    Show(Show),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What names the values and rules of the policy file.
const POLICY_FILE: &str = "policy file";

/// All values.
#[derive(Debug, Serialize)]
struct Shown {
    values: Vec<Value>,
    /// What counts most comes first.
    rules: Vec<ShownRule>,
}

#[derive(Debug, Serialize)]
struct Value {
    name: String,
    value: String,
    from: String,
}

#[derive(Debug, Serialize)]
struct ShownRule {
    pattern: String,
    action: String,
    from: &'static str,
}

pub(crate) fn run(command: &Config, places: &Places) -> Result<ExitCode, Failure> {
    let Config::Show(options) = command;
    let policy = policy_file::load(None).map_err(|error| Failure::from_error(&error))?;
    let status = Door::open(&places.door()).and_then(|mut door| door.status());
    let mut values = of_machine(places);
    values.extend(of_agent(&status.map_err(|error| error.to_string())));
    values.extend(of_policy(&policy));
    let shown = Shown { values, rules: rules(&policy) };
    if options.json {
        let text = serde_json::to_string_pretty(&shown);
        say::out(text.map_err(|error| Failure::from_error(&error))? + "\n")?;
    } else {
        say::out(shown.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn value(name: &str, value: impl ToString, from: impl ToString) -> Value {
    Value { name: name.to_owned(), value: value.to_string(), from: from.to_string() }
}

/// Returns paths and programs, and the session of this shell.
fn of_machine(places: &Places) -> Vec<Value> {
    let is_member = if places.is_member() { "yes" } else { "no" };
    let own = std::env::current_exe().unwrap_or_default();
    let mut values = vec![
        value("state", places.state.display(), places.named_by),
        value("door", places.door().display(), "state"),
        value("member of a cluster", is_member, places.cluster().display()),
        value("oswalk", own.display(), "this program"),
    ];
    for (name, found) in places::programs() {
        values.push(match found {
            Some((file, by)) => value(name, file.display(), by),
            None => value(name, "not found", "beside oswalk, ../lib/oswalk or OSWALK_LIBDIR"),
        });
    }
    values.push(match service::unit_file() {
        Some(file) => value("systemd unit", file.display(), "systemd's directories"),
        None => value("systemd unit", "none", "systemd's directories"),
    });
    values.push(session());
    values
}

/// Returns the session that this process is in.
fn session() -> Value {
    let page = std::env::var_os(variables::PAGE).filter(|page| Path::new(page).exists());
    match page {
        None => value("session", "none", "oswalk exec, shell or shell-init open one"),
        Some(page) if std::env::var_os(variables::SHELL_PAGE).is_some_and(|it| it == page) => {
            value("session", page.display(), "oswalk shell-init")
        }
        Some(page) => value("session", page.display(), variables::PAGE),
    }
}

fn of_agent(status: &Result<Status, String>) -> Vec<Value> {
    let status = match status {
        Ok(status) => status,
        Err(why) => return vec![value("agent", "none", why)],
    };
    let settings = &status.settings;
    let from = "agent";
    let cluster = settings.cluster.as_deref().unwrap_or("none");
    vec![
        value("agent", format!("{} (pid {})", status.version, status.pid), "door"),
        value("node", &status.node, from),
        value("cluster", cluster, from),
        value("listen", status.listen.as_deref().unwrap_or("nowhere"), from),
        value("advertise", &settings.advertise, from),
        value("broker", &status.broker, from),
        value("slots", settings.slots, from),
        value("store-bytes", settings.store_bytes, from),
        value("upper-bytes", settings.upper_bytes, from),
        value("keep", settings.keep, from),
    ]
}

fn of_policy(policy: &Policy) -> Vec<Value> {
    let Some((path, named_by)) = policy_file::find(None) else { return Vec::new() };
    let exists = path.exists();
    let shown = path.display();
    let mut values = vec![match exists {
        true => value("policy file", shown, named_by),
        false => value("policy file", format!("{shown} (absent)"), named_by),
    }];
    let from = if exists { POLICY_FILE } else { DEFAULT };
    let alone = if policy.alone == Alone::Walk { "walk" } else { "stay" };
    values.push(value("alone", alone, from));
    for (name, patterns) in [
        ("pass_env", &policy.pass_env),
        ("without_env", &policy.without_env),
        ("hide", &policy.hide),
    ] {
        values.extend(patterns.iter().map(|pattern| value(name, pattern, from)));
    }
    values
}

fn rules(policy: &Policy) -> Vec<ShownRule> {
    let own = policy.rules.iter().map(|rule| ShownRule {
        pattern: rule.pattern.clone(),
        action: match rule.action {
            Action::Walk => "walk".to_owned(),
            Action::Stay => "stay".to_owned(),
            Action::Compiler => "compiler".to_owned(),
        },
        from: POLICY_FILE,
    });
    let built_in = BUILT_IN.iter().map(|&(pattern, verdict)| ShownRule {
        pattern: pattern.to_owned(),
        action: match verdict {
            Verdict::Stay(reason) => format!("stay ({})", reason.name()),
            verdict => verdict.name().to_owned(),
        },
        from: "built in",
    });
    own.chain(built_in).collect()
}

impl Shown {
    /// Returns values and rules as text. Built-in rules with one verdict are on one line.
    fn text(&self) -> String {
        let values = self.values.iter().map(|it| [&it.name, &it.value, &it.from]);
        let mut text = columns(&values.collect::<Vec<_>>());
        text.push_str("\nrules, the most important first:\n");
        let (own, built_in): (Vec<_>, Vec<_>) =
            self.rules.iter().partition(|rule| rule.from == POLICY_FILE);
        for rule in own {
            text.push_str(&format!("  {} {} (policy file)\n", rule.action, rule.pattern));
        }
        for group in built_in.chunk_by(|a, b| a.action == b.action) {
            let patterns: Vec<_> = group.iter().map(|rule| rule.pattern.as_str()).collect();
            text.push_str(&format!("  {} {} (built in)\n", group[0].action, patterns.join(" ")));
        }
        text
    }
}

/// Puts rows of name, value and origin into columns.
fn columns(rows: &[[&String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line =
        |[name, value, from]: &[&String; 3]| format!("{name:first$}  {value:second$}  {from}\n");
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::cluster;
    use worknode::request::UserRule;

    #[test]
    fn values_have_an_origin_and_rules_an_order() {
        let rules_of_user =
            vec![UserRule { pattern: "my-cc".to_owned(), action: Action::Compiler }];
        let policy =
            Policy { rules: rules_of_user, hide: vec!["/srv".to_owned()], ..Policy::default() };
        let mut values = of_agent(&Ok(cluster()));
        values.extend(of_policy(&policy));
        let text = Shown { values, rules: rules(&policy) }.text();
        assert!(text.contains("slots ") && text.contains("agent\n"), "{text}");
        assert!(text.contains("hide "), "{text}");
        let own = text.find("  compiler my-cc (policy file)").expect("the user's rule");
        assert!(own < text.find("(built in)").expect("a built-in rule"), "{text}");
        let none = of_agent(&Err("no agent at /x".to_owned()));
        assert_eq!((none[0].value.as_str(), none[0].from.as_str()), ("none", "no agent at /x"));
    }
}
