-- close(KEYS = [token], ARGV = [by, fence, state, ttl ms]) -> 1 | 0
-- Ends a lease as spent, burnt, or free again. The word of an older lease counts for nothing.
local held = redis.call('HMGET', KEYS[1], 'by', 'fence', 'state')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return 0
end
-- A claimant may ask again for what it has spent; whatever it hears then, nobody gets the token back.
if ARGV[3] == 'free' and held[3] ~= 'leased' then
  return 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
