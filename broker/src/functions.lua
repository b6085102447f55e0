#!lua name=oswalk
-- The broker: every decision is one call, and every call leaves the state whole.
--
-- Keys, all with the cell's hash tag, here w:
--   w:lease           zset   node -> end of its lease, ms
--   w:load            zset   node that may be used -> load and turn (see settle)
--   w:node:<node>     hash   address version slots cpu incarnation [suspect]
--   w:run:<node>      set    walks that hold its slots
--   w:walk:<walk>     hash   spec; is: origin|session|only|avoid|prefer|seq|first, for good;
--                            now: state|node|attempt, state r (runs) or q (waits). Few fields,
--                            because a hash with a long value pays for each of them
--   w:session:<s>     set    all walks of a session
--   w:from:<node>     set    sessions whose origin the node is
--   w:gone            set    sessions whose walks are to be cancelled
--   w:queue:<lane>    zset   waiting walk -> seq; a lane is a session, or session@node if only
--                            that node will do
--   w:turns:<node|*>  zset   lane with waiting walks -> virtual time of its next grant
--   w:tag:<lane>      string virtual time at which an emptied lane goes on
--   w:count           hash   seq queued clock reaped grace
-- Channel w:to:<node> carries what a node must hear and did not ask for.
--
-- KEYS[1] is w, ARGV[1] the calling node. A reply is {result, notes}: notes are what the channel
-- would carry, when it is meant for the caller.

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
-- The load of a node without a free slot, and the turns below a load; both together stay exact in
-- a double.
local FULL = 2 ^ 20
local TURNS = 2 ^ 32

local function begin(keys, args)
  return { w = keys[1], caller = args[1], notes = {} }
end

local function now(c)
  if not c.now then
    local time = redis.call('TIME')
    c.now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return c.now
end

local function reply(c, ...)
  return { { ... }, c.notes }
end

local function note(c, node, text)
  if node == c.caller then
    c.notes[#c.notes + 1] = text
  else
    redis.call('PUBLISH', c.w .. ':to:' .. node, text)
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

local function queued(c)
  return tonumber(redis.call('HGET', c.w .. ':count', 'queued') or 0)
end

-- ---- nodes ----

local function alive(c, node)
  local deadline = redis.call('ZSCORE', c.w .. ':lease', node)
  return deadline and tonumber(deadline) > now(c)
end

-- Brings the node's place among the others up to date: by load first, then by who was granted
-- longest ago (`turn`), so that equals take turns. Returns its address.
local function settle(c, node, turn)
  local info = redis.call('HMGET', c.w .. ':node:' .. node, 'slots', 'suspect', 'address')
  local key = c.w .. ':load'
  if not info[1] then
    redis.call('ZREM', key, node)
    return
  end
  local slots = tonumber(info[1])
  local used = redis.call('SCARD', c.w .. ':run:' .. node)
  local load = FULL
  if used < slots and not info[2] then
    load = math.floor(used * FULL / slots)
  end
  turn = turn or tonumber(redis.call('ZSCORE', key, node) or 0)
  redis.call('ZADD', key, load * TURNS + turn % TURNS, node)
  return info[3]
end

-- The node's load, if it may be used and has a free slot.
local function open_load(c, node)
  local score = redis.call('ZSCORE', c.w .. ':load', node)
  local load = score and math.floor(tonumber(score) / TURNS) or FULL
  return load < FULL and alive(c, node) and load
end

-- ---- walks ----

local IS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'
local NOW = '^(.)|([^|]*)|(.*)$'

local function read_walk(c, id)
  local fields = redis.call('HMGET', c.w .. ':walk:' .. id, 'is', 'now')
  if not fields[1] then
    return nil
  end
  local origin, session, only, avoid, prefer, seq, first = string.match(fields[1], IS)
  local state, node, attempt = string.match(fields[2], NOW)
  return {
    id = id, origin = origin, session = session, only = only, avoid = split(avoid),
    prefer = split(prefer), seq = seq, first = tonumber(first), attempt = tonumber(attempt),
    state = state, node = node,
  }
end

local function pack_is(walk)
  return table.concat({
    walk.origin, walk.session, walk.only, table.concat(walk.avoid, ','),
    table.concat(walk.prefer, ','), walk.seq, walk.first,
  }, '|')
end

local function pack_now(walk)
  return walk.state .. '|' .. walk.node .. '|' .. walk.attempt
end

local function lane_of(walk)
  if walk.only == '' then
    return walk.session, '*'
  end
  return walk.session .. '@' .. walk.only, walk.only
end

-- The least loaded node for a walk; the origin only if nobody else has a slot.
local function place(c, walk)
  if walk.only ~= '' then
    return open_load(c, walk.only) and walk.only or nil
  end
  local key = c.w .. ':load'
  local home, best, best_load, again
  repeat
    again = false
    local found = redis.call('ZRANGE', key, 0, #walk.avoid + 1, 'WITHSCORES')
    for i = 1, #found, 2 do
      local node, load = found[i], math.floor(tonumber(found[i + 1]) / TURNS)
      if load >= FULL then
        again = false
        break
      elseif not alive(c, node) then
        redis.call('ZREM', key, node)
        again = true
      elseif contains(walk.avoid, node) then
        -- It failed there.
      elseif node == walk.origin then
        home = node
      else
        best, best_load = node, load
        break
      end
    end
  until best or not again
  if not best then
    return home
  end
  for i = 1, #walk.prefer do
    local node = walk.prefer[i]
    if node ~= walk.origin and not contains(walk.avoid, node) then
      local load = open_load(c, node)
      if load and load <= best_load then
        return node
      end
    end
  end
  return best
end

-- Gives the walk a slot of the node; returns the node's address. `spec` comes with a new walk.
local function grant(c, walk, node, spec)
  walk.attempt = walk.attempt + 1
  walk.state, walk.node = 'r', node
  local key = c.w .. ':walk:' .. walk.id
  if spec then
    redis.call('HSET', key, 'spec', spec, 'is', pack_is(walk), 'now', pack_now(walk))
  else
    redis.call('HSET', key, 'now', pack_now(walk))
  end
  redis.call('SADD', c.w .. ':run:' .. node, walk.id)
  return settle(c, node, redis.call('HINCRBY', c.w .. ':count', 'seq', 1))
end

local function tell_grant(c, walk, address)
  note(c, walk.origin, 'g ' .. walk.id .. ' ' .. walk.node .. ' ' .. address .. ' ' .. walk.attempt)
end

local function release(c, walk)
  redis.call('SREM', c.w .. ':run:' .. walk.node, walk.id)
  settle(c, walk.node)
end

local function forget(c, walk)
  redis.call('DEL', c.w .. ':walk:' .. walk.id)
  redis.call('SREM', c.w .. ':session:' .. walk.session, walk.id)
end

-- ---- the queue: start-time fair queueing between lanes ----

-- Lets the walk wait; returns its place. `spec` comes with a new walk.
local function enqueue(c, walk, spec)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  walk.state, walk.node = 'q', ''
  local key = c.w .. ':walk:' .. walk.id
  if spec then
    redis.call('HSET', key, 'spec', spec, 'is', pack_is(walk), 'now', pack_now(walk))
  else
    redis.call('HSET', key, 'now', pack_now(walk))
  end
  if redis.call('ZADD', queue, walk.seq, walk.id) == 1 then
    redis.call('HINCRBY', c.w .. ':count', 'queued', 1)
  end
  turns = c.w .. ':turns:' .. turns
  if not redis.call('ZSCORE', turns, lane) then
    local clock = tonumber(redis.call('HGET', c.w .. ':count', 'clock') or 0)
    local tag = tonumber(redis.call('GET', c.w .. ':tag:' .. lane) or 0)
    redis.call('ZADD', turns, math.max(clock, tag), lane)
  end
  return redis.call('ZRANK', queue, walk.id) + 1
end

-- Takes the walk out of its lane; `cost` is what the lane's virtual time pays for it.
local function dequeue(c, walk, cost)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  turns = c.w .. ':turns:' .. turns
  if redis.call('ZREM', queue, walk.id) == 0 then
    return
  end
  redis.call('HINCRBY', c.w .. ':count', 'queued', -1)
  local tag = tonumber(redis.call('ZSCORE', turns, lane) or 0)
  if cost > 0 then
    local clock = tonumber(redis.call('HGET', c.w .. ':count', 'clock') or 0)
    redis.call('HSET', c.w .. ':count', 'clock', math.max(clock, tag))
  end
  if redis.call('EXISTS', queue) == 1 then
    if cost > 0 then
      redis.call('ZADD', turns, tag + cost, lane)
    end
  else
    redis.call('ZREM', turns, lane)
    redis.call('SET', c.w .. ':tag:' .. lane, tag + cost, 'PX', TAG_MS)
  end
end

-- The waiting walk whose turn it is on this node. Nearly always the first one looked at suits;
-- only those that failed on the node are passed over.
local function next_for(c, node)
  for _, depth in ipairs({ 1, LOOK_MAX }) do
    local lanes = {}
    for _, turns in ipairs({ '*', node }) do
      local found = redis.call('ZRANGE', c.w .. ':turns:' .. turns, 0, depth - 1, 'WITHSCORES')
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
      for _, id in ipairs(redis.call('ZRANGE', c.w .. ':queue:' .. lane.name, 0, depth - 1)) do
        local walk = read_walk(c, id)
        if walk and (walk.only ~= '' or not contains(walk.avoid, node)) then
          return walk
        end
      end
    end
  end
end

-- Grants up to `limit` waiting walks to the node.
local function fill(c, node, limit)
  for _ = 1, limit do
    if queued(c) == 0 or not open_load(c, node) then
      return
    end
    local walk = next_for(c, node)
    if not walk then
      return
    end
    dequeue(c, walk, 1)
    tell_grant(c, walk, grant(c, walk, node))
  end
end

-- ---- losing and cancelling ----

-- An attempt was lost: places the walk anew or lets it wait where it stood.
local function lose(c, walk)
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk)
    note(c, walk.origin, 'x ' .. walk.id)
    return
  end
  local node = place(c, walk)
  if node then
    tell_grant(c, walk, grant(c, walk, node))
  else
    enqueue(c, walk)
  end
end

-- Removes a walk, whatever its state; returns the node whose slot it held.
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
  forget(c, walk)
  if walk.origin ~= c.caller then
    note(c, walk.origin, 'c ' .. walk.id)
  end
  return freed
end

-- Cancels walks of sessions that are gone, up to a bound; returns whether some are left.
local function sweep(c)
  local freed, left = {}, SWEEP_MAX
  while left > 0 do
    local session = redis.call('SRANDMEMBER', c.w .. ':gone')
    if not session then
      break
    end
    local ids = redis.call('SRANDMEMBER', c.w .. ':session:' .. session, left)
    for _, id in ipairs(ids) do
      local walk = read_walk(c, id)
      if walk then
        local node = cancel(c, walk)
        if node then
          freed[node] = (freed[node] or 0) + 1
        end
      else
        redis.call('SREM', c.w .. ':session:' .. session, id)
      end
    end
    left = left - math.max(#ids, 1)
    if redis.call('EXISTS', c.w .. ':session:' .. session) == 0 then
      redis.call('SREM', c.w .. ':gone', session)
    end
  end
  for node, slots in pairs(freed) do
    fill(c, node, slots)
  end
  return redis.call('EXISTS', c.w .. ':gone')
end

-- No walk of the session is granted from here on; the sweep cancels them.
local function condemn(c, session)
  redis.call('ZREM', c.w .. ':turns:*', session)
  if redis.call('EXISTS', c.w .. ':session:' .. session) == 1 then
    redis.call('SADD', c.w .. ':gone', session)
  end
end

-- A node is gone: its walks go elsewhere, and those it was the origin of end.
local function bury(c, node)
  redis.call('ZREM', c.w .. ':lease', node)
  redis.call('ZREM', c.w .. ':load', node)
  redis.call('DEL', c.w .. ':node:' .. node)
  for _, session in ipairs(redis.call('SMEMBERS', c.w .. ':from:' .. node)) do
    condemn(c, session)
  end
  redis.call('DEL', c.w .. ':from:' .. node)
  local lost = redis.call('SMEMBERS', c.w .. ':run:' .. node)
  redis.call('DEL', c.w .. ':run:' .. node)
  for _, id in ipairs(lost) do
    local walk = read_walk(c, id)
    if walk and walk.origin == node then
      forget(c, walk)
    elseif walk then
      lose(c, walk)
    end
  end
end

-- ---- the calls ----

redis.register_function('oswalk_version', function()
  return VERSION
end)

-- node incarnation address version slots cpu
local function register(keys, args)
  local c = begin(keys, args)
  local node, incarnation, address = args[2], args[3], args[4]
  local key = c.w .. ':node:' .. node
  local old = redis.call('HMGET', key, 'incarnation', 'address')
  if old[1] and old[1] ~= incarnation then
    if old[2] ~= address and alive(c, node) then
      return reply(c, 'taken', old[2])
    end
    bury(c, node)
  end
  redis.call('HSET', key, 'incarnation', incarnation, 'address', address, 'version', args[5],
    'slots', args[6], 'cpu', args[7])
  redis.call('HDEL', key, 'suspect')
  redis.call('ZADD', c.w .. ':lease', now(c) + LEASE_MS, node)
  settle(c, node)
  fill(c, node, FILL_MAX)
  return reply(c, 'ok')
end

-- node incarnation
local function heartbeat(keys, args)
  local c = begin(keys, args)
  local node = args[2]
  local key = c.w .. ':node:' .. node
  if redis.call('HGET', key, 'incarnation') ~= args[3] then
    return reply(c, 'unknown')
  end
  redis.call('ZADD', c.w .. ':lease', now(c) + LEASE_MS, node)
  redis.call('HDEL', key, 'suspect')
  settle(c, node)
  fill(c, node, FILL_MAX)
  return reply(c, 'ok')
end

-- node
local function leave(keys, args)
  local c = begin(keys, args)
  bury(c, args[2])
  sweep(c)
  return reply(c, 'ok')
end

local function tell(c, walk, address)
  return reply(c, 'g', walk.id, walk.node, address, walk.attempt)
end

-- What holds for a walk that the broker knows, when its origin says that the attempts up to
-- `after` are void.
local function decide_again(c, walk, after)
  local key = c.w .. ':walk:' .. walk.id
  if walk.state == 'q' then
    if walk.attempt < after then
      walk.attempt = after
      redis.call('HSET', key, 'now', pack_now(walk))
    end
    local lane = lane_of(walk)
    return reply(c, 'q', (redis.call('ZRANK', c.w .. ':queue:' .. lane, walk.id) or 0) + 1)
  end
  if walk.attempt > after then
    return tell(c, walk, redis.call('HGET', c.w .. ':node:' .. walk.node, 'address'))
  end
  local failed_on = walk.node
  release(c, walk)
  walk.attempt = after
  local answer
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk)
    answer = reply(c, 'x')
  else
    redis.call('HSET', key, 'is', pack_is(walk))
    local node = place(c, walk)
    if node then
      answer = tell(c, walk, grant(c, walk, node))
    else
      answer = reply(c, 'q', enqueue(c, walk))
    end
  end
  fill(c, failed_on, 1)
  return answer
end

-- walk session after only avoid prefer spec; the caller is the origin
local function submit(keys, args)
  local c = begin(keys, args)
  local id, session, after, spec = args[2], args[3], tonumber(args[4]), args[8]
  if redis.call('EXISTS', c.w .. ':walk:' .. id) == 1 then
    return decide_again(c, read_walk(c, id), after)
  end
  local walk = {
    id = id, origin = c.caller, session = session, only = args[5], avoid = split(args[6]),
    prefer = split(args[7]), seq = 0, first = after, attempt = after,
  }
  local node = place(c, walk)
  if not node then
    local lane = lane_of(walk)
    if redis.call('ZCARD', c.w .. ':queue:' .. lane) >= QUEUED_SESSION_MAX
      or queued(c) >= QUEUED_MAX then
      return reply(c, 'busy')
    end
  end
  redis.call('SADD', c.w .. ':session:' .. session, id)
  redis.call('SADD', c.w .. ':from:' .. walk.origin, session)
  walk.seq = redis.call('HINCRBY', c.w .. ':count', 'seq', 1)
  if node then
    return tell(c, walk, grant(c, walk, node, spec))
  end
  return reply(c, 'q', enqueue(c, walk, spec))
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
  return decide_again(c, walk, tonumber(args[3]))
end

-- walk node attempt
local function finish(keys, args)
  local c = begin(keys, args)
  local walk = read_walk(c, args[2])
  if not walk then
    return reply(c, 'unknown')
  end
  if walk.state ~= 'r' or walk.node ~= args[3] or walk.attempt ~= tonumber(args[4]) then
    return reply(c, 'fenced', walk.attempt)
  end
  release(c, walk)
  forget(c, walk)
  fill(c, walk.node, 1)
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
  condemn(c, args[2])
  redis.call('SREM', c.w .. ':from:' .. c.caller, args[2])
  sweep(c)
  local left = redis.call('SISMEMBER', c.w .. ':gone', args[2]) == 1
  return reply(c, left and 'more' or 'ok')
end

local function reap(keys, args)
  local c = begin(keys, args)
  local count = c.w .. ':count'
  local past = redis.call('HMGET', count, 'reaped', 'grace')
  local grace = tonumber(past[2] or 0)
  if now(c) - tonumber(past[1] or 0) > REAP_GAP_MS then
    grace = now(c) + LEASE_MS
    redis.call('HSET', count, 'grace', grace)
  end
  redis.call('HSET', count, 'reaped', now(c))
  local dead = {}
  if now(c) >= grace then
    dead = redis.call('ZRANGEBYSCORE', c.w .. ':lease', '-inf', now(c), 'LIMIT', 0, BURY_MAX)
    for _, node in ipairs(dead) do
      bury(c, node)
    end
  end
  sweep(c)
  return reply(c, 'ok', unpack(dead))
end

-- node; the caller's link to it was reset
local function reap_node(keys, args)
  local c = begin(keys, args)
  local node = args[2]
  if redis.call('EXISTS', c.w .. ':node:' .. node) == 1 then
    redis.call('HSET', c.w .. ':node:' .. node, 'suspect', 1)
    settle(c, node)
  end
  for _, id in ipairs(redis.call('SMEMBERS', c.w .. ':run:' .. node)) do
    local walk = read_walk(c, id)
    if walk and walk.origin == c.caller then
      redis.call('SREM', c.w .. ':run:' .. node, id)
      lose(c, walk)
    end
  end
  return reply(c, 'ok')
end

local function nodes(keys, args)
  local c = begin(keys, args)
  local lines = {}
  local found = redis.call('ZRANGE', c.w .. ':lease', 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local node = found[i]
    local info = redis.call('HMGET', c.w .. ':node:' .. node, 'address', 'version', 'slots', 'cpu')
    if info[1] then
      lines[#lines + 1] = {
        node, info[1], info[2], tonumber(info[3]), info[4],
        redis.call('SCARD', c.w .. ':run:' .. node),
        tonumber(found[i + 1]) > now(c) and 1 or 0,
      }
    end
  end
  return reply(c, lines)
end

local function spec(keys, args)
  local c = begin(keys, args)
  return reply(c, redis.call('HGET', c.w .. ':walk:' .. args[2], 'spec'))
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
