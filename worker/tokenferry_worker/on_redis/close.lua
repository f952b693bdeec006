-- close(KEYS = [token, journal of the order?],
--       ARGV = [by, fence, state, ttl ms, by afterwards, object, type, stored, outcome, 1 if it is our word]) -> 1 | 0
-- Ends a lease. The word of an older lease counts for nothing, but that the same order has spent the token: that is what
-- the endpoint said, whichever delivery heard it. What is spent, burnt or expired stays so.
-- *outcome*, if there is one, becomes the order's in the same moment, as in record: before the token is anybody else's.
local held = redis.call('HMGET', KEYS[1], 'by', 'fence', 'state')
local open = held[3] == 'leased' or held[3] == 'unknown'
-- A store that was wiped meanwhile learns what is certain: that the token is used up.
local wiped = not held[3] and (ARGV[3] == 'spent' or ARGV[3] == 'burnt')
local mine = held[1] == ARGV[1] and (held[2] == ARGV[2] or ARGV[3] == 'spent')
if not wiped and not (mine and open) then
  -- Asked twice because the first answer was lost: done is done.
  return held[1] == ARGV[5] and held[2] == ARGV[2] and held[3] == ARGV[3] and 1 or 0
end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'by', ARGV[5], 'fence', held[2] or ARGV[2])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'object', ARGV[6], 'type', ARGV[7], 'stored', ARGV[8])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if KEYS[2] and (ARGV[10] == '0' or redis.call('HEXISTS', KEYS[2], 'deliveries') == 1) then
  redis.call('HSETNX', KEYS[2], 'outcome', ARGV[9])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return 1
