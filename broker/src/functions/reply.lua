-- The end of a call: writes what is pending and sends the notes.

-- Writes everything that is pending.
local function flush(c)
  flush_holders(c)
  flush_walks(c)
  flush_loads(c)
  if c.joined ~= 0 then
    call('INCRBY', c.w .. ':queued', format('%d', c.joined))
    c.queued, c.joined = c.queued and c.queued + c.joined, 0
  end
  if c.clock_moved then
    call('HSET', c.w .. ':count', 'clock', c.clock)
    c.clock_moved = false
  end
end

local function reply(c, text)
  flush(c)
  if c.mail then
    for node, notes in pairs(c.mail) do
      call('PUBLISH', c.w .. ':to:' .. node, notes)
    end
  end
  if c.note_count > 0 then
    return text .. '\n' .. table.concat(c.notes, '\n', 1, c.note_count)
  end
  return text
end
