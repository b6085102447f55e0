-- Attempts that were lost, and walks that are cancelled.

-- Places the walk, or puts it into its lane; returns the answer for its origin.
local function place_or_wait(c, walk)
  local node = place(c, walk.origin, walk.only, walk.avoid, walk.prefer)
  if not node then
    return 'q ' .. wait(c, walk)
  end
  grant(c, walk, node)
  settle(c, node)
  return grant_text(walk.id, node.place, walk.attempt)
end

-- Places a walk whose attempt was lost once more, and tells its origin of a grant.
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

-- Removes a walk. Returns the node whose slot it held, if any; the caller fills it.
local function cancel(c, walk)
  local freed
  if walk.state == 'q' then
    dequeue(c, walk)
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

-- Calls visit(walk, session, origin) for each slot holder. A scan, because every walk would pay for
-- an index that only the ends of sessions and nodes need.
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
