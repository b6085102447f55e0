//! What somebody else writes into Redis may make walks stay; it makes nobody panic, grow or believe it.

mod support;

use broker::{NODES_MAX, Submitted};
use support::{Cell, RedisCell, cell, walk};

const KEY: &str = "{w}6";

fn redis(cell: &RedisCell, arguments: &[&str]) -> String {
    let output = cell.redis_cli().args(arguments).output().expect("redis-cli runs");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn run(cell: &RedisCell, script: &str) -> String {
    redis(cell, &["EVAL", script, "1", KEY])
}

#[tokio::test]
async fn agents_of_two_versions_have_functions_of_their_own() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 10).await;
    let other = "#!lua name=oswalk_6_other\nredis.register_function('oswalk_6_other_say', function() return 'other' end)";
    assert_eq!(redis(&cell, &["FUNCTION", "LOAD", "REPLACE", other]), "oswalk_6_other");
    origin.granted(walk(1, 1)).await;
    // And one that comes now, and finds both.
    let late = cell.node("late", 0).await;
    late.granted(walk(2, 1)).await;
    assert_eq!(redis(&cell, &["FCALL", "oswalk_6_other_say", "1", KEY, "n"]), "other");
    assert!(broker::library().starts_with("oswalk_6_"), "keys and functions have one number");
}

#[tokio::test]
async fn what_a_walk_executes_is_not_in_redis() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    origin.granted(walk(1, 1)).await;
    assert_eq!(origin.submit(walk(1, 2)).await, Submitted::Queued(1));
    let keys = redis(&cell, &["KEYS", "*"]);
    for key in keys.lines() {
        let kind = key.strip_prefix(KEY).and_then(|rest| rest.split(':').nth(1)).unwrap_or(key);
        let known = [
            "lease", "node", "up", "load", "run", "walk", "queue", "lanes", "turns", "tag",
            "queued", "count",
        ];
        assert!(known.contains(&kind), "docs/protocol.md knows no {key}");
    }
}

#[tokio::test]
async fn malformed_nodes_are_not_listed() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    let add = |name: &str, address: &str, slots: &str| {
        let script = format!(
            "redis.call('ZADD', KEYS[1] .. ':lease', '99999999999999', '{name}') \
             redis.call('HSET', KEYS[1] .. ':node:{name}', 'address', '{address}', 'version', '\\27[2J', \
             'slots', '{slots}', 'cpu', string.rep('x', 1000000), 'incarnation', 'i')"
        );
        run(&cell, &script);
    };
    for (name, address, slots) in [
        ("..", "10.0.0.9:7", "1"),
        ("a/b", "10.0.0.9:7", "1"),
        ("bad1", "nowhere", "1"),
        ("bad2", "10.0.0.9:7", "-1"),
        ("bad3", "10.0.0.9:7", "many"),
        ("odd", "10.0.0.9:7", "4000000000"),
    ] {
        add(name, address, slots);
    }
    let nodes = origin.nodes().await;
    let mut names: Vec<_> = nodes.iter().map(|state| state.info.node.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["odd", "origin"]);
    let odd = nodes.iter().find(|state| state.info.node.as_str() == "odd").expect("is there");
    assert_eq!(odd.info.version.as_str(), "\\u{1b}[2J");
    assert!(odd.info.slots < 10_000 && odd.info.cpu.as_str().len() < 1000);
}

#[tokio::test]
async fn the_list_of_nodes_is_bounded() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    run(
        &cell,
        "for i = 1, 5000 do \
           redis.call('ZADD', KEYS[1] .. ':lease', '99999999999999', 'f' .. i) \
           redis.call('HSET', KEYS[1] .. ':node:f' .. i, 'address', '1.1.1.1:1', 'version', '1', 'slots', '1', \
             'cpu', 'x', 'incarnation', 'i') \
         end",
    );
    assert_eq!(origin.nodes().await.len(), NODES_MAX);
}

#[tokio::test]
async fn malformed_notes_are_ignored() {
    let cell = cell().await;
    let mut origin = cell.node("origin", 0).await;
    let channel = format!("{KEY}:to:origin");
    let long = format!("g {}", "a".repeat(100_000));
    let notes = [
        "",
        "g",
        "g x",
        "g 1-1 n1 10.77.0.11:7700 18446744073709551616",
        "g 1-1 ../../x 1.2.3.4:1 1",
        "g 1-1 n1 nowhere 1",
        "c",
        "c -",
        "x zz-zz",
        &long,
        "\u{1b}[2J",
    ];
    for note in notes {
        redis(&cell, &["PUBLISH", &channel, note]);
    }
    redis(&cell, &["PUBLISH", &channel, "c 1-7"]);
    assert_eq!(origin.event().await, broker::Event::Cancelled(walk(1, 7)), "and nothing before it");
}

#[tokio::test]
async fn endless_replies_are_refused() {
    let cell = cell().await;
    let mut origin = cell.node("origin", 0).await;
    let channel = format!("{KEY}:to:origin");
    // Redis sends it as it is.
    run(&cell, &format!("redis.call('PUBLISH', '{channel}', string.rep('c 1-8\\n', 10000000))"));
    assert_eq!(origin.event().await, broker::Event::Lost);
    assert_eq!(origin.event().await, broker::Event::Back);
    let _r = cell.node("r", 1).await;
    origin.granted(walk(1, 1)).await;
}
