-- The function `say`: all that an agent has to say at one moment, in one call.

-- Word -> its function and the number of its arguments.
local SPOKEN = {
  submit = { submit, 6 },
  finish = { finish, 3 },
  retry = { retry, 3 },
  cancel = { cancel_walk, 1 },
  ['cancel-session'] = { cancel_session, 1 },
  heartbeat = { heartbeat, 3 },
  reap = { reap, 0 },
  ['reap-node'] = { reap_node, 1 },
  leave = { leave, 1 },
}

-- Lists that every call reuses.
local ahead, names, results = {}, {}, {}

-- Reads in bulk what submits and finishes will need: walk records, which nodes are up and, if more
-- than one walk is submitted, the order of the nodes.
local function look_ahead(c, args)
  local submits, avoided, named = 0, 0, 0
  local i = 2
  while i < #args do
    local word = args[i]
    if word == 'submit' then
      submits = submits + 1
      c.id_count = c.id_count + 1
      c.ids[c.id_count] = args[i + 1]
      if args[i + 4] ~= '' then
        named = named + 1
        names[named] = args[i + 4]
      end
      if args[i + 5] ~= '' then
        avoided = math.max(avoided, #split(args[i + 5]))
      end
      if args[i + 6] ~= '' then
        for _, name in ipairs(split(args[i + 6])) do
          named = named + 1
          names[named] = name
        end
      end
    elseif word == 'finish' then
      c.id_count = c.id_count + 1
      c.ids[c.id_count] = args[i + 1]
      named = named + 1
      names[named] = args[i + 2]
    end
    i = i + 1 + (SPOKEN[word] and SPOKEN[word][2] or 0)
  end
  local count = c.id_count
  if count == 0 then
    return
  end
  if submits > 1 then
    rank(c, submits + avoided + 1)
    for i = 1, #c.ranked do
      names[named + i] = c.ranked[i].name
    end
    named = named + #c.ranked
  end
  for i = 1, count do
    ahead[i] = c.walk .. c.ids[i]
  end
  local last = count
  for i = 1, named do
    local node = node_of(c, names[i])
    if not node.known then
      -- The MGET below makes this true.
      node.known = true
      last = last + 1
      ahead[last], names[last - count] = c.up .. names[i], names[i]
    end
  end
  ahead[last + 1] = c.w .. ':queued'
  local found = call('MGET', unpack(ahead, 1, last + 1))
  for i = 1, count do
    c.walks[c.ids[i]] = found[i]
  end
  for i = count + 1, last do
    set_up(node_of(c, names[i - count]), found[i])
  end
  c.queued = tonumber(found[last + 1] or 0)
end

-- Takes words, each followed by its arguments, and does them in order. A word that fails does not
-- stop the others.
local function say(keys, args)
  local c = begin(keys, args)
  local first = SPOKEN[args[2]]
  if first and not args[first[2] + 3] then
    return reply(c, first[1](c, unpack(args, 3)))
  end
  look_ahead(c, args)
  local count = 0
  local i = 2
  while args[i] do
    local spoken = SPOKEN[args[i]]
    count = count + 1
    if not spoken then
      -- Without knowing its arguments, the next word cannot be found.
      results[count] = 'error what was said is not understood'
      break
    end
    local done, result = pcall(spoken[1], c, unpack(args, i + 1, i + spoken[2]))
    if not done then
      result = type(result) == 'table' and result.err or tostring(result)
      result = 'error ' .. string.gsub(result, '%c', ' ')
    end
    results[count] = result
    i = i + 1 + spoken[2]
  end
  return reply(c, table.concat(results, '\n', 1, count))
end
