//! `oswalk exec --explain`: what would happen with a command, and why.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use worknode::policy::{Rule, Verdict};
use worknode::reason::Reason;
use worknode::request::{
    CommandLine, Explanation, NodeCondition, Reply, Request, Status, VariableFate,
};

use crate::door::DoorError;
use crate::error::Failure;
use crate::exec::{self, Options};
use crate::places::Places;
use crate::session::Session;
use crate::{decide, say};

/// What is known of a command that is not executed.
struct Known<'a> {
    file: &'a Path,
    decision: Result<(), Reason>,
    /// The rule that names the program, and where it comes from.
    rule: Option<(String, Verdict, &'static str)>,
    explanation: Explanation,
    hide: Vec<String>,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    let policy = exec::policy(options)?;
    let file = decide::find(&options.command[0], std::env::var_os("PATH").as_deref())?;
    let (of_user, hide) = (policy.rules.len(), policy.hide.clone());
    let mut session =
        exec::open(options, &file, policy, places, false).map_err(|(failure, _)| failure)?;
    let words = &options.command;
    let decision = decide::decide(&session.page(), &file, &words[1..], &exec::given(options));
    let of_options = options.stay.len() + options.walk.len();
    let rule = rule(&session, &file, of_options, of_user);
    let request = Request::Explain(Box::new(command_line(&file, words)));
    let failed = |error: DoorError| Failure::from_error(&error).hint(error.hint());
    let Reply::Explained(explanation) = session.door.ask(&request).map_err(failed)? else {
        return Err(failed(session.door.protocol()));
    };
    let status = session.door.status().map_err(failed)?;
    let known = Known { file: &file, decision, rule, explanation, hide };
    say::out(known.text() + &nodes(&status, options, session.notice.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the rule that decides on the program: its pattern, verdict and origin. In a page the rules of options come
/// first, then those of the policy file, then the built-in table.
fn rule(
    session: &Session,
    file: &Path,
    of_options: usize,
    of_user: usize,
) -> Option<(String, Verdict, &'static str)> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let page = session.page();
    let names = |(_, rule): &(usize, Rule<'_>)| rule.names(path.as_os_str().as_bytes());
    let (at, rule) = page.rules().enumerate().find(names)?;
    let from = match at {
        at if at < of_options => "option",
        at if at < of_user => "policy file",
        _ => "built in",
    };
    Some((String::from_utf8_lossy(rule.pattern).into_owned(), rule.verdict, from))
}

/// Describes the command for the agent.
fn command_line(file: &Path, words: &[OsString]) -> CommandLine {
    let block = |texts: &mut dyn Iterator<Item = Vec<u8>>| -> Vec<u8> {
        texts.flat_map(|text| [text, vec![0]].concat()).collect()
    };
    let variables = std::env::vars_os();
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let named = words[1..].iter().map(|word| absolute(Path::new(word)));
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    CommandLine {
        path: bytes(&absolute(file)),
        argv: block(&mut words.iter().map(|word| word.as_bytes().to_vec())),
        env: block(
            &mut variables.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()),
        ),
        named: named.filter(|path| path.exists()).map(|path| bytes(&path)).collect(),
    }
}

impl Known<'_> {
    fn text(&self) -> String {
        let mut text = format!("program: {}\n", self.file.display());
        let _ = match &self.rule {
            Some((pattern, verdict, from)) => {
                writeln!(text, "rule: '{pattern}' ({from}): {}", verdict.name())
            }
            None => writeln!(text, "rule: none names it"),
        };
        let secret = self.with(VariableFate::Secret);
        let _ = match self.decision {
            Err(reason) => writeln!(text, "stays ({}): {}", reason.name(), meaning(reason)),
            Ok(()) if !secret.is_empty() => writeln!(
                text,
                "stays (secret-variable): it may read {secret}; --pass-env lets a variable travel, --without-env withholds it"
            ),
            Ok(()) if !self.explanation.hidden.is_empty() => {
                writeln!(text, "walks, but is executed here if it reads what no node is shown")
            }
            Ok(()) => writeln!(text, "walks"),
        };
        if self.decision.is_ok() {
            text += &self.variables();
            text += &self.files();
        }
        text
    }

    /// Returns the names of the variables with this fate.
    fn with(&self, fate: VariableFate) -> String {
        let variables = self.explanation.variables.iter().filter(|(_, it)| *it == fate);
        let mut names: Vec<_> = variables.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.join(" ")
    }

    fn variables(&self) -> String {
        let lines = [
            ("travel", VariableFate::Travels),
            ("travel because you say so", VariableFate::Passed),
            ("withheld because you say so", VariableFate::Without),
            ("withheld, since compilers do not read them", VariableFate::NotForCompilers),
            ("withheld, since they name services of this machine", VariableFate::Local),
            ("withheld, since they look like secrets", VariableFate::Secret),
            ("withheld, since they are OS Walk's own", VariableFate::Own),
        ];
        let lines = lines.map(|(what, fate)| (what, self.with(fate)));
        let said = lines.iter().filter(|(_, names)| !names.is_empty());
        said.map(|(what, names)| format!("variables that {}: {names}\n", verb(what))).collect()
    }

    fn files(&self) -> String {
        let mut text =
            "files: a node is shown what the program reads, but no keys, passwords, tokens and histories, and nothing of \
             /proc, /sys, /dev and /run\n"
                .to_owned();
        if !self.hide.is_empty() {
            let _ = writeln!(text, "hidden by 'hide': {}", self.hide.join(" "));
        }
        if !self.explanation.hidden.is_empty() {
            let _ = writeln!(text, "named, but never shown: {}", self.explanation.hidden.join(" "));
        }
        text
    }
}

fn verb(what: &str) -> String {
    if what.starts_with("withheld") { format!("are {what}") } else { what.to_owned() }
}

/// Returns the nodes that could take the command.
fn nodes(status: &Status, options: &Options, notice: Option<&str>) -> String {
    let takes = |state: NodeCondition, slots: u32| state == NodeCondition::Alive && slots > 0;
    let nodes = status.nodes.iter().filter(|it| takes(it.state, it.slots));
    let nodes = nodes.filter(|it| options.on.as_ref().is_none_or(|on| *on == it.node));
    let lines: Vec<_> = nodes
        .map(|it| {
            format!(
                "{} ({} of {} slots free)",
                it.node,
                it.slots.saturating_sub(it.running),
                it.slots
            )
        })
        .collect();
    match notice {
        Some(notice) => format!("nothing walks at present: {notice}\n"),
        None => format!("nodes that take walks: {}\n", lines.join(", ")),
    }
}

/// Returns what a reason means for a command.
fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::Driver => "it may start others, on each of which the rules decide",
        Reason::Shell => "what it starts is decided on one by one",
        Reason::Wrapper => "it starts compilers, which walk",
        Reason::Link => "it links or archives",
        Reason::Preprocess => "it only preprocesses",
        Reason::Probe => "it asks the tool a question",
        Reason::NativeCpu => "it compiles for this very processor",
        Reason::Stdin => "it reads its source from standard input",
        Reason::ResponseFile => "its arguments are in a file that cannot be read in advance",
        Reason::NeedsOrigin => "it needs rights, namespaces or processes of this machine",
        Reason::ForeignPreload => "LD_PRELOAD names a library that talks to a process here",
        Reason::Rule => "the rule says so",
        Reason::Unlisted => "no rule names it; --walk does",
        Reason::NoCluster => "no node takes walks",
        Reason::Privileged => "it is setuid or setgid",
        _ => "see 'Why a process stays' in docs/guide.md",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(decision: Result<(), Reason>, variables: &[(&str, VariableFate)]) -> String {
        let variables = variables.iter().map(|&(name, fate)| (name.to_owned(), fate)).collect();
        let rule = Some(("gcc".to_owned(), Verdict::CompilerDriver, "built in"));
        let explanation = Explanation { variables, hidden: Vec::new() };
        let hide = vec!["/srv/*".to_owned()];
        Known { file: Path::new("/usr/bin/gcc"), decision, rule, explanation, hide }.text()
    }

    #[test]
    fn explanations() {
        let all = [
            ("PATH", VariableFate::Travels),
            ("NPM_TOKEN", VariableFate::Passed),
            ("EDITOR", VariableFate::NotForCompilers),
            ("OSWALK_PAGE", VariableFate::Own),
        ];
        let text = [
            known(Ok(()), &all),
            known(Ok(()), &[("MY_TOKEN", VariableFate::Secret)]),
            known(Err(Reason::Link), &all),
        ];
        crate::messages::same("explanations", &text.join("\n"));
    }
}
