-- The queue: start-time fair queueing between users, whose lanes take turns; by walk number within a lane.

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

-- Returns the virtual time of the next turn of the walk's user: one after the last one, whichever of the
-- user's lanes had that.
local function next_turn(c, walk)
  local key = c.w .. ':tag:' .. walk.origin .. '/' .. walk.uid
  local turn = math.max(clock(c), tonumber(call('GET', key) or 0))
  call('SET', key, turn + 1, 'PX', TAG_MS)
  return turn
end

-- Puts the walk into its lane, ordered by number; returns its place.
local function enqueue(c, walk)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  if call('ZADD', queue, match(walk.id, '%d+$'), walk.id) == 1 then
    c.joined = c.joined + 1
  end
  turns = c.w .. ':turns:' .. turns
  if not call('ZSCORE', turns, lane) then
    call('ZADD', turns, next_turn(c, walk), lane)
    call('HSET', c.w .. ':lanes', lane, walk.origin)
  end
  return call('ZRANK', queue, walk.id) + 1
end

local function wait(c, walk)
  walk.state, walk.node = 'q', ''
  store(c, walk)
  return enqueue(c, walk)
end

-- Takes the walk out of its lane. `turn` is the lane's virtual time, if the walk has its turn.
local function dequeue(c, walk, turn)
  local lane, turns = lane_of(walk)
  local queue = c.w .. ':queue:' .. lane
  turns = c.w .. ':turns:' .. turns
  if call('ZREM', queue, walk.id) == 0 then
    return
  end
  c.joined = c.joined - 1
  if turn and turn > clock(c) then
    c.clock, c.clock_moved = turn, true
  end
  if call('EXISTS', queue) == 0 then
    call('ZREM', turns, lane)
    call('HDEL', c.w .. ':lanes', lane)
  elseif turn then
    call('ZADD', turns, next_turn(c, walk), lane)
  end
end

-- Returns the waiting walk whose turn it is on this node, and the virtual time of the turn. The first
-- candidate nearly always suits: only walks that avoid the node are passed over.
local function next_for(c, node)
  for _, depth in ipairs({ 1, LOOK_MAX }) do
    local lanes = {}
    for _, turns in ipairs({ '*', node }) do
      local found = call('ZRANGE', c.w .. ':turns:' .. turns, 0, depth - 1, 'WITHSCORES')
      for i = 1, #found, 2 do
        lanes[#lanes + 1] = { name = found[i], turn = tonumber(found[i + 1]) }
      end
    end
    if #lanes == 0 then
      return nil
    end
    table.sort(lanes, function(a, b)
      return a.turn < b.turn or (a.turn == b.turn and a.name < b.name)
    end)
    for _, lane in ipairs(lanes) do
      for _, id in ipairs(call('ZRANGE', c.w .. ':queue:' .. lane.name, 0, depth - 1)) do
        local walk = read_walk(c, id)
        if walk and (walk.only ~= '' or not contains(walk.avoid, node)) then
          return walk, lane.turn
        end
      end
    end
  end
end

-- Grants slots of the node to up to `limit` waiting walks; returns to how many.
local function serve(c, node, limit)
  local granted = 0
  if queued(c) <= 0 or not usable(c, node) then
    return granted
  end
  limit = math.min(limit, node.slots - used_of(c, node))
  while granted < limit and queued(c) > 0 do
    local walk, turn = next_for(c, node.name)
    if not walk then
      break
    end
    dequeue(c, walk, turn)
    grant(c, walk, node)
    tell_grant(c, walk, node)
    granted = granted + 1
  end
  return granted
end

-- As serve, and updates the score of the node, whose slots or holders have changed.
local function fill(c, node, limit)
  serve(c, node, limit)
  settle(c, node)
end
