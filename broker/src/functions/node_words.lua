-- What an agent may say about nodes. Each function returns its word's result.

-- Returns the result of a heartbeat: the number of the list of nodes, and whether walks of other
-- origins wait.
local function beaten(c)
  local others = 0
  for _, origin in ipairs(call('HVALS', c.w .. ':lanes')) do
    if origin ~= c.caller then
      others = 1
    end
  end
  return 'ok ' .. (call('HGET', c.w .. ':count', 'list') or 0) .. ' ' .. others
end

local function heartbeat(c, name, incarnation, load)
  local node = node_of(c, name)
  local up = usable(c, node)
  if up and match(up, '^%d+ (%S+) ') == incarnation then
    keep(c, node, up)
    call('HSET', c.w .. ':node:' .. name, 'load', load)
    -- The score and the holders differ only if this library has a bug.
    flush_loads(c)
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
  call('HSET', c.w .. ':node:' .. name, 'load', load)
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

-- The caller's link to the node broke: the node is suspect until its next heartbeat, and the caller's
-- walks there are placed again.
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
