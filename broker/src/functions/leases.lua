-- Leases: nodes come, are heard, and go.

-- Counts a change to the list of nodes.
local function count_list(c)
  call('HINCRBY', c.w .. ':count', 'list', 1)
end

-- Returns when a node was last heard: its lease was extended then.
local function heard(deadline)
  return tonumber(deadline) - LEASE_MS
end

-- Forgets that a node had gone.
local function revive(c, node)
  call('ZREM', c.w .. ':past', node .. ' left', node .. ' lost')
end

-- Records that a node has gone: `how` is left or lost, `at` when it was last heard.
local function remember(c, node, how, at)
  revive(c, node)
  call('ZADD', c.w .. ':past', format('%d', at), node .. ' ' .. how)
  call('ZREMRANGEBYRANK', c.w .. ':past', 0, -PAST_MAX - 1)
end

-- Removes nodes that are gone. The walks they ran are placed again; those they were the origin of
-- are dropped, or left to sweep.
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
    -- What this call has read of the node is no longer true.
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

-- Extends a node's lease and makes the node usable; `up` is the value for w:up:<node>.
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
