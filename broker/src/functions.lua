#!lua name=@LIBRARY@
-- The broker: every decision is made in one call, and every call leaves the state whole.
--
-- @LIBRARY@ is a name of this very text: agents with another one have functions of their own.
--
-- What is fast here is what is not done. A call carries all that its agent had to say at that moment,
-- reads what that needs together (see look_ahead), decides on one after the other, and writes
-- what has changed together in the end (see flush). As expensive as what is asked of Redis are
-- the texts and tables that Lua makes, which its collector has to find again: what is needed in
-- every call is kept, and a walk that is granted and finished is never taken apart.
--
-- Keys, all with the cell's hash tag, here w:
--   w:lease           zset   node -> end of its lease, ms
--   w:node:<node>     hash   address version slots cpu trouble incarnation
--   w:up:<node>       string slots incarnation address; expires with the lease, absent while it
--                            is suspect
--   w:load            zset   node with a free slot -> load and turn (see settle)
--   w:run             zset   holders of slots: node walk origin, with spaces; all 0
--   w:walk:<walk>     string what is known of it (see STORED)
--   w:queue:<lane>    zset   waiting walk -> its number; a lane is a session, or session@node if
--                            only that node will do
--   w:lanes           hash   lane with waiting walks -> origin of its session
--   w:turns:<node|*>  zset   lane with waiting walks -> virtual time of its next grant
--   w:tag:<lane>      string virtual time at which an emptied lane goes on
--   w:past            zset   node and how it went, left or lost, with a space -> when it was heard last, ms
--   w:gone            set    sessions whose walks are to be cancelled
--   w:queued          string number of waiting walks
--   w:count           hash   clock reaped grace, and list: how often the list of nodes has changed
-- Channel w:to:<node> carries what a node must hear and did not ask for.
--
-- KEYS[1] is w, ARGV[1] the calling node. A reply is a text: the results, a line each, then notes,
-- a line each: what the channel would carry, were it not meant for the caller.

-- A node that is silent for so long has lost its walks.
local LEASE_MS = 1000
-- When nobody reaped for so long, the broker was away: silence then says nothing of the nodes.
local REAP_GAP_MS = 500
-- Who reaps so soon after another finds nothing new.
local REAP_PAUSE_MS = 50
-- Attempts at one walk; more would only spread whatever is wrong with it.
local ATTEMPTS_MAX = 5
-- Waiting walks: beyond, the origin is better off executing itself.
local QUEUED_MAX = 1000000
local QUEUED_SESSION_MAX = 100000
-- Bounds on the work of one call, so that no other waits for more than a few milliseconds.
local FILL_MAX = 256
local SWEEP_MAX = 1000
local BURY_MAX = 16
local LOOK_MAX = 32
-- Nodes that are listed: NODES_MAX of the clients.
local LIST_MAX = 1024
-- Nodes that are remembered after they have gone: those that were heard last.
local PAST_MAX = 128
-- Bytes of what a node says of itself, where it is listed.
local TEXT_MAX = 300
-- Arguments of one redis.call: Lua's stack has room for 8,000.
local PART_MAX = 1000
-- How long an emptied lane remembers its virtual time.
local TAG_MS = 60000
-- The load of a node all of whose slots are taken, and the turns below a load; both together stay
-- exact in a double.
local FULL = 2 ^ 20
local TURNS = 2 ^ 32

-- None of these is there yet while the library is loaded.
local call, match, format, floor, ceil

-- What a call has read and has yet to write. Nothing but this library writes these keys, and what
-- reads them in another way than through here flushes first. The same table serves all calls: one
-- is over before the next begins.
local c0 = {
  call = 0,
  -- id -> what is stored of the walk, or false; the ids that are in there
  walks = {}, ids = {}, id_count = 0,
  -- The ids of which it has changed, and whether one is among them
  changed = {}, is_changed = {}, changed_count = 0,
  -- The holders whose slots were taken or left in this call; holder -> whether it has it now
  holders = {}, holds = {}, holder_count = 0,
  -- The nodes whose score has changed
  moved = {}, moved_count = 0,
}

-- Cell -> name -> node: up, slots, place (its name and address), used, score. What was read in
-- another call is not believed.
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
  -- What a call left that failed.
  if c.changed_count > 0 or c.holder_count > 0 or c.moved_count > 0 then
    for i = 1, c.changed_count do
      c.is_changed[c.changed[i]] = nil
    end
    for i = 1, c.holder_count do
      c.holds[c.holders[i]] = nil
    end
    c.changed_count, c.holder_count, c.moved_count = 0, 0, 0
  end
  -- The least loaded nodes, and the score up to which there are no others
  c.ranked = nil
  -- What the number of waiting walks was, and by how much it has changed
  c.queued, c.joined = nil, 0
  c.clock, c.clock_moved = nil, false
  -- node -> notes for it; notes for the caller
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

-- Tells whether a list, a text with commas, contains a name.
local function contains(list, name)
  return list ~= '' and string.find(',' .. list .. ',', ',' .. name .. ',', 1, true) ~= nil
end

-- Calls `command` with the first `count` of the list as last arguments, in parts; pairs stay together.
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

-- ---- nodes ----

local function alive(c, node)
  local deadline = call('ZSCORE', c.w .. ':lease', node)
  return deadline and tonumber(deadline) > now(c)
end

local function node_of(c, name)
  local node = c.nodes[name]
  if not node then
    node = { name = name }
    c.nodes[name] = node
  end
  if node.call ~= c.call then
    node.call = c.call
    node.known, node.used, node.score, node.moved, node.listed = false, nil, nil, false, false
  end
  return node
end

-- Takes in what w:up:<node> says.
local function set_up(node, text)
  node.known = true
  if node.up ~= text then
    node.up, node.slots, node.place = text, 0, nil
    if text then
      node.slots = tonumber(match(text, '^%d+'))
      node.place = node.name .. ' ' .. match(text, '^%S+ %S+ (.*)')
    end
  end
end

-- Tells whether a node may be used.
local function usable(c, node)
  if not node.known then
    set_up(node, call('GET', c.up .. node.name))
  end
  return node.up
end

-- Lists for redis.call. What is in them is of no use after it.
local out, out_other = {}, {}

local function flush_holders(c)
  if c.holder_count == 0 then
    return
  end
  local held, left = 0, 0
  for i = 1, c.holder_count do
    local holder = c.holders[i]
    if c.holds[holder] then
      out[held + 1], out[held + 2] = '0', holder
      held = held + 2
    else
      left = left + 1
      out_other[left] = holder
    end
    c.holds[holder] = nil
  end
  c.holder_count = 0
  send(out, held, 'ZADD', c.run)
  send(out_other, left, 'ZREM', c.run)
end

local function flush_loads(c)
  if c.moved_count == 0 then
    return
  end
  local there, gone = 0, 0
  for i = 1, c.moved_count do
    local node = c.moved[i]
    node.moved = false
    if node.score then
      -- As text: a number would be written with 17 digits and the C library's patience.
      out[there + 1], out[there + 2] = format('%d', node.score), node.name
      there = there + 2
    else
      gone = gone + 1
      out_other[gone] = node.name
    end
  end
  c.moved_count = 0
  send(out, there, 'ZADD', c.load)
  send(out_other, gone, 'ZREM', c.load)
end

local function count_used(c, name)
  flush_holders(c)
  return call('ZLEXCOUNT', c.run, '[' .. name .. ' ', '(' .. name .. '!')
end

-- Number of the node's slots that are taken: its score says so, if that is known.
local function used_of(c, node)
  if not node.used then
    if node.score and usable(c, node) and node.slots < FULL then
      node.used = ceil(floor(node.score / TURNS) * node.slots / FULL)
    else
      node.used = count_used(c, node.name)
    end
  end
  return node.used
end

local function level_of(c, node)
  return floor(used_of(c, node) * FULL / node.slots)
end

local function has_free_slot(c, node)
  return usable(c, node) and used_of(c, node) < node.slots
end

-- Cell -> last turn given out. In this server's memory alone, since it only orders equals: who
-- has none goes on where the nodes are.
local last_turn = {}

local function next_turn(c)
  local last = last_turn[c.w]
  if not last then
    last = 0
    local found = call('ZRANGE', c.load, 0, -1, 'WITHSCORES')
    for i = 2, #found, 2 do
      last = math.max(last, tonumber(found[i]) % TURNS)
    end
  end
  last_turn[c.w] = last + 1
  return (last + 1) % TURNS
end

-- Reads the `reach` least loaded nodes, to be chosen from by place.
local function rank(c, reach)
  flush_loads(c)
  for i = 1, c.ranked and #c.ranked or 0 do
    c.ranked[i].listed = false
  end
  local found = call('ZRANGE', c.load, 0, reach - 1, 'WITHSCORES')
  local ranked, count = {}, 0
  for i = 1, #found, 2 do
    local node = node_of(c, found[i])
    node.score, node.listed = tonumber(found[i + 1]), true
    count = count + 1
    ranked[count] = node
  end
  c.ranked, c.reach = ranked, reach
  c.horizon = count < reach and math.huge or ranked[count].score
end

local function set_score(c, node, score)
  node.score = score
  if not node.moved then
    node.moved = true
    c.moved_count = c.moved_count + 1
    c.moved[c.moved_count] = node
  end
  if score and c.ranked and not node.listed then
    node.listed = true
    c.ranked[#c.ranked + 1] = node
  end
end

-- Brings a node's place among the others up to date: by load first, then by whose load changed
-- longest ago, so that equals take turns.
local function settle(c, node)
  if has_free_slot(c, node) then
    set_score(c, node, floor(node.used * FULL / node.slots) * TURNS + next_turn(c))
  else
    set_score(c, node, false)
  end
end

-- ---- walks ----

-- What is stored of a walk: state|attempt|node|origin|first|only|avoid|prefer. State is r (runs) or
-- q (waits). What is executed is not said here: that is the concern of origin and runner alone.
-- Attempt and first stay texts: Lua makes a text of a number by the C library's slowest path.
local STORED = '^(.)|(%d+)|([^|]*)|([^|]*)|(%d+)|([^|]*)|([^|]*)|(.*)$'

local function session_of(id)
  return match(id, '^[^-]*')
end

-- Returns what is stored of a walk, if anything is.
local function stored(c, id)
  local text = c.walks[id]
  if text == nil then
    text = call('GET', c.walk .. id)
    c.id_count = c.id_count + 1
    c.ids[c.id_count] = id
    c.walks[id] = text
  end
  return text
end

local function store_text(c, id, text)
  if c.walks[id] == nil then
    c.id_count = c.id_count + 1
    c.ids[c.id_count] = id
  end
  c.walks[id] = text
  if not c.is_changed[id] then
    c.is_changed[id] = true
    c.changed_count = c.changed_count + 1
    c.changed[c.changed_count] = id
  end
end

local function forget(c, id)
  store_text(c, id, false)
end

local function taken_apart(id, text)
  local state, attempt, node, origin, first, only, avoid, prefer = match(text, STORED)
  return {
    id = id, state = state, attempt = attempt, node = node, origin = origin, first = first,
    only = only, avoid = avoid, prefer = prefer,
  }
end

local function read_walk(c, id)
  local text = stored(c, id)
  return text and taken_apart(id, text) or nil
end

local function store(c, walk)
  store_text(c, walk.id, walk.state .. '|' .. walk.attempt .. '|' .. walk.node .. '|'
    .. walk.origin .. '|' .. walk.first .. '|' .. walk.only .. '|' .. walk.avoid .. '|' .. walk.prefer)
end

local function flush_walks(c)
  if c.changed_count == 0 then
    return
  end
  local there, gone = 0, 0
  for i = 1, c.changed_count do
    local id = c.changed[i]
    local text = c.walks[id]
    c.is_changed[id] = nil
    if text then
      out[there + 1], out[there + 2] = c.walk .. id, text
      there = there + 2
    else
      gone = gone + 1
      out_other[gone] = c.walk .. id
    end
  end
  c.changed_count = 0
  send(out, there, 'MSET')
  send(out_other, gone, 'DEL')
end

-- Writes all that is yet to be written.
local function flush(c)
  flush_holders(c)
  flush_walks(c)
  flush_loads(c)
  if c.joined ~= 0 then
    call('INCRBY', c.w .. ':queued', format('%d', c.joined))
    c.queued, c.joined = c.queued and c.queued + c.joined, 0
  end
  if c.clock_moved then
    call('HSET', c.w .. ':count', 'clock', c.clock)
    c.clock_moved = false
  end
end

local function reply(c, text)
  flush(c)
  if c.mail then
    for node, notes in pairs(c.mail) do
      call('PUBLISH', c.w .. ':to:' .. node, notes)
    end
  end
  if c.note_count > 0 then
    return text .. '\n' .. table.concat(c.notes, '\n', 1, c.note_count)
  end
  return text
end

-- Enters that a holder has a slot of the node, or has it no more.
local function set_holds(c, node, id, origin, holds)
  local holder = node.name .. ' ' .. id .. ' ' .. origin
  if c.holds[holder] == nil then
    c.holder_count = c.holder_count + 1
    c.holders[c.holder_count] = holder
  end
  c.holds[holder] = holds
end

local HOLDER = '^(%S+) (%S+) (%S+)$'

local function lane_of(walk)
  local session = session_of(walk.id)
  if walk.only == '' then
    return session, '*'
  end
  return session .. '@' .. walk.only, walk.only
end

-- The first of the preferred nodes that is as little loaded as the best.
local function preferred(c, best, origin, avoid, prefer)
  local least = level_of(c, best)
  for _, name in ipairs(split(prefer)) do
    if name == best.name then
      return best
    elseif name ~= origin and not contains(avoid, name) then
      local node = node_of(c, name)
      if has_free_slot(c, node) and level_of(c, node) <= least then
        return node
      end
    end
  end
  return best
end

-- The least loaded of the nodes that were ranked; no second result if more of them must be.
local function first_ranked(c, origin, avoid)
  local best, home
  local ranked = c.ranked
  for i = 1, #ranked do
    local node = ranked[i]
    local score = node.score
    if score and (not best or score < best.score) then
      if node.name == origin then
        home = node
      elseif not contains(avoid, node.name) then
        if usable(c, node) then
          best = node
        else
          set_score(c, node, false)
        end
      end
    end
  end
  if best and best.score <= c.horizon then
    return best, true
  end
  return home and usable(c, home) and not contains(avoid, origin) and home, c.horizon == math.huge
end

-- The least loaded of all nodes, for one walk.
local function first_of_all(c, origin, avoid)
  flush_loads(c)
  local reach = 1
  if avoid ~= '' then
    reach = reach + #split(avoid)
  end
  local home, dead
  repeat
    dead = false
    local found = call('ZRANGE', c.load, 0, reach)
    for i = 1, #found do
      local name = found[i]
      if not contains(avoid, name) then
        local node = node_of(c, name)
        if not usable(c, node) then
          call('ZREM', c.load, name)
          dead = true
        elseif name == origin then
          home = node
        else
          return node
        end
      end
    end
  until not dead
  return home
end

-- The least loaded node for a walk; the origin only if nobody else has a slot.
local function place(c, origin, only, avoid, prefer)
  if only ~= '' then
    local node = node_of(c, only)
    return has_free_slot(c, node) and node
  end
  local best
  if c.ranked then
    local sure
    best, sure = first_ranked(c, origin, avoid)
    while not sure do
      rank(c, c.reach * 2)
      best, sure = first_ranked(c, origin, avoid)
    end
  else
    best = first_of_all(c, origin, avoid)
  end
  if best and prefer ~= '' and best.name ~= origin then
    return preferred(c, best, origin, avoid, prefer)
  end
  return best
end

-- Enters the walk among the holders of the node's slots.
local function hold(c, node, id, origin)
  node.used = used_of(c, node) + 1
  set_holds(c, node, id, origin, true)
end

-- Takes a walk that runs from the holders; its node is to be settled or filled.
local function release(c, name, id, origin)
  local node = node_of(c, name)
  node.used = math.max(used_of(c, node) - 1, 0)
  set_holds(c, node, id, origin, false)
  return node
end

local NEXT = { ['0'] = '1', ['1'] = '2', ['2'] = '3', ['3'] = '4', ['4'] = '5' }

local function after_attempt(attempt)
  return NEXT[attempt] or format('%d', attempt + 1)
end

-- Gives a known walk a slot of the node.
local function grant(c, walk, node)
  walk.attempt, walk.state, walk.node = after_attempt(walk.attempt), 'r', node.name
  store(c, walk)
  hold(c, node, walk.id, walk.origin)
end

local function grant_text(id, place, attempt)
  return 'g ' .. id .. ' ' .. place .. ' ' .. attempt
end

local function tell_grant(c, walk, node)
  note(c, walk.origin, grant_text(walk.id, node.place, walk.attempt))
end

-- ---- the queue: start-time fair queueing between lanes ----

local function queued(c)
  if not c.queued then
    c.queued = tonumber(call('GET', c.w .. ':queued') or 0)
  end
  return c.queued + c.joined
end

local function clock(c)
  if not c.clock then
    c.clock = tonumber(call('HGET', c.w .. ':count', 'clock') or 0)
  end
  return c.clock
end

-- Lets the walk wait where its number stands; returns its place.
local function enqueue(c, walk)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  if call('ZADD', queue, match(walk.id, '%d+$'), walk.id) == 1 then
    c.joined = c.joined + 1
  end
  turns = c.w .. ':turns:' .. turns
  if not call('ZSCORE', turns, lane) then
    local tag = tonumber(call('GET', c.w .. ':tag:' .. lane) or 0)
    call('ZADD', turns, math.max(clock(c), tag), lane)
    call('HSET', c.w .. ':lanes', lane, walk.origin)
  end
  return call('ZRANK', queue, walk.id) + 1
end

local function wait(c, walk)
  walk.state, walk.node = 'q', ''
  store(c, walk)
  return enqueue(c, walk)
end

-- Takes the walk out of its lane; `cost` is what the lane's virtual time, `tag` if it is known,
-- pays for it.
local function dequeue(c, walk, cost, tag)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  turns = c.w .. ':turns:' .. turns
  if call('ZREM', queue, walk.id) == 0 then
    return
  end
  c.joined = c.joined - 1
  tag = tag or tonumber(call('ZSCORE', turns, lane) or 0)
  if cost > 0 and tag > clock(c) then
    c.clock, c.clock_moved = tag, true
  end
  if call('EXISTS', queue) == 0 then
    call('ZREM', turns, lane)
    call('HDEL', c.w .. ':lanes', lane)
    call('SET', c.w .. ':tag:' .. lane, tag + cost, 'PX', TAG_MS)
  elseif cost > 0 then
    call('ZADD', turns, tag + cost, lane)
  end
end

-- The waiting walk whose turn it is on this node, and the virtual time of its lane. Nearly always
-- the first one looked at suits; only those that failed on the node are passed over.
local function next_for(c, node)
  for _, depth in ipairs({ 1, LOOK_MAX }) do
    local lanes = {}
    for _, turns in ipairs({ '*', node }) do
      local found = call('ZRANGE', c.w .. ':turns:' .. turns, 0, depth - 1, 'WITHSCORES')
      for i = 1, #found, 2 do
        lanes[#lanes + 1] = { name = found[i], tag = tonumber(found[i + 1]) }
      end
    end
    if #lanes == 0 then
      return nil
    end
    table.sort(lanes, function(a, b)
      return a.tag < b.tag or (a.tag == b.tag and a.name < b.name)
    end)
    for _, lane in ipairs(lanes) do
      for _, id in ipairs(call('ZRANGE', c.w .. ':queue:' .. lane.name, 0, depth - 1)) do
        local walk = read_walk(c, id)
        if walk and (walk.only ~= '' or not contains(walk.avoid, node)) then
          return walk, lane.tag
        end
      end
    end
  end
end

-- Grants up to `limit` waiting walks to a node; returns how many.
local function serve(c, node, limit)
  local granted = 0
  if queued(c) <= 0 or not usable(c, node) then
    return granted
  end
  limit = math.min(limit, node.slots - used_of(c, node))
  while granted < limit and queued(c) > 0 do
    local walk, tag = next_for(c, node.name)
    if not walk then
      break
    end
    dequeue(c, walk, 1, tag)
    grant(c, walk, node)
    tell_grant(c, walk, node)
    granted = granted + 1
  end
  return granted
end

-- Grants up to `limit` waiting walks to a node whose slots or holders have changed.
local function fill(c, node, limit)
  serve(c, node, limit)
  settle(c, node)
end

-- ---- losing and cancelling ----

-- Places the walk or lets it wait where its number stands; returns what to tell its origin now.
local function place_or_wait(c, walk)
  local node = place(c, walk.origin, walk.only, walk.avoid, walk.prefer)
  if not node then
    return 'q ' .. wait(c, walk)
  end
  grant(c, walk, node)
  settle(c, node)
  return grant_text(walk.id, node.place, walk.attempt)
end

-- An attempt was lost: places the walk anew or lets it wait where it stood.
local function lose(c, walk)
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk.id)
    note(c, walk.origin, 'x ' .. walk.id)
    return
  end
  local text = place_or_wait(c, walk)
  if walk.state == 'r' then
    note(c, walk.origin, text)
  end
end

-- Removes a walk, whatever its state; returns the node whose slot it held, which is to be filled.
local function cancel(c, walk)
  local freed
  if walk.state == 'q' then
    dequeue(c, walk, 0)
  else
    freed = release(c, walk.node, walk.id, walk.origin)
    if walk.node ~= walk.origin then
      note(c, walk.node, 'c ' .. walk.id)
    end
  end
  forget(c, walk.id)
  if walk.origin ~= c.caller then
    note(c, walk.origin, 'c ' .. walk.id)
  end
  return freed
end

-- Calls visit(lane, session, origin) for each lane with waiting walks.
local function each_lane(c, visit)
  local lanes = call('HGETALL', c.w .. ':lanes')
  for i = 1, #lanes, 2 do
    visit(lanes[i], match(lanes[i], '^[^@]*'), lanes[i + 1])
  end
end

-- Calls visit(walk, session, origin) for each holder of a slot. Instead of an index, which every
-- walk would pay for: only ends of sessions and of nodes ask, and slots are not many.
local function each_holder(c, visit)
  flush_holders(c)
  for _, held in ipairs(call('ZRANGE', c.run, 0, -1)) do
    local _, id, origin = match(held, HOLDER)
    visit(id, session_of(id), origin)
  end
end

local function holders_of(c, name)
  flush_holders(c)
  return call('ZRANGEBYLEX', c.run, '[' .. name .. ' ', '(' .. name .. '!')
end

-- Cancels walks of sessions that are gone, up to a bound; returns whether some may be left.
local function sweep(c)
  local gone, ids = {}, {}
  local sessions = call('SMEMBERS', c.w .. ':gone')
  if #sessions == 0 then
    return false
  end
  for _, session in ipairs(sessions) do
    gone[session] = true
  end
  each_holder(c, function(id, session)
    if gone[session] and #ids < SWEEP_MAX then
      ids[#ids + 1] = id
    end
  end)
  each_lane(c, function(lane, session)
    if gone[session] and #ids < SWEEP_MAX then
      for _, id in ipairs(call('ZRANGE', c.w .. ':queue:' .. lane, 0, SWEEP_MAX - #ids - 1)) do
        ids[#ids + 1] = id
      end
    end
  end)
  local left = #ids >= SWEEP_MAX
  if not left then
    call('DEL', c.w .. ':gone')
  end
  local freed = {}
  for _, id in ipairs(ids) do
    local walk = read_walk(c, id)
    local node = walk and cancel(c, walk)
    if node then
      freed[node] = (freed[node] or 0) + 1
    end
  end
  for node, slots in pairs(freed) do
    fill(c, node, slots)
  end
  return left
end

-- No waiting walk of the lane is granted from here on; the sweep cancels all of the session.
local function condemn(c, lane, session)
  call('ZREM', c.w .. ':turns:' .. (match(lane, '@(.*)') or '*'), lane)
  call('SADD', c.w .. ':gone', session)
end

-- Who is there is not as it was.
local function count_list(c)
  call('HINCRBY', c.w .. ':count', 'list', 1)
end

-- Tells when a node was heard last: its lease is extended then.
local function heard(deadline)
  return tonumber(deadline) - LEASE_MS
end

-- Forgets how a node went.
local function revive(c, node)
  call('ZREM', c.w .. ':past', node .. ' left', node .. ' lost')
end

-- Notes that a node has gone, and how.
local function remember(c, node, how, at)
  revive(c, node)
  call('ZADD', c.w .. ':past', format('%d', at), node .. ' ' .. how)
  call('ZREMRANGEBYRANK', c.w .. ':past', 0, -PAST_MAX - 1)
end

-- Nodes are gone: their walks go elsewhere, and those they were the origin of end.
local function bury(c, nodes, how)
  local dead, lost = {}, {}
  flush(c)
  count_list(c)
  for _, node in ipairs(nodes) do
    dead[node] = true
    local deadline = call('ZSCORE', c.w .. ':lease', node)
    if how == 'left' then
      remember(c, node, how, now(c))
    elseif deadline then
      remember(c, node, how, heard(deadline))
    end
    call('ZREM', c.w .. ':lease', node)
    call('ZREM', c.load, node)
    call('DEL', c.w .. ':node:' .. node, c.up .. node)
    local held = holders_of(c, node)
    for i = 1, #held do
      lost[#lost + 1] = held[i]
    end
    send(held, #held, 'ZREM', c.run)
    -- Nothing that was read of it holds any more.
    node_of(c, node).call = 0
  end
  c.ranked = nil
  each_lane(c, function(lane, session, origin)
    if dead[origin] then
      condemn(c, lane, session)
    end
  end)
  each_holder(c, function(_, session, origin)
    if dead[origin] then
      call('SADD', c.w .. ':gone', session)
    end
  end)
  for _, held in ipairs(lost) do
    local _, id, origin = match(held, HOLDER)
    local walk = read_walk(c, id)
    if walk and dead[origin] then
      forget(c, id)
    elseif walk then
      lose(c, walk)
    end
  end
end

-- Extends a node's lease, and lets it be used.
local function keep(c, node, up)
  local deadline = format('%d', now(c) + LEASE_MS)
  call('ZADD', c.w .. ':lease', deadline, node.name)
  if node.up == up then
    call('PEXPIREAT', c.up .. node.name, deadline)
  else
    call('SET', c.up .. node.name, up, 'PXAT', deadline)
    set_up(node, up)
    count_list(c)
  end
end

-- ---- what an agent may say; each returns its result ----

-- What holds for a walk that the broker knows, when its origin says that the attempts up to
-- `after` are void.
local function decide_again(c, walk, after)
  local newer = walk.attempt - after
  if walk.state == 'q' then
    if newer < 0 then
      walk.attempt = after
      store(c, walk)
    end
    local rank = call('ZRANK', c.w .. ':queue:' .. lane_of(walk), walk.id) or 0
    return 'q ' .. rank + 1
  end
  if newer > 0 then
    local address = call('HGET', c.w .. ':node:' .. walk.node, 'address')
    return grant_text(walk.id, walk.node .. ' ' .. address, walk.attempt)
  end
  local failed_on = release(c, walk.node, walk.id, walk.origin)
  settle(c, failed_on)
  walk.attempt = after
  local answer
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk.id)
    answer = 'x'
  else
    answer = place_or_wait(c, walk)
  end
  fill(c, failed_on, 1)
  return answer
end

-- The caller is the origin.
local function submit(c, id, after, only, avoid, prefer)
  local text = stored(c, id)
  if text then
    return decide_again(c, taken_apart(id, text), after)
  end
  local origin = c.caller
  local node = place(c, origin, only, avoid, prefer)
  local about = origin .. '|' .. after .. '|' .. only .. '|' .. avoid .. '|' .. prefer
  if node then
    local attempt = after_attempt(after)
    store_text(c, id, 'r|' .. attempt .. '|' .. node.name .. '|' .. about)
    hold(c, node, id, origin)
    settle(c, node)
    return grant_text(id, node.place, attempt)
  end
  local walk = taken_apart(id, 'q|' .. after .. '||' .. about)
  if queued(c) >= QUEUED_MAX
    or call('ZCARD', c.w .. ':queue:' .. lane_of(walk)) >= QUEUED_SESSION_MAX then
    forget(c, id)
    return 'busy'
  end
  return 'q ' .. wait(c, walk)
end

local function retry(c, id, attempt, avoid)
  local walk = read_walk(c, id)
  if not walk then
    return 'unknown'
  end
  if avoid ~= '' and not contains(walk.avoid, avoid) then
    walk.avoid = walk.avoid == '' and avoid or avoid .. ',' .. walk.avoid
  end
  return decide_again(c, walk, attempt)
end

local function finish(c, id, node, attempt)
  local text = stored(c, id)
  if not text then
    return 'unknown'
  end
  local origin = c.caller
  local start = 'r|' .. attempt .. '|' .. node .. '|' .. origin .. '|'
  if string.sub(text, 1, #start) ~= start then
    -- The end may be told by another than the origin.
    local walk = taken_apart(id, text)
    if walk.state ~= 'r' or walk.node ~= node or walk.attempt ~= attempt then
      return 'fenced ' .. walk.attempt
    end
    origin = walk.origin
  end
  local freed = release(c, node, id, origin)
  forget(c, id)
  local notes = c.note_count
  fill(c, freed, 1)
  if c.note_count > notes then
    c.note_count = notes
    return 'ok ' .. c.notes[notes + 1]
  end
  return 'ok'
end

local function cancel_walk(c, id)
  local walk = read_walk(c, id)
  if not walk then
    return 'unknown'
  end
  local freed = cancel(c, walk)
  if freed then
    fill(c, freed, 1)
  end
  return 'ok'
end

local function cancel_session(c, session)
  call('SADD', c.w .. ':gone', session)
  each_lane(c, function(lane, of)
    if of == session then
      condemn(c, lane, session)
    end
  end)
  return sweep(c) and 'more' or 'ok'
end

-- Number of the list of nodes, and whether walks of other origins wait.
local function beaten(c)
  local others = 0
  for _, origin in ipairs(call('HVALS', c.w .. ':lanes')) do
    if origin ~= c.caller then
      others = 1
    end
  end
  return 'ok ' .. (call('HGET', c.w .. ':count', 'list') or 0) .. ' ' .. others
end

local function heartbeat(c, name, incarnation)
  local node = node_of(c, name)
  local up = usable(c, node)
  if up and match(up, '^%d+ (%S+) ') == incarnation then
    keep(c, node, up)
    -- Nothing but a fault of this library could have made them differ.
    local score = call('ZSCORE', c.load, name)
    node.score = score and tonumber(score)
    local seems = score and used_of(c, node) or node.slots
    node.used = count_used(c, name)
    if serve(c, node, FILL_MAX) > 0 or seems ~= math.min(node.used, node.slots) then
      settle(c, node)
    end
    return beaten(c)
  end
  local info = call('HMGET', c.w .. ':node:' .. name, 'incarnation', 'slots', 'address')
  if info[1] ~= incarnation then
    return 'unknown'
  end
  keep(c, node, info[2] .. ' ' .. incarnation .. ' ' .. info[3])
  node.used = count_used(c, name)
  fill(c, node, FILL_MAX)
  return beaten(c)
end

local function leave(c, node)
  bury(c, { node }, 'left')
  sweep(c)
  return 'ok'
end

local function reap(c)
  local count = c.w .. ':count'
  local past = call('HMGET', count, 'reaped', 'grace')
  local silence = now(c) - tonumber(past[1] or 0)
  if silence >= 0 and silence < REAP_PAUSE_MS then
    return 'ok'
  end
  local grace = tonumber(past[2] or 0)
  if silence > REAP_GAP_MS then
    grace = now(c) + LEASE_MS
    call('HSET', count, 'grace', grace)
  end
  call('HSET', count, 'reaped', now(c))
  local dead = NONE
  if now(c) >= grace then
    dead = call('ZRANGEBYSCORE', c.w .. ':lease', '-inf', now(c), 'LIMIT', 0, BURY_MAX)
    if #dead > 0 then
      bury(c, dead, 'lost')
    end
  end
  sweep(c)
  return table.concat({ 'ok', unpack(dead) }, ' ')
end

-- The caller's link to the node was reset.
local function reap_node(c, name)
  local node = node_of(c, name)
  call('DEL', c.up .. name)
  count_list(c)
  set_up(node, false)
  set_score(c, node, false)
  for _, held in ipairs(holders_of(c, name)) do
    local _, id, origin = match(held, HOLDER)
    if origin == c.caller then
      set_holds(c, node, id, origin, false)
      local walk = read_walk(c, id)
      if walk then
        lose(c, walk)
      end
    end
  end
  node.used = nil
  return 'ok'
end

-- ---- the calls ----

-- What an agent may say, and how many words follow.
local SPOKEN = {
  submit = { submit, 5 },
  finish = { finish, 3 },
  retry = { retry, 3 },
  cancel = { cancel_walk, 1 },
  ['cancel-session'] = { cancel_session, 1 },
  heartbeat = { heartbeat, 2 },
  reap = { reap, 0 },
  ['reap-node'] = { reap_node, 1 },
  leave = { leave, 1 },
}

-- Lists of this call, kept for the next.
local ahead, names, results = {}, {}, {}

-- Reads at once what submits and finishes will need: what is known of the walks, which nodes are
-- up, and, for more than one walk, the order of the nodes.
local function look_ahead(c, args)
  local submits, avoided, named = 0, 0, 0
  local i = 2
  while i < #args do
    local word = args[i]
    if word == 'submit' then
      submits = submits + 1
      c.id_count = c.id_count + 1
      c.ids[c.id_count] = args[i + 1]
      if args[i + 3] ~= '' then
        named = named + 1
        names[named] = args[i + 3]
      end
      if args[i + 4] ~= '' then
        avoided = math.max(avoided, #split(args[i + 4]))
      end
      if args[i + 5] ~= '' then
        for _, name in ipairs(split(args[i + 5])) do
          named = named + 1
          names[named] = name
        end
      end
    elseif word == 'finish' then
      c.id_count = c.id_count + 1
      c.ids[c.id_count] = args[i + 1]
      named = named + 1
      names[named] = args[i + 2]
    end
    i = i + 1 + (SPOKEN[word] and SPOKEN[word][2] or 0)
  end
  local count = c.id_count
  if count == 0 then
    return
  end
  if submits > 1 then
    rank(c, submits + avoided + 1)
    for i = 1, #c.ranked do
      names[named + i] = c.ranked[i].name
    end
    named = named + #c.ranked
  end
  for i = 1, count do
    ahead[i] = c.walk .. c.ids[i]
  end
  local last = count
  for i = 1, named do
    local node = node_of(c, names[i])
    if not node.known then
      -- It will be, below.
      node.known = true
      last = last + 1
      ahead[last], names[last - count] = c.up .. names[i], names[i]
    end
  end
  ahead[last + 1] = c.w .. ':queued'
  local found = call('MGET', unpack(ahead, 1, last + 1))
  for i = 1, count do
    c.walks[c.ids[i]] = found[i]
  end
  for i = count + 1, last do
    set_up(node_of(c, names[i - count]), found[i])
  end
  c.queued = tonumber(found[last + 1] or 0)
end

-- Whatever the caller has to say, a word and the words that belong to it each. All is done in this
-- order; what cannot be done keeps nothing else from being done.
local function say(keys, args)
  local c = begin(keys, args)
  local first = SPOKEN[args[2]]
  if first and not args[first[2] + 3] then
    return reply(c, first[1](c, unpack(args, 3)))
  end
  look_ahead(c, args)
  local count = 0
  local i = 2
  while args[i] do
    local spoken = SPOKEN[args[i]]
    count = count + 1
    if not spoken then
      -- Nobody knows where the next one begins.
      results[count] = 'error what was said is not understood'
      break
    end
    local done, result = pcall(spoken[1], c, unpack(args, i + 1, i + spoken[2]))
    if not done then
      result = type(result) == 'table' and result.err or tostring(result)
      result = 'error ' .. string.gsub(result, '%c', ' ')
    end
    results[count] = result
    i = i + 1 + spoken[2]
  end
  return reply(c, table.concat(results, '\n', 1, count))
end

-- node incarnation address version slots cpu trouble
local function register(keys, args)
  local c = begin(keys, args)
  local name, incarnation, address, slots = args[2], args[3], args[4], args[6]
  local key = c.w .. ':node:' .. name
  local old = call('HMGET', key, 'incarnation', 'address')
  if old[1] and old[1] ~= incarnation then
    if old[2] ~= address and alive(c, name) then
      local silence = now(c) - heard(call('ZSCORE', c.w .. ':lease', name))
      return reply(c, 'taken ' .. old[2] .. ' ' .. format('%d', math.max(0, silence)))
    end
    bury(c, { name }, 'lost')
  end
  revive(c, name)
  call('HSET', key, 'incarnation', incarnation, 'address', address, 'version', args[5],
    'slots', slots, 'cpu', args[7], 'trouble', args[8])
  local node = node_of(c, name)
  keep(c, node, slots .. ' ' .. incarnation .. ' ' .. address)
  node.used = count_used(c, name)
  count_list(c)
  fill(c, node, FILL_MAX)
  return reply(c, 'ok')
end

-- A list of lists, of those that are there and of those that have gone; no notes.
local function nodes(keys, args)
  local c = begin(keys, args)
  local lines = {}
  local found = call('ZREVRANGE', c.w .. ':lease', 0, LIST_MAX - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local node = string.sub(found[i], 1, TEXT_MAX)
    local info = call('HMGET', c.w .. ':node:' .. node, 'address', 'version', 'slots', 'cpu',
      'trouble', 'incarnation')
    if info[1] then
      for at, text in pairs(info) do
        info[at] = text and string.sub(text, 1, TEXT_MAX)
      end
      lines[#lines + 1] = {
        node, info[1], info[2], tonumber(info[3]), info[4],
        count_used(c, node), tonumber(found[i + 1]) > now(c) and 1 or 0, info[5] or '', info[6] or '',
        math.max(0, now(c) - heard(found[i + 1])),
      }
    end
  end
  local past = call('ZREVRANGE', c.w .. ':past', 0, PAST_MAX - 1, 'WITHSCORES')
  for i = 1, #past, 2 do
    local node, how = match(past[i], '^(%S+) (%S+)$')
    if node then
      lines[#lines + 1] = { string.sub(node, 1, TEXT_MAX), how, math.max(0, now(c) - tonumber(past[i + 1])) }
    end
  end
  return lines
end

redis.register_function('@LIBRARY@_loaded', function()
  return 1
end)
redis.register_function('@LIBRARY@_register', register)
redis.register_function('@LIBRARY@_say', say)
redis.register_function('@LIBRARY@_nodes', nodes)
