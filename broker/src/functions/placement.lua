-- Placement: which node gets a walk.

-- Returns the least loaded of the near nodes that have a free slot, if there is one; their names in `prefer` begin
-- with `+`. Otherwise the first preferred node that is no more loaded than `best`, or `best`.
local function preferred(c, best, origin, avoid, prefer)
  local names = split(prefer)
  local near
  for _, name in ipairs(names) do
    if string.sub(name, 1, 1) == '+' then
      local node = node_of(c, string.sub(name, 2))
      if not contains(avoid, node.name) and has_free_slot(c, node)
        and (not near or level_of(c, node) < level_of(c, near)) then
        near = node
      end
    end
  end
  if near then
    return near
  end
  if best.name == origin then
    return best
  end
  local least = level_of(c, best)
  for _, name in ipairs(names) do
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

-- Returns the least loaded of the ranked nodes; the origin if it is the only one. The second result
-- tells whether the answer is certain: if not, more nodes must be ranked.
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

-- Returns the least loaded node, for a call that places one walk.
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

-- Returns the least loaded node for a walk; the origin only if no other node has a free slot.
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
  if best and prefer ~= '' then
    return preferred(c, best, origin, avoid, prefer)
  end
  return best
end
