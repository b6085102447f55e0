-- What an origin may say about its walks. Each function returns its word's result.

-- Answers for a walk that the broker knows, when its origin has given up the attempts up to `after`.
local function decide_again(c, walk, after)
  local newer = walk.attempt - after
  if walk.state == 'q' then
    if newer < 0 then
      walk.attempt = after
      store(c, walk)
    end
    local rank = call('ZRANK', c.w .. ':queue:' .. lane_of(walk), walk.id) or 0
    return 'q ' .. rank + 1
  end
  if newer > 0 then
    local address = call('HGET', c.w .. ':node:' .. walk.node, 'address')
    return grant_text(walk.id, walk.node .. ' ' .. address, walk.attempt)
  end
  local failed_on = release(c, walk.node, walk.id, walk.origin)
  settle(c, failed_on)
  walk.attempt = after
  local answer
  if walk.attempt - walk.first >= ATTEMPTS_MAX then
    forget(c, walk.id)
    answer = 'x'
  else
    answer = place_or_wait(c, walk)
  end
  fill(c, failed_on, 1)
  return answer
end

-- Places a walk of the caller.
local function submit(c, id, after, uid, only, avoid, prefer)
  local text = stored(c, id)
  if text then
    return decide_again(c, taken_apart(id, text), after)
  end
  local origin = c.caller
  local node = place(c, origin, only, avoid, prefer)
  local about = origin .. '|' .. after .. '|' .. uid .. '|' .. only .. '|' .. avoid .. '|' .. prefer
  if node then
    local attempt = after_attempt(after)
    store_text(c, id, 'r|' .. attempt .. '|' .. node.name .. '|' .. about)
    hold(c, node, id, origin)
    settle(c, node)
    return grant_text(id, node.place, attempt)
  end
  local walk = taken_apart(id, 'q|' .. after .. '||' .. about)
  if queued(c) >= QUEUED_MAX
    or call('ZCARD', c.w .. ':queue:' .. lane_of(walk)) >= QUEUED_SESSION_MAX then
    forget(c, id)
    return 'busy'
  end
  return 'q ' .. wait(c, walk)
end

local function retry(c, id, attempt, avoid)
  local walk = read_walk(c, id)
  if not walk then
    return 'unknown'
  end
  if avoid ~= '' and not contains(walk.avoid, avoid) then
    walk.avoid = walk.avoid == '' and avoid or avoid .. ',' .. walk.avoid
  end
  return decide_again(c, walk, attempt)
end

local function finish(c, id, node, attempt)
  local text = stored(c, id)
  if not text then
    return 'unknown'
  end
  local origin = c.caller
  local start = 'r|' .. attempt .. '|' .. node .. '|' .. origin .. '|'
  if string.sub(text, 1, #start) ~= start then
    -- Another node than the origin may report the end.
    local walk = taken_apart(id, text)
    if walk.state ~= 'r' or walk.node ~= node or walk.attempt ~= attempt then
      return 'fenced ' .. walk.attempt
    end
    origin = walk.origin
  end
  local freed = release(c, node, id, origin)
  forget(c, id)
  local notes = c.note_count
  fill(c, freed, 1)
  if c.note_count > notes then
    c.note_count = notes
    return 'ok ' .. c.notes[notes + 1]
  end
  return 'ok'
end

local function cancel_walk(c, id)
  local walk = read_walk(c, id)
  if not walk then
    return 'unknown'
  end
  local freed = cancel(c, walk)
  if freed then
    fill(c, freed, 1)
  end
  return 'ok'
end

local function cancel_session(c, session)
  call('SADD', c.w .. ':gone', session)
  each_lane(c, function(lane, of)
    if of == session then
      condemn(c, lane, session)
    end
  end)
  return sweep(c) and 'more' or 'ok'
end
