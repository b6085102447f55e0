-- Limits. A test of limits.rs compares those that the crate knows too.

-- A node that is silent for this long loses its walks.
local LEASE_MS = 1000
-- If nobody has reaped for this long, the broker was away: the silence says nothing about nodes.
local REAP_GAP_MS = 500
-- Reaping this soon after the last time would find nothing new.
local REAP_PAUSE_MS = 50
-- Attempts at one walk. More would only spread whatever is wrong with it.
local ATTEMPTS_MAX = 5
-- Waiting walks. Beyond these, executing at the origin is faster than waiting.
local QUEUED_MAX = 1000000
local QUEUED_SESSION_MAX = 100000
-- Work in one call, so that no other call waits for more than a few milliseconds.
local FILL_MAX = 256
local SWEEP_MAX = 1000
local BURY_MAX = 16
local LOOK_MAX = 32
-- Nodes in a list.
local LIST_MAX = 1024
-- Nodes remembered after they have gone; the most recently heard ones stay.
local PAST_MAX = 128
-- Bytes of each text that a node says of itself, when listed.
local TEXT_MAX = 300
-- Arguments of one redis.call: Lua's stack has room for 8,000.
local PART_MAX = 1000
-- How long the next turn of a user without waiting walks is kept.
local TAG_MS = 60000
-- A score is level * TURNS + turn, exact in a double: level is FULL on a node without a free slot,
-- and turns count up to TURNS.
local FULL = 2 ^ 20
local TURNS = 2 ^ 32
