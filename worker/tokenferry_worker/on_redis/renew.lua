-- renew(KEYS = [token], ARGV = [by, fence, lease ms, ttl ms]) -> 1 | 0
-- Extends a lease that nobody has taken over. 0: somebody else has the token, it is closed, or the store was wiped.
local held = redis.call('HMGET', KEYS[1], 'by', 'fence', 'state')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] or (held[3] ~= 'leased' and held[3] ~= 'unknown') then
  return 0
end
local clock = redis.call('TIME')
local ends = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[3]
redis.call('HSET', KEYS[1], 'state', 'leased', 'until', string.format('%.0f', ends))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
