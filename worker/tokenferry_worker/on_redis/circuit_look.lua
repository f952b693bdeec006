-- circuit_look(KEYS = [open circuits, parked], ARGV = [prefix of the keys of circuits]) -> {circuits, parked, odd}
-- Returns every open circuit, the parked messages by scope as {scope, count, ...}, and how many entries were left out
-- because they are not what they should be.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local open, parked, odd = {}, {}, 0
local function all(key, kind, command)
  if not is_foreign(key, kind) then return redis.call(command, key) end
  odd = odd + 1
  return {}
end
for _, scope in ipairs(all(KEYS[1], 'set', 'SMEMBERS')) do
  local known = circuit(ARGV[1] .. scope)
  if known then
    table.insert(open, {scope, whole(known.status), known.code, known.request, whole(known.opened), whole(known.probes),
      whole(math.max(known.next, known.probing) - now)})
  elseif known == nil then
    odd = odd + 1
  end
end
local counts = all(KEYS[2], 'hash', 'HGETALL')
for i = 1, #counts, 2 do
  local count = number(counts[i + 1])
  if count then
    table.insert(parked, counts[i])
    table.insert(parked, whole(count))
  else
    odd = odd + 1
  end
end
return {open, parked, odd}
