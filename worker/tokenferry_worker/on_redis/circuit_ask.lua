-- circuit_ask(KEYS = [circuit...], ARGV = [probe lasts ms, by, others first ms]) -> closed | open | probe
-- The right to probe is given for all of them at once, to one caller; one that dies loses it when it has lasted long enough.
-- The request whose probe told nothing last (`last`) gets it only when nobody else has come for it.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local found = {}
for _, circuit in ipairs(KEYS) do
  local times = redis.call('HMGET', circuit, 'next', 'probing', 'last')
  if times[1] then
    if math.max(tonumber(times[1]), tonumber(times[2])) > now then return 'open' end
    if ARGV[2] ~= '' and times[3] == ARGV[2] and now < times[1] + ARGV[3] then return 'open' end
    table.insert(found, circuit)
  end
end
for _, circuit in ipairs(found) do
  redis.call('HSET', circuit, 'probing', string.format('%.0f', now + ARGV[1]))
end
return #found > 0 and 'probe' or 'closed'
