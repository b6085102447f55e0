//! Text formats: requests and reports in JSON, and the policy file.

use std::fs;

use oswalk_cli::policy_file;
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use worknode::capability::{Token, TokenId};
use worknode::id::SessionId;
use worknode::report::{Report, StayLine, Totals, WalkLine};
use worknode::request::{Action, Reply, Request, SessionOptions, UserRule};

use crate::bytes::{damage, damaged, noise, survives};
use crate::memory::bounded;
use crate::trial::holds;
use crate::walks::nodes;

fn survives_json<S: Strategy>(values: S)
where
    S::Value: std::fmt::Debug + PartialEq + Serialize + DeserializeOwned,
{
    survives(
        values,
        |value| serde_json::to_vec(value).expect("fits a growing buffer"),
        |bytes| serde_json::from_slice(bytes).ok(),
    );
}

/// Generates a finite time in milliseconds; JSON has no infinity.
fn milliseconds() -> impl Strategy<Value = f64> {
    (0..u32::MAX).prop_map(|micros| f64::from(micros) / 1000.0)
}

fn reports() -> impl Strategy<Value = Report> {
    let words = (".{0,9}", ".{0,9}", ".{0,9}");
    let times = (milliseconds(), milliseconds(), milliseconds(), milliseconds());
    let walks = (words, times, any::<(u32, u64, u64, i32)>()).prop_map(
        |(
            (argv0, cwd, runner),
            (wait_ms, run_ms, origin_cpu_ms, runner_cpu_ms),
            (attempt, bytes_out, bytes_back, status),
        )| WalkLine {
            argv: vec![argv0.clone(), cwd.clone()],
            argv_left_out: u64::from(attempt % 3),
            argv_lossy: attempt % 2 == 1,
            output: (attempt % 2 == 1).then(|| runner.clone()),
            start_ms: wait_ms,
            end_ms: run_ms,
            argv0,
            cwd,
            runner,
            attempt,
            wait_ms,
            run_ms,
            origin_cpu_ms,
            runner_cpu_ms,
            bytes_out,
            bytes_back,
            status,
            overwrote: vec!["é".to_owned(); usize::from(attempt % 2 == 1)],
            torn: attempt % 3 == 1,
        },
    );
    let stays = (".{0,9}", "[a-z-]{0,9}", any::<u64>()).prop_map(|(argv0, reason, count)| {
        StayLine { argv0, reason, variable: (count % 2 == 1).then(|| "A_KEY".to_owned()), count }
    });
    let times = (milliseconds(), milliseconds(), milliseconds());
    let totals = (any::<[u64; 4]>(), times).prop_map(
        |([walks, stays, bytes_out, bytes_back], (wall_ms, origin_cpu_ms, runner_cpu_ms))| Totals {
            walks,
            stays,
            wall_ms,
            origin_cpu_ms,
            runner_cpu_ms,
            bytes_out,
            bytes_back,
        },
    );
    (vec(walks, 0..4), vec(stays, 0..4), totals).prop_map(|(walks, stays, totals)| Report {
        began_unix_ms: totals.walks,
        why_not: (totals.walks % 2 == 1).then(|| "é".to_owned()),
        lost: (totals.walks % 3 == 1).then(|| "é".to_owned()),
        walks_left_out: totals.stays,
        walks,
        stays,
        totals,
    })
}

#[test]
fn reports_and_replies() {
    let replies = prop_oneof![
        (any::<u64>(), noise(), any::<bool>()).prop_map(|(session, page, becomes)| {
            Reply::Session { session: SessionId(session), page, becomes, notice: None }
        }),
        reports().prop_map(Reply::Report),
        Just(Reply::Done),
    ];
    survives_json((reports(), replies));
}

fn rules() -> impl Strategy<Value = UserRule> {
    let actions = proptest::sample::select(vec![Action::Walk, Action::Stay, Action::Compiler]);
    // Only well-formed patterns, since others are refused.
    ("[^\\[\\\\\u{0}]{1,12}", actions).prop_map(|(pattern, action)| UserRule { pattern, action })
}

#[test]
fn requests() {
    let options = (
        ".{0,8}",
        vec(rules(), 0..4),
        any::<(bool, bool, bool, bool)>(),
        proptest::option::of(nodes()),
        (noise(), noise(), vec(".{0,8}", 0..3)),
    )
        .prop_map(
            |(
                version,
                rules,
                (walk_all, no_fallback, lone_walks, becomes),
                on,
                (preload, stub, hide),
            )| {
                Request::OpenSession(Box::new(SessionOptions {
                    version,
                    rules,
                    pass_env: vec!["A*".to_owned(); usize::from(walk_all)],
                    without_env: vec!["B".to_owned(); usize::from(becomes)],
                    walk_all,
                    on,
                    no_fallback,
                    lone_walks,
                    offline: lone_walks,
                    command: None,
                    becomes,
                    shell: becomes.then_some(7),
                    hide,
                    token: walk_all.then(|| Token::try_from(vec![7; 9]).expect("short")),
                    preload,
                    stub,
                }))
            },
        );
    survives_json(prop_oneof![
        options,
        Just(Request::CloseSession),
        Just(Request::Status),
        Just(Request::Shutdown),
        Just(Request::Token),
        any::<[u8; 16]>().prop_map(|id| Request::RevokeId(TokenId(id))),
    ]);
}

/// A policy file yields rules in order of precedence, or an error that names the file.
#[test]
fn policy_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("policy.toml");
    let load = |text: &[u8]| {
        fs::write(&path, text).expect("the file can be written");
        bounded(text, |_| policy_file::load(Some(&path)))
    };
    let noise =
        prop_oneof![noise(), "[a-z=\\[\\]'\"\n#,\\\\ ]{0,200}".prop_map(String::into_bytes)];
    holds(&(vec(rules(), 0..8), damage(), noise), |(mut rules, damages, noise)| {
        let weight = |rule: &UserRule| match rule.action {
            Action::Stay => 0,
            Action::Compiler => 1,
            Action::Walk => 2,
        };
        rules.sort_by_key(weight);
        let names: Vec<_> = rules.iter().map(|rule| rule.pattern.clone()).collect();
        let text = toml_of(&rules);
        let policy = load(text.as_bytes()).expect("just written");
        assert_eq!(policy.rules, rules);
        assert_eq!([policy.pass_env, policy.without_env], [names, Vec::new()]);
        for hostile in [damaged(text.into_bytes(), &damages), noise] {
            if let Err(error) = load(&hostile) {
                assert!(error.to_string().contains("policy.toml"), "{error}");
            }
        }
    });
}

fn toml_of(rules: &[UserRule]) -> String {
    let quoted = |rule: &UserRule| {
        let escaped = |c: char| format!("\\U{:08x}", u32::from(c));
        format!("\"{}\"", rule.pattern.chars().map(escaped).collect::<String>())
    };
    let all = rules.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let list = |action| {
        let quoted = rules.iter().filter(|rule| rule.action == action).map(quoted);
        quoted.collect::<Vec<_>>().join(", ")
    };
    let (walk, stay, compilers) = (list(Action::Walk), list(Action::Stay), list(Action::Compiler));
    format!("walk = [{walk}]\nstay = [{stay}]\ncompilers = [{compilers}]\npass_env = [{all}]\n")
}
