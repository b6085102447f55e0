//! `oswalk config show`.

use std::fs;

use crate::machine::{Machine, refuses};

#[test]
fn config_show_says_where_values_come_from() {
    let machine = Machine::new();
    fs::write(machine.path("policy.toml"), "walk = ['tool']\nhide = ['/srv']\n").expect("writes");
    let mut command = machine.oswalk(&["config", "show", "--json"]);
    let output =
        command.env("OSWALK_POLICY", machine.path("policy.toml")).output().expect("starts");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let values = shown["values"].as_array().expect("a list");
    let of = |name: &str| {
        let found = values.iter().find(|it| it["name"] == name).expect(name);
        [found["value"].as_str().expect("text"), found["from"].as_str().expect("text")]
    };
    assert_eq!(of("state")[1], "OSWALK_STATE");
    assert_eq!(of("policy file")[1], "OSWALK_POLICY");
    assert_eq!(of("oswalk-stub")[1], "OSWALK_LIBDIR");
    assert_eq!(of("oswalkd")[0], "not found");
    assert_eq!(of("hide"), ["/srv", "policy file"]);
    assert!(of("agent")[1].starts_with("no agent at"), "{shown}");
    assert_eq!(shown["rules"][0]["pattern"], "tool");
    command.env("OSWALK_POLICY", machine.path("none"));
    refuses(&machine, &mut command, 125, &["failed to read policy file"]);
}
