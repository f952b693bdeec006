-- circuit_ask(KEYS = [circuit...], ARGV = [probe lasts ms, by, tried, others first ms]) -> closed | open | probe
-- One caller gets the right to probe all of these circuits at once. Where it dies, the right ends after ARGV[1].
-- A request that was tried before (tried = 1) gets it only where no untried one has come in ARGV[4] milliseconds. The
-- request that probed last without a result (`last`) gets it only after twice that time.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local found = {}
for _, key in ipairs(KEYS) do
  local known = circuit(key)
  if known then
    if math.max(known.next, known.probing) > now then return 'open' end
    local turns = (ARGV[2] ~= '' and known.last == ARGV[2]) and 2 or tonumber(ARGV[3])
    if now < known.next + turns * ARGV[4] then return 'open' end
    table.insert(found, key)
  end
end
for _, key in ipairs(found) do
  redis.call('HSET', key, 'probing', string.format('%.0f', now + ARGV[1]))
end
return #found > 0 and 'probe' or 'closed'
