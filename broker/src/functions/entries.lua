-- The functions that agents call.

-- Arguments: node incarnation address version slots cpu trouble takes.
local function register(keys, args)
  local c = begin(keys, args)
  local name, incarnation, address, slots = args[2], args[3], args[4], args[6]
  local key = c.w .. ':node:' .. name
  local old = call('HMGET', key, 'incarnation', 'address')
  if old[1] and old[1] ~= incarnation then
    if old[2] ~= address and alive(c, name) then
      local silence = now(c) - heard(call('ZSCORE', c.w .. ':lease', name))
      return reply(c, 'taken ' .. old[2] .. ' ' .. format('%d', math.max(0, silence)))
    end
    bury(c, { name }, 'lost')
  end
  revive(c, name)
  call('HSET', key, 'incarnation', incarnation, 'address', address, 'version', args[5],
    'slots', slots, 'cpu', args[7], 'trouble', args[8], 'takes', args[9])
  local node = node_of(c, name)
  usable(c, node)
  keep(c, node, slots .. ' ' .. incarnation .. ' ' .. address)
  node.used = count_used(c, name)
  count_list(c)
  fill(c, node, FILL_MAX)
  return reply(c, 'ok')
end

-- Replies with one list per node: first the nodes that are there, then those that have gone.
local function nodes(keys, args)
  local c = begin(keys, args)
  local lines = {}
  local found = call('ZREVRANGE', c.w .. ':lease', 0, LIST_MAX - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local node = string.sub(found[i], 1, TEXT_MAX)
    local info = call('HMGET', c.w .. ':node:' .. node, 'address', 'version', 'slots', 'cpu',
      'trouble', 'incarnation', 'takes', 'load')
    if info[1] then
      for at, text in pairs(info) do
        info[at] = text and string.sub(text, 1, TEXT_MAX)
      end
      lines[#lines + 1] = {
        node, info[1], info[2], tonumber(info[3]), info[4],
        count_used(c, node), tonumber(found[i + 1]) > now(c) and 1 or 0, info[5] or '', info[6] or '',
        math.max(0, now(c) - heard(found[i + 1])), info[7] or '', info[8] or '0',
      }
    end
  end
  local past = call('ZREVRANGE', c.w .. ':past', 0, PAST_MAX - 1, 'WITHSCORES')
  for i = 1, #past, 2 do
    local node, how = match(past[i], '^(%S+) (%S+)$')
    if node then
      lines[#lines + 1] = { string.sub(node, 1, TEXT_MAX), how, math.max(0, now(c) - tonumber(past[i + 1])) }
    end
  end
  return lines
end

redis.register_function('@LIBRARY@_loaded', function()
  return 1
end)
redis.register_function('@LIBRARY@_register', register)
redis.register_function('@LIBRARY@_say', say)
redis.register_function('@LIBRARY@_nodes', nodes)
