-- circuit_look(KEYS = [open circuits, parked], ARGV = [prefix of the keys of circuits]) -> {circuits, parked}
-- Returns every open circuit, and the hash of parked messages.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local open = {}
for _, scope in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local known = redis.call('HMGET', ARGV[1] .. scope, 'status', 'code', 'request', 'opened', 'probes', 'next', 'probing')
  if known[1] then
    local due_in = math.max(tonumber(known[6]), tonumber(known[7])) - now
    table.insert(open, {scope, known[1], known[2], known[3], known[4], known[5], string.format('%.0f', due_in)})
  end
end
return {open, redis.call('HGETALL', KEYS[2])}
