//! Somebody who has taken Redis over writes into it what looks like walks, grants, nodes and orders.

use std::fs;
use std::time::Duration;

use crate::Test;
use crate::lab::{Lab, NODES, Up};
use crate::nodes::{self, all_join};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("forged::what_stands_in_redis_is_not_executed", entries),
    ("forged::a_redis_that_is_emptied_loses_no_walk", emptied),
];

const LIMIT: Duration = seconds(60);
/// Entries and messages that are written while a build runs.
const ENTRIES: u32 = 1000;

/// Writes them. What a reader might execute names the marker.
const WRITES: &str = r#"
local w, marker, seed, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
math.randomseed(seed)
local function pick(list) return list[math.random(#list)] end
local nodes = { 'n1', 'n2', 'n3', 'origin', 'ghost', '../x', '\27[2J' }
local executes = '/bin/sh -c touch\32' .. marker
local function id() return string.format('%016x-%d', math.random(2 ^ 30), math.random(100)) end
local function junk() return pick({ executes, cjson.encode({ argv = { '/usr/bin/touch', marker } }), string.rep('x', 5000), '', '-1', '18446744073709551615' }) end
local writes = {
  function() redis.call('SET', w .. ':walk:' .. id(), pick({ executes, 'queued origin n1 1 0 ' .. executes, junk() })) end,
  function() redis.call('ZADD', w .. ':run', 0, pick(nodes) .. ' ' .. id() .. ' ' .. pick(nodes)) end,
  function() redis.call('ZADD', w .. ':queue:' .. string.format('%016x', math.random(2 ^ 30)), math.random(100), id()) end,
  function() redis.call('HSET', w .. ':lanes', string.format('%016x', math.random(2 ^ 30)), pick(nodes)) end,
  function() redis.call('ZADD', w .. ':turns:*', math.random(100), string.format('%016x', math.random(2 ^ 30))) end,
  function() redis.call('ZADD', w .. ':load', math.random(10), pick(nodes)) end,
  function() redis.call('ZADD', w .. ':lease', '99999999999999', pick({ 'ghost', '../x', '\27[2J' })) end,
  function() redis.call('HSET', w .. ':node:ghost', 'address', '10.77.0.99:7700', 'version', junk(), 'slots', junk(), 'cpu', junk(), 'incarnation', junk()) end,
  function() redis.call('SET', w .. ':up:ghost', '64 ' .. junk()) end,
  function() redis.call('SADD', w .. ':gone', id()) end,
  function() redis.call('PUBLISH', w .. ':to:' .. pick(nodes), pick({ 'grant ' .. id() .. ' n1 10.77.0.11:7700 1 ' .. executes, 'cancel ' .. id(), 'run ' .. executes, junk() })) end,
}
for _ = 1, count do pick(writes)() end
return count
"#;

/// Returns the prefix of the lab's keys.
fn prefix(up: &Up) -> Result<String, String> {
    let keys = Run::of(up.redis(&["--raw", "KEYS", "*:lease"])?, LIMIT)?.out();
    let key = keys.lines().next().and_then(|key| key.strip_suffix(":lease"));
    key.map(str::to_owned).ok_or(format!("Redis has no leases: {keys}"))
}

/// Empties Redis, and has the agents notice.
fn empty(up: &Up) -> Result<(), String> {
    let emptied = Run::of(up.redis(&["FLUSHALL"])?, LIMIT)?;
    if emptied.out().trim() == "OK" { all_join(up, &NODES) } else { Err(emptied.to_string()) }
}

fn entries(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("forged")?;
    let marker = dir.join("executed");
    let seed = std::env::var("OSWALK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u32 = seed.unwrap_or(std::process::id());
    eprintln!("forged: OSWALK_SEED={seed}");
    let (key, said, count) = (prefix(up)?, marker.display().to_string(), ENTRIES.to_string());
    let built = nodes::during_a_build(up, &dir, || {
        let words = ["EVAL", WRITES, "0", &key, &said, &seed.to_string(), &count];
        let written = Run::of(up.redis(&words)?, LIMIT)?;
        if written.out().trim() == count { Ok(()) } else { Err(written.to_string()) }
    });
    let healed = empty(up);
    built?;
    healed?;
    if fs::exists(&marker).unwrap_or(true) {
        Err("what stood in Redis was executed".to_owned())
    } else {
        Ok(())
    }
}

fn emptied(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("emptied")?;
    let built = nodes::during_a_build(up, &dir, || {
        let emptied = Run::of(up.redis(&["FLUSHALL"])?, LIMIT)?;
        if emptied.out().trim() == "OK" { Ok(()) } else { Err(emptied.to_string()) }
    });
    all_join(up, &NODES)?;
    built
}
