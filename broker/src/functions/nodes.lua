-- Nodes: which are up, how many of their slots are taken, and their order by load.

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

-- Takes in the value of w:up:<node>.
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

-- Returns the value of w:up:<node>; false if the node may not be used.
local function usable(c, node)
  if not node.known then
    set_up(node, call('GET', c.up .. node.name))
  end
  return node.up
end

-- Argument lists for redis.call, reused by every flush.
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
      -- Lua formats a number slowly, with 17 digits.
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

-- Returns how many of the node's slots are taken, from its score if that has been read.
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

-- Cell -> last turn given out. Not stored, since turns only order equally loaded nodes: a server
-- that has just started continues from the highest turn among the scores.
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

-- Reads the `reach` least loaded nodes. Nodes that were not read have scores above the horizon.
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

-- Updates a node's score. Scores order nodes by load, then by how long ago their load changed, so
-- that equally loaded nodes take turns.
local function settle(c, node)
  if has_free_slot(c, node) then
    set_score(c, node, floor(node.used * FULL / node.slots) * TURNS + next_turn(c))
  else
    set_score(c, node, false)
  end
end
