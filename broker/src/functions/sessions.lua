-- Sessions that are gone.

-- Cancels up to SWEEP_MAX walks of sessions that are gone; returns whether some may be left.
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
  local freed, slots = {}, {}
  for _, id in ipairs(ids) do
    local walk = read_walk(c, id)
    local node = walk and cancel(c, walk)
    if node then
      if not slots[node] then
        freed[#freed + 1] = node
      end
      slots[node] = (slots[node] or 0) + 1
    end
  end
  for _, node in ipairs(freed) do
    fill(c, node, slots[node])
  end
  return left
end

-- Stops granting walks of the lane, and leaves the session's walks to sweep.
local function condemn(c, lane, session)
  call('ZREM', c.w .. ':turns:' .. (match(lane, '@(.*)') or '*'), lane)
  call('SADD', c.w .. ':gone', session)
end
