#!lua name=oswalk
-- The broker: every decision is one call, and every call leaves the state whole.
--
-- What is fast here is what is not done: a redis.call costs as much as all the Lua around it, a
-- write more than a read. A walk that finds a slot costs three writes, and its end three.
--
-- Keys, all with the cell's hash tag, here w:
--   w:lease           zset   node -> end of its lease, ms
--   w:node:<node>     hash   address version slots cpu incarnation
--   w:up:<node>       string slots address; expires with the lease, absent while it is suspect
--   w:load            zset   node with a free slot -> load and turn (see settle)
--   w:run:<node>      set    holders of its slots: walk attempt origin, with spaces
--   w:walk:<walk>     string what is known of it (see STORED)
--   w:spec:<walk>     string its spec; expires after a day
--   w:queue:<lane>    zset   waiting walk -> its number; a lane is a session, or session@node if
--                            only that node will do
--   w:lanes           hash   lane with waiting walks -> origin of its session
--   w:turns:<node|*>  zset   lane with waiting walks -> virtual time of its next grant
--   w:tag:<lane>      string virtual time at which an emptied lane goes on
--   w:gone            set    sessions whose walks are to be cancelled
--   w:queued          string number of waiting walks
--   w:count           hash   clock reaped grace
-- Channel w:to:<node> carries what a node must hear and did not ask for.
--
-- KEYS[1] is w, ARGV[1] the calling node. A reply is a text, the result in its first line, each
-- further line a note: what the channel would carry, were it not meant for the caller.

local VERSION = '@VERSION@'
-- A node that is silent for so long has lost its walks.
local LEASE_MS = 1000
-- When nobody reaped for so long, the broker was away: silence then says nothing of the nodes.
local REAP_GAP_MS = 600
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
-- How long an emptied lane remembers its virtual time.
local TAG_MS = 60000
-- The load of a node all of whose slots are taken, and the turns below a load; both together stay
-- exact in a double.
local FULL = 2 ^ 20
local TURNS = 2 ^ 32

-- redis.call, which is not there yet while the library is loaded.
local call

local function begin(keys, args)
  call = redis.call
  return { w = keys[1], caller = args[1] }
end

local function now(c)
  if not c.now then
    local time = call('TIME')
    c.now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return c.now
end

local function reply(c, text)
  if c.notes then
    return text .. '\n' .. table.concat(c.notes, '\n')
  end
  return text
end

local function note(c, node, text)
  if node ~= c.caller then
    call('PUBLISH', c.w .. ':to:' .. node, text)
  elseif c.notes then
    c.notes[#c.notes + 1] = text
  else
    c.notes = { text }
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

local function contains(list, item)
  for i = 1, #list do
    if list[i] == item then
      return true
    end
  end
  return false
end

-- ---- nodes ----

local function alive(c, node)
  local deadline = call('ZSCORE', c.w .. ':lease', node)
  return deadline and tonumber(deadline) > now(c)
end

-- Slots and address, as text, of a node that may be used; nil of another.
local function usable(c, node)
  return call('GET', c.w .. ':up:' .. node) or nil
end

local function slots_of(up)
  return tonumber(string.match(up, '^%d+'))
end

local function address_of(up)
  return string.match(up, ' (.*)')
end

-- Cell -> last turn given out. In this server's memory alone, since it only orders equals: who
-- has none goes on where the nodes are.
local last_turn = {}

local function next_turn(c)
  local last = last_turn[c.w]
  if not last then
    last = 0
    local found = call('ZRANGE', c.w .. ':load', 0, -1, 'WITHSCORES')
    for i = 2, #found, 2 do
      last = math.max(last, tonumber(found[i]) % TURNS)
    end
  end
  last_turn[c.w] = last + 1
  return (last + 1) % TURNS
end

-- Brings a node's place among the others up to date: by load first, then by whose load changed
-- longest ago, so that equals take turns. `up` is what usable() says, `nx` leaves a place that it has.
local function settle(c, node, up, nx)
  local key = c.w .. ':load'
  local slots = up and slots_of(up) or 0
  local used = up and call('SCARD', c.w .. ':run:' .. node)
  if not up or used >= slots then
    call('ZREM', key, node)
    return
  end
  -- As text: a number would be written with 17 digits and the C library's patience.
  local score = string.format('%d', math.floor(used * FULL / slots) * TURNS + next_turn(c))
  if nx then
    call('ZADD', key, 'NX', score, node)
  else
    call('ZADD', key, score, node)
  end
end

-- ---- walks ----

-- What is stored of a walk: state|attempt|node|first|origin|only|avoid|prefer. State is r (runs) or
-- q (waits). The caller of submit has stored the spec itself, by a SET in front of the call: it
-- would be the most expensive thing here, since Lua hashes every byte of every string.
-- Attempt and first stay texts: Lua makes a text of a number by the C library's slowest path.
local STORED = '^(.)|(%d+)|([^|]*)|(%d+)|([^|]*)|([^|]*)|([^|]*)|(.*)$'

local function session_of(id)
  return string.match(id, '^[^-]*')
end

local function walk_key(c, id)
  return c.w .. ':walk:' .. id
end

local function spec_key(c, id)
  return c.w .. ':spec:' .. id
end

local function list(nodes)
  return #nodes > 0 and table.concat(nodes, ',') or ''
end

local function pack_walk(walk)
  return walk.state .. '|' .. walk.attempt .. '|' .. walk.node .. '|' .. walk.first .. '|'
    .. walk.origin .. '|' .. walk.only .. '|' .. list(walk.avoid) .. '|' .. list(walk.prefer)
end

local function read_walk(c, id)
  local text = call('GET', walk_key(c, id))
  if not text then
    return nil
  end
  local state, attempt, node, first, origin, only, avoid, prefer = string.match(text, STORED)
  return {
    id = id, state = state, attempt = attempt, node = node, first = first, origin = origin,
    only = only, avoid = split(avoid), prefer = split(prefer),
  }
end

local function store(c, walk)
  call('SET', walk_key(c, walk.id), pack_walk(walk))
end

-- A walk as holder of a slot.
local function holder(id, attempt, origin)
  return id .. ' ' .. attempt .. ' ' .. origin
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
local function preferred(c, walk, best)
  local scores = call('ZMSCORE', c.w .. ':load', best, unpack(walk.prefer))
  local least = math.floor(tonumber(scores[1]) / TURNS)
  for i = 1, #walk.prefer do
    local node, score = walk.prefer[i], scores[i + 1]
    if node == best then
      return nil
    elseif score and math.floor(tonumber(score) / TURNS) <= least and node ~= walk.origin
      and not contains(walk.avoid, node) then
      local found = usable(c, node)
      if found then
        return node, found
      end
    end
  end
end

-- The least loaded node for a walk, and what usable() says of it; the origin only if nobody else has
-- a slot.
local function place(c, walk)
  local key = c.w .. ':load'
  if walk.only ~= '' then
    local found = call('ZSCORE', key, walk.only) and usable(c, walk.only)
    if found then
      return walk.only, found
    end
    return nil
  end
  local home, home_up, dead
  repeat
    dead = false
    for _, node in ipairs(call('ZRANGE', key, 0, #walk.avoid + 1)) do
      if not contains(walk.avoid, node) then
        local found = usable(c, node)
        if not found then
          call('ZREM', key, node)
          dead = true
        elseif node == walk.origin then
          home, home_up = node, found
        else
          if #walk.prefer > 0 then
            local warm, warm_up = preferred(c, walk, node)
            if warm then
              return warm, warm_up
            end
          end
          return node, found
        end
      end
    end
  until not dead
  return home, home_up
end

-- Enters the walk among the holders of the node's slots.
local function hold(c, walk, up)
  call('SADD', c.w .. ':run:' .. walk.node, holder(walk.id, walk.attempt, walk.origin))
  settle(c, walk.node, up)
end

local function assign(walk, node)
  walk.attempt, walk.state, walk.node = string.format('%d', walk.attempt + 1), 'r', node
end

-- Gives a known walk a slot of the node.
local function grant(c, walk, node, up)
  assign(walk, node)
  store(c, walk)
  hold(c, walk, up)
end

local function grant_text(walk, address)
  return 'g ' .. walk.id .. ' ' .. walk.node .. ' ' .. address .. ' ' .. walk.attempt
end

local function tell_grant(c, walk, up)
  note(c, walk.origin, grant_text(walk, address_of(up)))
end

local function release(c, walk)
  return call('SREM', c.w .. ':run:' .. walk.node, holder(walk.id, walk.attempt, walk.origin)) == 1
end

local function forget(c, id)
  call('DEL', walk_key(c, id), spec_key(c, id))
end

-- ---- the queue: start-time fair queueing between lanes ----

-- Lets the walk wait where its number stands; returns its place.
local function enqueue(c, walk)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  if call('ZADD', queue, string.match(walk.id, '%d+$'), walk.id) == 1 then
    call('INCR', c.w .. ':queued')
  end
  turns = c.w .. ':turns:' .. turns
  if not call('ZSCORE', turns, lane) then
    local clock = tonumber(call('HGET', c.w .. ':count', 'clock') or 0)
    local tag = tonumber(call('GET', c.w .. ':tag:' .. lane) or 0)
    call('ZADD', turns, math.max(clock, tag), lane)
    call('HSET', c.w .. ':lanes', lane, walk.origin)
  end
  return call('ZRANK', queue, walk.id) + 1
end

local function wait(c, walk)
  walk.state, walk.node = 'q', ''
  store(c, walk)
  return enqueue(c, walk)
end

-- Takes the walk out of its lane; `cost` is what the lane's virtual time pays for it.
local function dequeue(c, walk, cost)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  turns = c.w .. ':turns:' .. turns
  if call('ZREM', queue, walk.id) == 0 then
    return
  end
  call('DECR', c.w .. ':queued')
  local tag = tonumber(call('ZSCORE', turns, lane) or 0)
  if cost > 0 and tag > tonumber(call('HGET', c.w .. ':count', 'clock') or 0) then
    call('HSET', c.w .. ':count', 'clock', tag)
  end
  if call('EXISTS', queue) == 0 then
    call('ZREM', turns, lane)
    call('HDEL', c.w .. ':lanes', lane)
    call('SET', c.w .. ':tag:' .. lane, tag + cost, 'PX', TAG_MS)
  elseif cost > 0 then
    call('ZADD', turns, tag + cost, lane)
  end
end

-- The waiting walk whose turn it is on this node. Nearly always the first one looked at suits;
-- only those that failed on the node are passed over.
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
          return walk
        end
      end
    end
  end
end

-- Grants up to `limit` waiting walks to a node, and brings its place up to date; `kept` leaves a
-- place that it has.
local function fill(c, node, limit, kept)
  local found = call('MGET', c.w .. ':up:' .. node, c.w .. ':queued')
  local up, queued = found[1] or nil, tonumber(found[2] or 0)
  local granted = 0
  if up and queued > 0 then
    local free = slots_of(up) - call('SCARD', c.w .. ':run:' .. node)
    while granted < math.min(limit, free, queued) do
      local walk = next_for(c, node)
      if not walk then
        break
      end
      dequeue(c, walk, 1)
      assign(walk, node)
      store(c, walk)
      call('SADD', c.w .. ':run:' .. node, holder(walk.id, walk.attempt, walk.origin))
      tell_grant(c, walk, up)
      granted = granted + 1
    end
  end
  settle(c, node, up, kept and granted == 0)
end

-- ---- losing and cancelling ----

-- An attempt was lost: places the walk anew or lets it wait where it stood.
local function lose(c, walk)
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk.id)
    note(c, walk.origin, 'x ' .. walk.id)
    return
  end
  local node, up = place(c, walk)
  if node then
    grant(c, walk, node, up)
    tell_grant(c, walk, up)
  else
    wait(c, walk)
  end
end

-- Removes a walk, whatever its state; returns the node whose slot it held, which is to be filled.
local function cancel(c, walk)
  local freed
  if walk.state == 'q' then
    dequeue(c, walk, 0)
  else
    release(c, walk)
    freed = walk.node
    if freed ~= walk.origin then
      note(c, freed, 'c ' .. walk.id)
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
    visit(lanes[i], string.match(lanes[i], '^[^@]*'), lanes[i + 1])
  end
end

-- Calls visit(walk, session, origin) for each holder of a slot. Instead of an index, which every
-- walk would pay for: only ends of sessions and of nodes ask, and slots are not many.
local function each_holder(c, visit)
  for _, node in ipairs(call('ZRANGE', c.w .. ':lease', 0, -1)) do
    for _, held in ipairs(call('SMEMBERS', c.w .. ':run:' .. node)) do
      local id, _, origin = string.match(held, HOLDER)
      visit(id, session_of(id), origin)
    end
  end
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
  call('ZREM', c.w .. ':turns:' .. (string.match(lane, '@(.*)') or '*'), lane)
  call('SADD', c.w .. ':gone', session)
end

-- Nodes are gone: their walks go elsewhere, and those they were the origin of end.
local function bury(c, nodes)
  local dead, lost = {}, {}
  for _, node in ipairs(nodes) do
    dead[node] = true
    call('ZREM', c.w .. ':lease', node)
    call('ZREM', c.w .. ':load', node)
    call('DEL', c.w .. ':node:' .. node, c.w .. ':up:' .. node)
    for _, held in ipairs(call('SMEMBERS', c.w .. ':run:' .. node)) do
      lost[#lost + 1] = held
    end
    call('DEL', c.w .. ':run:' .. node)
  end
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
    local id, _, origin = string.match(held, HOLDER)
    local walk = read_walk(c, id)
    if walk and dead[origin] then
      forget(c, id)
    elseif walk then
      lose(c, walk)
    end
  end
end

-- Extends a node's lease, and lets it be used.
local function keep(c, node, slots, address)
  local deadline = string.format('%d', now(c) + LEASE_MS)
  call('ZADD', c.w .. ':lease', deadline, node)
  call('SET', c.w .. ':up:' .. node, slots .. ' ' .. address, 'PXAT', deadline)
end

-- ---- the calls ----

redis.register_function('oswalk_version', function()
  return VERSION
end)

-- node incarnation address version slots cpu
local function register(keys, args)
  local c = begin(keys, args)
  local node, incarnation, address, slots = args[2], args[3], args[4], args[6]
  local key = c.w .. ':node:' .. node
  local old = call('HMGET', key, 'incarnation', 'address')
  if old[1] and old[1] ~= incarnation then
    if old[2] ~= address and alive(c, node) then
      return reply(c, 'taken ' .. old[2])
    end
    bury(c, { node })
  end
  call('HSET', key, 'incarnation', incarnation, 'address', address, 'version', args[5],
    'slots', slots, 'cpu', args[7])
  keep(c, node, slots, address)
  fill(c, node, FILL_MAX)
  return reply(c, 'ok')
end

-- node incarnation
local function heartbeat(keys, args)
  local c = begin(keys, args)
  local node = args[2]
  local info = call('HMGET', c.w .. ':node:' .. node, 'incarnation', 'slots', 'address')
  if info[1] ~= args[3] then
    return reply(c, 'unknown')
  end
  keep(c, node, info[2], info[3])
  fill(c, node, FILL_MAX, true)
  return reply(c, 'ok')
end

-- node
local function leave(keys, args)
  local c = begin(keys, args)
  bury(c, { args[2] })
  sweep(c)
  return reply(c, 'ok')
end

-- What holds for a walk that the broker knows, when its origin says that the attempts up to
-- `after` are void.
local function decide_again(c, walk, after)
  local newer = tonumber(walk.attempt) - tonumber(after)
  if walk.state == 'q' then
    if newer < 0 then
      walk.attempt = after
      store(c, walk)
    end
    local rank = call('ZRANK', c.w .. ':queue:' .. lane_of(walk), walk.id) or 0
    return reply(c, 'q ' .. rank + 1)
  end
  if newer > 0 then
    local address = call('HGET', c.w .. ':node:' .. walk.node, 'address')
    return reply(c, grant_text(walk, address))
  end
  local failed_on = walk.node
  release(c, walk)
  settle(c, failed_on, usable(c, failed_on))
  walk.attempt = after
  local answer
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk.id)
    answer = 'x'
  else
    local node, up = place(c, walk)
    if node then
      grant(c, walk, node, up)
      answer = grant_text(walk, address_of(up))
    else
      answer = 'q ' .. wait(c, walk)
    end
  end
  fill(c, failed_on, 1)
  return reply(c, answer)
end

-- walk after only avoid prefer; the caller is the origin, and has stored the spec
local function submit(keys, args)
  local c = begin(keys, args)
  local id, after = args[2], args[3]
  local walk = {
    id = id, state = 'q', attempt = after, node = '', first = after, origin = c.caller,
    only = args[4], avoid = split(args[5]), prefer = split(args[6]),
  }
  local node, up = place(c, walk)
  if node then
    assign(walk, node)
  elseif call('ZCARD', c.w .. ':queue:' .. lane_of(walk)) >= QUEUED_SESSION_MAX
    or tonumber(call('GET', c.w .. ':queued') or 0) >= QUEUED_MAX then
    local known = read_walk(c, id)
    if known then
      return decide_again(c, known, after)
    end
    forget(c, id)
    return reply(c, 'busy')
  end
  if call('SETNX', walk_key(c, id), pack_walk(walk)) == 0 then
    return decide_again(c, read_walk(c, id), after)
  end
  if node then
    hold(c, walk, up)
    return reply(c, grant_text(walk, address_of(up)))
  end
  return reply(c, 'q ' .. enqueue(c, walk))
end

-- walk attempt avoid
local function retry(keys, args)
  local c = begin(keys, args)
  local walk = read_walk(c, args[2])
  if not walk then
    return reply(c, 'unknown')
  end
  if args[4] ~= '' and not contains(walk.avoid, args[4]) then
    walk.avoid = { args[4], unpack(walk.avoid) }
  end
  return decide_again(c, walk, args[3])
end

-- walk node attempt
local function finish(keys, args)
  local c = begin(keys, args)
  local id, node, attempt = args[2], args[3], args[4]
  -- Only the attempt that counts holds a slot.
  if call('SREM', c.w .. ':run:' .. node, holder(id, attempt, c.caller)) == 0 then
    local walk = read_walk(c, id)
    if not walk then
      return reply(c, 'unknown')
    end
    -- The end may be told by another than the origin.
    if walk.state ~= 'r' or walk.node ~= node or walk.attempt ~= attempt then
      return reply(c, 'fenced ' .. walk.attempt)
    end
    release(c, walk)
  end
  forget(c, id)
  fill(c, node, 1)
  return reply(c, 'ok')
end

-- walk
local function cancel_walk(keys, args)
  local c = begin(keys, args)
  local walk = read_walk(c, args[2])
  if not walk then
    return reply(c, 'unknown')
  end
  local freed = cancel(c, walk)
  if freed then
    fill(c, freed, 1)
  end
  return reply(c, 'ok')
end

-- session; to be called again while it answers 'more'
local function cancel_session(keys, args)
  local c = begin(keys, args)
  call('SADD', c.w .. ':gone', args[2])
  each_lane(c, function(lane, session)
    if session == args[2] then
      condemn(c, lane, session)
    end
  end)
  return reply(c, sweep(c) and 'more' or 'ok')
end

local function reap(keys, args)
  local c = begin(keys, args)
  local count = c.w .. ':count'
  local past = call('HMGET', count, 'reaped', 'grace')
  local grace = tonumber(past[2] or 0)
  if now(c) - tonumber(past[1] or 0) > REAP_GAP_MS then
    grace = now(c) + LEASE_MS
    call('HSET', count, 'grace', grace)
  end
  call('HSET', count, 'reaped', now(c))
  local dead = {}
  if now(c) >= grace then
    dead = call('ZRANGEBYSCORE', c.w .. ':lease', '-inf', now(c), 'LIMIT', 0, BURY_MAX)
    if #dead > 0 then
      bury(c, dead)
    end
  end
  sweep(c)
  return reply(c, table.concat({ 'ok', unpack(dead) }, ' '))
end

-- node; the caller's link to it was reset
local function reap_node(keys, args)
  local c = begin(keys, args)
  local node = args[2]
  call('DEL', c.w .. ':up:' .. node)
  call('ZREM', c.w .. ':load', node)
  for _, held in ipairs(call('SMEMBERS', c.w .. ':run:' .. node)) do
    local id, _, origin = string.match(held, HOLDER)
    if origin == c.caller then
      call('SREM', c.w .. ':run:' .. node, held)
      local walk = read_walk(c, id)
      if walk then
        lose(c, walk)
      end
    end
  end
  return reply(c, 'ok')
end

-- A list of lists; no notes.
local function nodes(keys, args)
  local c = begin(keys, args)
  local lines = {}
  local found = call('ZRANGE', c.w .. ':lease', 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local node = found[i]
    local info = call('HMGET', c.w .. ':node:' .. node, 'address', 'version', 'slots', 'cpu')
    if info[1] then
      lines[#lines + 1] = {
        node, info[1], info[2], tonumber(info[3]), info[4],
        call('SCARD', c.w .. ':run:' .. node), tonumber(found[i + 1]) > now(c) and 1 or 0,
      }
    end
  end
  return lines
end

-- The spec alone, or nothing; no notes.
local function spec(keys, args)
  local c = begin(keys, args)
  return call('EXISTS', walk_key(c, args[2])) == 1 and call('GET', spec_key(c, args[2]))
end

redis.register_function('oswalk_register', register)
redis.register_function('oswalk_heartbeat', heartbeat)
redis.register_function('oswalk_leave', leave)
redis.register_function('oswalk_submit', submit)
redis.register_function('oswalk_retry', retry)
redis.register_function('oswalk_finish', finish)
redis.register_function('oswalk_cancel', cancel_walk)
redis.register_function('oswalk_cancel_session', cancel_session)
redis.register_function('oswalk_reap', reap)
redis.register_function('oswalk_reap_node', reap_node)
redis.register_function('oswalk_nodes', nodes)
redis.register_function('oswalk_spec', spec)
