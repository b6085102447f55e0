-- Walks: their records, who holds a slot, and in which lane a walk waits.

-- A walk's record: state|attempt|node|origin|first|uid|only|avoid|prefer. State is r (runs) or q (waits);
-- first is the attempt after which the broker began to count; uid is the user at the origin. What the walk executes is known to its
-- origin and its runner alone. Attempt and first stay text, because Lua formats numbers slowly.
local STORED = '^(.)|(%d+)|([^|]*)|([^|]*)|(%d+)|([^|]*)|([^|]*)|([^|]*)|(.*)$'

local function session_of(id)
  return match(id, '^[^-]*')
end

-- Returns a walk's record; false if there is none.
local function stored(c, id)
  local text = c.walks[id]
  if text == nil then
    text = call('GET', c.walk .. id)
    c.id_count = c.id_count + 1
    c.ids[c.id_count] = id
    c.walks[id] = text
  end
  return text
end

local function store_text(c, id, text)
  if c.walks[id] == nil then
    c.id_count = c.id_count + 1
    c.ids[c.id_count] = id
  end
  c.walks[id] = text
  if not c.is_changed[id] then
    c.is_changed[id] = true
    c.changed_count = c.changed_count + 1
    c.changed[c.changed_count] = id
  end
end

local function forget(c, id)
  store_text(c, id, false)
end

local function taken_apart(id, text)
  local state, attempt, node, origin, first, uid, only, avoid, prefer = match(text, STORED)
  return {
    id = id, state = state, attempt = attempt, node = node, origin = origin, first = first,
    uid = uid, only = only, avoid = avoid, prefer = prefer,
  }
end

local function read_walk(c, id)
  local text = stored(c, id)
  return text and taken_apart(id, text) or nil
end

local function store(c, walk)
  store_text(c, walk.id, walk.state .. '|' .. walk.attempt .. '|' .. walk.node .. '|'
    .. walk.origin .. '|' .. walk.first .. '|' .. walk.uid .. '|' .. walk.only .. '|' .. walk.avoid .. '|'
    .. walk.prefer)
end

local function flush_walks(c)
  if c.changed_count == 0 then
    return
  end
  local there, gone = 0, 0
  for i = 1, c.changed_count do
    local id = c.changed[i]
    local text = c.walks[id]
    c.is_changed[id] = nil
    if text then
      out[there + 1], out[there + 2] = c.walk .. id, text
      there = there + 2
    else
      gone = gone + 1
      out_other[gone] = c.walk .. id
    end
  end
  c.changed_count = 0
  send(out, there, 'MSET')
  send(out_other, gone, 'DEL')
end

-- Notes that the walk holds a slot of the node, or no longer does.
local function set_holds(c, node, id, origin, holds)
  local holder = node.name .. ' ' .. id .. ' ' .. origin
  if c.holds[holder] == nil then
    c.holder_count = c.holder_count + 1
    c.holders[c.holder_count] = holder
  end
  c.holds[holder] = holds
end

local HOLDER = '^(%S+) (%S+) (%S+)$'

local function lane_of(walk)
  local session = session_of(walk.id)
  if walk.only == '' then
    return session, '*'
  end
  return session .. '@' .. walk.only, walk.only
end
