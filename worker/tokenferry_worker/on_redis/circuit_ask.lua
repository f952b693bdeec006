-- circuit_ask(KEYS = [circuit...], ARGV = [probe lasts ms, by, tried, others first ms]) -> closed | open | probe
-- The right to probe is given for all of them at once, to one caller; one that dies loses it when it has lasted long enough.
-- A request that was tried in vain already gets it only when no other has come for it meanwhile; the one whose probe told
-- nothing last (`last`) when no tried one has come either.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local found = {}
for _, circuit in ipairs(KEYS) do
  local times = redis.call('HMGET', circuit, 'next', 'probing', 'last')
  if times[1] then
    if math.max(tonumber(times[1]), tonumber(times[2])) > now then return 'open' end
    local turns = (ARGV[2] ~= '' and times[3] == ARGV[2]) and 2 or tonumber(ARGV[3])
    if now < times[1] + turns * ARGV[4] then return 'open' end
    table.insert(found, circuit)
  end
end
for _, circuit in ipairs(found) do
  redis.call('HSET', circuit, 'probing', string.format('%.0f', now + ARGV[1]))
end
return #found > 0 and 'probe' or 'closed'
