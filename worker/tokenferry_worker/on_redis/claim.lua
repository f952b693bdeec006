-- claim(KEYS = [token], ARGV = [by, lease ms, ttl ms]) -> {granted | held | spent | burnt, by, fence, again}
-- {token}  hash: state = leased | spent | burnt, by = attach id, fence = number of the lease, until = server ms.
-- A lease expires; a spent or burnt token never does while the ledger remembers it (ttl).
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'state', 'by', 'until', 'fence')
local state, by, lease_ends = held[1], held[2], tonumber(held[3] or 0)
if state == 'spent' or state == 'burnt' then
  return {state, by, tonumber(held[4]), 0}
end
if state == 'leased' and by ~= ARGV[1] and lease_ends > now then
  return {'held', by, tonumber(held[4]), 0}
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'state', 'leased', 'by', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'granted', ARGV[1], fence, (state == 'leased' and by == ARGV[1]) and 1 or 0}
