-- Slots: taking, releasing and granting them.

-- Takes a slot of the node for the walk; the caller settles the node.
local function hold(c, node, id, origin)
  node.used = used_of(c, node) + 1
  set_holds(c, node, id, origin, true)
end

-- Releases the slot of a walk that runs; the caller settles or fills the returned node.
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

-- Starts the next attempt of a known walk on the node.
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
