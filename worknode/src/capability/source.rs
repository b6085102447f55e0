//! Blocks as Datalog. The first block states facts, each later one has checks only. Each fact and check has one spelling,
//! which is compared as text: a block with anything else in it is refused. So no Datalog of a stranger is executed, and
//! all nodes agree on what a token allows. Other biscuit libraries come to the same result if they are given what is
//! wanted as facts: `operation`, `runner`, `path`, `slots`, `memory`, `network`, `program`, `time` and `session`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::str::FromStr;

use super::bounds::{Bounds, LIST_MAX, PREFIX_BYTES_MAX};
use super::holder::Holder;
use super::right::Right;
use crate::id::SessionId;

const ONLY_COMPILE_STEPS: &str = "check if program(\"compile-step\")";
const NO_NETWORK: &str = "check if network(\"none\")";

/// Returns the facts of the first block.
pub(super) fn of_holder(holder: &Holder) -> String {
    let Holder { node, uid, user, minted_s, rights } = holder;
    let mut text = format!("node(\"{node}\");\nuid({uid});\n");
    if let Some(user) = user {
        write_line(&mut text, format_args!("user(\"{user}\")"));
    }
    write_line(&mut text, format_args!("minted({minted_s})"));
    for right in rights.iter() {
        write_line(&mut text, format_args!("right(\"{right}\")"));
    }
    text
}

/// Reads the facts of the first block.
pub(super) fn to_holder(text: &str) -> Option<Holder> {
    let mut lines = text.lines().filter_map(|line| line.strip_suffix(");")).peekable();
    let node = lines.next()?.strip_prefix("node(\"")?.strip_suffix('"')?.parse().ok()?;
    let uid = lines.next()?.strip_prefix("uid(")?.parse().ok()?;
    let user = lines.next_if(|line| line.starts_with("user"));
    let user = user.and_then(|user| user.strip_prefix("user(\"")?.strip_suffix('"'));
    let minted_s = lines.next()?.strip_prefix("minted(")?.parse().ok()?;
    let rights: Option<_> = lines
        .map(|line| line.strip_prefix("right(\"")?.strip_suffix('"')?.parse::<Right>().ok())
        .collect();
    let holder = Holder { node, uid, user: user.map(str::to_owned), minted_s, rights: rights? };
    let is_sound = holder.user.as_deref().is_none_or(is_plain) && fits(holder.minted_s);
    (is_sound && of_holder(&holder) == text).then_some(holder)
}

/// Returns the checks of a block.
pub(super) fn of_bounds(bounds: &Bounds) -> String {
    let mut text = String::new();
    if let Some(rights) = bounds.rights {
        one_of(&mut text, "operation", rights.iter().map(|it| format!("$operation === \"{it}\"")));
    }
    if let Some(nodes) = &bounds.nodes {
        one_of(&mut text, "runner", nodes.iter().map(|it| format!("$runner === \"{it}\"")));
    }
    if let Some(paths) = &bounds.paths {
        let below = |path: &String| {
            let dir = path.trim_end_matches('/');
            format!("$path === \"{path}\" || $path.starts_with(\"{dir}/\")")
        };
        one_of(&mut text, "path", paths.iter().map(below));
    }
    for (name, most) in [
        ("slots", bounds.slots.map(u64::from)),
        ("memory", bounds.memory),
        ("time", bounds.until_s),
    ] {
        if let Some(most) = most {
            write_line(&mut text, format_args!("check if {name}(${name}), ${name} <= {most}"));
        }
    }
    if bounds.no_network {
        write_line(&mut text, format_args!("{NO_NETWORK}"));
    }
    if bounds.only_compile_steps {
        write_line(&mut text, format_args!("{ONLY_COMPILE_STEPS}"));
    }
    if let Some(sessions) = &bounds.sessions {
        let one = |session: &SessionId| format!("$session === \"{session}\"");
        one_of(&mut text, "session", sessions.iter().map(one));
    }
    text
}

/// Reads the checks of a block.
pub(super) fn to_bounds(text: &str) -> Option<Bounds> {
    let mut bounds = Bounds::default();
    for line in text.lines() {
        take(&mut bounds, line.strip_suffix(';')?)?;
    }
    (is_sound(&bounds) && of_bounds(&bounds) == text).then_some(bounds)
}

/// Tells whether bounds can be written, and be read again.
pub(super) fn is_sound(bounds: &Bounds) -> bool {
    let is_list = |count: Option<usize>| count.is_none_or(|count| (1..=LIST_MAX).contains(&count));
    let is_path = |path: &String| {
        let names = path.strip_prefix('/').map(|names| names.split('/'));
        let is_name = |name: &str| !matches!(name, "" | "." | "..");
        let is_normal = path == "/" || names.is_some_and(|mut names| names.all(is_name));
        is_normal && is_plain(path) && path.len() <= PREFIX_BYTES_MAX
    };
    is_list(bounds.rights.map(|rights| rights.iter().count()))
        && is_list(bounds.nodes.as_ref().map(BTreeSet::len))
        && is_list(bounds.paths.as_ref().map(BTreeSet::len))
        && is_list(bounds.sessions.as_ref().map(BTreeSet::len))
        && bounds.paths.iter().flatten().all(is_path)
        && [bounds.memory, bounds.until_s].into_iter().flatten().all(fits)
}

/// Tells whether a text means itself in Datalog, where nothing is escaped.
pub(super) fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\\'))
}

/// Tells whether a number is one in Datalog.
fn fits(number: u64) -> bool {
    i64::try_from(number).is_ok()
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line};").expect("a text takes any length");
}

fn one_of(text: &mut String, name: &str, cases: impl Iterator<Item = String>) {
    let cases = cases.collect::<Vec<_>>().join(" || ");
    write_line(text, format_args!("check if {name}(${name}), {cases}"));
}

/// Reads one check. What it gets wrong is found by the comparison with the text.
fn take(bounds: &mut Bounds, line: &str) -> Option<()> {
    match line {
        NO_NETWORK => bounds.no_network = true,
        ONLY_COMPILE_STEPS => bounds.only_compile_steps = true,
        _ => {
            let (name, rest) = line.strip_prefix("check if ")?.split_once('(')?;
            let (_, said) = rest.split_once("), ")?;
            match name {
                "operation" => bounds.rights = Some(cases(said)?),
                "runner" => bounds.nodes = Some(cases(said)?),
                "path" => bounds.paths = Some(cases(said)?),
                "slots" => bounds.slots = Some(most(said)?),
                "memory" => bounds.memory = Some(most(said)?),
                "time" => bounds.until_s = Some(most(said)?),
                "session" => bounds.sessions = Some(sessions(said)?),
                _ => return None,
            }
        }
    }
    Some(())
}

/// Reads what `$name === "…"` lists. Other cases are passed over.
fn cases<T: FromStr, C: FromIterator<T>>(said: &str) -> Option<C> {
    let is_case = said.split(" || ").filter_map(|case| case.split_once(" === \""));
    is_case.map(|(_, value)| value.strip_suffix('"')?.parse().ok()).collect()
}

fn sessions(said: &str) -> Option<BTreeSet<SessionId>> {
    let ids: Vec<String> = cases(said)?;
    ids.iter().map(|id| Some(SessionId(u64::from_str_radix(id, 16).ok()?))).collect()
}

fn most<T: FromStr>(said: &str) -> Option<T> {
    said.split_once(" <= ")?.1.parse().ok()
}
