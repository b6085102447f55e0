-- One call: what it has read, what it has yet to write, and the notes it sends.

-- Set by the first call: Redis provides none of these while it loads the library.
local call, match, format, floor, ceil

-- Reads and pending writes of a call. Only this library writes its keys; code that reads a key
-- directly flushes first. All calls reuse this table, since calls never overlap.
local c0 = {
  call = 0,
  -- Walk id -> its record, or false if there is none; the ids in walks.
  walks = {}, ids = {}, id_count = 0,
  -- Ids of walks whose record has changed; id -> whether it is among them.
  changed = {}, is_changed = {}, changed_count = 0,
  -- Holders that took or released a slot in this call; holder -> whether it holds the slot now.
  holders = {}, holds = {}, holder_count = 0,
  -- Nodes whose score has changed.
  moved = {}, moved_count = 0,
}

-- Cell -> name -> node: up, slots, place (name and address), used, score. Kept to save tables; each
-- call reads the values again.
local known_nodes = {}

local function begin(keys, args)
  call = redis.call
  match, format, floor, ceil = string.match, string.format, math.floor, math.ceil
  local c, w = c0, keys[1]
  if c.w ~= w then
    c.w, c.walk, c.up = w, w .. ':walk:', w .. ':up:'
    c.load, c.run = w .. ':load', w .. ':run'
    known_nodes[w] = known_nodes[w] or {}
    c.nodes = known_nodes[w]
  end
  c.caller, c.time = args[1], nil
  c.call = c.call + 1
  for i = 1, c.id_count do
    c.walks[c.ids[i]] = nil
  end
  c.id_count = 0
  -- A call that failed left these behind.
  if c.changed_count > 0 or c.holder_count > 0 or c.moved_count > 0 then
    for i = 1, c.changed_count do
      c.is_changed[c.changed[i]] = nil
    end
    for i = 1, c.holder_count do
      c.holds[c.holders[i]] = nil
    end
    c.changed_count, c.holder_count, c.moved_count = 0, 0, 0
  end
  -- The least loaded nodes, as read by rank.
  c.ranked = nil
  -- The number of waiting walks as stored, and its pending change.
  c.queued, c.joined = nil, 0
  c.clock, c.clock_moved = nil, false
  -- Node -> notes for it; notes for the caller.
  c.mail, c.notes, c.note_count = nil, nil, 0
  return c
end

local function now(c)
  if not c.time then
    local time = call('TIME')
    c.time = time[1] * 1000 + floor(time[2] / 1000)
  end
  return c.time
end

local function note(c, node, text)
  if node == c.caller then
    c.notes = c.notes or {}
    c.note_count = c.note_count + 1
    c.notes[c.note_count] = text
  else
    c.mail = c.mail or {}
    local before = c.mail[node]
    c.mail[node] = before and before .. '\n' .. text or text
  end
end

local NONE = {}

local function split(text)
  if text == '' then
    return NONE
  end
  local parts = {}
  for part in string.gmatch(text, '[^,]+') do
    parts[#parts + 1] = part
  end
  return parts
end

-- Tells whether a comma-separated list contains a name.
local function contains(list, name)
  return list ~= '' and string.find(',' .. list .. ',', ',' .. name .. ',', 1, true) ~= nil
end

-- Calls `command` with the first `count` elements of the list as its last arguments, in several
-- calls if there are many. PART_MAX is even, so pairs stay together.
local function send(list, count, command, key)
  if count <= 2 and key then
    if count == 2 then
      call(command, key, list[1], list[2])
    elseif count == 1 then
      call(command, key, list[1])
    end
    return
  end
  for first = 1, count, PART_MAX do
    local last = math.min(first + PART_MAX - 1, count)
    if key then
      call(command, key, unpack(list, first, last))
    else
      call(command, unpack(list, first, last))
    end
  end
end
